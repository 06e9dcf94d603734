"""What every recipe must keep, whoever adds it: parametrised over the table of recipes."""
import copy
import os

import pytest
import torch
import torch.multiprocessing as mp
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.optimizer import SGD

import mssl.all  # noqa: F401  (every module enters its recipes)
from mssl.checkpoint import Checkpoint, read_checkpoint
from mssl.data import Pictures, ResidentLoader
from mssl.encoders import load_encoder, pool_features
from mssl.gauges import FiniteLoss
from mssl.recipes import RECIPES, recipe_learner
from mssl.scenes import scenes
from mssl.train import HalfOnCPU, pretrain
from fastai.data.core import DataLoaders

SIZE, BS = 16, 32
each_recipe = pytest.mark.parametrize('name', sorted(RECIPES))


def small_dls(n=64, labels=False, bs=BS):
    drawn = scenes(n + BS, 16)
    def part(a, b): return Pictures(drawn.image[a:b], drawn.label[a:b] if labels else None, drawn.classes if labels else None, drawn.caption[a:b])
    return DataLoaders(ResidentLoader(part(0, n), bs, shuffle=True, drop_last=True), ResidentLoader(part(n, n + BS), bs), device=torch.device('cpu'))


def small_learner(name, **kwargs):
    torch.manual_seed(0)
    dls = kwargs.pop('dls', None) or small_dls()
    return recipe_learner(name, dls, size=SIZE, path=kwargs.pop('path', '.'), **kwargs)


def quiet_fit(learn, epochs=1, lr=1e-3):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)


def weights(module): return {k: v.detach().clone() for k, v in module.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@each_recipe
def test_trains_without_labels(name):
    learn = small_learner(name)
    before = weights(learn.model.encoder)
    quiet_fit(learn)
    moved = [k for k, p in learn.model.encoder.named_parameters() if not torch.equal(p, before[k])]
    assert len(moved) == len(list(learn.model.encoder.parameters())), 'every weight of the encoder moved'
    assert all(torch.isfinite(torch.tensor(l)) for l in learn.recorder.losses)


@each_recipe
def test_labels_change_nothing(name):
    ends = []
    for labels in (False, True):
        dls = small_dls(labels=labels)
        dls.train.rng.seed(3)
        learn = small_learner(name, dls=dls)
        torch.manual_seed(1)
        quiet_fit(learn)
        ends.append(weights(learn.model))
    assert same(*ends)


@each_recipe
def test_stopped_and_resumed_is_uninterrupted(name, tmp_path):
    settings = dict(method=name, n=96, bs=BS, size=SIZE, epochs=3, supervised=False, show_bar=False)
    class Stop(Callback):
        order = 70
        def after_batch(self):
            if self.training and self.epoch == 1: raise KeyboardInterrupt
    whole = pretrain(tmp_path / 'whole', **settings)
    cut = pretrain(tmp_path / 'cut', cbs=[Stop()], **settings)
    assert cut['stopped'] and len(cut['history']) == 1
    torch.rand(7)  # the second process starts from another random state
    resumed = pretrain(tmp_path / 'cut', resume=True, show_bar=False)
    a, b = (torch.load(tmp_path / o / 'checkpoint.pth', weights_only=True) for o in ('whole', 'cut'))
    assert same(a['model'], b['model'])
    for p, q in zip(a['opt']['state'], b['opt']['state']): assert all(torch.equal(torch.as_tensor(p[k]), torch.as_tensor(q[k])) for k in p)
    drop = lambda h: [{k: v for k, v in o.items() if k not in ('seconds', 'train_seconds')} for o in h]
    assert drop(whole['history']) == drop(resumed['history']) and whole['results'] == resumed['results']


@each_recipe
def test_goes_on_inside_an_epoch(name, tmp_path):
    "Killed between two epochs' ends: the same pictures in the same order, the same views, the same numbers"
    class Stop(Callback):
        order = 70
        def after_batch(self):
            if self.training and (self.epoch, self.iter) == (1, 1): raise KeyboardInterrupt
    def fit(learn, start=0):
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-3, start_epoch=start)
        return learn
    def made(file, *cbs):
        dls = small_dls(128)
        dls.train.rng.seed(3)
        return small_learner(name, dls=dls, cbs=[Checkpoint(tmp_path / file, dict(method=name), every=1), *cbs])
    whole = fit(made('whole'))
    with pytest.raises(KeyboardInterrupt): fit(made('cut', Stop()))
    state = read_checkpoint(tmp_path / 'cut')
    assert state['epoch'] == 1 and state['batch'] in (1, 2)
    torch.rand(7)
    again = made('cut')
    fit(again, again.checkpoint.load(again))
    assert same(weights(whole.model), weights(again.model))
    other = made('cut')
    other.checkpoint.settings = dict(method='another')
    with pytest.raises(ValueError, match=f"method was '{name}', now 'another'"): other.checkpoint.load(other)


@each_recipe
def test_even_pictures_train_to_finite_weights(name):
    "Every picture of one colour, all of them alike: nothing to learn, nothing lost"
    dls = small_dls()
    dls.train.image.fill_(128)
    learn = small_learner(name, dls=dls, cbs=[FiniteLoss()])
    quiet_fit(learn, 2)
    assert all(torch.isfinite(p).all() for p in learn.model.state_dict().values())


@each_recipe
def test_pixels_that_are_no_numbers(name):
    "As a loader of somebody's own may give them: the picture stays, with the mean colour there, and it is said"
    class Broken(ResidentLoader):
        def create_batches(self, samps):
            for image, *label in super().create_batches(samps):
                image = image.float() / 255
                image[0, :, :4] = float('nan')
                image[1, 0, 0, 0] = float('inf')
                yield image, *label
    dls = small_dls()
    dls.loaders[0] = Broken(dls.train.dataset, BS, shuffle=True, drop_last=True)
    learn = small_learner(name, dls=dls)
    before = weights(learn.model.encoder)
    with pytest.warns(UserWarning, match='Views: 4 pictures of this epoch hold pixels that are nan or inf'): quiet_fit(learn)
    assert all(torch.isfinite(p).all() for p in learn.model.state_dict().values()) and not same(before, weights(learn.model.encoder))


@pytest.mark.slow
@each_recipe
def test_a_thousand_steps_in_half_precision(name):
    "bfloat16, on a CPU too; fp16 is for GPUs"
    learn = small_learner(name, dls=small_dls(320), cbs=[HalfOnCPU(), FiniteLoss()])
    seen = []
    class Losses(Callback):
        order = 70
        def after_batch(self):
            if self.training: seen.append(float(self.loss))
    learn.add_cb(Losses())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(100, RECIPES[name].lr)
    assert len(seen) == 1000 and all(torch.isfinite(torch.tensor(seen))) and learn.finite_loss.passed == 0
    assert all(torch.isfinite(p).all() for p in learn.model.state_dict().values())


@each_recipe
def test_validate_and_get_preds_change_nothing(name):
    learn = small_learner(name)
    quiet_fit(learn)
    before, drawn = weights(learn.model), torch.get_rng_state()
    with learn.no_bar(): first, second = learn.validate(), learn.validate()
    assert same(before, weights(learn.model)) and torch.equal(drawn, torch.get_rng_state())
    assert first == second, 'validation sees the same views each time'
    with learn.no_bar(): z, _ = learn.get_preds()
    assert same(before, weights(learn.model)) and len(z) == BS


@each_recipe
def test_second_fit_goes_on(name):
    learn = small_learner(name)
    quiet_fit(learn)
    end = weights(learn.model)
    class Seen(Callback):
        def before_train(self): self.learn.at_start = weights(self.model)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=Seen())
    assert same(end, learn.at_start), 'teacher, centre and queue are those of the first fit'
    assert not same(end, weights(learn.model))


@each_recipe
def test_gradient_accumulation_steps_once(name):
    class Steps(Callback):
        order = 90
        def before_fit(self): self.learn.seen = [weights(self.model)]
        def after_batch(self):
            if self.training: self.learn.seen.append({k: v for k, v in weights(self.model).items() if 'running' not in k and 'num_batches' not in k and k != 'centre'})
    learn = small_learner(name, dls=small_dls(128), cbs=[GradientAccumulation(2 * BS), Steps()])
    quiet_fit(learn)
    changed = [any(not torch.equal(a[k], b[k]) for k in b) for a, b in zip(learn.seen, learn.seen[1:])]
    assert changed == [False, True, False, True], 'weights and teacher move after every second batch only'


@each_recipe
def test_encoder_comes_back(name, tmp_path):
    learn = small_learner(name)
    quiet_fit(learn)
    learn.save_encoder(tmp_path / 'mine')
    picture = scenes(5, 16, seed=9).image
    mean, std = learn.views.statistics(3, torch.device('cpu'))
    with torch.no_grad(): expected = pool_features(learn.model.encoder.eval()(learn.views.filtered((picture / 255 - mean) / std)))
    assert (load_encoder(tmp_path / 'mine')(picture) - expected).abs().max() < 1e-4


@pytest.mark.gpu
@each_recipe
@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_finite_in_half_precision(name, precision):
    if not torch.cuda.is_available(): pytest.skip('half precision needs a GPU, there is none')
    if precision == 'bf16' and torch.cuda.get_device_capability()[0] < 8: pytest.skip('this card only emulates bf16')
    dls = small_dls()
    dls.train.to('cuda'), dls.valid.to('cuda')
    dls.device = torch.device('cuda')
    learn = small_learner(name, dls=dls)
    learn = learn.to_fp16() if precision == 'fp16' else learn.to_bf16()
    quiet_fit(learn, 3)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters()) and torch.isfinite(torch.stack([torch.as_tensor(l) for l in learn.recorder.losses])).all()


# Two processes, each with half a batch, against one with the whole

def _model_inputs(learn):
    "What the model is given for one batch, by the callbacks that act before mixed precision"
    learn.model.train()
    learn.training, learn.dl, learn.pct_train = True, learn.dls.train, .5
    learn.views._watch(learn.dls.train) # captions belong to numbers of pictures
    learn.xb, learn.yb = (learn.dls.train.one_batch()[0],), ()
    for cb in learn.cbs.sorted('order'):
        if cb.order < 10: cb('before_batch')
    learn.views._unwatch(learn.dls.train)
    return learn.xb


def _to(o, f): return f(o) if isinstance(o, torch.Tensor) else type(o)(_to(v, f) for v in o) if isinstance(o, (tuple, list)) else o
def _double(o): return _to(o, lambda t: t.double() if t.is_floating_point() else t)


def _step(model, loss_func, inputs):
    "One step of plain SGD -> what must be equal"
    inner = getattr(model, 'module', model)
    out = model(*inputs)
    loss = loss_func(out[0], *out[1:]) if isinstance(out, (tuple, list)) else loss_func(out)
    loss.backward()
    grads = {k: p.grad.clone() for k, p in inner.named_parameters() if p.grad is not None}
    with torch.no_grad():
        for p in inner.parameters():
            if p.grad is not None: p -= .1 * p.grad
    if hasattr(inner, 'follow'): inner.follow(.9)
    return dict(loss=loss.detach(), grads=grads, state=weights(inner))


def _worker(rank, folder):
    from torch import distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from mssl.processes import sync_batchnorm
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    for name in sorted(RECIPES):
        given = torch.load(f'{folder}/{name}.in', weights_only=False)
        learn = small_learner(name)
        model = sync_batchnorm(learn.model.double())
        model.load_state_dict(given['state'])
        half = slice(rank * BS // 2, (rank + 1) * BS // 2)
        model.train()
        got = _step(DistributedDataParallel(model), learn.loss_func, _to(given['inputs'], lambda t: t[half]))
        torch.save(got, f'{folder}/{name}.{rank}')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    folder, expected = str(tmp_path_factory.mktemp('gloo')), {}
    for name in sorted(RECIPES):
        learn = small_learner(name)
        inputs, model = _double(_model_inputs(learn)), copy.deepcopy(learn.model).double()
        torch.save(dict(inputs=inputs, state=model.state_dict()), f'{folder}/{name}.in')
        expected[name] = _step(model.train(), learn.loss_func, inputs)
    mp.start_processes(_worker, args=(folder,), nprocs=2, start_method='spawn')
    return {name: (e, *(torch.load(f'{folder}/{name}.{r}', weights_only=False) for r in range(2))) for name, e in expected.items()}


@pytest.mark.skipif(os.name == 'nt', reason='gloo with a file rendezvous is tested on Linux and macOS')
@each_recipe
def test_two_processes_equal_one(name, two_processes):
    one, *both = two_processes[name]
    for two in both:
        assert (one['loss'] - two['loss']).abs() < 1e-5
        assert one['grads'].keys() == two['grads'].keys() and one['state'].keys() == two['state'].keys()
        for part in ('grads', 'state'): # the state holds batch statistics, teacher and centre too
            for k, v in one[part].items():
                assert (v.double() - two[part][k].double()).abs().max() < 1e-5, f'{part} of {k}'


def test_accumulating_in_sgd_is_seen():
    "The optimizer of these tests may be changed: recipes do not depend on Adam"
    learn = small_learner(sorted(RECIPES)[0], opt_func=SGD)
    before = weights(learn.model.encoder)
    quiet_fit(learn, lr=.05)
    assert not same(before, weights(learn.model.encoder))
