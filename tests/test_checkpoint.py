"A run goes on from any step to the same numbers; the file is whole at every moment; what does not fit is refused with a sentence."
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
import mssl
from mssl.checkpoint import Checkpoint, read_checkpoint
from mssl.core import write_whole
from mssl.data import Pictures, ResidentLoader
from mssl.scenes import scenes
from mssl.siamese import siamese_learner
from mssl.teacher import BYOL, byol_loss
from mssl.train import pretrain

class StopAt(Callback):
    order = 70
    def __init__(self, epoch, iter): self.at = epoch, iter
    def after_batch(self):
        if self.training and (self.epoch, self.iter) == self.at: raise KeyboardInterrupt

def learner(file, *cbs, every=2, n=256, seed=0, kind=ResidentLoader, **kwargs):
    drawn = scenes(n + 32, 16)
    part = lambda a, b: Pictures(drawn.image[a:b])
    dls = DataLoaders(kind(part(0, n), bs=32, shuffle=True, drop_last=True), kind(part(n, n + 32), bs=32), device=torch.device('cpu'))
    dls.train.rng.seed(seed)
    torch.manual_seed(seed)
    return siamese_learner(dls, kwargs.pop('arch', 'resnet10_tiny'), size=16, cbs=[*cbs, Checkpoint(file, every=every)], **kwargs)

def fit(learn, start=0):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 1e-3, start_epoch=start)
    return learn

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('stop, saved', [((0, 2), (0, 2)), ((1, 4), (1, 4)), ((1, 7), (1, 6)), ((2, 0), (2, 0)), ((2, 1), (2, 2))])
def test_goes_on_from_any_step(stop, saved, tmp_path):
    whole = fit(learner(tmp_path / 'whole'))
    cut = learner(tmp_path / 'cut', StopAt(*stop))
    with pytest.raises(KeyboardInterrupt): fit(cut)
    state = read_checkpoint(tmp_path / 'cut')
    assert (state['epoch'], state['batch']) == cut.checkpoint.saved and cut.checkpoint.saved in (saved, (saved[0], max(0, saved[1] - 2)))
    torch.rand(5)
    again = learner(tmp_path / 'cut')
    fit(again, again.checkpoint.load(again))
    assert same(whole.model.state_dict(), again.model.state_dict())
    drop = lambda h: [{k: v for k, v in o.items() if 'seconds' not in k} for o in h]
    assert drop(whole.checkpoint.history) == drop(again.checkpoint.history) and again.checkpoint.history[-1]['seconds'] > 0
    assert same(read_checkpoint(tmp_path / 'whole')['model'], read_checkpoint(tmp_path / 'cut')['model'])

def test_without_every_there_are_epochs_only(tmp_path):
    cut = learner(tmp_path / 'cut', StopAt(1, 5), every=0)
    with pytest.raises(KeyboardInterrupt): fit(cut)
    assert cut.checkpoint.saved == (1, 0)

def test_accumulated_gradients_are_never_cut_in_two(tmp_path):
    "A file inside an epoch is made just after an optimizer step"
    seen = []
    class Look(Callback):
        order = 66
        def after_batch(self):
            if self.training and self.checkpoint.saved[1]: seen.append(self.checkpoint.saved[1])
    fit(learner(tmp_path / 'a', GradientAccumulation(64), Look(), every=1))
    assert seen and all(o % 2 == 0 for o in seen)

def test_other_loaders_are_saved_at_epoch_ends(tmp_path):
    class Plain(DataLoader):
        def create_item(self, i): return (self.dataset.image[i],)
    cut = learner(tmp_path / 'cut', StopAt(1, 5), kind=Plain)
    with pytest.warns(UserWarning, match='every=2 is for pictures that lie on the device.*epoch ends'), pytest.raises(KeyboardInterrupt): fit(cut)
    assert cut.checkpoint.saved == (1, 0)

def test_weights_that_are_no_numbers_do_not_replace_good_ones(tmp_path):
    class Break(Callback):
        order = 60
        def after_batch(self):
            if self.training and (self.epoch, self.iter) == (1, 1):
                with torch.no_grad(): next(self.model.parameters())[0] = float('nan')
    learn = learner(tmp_path / 'a', Break())
    with pytest.warns(UserWarning, match='the weights hold nan or inf, nothing is saved any more.*epoch 1'): fit(learn)
    state = read_checkpoint(tmp_path / 'a')
    assert (state['epoch'], state['batch']) == (1, 0) and all(v.isfinite().all() for v in state['model'].values())

# --- refused

@pytest.fixture(scope='module')
def file(tmp_path_factory):
    learn = learner(tmp_path_factory.mktemp('c') / 'file', StopAt(1, 1))
    learn.checkpoint.settings = dict(method='info_nce', lr=1e-3, size=16)
    with pytest.raises(KeyboardInterrupt): fit(learn)
    return learn.checkpoint.path

@pytest.mark.parametrize('settings, words', [(dict(method='vicreg', lr=1e-3, size=16), "method was 'info_nce', now 'vicreg'$"), (dict(method='info_nce', lr=.5, size=16), 'lr was 0.001, now 0.5$'),
                                             (dict(method='byol', lr=1e-3, size=24), "method was 'info_nce', now 'byol', size was 16, now 24$")])
def test_another_recipe_is_named(settings, words, file):
    learn = learner(file)
    learn.checkpoint.settings = settings
    with pytest.raises(ValueError, match=words): learn.checkpoint.load(learn)

def test_a_setting_that_is_newer_than_the_file_is_no_reason(file):
    learn = learner(file)
    learn.checkpoint.settings = dict(method='info_nce', invented=3)
    assert learn.checkpoint.load(learn) == 1

@pytest.mark.parametrize('make, words', [(lambda f: learner(f, arch=BYOL('resnet10_tiny'), loss=byol_loss), r'another model \(method=.info_nce., size=16\): \d+ tensors are missing, such as .*; \d+ tensors belong nowhere'),
                                         (lambda f: learner(f, model_kwargs=dict(dim=64)), r'another model .*has the shape \[128.*, not \[64')])
def test_another_model_is_refused(make, words, file):
    learn = make(file)
    with pytest.raises(ValueError, match=words): learn.checkpoint.load(learn)

@pytest.mark.parametrize('damage, words', [(lambda b: b[:1000], 'not a whole checkpoint'), (lambda b: b'', 'not a whole checkpoint'), (lambda b: b'hello' * 100, 'not a whole checkpoint'), (None, 'there is no checkpoint')])
def test_half_a_file_is_refused(damage, words, file, tmp_path):
    path = tmp_path / 'x'
    if damage: path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=words): read_checkpoint(path)

def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save(dict(model={}), tmp_path / 'x')
    with pytest.raises(ValueError, match='no checkpoint of a training'): read_checkpoint(tmp_path / 'x')

# --- killed

KILLED = """
import sys, torch
from mssl.core import write_whole
x = torch.zeros(30_000_000)
for i in range(1000):
    write_whole(sys.argv[1], lambda p: torch.save(dict(i=i, x=x + i), p))
    print(i, flush=True)
"""

@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGKILL')
def test_killed_while_saving_leaves_the_last_file_whole(tmp_path):
    "SIGKILL in the middle of writing 120 MB, three times"
    path, part = tmp_path / 'file', tmp_path / 'file.part'
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(Path(mssl.__file__).parent.parent), os.environ.get('PYTHONPATH', '')])}
    cut = 0
    for attempt in range(3):
        child = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', KILLED, str(path)], stdout=subprocess.PIPE, text=True, env=env)
        first = child.stdout.readline()
        assert first.strip() == '0'
        deadline = time.time() + 60
        while time.time() < deadline:
            try:
                if 0 < part.stat().st_size < 100_000_000: break
            except FileNotFoundError: pass
        child.send_signal(signal.SIGKILL); child.wait(); child.stdout.close()
        cut += part.exists() and part.stat().st_size < 120_000_000
        state = torch.load(path, weights_only=True)
        assert (state['x'] == state['i']).all(), 'all of one save'
    assert cut, 'it was killed while it wrote'
    write_whole(path, lambda p: p.write_text('new')) # what a dead process left behind is in nobody's way
    assert path.read_text() == 'new' and not part.exists()

def test_the_main_job_goes_on_inside_an_epoch(tmp_path):
    settings = dict(n=160, bs=32, size=16, epochs=2, supervised=False, show_bar=False)
    whole = pretrain(tmp_path / 'whole', **settings)
    cut = pretrain(tmp_path / 'cut', cbs=[StopAt(1, 3)], every=1, **settings)
    assert 'goes on after step 3 of epoch 2' in cut['stopped'] or 'goes on after step 4 of epoch 2' in cut['stopped']
    again = pretrain(tmp_path / 'cut', resume=True, show_bar=False)
    assert again['results'] == whole['results'] and same(*(read_checkpoint(tmp_path / o / 'checkpoint.pth')['model'] for o in ('whole', 'cut')))
