"Gauges look at a fixed random choice of pictures, in an order that is known, whatever the loader"
import pytest, torch
from fastai.data.core import DataLoaders
from mssl.data import Pictures, ResidentLoader
from mssl.gauges import KNNGauge, encode, some_rows
from mssl.scenes import scenes
from mssl.siamese import siamese_learner
from mssl.train import _pixels

@pytest.fixture
def learn():
    "Pictures sorted by class, as public data sets often are"
    drawn = scenes(200, 16)
    order = drawn.label.argsort()
    part = lambda i: Pictures(drawn.image[i], drawn.label[i], drawn.classes)
    dls = DataLoaders(ResidentLoader(part(order), 32, shuffle=True, drop_last=True), ResidentLoader(part(order[::2]), 32), device=torch.device('cpu'))
    torch.manual_seed(0)
    return siamese_learner(dls, 'resnet10_tiny', size=16)

def test_some_rows():
    assert some_rows(10) is None and some_rows(10, 10) is None and some_rows(10, 99) is None
    rows = some_rows(50_000, 5000)
    assert rows == some_rows(50_000, 5000) == sorted(set(rows)) and len(rows) == 5000 and 0 <= rows[0] and rows[-1] < 50_000
    tenths = torch.tensor(rows).div(5000, rounding_mode='floor').bincount(minlength=10)
    assert (tenths - 500).abs().max() < 100 # sorted classes of equal size all get their share

def test_a_part_of_sorted_pictures_holds_every_class(learn):
    z, y = encode(learn, learn.dls.train, 60)
    assert z.shape == (60, 256) and torch.equal(y, learn.dls.train_ds.label[some_rows(200, 60)]) and len(y.unique()) >= 8
    whole, labels = encode(learn, learn.dls.train)
    assert torch.equal(labels, learn.dls.train_ds.label) and torch.allclose(whole[some_rows(200, 60)], z, atol=1e-5)

def test_gauge_on_sorted_pictures(learn):
    learn.add_cb(KNNGauge(n=60))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert 0 <= learn.recorder.values[-1][2] <= 1

def test_pixel_floor_on_sorted_pictures(learn): assert .1 < _pixels(learn.dls, 80)['knn'] < 1

def test_the_order_of_training_is_untouched(learn):
    torch.manual_seed(1); learn.dls.train.rng.seed(5)
    before = [b[1].tolist() for b in learn.dls.train]
    learn.dls.train.rng.seed(5); encode(learn, learn.dls.train, 20)
    assert [b[1].tolist() for b in learn.dls.train] == before
