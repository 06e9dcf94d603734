"Every right answer is accepted, every classic wrong one is refused with the reason that names its own fault."
import re
import pytest, torch
import torchvision.transforms.v2.functional as TF
from torch.nn import functional as F
from mssl import edges
from mssl.edges_exercises import check_edge_ratio, check_grid_mask, check_hide, check_high_pass
from mssl.exercise import NotYet, Verdict, call, judge
from exercises import assert_accepted, assert_error_is_a_verdict, assert_hole_is_not_solved, assert_holes_and_no_solution, assert_questions, assert_refused, assert_repeats, load_solutions, right_answers

solutions = load_solutions('edges')

CHECKS = dict(high_pass=check_high_pass, grid_mask=check_grid_mask, hide=check_hide, edge_ratio=check_edge_ratio)
OTHERS = dict(high_pass=[dict(size=64), dict(size=61, seed=1)], grid_mask=[dict(grid=8, count=16), dict(seed=1), dict(grid=5, count=4, seed=2)],
              hide=[dict(cell=15), dict(seed=1), dict(seed=2)], edge_ratio=[dict(cell=5), dict(cell=12, seed=1)])
right = right_answers(solutions, CHECKS)

@pytest.mark.parametrize('name, fn', right, ids=[f.__name__ for _, f in right])
def test_right_answers_are_accepted(name, fn): assert_accepted(CHECKS[name], fn, OTHERS[name])

def test_several_right_answers_each():
    assert min(sum(n == name for n, _ in right) for name in CHECKS) >= 5

# --- 1. the filter

def _blur(x, g, padding='reflect', groups=None):
    c, r = x.shape[1], len(g) // 2
    p = F.pad(x, (r, r, r, r), mode=padding) if padding != 'zeros' else F.pad(x, (r, r, r, r))
    kernel = (g[:, None] * g).expand(c, 1, -1, -1) if groups is None else (g[:, None] * g).expand(c, c, -1, -1) / c
    return F.conv2d(p, kernel, groups=groups or c)

def _bell(k, s): return torch.exp(-(torch.arange(k) - k // 2)**2 / (2 * s**2))
def _g(k, s): return _bell(k, s) / _bell(k, s).sum()
def _in_place(x, k, s): x -= TF.gaussian_blur(x, [k, k], [s, s]); return x
def _shifted(x, k, s): return x - TF.gaussian_blur(x, [k, k], [s, s]).roll(1, 2)
def _black_border(x, k, s):
    y, r = torch.zeros_like(x), k // 2
    y[..., r:-r, r:-r] = edges.high_pass(x, k, s)[..., r:-r, r:-r]
    return y

HIGH_PASS = {
    'not normalised': (lambda x, k, s: x - _blur(x, _bell(k, s) / (2 * torch.pi)**.5 / s), r'flat picture of 1 comes out at 0\.47 everywhere; .* sum to 0\.53, they must sum to 1'),
    'not normalised at all': (lambda x, k, s: x - _blur(x, _bell(k, s)), 'weights of your blur sum to [0-9.]+, they must sum to 1'),
    'zero padding': (lambda x, k, s: x - _blur(x, _g(k, s), 'zeros'), 'at its border: zeros were put around'),
    'circular padding': (lambda x, k, s: x - _blur(x, _g(k, s), 'circular'), 'circular'),
    'the blur': (lambda x, k, s: _blur(x, _g(k, s)), 'blurred picture itself'),
    'signs': (lambda x, k, s: _blur(x, _g(k, s)) - x, 'signs are turned round'),
    'mixed channels': (lambda x, k, s: x - _blur(x, _g(k, s), groups=1), 'channels are mixed'),
    'grey blur': (lambda x, k, s: x - _blur(x, _g(k, s)).mean(1, keepdim=True), 'channels are mixed'),
    'mixed pictures': (lambda x, k, s: x - _blur(x, _g(k, s)).mean(0, keepdim=True), 'pictures are mixed'),
    'in place': (_in_place, '`x` in place'),
    'unchanged': (lambda x, k, s: x.clone(), 'comes back as it was'),
    'mean of the picture': (lambda x, k, s: x - x.mean((2, 3), keepdim=True), 'mean of the whole picture'),
    'one direction': (lambda x, k, s: x - F.conv2d(F.pad(x, (k // 2, k // 2, 0, 0), mode='reflect'), _g(k, s).expand(x.shape[1], 1, 1, -1), groups=x.shape[1]), 'one direction only'),
    'fixed settings': (lambda x, k, s: edges.high_pass(x), '11 taps instead of 7.*is `kernel_size` used'),
    'box': (lambda x, k, s: x - _blur(x, torch.ones(k) / k), 'weights of your blur are equal; is `sigma` used'),
    'sigma as variance': (lambda x, k, s: edges.high_pass(x, k, s**.5), r'standard deviation of [0-9.]+ pixels; a Gaussian of sigma'),
    'shifted': (_shifted, 'not centred: its weights lie 1 rows and .* columns off'),
    'smaller': (lambda x, k, s: x[..., k//2:-(k//2), k//2:-(k//2)] - F.conv2d(x, (_g(k, s)[:, None] * _g(k, s)).expand(x.shape[1], 1, -1, -1), groups=x.shape[1]), r'returns shape \[2, 3, 86, 70\]'),
    'border left out': (_black_border, 'near its border it is not'),
    'median': (lambda x, k, s: x - F.unfold(F.pad(x, 4 * (k//2,), mode='reflect'), k).view(*x.shape[:2], k * k, -1).median(2)[0].view_as(x), 'blur'),
    'numpy array': (lambda x, k, s: edges.high_pass(x, k, s).numpy(), 'ndarray; a torch tensor'),
}

# --- 2. the mask

def _prefers_first(n, grid, count): return ((torch.rand(n, grid**2) * torch.linspace(.5, 1, grid**2)).argsort(1).argsort(1) < count).view(n, 1, grid, grid)
def _with_replacement(n, grid, count): return torch.zeros(n, grid**2, dtype=torch.bool).scatter(1, torch.randint(grid**2, (n, count)), True).view(n, 1, grid, grid)
def _seeded(n, grid, count): torch.manual_seed(0); return edges_mask(n, grid, count)
def _rolled(n, grid, count):
    "A whole line of cells, begun anywhere: every cell is hidden equally often"
    start = torch.randint(grid**2, (n, 1))
    return torch.zeros(n, grid**2, dtype=torch.bool).scatter(1, (start + torch.arange(count)) % grid**2, True).view(n, 1, grid, grid)
edges_mask = solutions.ranks_grid_mask

GRID_MASK = {
    'shared': (lambda n, g, c: edges_mask(1, g, c).repeat(n, 1, 1, 1), 'share one mask'),
    'coins': (lambda n, g, c: torch.rand(n, 1, g, g) < c / g**2, 'exactly 12 are wanted in each mask .*coin for each cell'),
    'inverted': (lambda n, g, c: ~edges_mask(n, g, c), '37 cells are hidden, 12 are wanted.*wrong way round'),
    'float': (lambda n, g, c: edges_mask(n, g, c).float(), 'torch.float32; torch.bool is wanted'),
    'the same at every call': (_seeded, 'second call gives the same masks'),
    'first cells': (_prefers_first, 'not every cell is equally likely: the one in row [12],'),
    'with replacement': (_with_replacement, 'drawn twice; draw without replacement'),
    'blocks': (_rolled, 'different masks|not drawn one by one'),
    'one too few': (lambda n, g, c: edges_mask(n, g, c - 1), '11 cells are hidden in every mask, 12 are wanted'),
    'one mask for two': (lambda n, g, c: edges_mask((n + 3) // 4, g, c).repeat_interleave(4, 0)[:n], '64 pictures have only 16 different masks'),
    'fixed grid': (lambda n, g, c: edges_mask(n, 7, c), r'shape \[3, 1, 7, 7\]; \[3, 1, 4, 4\] is wanted'),
    'fixed count': (lambda n, g, c: edges_mask(n, g, 12), '`n=3, grid=4, count=0`: 12 cells are hidden in every mask, 0 are wanted'),
    'no channel': (lambda n, g, c: edges_mask(n, g, c)[:, 0], r'returns shape \[64, 7, 7\]'),
}

# --- 3. filter, mask, fill

hp = edges.high_pass
def noise(x): return .18 * torch.randn_like(x)
def _tile(x, m): return torch.where(m, noise(x[:1, :, :16, :16]).repeat(len(x), 1, 7, 7), hp(x))
def _tiles_per_picture(x, m): return torch.where(m, noise(x[:, :, :16, :16]).repeat(1, 1, 7, 7), hp(x))
def _fill_in_place(x, m): x[m.expand_as(x)] = 0; return torch.where(m, noise(x), hp(x))
def _fixed_noise(x, m): return torch.where(m, .18 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), hp(x))
def _grown(x, m): return torch.where(F.max_pool2d(m.float(), 5, 1, 2) > 0, noise(x), hp(x))

HIDE = {
    'noise, then filter': (lambda x, m: hp(torch.where(m, noise(x), x)), 'within 5 pixels of it .*wrong order: the mask came first'),
    'mask, filter, noise': (lambda x, m: torch.where(m, noise(x), hp(x.masked_fill(m, 0))), 'wrong order: the mask came first'),
    'mean, filter, noise': (lambda x, m: torch.where(m, noise(x), hp(edges.fill_masked(x, m, 'mean'))), 'wrong order: the mask came first'),
    'tile': (_tile, 'comes again 1?[0-9]+ rows and [0-9]+ columns away .*one tile was pasted'),
    'a tile per picture': (_tiles_per_picture, 'one tile was pasted'),
    'same in each picture': (lambda x, m: torch.where(m, noise(x[:1]), hp(x)), 'every picture has the same noise'),
    'same in each channel': (lambda x, m: torch.where(m, noise(x[:, :1]), hp(x)), 'red, green and blue have the same noise'),
    'same at every call': (_fixed_noise, 'second call gives the same noise'),
    'noise over all': (lambda x, m: hp(x).masked_fill(m, 0) + noise(x), r'noise over the visible parts too \(they differ by 0\.18'),
    'noise on top': (lambda x, m: hp(x) + noise(x) * m, 'still shine through'),
    'zeros': (lambda x, m: hp(x).masked_fill(m, 0), 'flat, 0 everywhere'),
    'std 1': (lambda x, m: torch.where(m, torch.randn_like(x), hp(x)), r'standard deviation of (0\.99|1).*multiply what `randn` gives by \.18'),
    'variance': (lambda x, m: torch.where(m, .18**.5 * torch.randn_like(x), hp(x)), 'not the variance'),
    'uniform': (lambda x, m: torch.where(m, .18 * 12**.5 * (torch.rand_like(x) - .5), hp(x)), 'of a Gaussian 4.6 %'),
    'not centred': (lambda x, m: torch.where(m, noise(x) + .1, hp(x)), r'noise has a mean of 0\.1'),
    'smooth noise': (lambda x, m: torch.where(m, (lambda o: .18 * o / o.std())(TF.gaussian_blur(noise(x), [5, 5])), hp(x)), 'neighbouring noise pixels are alike'),
    'inverted': (lambda x, m: torch.where(m, hp(x), noise(x)), 'wrong way round'),
    'no filter': (lambda x, m: torch.where(m, noise(x), x), 'not filtered: high-pass first'),
    'blurred': (lambda x, m: torch.where(m, noise(x), x - hp(x)), 'blurred picture'),
    'another filter': (lambda x, m: torch.where(m, noise(x), hp(x, 5, 2.)), '11 taps and sigma 5'),
    'nothing hidden': (lambda x, m: hp(x), 'nothing is hidden'),
    'grown': (_grown, 'mask larger'),
    'in place': (_fill_in_place, '`x` in place'),
}

# --- 4. the ratio

def _of(x, m, axes=(2, 3), across=lambda h: h == 1, visible=lambda h: h == 0, dims=(1,), size=torch.abs):
    d = torch.cat([size(x.diff(dim=a)).flatten(1) for a in axes], 1)
    m = m.expand_as(x).int()
    h = torch.cat([(m.narrow(a, 1, m.shape[a] - 1) + m.narrow(a, 0, m.shape[a] - 1)).flatten(1) for a in axes], 1)
    mean = lambda o: (d * o).sum(dims) / o.sum(dims)
    return mean(across(h)) / mean(visible(h))
def _sums(x, m):
    d, w = (torch.cat([o.diff(dim=a).abs().flatten(1) for a in (2, 3)], 1) for o in (x, m.expand_as(x).float()))
    seen = torch.cat([(~(m.narrow(a, 1, m.shape[a] - 1) | m.narrow(a, 0, m.shape[a] - 1))).expand(len(x), 3, -1, -1).flatten(1) for a in (2, 3)], 1)
    return (d * w).sum(1) / (d * seen).sum(1)

EDGE_RATIO = {
    'side by side only': (lambda x, m: _of(x, m, (3,)), 'only pairs side by side'),
    'one above the other only': (lambda x, m: _of(x, m, (2,)), 'only pairs one above the other'),
    'both hidden as visible': (lambda x, m: _of(x, m, visible=lambda h: h != 1), 'both are hidden are counted as visible'),
    'all pairs below': (lambda x, m: _of(x, m, visible=lambda h: h >= 0), 'all pairs are in the lower mean'),
    'sums': (_sums, 'ratio of two sums'),
    'over the batch': (lambda x, m: _of(x, m, dims=(0, 1)), r'one number came back.*not over the batch'),
    'over the batch, repeated': (lambda x, m: _of(x, m, dims=(0, 1)).expand(len(x)), 'averaged over the batch'),
    'mean of all ratios': (lambda x, m: _of(x, m).mean().expand(len(x)), 'averaged over the batch'),
    'squares': (lambda x, m: _of(x, m, size=torch.square), 'squared'),
    'signs': (lambda x, m: _of(x, m, size=lambda d: d), 'have a sign and cancel out'),
    'upside down': (lambda x, m: 1 / _of(x, m), 'upside down'),
    'mean of two ratios': (lambda x, m: (_of(x, m, (2,)) + _of(x, m, (3,))) / 2, 'two directions are averaged as ratios'),
    'mean of channels': (lambda x, m: torch.stack([_of(x[:, c:c+1], m) for c in range(3)]).mean(0), 'channels are averaged as ratios'),
    'True as visible': (lambda x, m: _of(x, ~m), 'True means hidden'),
    'something else': (lambda x, m: _of(x, m) + 1, 'none of the usual mistakes'),
    'per channel': (lambda x, m: torch.stack([_of(x[:, c:c+1], m) for c in range(3)], 1), r'returns shape \[4, 3\]; \[4\] is wanted'),
}

wrong = [(name, k, *v) for name, table in dict(high_pass=HIGH_PASS, grid_mask=GRID_MASK, hide=HIDE, edge_ratio=EDGE_RATIO).items() for k, v in table.items()]

@pytest.mark.parametrize('name, kind, fn, reason', wrong, ids=[f'{n}: {k}' for n, k, *_ in wrong])
def test_wrong_answers_are_refused_with_their_own_reason(name, kind, fn, reason): assert_refused(CHECKS[name], fn, OTHERS[name], reason)

# --- holes, errors, repetition

@pytest.mark.parametrize('name', CHECKS)
def test_a_hole_is_not_solved_yet_and_shows_what_is_expected(name): assert_hole_is_not_solved(CHECKS[name])

@pytest.mark.parametrize('name', CHECKS)
def test_errors_become_a_verdict_without_a_traceback(name): assert_error_is_a_verdict(CHECKS[name])

def test_an_error_of_torch_is_no_hole():
    "torch raises NotImplementedError for a padding that it does not know"
    verdict = check_high_pass(lambda x, k, s: x - F.pad(x, (1, 1, 1, 1, 1, 1), mode='reflect'))
    assert verdict.word == 'not yet' and 'stopped with' in verdict.reason

@pytest.mark.parametrize('name, fn', [next(o for o in right if o[0] == name) for name in CHECKS], ids=list(CHECKS))
def test_a_check_repeats_itself_and_draws_no_random_number(name, fn): assert_repeats(CHECKS[name], fn)

def test_chance_alone_refuses_nobody():
    assert all(check_grid_mask(edges_mask, seed=s).right for s in range(30)) and all(check_hide(solutions.where_hide, cell=14, seed=s).right for s in range(8))

def test_pictures_show_where_it_is_wrong():
    shown = check_high_pass(HIGH_PASS['zero padding'][0]).pictures
    *_, heat = shown.values()
    assert list(shown)[:3] == ['picture', 'expected', 'yours'] and heat[:, 20:60, 20:60].sum() < .05 * heat.sum()
    assert len([k for k in check_grid_mask(GRID_MASK['shared'][0]).pictures if 'yours' in k]) == 3
    assert 'your noise, picture 2' in check_hide(HIDE['same in each picture'][0]).pictures
    assert list(check_edge_ratio(EDGE_RATIO['upside down'][0]).pictures)[0].startswith('expected ')

def test_a_verdict_shows_itself_with_alt_text_and_escapes_what_the_answer_said():
    v = Verdict('not yet', 'see `x < y` & <b>', dict(picture=torch.zeros(3, 8, 8)))
    page = v._repr_html_()
    assert '<strong>not yet</strong>: see <code>x &lt; y</code> &amp; &lt;b&gt;' in page and re.search(r'<img alt="[^"]+"', page)
    assert str(v) == 'not yet: see `x < y` & <b>' and not v and Verdict('right', '', {}).right

def test_call_gives_copies_and_checks_what_comes_back():
    x = torch.ones(2, 2)
    assert torch.equal(call(lambda x: x + 1, x, shape=(2, 2)), x + 1)
    for fn, part in ((lambda x: x.int(), 'torch.int32; floating point'), (lambda x: x / 0, 'nan or inf'), (lambda x: [x], 'returns a list'), (lambda x: x[0], r'shape \[2\]'), (lambda a: a.add_(1), '`a` in place')):
        with pytest.raises(NotYet, match=part): call(fn, x, shape=(2, 2))
    assert torch.equal(x, torch.ones(2, 2))
    with pytest.raises(KeyError): judge(lambda: {}['our own mistake'], '', {})

# --- the student's copy

def test_the_notebook_holds_holes_and_no_solution(): assert_holes_and_no_solution('04a_edges_exercises.ipynb', right)

def test_questions_with_hidden_answers(): assert_questions('04a_edges_exercises.ipynb', 5)
