"""The recipe of a short time: small crops cost what they should and meet the large ones only, compiling changes nothing but the speed and leaves nothing behind."""
import copy
import pytest, torch
from fastai.torch_core import set_seed
from mssl.data import image_dls
from mssl.fast import Compile, crop_views, crops_info_nce
from mssl.recipes import recipe_learner
from mssl.siamese import info_nce, siamese_learner
from mssl.views import AUGMENTS, Augment, Views

def dls(n=64): return image_dls('scenes', size=32, n=n, bs=32, device='cpu', seed=0)

def test_two_large_and_the_small_ones():
    a = crop_views('byol', 32, 3, (.1, .2))
    assert len(a) == 5 and a[:2] == AUGMENTS['byol'] and all(o.size == (16, 16) and o.scale == (.1, .2) for o in a[2:])
    assert crop_views('small', 32, 0) == AUGMENTS['small'] * 2 and crop_views(Augment(), (48, 33), 1)[2].size == (24, 16)
    views = Views(32, crop_views('small', 32, 2)).make(torch.rand(4, 3, 40, 40))
    assert [tuple(v.shape[2:]) for v in views] == [(32, 32)] * 2 + [(16, 16)] * 2

@pytest.mark.parametrize('bad', [dict(augment='smal'), dict(augment=3), dict(crops=-1), dict(crops=1.5), dict(scale=(0, .3))])
def test_bad_crops_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): crop_views(**{**dict(augment='small', size=32, crops=2), **bad})

def test_the_loss_of_two_views_and_of_more():
    torch.manual_seed(0)
    z = [torch.randn(6, 5, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert crops_info_nce(*z[:2]) == info_nce(*z[:2])
    pairs = [info_nce(z[i], z[j]) for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))] # 2 and 3 do not meet
    assert torch.allclose(crops_info_nce(*z), sum(pairs) / 5)
    assert torch.autograd.gradcheck(crops_info_nce, z)

def fit(cbs=(), crops=0, epochs=1):
    set_seed(0)
    learn = recipe_learner('fast', dls(), 'resnet10_tiny', size=16, cbs=list(cbs), crops=crops)
    set_seed(1)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-3)
    return learn

def test_small_crops_train():
    learn = fit(crops=2)
    assert len(learn.views.box) == 4 and all(torch.isfinite(l) for l in learn.recorder.losses)
    with pytest.raises(ValueError, match='size=None'): recipe_learner('fast', dls(), 'resnet10_tiny', crops=2)

def test_without_crops_it_is_info_nce():
    set_seed(0)
    plain = recipe_learner('info_nce', dls(), 'resnet10_tiny', size=16)
    set_seed(1)
    with plain.no_bar(), plain.no_logging(): plain.fit(1, 1e-3)
    quick = fit()
    assert [float(l) for l in plain.recorder.losses] == [float(l) for l in quick.recorder.losses]

class Count:
    "A backend of torch.compile that counts what it was given"
    def __init__(self): self.graphs = 0
    def __call__(self, graph, inputs): self.graphs += 1; return graph.forward

def test_compiled_in_training_only_and_nothing_is_left():
    count = Count()
    made = Compile(steps=1, devices=('cpu',), backend=count)
    seen = []
    from fastai.callback.core import Callback
    class Watch(Callback):
        def before_batch(self): seen.append((self.training, 'forward' in self.model.encoder.__dict__))
        def after_loss(self): assert 'forward' not in self.model.encoder.__dict__
    learn = fit([made, Watch()], epochs=2)
    assert count.graphs > 0 and all(compiled == training for training, compiled in seen) and {t for t, _ in seen} == {True, False}
    assert 'forward' not in learn.model.encoder.__dict__
    plain = fit([Compile(steps=10_000)], epochs=2)
    assert all(abs(float(a) - float(b)) < 1e-4 for a, b in zip(learn.recorder.losses, plain.recorder.losses)), 'the same numbers'
    assert hasattr(made, 'made') and not {'made', 'of'} & set(made.__getstate__()), 'a stored Learner holds no compiled function'

def test_short_fits_and_other_devices_are_left_alone():
    for short in (Compile(steps=1000, devices=('cpu',)), Compile(steps=1)): # a few steps; a CPU
        assert not fit([short]).compile.on
    with pytest.raises(ValueError, match='steps=0'): Compile(0)

def test_a_training_that_breaks_off_leaves_a_plain_encoder():
    from fastai.callback.core import Callback
    class Break(Callback):
        def after_pred(self): raise RuntimeError('broken off')
    set_seed(0)
    learn = siamese_learner(dls(), 'resnet10_tiny', size=16, cbs=[Compile(steps=1, devices=('cpu',), backend=Count()), Break()])
    with learn.no_bar(), learn.no_logging(), pytest.raises(RuntimeError, match='broken off'): learn.fit(1, 1e-3)
    assert 'forward' not in learn.model.encoder.__dict__
    copy.deepcopy(learn.model)

def test_the_recipe_compiles_once(): assert len([c for c in recipe_learner('fast', dls(), 'resnet10_tiny', size=16).cbs if isinstance(c, Compile)]) == 1
