"Masks: exact counts, independence, even places; what they leave to see, and what can be read without looking"
import math, random, time
import numpy as np, pytest, torch
from mssl import edges, masks
from mssl.core import mask_on_pixels
from mssl.edges import fill_masked
from mssl.masks import (FILLS, KINDS, block_mask, colour_histogram, colour_match, focal_mask, foreground_cells, grid_mask, left_to_see, mask_statistics_probe,
                        mixed_masks, saliency_mask, shape_share)
from mssl.scenes import scenes
from mssl.views import crop_and_flip, random_boxes
from official_blocks import OFFICIAL


# --- grids

@pytest.mark.parametrize('grid, cells', [(7, 49), ((4, 10), 40), (14, 196)])
def test_a_grid_hides_the_floor_of_ratio_times_cells(grid, cells):
    for ratio in (0., .1, .29, .5, 1., 15 / 49):
        m = grid_mask(20, grid, ratio, channels=3)
        assert m.dtype == torch.bool and m.shape == (20, 3, *((grid, grid) if isinstance(grid, int) else grid))
        assert (m.sum((2, 3)) == math.floor(ratio * cells + 1e-9)).all()

def test_the_ratio_is_drawn_evenly_and_shared_by_the_channels():
    count = grid_mask(20000, 7, (.05, .25), 3).sum((2, 3))
    assert (count == count[:, :1]).all() and (count[:, 0].min(), count[:, 0].max()) == (2, 12)
    share = count[:, 0].bincount(minlength=13)[2:] / 20000
    wanted = torch.tensor([min(k + 1, 12.25) - max(k, 2.45) for k in range(2, 13)]) / 9.8 # floor of an even draw from 2.45 to 12.25
    assert (share - wanted).abs().max() < .01

def test_cells_are_even_and_channels_independent():
    m = grid_mask(20000, 7, .3, 3).float() # 14 of 49
    p = 14 / 49
    assert (m.mean(0) - p).abs().max() < .02
    for a, b in ((0, 1), (0, 2), (1, 2)): assert ((m[:, a] * m[:, b]).mean(0) - p * p).abs().max() < .02
    assert (m.prod(1).mean() - p ** 3).abs() < .003, 'hidden in all channels: the cube of the ratio'
    assert abs((m[:-1] * m[1:]).mean().item() - p * p) < .003, 'one sample tells nothing of the next'

# --- windows

@pytest.mark.parametrize('size, keep', [(224, 200 / 224), ((30, 40), .5), (7, .1), (16, 1.)])
def test_one_window_stays_visible(size, keep):
    h, w = (size, size) if isinstance(size, int) else size
    m = focal_mask(50, size, keep)
    assert m.shape == (50, 1, h, w) and m.dtype == torch.bool
    seen = ~m[:, 0]
    a, b = max(1, round(keep * h)), max(1, round(keep * w))
    assert (seen.any(2).sum(1) == a).all() and (seen.any(1).sum(1) == b).all() and (seen.sum((1, 2)) == a * b).all(), 'a full rectangle'

def test_windows_lie_anywhere_with_equal_chance():
    top = (~focal_mask(20000, 12, .5)[:, 0]).any(2).int().argmax(1)
    share = top.bincount(minlength=7) / 20000
    assert len(share) == 7 and (share - 1 / 7).abs().max() < .015
    assert focal_mask(1, 224).float().mean().item() == pytest.approx(1 - (200 / 224) ** 2)

# --- blocks

@pytest.mark.parametrize('rule', OFFICIAL, ids=lambda o: f"{o['grid']}-{o['count']}")
def test_blocks_as_the_official_code_draws_them(rule):
    m = block_mask(6000, rule['grid'], rule['count'], rule['min_area'])
    assert m.dtype == torch.bool and m.shape == (6000, rule['grid'], rule['grid']) and (m.sum((1, 2)) == rule['count']).all()
    off = (m.double().mean(0) - torch.tensor(rule['frequency'], dtype=torch.float64)).abs()
    assert off.max() < .05 and off.mean() < .015
    crossed = (m[:, 1:] != m[:, :-1]).sum((1, 2)) + (m[:, :, 1:] != m[:, :, :-1]).sum((1, 2))
    assert abs(crossed.double().median().item() / rule['median_edges'] - 1) < .1

def test_blocks_are_exact_for_every_count_and_grid():
    for grid, counts in ((8, (0, 1, 5, 63, 64)), ((3, 9), (1, 13, 26, 27)), ((1, 4), (0, 2, 4))):
        for count in counts: assert (block_mask(30, grid, count, 4).sum((1, 2)) == count).all()
    assert block_mask(0, 14, 118).shape == (0, 14, 14)
    m = block_mask(2000, 14, 118).flatten(1).double()
    assert len(m.unique(dim=0)) > 1990 and abs((m[:-1] * m[1:]).mean() - (m.mean(0) ** 2).mean()) < .003, 'each drawn for itself'

def loop(n, grid, count, min_area=16):
    "The same rule for one picture after another"
    out = np.zeros((n, grid, grid), bool)
    for m in out:
        c = 0
        while c < count:
            room, found = count - c, False
            for _ in range(10):
                a, s = random.uniform(min_area, room), math.exp(random.uniform(math.log(.3), -math.log(.3)))
                h, w = round(math.sqrt(a * s)), round(math.sqrt(a / s))
                if h >= grid or w >= grid: continue
                t, l = random.randint(0, grid - h), random.randint(0, grid - w)
                new = h * w - int(m[t:t + h, l:l + w].sum())
                if 0 < new <= room: m[t:t + h, l:l + w] = found = True; c += new; break
            if not found: break
        m.ravel()[np.random.choice(np.flatnonzero(~m.ravel()), count - c, replace=False)] = True
    return out

@pytest.mark.slow
def test_no_slower_than_a_loop():
    took = dict(batch=[], loop=[])
    for _ in range(7):
        for name, of in (('batch', block_mask), ('loop', loop)): t = time.perf_counter(); of(256, 14, 118); took[name].append(time.perf_counter() - t)
    assert min(took['batch']) < min(took['loop'])

# --- mixture

def test_the_mixture_keeps_its_shares_and_tells_the_kind():
    m, kind = mixed_masks(4000, 28)
    assert m.shape == (4000, 3, 28, 28) and m.dtype == torch.bool and KINDS == ('focal', 'grid', 'channel')
    assert (kind.bincount(minlength=3) / 4000 - torch.tensor([.2, .24, .56])).abs().max() < .03
    same = (m == m[:, :1]).all(3).all(2).all(1)
    assert same[kind < 2].all() and not same[kind == 2].any()
    corners = ~m[kind == 0][:, 0]
    assert (corners.any(2).sum(1) * corners.any(1).sum(1) == corners.sum((1, 2))).all(), 'focal: one rectangle is visible'
    cells = m[kind > 0][:, :, ::4, ::4]
    assert torch.equal(mask_on_pixels(cells, (28, 28)), m[kind > 0]) and cells.sum((2, 3)).min() >= 2 and cells.sum((2, 3)).max() <= 12
    for p_focal, p_channel, k in ((1., 0., 0), (0., 0., 1), (0., 1., 2)): assert (mixed_masks(50, 20, p_focal=p_focal, p_channel=p_channel).kind == k).all()

# --- foreground and background

def test_foreground_is_where_it_is():
    s = torch.zeros(2, 7, 7); s[0, 2:5, 1:3] = 1; s[1, :, 6] = 2
    assert torch.equal(foreground_cells(s, relax=0), s > 0), 'place by place: sorted rows would move it to the right'
    assert foreground_cells(torch.ones(1, 14, 14)).all() and foreground_cells(torch.full((1, 9, 9), .3)).all()
    fine = s.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(foreground_cells(fine, relax=0), s > 0) and torch.equal(foreground_cells(5 * s - 3, relax=0), s > 0)
    assert foreground_cells(s).all(), 'relaxed by .6: on a sharp map every cell, if the object has less than .26 of them'
    ramp = torch.arange(7.).expand(1, 7, 7)
    assert torch.equal(foreground_cells(ramp), ramp >= 3 - .6 * 2)

def test_both_are_hidden_in_their_proportions():
    o = scenes(300, 32)
    for ratio in (.1, .25, .5, .9, 1.):
        m, front = saliency_mask(o.mask.float(), 7, ratio, relax=0), foreground_cells(o.mask.float(), 7, 0)
        count, of_front = math.floor(ratio * 49 + 1e-9), front.sum((1, 2))
        assert (m.sum((1, 2)) == count).all()
        assert torch.equal((m & front).sum((1, 2)), (count * of_front / 49).round().long())
    m, front = saliency_mask(o.mask.float(), 7, relax=0), foreground_cells(o.mask.float(), 7, 0)
    assert abs((m & front).sum() / front.sum() - (m & ~front).sum() / (~front).sum()) < .02
    one = torch.zeros(500, 7, 7); one[:, 3, 3] = 1
    m = saliency_mask(one, 7, .6, relax=0)
    assert m[:, 3, 3].all() and (m.float().mean(0)[0] - 28 / 48).abs().max() < .1, 'one of one cell, the rest evenly'

# --- repeated, and refused

MAKERS = [lambda **kw: grid_mask(50, 7, channels=3, **kw), lambda **kw: focal_mask(50, 32, **kw), lambda **kw: block_mask(50, 14, 75, **kw),
          lambda **kw: mixed_masks(50, 32, **kw).mask, lambda device=None, **kw: saliency_mask(torch.rand(50, 7, 7, generator=torch.Generator().manual_seed(9)), 7, **kw)]

@pytest.mark.parametrize('make', MAKERS)
def test_the_same_seed_gives_the_same_masks(make):
    torch.manual_seed(5); a = make()
    torch.manual_seed(5); b = make()
    assert torch.equal(a, b) and not torch.equal(a, make())
    state = torch.get_rng_state()
    g = lambda: torch.Generator().manual_seed(3)
    assert torch.equal(make(generator=g()), make(generator=g(), device='cpu')) and torch.equal(torch.get_rng_state(), state)

@pytest.mark.gpu
def test_masks_on_a_gpu():
    for make in MAKERS[:4]: assert make(device='cuda').is_cuda

@pytest.mark.parametrize('call, said', [
    (lambda: grid_mask(4, 7, 1.2), 'ratio'), (lambda: grid_mask(4, 7, (-.1, .5)), 'ratio'), (lambda: grid_mask(4, 7, (.5, .2)), 'ratio'), (lambda: grid_mask(4, 0), 'grid'),
    (lambda: grid_mask(4, 7, 'half'), 'ratio'), (lambda: grid_mask(4, 7, (.1, .2, .3)), 'ratio'), (lambda: grid_mask(-1), 'n=-1'), (lambda: grid_mask(4, channels=0), 'channels'),
    (lambda: grid_mask(4, 7, math.nan), 'ratio'), (lambda: grid_mask(4, 7.5), 'grid'),
    (lambda: focal_mask(4, 32, 1.1), 'keep=1.1: the window would be larger than the picture'), (lambda: focal_mask(4, 32, 0), 'keep'), (lambda: focal_mask(4, 32, 200), 'larger than the picture'),
    (lambda: focal_mask(4, (32, 0)), 'size'), (lambda: block_mask(4, 14, 197), 'count=197: a whole number at least 0 and at most 196'), (lambda: block_mask(4, 14, -1), 'count'),
    (lambda: block_mask(4, 14, 10.), 'count'), (lambda: block_mask(4, 14, True), 'count'), (lambda: block_mask(4, 14, 20, 0), 'min_area'), (lambda: block_mask(4, 14, 20, aspect=(0, 1)), 'aspect'),
    (lambda: mixed_masks(4, 6), 'grid=7: no finer than the picture'), (lambda: mixed_masks(4, 32, p_focal=.6, p_channel=.6), 'together at most 1'), (lambda: mixed_masks(4, 32, p_focal=-.1), 'p_focal'),
    (lambda: mixed_masks(4, 32, ratio=2.), 'ratio'), (lambda: mixed_masks(4, 32, keep=2.), 'keep'),
    (lambda: saliency_mask(torch.rand(7, 7)), 'saliency'), (lambda: saliency_mask(torch.full((2, 7, 7), math.nan)), 'nan'), (lambda: saliency_mask(torch.rand(2, 7, 7), ratio=1.5), 'ratio'),
    (lambda: saliency_mask([1]), 'saliency'),
    (lambda: fill_masked(torch.rand(2, 3, 8, 8), torch.ones(2, 1, 4, 4)), 'bool'), (lambda: fill_masked(torch.rand(2, 3, 8, 8), torch.ones(2, 1, 4, 4) > 0, 'nois'), 'noise'),
    (lambda: fill_masked(torch.rand(2, 3, 6, 6), grid_mask(2)), 'cells no finer'),
    (lambda: colour_match(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)), 'two at least'), (lambda: colour_match(torch.rand(3, 3, 8, 8), torch.rand(2, 3, 8, 8)), 'same number'),
    (lambda: colour_match(torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)), 'views2'), (lambda: colour_histogram(torch.rand(2, 3, 8, 8), 1), 'bins'), (lambda: colour_histogram(torch.rand(2, 3, 8, 8), 80), 'colours'),
    (lambda: left_to_see(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.ones(2, 8, 8)), 'bool'), (lambda: left_to_see(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 9, 8), grid_mask(2, 4)), 'y:'),
    (lambda: left_to_see(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), grid_mask(3, 4)), 'mask: 2 masks'), (lambda: left_to_see(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), grid_mask(2, 4), torch.ones(2, 8, 8)), 'object'),
    (lambda: mask_statistics_probe(torch.randn(50, 4)), 'one of them'), (lambda: mask_statistics_probe(torch.randn(50, 4), ratio=torch.zeros(50)), 'ratio'), (lambda: mask_statistics_probe(torch.randn(50, 4), kind=torch.zeros(50).long()), 'kind'),
    (lambda: mask_statistics_probe(torch.randn(50, 4), fill=torch.rand(50)), 'fill'), (lambda: mask_statistics_probe(torch.randn(9, 4), fill=torch.arange(9)), 'z'),
    (lambda: shape_share([1, 2], [1, 2], [1, 3]), 'disagree'), (lambda: shape_share([9, 9], [1, 2], [2, 3]), 'no answer')])
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said): call()

def test_what_goes_into_the_hole_is_that_of_edges(): assert masks.fill_masked is edges.fill_masked and FILLS == edges.FILLS and {'fill_masked', 'FILLS'} <= set(masks.__all__)

# --- matched without looking

def test_colours_find_what_shapes_do_not_tell():
    x = torch.rand(40, 3, 1, 1) * .6 + .2 * torch.rand(40, 3, 16, 16)
    shuffled = x.flatten(2)[:, :, torch.randperm(256)].view_as(x)
    assert colour_match(x, shuffled) == 1 and colour_match(x, x.roll(1, 0)) == 0
    assert colour_match(x * 3 - 1, shuffled * 3 - 1) == 1 and colour_match((x * 255).byte(), (shuffled * 255).byte()) == 1
    assert colour_match(x, torch.nn.functional.interpolate(shuffled, scale_factor=2)) == 1, 'sizes may differ'

def test_where_colours_tell_nothing_chance_remains():
    flat = torch.full((8, 3, 8, 8), .4)
    assert colour_match(flat, flat) == pytest.approx(1 / 8), 'all equally near'
    noise = [torch.randn(400, 3, 8, 8) for _ in range(2)]
    assert colour_match(*noise) < .02

def test_histograms_by_hand():
    x = torch.zeros(1, 2, 1, 4); x[0, 0, 0] = torch.tensor([.1, .1, .6, 9.]); x[0, 1, 0] = torch.tensor([.1, .9, -5., .9])
    assert torch.equal(colour_histogram(x, 2, [0, 0], [1, 1]), torch.tensor([[.25, .25, .25, .25]]))
    assert torch.allclose(colour_histogram(torch.rand(3, 3, 9, 7)).sum(1), torch.ones(3))

def test_crops_alone_are_matched_by_colour_and_grey_ones_less():
    image = scenes(128, 32).image
    views = [crop_and_flip(image, random_boxes(128), torch.rand(128) < .5, 32) for _ in range(2)]
    assert colour_match(*views) > .5 > .2 > colour_match(*(o.mean((2, 3), keepdim=True).mean(1, keepdim=True) + torch.rand_like(o[:, :1]) for o in views))

# --- left to see

def test_what_is_left_by_hand():
    x = torch.rand(2, 3, 8, 8)
    m, o = torch.zeros(2, 3, 8, 8, dtype=torch.bool), torch.zeros(2, 8, 8, dtype=torch.bool)
    m[0, :, :4] = True; m[1, 0] = True; o[:, 2:6, :4] = True
    left = left_to_see(x, fill_masked(x, m, 'zero'), m, o)
    assert left.picture.tolist() == pytest.approx([.5, 2 / 3]) and left.places.tolist() == [.5, 1] and left.object.tolist() == [.5, 1]
    assert left.colour[0].item() > .4 and left_to_see(x, x, m).colour.tolist() == [0, 0] and left_to_see(x, x, m).object.isnan().all()

def test_a_cell_is_rarely_gone_in_all_channels():
    x, m = torch.rand(400, 3, 14, 14), grid_mask(400, 7, 15 / 49, 3)
    left = left_to_see(x, fill_masked(x, m, 'zero'), m)
    assert left.picture.mean().item() == pytest.approx(34 / 49) and left.places.mean().item() == pytest.approx(1 - (15 / 49) ** 3, abs=.005)

# --- what z tells

def test_a_probe_reads_what_is_there_and_not_what_is_not():
    n = 600
    ratio, kind = torch.rand(n), torch.randint(3, (n,))
    noise = torch.randn(n, 8)
    z = torch.cat([noise, 3 * ratio[:, None] + .01 * torch.randn(n, 1), torch.nn.functional.one_hot(kind, 3) * 4.], 1)
    state = torch.get_rng_state()
    got, blind = mask_statistics_probe(z, ratio, kind, fill=kind), mask_statistics_probe(noise, ratio, kind)
    assert torch.equal(torch.get_rng_state(), state) and list(got) == ['ratio', 'kind', 'fill']
    assert got['ratio'].score > .98 and got['kind'].score > .98 and got['kind'].low <= got['kind'].score <= got['kind'].high
    assert abs(blind['ratio'].score) < .1 and blind['ratio'].chance == 0 and blind['kind'].low < blind['kind'].chance + .08 and .2 < blind['kind'].chance < .5
    assert mask_statistics_probe(z, ratio) == mask_statistics_probe(z, ratio) and mask_statistics_probe(z, ratio, seed=1) != mask_statistics_probe(z, ratio)

def test_shape_or_texture():
    shape, texture = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0])
    assert shape_share(shape, shape, texture).score == 1 and shape_share(texture, shape, texture).score == 0
    half = shape_share([0, 2, 2, 9], shape, texture) # shape, texture, shape, neither
    assert half.score == pytest.approx(2 / 3) and half.chance == .5 and half.low <= half.score <= half.high
