"""Colour as one map per picture: equal to torchvision where nothing is clamped, and the shares and orders that are asked for."""
import math
import numpy as np, pytest, torch, torchvision.transforms.v2.functional as TF
from mssl.colour import (GREY, apply_colour, blur_matrix, colour_steps, compose_colour, jitter_colour, random_colour, random_sigma, solarise)

def soft(n=6, size=12): return torch.rand(n, 3, size, size + 3) * .3 + .35 # far from 0 and 1: nothing is clamped on the way
def factors(n): return [torch.rand(n) * .5 + .75 for _ in range(3)]

STEPS = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation]


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_equals_torchvision_where_nothing_is_clamped(order):
    x, f = soft(), factors(6)
    A, B = colour_steps(*f, torch.zeros(6))
    ours = apply_colour(x, *compose_colour(A, B, torch.tensor([*order, 3]).expand(6, 4)))
    for i in range(6):
        theirs = x[i]
        for step in order: theirs = STEPS[step](theirs, float(f[step][i]))
        assert (ours[i] - theirs).abs().max() < 1e-5

def test_grey_is_torchvisions():
    x = torch.rand(4, 3, 9, 9)
    assert (jitter_colour(x, p=0, grey=1) - TF.rgb_to_grayscale(x, num_output_channels=3)).abs().max() < 1e-5

def test_composition_is_one_map_after_the_other():
    "In float64 numpy, with the mean carried along picture by picture"
    n, x = 5, soft(5)
    A, B = colour_steps(*factors(n), torch.rand(n) - .5)
    order = torch.rand(n, 4).argsort(1)
    ours = apply_colour(x, *compose_colour(A, B, order))
    for i in range(n):
        p = x[i].double().numpy().reshape(3, -1)
        for k in order[i].tolist(): p = A[i, k].double().numpy() @ p + B[i, k].double().numpy() @ p.mean(1, keepdims=True)
        assert np.abs(ours[i].numpy().reshape(3, -1) - p.clip(0, 1)).max() < 1e-5

def test_the_order_matters():
    x = soft(1)
    A, B = colour_steps(*[torch.tensor([o]) for o in (1.3, .6, 1.4)], torch.tensor([.1]))
    one, two = (apply_colour(x, *compose_colour(A, B, torch.tensor([o]))) for o in ([0, 1, 2, 3], [3, 2, 1, 0]))
    assert (one - two).abs().max() > .003

def test_hue_turns_about_the_grey_axis():
    x, n = soft(4), 4
    turn = lambda h: apply_colour(x, *(o[:, 3] for o in colour_steps(*torch.ones(3, n), torch.full((n,), h))))
    assert (turn(.2).sum(1) - x.sum(1)).abs().max() < 1e-5, 'r+g+b stays'
    chroma = lambda o: (o - o.mean(1, keepdim=True)).norm(dim=1)
    assert (chroma(turn(.2)) - chroma(x)).abs().max() < 1e-5, 'so does the distance from grey'
    assert (turn(1 / 3) - x[:, [2, 0, 1]]).abs().max() < 1e-5, 'a third of a turn permutes the channels: red becomes green'
    assert (turn(.5) - (2 * x.mean(1, keepdim=True) - x)).abs().max() < 1e-5
    assert torch.allclose(turn(1.), x, atol=1e-5)

def test_hue_turns_the_way_torchvision_turns():
    red = torch.tensor([.8, .3, .3]).view(1, 3, 1, 1)
    ours = apply_colour(red, *(o[:, 3] for o in colour_steps(*torch.ones(3, 1), torch.tensor([.1]))))
    theirs = TF.adjust_hue(red, .1)
    assert ours.flatten().argsort().tolist() == theirs.flatten().argsort().tolist() and (ours - theirs).abs().max() < .15

def test_only_once_clamped_and_never_outside():
    x = torch.rand(200, 3, 6, 6)
    y = jitter_colour(x, .8, .8, .8, .2, p=1, grey=0)
    assert y.min() >= 0 and y.max() <= 1 and (y == 1).any()
    A, B = colour_steps(torch.tensor([3.]), torch.ones(1), torch.ones(1), torch.zeros(1))
    dark = apply_colour(x[:1], *compose_colour(torch.stack([A[:, 0], A[:, 0] / 9], 1), B[:, :2], torch.tensor([[0, 1]])))
    assert torch.allclose(dark, x[:1], atol=1e-6), 'brighter than white in the middle is not lost'


# the random version

def brightness_of(n, strength):
    A, B = random_colour(n, strength, 0, 0, 0, p=1, grey=0)
    assert (A - A[:, :1, :1] * torch.eye(3)).abs().max() < 1e-5 and B.abs().max() < 1e-5
    return A[:, 0, 0]

def test_amounts_are_uniform_as_in_color_jitter():
    for strength, low, high in ((.4, .6, 1.4), (1., 0., 2.), (2., 0., 3.)):
        f = brightness_of(20_000, strength)
        q = torch.tensor([.05, .25, .5, .75, .95])
        assert f.min() >= low - 1e-5 and f.max() <= high + 1e-5
        assert (f.quantile(q) - (low + q * (high - low))).abs().max() < .03 * (high - low)

def test_hue_is_uniform_both_ways():
    A, _ = random_colour(20_000, 0, 0, 0, .1, p=1, grey=0)
    angle = torch.atan2((A[:, 1, 0] - A[:, 0, 1]) * math.sqrt(3), A.diagonal(dim1=1, dim2=2).sum(1) - 1) / (2 * math.pi)
    assert angle.min() > -.101 and angle.max() < .101 and abs(angle.mean()) < .002 and abs(angle.std() - .2 / math.sqrt(12)) < .002

def test_order_varies_between_pictures_of_a_batch(monkeypatch):
    seen = []
    monkeypatch.setattr('mssl.colour.compose_colour', lambda A, B, order: (seen.append(order), compose_colour(A, B, order))[1])
    random_colour(24_000)
    order = seen[0]
    assert order.sort(1)[0].unique(dim=0).tolist() == [[0, 1, 2, 3]], 'each step once'
    counts = order.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 850 and counts.max() < 1150

def test_shares_of_jitter_and_grey():
    n = 20_000
    A, B = random_colour(n, p=.8, grey=0)
    assert abs(((A - torch.eye(3)).abs().amax((1, 2)) < 1e-6).float().mean() - .2) < .015
    assert B[(A - torch.eye(3)).abs().amax((1, 2)) < 1e-6].abs().max() == 0, 'left alone is left alone'
    A, _ = random_colour(n, p=.5, grey=.3)
    flat = (A - A[:, :1]).abs().amax((1, 2)) < 1e-6 # all three rows alike: grey
    assert abs(flat.float().mean() - .3) < .015
    plain = ((A - torch.tensor(GREY)).abs().amax((1, 2)) < 1e-6).float().mean()
    assert abs(plain - .15) < .015, 'grey and jitter are drawn apart'

def test_each_picture_has_its_own_map():
    x = soft(1).expand(32, -1, -1, -1)
    assert len(jitter_colour(x, p=1, grey=0).flatten(1).unique(dim=0)) == 32
    assert torch.equal(jitter_colour(x, p=0, grey=0), x)

@pytest.mark.parametrize('draw', [lambda **k: jitter_colour(torch.full((8, 3, 2, 2), .4), **k), lambda **k: solarise(torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(9)), **k),
    lambda **k: random_sigma(8, **k), lambda **k: random_colour(8, **k)[0]], ids=['jitter', 'solarise', 'sigma', 'map'])
def test_reproducible(draw):
    torch.manual_seed(3); a = draw()
    torch.manual_seed(3); assert torch.equal(draw(), a)
    state = torch.get_rng_state()
    g = lambda s: torch.Generator().manual_seed(s)
    assert torch.equal(draw(generator=g(1)), draw(generator=g(1))) and not torch.equal(draw(generator=g(1)), draw(generator=g(2)))
    assert torch.equal(torch.get_rng_state(), state), "a generator leaves torch's own alone"

def test_a_constant_picture_stays_constant_and_finite():
    for value in (0., .5, 1.):
        x = jitter_colour(torch.full((64, 3, 4, 4), value), .8, .8, .8, .5)
        assert torch.isfinite(x).all() and (x - x[..., :1, :1]).abs().max() < 1e-6
        assert (x - x[:, :1]).abs().max() < 1e-5, 'grey stays grey'

@pytest.mark.parametrize('name, kwargs', [('hue', dict(hue=.6)), ('brightness', dict(brightness=-1)), ('p', dict(p=1.2)), ('grey', dict(grey=-.1)), ('contrast', dict(contrast='x'))])
def test_bad_amounts_are_named(name, kwargs):
    with pytest.raises(ValueError, match=f'^{name}='): jitter_colour(torch.rand(2, 3, 4, 4), **kwargs)

def test_grey_pictures_are_refused():
    with pytest.raises(ValueError, match='3 channels are needed, got 1'): jitter_colour(torch.rand(2, 1, 8, 8))

# solarise

def test_solarise_is_torchvisions():
    x = torch.rand(5, 3, 8, 8)
    assert (solarise(x, p=1) - TF.solarize(x, .5)).abs().max() < 1e-6
    assert (solarise(x, p=1, threshold=.25) - TF.solarize(x, .25)).abs().max() < 1e-6
    assert solarise(x, p=0) is x

def test_solarise_hits_its_share_whole_pictures_at_a_time():
    x = torch.full((20_000, 1, 1, 2), .75)
    hit = (solarise(x, p=.2) == .25)
    assert (hit[..., 0] == hit[..., 1]).all() and abs(hit.float().mean() - .2) < .015
    chosen = torch.arange(6) % 2 == 0
    assert ((solarise(x[:6], hit=chosen) == .25).all((1, 2, 3)) == chosen).all()
    with pytest.raises(ValueError, match='^p='): solarise(x, p=2)

# blur

@pytest.mark.parametrize('sigma', [.3, 1., 2.7])
@pytest.mark.parametrize('size', [(16, 16), (23, 40)])
def test_blur_is_torchvisions(sigma, size):
    x, reach = torch.rand(3, 3, *size), min(math.ceil(4 * sigma), min(size) - 1)
    m = [blur_matrix(s, torch.full((3,), sigma)).unsqueeze(1) for s in size]
    theirs = TF.gaussian_blur(x, [2 * reach + 1] * 2, [sigma] * 2)
    assert (m[0] @ x @ m[1].mT - theirs).abs().max() < 1e-5

def test_each_picture_has_its_own_blur():
    m = blur_matrix(20, torch.tensor([0., .5, 3.]))
    assert torch.allclose(m.sum(-1), torch.ones(3, 20), atol=1e-6) and torch.equal(m[0], torch.eye(20))
    for i, s in enumerate((.5, 3.), 1): assert (m[i] - blur_matrix(20, torch.tensor([s]))[0]).abs().max() < 2e-4
    assert m[2, 10, 10] < m[1, 10, 10] < 1

@pytest.mark.parametrize('size', [1, 2, 5])
def test_a_blur_wider_than_the_picture(size):
    m = blur_matrix(size, torch.tensor([8.]))
    assert torch.isfinite(m).all() and torch.allclose(m.sum(-1), torch.ones(1, size), atol=1e-6)

def test_sigma_scales_with_the_view_and_hits_its_share():
    s = random_sigma(20_000, .5, (.1, 2.), 56)
    assert abs((s > 0).float().mean() - .5) < .015
    hit = s[s > 0] * 4
    assert hit.min() >= .1 - 1e-6 and hit.max() <= 2 + 1e-6 and abs(hit.mean() - 1.05) < .02
