"What holds for every box, mask and position, whatever the numbers: 200 drawn cases each."
import math
import pytest, torch
from hypothesis import assume, given, settings, strategies as st
from mssl.contrastive_crop import center_suppressed_boxes
from mssl.core import mask_on_pixels
from mssl.edges import fill_masked
from mssl.heatmaps import heatmap_box
from mssl.mae import drop_tokens, patch_mask, patchify, unpatchify
from mssl.masks import block_mask, focal_mask, grid_mask
from mssl.siamese_im import relative_position, sincos_position
from mssl.views import box_iou, crop_and_flip, random_boxes

cases = settings(max_examples=200, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
sides = st.integers(1, 14)
shares = st.tuples(st.floats(.01, 1), st.floats(.01, 1)).map(sorted).map(tuple)
ratios = st.tuples(st.floats(.2, 5), st.floats(.2, 5)).map(sorted).map(tuple)

def rng(seed): return torch.Generator().manual_seed(seed)
def box_of(seed, n=4): # anywhere in the picture, at least a tenth of each side
    side = .1 + .9 * torch.rand(n, 2, generator=rng(seed))
    return torch.cat([torch.rand(n, 2, generator=rng(seed + 1)) * (1 - side), side], 1)
def inside(box, eps=1e-5): return bool((box[:, :2] >= -eps).all() and (box[:, :2] + box[:, 2:] <= 1 + eps).all() and (box[:, 2:] > 0).all())

# --- boxes

@cases
@given(seeds, shares, ratios, st.floats(.3, 3))
def test_random_boxes_lie_inside_and_keep_area_and_shape(seed, scale, ratio, aspect):
    box = random_boxes(32, scale, ratio, aspect, generator=rng(seed))
    assert inside(box)
    area, shape = box[:, 2] * box[:, 3], box[:, 3] * aspect / box[:, 2]
    fallback = (box[:, :2] + box[:, 2:] / 2 - .5).abs().amax(1) < 1e-6 # nothing fitted: the largest central crop
    assert ((area >= scale[0] * (1 - 1e-4)) & (area <= scale[1] * (1 + 1e-4)) | fallback).all()
    assert ((shape >= ratio[0] * (1 - 1e-4)) & (shape <= ratio[1] * (1 + 1e-4))).all()

@cases
@given(seeds, seeds)
def test_overlap_is_symmetric_and_at_most_one(a, b):
    p, q = box_of(a), box_of(b)
    iou = box_iou(p, q)
    assert torch.equal(iou, box_iou(q, p)) and (iou >= 0).all() and (iou <= 1 + 1e-6).all() and torch.allclose(box_iou(p, p), torch.ones(4))

@cases
@given(seeds, st.floats(.05, 3), shares, ratios)
def test_crops_around_a_box_have_their_centre_in_it_as_far_as_the_picture_allows(seed, alpha, scale, ratio):
    box = box_of(seed, 32)
    crop = center_suppressed_boxes(box, alpha, scale, ratio, generator=rng(seed + 2))
    assert inside(crop)
    half, far = crop[:, 2:] / 2, box[:, :2] + box[:, 2:]
    low, high = (torch.minimum(torch.maximum(o, half), 1 - half) for o in (box[:, :2], far))
    centre = crop[:, :2] + half
    assert (centre >= low - 1e-5).all() and (centre <= high + 1e-5).all()

@cases
@given(seeds, st.floats(.05, .95), st.integers(4, 24), st.integers(4, 24))
def test_box_of_a_map_holds_all_that_is_hot_and_no_border_more(seed, threshold, h, w):
    heat = torch.rand(3, h, w, generator=rng(seed))
    box = heatmap_box(heat, threshold)
    assert inside(box)
    for m, b in zip(heat, box):
        hot = (m > threshold) | (m == m.max())
        rows, cols = hot.any(1).nonzero().flatten(), hot.any(0).nonzero().flatten()
        assert torch.allclose(b, torch.tensor([rows[0] / h, cols[0] / w, (rows[-1] + 1 - rows[0]) / h, (cols[-1] + 1 - cols[0]) / w]), atol=1e-5)

# --- crops

@cases
@given(seeds, st.integers(2, 12), st.integers(2, 12))
def test_whole_picture_at_its_own_size_comes_back(seed, h, w):
    x, whole = torch.rand(2, 3, h, w, generator=rng(seed)), torch.tensor([0., 0, 1, 1]).expand(2, 4)
    assert torch.allclose(crop_and_flip(x, whole, torch.tensor([False, False]), (h, w)), x, atol=1e-5)
    flipped = crop_and_flip(x, whole, torch.tensor([True, True]), (h, w))
    assert torch.allclose(flipped, x.flip(3), atol=1e-5) and torch.allclose(crop_and_flip(flipped, whole, torch.tensor([True, True]), (h, w)), x, atol=1e-5)

@cases
@given(seeds, st.integers(2, 20), st.integers(2, 20), st.booleans())
def test_a_view_points_back_to_its_place(seed, h, w, flip):
    "A picture of its own coordinates, cut: the value of a pixel says where it was"
    side = 64
    at = (torch.arange(side) + .5) / side
    x = torch.stack([at[:, None].expand(side, side), at[None].expand(side, side)])[None].repeat(4, 1, 1, 1)
    box = box_of(seed)
    view = crop_and_flip(x, box, torch.full((4,), flip), (h, w))
    row, col = box[:, :1] + box[:, 2:3] * (torch.arange(h) + .5) / h, box[:, 1:2] + box[:, 3:] * (torch.arange(w) + .5) / w
    if flip: col = col.flip(1)
    clear = slice(1, -1) # at the border the weights see less than half of a pixel's surroundings
    inner_rows, inner_cols = (view[:, 0].mean(2) - row)[:, clear], (view[:, 1].mean(1) - col)[:, clear]
    assert inner_rows.numel() == 0 or inner_rows.abs().max() < 1.5 / side
    assert inner_cols.numel() == 0 or inner_cols.abs().max() < 1.5 / side

@cases
@given(seeds, st.floats(0, 1), st.booleans())
def test_even_pictures_stay_even(seed, grey, flip):
    x = torch.full((4, 3, 9, 7), grey)
    assert torch.allclose(crop_and_flip(x, box_of(seed), torch.full((4,), flip), (5, 6)), torch.full((4, 3, 5, 6), grey), atol=1e-5)

# --- masks

@cases
@given(seeds, sides, sides, st.floats(0, 1), st.integers(1, 4))
def test_grid_masks_hide_the_floor_of_the_ratio(seed, rows, cols, ratio, channels):
    m = grid_mask(6, (rows, cols), ratio, channels, generator=rng(seed))
    assert m.shape == (6, channels, rows, cols) and m.dtype == torch.bool and (m.flatten(2).sum(2) == int(ratio * rows * cols + 1e-9)).all()

@cases
@given(seeds, st.integers(1, 40), st.integers(1, 40), st.floats(.05, 1))
def test_focal_masks_show_one_rectangle(seed, h, w, keep):
    seen = ~focal_mask(5, (h, w), keep, generator=rng(seed))[:, 0]
    counts = seen.flatten(1).sum(1)
    assert seen.shape == (5, h, w) and (counts > 0).all() and (counts == counts[0]).all(), 'as much is seen in every picture'
    for s in seen:
        r, c = s.any(1), s.any(0)
        assert torch.equal(s, r[:, None] & c[None]), 'rows times columns'
        assert r.int().diff().abs().sum() <= 2 and c.int().diff().abs().sum() <= 2, 'without gaps'

@cases
@given(seeds, st.integers(2, 14), st.integers(2, 14), st.data())
def test_block_masks_hide_exactly_so_many(seed, rows, cols, data):
    count = data.draw(st.integers(0, rows * cols))
    m = block_mask(5, (rows, cols), count, min_area=min(4, max(1, count)), generator=rng(seed))
    assert m.shape == (5, rows, cols) and (m.flatten(1).sum(1) == count).all()

@cases
@given(seeds, st.integers(2, 14), st.integers(2, 14), st.floats(0, .99), st.sampled_from(['random', 'block']))
def test_patches_are_hidden_or_handed_on_never_both(seed, rows, cols, ratio, kind):
    m = patch_mask(3, (rows, cols), ratio, kind, generator=rng(seed)).flatten(1)
    tokens = torch.arange(rows * cols).float().view(1, -1, 1).expand(3, -1, 1)
    seen = drop_tokens(tokens, m)[..., 0].long()
    assert seen.shape[1] == rows * cols - int(ratio * rows * cols + 1e-9)
    assert not m.gather(1, seen).any() and (seen.diff(dim=1) > 0).all(), 'in their order'

@cases
@given(seeds, sides, sides, st.integers(0, 30), st.integers(0, 30))
def test_cells_become_pixels(seed, rows, cols, more_h, more_w):
    h, w = rows + more_h, cols + more_w
    cells = torch.rand(2, rows, cols, generator=rng(seed)) < .5
    m = mask_on_pixels(cells, (h, w))[:, 0]
    y, x = torch.arange(h) * rows // h, torch.arange(w) * cols // w
    assert torch.equal(m, cells[:, y][:, :, x]) and torch.equal(mask_on_pixels(cells, (rows, cols))[:, 0], cells)

@cases
@given(seeds, sides, sides, st.sampled_from(['zero', 'mean', 'noise', 'blur']))
def test_what_is_visible_is_left_alone(seed, h, w, fill):
    h, w = h + 4, w + 4
    x, m = torch.rand(2, 3, h, w, generator=rng(seed)), torch.rand(2, 1, h, w, generator=rng(seed + 1)) < .4
    filled = fill_masked(x, m, fill)
    assert torch.equal(filled.masked_fill(m, 0), x.masked_fill(m, 0)) and filled.isfinite().all()

@cases
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_patches_put_together_are_the_picture(seed, rows, cols, ph, pw, channels):
    x = torch.rand(2, channels, rows * ph, cols * pw, generator=rng(seed))
    assert torch.equal(unpatchify(patchify(x, (ph, pw)), (ph, pw), (rows, cols)), x)

# --- positions

@cases
@given(sides, sides, st.integers(1, 16))
def test_waves_have_one_length_and_no_two_places_are_alike(rows, cols, quarter):
    p = sincos_position((rows, cols), 4 * quarter)
    assert p.shape == (rows * cols, 4 * quarter) and torch.allclose(p.square().sum(1), torch.full((rows * cols,), 2. * quarter), atol=1e-4)
    if rows * cols > 1: assert torch.pdist(p).min() > 1e-3

@cases
@given(seeds, st.floats(.1, .9), st.floats(-.05, .05), st.floats(-.05, .05), st.integers(1, 6))
def test_relative_positions_see_no_absolute_ones(seed, zoom, dy, dx, grid):
    "Both boxes smaller by the same factor and moved by the same way: nothing changes"
    a, b, none = box_of(seed), box_of(seed + 5), torch.zeros(4, dtype=torch.bool)
    move = torch.tensor([dy, dx, 0, 0])
    one, two = (relative_position(p, none, q, none, grid, 8) for p, q in ((a, b), (a * zoom + move, b * zoom + move)))
    assert (one - two).abs().max() < 1e-2

@cases
@given(seeds, st.integers(1, 6), st.booleans(), st.booleans())
def test_a_view_stands_where_it_stands_to_itself(seed, grid, flip, other):
    "The same box and flip twice: the plain positions and no difference in size; the scale does not ask for flips"
    a, f, g = box_of(seed), torch.full((4,), flip), torch.full((4,), other)
    p = relative_position(a, f, a, f, grid, 8)
    assert torch.allclose(p[..., :8], sincos_position(grid, 8).expand(4, -1, -1), atol=1e-3)
    q = relative_position(a, f, box_of(seed + 1), g, grid, 8)
    r = relative_position(a, f, box_of(seed + 1), ~g, grid, 8)
    assert torch.equal(q[..., 8:], r[..., 8:]), 'size'
    mirrored = q.view(4, grid, grid, -1).flip(2).flatten(1, 2) # a flipped view 2 asks for the same places, from right to left
    assert (mirrored[..., :8] - r[..., :8]).abs().max() < 1e-3
