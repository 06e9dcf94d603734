"Chapters 05 and 06: every right answer is accepted, every classic wrong one is refused with the reason that names its own fault."
import pytest, torch
from torch.nn import functional as F
from mssl.edges import high_pass
from mssl.masks import focal_mask
from mssl.mscn_exercises import check_branches, check_channel_mask, check_copied_noise, check_copies_loss, check_window
from mssl.siamese import info_nce
from exercises import assert_accepted, assert_error_is_a_verdict, assert_hole_is_not_solved, assert_holes_and_no_solution, assert_questions, assert_refused, assert_repeats, load_solutions, right_answers

solutions = load_solutions('mscn')

CHECKS = dict(window=check_window, channel_mask=check_channel_mask, branches=check_branches, copies_loss=check_copies_loss, copied_noise=check_copied_noise)
OTHERS = dict(window=[dict(size=33, keep=.5, seed=1), dict(size=64, keep=.8)], channel_mask=[dict(grid=8, count=16), dict(grid=5, count=4, seed=2)], branches=[dict(cell=15, seed=1)],
              copies_loss=[dict(n=3), dict(n=9, seed=1)], copied_noise=[dict(cells=(4, 6), seed=1), dict(cells=(7, 7), seed=2)])
right = right_answers(solutions, CHECKS)

@pytest.mark.parametrize('name, fn', right, ids=[f.__name__ for _, f in right])
def test_right_answers_are_accepted(name, fn): assert_accepted(CHECKS[name], fn, OTHERS[name])

def test_several_right_answers_each():
    assert min(sum(n == name for n, _ in right) for name in CHECKS) >= 5

# --- 1. the window

def _cut(top, left, window, size):
    "Windows [n,1,size,size] from any start, cut off at the border"
    i = torch.arange(size)
    rows, cols = ((i >= o.view(-1, 1)) & (i < o.view(-1, 1) + window) for o in (top, left))
    return ~(rows[:, None, :, None] & cols[:, None, None, :])
def _starts(n, most): return torch.randint(most, (2, n))
def _rolled(n, size, keep):
    m = _cut(*torch.zeros(2, n, dtype=torch.long), round(keep * size), size)
    return torch.stack([o.roll((int(a), int(b)), (1, 2)) for o, a, b in zip(m, *_starts(n, size))])
def _side(of): return lambda n, size, keep: _cut(*_starts(n, max(1, size - of(size, keep) + 1)), of(size, keep), size)
def _seeded(n, size, keep): torch.manual_seed(0); return focal_mask(n, size, keep)
def _middle(n, size, keep): return _cut(*torch.full((2, n), (size - round(keep * size)) // 2), round(keep * size), size)
def _diagonal(n, size, keep): s = torch.randint(size - round(keep * size) + 1, (n,)); return _cut(s, s, round(keep * size), size)
def _bell(n, size, keep): most = size - round(keep * size); return _cut(*(torch.rand(2, 2, n).mean(0) * (most + 1)).floor().long(), round(keep * size), size)
def _strip(n, size, keep): return focal_mask(n, size, keep).all(3, keepdim=True).expand(-1, -1, -1, size)
def _any_size(n, size, keep): w = torch.randint(size // 4, size // 2, (n, 1)); return _cut(*torch.zeros(2, n), w, size)

WINDOW = {
    'inverted': (lambda n, s, k: ~focal_mask(n, s, k), 'wrong way round, True means hidden'),
    'shared': (lambda n, s, k: focal_mask(1, s, k).repeat(n, 1, 1, 1), 'share one mask'),
    'in the middle': (_middle, 'share one mask'),
    'cut off': (lambda n, s, k: _cut(*_starts(n, s), round(k * s), s), '40, keep=0.6`: 24 pixels a side are wanted, the windows have .* cut off at the border'),
    'rolled': (_rolled, r'comes in again at the other \(`roll`\)'),
    'last place missing': (lambda n, s, k: _cut(*_starts(n, max(1, s - round(k * s))), round(k * s), s), 'no window starts in row 16, though it fits there'),
    'share of the area': (_side(lambda s, k: round(k**.5 * s)), 'the window has 31: `keep` is a share of the side, not of the area'),
    'rounded down': (_side(lambda s, k: max(1, int(k * s + 1e-9))), 'size=32, keep=0.9`: 29 pixels a side are wanted, the window has 28: round'),
    'share that is hidden': (_side(lambda s, k: s - round(k * s)), 'the window has 16: `keep` is the share that stays visible'),
    'fixed size': (lambda n, s, k: _cut(*_starts(n, 17), 24, s), 'pixels a side are wanted, the window'),
    'on a line': (_diagonal, r'row and column of the window hang together \(correlation 1.00\)'),
    'middle preferred': (_bell, 'not every row is equally likely as a start'),
    'rows only': (_strip, 'windows have 24 to 40; all are to have'),
    'any size': (_any_size, 'windows have 10 to 19; all are to have the same size'),
    'cells': (lambda n, s, k: torch.rand(n, 1, s, s) < .5, 'not one window with straight sides'),
    'float': (lambda n, s, k: focal_mask(n, s, k).float(), 'torch.float32; torch.bool is wanted'),
    'no channel': (lambda n, s, k: focal_mask(n, s, k)[:, 0], r'returns shape \[64, 40, 40\]'),
    'the same at every call': (_seeded, 'second call gives the same masks'),
}

# --- 2. the channels

own = solutions.ranks_channel_mask
def _one(n, g, c): return own(n, g, c)[:, :1]
def _dealt(n, g, c):
    "The first `count` of a shuffle are red's, the next green's, then blue's"
    rank = torch.rand(n, g * g).argsort(1).argsort(1)
    return torch.stack([((rank - k * c) % (g * g)) < c for k in range(3)], 1).view(n, 3, g, g)
def _in_all(n, g, c): return (torch.rand(n, 3 * g * g).argsort(1).argsort(1) < 3 * c).view(n, 3, g, g)
def _with_replacement(n, g, c): return torch.zeros(n, 3, g**2, dtype=torch.bool).scatter(2, torch.randint(g**2, (n, 3, c)), True).view(n, 3, g, g)
def _prefers_first(n, g, c): return ((torch.rand(n, 3, g**2) * torch.linspace(.5, 1, g**2)).argsort(2).argsort(2) < c).view(n, 3, g, g)
def _seeded_channels(n, g, c): torch.manual_seed(0); return own(n, g, c)
def _moved(n, g, c): m = _one(n, g, c); return torch.cat([m, m.roll(1, 2), m.roll(1, 3)], 1)

CHANNEL_MASK = {
    'one for all channels': (lambda n, g, c: _one(n, g, c).repeat(1, 3, 1, 1), 'red, green and blue hide the same cells'),
    'shared by the batch': (lambda n, g, c: own(1, g, c).repeat(n, 1, 1, 1), 'share one mask'),
    'counted over all channels': (_in_all, '36 cells are hidden in the three channels together, .*exactly 12 are wanted in each channel'),
    'a third for each': (lambda n, g, c: own(n, g, c) & (torch.arange(3).view(3, 1, 1) == 0), '12 cells are hidden in the three channels together, 0 to 12 in one'),
    'dealt out': (_dealt, r'red and green do not draw for themselves \(one shuffle was dealt out'),
    'moved': (_moved, r'do not draw for themselves \(one is the other, moved or turned\)'),
    'two alike': (lambda n, g, c: own(n, g, c)[:, [0, 1, 0]], r'red and blue do not draw for themselves \(some channels are copies\): of the cells that red hides, blue hides 100%, and 24%'),
    'coins': (lambda n, g, c: torch.rand(n, 3, g, g) < c / g**2, 'exactly 12 are wanted in each channel .*coin for each cell'),
    'inverted': (lambda n, g, c: ~own(n, g, c), '37 cells are hidden, 12 are wanted.*wrong way round'),
    'with replacement': (_with_replacement, 'drawn twice; draw without replacement'),
    'one too few': (lambda n, g, c: own(n, g, max(0, c - 1)), '11 cells are hidden in every channel, 12 are wanted'),
    'float': (lambda n, g, c: own(n, g, c).float(), 'torch.float32; torch.bool is wanted'),
    'the same at every call': (_seeded_channels, 'second call gives the same masks'),
    'first cells': (_prefers_first, 'not every cell is equally likely'),
    'one mask for four': (lambda n, g, c: own((n + 3) // 4, g, c).repeat_interleave(4, 0)[:n], '64 pictures have only 16 different masks'),
    'fixed grid': (lambda n, g, c: own(n, 7, c), r'shape \[3, 3, 7, 7\]; \[3, 3, 4, 4\] is wanted'),
    'one channel': (_one, r'returns shape \[64, 1, 7, 7\]'),
    'channels last': (lambda n, g, c: own(n, g, c).movedim(1, 3), r'returns shape \[64, 7, 7, 3\]'),
}

# --- 3. the branches

hp = high_pass
def noise(q, m): return .18 * torch.randn(len(m), *q.shape)
def views(q, z, m, e=None): return torch.cat([torch.where(m, noise(q, m) if e is None else e, hp(q)), hp(z)[None]])
def _mask_first(q, z, m): return torch.stack([torch.where(o, .18 * torch.randn_like(q), hp(q.masked_fill(o, 0))) for o in m] + [hp(z)])
def _noise_first(q, z, m): return torch.stack([hp(torch.where(o, .18 * torch.randn_like(q), q)) for o in m] + [hp(z)])
def _tile(q, z, m): return views(q, z, m, .18 * torch.randn(1, 1, 3, 14, 14).repeat(1, 1, 1, q.shape[2] // 14 + 1, q.shape[3] // 14 + 1)[..., :q.shape[2], :q.shape[3]])
def _fixed(q, z, m): return views(q, z, m, .18 * torch.randn(len(m), *q.shape, generator=torch.Generator().manual_seed(0)))
def _in_place(q, z, m): q -= q - hp(q); return views(q, z, m)

BRANCHES = {
    'mask, filter, noise': (_mask_first, 'copy 1: .*wrong order: the mask came first'),
    'mask, noise, filter': (_noise_first, 'copy 1: .*wrong order: the mask came first'),
    'key masked': (lambda q, z, m: torch.cat([views(q, z, m)[:-1], torch.where(m[0], .18 * torch.randn_like(z), hp(z))[None]]), 'key has holes where the query has them'),
    'mask on the key': (lambda q, z, m: torch.cat([views(z, q, m)]), 'masks are on the key'),
    'key first': (lambda q, z, m: views(q, z, m).roll(1, 0), 'the key comes first'),
    'key not filtered': (lambda q, z, m: torch.cat([views(q, z, m)[:-1], z[None]]), 'key is not filtered'),
    'query as key': (lambda q, z, m: views(q, q, m), 'the last view is the query without a mask'),
    'another filter on the key': (lambda q, z, m: torch.cat([views(q, z, m)[:-1], hp(z, 5, 2.)[None]]), 'not the filtered key: it differs'),
    'query not filtered': (lambda q, z, m: torch.cat([torch.where(m, noise(q, m), q), hp(z)[None]]), 'not filtered: high-pass first'),
    'first mask for all': (lambda q, z, m: views(q, z, m[:1].expand_as(m)), 'all copies have the same mask'),
    'all masks at once': (lambda q, z, m: views(q, z, m.any(0, keepdim=True).expand_as(m)), 'hides what any of the masks hides'),
    'masks turned round': (lambda q, z, m: views(q, z, m.flip(0)), 'masks are in another order'),
    'one noise for all copies': (lambda q, z, m: views(q, z, m, noise(q, m)[:1]), 'both copies have the same noise'),
    'one noise for all pictures': (lambda q, z, m: views(q, z, m, noise(q, m)[:, :1]), 'every picture has the same noise'),
    'one noise for all channels': (lambda q, z, m: views(q, z, m, noise(q, m)[:, :, :1]), 'red, green and blue have the same noise'),
    'a tile': (_tile, 'one tile was pasted everywhere'),
    'same at every call': (_fixed, 'second call gives the same noise'),
    'zeros': (lambda q, z, m: views(q, z, m, torch.zeros(len(m), *q.shape)), 'flat, 0 everywhere'),
    'std 1': (lambda q, z, m: views(q, z, m, noise(q, m) / .18), 'multiply what `randn` gives by .18'),
    'noise on top': (lambda q, z, m: torch.cat([hp(q) + noise(q, m) * m, hp(z)[None]]), 'still shine through'),
    'inverted': (lambda q, z, m: views(q, z, ~m), 'wrong way round'),
    'in place': (_in_place, '`q` in place'),
    'no key': (lambda q, z, m: views(q, z, m)[:-1], r'returns shape \[2, 4, 3, 98, 98\]; \[3, 4, 3, 98, 98\] is wanted'),
}

# --- 4. the loss

def nce(a, b, t): return info_nce(a, b, temperature=t)
def each(q, z, t): return torch.stack([nce(o, z, t) for o in q])
def _scores(q, z, t, own=False, unit=True):
    both = torch.cat([F.normalize(o, dim=1) if unit else o for o in (q, z)])
    s = both @ both.T / t
    return s if own else s.fill_diagonal_(float('-inf'))
def _by(f): return lambda q, z, t: torch.stack([f(o, z, t) for o in q]).mean()
def _rows(s, rows=None): n = len(s) // 2; return F.cross_entropy(s, torch.arange(2 * n).roll(n), reduction='none')[:rows].mean()
def _between(q, z, t): return F.normalize(q, dim=1) @ F.normalize(z, dim=1).T / t
def _clip(q, z, t): s, i = _between(q, z, t), torch.arange(len(q)); return (F.cross_entropy(s, i) + F.cross_entropy(s.T, i)) / 2
def _return_inside(q, z, t):
    for o in q: return nce(o, z, t)
def _chain(q, z, t): return (nce(q[0], q[-1], t) + nce(q[-1], z, t)) / 2 + .1

COPIES_LOSS = {
    'all meet': (lambda q, z, t: info_nce(*q, z, t), 'the copies meet each other too'),
    'one batch': (lambda q, z, t: nce(q.flatten(0, 1), z.repeat(len(q), 1), t), 'put into one large batch'),
    'mean of the copies': (lambda q, z, t: nce(q.mean(0), z, t), 'embeddings of the copies are averaged before'),
    'mean of normalised copies': (lambda q, z, t: nce(F.normalize(q, dim=2).mean(0), z, t), 'embeddings of the copies are averaged before'),
    'sum': (lambda q, z, t: each(q, z, t).sum(), 'sum over 3 copies; their mean'),
    'return inside the loop': (_return_inside, 'only the first copy counts'),
    'last copy': (lambda q, z, t: nce(q[-1], z, t), 'only the last copy counts'),
    'sum over rows': (lambda q, z, t: each(q, z, t).mean() * 2 * len(z), 'sum over 2n = 18 rows'),
    'sign': (lambda q, z, t: -each(q, z, t).mean(), 'wrong sign'),
    'not normalised': (_by(lambda q, z, t: _rows(_scores(q, z, t, unit=False))), 'not normalised; scale each to length 1'),
    'times the temperature': (_by(lambda q, z, t: _rows(_scores(q, z, 1 / t))), 'multiplied by the temperature'),
    'no temperature': (_by(lambda q, z, t: nce(q, z, 1.)), '`temperature` is not used'),
    'diagonal': (_by(lambda q, z, t: _rows(_scores(q, z, t, own=True))), 'compared with itself too'),
    'rows of copies': (_by(lambda q, z, t: _rows(_scores(q, z, t), len(z))), 'only rows of the copies'),
    'other view only': (_by(_clip), 'those of the other view only'),
    'one direction': (_by(lambda q, z, t: F.cross_entropy(_between(q, z, t), torch.arange(len(q)))), 'only copies look for the key, and among keys only'),
    'a loss for each copy': (each, r'returns shape \[3\]; one number is wanted'),
    'copies in a chain': (_chain, 'in your loss copy 1 and copy 3 meet'),
    'second copy left out': (lambda q, z, t: each(q[::2], z, t).mean(), 'copy 2 does not meet the key'),
    'something else': (lambda q, z, t: each(q, z, t).mean() + 1, 'none of the usual mistakes'),
    'a float': (lambda q, z, t: each(q, z, t).mean().item(), 'returns a float; a torch tensor'),
}

# --- 5. the copied noise

def _found(y, m, drop=lambda p, c, s: False, same=lambda t: (t[:, None] == t).all(2), diagonal=False, hidden=True):
    "The right answer, but for pairs of tiles for which `drop(pictures, cells, same)` is true"
    n, (rows, cols) = len(y), m.shape[2:]
    tiles = y.view(n, 3, rows, y.shape[2] // rows, cols, y.shape[3] // cols).permute(0, 2, 4, 1, 3, 5).reshape(n * rows * cols, -1)
    at = m.flatten().nonzero()[:, 0] if hidden is True else hidden(m).flatten().nonzero()[:, 0]
    e = same(tiles[at])
    if not diagonal: e = e.fill_diagonal_(False)
    p, c = at // (rows * cols), at % (rows * cols)
    e = e & ~torch.as_tensor(drop((p[:, None], p), (c[:, None], c), e))
    return torch.zeros(n, dtype=torch.bool).index_fill(0, p[e.any(1)], True)
def _but(**kw): return lambda y, m: _found(y, m, **kw)
def _alike(t): return (t.std(1)[:, None] - t.std(1)).abs() < .05

COPIED_NOISE = {
    'within a picture only': (_but(drop=lambda p, c, s: p[0] != p[1]), 'picture 1 is called its own, and it is not: .*in another picture, at another place'),
    'between pictures only': (_but(drop=lambda p, c, s: p[0] == p[1]), 'picture 4 is called its own, .*all of its hidden cells show one tile'),
    'same place only': (_but(drop=lambda p, c, s: (c[0] != c[1]) & (p[0] != p[1])), 'picture 1 .*at another place'),
    'other places only': (_but(drop=lambda p, c, s: c[0] == c[1]), 'picture 3 .*at the same place'),
    'neighbours only': (_but(drop=lambda p, c, s: (p[0] - p[1]).abs() > 1), 'picture 1 is called its own'),
    'the later of a pair': (_but(drop=lambda p, c, s: p[0] < p[1]), 'pictures 1 and 6 show the same noise .* found it in picture 6 only: of a pair both'),
    'the earlier of a pair': (_but(drop=lambda p, c, s: p[0] > p[1]), 'found it in picture 1 only: of a pair both'),
    'visible cells too': (_but(hidden=torch.ones_like), 'picture 5 is called copied, .*only its visible cells are alike'),
    'visible cells instead': (_but(hidden=torch.logical_not), 'picture 1 is called its own'),
    'with itself': (_but(diagonal=True), 'a cell is compared with itself'),
    'as strong': (_but(same=_alike), 'only as strong as another counts as the same'),
    'everything': (lambda y, m: torch.ones(len(y), dtype=torch.bool), 'every picture is called copied; 5 of 9 are'),
    'nothing': (lambda y, m: torch.zeros(len(y), dtype=torch.bool), 'every picture is called its own; 5 of 9 are'),
    'inverted': (lambda y, m: ~_found(y, m), 'wrong way round: True means copied'),
    'by heart': (lambda y, m: torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 0]) > 0, 'in a batch without copies: picture 1 is called copied'),
    'one channel': (lambda y, m: _found(y, m)[:, None], r'returns shape \[9, 1\]; \[9\] is wanted'),
    'numbers': (lambda y, m: _found(y, m).long(), 'torch.int64; torch.bool is wanted'),
    'fixed cells': (lambda y, m: _found(y[..., :100, :100].contiguous(), m[..., :5, :5].contiguous()), r'every picture is called its own; 5 of 9 .*\(4 x 6 cells of 18 x 15 pixels\)'),
}

wrong = [(name, k, *v) for name, table in dict(window=WINDOW, channel_mask=CHANNEL_MASK, branches=BRANCHES, copies_loss=COPIES_LOSS, copied_noise=COPIED_NOISE).items() for k, v in table.items()]

@pytest.mark.parametrize('name, kind, fn, reason', wrong, ids=[f'{n}: {k}' for n, k, *_ in wrong])
def test_wrong_answers_are_refused_with_their_own_reason(name, kind, fn, reason): assert_refused(CHECKS[name], fn, OTHERS[name], reason)

# --- holes, errors, repetition

@pytest.mark.parametrize('name', CHECKS)
def test_a_hole_is_not_solved_yet_and_shows_what_is_expected(name): assert_hole_is_not_solved(CHECKS[name], 'its own' if name == 'copied_noise' else 'expected')

@pytest.mark.parametrize('name', CHECKS)
def test_errors_become_a_verdict_without_a_traceback(name): assert_error_is_a_verdict(CHECKS[name])

@pytest.mark.parametrize('name, fn', [next(o for o in right if o[0] == name) for name in CHECKS], ids=list(CHECKS))
def test_a_check_repeats_itself_and_draws_no_random_number(name, fn): assert_repeats(CHECKS[name], fn)

def test_chance_alone_refuses_nobody():
    for seed in range(6):
        assert check_window(solutions.compared_window, seed=seed).right and check_channel_mask(own, seed=seed).right and check_copied_noise(solutions.compared_copied_noise, seed=seed).right
    assert all(check_branches(solutions.where_branches, seed=s).right for s in range(3))

def test_pictures_show_where_it_is_wrong():
    assert list(check_window(_diagonal).pictures)[1].startswith('yours') and check_window(_diagonal).ncol == 2
    assert any(k.startswith('yours: 12, 12, 12') for k in check_channel_mask(_dealt).pictures)
    assert 'noise of copy 2' in check_branches(BRANCHES['one noise for all copies'][0]).pictures
    shown = check_copies_loss(COPIES_LOSS['all meet'][0]).pictures
    orange = lambda p: ((p[0] > .85) & (p[2] < .1)).sum()
    assert orange(shown['expected']) == 0 < orange(shown['yours']) and torch.equal(shown['expected'], check_copies_loss(solutions.mean_copies_loss).pictures['yours'])
    found = list(check_copied_noise(COPIED_NOISE['between pictures only'][0]).pictures)
    assert [k for k in found if 'yours' in k] == ['copied, yours: its own #3']

# --- the student's copy

def test_the_notebook_holds_holes_and_no_solution(): assert_holes_and_no_solution('06a_mscn_exercises.ipynb', right)

def test_questions_with_hidden_answers(): assert_questions('06a_mscn_exercises.ipynb', 6, hints=5)
