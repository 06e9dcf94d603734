"""The masked autoencoder: hidden patches are really dropped, positions are fixed, only what is hidden counts."""
import pytest, timm, torch
from fastai.data.core import DataLoaders

from mssl.data import Pictures, ResidentLoader
from mssl.encoders import create_encoder
from mssl.mae import (HidePatches, MaskedAutoencoder, drop_tokens, encode_visible, mae_learner, mae_loss, patch_mask, patchify, sincos_position,
                      unpatchify, vit_encoder, visible_places)
from mssl.scenes import scenes
from mssl.views import Views

SMALL = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2)


def small_dls(n=48, size=32, bs=16):
    drawn = scenes(n, size)
    return DataLoaders(ResidentLoader(Pictures(drawn.image), bs, shuffle=True, drop_last=True), ResidentLoader(Pictures(drawn.image[:bs]), bs), device=torch.device('cpu'))


def quiet_fit(learn, epochs=1, lr=1e-3):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)


@pytest.mark.parametrize('arch, kwargs', [
    ('vit_tiny_small', {}), ('vit_tiny_patch16_224', SMALL), ('vit_tiny_patch16_224', {**SMALL, 'reg_tokens': 3}), ('vit_tiny_patch16_224', {**SMALL, 'class_token': False, 'no_embed_class': True, 'global_pool': 'avg'}),
    ('deit_tiny_distilled_patch16_224', SMALL), ('vit_tiny_patch16_224', {**SMALL, 'pre_norm': True}), ('vit_tiny_patch16_224', {**SMALL, 'img_size': (32, 48)})])
@torch.no_grad()
def test_nothing_hidden_is_the_encoder_itself(arch, kwargs):
    vit = create_encoder(arch, **kwargs).eval()
    x = torch.randn(3, 3, *vit.patch_embed.img_size)
    L = vit.patch_embed.num_patches
    whole = vit.forward_features(x)
    assert torch.equal(encode_visible(vit, x), whole)
    assert (encode_visible(vit, x, torch.zeros(3, L, dtype=torch.bool)) - whole).abs().max() < 1e-5


def test_what_is_hidden_cannot_be_seen():
    "Neither pixels nor gradients of hidden patches reach the tokens; fewer tokens go through the blocks"
    vit, mask = vit_encoder('vit_tiny_patch16_224', **SMALL), patch_mask(4, 4, .75)
    seen = []
    vit.blocks[0].register_forward_pre_hook(lambda m, x: seen.append(x[0].shape))
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    tokens = encode_visible(vit, x, mask)
    tokens.square().sum().backward()
    moved = patchify(x.grad.abs(), 8).sum(2) > 0
    assert torch.equal(moved, ~mask.flatten(1)) and seen == [(4, 5, 48)] and tokens.shape == (4, 5, 48)
    other = torch.where(mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None], torch.randn_like(x), x)
    assert torch.equal(encode_visible(vit, other, mask), tokens)


def test_visible_patches_keep_their_order_and_the_prefix_stays():
    tokens = torch.arange(2 * 7.).view(2, 7, 1)
    mask = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]], dtype=torch.bool)
    assert drop_tokens(tokens, mask, 2)[..., 0].tolist() == [[0, 1, 3, 4, 6], [7, 8, 9, 11, 12]]
    assert visible_places(mask).tolist() == [[1, 2, 4], [0, 2, 3]]
    assert drop_tokens(tokens, torch.zeros(2, 7, dtype=torch.bool)).equal(tokens)


@pytest.mark.parametrize('ratio, kind', [(r, k) for r in (0, .3, .75, .99) for k in ('random', 'block')])
@pytest.mark.parametrize('grid', [4, (3, 7), 14])
def test_every_mask_hides_the_same_number(ratio, kind, grid):
    mask = patch_mask(20, grid, ratio, kind)
    L = mask[0].numel()
    assert (mask.sum((1, 2)) == int(ratio * L + 1e-9)).all() and len(visible_places(mask)[0]) == L - int(ratio * L + 1e-9)
    assert torch.equal(patch_mask(5, grid, ratio, kind, generator=torch.Generator().manual_seed(3)), patch_mask(5, grid, ratio, kind, generator=torch.Generator().manual_seed(3)))


def test_unequal_and_complete_masks_are_refused():
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 3] = True
    with pytest.raises(ValueError, match='same number.*0 to 1'): visible_places(mask)
    with pytest.raises(ValueError, match='at least one patch'): visible_places(torch.ones(2, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match='mask: bool'): visible_places(torch.zeros(2, 16))
    with pytest.raises(ValueError, match='2 masks of 9 patches'): drop_tokens(torch.zeros(2, 9, 4), mask[:1].expand(2, -1))
    with pytest.raises(ValueError, match='ratio'): patch_mask(2, 4, 1.)
    with pytest.raises(ValueError, match='kind'): HidePatches(kind='grid')


def test_other_architectures_and_sizes_are_refused():
    with pytest.raises(ValueError, match='vision transformer'): vit_encoder('resnet18')
    with pytest.raises(ValueError, match='vision transformer'): MaskedAutoencoder(torch.nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match='arch'): vit_encoder('vit_tiny_smal')
    with pytest.raises(ValueError, match='32x32.*48x48'): encode_visible(vit_encoder('vit_tiny_small'), torch.zeros(1, 3, 48, 48))


def test_positions_are_the_official_ones(shared):
    import numpy as np
    official = np.load(shared / 'official/official_values.npz')['abs_embedding']
    assert (sincos_position(7, 48) - torch.from_numpy(official)).abs().max() < 1e-6


def test_positions_tell_row_and_column():
    t = sincos_position((3, 5), 16).view(3, 5, 2, 8)
    assert torch.equal(t[:, :1, 0].expand(-1, 5, -1), t[:, :, 0]) and torch.equal(t[:1, :, 1].expand(3, -1, -1), t[:, :, 1])
    assert torch.equal(t[0, 0, 0], torch.tensor([0., 0, 0, 0, 1, 1, 1, 1]))
    assert len(sincos_position(20, 64).unique(dim=0)) == 400
    with pytest.raises(ValueError, match='multiple of 4'): sincos_position(4, 6)


def test_encoder_stays_a_plain_timm_model():
    "Its weights, fixed positions included, fit the model as timm makes it"
    vit = vit_encoder('vit_tiny_patch16_224', **SMALL)
    plain = timm.create_model('vit_tiny_patch16_224', num_classes=0, global_pool='avg', fc_norm=False, **SMALL)
    plain.load_state_dict(vit.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain.eval()(x), vit.eval()(x)) and 'pos_embed' not in dict(vit.named_parameters())
    assert torch.equal(vit.pos_embed[0, 1:], sincos_position(4, 48)) and not vit.pos_embed[0, 0].any()
    assert 'pos_embed' in dict(vit_encoder('vit_tiny_patch16_224', fixed_positions=False, **SMALL).named_parameters())


@pytest.mark.parametrize('patch, size', [(4, (8, 12)), ((2, 3), (8, 9))])
def test_patches_and_back(patch, size):
    x = torch.randn(2, 3, *size)
    p = patchify(x, patch)
    ph, pw = patch if isinstance(patch, tuple) else (patch, patch)
    assert torch.equal(p[0, 1].view(ph, pw, 3).permute(2, 0, 1), x[0, :, :ph, pw:2 * pw])
    assert torch.equal(unpatchify(p, patch, (size[0] // ph, size[1] // pw)), x)
    with pytest.raises(ValueError, match='multiples'): patchify(x, 5)


def test_only_hidden_patches_count():
    p, t, mask = torch.randn(3, 16, 12, requires_grad=True), torch.randn(3, 16, 12), patch_mask(3, 4, .5).flatten(1)
    loss = mae_loss(p, t, mask)
    loss.backward()
    assert torch.equal(p.grad.abs().sum(2) > 0, mask)
    assert (loss - (p - t)[mask].square().mean()).abs() < 1e-6
    with pytest.raises(ValueError, match='painted, true, mask'): mae_loss(p, t, mask[:2])


def test_nothing_hidden_is_nothing_to_paint():
    model, x = MaskedAutoencoder('vit_tiny_patch16_224', **SMALL).eval(), torch.randn(2, 3, 32, 32)
    none = torch.zeros(2, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match='nothing is hidden'): model(x, none)
    assert (model.paint(x, none) - x).abs().max() < 1e-6
    with pytest.raises(ValueError, match='nothing is hidden'): quiet_fit(mae_learner(small_dls(), ratio=0.))


@pytest.mark.parametrize('normalise', [True, False])
def test_painting_leaves_what_is_seen(normalise):
    model, x, mask = MaskedAutoencoder('vit_tiny_patch16_224', normalise=normalise, **SMALL).eval(), torch.randn(3, 3, 32, 32), patch_mask(3, 4, .75)
    painted = model.paint(x, mask)
    at = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(x)
    assert (painted[~at] - x[~at]).abs().max() < 1e-6 and (painted[at] - x[at]).abs().mean() > .1
    _, true, _ = model(x, mask.flatten(1))
    if normalise: assert true.mean(2).abs().max() < 1e-5 and (true.var(2) - 1).abs().max() < 1e-3
    else: assert torch.equal(true, patchify(x, 8))


@pytest.mark.parametrize('size', [(32, 48), 48])
def test_learns_at_other_sizes(size):
    torch.manual_seed(0)
    learn = mae_learner(small_dls(size=48), 'vit_tiny_patch16_224', size, model_kwargs={k: v for k, v in SMALL.items() if k != 'img_size'})
    quiet_fit(learn, 4, 2e-3)
    losses = torch.stack([torch.as_tensor(l) for l in learn.recorder.losses])
    assert losses.isfinite().all() and losses[-3:].mean() < losses[:3].mean()
    rows, cols = learn.views.mask[0].shape[1:]
    assert (rows * 8, cols * 8) == learn.views.size and learn.views.mask[0].sum((1, 2)).unique().tolist() == [int(.75 * rows * cols)]


def test_size_of_the_pictures_when_none_is_given():
    learn = mae_learner(small_dls(size=48))
    assert learn.model.encoder.patch_embed.grid_size == (12, 12)
    with pytest.raises(ValueError, match='n=1'): mae_learner(small_dls(), cbs=Views(32))


def test_own_masks():
    upper = lambda views, grid: (torch.arange(grid[0]) < grid[0] // 2)[None, :, None].expand(len(views.view[0]), -1, grid[1])
    learn = mae_learner(small_dls(), cbs=HidePatches(masks=upper))
    quiet_fit(learn)
    assert learn.views.mask[0][:, :4].all() and not learn.views.mask[0][:, 4:].any()
