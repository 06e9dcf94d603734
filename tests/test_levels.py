"The stored table of chapter 00: it keeps what the levels promise, and it belongs to the scenes of today"
import json, sys
from importlib.resources import files
from pathlib import Path
import pytest, torch
from mssl.evaluation import knn_accuracy, pixel_features
from mssl.scenes import LEVELS, scenes
sys.path.insert(0, str(Path(__file__).parent / 'benchmarks'))
from levels import RUNS, miss_rate

STORED = files('mssl') / 'stored' / 'runs'
def runs(level): return [json.loads((STORED / f'levels-{level}-{seed}.json').read_text()) for seed in RUNS[level][1]]
def knn(run, what): return run['results'][what]['knn']

def test_every_level_has_its_runs():
    assert set(RUNS) == set(LEVELS)
    for level, (epochs, seeds) in RUNS.items():
        for seed, r in zip(seeds, runs(level)): assert (r['settings']['data'], r['settings']['seed'], r['settings']['epochs']) == (f'scenes:{level}', seed, epochs)

def test_calm_is_learned_in_two_minutes_and_not_by_pixels():
    above = [knn(r, 'encoder') - knn(r, 'pixels') for r in runs('calm')]
    assert sum(above) / len(above) >= .30 and min(above) >= .28, above
    for r in runs('calm'): assert knn(r, 'encoder') >= .55 and knn(r, 'supervised') > .95 and r['minutes'] <= 2.5 # validation and gauges after every epoch included

def test_small_is_often_missed_and_still_learned():
    for r in runs('small'): assert r['miss_rate'] >= .10 and knn(r, 'encoder') - knn(r, 'untrained') >= .20 and r['minutes'] <= 10

@pytest.mark.parametrize('level', LEVELS)
def test_the_table_belongs_to_todays_scenes(level):
    "What can be measured in seconds is measured again"
    r = runs(level)[0]
    train, test = scenes(10_000, level=level), scenes(2000, level=level, seed=1_000_003)
    assert miss_rate(train.box) == pytest.approx(r['miss_rate'], abs=.01)
    mean = train.image.float().mean((0, 2, 3)) / 255
    assert knn_accuracy(pixel_features(train.image, mean=mean), train.label, pixel_features(test.image, mean=mean), test.label) == pytest.approx(knn(r, 'pixels'), abs=.01)

def test_miss_rate_by_hand():
    everywhere, nowhere = torch.tensor([[0., 0, 1, 1]]).expand(3000, 4), torch.tensor([[0., 0, .02, .02]]).expand(3000, 4)
    assert .08 < miss_rate(everywhere) < .17 and miss_rate(nowhere) > .9 # a crop of under a quarter of the area misses what fills the picture
