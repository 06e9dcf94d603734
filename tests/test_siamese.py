"""The losses as numpy computes them in float64, and what a siamese model makes of its views."""
import math
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn
from mssl.data import Pictures, ResidentLoader
from mssl.encoders import load_encoder
from mssl.siamese import Siamese, info_nce, mlp, siamese_learner, vicreg
from mssl.views import Augment, Views

def embeddings(n=7, d=5, views=2, dtype=torch.float64): return [torch.randn(n, d, dtype=dtype) + .3 for _ in range(views)]

def loop_info_nce(z1, z2, t):
    "Word for word: each of the 2n samples against all 2n-1 others, its partner is the right answer"
    z = np.concatenate([z1, z2])
    n, losses = len(z1), []
    cos = lambda a, b: a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b))
    for i in range(2 * n):
        others = [cos(z[i], z[j]) / t for j in range(2 * n) if j != i]
        losses.append(np.log(sum(np.exp(o) for o in others)) - cos(z[i], z[(i + n) % (2 * n)]) / t)
    return np.mean(losses)

def loop_vicreg(z1, z2, invariance=25., variance=25., covariance=1., gamma=1., eps=1e-4):
    n, d = z1.shape
    alike = np.mean([(z1[i, k] - z2[i, k])**2 for i in range(n) for k in range(d)])
    spread = mixed = 0
    for z in (z1, z2):
        C = np.cov(z, rowvar=False, ddof=1)
        spread += np.mean([max(0, gamma - math.sqrt(C[k, k] + eps)) for k in range(d)]) / 2
        mixed += sum(C[i, j]**2 for i in range(d) for j in range(d) if i != j) / d
    return invariance * alike + variance * spread + covariance * mixed

@pytest.mark.parametrize('n, d, t', [(2, 3, .2), (7, 5, .5), (32, 16, .07), (5, 1, 1.)])
def test_info_nce_is_the_loop(n, d, t):
    z1, z2 = embeddings(n, d)
    assert abs(info_nce(z1, z2, t).item() - loop_info_nce(z1.numpy(), z2.numpy(), t)) < 1e-10
    assert info_nce(z1, z2, temperature=t) == info_nce(z1, z2, t)

@pytest.mark.parametrize('n, d, kwargs', [(2, 3, {}), (7, 5, {}), (40, 8, dict(gamma=2.)), (9, 6, dict(invariance=1., variance=0., covariance=3., eps=1e-2)), (9, 6, dict(variance=3., gamma=.5))])
def test_vicreg_is_the_loop(n, d, kwargs):
    z1, z2 = embeddings(n, d)
    assert abs(vicreg(z1, z2, **kwargs).item() - loop_vicreg(z1.numpy(), z2.numpy(), **kwargs)) < 1e-10

def test_three_views_are_the_mean_over_pairs():
    z = embeddings(views=3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert abs(info_nce(*z, .3).item() - np.mean([loop_info_nce(z[i].numpy(), z[j].numpy(), .3) for i, j in pairs])) < 1e-10
    assert abs(vicreg(*z).item() - np.mean([loop_vicreg(z[i].numpy(), z[j].numpy()) for i, j in pairs])) < 1e-10

@pytest.mark.parametrize('loss', [info_nce, vicreg])
def test_gradients_are_those_of_the_numbers(loss):
    z = [o.requires_grad_() for o in embeddings(5, 4, 3)]
    assert torch.autograd.gradcheck(loss, z)

@pytest.mark.parametrize('loss', [info_nce, vicreg])
def test_half_is_raised_and_double_stays(loss):
    for dtype in (torch.float16, torch.bfloat16):
        z = embeddings(16, 8, dtype=dtype)
        value = loss(*z)
        assert value.dtype == torch.float32 and value == loss(*(o.float() for o in z))
    assert loss(*embeddings()).dtype == torch.float64
    big = [o * 300 for o in embeddings(16, 8, dtype=torch.float16)]
    assert torch.isfinite(loss(*big)), 'squares beyond the range of half precision'

def test_info_nce_knows_what_is_alike():
    z = torch.eye(8, dtype=torch.float64)
    best = math.log(math.exp(1 / .2) + 14) - 1 / .2
    assert abs(info_nce(z, z).item() - best) < 1e-10 and abs(info_nce(z, z * 100).item() - best) < 1e-10, 'length does not count'
    assert abs(info_nce(torch.ones(8, 4), torch.ones(8, 4)).item() - math.log(15)) < 1e-5, 'collapsed: all 15 others look the same'
    z1, z2 = embeddings(9)
    order = torch.randperm(9)
    assert abs(info_nce(z1, z2) - info_nce(z2[order], z1[order])) < 1e-12

def test_vicregs_terms_each_see_their_own_fault():
    n, d = 4000, 4
    z = torch.randn(n, d, dtype=torch.float64)
    z = torch.linalg.qr(z - z.mean(0))[0] * math.sqrt(n - 1) # white
    assert vicreg(z * 1.01, z * 1.01, invariance=0.) < 1e-10, 'spread and uncorrelated: nothing to pay'
    assert abs(vicreg(z, z + 2., variance=0., covariance=0.).item() - 25 * 4) < 1e-9
    assert abs(vicreg(z * 0, z * 0).item() - 25 * (1 - .01)) < 1e-9, 'a point'
    assert abs(vicreg(z[:, :1].expand(n, d), z[:, :1].expand(n, d), variance=0.).item() - 2 * (d - 1)) < 1e-9, 'a line'

def test_without_its_variance_term_everything_collapses():
    "The broken picture of the chapter, in numbers: the distance between pictures with and without the term"
    x, spreads = torch.rand(64, 3, 8, 8), {}
    for variance in (0., 25.):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), mlp(192, 32, 8))
        opt = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            loss = vicreg(model(x + .1 * torch.randn_like(x)), model(x + .1 * torch.randn_like(x)), variance=variance, covariance=variance / 25)
            opt.zero_grad(); loss.backward(); opt.step()
        spreads[variance] = model(x).std(0).mean().item()
    assert spreads[0.] < .1 and spreads[25.] > .7, spreads

@pytest.mark.parametrize('bad, match', [([torch.rand(4, 3)], 'at least two|missing'), ([torch.rand(4, 3), torch.rand(5, 3)], r'z2: shape \[4, 3\] as z1 is needed, got \[5, 3\]'), ([torch.rand(4, 3), torch.rand(4)], 'z2: embeddings'),
    ([torch.rand(4, 3), 'x'], 'z2: embeddings .* got str'), ([torch.rand(1, 3), torch.rand(1, 3)], 'z1: at least 2 pictures')])
@pytest.mark.parametrize('loss', [info_nce, vicreg])
def test_bad_embeddings_are_named(loss, bad, match):
    with pytest.raises((ValueError, TypeError), match=match): loss(*bad)

@pytest.mark.parametrize('loss, name, value', [(info_nce, 'temperature', 0.), (info_nce, 'temperature', -1.), (vicreg, 'variance', -1.), (vicreg, 'gamma', 'x'), (vicreg, 'covariance', float('nan'))])
def test_bad_weights_are_named(loss, name, value):
    with pytest.raises(ValueError, match=f'^{name}='): loss(*embeddings(), **{name: value})


# the model

def test_one_batch_of_embeddings_per_view_whatever_their_sizes():
    model = Siamese('resnet10_tiny', dim=6, hidden=16).eval()
    views = [torch.rand(3, 3, s, t) for s, t in ((32, 32), (16, 16), (32, 32), (16, 24))]
    z = model(*views)
    assert isinstance(z, tuple) and all(torch.allclose(o, model(v), atol=1e-5) for o, v in zip(z, views)) and model(views[0]).shape == (3, 6)

def test_views_of_one_size_go_through_the_network_together():
    model, calls = Siamese('resnet10_tiny', dim=6), []
    model.encoder.register_forward_hook(lambda m, x, y: calls.append(tuple(x[0].shape)))
    model(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32))
    assert calls == [(4, 3, 32, 32), (2, 3, 16, 16)]

@pytest.mark.parametrize('arch, kwargs, features', [('resnet10_tiny', {}, 256), ('vit_tiny_patch16_224', dict(img_size=32, patch_size=8, depth=1), 192), ('resnet10_tiny', dict(in_chans=1), 256)])
def test_timm_arguments_reach_the_encoder(arch, kwargs, features):
    model = Siamese(arch, dim=5, **kwargs)
    assert model.features == features and model.projector[0].in_features == features and model(*[torch.rand(2, kwargs.get('in_chans', 3), 32, 32)] * 2)[1].shape == (2, 5)
    if 'patch_size' in kwargs: assert model.encoder.patch_embed.proj.kernel_size == (8, 8) and model.encoder.pos_embed.shape[1] == 17

def test_any_module_can_be_the_encoder():
    model = Siamese(nn.Sequential(nn.Conv2d(3, 9, 4, 4), nn.ReLU()), dim=4)
    assert model.features == 9 and model(torch.rand(3, 3, 16, 16)).shape == (3, 4)
    with pytest.raises(ValueError, match='dim=0'): Siamese('resnet10_tiny', dim=0)
    with pytest.raises(ValueError, match="arch='resnet_10' is not known"): Siamese('resnet_10')

def test_projector_layers():
    kinds = lambda *a, **k: [type(o).__name__ for o in mlp(*a, **k)]
    assert kinds(4, 8, 2) == ['Linear', 'BatchNorm1d', 'ReLU', 'Linear'] and kinds(4, 8, 2, 1) == ['Linear']
    assert kinds(4, 8, 2, 3, last_norm=True) == ['Linear', 'BatchNorm1d', 'ReLU'] * 2 + ['Linear', 'BatchNorm1d']
    assert [o.bias is not None for o in mlp(4, 8, 2, 3) if isinstance(o, nn.Linear)] == [False, False, True], 'no bias before a norm'
    with pytest.raises(ValueError, match='layers=0'): mlp(4, 8, 2, 0)


# the Learner

def loaders(n=24, size=16, channels=3):
    x = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)
    return DataLoaders(ResidentLoader(Pictures(x), 8, shuffle=True, drop_last=True), ResidentLoader(Pictures(x[:8]), 8), device=torch.device('cpu'))

def test_siamese_learner_brings_its_own_views_or_takes_yours():
    learn = siamese_learner(loaders(), 'resnet10_tiny', size=12, augment='weak', model_kwargs=dict(dim=7), wd=.3)
    assert isinstance(learn, Learner) and learn.views.size == (12, 12) and learn.model.projector[-1].out_features == 7 and learn.wd == .3 and learn.loss_func is info_nce
    mine, other = Views(10, n=3), type('Other', (Callback,), {})()
    learn = siamese_learner(loaders(), learn.model, vicreg, cbs=[other, mine])
    assert learn.views is mine and sum(isinstance(c, Views) for c in learn.cbs) == 1 and learn.loss_func is vicreg and learn.model.projector[-1].out_features == 7
    assert siamese_learner(loaders(), 'resnet10_tiny', cbs=mine).views is mine
    with pytest.raises(ValueError, match="loss='vicreg': a function"): siamese_learner(loaders(), 'resnet10_tiny', 'vicreg')

def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    learn = siamese_learner(loaders(), 'resnet10_tiny', size=16, augment=Augment((.8, 1.), jitter_p=0., grey=0.), model_kwargs=dict(dim=16, hidden=32))
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 2e-3)
    losses = [o[1] for o in learn.recorder.values]
    assert learn.recorder.values[-1][0] < learn.recorder.values[0][0] - .2 and all(np.isfinite(losses))

def test_save_encoder_stores_what_the_views_used(tmp_path):
    learn = siamese_learner(loaders(), 'resnet10_tiny', size=(12, 16))
    assert learn.save_encoder(tmp_path / 'mine', note='x') == tmp_path / 'mine'
    back = load_encoder(tmp_path / 'mine')
    assert np.allclose(back.info['mean'], learn.dls.train.stats[0]) and np.allclose(back.info['std'], learn.dls.train.stats[1]) and back.info['size'] == [12, 16] and back.info['note'] == 'x'
    x = learn.dls.train_ds.image[:4]
    prepared = (x / 255. - torch.tensor(back.info['mean']).view(3, 1, 1)) / torch.tensor(back.info['std']).view(3, 1, 1)
    assert torch.allclose(back(x), learn.model.encoder.eval()(prepared), atol=1e-4)

def test_save_encoder_of_other_channels_and_other_models(tmp_path):
    learn = siamese_learner(loaders(channels=1), Siamese('resnet10_tiny', in_chans=1), augment='weak')
    assert load_encoder(learn.save_encoder(tmp_path / 'grey'))(torch.rand(2, 1, 16, 16)).shape == (2, 256)
    learn = Learner(loaders(), nn.Linear(2, 2), loss_func=info_nce, cbs=Views(8))
    with pytest.raises(ValueError, match='the model has no `encoder`'): learn.save_encoder(tmp_path / 'none')

@pytest.mark.gpu
@pytest.mark.parametrize('loss', [info_nce, vicreg])
def test_half_precision_on_a_gpu(loss):
    dls = loaders().to(torch.device('cuda'))
    learn = siamese_learner(dls, 'resnet10_tiny', loss, size=16).to_fp16()
    seen = []
    class Look(Callback):
        order = 20
        def after_pred(self): seen.append(self.pred.dtype)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3, cbs=Look())
    assert torch.float16 in seen and all(torch.isfinite(p).all() for p in learn.model.parameters()) and np.isfinite(learn.recorder.values[-1]).all()
    assert all(v.dtype == torch.float32 and v.is_cuda for v in learn.views.view)
