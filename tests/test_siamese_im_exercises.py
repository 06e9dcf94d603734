"Chapters 08 and 09: every right answer is accepted, every classic wrong one is refused with the reason that names its own fault."
import pytest, torch
from torch.nn import functional as F
from mssl.mae import patchify, sincos_position, unpatchify
from mssl.siamese_im import dense_unigrad, where_is
from mssl.siamese_im_exercises import _BOX1, _BOX2, _FLIPS, _patch_of, check_keep, check_match, check_pixels, check_place, check_price
from mssl.views import random_boxes
from exercises import assert_accepted, assert_error_is_a_verdict, assert_hole_is_not_solved, assert_holes_and_no_solution, assert_questions, assert_refused, assert_repeats, load_solutions, right_answers

solutions = load_solutions('siamese_im')

CHECKS = dict(keep=check_keep, pixels=check_pixels, place=check_place, match=check_match, price=check_price)
OTHERS = dict(keep=[dict(k=33, seed=1), dict(k=32, seed=2)], pixels=[dict(patch=(16, 6)), dict(patch=(12, 12))], place=[dict(grid=(4, 6), seed=1), dict(grid=(6, 6), seed=2)],
              match=[dict(grid=(8, 11), seed=1), dict(grid=(9, 9), seed=2)], price=[dict(D=9, seed=1), dict(D=4, seed=2)])
right = right_answers(solutions, CHECKS)

@pytest.mark.parametrize('name, fn', right, ids=[f.__name__ for _, f in right])
def test_right_answers_are_accepted(name, fn): assert_accepted(CHECKS[name], fn, OTHERS[name])

def test_several_right_answers_each():
    assert min(sum(n == name for n, _ in right) for name in CHECKS) >= 5

# --- 1. what stays

def drawn(x, k, dim=1): return torch.rand(x.shape[:2]).argsort(dim)[:, :k].sort(1).values
def take(x, at): return x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))
def hiding(x, at): return torch.ones(x.shape[:2], dtype=torch.bool).scatter(1, at, False)
def both(x, at): return take(x, at), hiding(x, at)
def keep(of): return lambda x, k: both(x, of(x, k))
own = solutions.argsort_keep
def _in_order_of_noise(x, k): at = torch.rand(x.shape[:2]).argsort(1)[:, :k]; return both(x, at)
def _mae(x, k):
    "facebookresearch/mae: three things, 1 = hidden"
    B, L, D = x.shape
    shuffle = torch.rand(B, L).argsort(1)
    restore, mask = shuffle.argsort(1), torch.ones(B, L)
    mask[:, :k] = 0
    return take(x, shuffle[:, :k]), mask.gather(1, restore), restore
def _shared(x, k): at = drawn(x[:1], k); return both(x, at.expand(len(x), -1))
def _coins(x, k):
    mask = torch.rand(x.shape[:2]) >= k / x.shape[1]
    return x[~mask].view(len(x), k, -1), mask
def _stacked(x, k):
    mask = torch.rand(x.shape[:2]) >= k / x.shape[1]
    return torch.stack([t[~m] for t, m in zip(x, mask)]), mask
def _two_draws(x, k): return own(x, k)[0], own(x, k)[1]
def _replaced(x, k): return both(x, torch.randint(x.shape[1], (len(x), k)).sort(1).values)
def _of_first(x, k): at = drawn(x, k); return take(x[:1].expand_as(x), at), hiding(x, at)
def _rolled(x, k):
    at = (torch.arange(k) + torch.randint(x.shape[1], (len(x), 1))) % x.shape[1]
    return both(x, at.sort(1).values)
def _seeded(x, k): torch.manual_seed(0); return own(x, k)
def _last_never(x, k):
    "randperm of one less"
    n = max(x.shape[1] - 1, k)
    return both(x, torch.rand(len(x), n).argsort(1)[:, :k].sort(1).values)
def _groups(x, k):
    "One of each group of L/k"
    if x.shape[1] % k: return own(x, k)
    n = x.shape[1] // k
    return both(x, torch.arange(k) * n + torch.randint(n, (len(x), k)))
def _one_less(x, k):
    "Above the kth largest, without it"
    noise = torch.rand(x.shape[:2])
    mask = noise <= noise.topk(k, 1).values[:, -1:]
    return take(x, drawn(x, k)), mask
def _in_place(x, k): v, m = own(x, k); x[m] = 0; return v, m
def _turned(x, k):
    "One choice, moved on by one from picture to picture"
    at = (drawn(x[:1], k) + torch.arange(len(x))[:, None]) % x.shape[1]
    return both(x, at.sort(1).values)
def _fours(x, k): at = drawn(x[:(len(x) + 3) // 4], k).repeat_interleave(4, 0)[:len(x)]; return both(x, at)
def _padded(x, k):
    mask = torch.rand(x.shape[:2]) >= k / x.shape[1]
    return torch.stack([F.pad(t[~m], (0, 0, 0, k))[:k] for t, m in zip(x, mask)]), mask

KEEP = {
    'order of noise': (_in_order_of_noise, "order in which they were drawn, as in MAE's own code"),
    'as MAE does it': (_mae, 'returns 3 things; two tensors are wanted, `return visible, mask`'),
    'visible only': (lambda x, k: own(x, k)[0], 'returns one Tensor; two tensors are wanted'),
    'mask first': (lambda x, k: own(x, k)[::-1], 'the mask comes first'),
    'mask inverted': (lambda x, k: (own_ := own(x, k)) and (own_[0], ~own_[1]), 'mask is the wrong way round: True where a token stays; True = hidden, 44 of 64'),
    'one for the batch': (_shared, 'all pictures of the batch hide the same places'),
    'one for four': (_fours, '7[45]% of the pictures hide the same places as their neighbour'),
    'one, moved on': (_turned, 'only 12 different masks'),
    'coins': (_coins, 'do all pictures keep exactly `k` tokens\\? your function stopped with RuntimeError: shape'),
    'coins, stacked': (_stacked, 'do all pictures keep exactly `k` tokens\\? your function stopped with RuntimeError: stack expects each'),
    'coins, padded': (_padded, 'some visible tokens are 0|the mask hides'),
    'two draws': (_two_draws, 'tokens and mask speak of different places: picture 1 holds the token of place'),
    'putting back': (_replaced, 'holds one of its tokens twice: draw without putting back'),
    'tokens of the first': (_of_first, 'picture 2 is given tokens of picture 1'),
    'one piece': (_rolled, 'what stays lies in one piece'),
    'the first ones': (keep(lambda x, k: torch.arange(k).expand(len(x), -1)), 'all pictures of the batch hide the same places'),
    'the same at every call': (_seeded, 'a second call hides the same places'),
    'last never': (_last_never, r'place 12 of 12 stays in 0\.0% of the pictures'),
    'one of each group': (_groups, 'stay together in 0.0% of the pictures; .* is one drawn from each group'),
    'one too few': (_one_less, 'the mask hides 45 of 64 places'),
    'emptied': (lambda x, k: (x.masked_fill((m := own(x, k)[1])[..., None], 0), m), 'all 64 tokens come back; the hidden ones are to leave the list'),
    'k go': (lambda x, k: own(x, x.shape[1] - k) if k < x.shape[1] else own(x, k), '44 of 64 tokens come back; `k` = 20 is how many stay'),
    'one list': (lambda x, k: (own(x, k)[0].flatten(0, 1), own(x, k)[1]), r'the visible tokens have shape \[40, 768\]; \[2, 20, 768\] is wanted'),
    'dropout': (lambda x, k: (own_ := own(x, k)) and (own_[0] * x.shape[1] / k, own_[1]), r'multiplied by 3\.2 \(a dropout\?\)'),
    'noisy': (lambda x, k: (own_ := own(x, k)) and (own_[0] + .1, own_[1]), 'not the tokens that were given'),
    'mask of numbers': (lambda x, k: (own_ := own(x, k)) and (own_[0], own_[1].float()), r'the mask is torch.float32 \[2, 64\]; torch.bool \[2, 64\] is wanted'),
    'mask of tokens': (lambda x, k: (own_ := own(x, k)) and (own_[0], own_[1][..., None]), r'the mask is torch.bool \[2, 64, 1\]; torch.bool \[2, 64\] is wanted'),
    'in place': (_in_place, '`x` in place'),
}

# --- 2. patches to pixels

def read(view, order, swap=False):
    "view and permute by letters: rows, columns, i, j, channels"
    def fn(p, patch, grid):
        size = dict(b=len(p), r=grid[0], c=grid[1], i=patch[0], j=patch[1], k=p.shape[2] // (patch[0] * patch[1]))
        y = p.reshape([size[o] for o in view]).permute([view.index(o) for o in order])
        return y.reshape(len(p), size['k'], *((size['c'] * size['j'], size['r'] * size['i']) if swap else (size['r'] * size['i'], size['c'] * size['j'])))
    return fn
def after(f): return lambda p, patch, grid: f(unpatchify(p, patch, grid))
def _cells(f):
    def fn(p, patch, grid): y = f(p.unflatten(2, (*patch, -1))); return unpatchify(y.flatten(2), patch, grid)
    return fn
def _square(p, patch, grid): n = int(p.shape[1] ** .5); return unpatchify(p, patch, (n, n))
def _three(p, patch, grid): return p.view(len(p), *grid, *patch, 3).permute(0, 5, 1, 3, 2, 4).reshape(len(p), 3, grid[0] * patch[0], grid[1] * patch[1])
def _fold(p, patch, grid): return F.fold(p.mT, (grid[0] * patch[0], grid[1] * patch[1]), patch, stride=patch)
def _channels_last(p, patch, grid): return unpatchify(p, patch, grid).permute(0, 2, 3, 1)
def _first_patch(p, patch, grid): return unpatchify(p[:, :1].expand_as(p), patch, grid)
def _in_place_pixels(p, patch, grid): p += 1; return unpatchify(p - 1, patch, grid)
def _photos_only(p, patch, grid): return unpatchify(p, patch, grid) if p.shape[1] > 40 else p.new_zeros(len(p), p.shape[2] // (patch[0] * patch[1]), patch[0] * grid[0], patch[1] * grid[1])

PIXELS = {
    'column by column': (read('bcrijk', 'bkricj'), 'put down column by column'),
    'grid exchanged': (read('bcrijk', 'bkcirj'), 'rows and columns of the grid are exchanged'),
    'on its side': (read('brcjik', 'bkricj'), 'each patch lies on its side'),
    'patch exchanged': (read('brcjik', 'bkrjci'), 'height and width of a patch are exchanged'),
    'channel by channel': (read('brckij', 'bkricj'), 'read channel by channel; the channels change fastest, pixel by pixel$'),
    'fold': (_fold, 'read channel by channel'),
    'channel by channel, on its side': (read('brckji', 'bkricj'), 'channel by channel.*; and its rows and columns are exchanged'),
    'view': (lambda p, patch, grid: p.reshape(len(p), -1, grid[0] * patch[0], grid[1] * patch[1]), 'nothing was permuted'),
    'channels to the front': (read('brcijk', 'bkrcij'), 'the channels are in front, and the pixels lie patch after patch'),
    'rows in a patch first': (read('brcijk', 'bkircj'), 'rows in a patch and rows of patches are exchanged'),
    'columns in a patch first': (read('brcijk', 'bkrijc'), 'columns in a patch and columns of patches are exchanged'),
    'strewn': (read('brcijk', 'bkirjc'), 'strewn over the picture'),
    'transposed, covered up': (read('brcijk', 'bkcjri'), '`reshape` covered it up'),
    'transposed': (read('brcijk', 'bkcjri', swap=True), r'height and width are exchanged: your function returns shape \[2, 3, 120, 96\]'),
    'batch last': (read('rcijkb', 'bkricj'), 'pictures of the batch are mixed'),
    'on its head': (after(lambda y: y.flip(2)), 'stands on its head'),
    'mirrored': (after(lambda y: y.flip(3)), 'the picture is mirrored'),
    'patches mirrored': (_cells(lambda t: t.flip(3)), 'each patch is mirrored'),
    'BGR': (after(lambda y: y.flip(1)), 'reverse order'),
    'means': (_cells(lambda t: t.mean((2, 3), keepdim=True).expand_as(t)), 'one colour, its mean'),
    'cut': (after(lambda y: y.clamp(0, 1)), r'cut to 0\.\.1'),
    'channels last': (_channels_last, r'channels come last: your function returns shape \[2, 96, 120, 3\]; \[2, 3, 96, 120\] is wanted'),
    'square grid': (_square, r'12 x 10 patches of 8 x 12 pixels and 3 channels: your function stopped with ValueError'),
    'three channels': (_three, 'one channel: 4 x 3 patches of 3 x 5 pixels and 1 channel: your function stopped with RuntimeError'),
    'photos only': (_photos_only, 'one channel: .*none of the usual mistakes'),
    'first patch': (_first_patch, 'none of the usual mistakes'),
    'in place': (_in_place_pixels, '`p` in place'),
}

# --- 3. the place

def no(f): return torch.zeros_like(f)
def mirrored(b, f): return torch.where(f[:, None], torch.stack([b[:, 0], 1 - b[:, 1] - b[:, 3], b[:, 2], b[:, 3]], 1), b)
def as_ends(b): return torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], 1)
def by(first=lambda c, n: (c + .5) / n, last=lambda u, n: u * n - .5, turn2=lambda u, n: 1 - u, turn1=lambda u, n: 1 - u, divide=lambda b1, b2: b1, begin=lambda b1, b2: (b1, b2), length=lambda b1, b2: b2):
    "The plain way, with one step replaced"
    def fn(b1, f1, b2, f2, grid):
        sides = []
        for k, n in enumerate(grid):
            u = first(torch.arange(n), n).expand(len(b1), n)
            u = torch.where(f2[:, None], turn2(u, n), u) if k else u
            start1, start2 = (o[:, k, None] for o in begin(b1, b2))
            u = (start2 + length(b1, b2)[:, k + 2, None] * u - start1) / divide(b1, b2)[:, k + 2, None]
            sides.append(last(torch.where(f1[:, None], turn1(u, n), u) if k else u, n))
        return torch.stack([torch.cartesian_prod(y, x) for y, x in zip(*sides)])
    return fn
def changed(f): return lambda b1, f1, b2, f2, grid: f(where_is(b1, f1, b2, f2, grid), torch.tensor(grid))
def _rows_mirrored(b1, f1, b2, f2, grid):
    swap = lambda b: b[:, [1, 0, 3, 2]]
    w = where_is(swap(b1), f1, swap(b2), f2, (grid[1], grid[0]))
    return w.view(-1, grid[1], grid[0], 2).transpose(1, 2).reshape(len(w), -1, 2).flip(-1)
def _by_column(b1, f1, b2, f2, grid): w = where_is(b1, f1, b2, f2, grid); return w.view(len(w), *grid, 2).transpose(1, 2).flatten(1, 2)
def _rows_shape(b1, f1, b2, f2, grid): return where_is(b1, f1, b2, f2, grid).view(len(b1), *grid, 2)
def _whole(b): return torch.tensor([0., 0, 1, 1]).expand_as(b)
def _four_pairs(b1, f1, b2, f2, grid): return where_is(b1, f1, b2, f2, grid) if len(b1) == 4 else torch.zeros(len(b1), grid[0] * grid[1], 2)
def _in_place_place(b1, f1, b2, f2, grid): w = where_is(b1, f1, b2, f2, grid); b1 += 1; return w
def _one_grid(b1, f1, b2, f2, grid): return where_is(b1, f1, b2, f2, grid).squeeze(0) if len(b1) == 1 else where_is(b1, f1, b2, f2, grid)
def _six_numbers(b1, f1, b2, f2, grid): return solutions.official_place(mirrored(b1, f1), f1, mirrored(b2, f2), f2, grid)

PLACE = {
    'other way': (lambda b1, f1, b2, f2, g: where_is(b2, f2, b1, f1, g), 'other way round: where the patches of view 1 lie in view 2'),
    'no flips': (lambda b1, f1, b2, f2, g: where_is(b1, no(f1), b2, no(f2), g), 'the flips are not used'),
    'flip1 only': (lambda b1, f1, b2, f2, g: where_is(b1, f1, b2, no(f2), g), '`flip2` is not used'),
    'flip2 only': (lambda b1, f1, b2, f2, g: where_is(b1, no(f1), b2, f2, g), '`flip1` is not used'),
    'flips merged': (lambda b1, f1, b2, f2, g: where_is(b1, no(f1), b2, f1 ^ f2, g), 'the two flips are made one'),
    'either flip': (lambda b1, f1, b2, f2, g: where_is(b1, no(f1), b2, f1 | f2, g), 'both mirrored count as mirrored once'),
    'flip before crop': (lambda b1, f1, b2, f2, g: where_is(mirrored(b1, f1), f1, mirrored(b2, f2), f2, g), 'flip first, then crop, as in the official code'),
    'six numbers as they are': (_six_numbers, 'flip first, then crop, as in the official code'),
    'rows mirrored': (_rows_mirrored, 'rows are mirrored; a flip exchanges left and right'),
    'mirrored about n in view 1': (by(turn1=lambda u, n: 1 + 1 / n - u), 'mirrored in view 1, a place is one patch too far right'),
    'mirrored about n in view 2': (by(turn2=lambda u, n: 1 + 1 / n - u), 'mirrored in view 2, a patch is one too far'),
    'no half at the end': (by(last=lambda u, n: u * n), 'half a patch is missing at the end'),
    'corners of view 2': (lambda b1, f1, b2, f2, g: by(first=lambda c, n: c / n, turn2=lambda u, n: 1 - 1 / n - u + 1 / n)(b1, f1, b2, f2, g), 'these are the corners of the patches of view 2'),
    'corners of both': (by(first=lambda c, n: c / n, last=lambda u, n: u * n), 'corners, in view 2 and in view 1'),
    'linspace': (by(first=lambda c, n: torch.linspace(0, 1, n)), 'first and last column are put on the border of view 2'),
    'linspace in both': (by(first=lambda c, n: torch.linspace(0, 1, n), last=lambda u, n: u * (n - 1)), 'first and last patches are put on the borders of the views'),
    'shares': (by(last=lambda u, n: u), 'these are shares of view 1; its patches are the unit'),
    'places in the picture': (lambda b1, f1, b2, f2, g: by(last=lambda u, n: u)(_whole(b1), no(f1), b2, f2, g), 'places in the picture, as shares'),
    'patches of the picture': (lambda b1, f1, b2, f2, g: where_is(_whole(b1), no(f1), b2, f2, g), 'patches of the whole picture'),
    'column first': (changed(lambda w, n: w.flip(-1)), 'the column comes first'),
    'column by column': (_by_column, 'come column by column; row by row'),
    'grid exchanged': (changed(lambda w, n: (w + .5) / n * n.flip(0) - .5), 'rows are multiplied by the number of columns'),
    'pushed to the border': (changed(lambda w, n: torch.minimum(w.clamp_min(0), n - 1.)), 'pushed to its border; they stay'),
    'pushed to the edge': (changed(lambda w, n: torch.minimum(w.clamp_min(-.5), n - .5)), 'pushed to its border; they stay'),
    'rounded': (changed(lambda w, n: w.round()), 'rounded to whole patches'),
    'integers': (changed(lambda w, n: w.round().long()), 'torch.int64; floating point'),
    'ends': (lambda b1, f1, b2, f2, g: where_is(as_ends(b1), f1, as_ends(b2), f2, g), 'read as where it ends'),
    'unit of view 2': (by(divide=lambda b1, b2: b2), "divided by view 2's size"),
    'no shift': (by(begin=lambda b1, b2: (b1, b1)), 'as if they began at the same place'),
    'no scale': (by(length=lambda b1, b2: b1), 'as if they were equally large'),
    'first picture': (changed(lambda w, n: w[:1].expand_as(w)), 'the places of the first one'),
    'rows and columns': (_rows_shape, r'returns shape \[4, 5, 7, 2\]; \[4, 35, 2\] is wanted'),
    'by heart': (_four_pairs, '60 others on a grid of 3 x 4 are not: are numbers of the pictures'),
    'squeezed': (_one_grid, r'1 pairs on a grid of 1 x 6: your function returns shape \[6, 2\]'),
    'in place': (_in_place_place, '`b1` in place'),
    'something else': (changed(lambda w, n: w * 1.1), r'pair \d, the patch in row \d, column \d of view 2 lies at \(.*none of the usual mistakes'),
}

# --- 4. the patch

def split(place): return place[..., 0], place[..., 1]
def match(to=torch.round, ok='own', none=-1, width=None, add=0, clamp=False):
    "Round, look, number: with one step replaced"
    def fn(place, grid):
        n, true = torch.tensor(grid), _patch_of(place, grid)[2]
        o = to(place)
        inside = dict(own=((o >= 0) & (o < n)).all(-1), true=true, all=torch.ones_like(true), rows=((o >= 0) & (o < n))[..., 0], cols=((o >= 0) & (o < n))[..., 1], low=(o >= 0).all(-1), high=(o < n).all(-1),
                      middle=((place >= 0) & (place <= n - 1)).all(-1), zero=((place >= 0) & (place < n)).all(-1), minus=((place > -1) & (place < n)).all(-1))[ok]
        if clamp: o = torch.minimum(o.clamp_min(0), n - 1.)
        number = (o[..., 0] * (grid[1] if width is None else grid[width]) + o[..., 1]).long() + add
        return torch.where(inside, number, none)
    return fn
def changed_match(f): return lambda place, grid: f(*(o.long() for o in split(place.round())), *grid)
def truth(place, grid): return _patch_of(place, grid)[0].long()
def _by_number(r, c, rows, cols): v = r * cols + c; return torch.where((v >= 0) & (v < rows * cols), v, -1)
def _inside(r, c, rows, cols): return (r >= 0) & (r < rows) & (c >= 0) & (c < cols)
def _number_first(place, grid): v = (place[..., 0] * grid[1] + place[..., 1]).round().long(); return torch.where(_patch_of(place, grid)[2], v, -1)
def _number_first_range(place, grid): v = (place[..., 0] * grid[1] + place[..., 1]).round().long(); return torch.where((v >= 0) & (v < grid[0] * grid[1]), v, -1)
def _rows_and_columns(place, grid): return place.round().long()
def _in_place_match(place, grid): place += .5; return truth(place - .5, grid)
def _photos_match(place, grid): return truth(place, grid) if place.shape[1] > 60 and place.shape[1] != 400 else torch.zeros(place.shape[:2], dtype=torch.long)
def _nearest(place, grid): return torch.cdist(place, torch.cartesian_prod(*map(torch.arange, grid)).float().expand(len(place), -1, -1)).argmin(-1)
def _empty_stops(place, grid):
    out = truth(place, grid)
    return out + 0 * out[out >= 0].max()

MATCH = {
    'cut off': (match(torch.trunc), 'cut off towards 0'),
    'cut off, inside right': (match(torch.trunc, 'true'), 'rounded down .*not negative'),
    'down': (match(torch.floor), 'rounded down'),
    'down, from 0': (match(torch.floor, 'zero'), 'rounded down'),
    'up': (match(torch.ceil), 'rounded up'),
    'nearest': (_nearest, 'given the nearest patch of the border'),
    'around': (changed_match(lambda r, c, rows, cols: r % rows * cols + c % cols), r'begin anew \(`%`\)'),
    'unchecked': (match(ok='all'), 'nothing is outside: such places get numbers too'),
    'by number': (changed_match(_by_number), 'read off its number, and what leaves a row at its side slips into the next'),
    'rows only': (match(ok='rows'), 'only rows are looked at'),
    'columns only': (match(ok='cols'), 'only columns are looked at'),
    'low only': (match(ok='low'), 'only what is above or to the left counts'),
    'high only': (match(ok='high'), 'only what is below or to the right counts'),
    'middles': (match(ok='middle'), 'the outer half of the border patches counts as outside'),
    'from 0': (match(ok='zero'), 'taken to begin at 0'),
    'from 0, clamped': (match(ok='zero', clamp=True), 'taken to begin at 0'),
    'from -1': (match(ok='minus'), 'taken to begin at -1'),
    'from -1, clamped': (match(ok='minus', clamp=True), 'taken to begin at -1'),
    'none is 0': (match(none=0), 'what is outside gets 0, and that is the first patch'),
    'none is L': (lambda place, grid: match(none=grid[0] * grid[1])(place, grid), 'what is outside gets 140'),
    'from 1': (match(add=1), 'counted from 1'),
    'rows times rows': (match(width=0), 'multiplied by the number of rows'),
    'column by column': (lambda place, grid: torch.where(_patch_of(place, grid)[2], (lambda r, c: c * grid[0] + r)(*split(place.round().long())), -1), 'counted column by column'),
    'exchanged': (lambda place, grid: match(lambda o: o.round().flip(-1))(place, grid), 'row and column are exchanged'),
    'number first': (_number_first, 'made one number first and rounded then'),
    'number first, by range': (_number_first_range, 'made one number first and rounded then'),
    'wrong way round': (changed_match(lambda r, c, rows, cols: torch.where(_inside(r, c, rows, cols), -1, r * cols + c)), 'wrong way round: -1 where there is a patch'),
    'first picture': (lambda place, grid: truth(place[:1], grid).expand(len(place), -1), 'the patches of the first one'),
    'rows and columns': (_rows_and_columns, 'row and column come back; make one number of them'),
    'floats': (lambda place, grid: truth(place, grid).float(), 'torch.float32; whole numbers are wanted'),
    'is there one': (lambda place, grid: truth(place, grid) >= 0, 'torch.bool; whole numbers are wanted'),
    'pictures only': (_photos_match, '400 places on a grid of 7 x 5: the place .*none of the usual'),
    'nothing inside': (_empty_stops, 'no place inside: your function stopped with'),
    'in place': (_in_place_match, '`place` in place'),
    'flattened': (lambda place, grid: truth(place, grid).flatten(), r'returns shape \[280\]; \[2, 140\] is wanted'),
}

# --- 5. the price

def rows(f): return lambda p, z: f(p.flatten(0, 1), z.flatten(0, 1))
def quad(P, C): return ((P @ C) * P).sum(1).mean()
def corr(Z): return Z.T @ Z / len(Z)
def scaled(f): return lambda p, z: solutions.plain_price(p, z) * f(*p.shape)
def unit(o): return F.normalize(o, dim=-1)
def _naive(P, Z): return (P @ (Z.T @ Z / len(Z)) @ P.T).diagonal().mean()
def _pairs(P, Z): return (P @ Z.T).square().mean()
def _numpy_pairs(P, Z): return torch.tensor(((P.numpy() @ Z.numpy().T) ** 2).mean())
def _outer(P, Z): return torch.einsum('md,de,me->m', P, (Z[:, :, None] * Z[:, None]).mean(0), P).mean()
def _without_own(P, Z): g = (P @ Z.T).square(); return g[~torch.eye(len(g), dtype=torch.bool)].mean()
def _in_place_price(p, z): z -= z.mean(); return solutions.plain_price(p, z)
def _per_row(P, Z): return ((P @ corr(Z)) * P).sum(1)
def _cov(P, Z): return quad(P, torch.cov(Z.T))

PRICE = {
    'sum': (rows(lambda P, Z: ((P @ corr(Z)) * P).sum()), '30 times too large: the mean over predictions and the one in `C`'),
    'C a sum': (rows(lambda P, Z: quad(P, Z.T @ Z)), '30 times too large'),
    'two sums': (rows(lambda P, Z: (Z.T @ Z * (P.T @ P)).sum()), '30² times too large'),
    'mean of all': (rows(lambda P, Z: ((P @ corr(Z)) * P).mean()), 'D = 6 times too small: over the numbers of a row there is a sum'),
    'by pictures': (lambda p, z: quad(p.flatten(0, 1), torch.einsum('bld,ble->de', z, z) / len(z)), '10 times too large: one mean is over the 3 pictures'),
    'by places': (scaled(lambda B, L, D: B), '3 times too large: one mean is over the 10 patches'),
    'M - 1': (rows(lambda P, Z: quad(P, Z.T @ Z / (len(Z) - 1))), 'divides by M - 1'),
    'lambda': (scaled(lambda B, L, D: .02), 'multiplied by lambda = .02; that comes later'),
    'as in the loss': (scaled(lambda B, L, D: .02 / D), 'multiplied by lambda = .02 and divided by D'),
    'sign': (scaled(lambda B, L, D: -1), 'the sign is wrong'),
    'covariance': (rows(_cov), 'the mean target is subtracted: this is a covariance'),
    'centred': (rows(lambda P, Z: quad(P, corr(Z - Z.mean(0)))), 'the mean target is subtracted: this is a covariance'),
    'of predictions': (rows(lambda P, Z: quad(P, corr(P))), '`C` is made of predictions'),
    'of targets': (rows(lambda P, Z: quad(Z, corr(Z))), 'predictions are not used'),
    'mean target': (rows(lambda P, Z: (P @ Z.mean(0)).square().mean()), '`C` is made of the mean target'),
    'mean prediction': (rows(lambda P, Z: P.mean(0) @ corr(Z) @ P.mean(0)), 'the price of the mean prediction, or the mean over all numbers'),
    'mean of P C P': (rows(lambda P, Z: (P @ corr(Z) @ P.T).mean()), 'the mean over all numbers of P C P\\^T; only its diagonal'),
    'matrix product': (rows(lambda P, Z: (corr(Z) @ P.T @ P).sum() / len(P)), 'only its trace counts'),
    'own target': (rows(lambda P, Z: (P * Z).sum(1).square().mean()), 'meets its own target only; it meets all'),
    'Z^T P': (rows(lambda P, Z: (Z.T @ P / len(P)).square().sum()), 'the square of Z\\^T P'),
    'without its own': (rows(_without_own), 'its own target is left out'),
    'not squared': (rows(lambda P, Z: (P @ Z.T).mean()), 'the products are not squared'),
    'absolute': (rows(lambda P, Z: (P @ Z.T).abs().mean()), 'the products are not squared'),
    'length of C p': (rows(lambda P, Z: (P @ corr(Z)).square().sum(1).mean()), 'length of C p, squared'),
    'C of each picture': (lambda p, z: ((p @ (z.mT @ z / z.shape[1])) * p).sum(2).mean(), 'every picture has a `C` of its own'),
    'C of each place': (lambda p, z: ((p.transpose(0, 1) @ (z.transpose(0, 1).mT @ z.transpose(0, 1) / len(z))) * p.transpose(0, 1)).sum(2).mean(), 'every place has a `C` of its own'),
    'diagonal': (rows(lambda P, Z: (P.square() * Z.square().mean(0)).sum(1).mean()), 'only the diagonal of `C` counts'),
    'no diagonal': (rows(lambda P, Z: quad(P, corr(Z) - corr(Z).diag().diag())), 'the diagonal of `C` is left out'),
    'targets of length 1': (lambda p, z: solutions.plain_price(p, unit(z)), 'the targets are brought to length 1'),
    'predictions of length 1': (lambda p, z: solutions.plain_price(unit(p), z), 'the predictions are brought to length 1'),
    'UniGrad': (lambda p, z: solutions.plain_price(unit(p), unit(z)), 'as in UniGrad itself'),
    'normalised again': (lambda p, z: solutions.plain_price(p, F.layer_norm(z, z.shape[-1:])), 'the targets are normalised again'),
    'cubed': (rows(lambda P, Z: (P @ Z.T).abs().pow(3).mean()), r'expected is \d+\.\d+, yours is \d+\.\d+; it is none of the usual mistakes'),
    'official': (rows(_naive), 'made something of 2000 x 2000 numbers on the way: the table of all pairs'),
    'all pairs': (rows(_pairs), '2000 x 2000 numbers on the way'),
    'all pairs in numpy': (rows(_numpy_pairs), '2000 x 2000 numbers on the way'),
    'a matrix for each row': (rows(_outer), '2000 x 48 x 48 numbers on the way: a matrix for every row'),
    'each row': (rows(_per_row), r'returns shape \[30\]; one number is wanted'),
    'in place': (_in_place_price, '`z` in place'),
}

wrong = [(name, k, *v) for name, table in dict(keep=KEEP, pixels=PIXELS, place=PLACE, match=MATCH, price=PRICE).items() for k, v in table.items()]

@pytest.mark.parametrize('name, kind, fn, reason', wrong, ids=[f'{n}: {k}' for n, k, *_ in wrong])
def test_wrong_answers_are_refused_with_their_own_reason(name, kind, fn, reason):
    assert_refused(CHECKS[name], fn, OTHERS[name], reason)

# --- holes, errors, repetition

@pytest.mark.parametrize('name', CHECKS)
def test_a_hole_is_not_solved_yet_and_shows_what_is_expected(name): assert_hole_is_not_solved(CHECKS[name])

@pytest.mark.parametrize('name', CHECKS)
def test_errors_become_a_verdict_without_a_traceback(name): assert_error_is_a_verdict(CHECKS[name])

@pytest.mark.parametrize('name, fn', [next(o for o in right if o[0] == name) for name in CHECKS], ids=list(CHECKS))
def test_a_check_repeats_itself_and_draws_no_random_number(name, fn): assert_repeats(CHECKS[name], fn)

@pytest.mark.parametrize('name, bad', [('keep', dict(k=63)), ('keep', dict(k=2.)), ('pixels', dict(patch=7)), ('place', dict(grid=(1, 7))), ('match', dict(grid=3)), ('price', dict(D=2))])
def test_settings_that_do_not_fit_are_refused_by_name(name, bad):
    with pytest.raises(ValueError, match=next(iter(bad))): CHECKS[name](None, **bad)

def test_chance_alone_refuses_nobody():
    for seed in range(10): assert check_keep(solutions.argsort_keep, k=10 + seed, seed=seed).right and check_keep(solutions.numpy_keep, seed=seed).right

def test_pictures_show_where_it_is_wrong():
    shown = check_keep(KEEP['order of noise'][0]).pictures
    assert list(shown) == ['expected #0', 'expected #1', 'yours #0', 'yours #1']
    assert list(check_keep(KEEP['as MAE does it'][0]).pictures) == ['expected #0', 'expected #1']
    columns = check_pixels(PIXELS['patches mirrored'][0]).pictures
    assert not torch.equal(columns['yours #0'], columns['expected #0'])
    assert [k[-2:] for k in check_place(PLACE['flip1 only'][0]).pictures] in (['#2', '#2', '#3', '#3'], ['#3', '#3', '#2', '#2']), 'the pairs whose second view is mirrored'
    red = lambda p: ((p - torch.tensor([.85, .1, .1]).view(3, 1, 1)).abs().amax(0) < .01).sum()
    unchecked = check_match(MATCH['unchecked'][0]).pictures
    assert red(unchecked['yours #0']) > 500 and red(unchecked['expected #0']) < 50
    orange = lambda p: ((p[0] > .8) & (p[2] < .1)).sum()
    blue = lambda p: ((p[2] > .8) & (p[0] < .1)).sum()
    a, b = check_price(PRICE['official'][0]).pictures.values()
    assert blue(a) == 25 and 230 ** 2 - orange(b) in range(600, 1000), 'to scale, and of the large one only the diagonal counts'
    a, b = check_price(PRICE['covariance'][0]).pictures.values()
    assert 0 < orange(a) < 100 < orange(b), 'where targets agree nothing is left of the price'

def test_places_on_a_border_between_patches_are_not_asked_for():
    w = where_is(_BOX1, _FLIPS[0], _BOX2, _FLIPS[1], (9, 9))[0] + .5
    assert (w - w.round()).abs().min() < 1e-5, 'this grid has some'
    for fn in (solutions.floor_match, solutions.round_match, lambda place, grid: solutions.floor_match(place - 1e-3, grid)): assert check_match(fn, grid=(9, 9)).right

# --- the student's copy

def test_the_notebook_holds_holes_and_no_solution(): assert_holes_and_no_solution('09b_siamese_im_exercises.ipynb', right)

def test_questions_with_hidden_answers(): assert_questions('09b_siamese_im_exercises.ipynb', 6, hints=5)

def test_the_answers_to_the_questions_hold():
    assert round(17 / 65, 2) == .26 and round((17 / 65) ** 2, 2) == .07 and round(50 / 197, 2) == .25 and round((50 / 197) ** 2, 2) == .06, 'question 1'
    table = sincos_position(8, 96).view(8, 8, 96)
    like = torch.einsum('yxd,vud->yxvu', table, table)
    assert torch.allclose(like[3, 2, 3:6, 2:6], like[0, 0, 0:3, 0:4], atol=1e-4) and torch.allclose(like[3, 2, :3, 2], like[3, 2, 4:7, 2].flip(0), atol=1e-4), 'question 2'
    G, first, moved = 7, torch.tensor([[.1, .2, .6, .6]]), torch.tensor([[.35, .45, .5, .5]])
    neither, both = (where_is(first, torch.tensor([f]), moved, torch.tensor([f]), G)[0].view(G, G, 2) for f in (False, True))
    assert torch.allclose(both[..., 1], G - 1 - neither[..., 1].flip(1), atol=1e-5) and torch.equal(both[..., 0], neither[..., 0]) and (both[..., 1].diff(dim=1) > 0).all(), 'question 3'
    g = torch.Generator().manual_seed(0)
    a, b = (random_boxes(2000, (.08, 1.), aspect=500 / 375, generator=g) for _ in range(2))
    flip = torch.zeros(2000, dtype=torch.bool)
    none = (_patch_of(where_is(a, flip, b, flip, 14), (14, 14))[0] < 0).double().mean()
    assert abs(none - .41) < .03, f'question 4: {none:.2f}'
    z = torch.randn(4000, 96, generator=g, dtype=torch.float64)
    for s in (.5, .9): assert abs(dense_unigrad(s * torch.randn(4000, 96, generator=g, dtype=torch.float64), z).item() - 1 - s ** 2 * 1.02) < .02, 'question 5'
    one = F.layer_norm(torch.randn(96, generator=g, dtype=torch.float64), (96,))
    p = torch.linalg.solve(torch.eye(96, dtype=torch.float64) + .02 * torch.outer(one, one), one)
    assert abs(p.norm() / one.norm() - 1 / 2.92) < 1e-3 and abs(dense_unigrad(p[None], one[None]).item() - .658) < 1e-3, 'question 6'
    assert abs(dense_unigrad(p[None] / p.norm() * one.norm(), one[None], 0.).item()) < 1e-6
