"Arms by name, pairs that are pairs, runs that are stored at once and not made twice"
import inspect, json, os, re, shutil, signal, subprocess, sys
from dataclasses import asdict
from pathlib import Path
import pytest, torch
from fastai.callback.core import Callback
import mssl.compare, mssl.report, mssl.train
from mssl.compare import Comparison, compare, estimate_minutes, identity, parse_arms
from mssl.encoders import FILTERS, load_encoder
from mssl.recipes import RECIPES
from mssl.runs import load_runs
from mssl.train import Settings, make_filter, pretrain

TINY = dict(n=128, bs=32, size=16, epochs=1)

class Halved(torch.nn.Module):
    "A filter that a later room could have"
    def __init__(self, size=32, by=.5):
        super().__init__()
        self.settings = dict(size=size, by=by)
    @classmethod
    def for_size(cls, size): return cls(size)
    def forward(self, x): return x * self.settings['by'] + .3

@pytest.fixture
def halved():
    FILTERS['halved'] = Halved
    yield 'halved'
    del FILTERS['halved']

@pytest.fixture(scope='module', autouse=True)
def no_pages():
    "The report's page takes longer than these trainings, and no test here reads it but one"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(mssl.train, 'write_report', lambda out, report, learn: out / 'report.html')
        yield

@pytest.fixture(scope='module')
def first(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp('runs'), []
    return folder, said, compare('info_nce info_nce:augment=weak', seeds=(0, 1), folder=folder, say=said.append, **TINY)

# --- arms

def test_arms_by_name():
    a, b, c = parse_arms('info_nce; vicreg:lr=1e-3,bs=16  info_nce:arch=resnet18_small', epochs=3, size=16)
    assert [o.name for o in (a, b, c)] == ['info_nce', 'vicreg:lr=1e-3,bs=16', 'info_nce:arch=resnet18_small']
    assert (b.settings.method, b.settings.lr, b.settings.bs, b.settings.epochs, c.settings.arch, c.settings.size) == ('vicreg', .001, 16, 3, 'resnet18_small', 16)
    assert parse_arms(['info_nce', 'byol']) == parse_arms('info_nce byol') and parse_arms('info_nce:augment=', augment='weak')[0].settings.augment is None

@pytest.mark.parametrize('arms, word', [('info_nec', "did you mean 'info_nce'"), ('info_nce:agument=weak', "did you mean 'augment'"), ('info_nce:lr=fast', "lr='fast' is no float"), ('info_nce:bs=3.5', "bs='3.5' is no int"),
    ('info_nce:lr=-1', "arm 'info_nce:lr=-1': lr=-1.0"), ('info_nce:seed=3', 'seed is shared by all arms'), ('info_nce:data=pets', 'data is shared'), ('info_nce:lr', 'lr needs a value'), ('  ', 'at least one'),
    ('info_nce info_nce', 'the same settings'), ('info_nce info_nce:arch=resnet10_tiny,lr=3e-3', 'the same settings'), ('info_nce:filter=high_pas', "did you mean 'high_pass'")])
def test_bad_arms(arms, word, monkeypatch):
    monkeypatch.setitem(FILTERS, 'high_pass', Halved)
    with pytest.raises(ValueError, match=re.escape(word)): parse_arms(arms)

def test_nothing_is_trained_for_a_bad_call(monkeypatch, tmp_path):
    monkeypatch.setattr(mssl.compare, 'pretrain', lambda *a, **k: pytest.fail('trained'))
    for bad, word in [(dict(arms='info_nce info_nec'), 'info_nce'), (dict(arms='info_nce info_nce:arch=resnet10_tyni'), 'resnet10_tiny'), (dict(arms='info_nce:augment=waek'), 'weak'), (dict(seeds=(0, 0)), 'seeds=[0, 0]'), (dict(seeds=()), 'seeds=[]'),
                      (dict(epoch=2), "did you mean 'epochs'"), (dict(measures=('knm',)), "did you mean 'knn'"), (dict(data='sceens'), "did you mean 'scenes'"), (dict(labels=False), 'need labels')]:
        with pytest.raises(ValueError, match=re.escape(word)): compare(**{**dict(arms='info_nce', folder=tmp_path, say=lambda t: None), **TINY, **bad})
    assert not list(tmp_path.iterdir())

def test_what_makes_two_runs_the_same():
    "The recipe's own values count; the supervised line does not; anything else does"
    plain = asdict(Settings())
    assert identity(plain) == identity(dict(plain, data='scenes:calm', arch='resnet10_tiny', lr=3e-3, supervised=False)) == identity({})
    for k, v in dict(data='scenes:small', method='vicreg', epochs=7, bs=8, size=16, lr=1., n=5, augment='weak', seed=1, filter='x', precision='fp32', arch='resnet18_small', labels=False).items():
        assert identity(dict(plain, **{k: v})) != identity(plain), k
    old = load_runs('levels-calm-0')[0]['settings']
    assert identity(old) == identity(dict(plain, epochs=10)), 'runs stored before a setting existed'

# --- pairs

class Watch(Callback):
    "The first weights, and what the first batches hold"
    order = 6 # after Views
    def __init__(self): self.weights, self.index, self.box, self.view = None, [], [], []
    def before_train(self):
        if self.weights is None: self.weights = {k: v.clone() for k, v in self.model.encoder.state_dict().items()}
    def before_batch(self):
        if not self.training: return
        v = self.learn.views
        self.index.append(v.index), self.box.append(v.box[0]), self.view.append(v.view[-1].clone())

def watched(tmp_path, name, **settings):
    w = Watch()
    pretrain(tmp_path / name, show_bar=False, cbs=[w], supervised=False, **{**TINY, **settings})
    return w

def test_one_seed_one_start_whatever_the_method(tmp_path):
    a = watched(tmp_path, 'info_nce')
    for method in sorted(set(RECIPES) - {'info_nce'}):
        b = watched(tmp_path, method, method=method)
        if method in ('vicreg', 'byol', 'kway'):
            assert a.weights.keys() == b.weights.keys() and all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights), f'{method}: the encoder starts from the same weights'
            assert all(torch.equal(x, y) for x, y in zip(a.view, b.view)), f'{method}: the same views'
        assert all(torch.equal(x, y) for x, y in zip(a.index, b.index)), f'{method}: the same order'
    c = watched(tmp_path, 'weak', augment='weak')
    assert all(torch.equal(a.weights[k], c.weights[k]) for k in a.weights) and all(torch.equal(x, y) for x, y in zip(a.index, c.index))
    assert not torch.equal(a.box[0], c.box[0]), 'other crops were asked for'
    d = watched(tmp_path, 'seed', seed=1)
    assert not torch.equal(a.weights['conv1.weight'], d.weights['conv1.weight']) and not torch.equal(a.index[0], d.index[0])

def test_a_filter_changes_pixels_and_nothing_else(tmp_path, halved):
    a, b = watched(tmp_path, 'plain'), watched(tmp_path, 'filtered', filter=halved)
    assert all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights) and all(torch.equal(x, y) for x, y in zip(a.box, b.box))
    assert all(torch.allclose(x * .5 + .3, y) for x, y in zip(a.view, b.view))

# --- the filter of a run

def test_a_filter_leaves_with_the_encoder_and_its_price_is_told(tmp_path, halved, monkeypatch):
    monkeypatch.setattr(mssl.train, 'write_report', mssl.report.write_report)
    report = pretrain(tmp_path / 'run', show_bar=False, filter=halved, **TINY)
    assert set(report['results']) == {'pixels', 'untrained', 'encoder', 'without filter', 'supervised'} and report['settings']['filter'] == 'halved'
    encoder = load_encoder(tmp_path / 'run')
    assert isinstance(encoder.filter, Halved) and encoder.filter.settings == dict(size=16, by=.5)
    page = (tmp_path / 'run' / 'report.html').read_text()
    assert 'trained behind the filter halved' in page and 'its filter left out' in page and 'normalised and filtered' in page
    assert make_filter(None, 32) is None and make_filter(halved, (32, 48)).settings['size'] == 32
    with pytest.raises(ValueError, match="filter='halvd' is not known"): Settings(filter='halvd')

def test_a_filter_is_not_dropped_in_silence(halved):
    from mssl.data import image_dls
    from mssl.siamese import siamese_learner
    from mssl.views import Views
    dls = image_dls('scenes', 16, n=32, bs=16, device='cpu')
    assert isinstance(siamese_learner(dls, 'resnet10_tiny', filter=Halved()).views.filter, Halved)
    with pytest.raises(ValueError, match='filter: give it to the `Views`'): siamese_learner(dls, 'resnet10_tiny', cbs=Views(16), filter=Halved())

# --- runs

def test_it_says_how_long_before_it_starts(first):
    _, said, _ = first
    assert re.fullmatch(r'4 runs, about [\d.]+ (s|min|h|to)( [\d.]+ min)? each, [\d.]+ (s|min|h) in all', said[0]) and len(said) == 5
    assert said[1].startswith('1 of 4: info_nce, seed 0: knn ') and 'left' in said[1] and 'left' not in said[4]

def test_one_json_a_run(first):
    folder, _, result = first
    assert sorted(r.name for r in result.runs) == ['info_nce-0', 'info_nce-1', 'info_nce-augment=weak-0', 'info_nce-augment=weak-1'] and {f'{r.name}.json' for r in result.runs} <= {o.name for o in folder.iterdir()}
    for r in result.runs:
        stored = json.loads((folder / f'{r.name}.json').read_text())
        assert stored == r and stored['settings']['seed'] in (0, 1) and len(stored['history']) == 1 and {'results', 'minutes', 'device', 'versions', 'commit', 'command', 'arm'} <= stored.keys()

def test_what_is_stored_is_not_trained_again(first, monkeypatch):
    folder, _, result = first
    monkeypatch.setattr(mssl.compare, 'pretrain', lambda *a, **k: pytest.fail('trained'))
    said = []
    again = compare('info_nce:augment=weak info_nce', seeds=(1, 0), folder=folder, say=said.append, **TINY)
    assert said == [f'all 4 runs are stored in {folder}'] and repr(again.paired('info_nce')) != '' and again.paired('info_nce').mean == pytest.approx(-result.paired('info_nce:augment=weak').mean)

def test_only_what_is_missing_is_trained(first, monkeypatch):
    folder, said, trained = first[0], [], []
    real = mssl.compare.pretrain
    monkeypatch.setattr(mssl.compare, 'pretrain', lambda *a, **k: trained.append((k['method'], k['seed'])) or real(*a, **k))
    compare('info_nce vicreg', seeds=(0,), folder=folder, say=said.append, **TINY)
    assert trained == [('vicreg', 0)] and said[0].startswith('1 runs') and said[0].endswith('1 are stored already')

def test_a_run_equals_the_one_of_mssl_train(first, tmp_path):
    "One pipeline: the same settings by hand"
    report = pretrain(tmp_path / 'run', show_bar=False, seed=1, augment='weak', **TINY)
    mine = next(r for r in first[2].runs if r['arm'] == 'info_nce:augment=weak' and r.setting('seed') == 1)
    assert {k: report['results'][k] for k in ('untrained', 'encoder')} == {k: mine['results'][k] for k in ('untrained', 'encoder')}

def test_what_it_ends_with(first):
    _, _, result = first
    said, page = repr(result), result._repr_html_()
    for text in (said, page):
        for word in ('info_nce:augment=weak minus info_nce, knn: ', '95 % interval', '2 seeds', 'seeds: 0, 1', 'data: scenes', 'mssl_compare'): assert word in text, word
    assert 'not testable here' in str(result.verdict('info_nce:augment=weak')) and result.plot().axes
    assert repr(Comparison([])) == 'no runs'

def test_own_measures(tmp_path):
    def width(learn): return learn.model.encoder.num_features + torch.rand(1).item() * 0
    result = compare('info_nce', seeds=(0,), folder=tmp_path, measures=dict(knn=None, width=width), say=lambda t: None, **TINY)
    assert result.runs[0].value('width') == result.runs[0].value('untrained.width') == 256 and 'width' in repr(result)
    plain = pretrain(tmp_path / 'run', show_bar=False, supervised=False, **TINY)
    assert plain['results']['encoder']['knn'] == result.runs[0].value('knn'), 'a measure that draws does not change the training'

def test_stopped_in_the_middle(tmp_path, monkeypatch):
    "Ctrl-C in the second run: the first is stored, the same call goes on"
    real, calls, said = mssl.compare.pretrain, [], []
    class Stop(Callback):
        def before_batch(self): raise KeyboardInterrupt
    def second_is_stopped(*a, **k):
        calls.append(k['seed'])
        return real(*a, **k, cbs=[Stop()] if len(calls) == 2 else [])
    monkeypatch.setattr(mssl.compare, 'pretrain', second_is_stopped)
    half = compare('info_nce', seeds=(0, 1, 2), folder=tmp_path, say=said.append, **TINY)
    assert [r.setting('seed') for r in half.runs] == [0] == [r.setting('seed') for r in load_runs('*', tmp_path)] and said[-1].startswith('stopped by hand: 1 of 3 runs')
    whole = compare('info_nce', seeds=(0, 1, 2), folder=tmp_path, say=said.append, **TINY)
    assert calls == [0, 1, 1, 2] and [r.setting('seed') for r in whole.runs] == [0, 1, 2]

def test_other_settings_get_another_file(first):
    folder = first[0]
    before = {o.name: o.read_bytes() for o in folder.iterdir()}
    result = compare('info_nce', seeds=(0,), folder=folder, say=lambda t: None, **{**TINY, 'n': 96})
    assert result.runs[0].name == 'info_nce-0-v2' and all((folder / k).read_bytes() == v for k, v in before.items())

def test_kept_run_folders(tmp_path):
    result = compare('info_nce', seeds=(0,), folder=tmp_path / 'runs', keep=tmp_path / 'keep', name='c4', say=lambda t: None, **TINY)
    assert result.runs[0].name == 'c4-info_nce-0' and load_encoder(tmp_path / 'keep' / 'c4-info_nce-0').info['data'] == 'scenes'

def test_the_estimate_is_of_the_right_size():
    s = Settings(n=1024, bs=32, size=16)
    one, ten = (estimate_minutes(Settings(**{**asdict(s), 'epochs': e})) for e in (1, 30))
    assert 0 < one < ten < 30 * one
    before = torch.random.get_rng_state()
    estimate_minutes(s)
    assert torch.equal(before, torch.random.get_rng_state()), 'it draws nothing that others would miss'

# --- parts and measures by name

@pytest.fixture(scope='module')
def masked(tmp_path_factory):
    "Two arms that differ by a part, with measures by name"
    folder, said = tmp_path_factory.mktemp('masked'), []
    return folder, said, compare('info_nce info_nce:parts=masks/rung:several/fill:zero', seeds=(0,), folder=folder, measures=('few10', 'knn', 'fill'), say=said.append, **TINY)

def test_a_part_is_an_arm(masked):
    folder, said, result = masked
    assert [r.name for r in result.runs] == ['info_nce-0', 'info_nce-parts=masks_rung-several_fill-zero-0'] and said[0].startswith('2 runs')
    plain, with_masks = (json.loads((folder / f'{r.name}.json').read_text()) for r in result.runs)
    assert (plain['settings']['parts'], with_masks['settings']['parts']) == (None, 'masks/rung:several/fill:zero')
    assert plain['results']['encoder']['knn'] != with_masks['results']['encoder']['knn'] or plain['results']['encoder']['few10'] != with_masks['results']['encoder']['few10']
    assert 'without filter' in with_masks['results'] and 'without filter' not in plain['results']

def test_measures_by_name_are_stored_shown_and_paired(masked):
    folder, said, result = masked
    for r in result.runs:
        for of in ('encoder', 'untrained'):
            assert {'knn', 'linear', 'few10', 'fill'} == set(r['results'][of]) and all(0 <= v <= 1 for v in r['results'][of].values())
    assert result.measures == ['few10', 'knn', 'fill'] and all(f'{m} ' in said[1] for m in result.measures)
    arm = result.runs[1]['arm']
    assert f'{arm} minus info_nce, few10: ' in repr(result) and result.paired(arm).mean == pytest.approx(result.runs[1].value('few10') - result.runs[0].value('few10'))
    assert '--measures few10,knn,fill' in result.runs[0]['command']

def test_a_run_that_lacks_a_measure_is_made_again(masked, monkeypatch):
    folder = masked[0]
    trained = []
    monkeypatch.setattr(mssl.compare, 'pretrain', lambda *a, **k: trained.append(k['measures']) or (_ for _ in ()).throw(KeyboardInterrupt()))
    compare('info_nce', seeds=(0,), folder=folder, measures=('few10', 'fill'), say=lambda t: None, **TINY)
    assert trained == [], 'both are there'
    compare('info_nce', seeds=(0,), folder=folder, measures=('few10', 'kind'), say=lambda t: None, **TINY)
    assert [set(o) for o in trained] == [{'few10', 'kind'}], 'a dict of functions for `pretrain`, knn and linear come anyway'

def test_a_stop_while_a_line_is_written_loses_nothing(tmp_path):
    said = []
    def say(text):
        said.append(text)
        if text.startswith('1 of 2'): raise KeyboardInterrupt
    result = compare('info_nce', seeds=(0, 1), folder=tmp_path, say=say, **TINY)
    assert len(result.runs) == 1 and 'stopped by hand: 1 of 2 runs' in said[-1] and len(list(tmp_path.glob('*.json'))) == 1

@pytest.mark.parametrize('bad, word', [(dict(arms='info_nce info_nce:parts=msks'), "arm 'info_nce:parts=msks': parts='msks' is not known; did you mean 'masks'"), (dict(arms='info_nce:parts=masks/fill:zeor'), "did you mean 'zero'"), (dict(parts='masks/n:0'), 'n=0'),
    (dict(measures=('few100',)), "did you mean 'few10'"), (dict(measures=dict(boxs=None)), "did you mean 'box'"), (dict(parts='masks/grid:17'), 'grid=17'), (dict(arms='info_nce:parts=masks info_nce:parts=masks,lr=3e-3'), 'the same settings')])
def test_bad_parts_and_measures_train_nothing(bad, word, monkeypatch, tmp_path):
    monkeypatch.setattr(mssl.compare, 'pretrain', lambda *a, **k: pytest.fail('trained'))
    with pytest.raises(ValueError, match=re.escape(word)): compare(**{**dict(arms='info_nce', folder=tmp_path, say=lambda t: None), **TINY, **bad})
    assert not list(tmp_path.iterdir())

def test_parts_tell_runs_apart():
    plain = asdict(Settings())
    assert identity(dict(plain, parts='masks')) != identity(plain) != identity(dict(plain, parts='masks/fill:zero')) != identity(dict(plain, parts='masks'))
    assert identity({k: v for k, v in plain.items() if k != 'parts'}) == identity(plain), 'runs stored before there were parts'
    assert [o.settings.parts for o in parse_arms('info_nce info_nce:parts=masks/ratio:.1-.3,lr=1e-3 info_nce:parts=', parts='masks')] == ['masks', 'masks/ratio:.1-.3', None]

def test_masks_change_pixels_behind_the_mask_and_nothing_else(tmp_path):
    "Beside the same run with the filter alone: the same start, order and boxes, the same other view"
    a, b = watched(tmp_path, 'filtered', filter='high_pass'), watched(tmp_path, 'masked', parts='masks')
    assert all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights) and len(a.box) == len(b.box) == 4
    for of in ('index', 'box', 'view'): assert all(torch.equal(x, y) for x, y in zip(getattr(a, of), getattr(b, of))), of

def test_the_command_hands_parts_and_measures_on(monkeypatch):
    import mssl.cli
    got = []
    monkeypatch.setattr(mssl.cli, 'compare', lambda *a, **k: got.append((a, k)) or Comparison([]))
    mssl.cli.mssl_compare('info_nce', parts='masks/fill:zero', measures='few1,box')
    mssl.cli.mssl_compare('info_nce')
    assert got[0][0][4] == ['few1', 'box'] and got[0][1]['parts'] == 'masks/fill:zero' and got[1][0][4] == ['knn', 'linear'] and got[1][1]['parts'] is None

def test_with_labels_beside(tmp_path):
    "The supervised line is measured the same way, its command says so, and runs without it do not count as done"
    plain = compare('info_nce', seeds=(0,), folder=tmp_path, say=lambda t: None, **TINY)
    both = [compare('info_nce', seeds=(0,), folder=tmp_path, say=lambda t: None, supervised=True, **TINY) for _ in range(2)]
    assert 'supervised' not in plain.runs[0]['results'] and not plain.runs[0]['command'].endswith('--supervised')
    assert set(both[0].runs[0]['results']['supervised']) >= {'knn', 'linear'} and both[0].runs[0]['command'].endswith(' --supervised')
    assert len(list(tmp_path.glob('*.json'))) == 2, 'trained again once, and then found'
    assert both[0].runs[0]['results']['encoder'] == plain.runs[0]['results']['encoder'], 'labels change nothing for the encoder'

# --- the command

@pytest.fixture(scope='module')
def command(tmp_path_factory):
    "The installed command where there is one, else the same function as a script"
    installed = shutil.which('mssl_compare', path=str(Path(sys.executable).parent))
    if installed: return [installed]
    script = tmp_path_factory.mktemp('bin') / 'mssl_compare.py'
    script.write_text('import sys\nfrom mssl.cli import mssl_compare\nif __name__ == "__main__": sys.exit(mssl_compare())\n')
    return [sys.executable, str(script)]

FLAGS = ['--n', '128', '--bs', '32', '--size', '16']

def test_the_command_compares_and_goes_on_after_a_stop(command, tmp_path):
    "Killed while the second run trains: the first is there; called again, it trains the rest only"
    line = command + ['info_nce vicreg', *FLAGS, '--epochs', '3', '--seeds', '0', '--folder', 'out']
    child = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while said := child.stdout.readline():
        if said.startswith('1 of 2'): break
    child.kill(); child.communicate()
    assert [o.name for o in (tmp_path / 'out').iterdir()] == ['info_nce-0.json']
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and '1 are stored already' in done.stdout and 'vicreg minus info_nce, knn: ' in done.stdout and 'one seed' in done.stdout, done.stdout + done.stderr
    assert len(load_runs('*', tmp_path / 'out')) == 2

@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGINT for another process')
def test_ctrl_c_is_clean(command, tmp_path):
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    child = subprocess.Popen(command + ['info_nce vicreg', *FLAGS, '--epochs', '3', '--folder', 'out'], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=listen)
    while said := child.stdout.readline():
        if said.startswith('1 of 6'): break
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=300)[0]
    assert child.returncode == 0 and 'stopped by hand: ' in said and 'Traceback' not in said and 'seeds: 0' in said, said

def test_the_command_refuses_with_a_sentence(command, tmp_path):
    done = subprocess.run(command + ['info_nce:agument=weak'], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("mssl_compare: arm 'info_nce:agument=weak'") and "did you mean 'augment'" in done.stderr and 'Traceback' not in done.stderr, done.stderr
    from mssl.cli import mssl_compare
    with pytest.raises(SystemExit, match="seeds='0,x'"): mssl_compare('info_nce', seeds='0,x')
    with pytest.raises(SystemExit, match="did you mean 'knn'"): mssl_compare('info_nce', measures='knm', folder=str(tmp_path))

def test_flags_of_one_word_that_are_settings():
    from mssl.cli import mssl_compare
    flags = set(inspect.signature(mssl_compare).parameters)
    assert not any('_' in f for f in flags) and set(Settings.__dataclass_fields__) - flags == {'method', 'seed', 'labels'}
