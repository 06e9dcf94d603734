"""Siamese image modelling: places through the picture, a dense loss without its large matrix, predictions from what is seen."""
import math
import numpy as np, pytest, torch, torch.nn.functional as F
from fastai.data.core import DataLoaders
from hypothesis import given, strategies as st

from mssl.data import Pictures, ResidentLoader
from mssl.encoders import load_encoder
from mssl.mae import HidePatches, patch_mask
from mssl.scenes import scenes
from mssl.siamese_im import (Geometry, SiameseIM, TokenBatchNorm, UniGrad, dense_unigrad, momentum_at, load_siamese_im, relative_position, save_siamese_im, siamese_im_learner,
                             sincos_position, unigrad_loss, where_is)
from mssl.views import Views, crop_and_flip, random_boxes

SMALL = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2)
ARCH = 'vit_tiny_patch16_224'


@pytest.fixture(scope='module')
def official(shared): return {k: torch.from_numpy(v) for k, v in np.load(shared / 'official/official_values.npz').items() if not k.startswith(('block', 'ccrop'))}


def small_dls(n=48, size=32, bs=16):
    drawn = scenes(n, size)
    return DataLoaders(ResidentLoader(Pictures(drawn.image), bs, shuffle=True, drop_last=True), ResidentLoader(Pictures(drawn.image[:bs]), bs), device=torch.device('cpu'))


def quiet_fit(learn, epochs=1, lr=1e-3):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)


def some_views(n=200):
    return random_boxes(n, (.08, 1.)), torch.rand(n) < .5, random_boxes(n, (.08, 1.)), torch.rand(n) < .5


# Relative positions

def six_numbers(box1, flip1, box2, flip2, rows, cols):
    "The official formula: the picture is flipped first and cropped afterwards, six numbers go to the model -> [B,L,2]"
    (i1, j1, h1, w1), (i2, j2, h2, w2) = box1.unbind(1), box2.unbind(1)
    j1, j2 = torch.where(flip1, 1 - j1 - w1, j1), torch.where(flip2, 1 - j2 - w2, j2)
    di, dj, dh, dw, flip, fj = (i2 - i1) / h1, (j2 - j1) / w1, h2 / h1, w2 / w1, flip1 ^ flip2, (1 - j1 - j2) / w1
    r, c = torch.arange(rows) + .5, torch.arange(cols) + .5
    y = dh[:, None] * r + rows * di[:, None] - .5
    x = torch.where(flip[:, None], -dw[:, None] * c + cols * fj[:, None] - .5, dw[:, None] * c + cols * dj[:, None] - .5)
    return torch.stack([y[:, :, None].expand(-1, -1, cols), x[:, None].expand(-1, rows, -1)], -1).flatten(1, 2)


def test_positions_are_the_official_ones(official):
    o = official
    got = relative_position(o['rel_box1'].float(), o['rel_flip1'].bool(), o['rel_box2'].float(), o['rel_flip2'].bool(), int(o['rel_grid']), int(o['rel_dim']))
    assert got.shape == (6, 49, 96) and (got - o['rel_embedding']).abs().max() < 1e-4
    assert (sincos_position(7, 48) - o['abs_embedding']).abs().max() < 1e-6


@pytest.mark.parametrize('grid', [7, (5, 9)])
def test_through_the_picture_equals_six_numbers(grid):
    views = some_views()
    rows, cols = (grid, grid) if isinstance(grid, int) else grid
    views = [v.double() if v.is_floating_point() else v for v in views]
    assert (where_is(*views, grid) - six_numbers(*views, rows, cols)).abs().max() < 1e-10


def test_the_same_view_is_the_table_itself():
    box, flip, *_ = some_views()
    e = relative_position(box, flip, box, flip, (4, 6), 32)
    assert (e[..., :32] - sincos_position((4, 6), 32)).abs().max() < 2e-5
    assert torch.equal(e[0, 0, 32:], torch.tensor([0.] * 8 + [1.] * 8).repeat(2)) and (e[..., 32:] - e[0, 0, 32:]).abs().max() < 1e-5


@given(st.integers(0, 10_000))
def test_there_and_back(seed):
    "The place of a place is the patch itself; flipping both views mirrors the columns; a point of the picture stays that point"
    torch.manual_seed(seed)
    b1, f1, b2, f2 = (v.double() if v.is_floating_point() else v for v in some_views(3))
    G = 5
    p = where_is(b1, f1, b2, f2, G)
    def source(p, box, flip): # place in patches of a view -> point of the picture
        u = (p + .5) / G
        x = torch.where(flip[:, None], 1 - u[..., 1], u[..., 1])
        return torch.stack([box[:, None, 0] + box[:, None, 2] * u[..., 0], box[:, None, 1] + box[:, None, 3] * x], -1)
    own = torch.stack(torch.meshgrid(torch.arange(G), torch.arange(G), indexing='ij'), -1).view(1, -1, 2).expand(3, -1, -1).double()
    assert (source(p, b1, f1) - source(own, b2, f2)).abs().max() < 1e-9
    both = where_is(b1, ~f1, b2, ~f2, G).view(3, G, G, 2)
    assert (both[..., 1] - (G - 1 - p.view(3, G, G, 2).flip(2)[..., 1])).abs().max() < 1e-9 and (both[..., 0] - p.view(3, G, G, 2)[..., 0]).abs().max() < 1e-12
    assert torch.equal((p[:, 1, 1] < p[:, 0, 1]), f1 ^ f2), 'one flip of two turns the columns around'


def test_pixels_agree_with_places():
    "Paint the picture with its own coordinates, cut two views: what stands in a patch of view 2 stands in view 1 where `where_is` says"
    y, x = torch.meshgrid(torch.linspace(0, 1, 201)[:-1] + 1 / 400, torch.linspace(0, 1, 201)[:-1] + 1 / 400, indexing='ij')
    image, G = torch.stack([y, x])[None], 4
    b1, b2 = torch.tensor([[.1, .05, .8, .9]]), torch.tensor([[.2, .3, .5, .4]])
    for f1, f2 in ((False, False), (True, False), (False, True), (True, True)):
        f1, f2 = torch.tensor([f1]), torch.tensor([f2])
        v1, v2 = (crop_and_flip(image, b, f, 64) for b, f in ((b1, f1), (b2, f2)))
        patch2 = F.adaptive_avg_pool2d(v2, G)[0].flatten(1).T
        at = (where_is(b1, f1, b2, f2, G)[0] + .5) / G * 2 - 1
        seen = F.grid_sample(v1, at.flip(1)[None, None], align_corners=False)[0, :, 0].T
        assert (seen - patch2).abs().max() < 5e-3


def test_size_is_told_unless_it_is_not():
    b1, f1, b2, f2 = some_views(8)
    told, not_told = (relative_position(b1, f1, b2, f2, 4, 16, scale=s) for s in (True, False))
    assert torch.equal(told[..., :16], not_told[..., :16]) and not torch.equal(told[..., 16:], not_told[..., 16:])
    s = 10 * (b2[0, 2] / b1[0, 2]).log()
    assert (told[0, 0, 16] - s.sin()).abs() < 1e-4
    assert told[0, :, 16:].unique(dim=0).shape[0] == 1, 'the same for all patches of a view'


def test_far_apart_is_finite():
    near, far, no = torch.tensor([[0., 0, .1, .1]]), torch.tensor([[.9, .9, .1, .1]]), torch.tensor([False])
    p = where_is(near, no, far, no, 14)
    assert p.min() > 100 and relative_position(near, no, far, no, 14, 64).isfinite().all()


def test_bad_geometry_is_refused():
    b, f = torch.rand(3, 4), torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match='box2'): relative_position(b, f, b[:2], f, 4, 16)
    with pytest.raises(ValueError, match='flip1'): relative_position(b, f[:, None], b, f, 4, 16)
    with pytest.raises(ValueError, match='multiple of 4'): relative_position(b, f, b, f, 4, 10)


# The loss

def naive(p, z, weight):
    "As the official code has it, M x M and all"
    p, z = p.flatten(0, -2), F.layer_norm(z.flatten(0, -2), z.shape[-1:])
    C = z.T @ z / len(z)
    return ((p - z).square().sum(-1).mean() + weight * (p @ C @ p.T).diagonal().mean()) / p.shape[1]


@pytest.mark.parametrize('weight', [.02, 1])
def test_loss_and_gradient_are_the_official_ones(official, weight):
    p = official['unigrad_pred'].clone().requires_grad_()
    loss = dense_unigrad(p, official['unigrad_target'], weight)
    loss.backward()
    assert loss.dtype == torch.float64 and (loss - official[f'unigrad_loss_{weight}']).abs() < 1e-10
    assert (p.grad - official[f'unigrad_grad_{weight}']).abs().max() < 1e-10


@given(st.integers(2, 40), st.integers(2, 60), st.floats(0, 5), st.integers(0, 9999))
def test_fused_is_naive(rows, dim, weight, seed):
    torch.manual_seed(seed)
    p, z = torch.randn(3, rows, dim, dtype=torch.float64, requires_grad=True), torch.randn(3, rows, dim, dtype=torch.float64)
    a, b = dense_unigrad(p, z, weight), naive(p, z, weight)
    assert (a - b).abs() < 1e-10 * max(1, b.item())
    ga, gb = (torch.autograd.grad(o, p)[0] for o in (a, b))
    assert (ga - gb).abs().max() < 1e-10


def test_collapse_values():
    "1 for no prediction; lambda D / (1 + lambda D) for the best answer to targets that are all the same; .0196 where they lie evenly"
    D, weight = 768, .02
    z = torch.randn(30, D, dtype=torch.float64)
    assert (dense_unigrad(torch.zeros_like(z), z) - 1).abs() < 1e-4
    def best(z):
        n = F.layer_norm(z, z.shape[1:])
        return dense_unigrad(torch.linalg.solve(torch.eye(n.shape[1]).double() + weight * n.T @ n / len(n), n.T).T, z)
    assert abs(best(z[:1].expand(30, -1)).item() - .9389) < 1e-3 and abs(weight * D / (1 + weight * D) - .9389) < 1e-3
    assert abs(best(torch.randn(5000, 96, dtype=torch.float64)).item() - weight / (1 + weight)) < 1e-3


def test_collapse_costs_the_same_at_every_width():
    "Without a weight lambda D is the paper's, .02 * 768"
    for D in (96, 384, 768):
        z = torch.randn(1, D, dtype=torch.float64).expand(30, -1)
        n = F.layer_norm(z, (D,))
        p = n / (1 + .02 * 768) # (1 + lambda C) p = z, where C z = D z
        assert abs(unigrad_loss(p[None], z[None]).item() - 15.36 / 16.36) < 1e-3
    p, z = torch.randn(2, 1, 40, 768, dtype=torch.float64).unbind()
    assert torch.equal(unigrad_loss(p, z), dense_unigrad(p, z)) and not torch.equal(unigrad_loss(p[..., :96], z[..., :96]), dense_unigrad(p[..., :96], z[..., :96]))

def test_negative_term_is_the_mean_squared_product():
    p, z = torch.randn(9, 8, dtype=torch.float64), torch.randn(9, 8, dtype=torch.float64)
    n = F.layer_norm(z, (8,))
    assert ((dense_unigrad(p, z, 1.) - dense_unigrad(p, z, 0)) * 8 - (p @ n.T).square().mean()).abs() < 1e-12


def test_no_tensor_of_rows_times_rows():
    from torch.utils._python_dispatch import TorchDispatchMode
    M, D, largest = 3000, 8, []
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(o.numel() for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, torch.Tensor))
            return out
    p = torch.randn(M, D, requires_grad=True)
    with Watch(): dense_unigrad(p, torch.randn(M, D)).backward()
    assert max(largest) <= M * D


def test_loss_in_half_precision_and_bad_input():
    p, z = torch.randn(4, 5, 16), torch.randn(4, 5, 16)
    half = dense_unigrad(p.half(), z.half())
    assert half.dtype == torch.float32 and (half - dense_unigrad(p, z)).abs() < 1e-2
    with torch.autocast('cpu', dtype=torch.bfloat16): assert (dense_unigrad(p, z) - dense_unigrad(p, z)).abs() == 0
    assert torch.autograd.grad(dense_unigrad(p.requires_grad_(), z.requires_grad_()), z, allow_unused=True)[0] is None, 'no gradient to the target'
    with pytest.raises(ValueError, match='same shape'): dense_unigrad(p, z[:2])
    with pytest.raises(ValueError, match='at least one row'): dense_unigrad(p[:0], z[:0])
    with pytest.raises(ValueError, match='weight'): dense_unigrad(p, z, -1)


def test_loss_over_pictures():
    p, z = torch.randn(6, 5, 16, dtype=torch.float64), torch.randn(6, 5, 16, dtype=torch.float64)
    whole = dense_unigrad(p.mean(1), F.layer_norm(z, (16,)).mean(1))
    assert torch.allclose(unigrad_loss(p, z, 2., 3., .02), 2 * dense_unigrad(p, z) + 3 * whole)
    with pytest.raises(ValueError, match='dense=0, whole=0'): UniGrad(0, 0)


def test_momentum_is_the_official_one(official):
    for t, m in zip(official['momentum_t'], official['momentum_m']): assert abs(momentum_at(float(t)) - float(m)) < 1e-12
    assert momentum_at(0) == .995 and momentum_at(.5) == pytest.approx(.9975) and momentum_at(1) == 1


# The model

def test_batch_norm_over_tokens():
    x = torch.randn(4, 7, 6) * 3 + 1
    y = TokenBatchNorm(6)(x)
    assert y.mean((0, 1)).abs().max() < 1e-5 and (y.var((0, 1), correction=0) - 1).abs().max() < 1e-3
    assert TokenBatchNorm(6)(x.half()).dtype == torch.float16


@pytest.mark.parametrize('kwargs', [dict(), dict(norm='layer'), dict(width=32, heads=4), dict(freeze_patches=True), dict(img_size=(24, 40)), dict(reg_tokens=2), dict(class_token=False)])
@pytest.mark.parametrize('ratio', [None, 0, .6, .95])
def test_shapes_and_gradients(kwargs, ratio):
    model = SiameseIM(ARCH, **{**SMALL, **kwargs})
    grid = model.encoder.patch_embed.grid_size
    L = grid[0] * grid[1]
    mask = None if ratio is None else patch_mask(4, grid, ratio, 'block').flatten(1)
    v1, v2 = (torch.randn(4, 3, 8 * grid[0], 8 * grid[1]) for _ in range(2))
    p, t = model(v1, v2, *some_views(4), mask)
    assert p.shape == t.shape == (4, L, kwargs.get('width', 48)) and not t.requires_grad and p.requires_grad
    dense_unigrad(p, t).backward()
    without = {k for k, o in model.named_parameters() if o.grad is None}
    frozen = {k for k, o in model.named_parameters() if not o.requires_grad}
    assert without == frozen and all(k.startswith('teacher') or ('freeze_patches' in kwargs and 'patch_embed' in k) for k in frozen)


def test_prediction_sees_visible_patches_and_places_only():
    model = SiameseIM(ARCH, **SMALL).eval()
    mask, views = patch_mask(3, 4, .6), some_views(3)
    x = torch.randn(3, 3, 32, 32)
    hidden = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    with torch.no_grad():
        one = model.predict(x, *views, mask.flatten(1))
        assert torch.equal(one, model.predict(torch.where(hidden, torch.randn_like(x), x), *views, mask.flatten(1)))
        assert not torch.allclose(one, model.predict(x, views[0], views[1], *some_views(3)[2:], mask.flatten(1)), atol=1e-3), 'another place, another answer'


def test_teacher_is_encoder_and_projector_alone():
    model = SiameseIM(ARCH, **SMALL)
    x = torch.randn(2, 3, 32, 32)
    assert model.teacher.net.state_dict().keys() == model.student.state_dict().keys()
    assert torch.equal(model.target(x), model.student(x)[:, 1:]), 'at the start it says what the student says'
    with torch.no_grad(): model.student.encoder.blocks[0].mlp.fc1.weight += 1.
    old = model.teacher.net.encoder.blocks[0].mlp.fc1.weight.clone()
    model.follow(.9)
    assert torch.allclose(model.teacher.net.encoder.blocks[0].mlp.fc1.weight, old + .1, atol=1e-6)


def test_depths_follow_the_official_ones():
    m = SiameseIM(ARCH, img_size=32, patch_size=16, embed_dim=96, depth=12, num_heads=3)
    assert (len(m.student.projector[1]), len(m.predictor)) == (2, 4)
    assert m.predictor[0].attn.num_heads == 2 and isinstance(m.predictor[0].norm1, TokenBatchNorm)


# The Learner

@pytest.mark.parametrize('size', [32, (32, 48), 48])
def test_learns(size):
    torch.manual_seed(0)
    learn = siamese_im_learner(small_dls(size=48), ARCH, size, model_kwargs={k: v for k, v in SMALL.items() if k != 'img_size'})
    quiet_fit(learn, 4, 2e-3)
    losses = torch.stack([torch.as_tensor(l) for l in learn.recorder.losses])
    assert losses.isfinite().all() and losses[-3:].mean() < losses[:3].mean()
    grid = learn.model.encoder.patch_embed.grid_size
    assert learn.views.mask[0].shape[1:] == grid and learn.views.mask[0].sum((1, 2)).unique().tolist() == [int(.6 * grid[0] * grid[1])] and learn.views.mask[1] is None


def test_views_that_do_not_overlap():
    learn = siamese_im_learner(small_dls(), ARCH, 32, model_kwargs=SMALL)
    corners = iter([[0., 0, .4, .4], [.6, .6, .4, .4]] * 100)
    learn.views.box_source = lambda index: torch.tensor(next(corners)).expand(len(index), 4)
    quiet_fit(learn)
    assert all(math.isfinite(l) for l in learn.recorder.losses) and len(learn.recorder.losses)


def test_geometry_comes_from_the_views():
    seen = {}
    class Spy(SiameseIM):
        def forward(self, *xb): seen['xb'] = xb; return super().forward(*xb)
    learn = siamese_im_learner(small_dls(), Spy(ARCH, **SMALL), 32, cbs=[HidePatches(.5, 'random')])
    quiet_fit(learn)
    v1, v2, b1, f1, b2, f2, mask = seen['xb']
    v = learn.views
    assert torch.equal(b1, v.box[0]) and torch.equal(f1, v.flip[0]) and torch.equal(b2, v.box[1]) and torch.equal(f2, v.flip[1])
    assert torch.equal(mask, v.mask[0].flatten(1)) and mask.sum(1).unique().tolist() == [8] and torch.equal(v1, v.view[0])


def test_what_is_told_can_be_changed():
    seen = []
    class Spy(SiameseIM):
        def forward(self, *xb): seen.append((self.scale, *xb)); return super().forward(*xb)
    for geometry in (Geometry(position=False), Geometry(scale=False), Geometry(same=True)):
        quiet_fit(siamese_im_learner(small_dls(16), Spy(ARCH, **SMALL), 32, cbs=[geometry]))
        scale, v1, v2, b1, f1, b2, f2, mask = seen[0]
        assert scale == geometry.scale and torch.equal(b1, b2) == (not geometry.position or geometry.same) and torch.equal(v1, v2) == geometry.same
        seen.clear()
    learn = siamese_im_learner(small_dls(16), ARCH, 32, cbs=[UniGrad(0, 1)], model_kwargs=SMALL)
    assert learn.loss_func.keywords['dense'] == 0
    with pytest.raises(ValueError, match='two views'): siamese_im_learner(small_dls(), ARCH, cbs=[Views(32, n=3)], model_kwargs=SMALL)


def test_unequal_masks_are_refused():
    def uneven(views, grid):
        m = torch.zeros(len(views.view[0]), *grid, dtype=torch.bool)
        m[0, 0, 0] = True
        return m
    learn = siamese_im_learner(small_dls(), ARCH, 32, cbs=[HidePatches(masks=uneven)], model_kwargs=SMALL)
    with pytest.raises(ValueError, match='same number'): quiet_fit(learn)


def test_views_of_another_size_are_refused():
    with pytest.raises(ValueError, match='32x32.*48x48'): quiet_fit(siamese_im_learner(small_dls(size=48), ARCH, 48, model_kwargs=SMALL))
    with pytest.raises(ValueError, match='vision transformer'): siamese_im_learner(small_dls(), 'resnet18', 32)
    with pytest.raises(ValueError, match='norm'): SiameseIM(ARCH, norm='group', **SMALL)


@pytest.mark.parametrize('kwargs', [{}, dict(norm='layer', width=48, predictor_depth=2)])
def test_saved_and_loaded_as_a_whole(kwargs, tmp_path):
    "Encoder, projector, predictor and teacher come back; the encoder alone is a plain one"
    learn = siamese_im_learner(small_dls(), ARCH, 32, model_kwargs={**SMALL, **kwargs})
    quiet_fit(learn)
    model, prepare = load_siamese_im(save_siamese_im(learn, tmp_path / 'mine', data='here'))
    before = learn.model.eval()
    x, where = torch.randn(4, 3, 32, 32), (random_boxes(4), torch.rand(4) < .5, random_boxes(4), torch.rand(4) < .5)
    mask = patch_mask(4, before.encoder.patch_embed.grid_size, .5).flatten(1)
    assert not model.training and (model.predict(x, *where, mask) - before.predict(x, *where, mask)).abs().max() < .05, 'half precision on disk'
    assert (model.target(x) - before.target(x)).abs().max() < .05
    assert load_encoder(tmp_path / 'mine').info['data'] == 'here' and prepare(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 3, 32, 32)
    learn.save_encoder(tmp_path / 'alone')
    with pytest.raises(ValueError, match='without its predictor'): load_siamese_im(tmp_path / 'alone')
    with pytest.raises(ValueError, match='path_or_name'): load_siamese_im('no_such')
