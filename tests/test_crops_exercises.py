"Chapter 07: every right answer is accepted, every classic wrong one is refused with the reason that names its own fault."
import pytest, torch, torchvision
from torch.nn import functional as F
from mssl.contrastive_crop import center_suppressed_boxes, place_crops, seen_share, symmetric_beta
from mssl.crops_exercises import check_box, check_crops, check_heat, check_overlap, check_renew
from mssl.heatmaps import heatmap, heatmap_box
from mssl.scenes import scenes
from mssl.views import box_iou, random_boxes
from exercises import assert_accepted, assert_error_is_a_verdict, assert_hole_is_not_solved, assert_holes_and_no_solution, assert_questions, assert_refused, assert_repeats, load_solutions, right_answers

solutions = load_solutions('crops')

CHECKS = dict(heat=check_heat, box=check_box, crops=check_crops, overlap=check_overlap, renew=check_renew)
OTHERS = dict(heat=[dict(size=(60, 50)), dict(size=(33, 96), seed=1)], box=[dict(threshold=.25), dict(threshold=.55, seed=1)], crops=[dict(alpha=.4, seed=1), dict(alpha=.75, seed=2)],
              overlap=[dict(seed=1)], renew=[dict(n=20, seed=1), dict(n=11, seed=2)])
right = right_answers(solutions, CHECKS)

@pytest.mark.parametrize('name, fn', right, ids=[f.__name__ for _, f in right])
def test_right_answers_are_accepted(name, fn): assert_accepted(CHECKS[name], fn, OTHERS[name])

def test_several_right_answers_each():
    assert min(sum(n == name for n, _ in right) for name in CHECKS) >= 5

# --- 1. the heat

def up(m, size, **kw): return F.interpolate(m[:, None], size, **(kw or dict(mode='bilinear')))[:, 0]
def stretch(s, over=(1, 2)): return (s - s.amin(over, keepdim=True)) / (s.amax(over, keepdim=True) - s.amin(over, keepdim=True)).clamp_min(1e-9)
def _subtract_only(h, size): s = h.sum(1); return up(s - s.amin((1, 2), keepdim=True), size)
def _over_max(h, size): s = h.sum(1); return up(s / s.amax((1, 2), keepdim=True), size)
def _wrong_max(h, size): s = h.sum(1); return up((s - s.amin((1, 2), keepdim=True)) / s.amax((1, 2), keepdim=True), size)
def _z(h, size): s = h.sum(1); return up((s - s.mean((1, 2), keepdim=True)) / s.std((1, 2), keepdim=True), size)
def _divides(h, size): s = h.sum(1); low, high = s.amin((1, 2), keepdim=True), s.amax((1, 2), keepdim=True); return up((s - low) / (high - low), size)
def _half(h, size): s = h.sum(1); return up(torch.where((s.amax((1, 2)) > s.amin((1, 2)))[:, None, None], stretch(s), .5), size)
def _by_flat(h, size):
    "One flat map, and nobody gets anything"
    m = heatmap(h, size)
    return m if m.amax((1, 2)).min() > 0 else 0 * m
def _in_place(h, size): h -= h.min(); return heatmap(h, size)
def _squeezed(h, size): return heatmap(h, size).squeeze()
def _transposed(h, size): return F.interpolate(stretch(h.sum(1))[:, None], (size[1], size[0]), mode='bilinear')[:, 0]

HEAT = {
    'stretched after': (lambda h, s: stretch(up(h.sum(1), s)), 'stretched after it was enlarged'),
    'whole batch': (lambda h, s: up(stretch(h.sum(1), (0, 1, 2)), s), 'all pictures were stretched together'),
    'over the maximum': (_over_max, 'the lowest was not subtracted'),
    'over max S': (_wrong_max, 'max S - min S, not by max S'),
    'subtracted only': (_subtract_only, 'nothing is divided'),
    'raw sum': (lambda h, s: up(h.sum(1), s), 'nothing was stretched'),
    'raw mean': (lambda h, s: up(h.mean(1), s), 'nothing was stretched'),
    'largest channel': (lambda h, s: up(stretch(h.amax(1)), s), 'the largest channel at each place'),
    'first channel': (lambda h, s: up(stretch(h[:, 0]), s), 'only the first channel'),
    'length': (lambda h, s: up(stretch(h.norm(dim=1)), s), 'squares are added up'),
    'each channel': (lambda h, s: up(stretch(stretch(h, (2, 3)).sum(1)), s), 'each channel was stretched for itself'),
    'inverted': (lambda h, s: up(1 - stretch(h.sum(1)), s), 'wrong way round'),
    'standardised': (_z, 'mean 0 and standard deviation 1'),
    'softmax': (lambda h, s: up(h.sum(1).flatten(1).softmax(1).view(len(h), *h.shape[2:]), s), 'softmax'),
    'nearest': (lambda h, s: up(stretch(h.sum(1)), s, mode='nearest'), 'squares of one value'),
    'align corners': (lambda h, s: up(stretch(h.sum(1)), s, mode='bilinear', align_corners=True), r'align_corners=True'),
    'bicubic': (lambda h, s: up(stretch(h.sum(1)), s, mode='bicubic'), 'bicubically'),
    '0 / 0': (_divides, 'where a map is the same everywhere, max S - min S is 0, and your function returns nan'),
    'flat is .5': (_half, r'comes out at 0\.5, or at 0\.5 where all features are 0; it says nothing'),
    'flat for all': (_by_flat, 'changes the maps of the other pictures'),
    'in place': (_in_place, '`h` in place'),
    'squeezed': (_squeezed, r'one picture, one channel: your function returns shape \[20, 9\]'),
    'height and width exchanged': (_transposed, r'returns shape \[4, 64, 48\]; \[4, 48, 64\] is wanted'),
    'coarse': (lambda h, s: stretch(h.sum(1)), r'returns shape \[4, 6, 8\]'),
    'something else': (lambda h, s: heatmap(h, s)**2, 'none of the usual mistakes'),
}

# --- 2. the box

def hot(m, k): return (m > k) | (m == m.amax((1, 2), keepdim=True))
def tight(on): return heatmap_box(on.float(), .5)
def corners(b): return torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1)
def size(m): return torch.tensor(2 * m.shape[1:])
def _official(m, k):
    "Rows and columns from the first to the last: where they begin"
    out = []
    for o in m:
        rows, cols = (o.amax(1) > k).nonzero(), (o.amax(0) > k).nonzero()
        out.append([rows[0] / len(o), cols[0] / o.shape[1], rows[-1] / len(o), cols[-1] / o.shape[1]])
    return torch.tensor(out)
def _crashes(m, k):
    b = _official(m, k)
    return torch.cat([b[:, :2], b[:, 2:] - b[:, :2] + 1 / size(m)[:2]], 1)
def _nothing(m, k): return torch.stack([_crashes(o[None], k)[0] if (o > k).any() else torch.zeros(4) for o in m])
def _whole(m, k): return torch.stack([_crashes(o[None], k)[0] if (o > k).any() else torch.tensor([0., 0, 1, 1]) for o in m])
def _first_hottest(m, k):
    "Of several hottest places only the first one counts"
    on = m > k
    return tight(on | F.one_hot(m.flatten(1).argmax(1), m[0].numel()).bool().view_as(m) & ~on.any(2).any(1)[:, None, None])

BOX = {
    'official': (_official, 'begin, as in the official code'),
    'corners': (lambda m, k: corners(heatmap_box(m, k)), 'say where the box ends; they|where the box ends; wanted are its height and width'),
    'last less first': (lambda m, k: heatmap_box(m, k) - torch.tensor([0, 0, 1, 1]) / size(m), r'last - first \+ 1 rows are hot'),
    'pixels': (lambda m, k: heatmap_box(m, k) * size(m), 'these are pixels; divide by'),
    'pixels, last less first': (lambda m, k: heatmap_box(m, k) * size(m) - torch.tensor([0, 0, 1, 1]), r'last - first \+ 1 rows are hot'),
    'pixel corners': (lambda m, k: corners(heatmap_box(m, k)) * size(m), 'pixels, and the last two say where the box ends'),
    'rows and columns': (lambda m, k: heatmap_box(m, k)[:, [1, 0, 3, 2]], 'rows and columns are exchanged'),
    'wrong side': (lambda m, k: heatmap_box(m, k) * size(m) / size(m).flip(0), 'rows are divided by the width'),
    'middle': (lambda m, k: (lambda b: torch.cat([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1))(heatmap_box(m, k)), 'first two numbers are the middle'),
    'whole batch': (lambda m, k: tight((m > k).any(0).expand_as(m)), 'all pictures have one box'),
    'share of the hottest': (lambda m, k: tight(hot(m, k * m.amax((1, 2), keepdim=True))), 'share of the hottest value'),
    'colder': (lambda m, k: tight(m < k), 'this is the whole picture; is the comparison'),
    'means': (lambda m, k: tight((m.mean(2) > k)[:, :, None] & (m.mean(1) > k)[:, None]), 'mean of a row or column'),
    'threshold not used': (lambda m, k: heatmap_box(m, 1.), '`threshold` is not used'),
    'fixed threshold': (lambda m, k: heatmap_box(m, .4), r'`threshold=0\.2`, picture \d: .*none of the usual'),
    'whole picture': (lambda m, k: torch.tensor([0., 0, 1, 1]).repeat(len(m), 1), 'this is the whole picture'),
    'at least': (lambda m, k: tight(m >= min(k, m.max())), r'one place is exactly \.5 and so not \*above\*'),
    'crash': (_crashes, r'nothing is above the threshold \.9, so the hottest place alone is hot: your function stopped with IndexError'),
    'nothing hot, no box': (_nothing, r'nothing is above the threshold \.9, .*: \(.*\) is expected on a map of 6 x 8 places, yours is \(0, 0, 0, 0\)'),
    'nothing hot, whole picture': (_whole, r'nothing is above the threshold \.9, so .* yours is \(0, 0, 1, 1\)'),
    'first of the hottest': (_first_hottest, 'two places are equally the hottest'),
    'integers': (lambda m, k: (heatmap_box(m, k) * size(m)).long(), 'torch.int64; floating point'),
}

# --- 3. the crops

def span(box, side): return [torch.minimum((o - side / 2).clamp_min(0), 1 - side) for o in (box[:, :2], box[:, :2] + box[:, 2:])]
def by(u): # crops whose u comes from a function of (box, alpha)
    def fn(box, side, alpha): a, b = span(box, side); return torch.cat([a + (b - a) * u(box, alpha), side], 1)
    return fn
def beta(box, a): return symmetric_beta(a, (len(box), 2))
def _at(start): return lambda box, side, alpha: torch.cat([start(box, side, beta(box, alpha)), side], 1)
def clip(start, side): return torch.minimum(start.clamp_min(0), 1 - side)
def inside(box, u): return box[:, :2] + box[:, 2:] * u
def _redrawn(box, side, alpha):
    "Drawn again until the crop is inside"
    start = inside(box, beta(box, alpha)) - side / 2
    for _ in range(12): start = torch.where((start < 0) | (start > 1 - side), inside(box, beta(box, alpha)) - side / 2, start)
    return torch.cat([clip(start, side), side], 1)
def _ends(box, side, alpha): y = place_crops(box, side, alpha); return corners(y)
def _seeded(box, side, alpha): torch.manual_seed(0); return place_crops(box, side, alpha)
def _as_corners(box, side, alpha): a, b = (clip(o - side / 2, side) for o in (box[:, :2], box[:, 2:])); return torch.cat([a + (b - a) * beta(box, alpha), side], 1)
def _within(box, side, alpha):
    "All of the crop in the box, where it fits"
    return torch.cat([clip(box[:, :2] + (box[:, 2:] - side) * beta(box, alpha), side), side], 1)
def _one_cut(box, side, alpha):
    "As the official code was at first: a cut below only, b cut above only"
    a, b = (box[:, :2] - side / 2).clamp_min(0), torch.minimum(box[:, :2] + box[:, 2:] - side / 2, 1 - side)
    return torch.cat([a + (b - a) * beta(box, alpha), side], 1)

CROPS = {
    'uniform': (by(lambda b, a: torch.rand(len(b), 2)), r'`alpha=0\.6, rows`|`alpha=0\.6`, rows: `alpha` is not used: the centres are spread evenly'),
    'a hill': (by(lambda b, a: beta(b, 1 / a)), r'`alpha=0\.6`, rows: the centres keep to the middle'),
    'Beta(alpha, 1)': (by(lambda b, a: torch.rand(len(b), 2) ** (1 / a)), r'leans to one side, as Beta\(alpha, 1\)'),
    'Beta(1, alpha)': (by(lambda b, a: 1 - torch.rand(len(b), 2) ** (1 / a)), r'leans to one side, as Beta\(1, alpha\)'),
    'always .6': (by(lambda b, a: beta(b, .6)), r'`alpha=2`, rows: `alpha` is not used: it is \.6 always'),
    'always .1': (by(lambda b, a: beta(b, .1)), r'`alpha` is not used: it is \.1 always'),
    'half alpha': (by(lambda b, a: beta(b, a / 2)), r'Beta\(alpha / 2, alpha / 2\)'),
    'border only': (by(lambda b, a: (torch.rand(len(b), 2) < .5).float()), 'different places|on the border of the box only'),
    'columns evenly': (by(lambda b, a: torch.stack([beta(b, a)[:, 0], torch.rand(len(b))], 1)), r'`alpha=0\.6`, columns: `alpha` is not used'),
    'a bell': (by(lambda b, a: (.5 + .1 * torch.randn(len(b), 2)).clamp(0, 1)), r'`u` has a mean of 0\.50 and a standard deviation of 0\.10, a Beta\(0\.6, 0\.6\) has \.50 and 0\.34'),
    'one draw for both': (by(lambda b, a: beta(b, a)[:, :1].expand(-1, 2)), r'rows and columns hang together \(correlation 1\.00\)'),
    'one the other way': (by(lambda b, a: (lambda u: torch.cat([u, 1 - u], 1))(beta(b, a)[:, :1])), r'rows and columns hang together \(correlation -1\.00\)'),
    'one for the batch': (by(lambda b, a: beta(b[:1], a).expand(len(b), 2)), 'all pictures of the batch have the same place'),
    'one for four': (by(lambda b, a: beta(b[:(len(b) + 3) // 4], a).repeat_interleave(4, 0)[:len(b)]), '4000 pictures have only (1000|999) different places'),
    'the same at every call': (_seeded, 'second call gives the same crops'),
    'corner in the box': (_at(lambda b, s, u: clip(inside(b, u), s)), 'top left corner of the crop is put into the box'),
    'far corner in the box': (_at(lambda b, s, u: clip(inside(b, u) - s, s)), 'bottom right corner of the crop'),
    'rows and columns': (lambda b, s, a: torch.cat([place_crops(b[:, [1, 0, 3, 2]], s, a)[:, :2], s], 1), 'rows and columns are exchanged'),
    'box ignored': (lambda b, s, a: torch.cat([torch.rand(len(b), 2) * (1 - s), s], 1), r'box of no size at \(0\.4, 0\.6\): the centre of a crop belongs there'),
    'box read as corners': (_as_corners, r'box of no size at \(0\.4, 0\.6\)'),
    'never pushed back': (_at(lambda b, s, u: inside(b, u) - s / 2), '4 of 4 crops near a corner leave the picture'),
    'pushed back afterwards': (_at(lambda b, s, u: clip(inside(b, u) - s / 2, s)), r'corner top left: [345]\d% of the starts lie exactly at an end .*first cut the range, then draw'),
    'drawn again': (_redrawn, 'box in the corner top left: `alpha=0.6`, rows: '),
    'all inside the box': (_within, r'box of no size at \(0\.4, 0\.6\)|`u`'),
    'cut at one end only': (_one_cut, 'crops near a corner leave the picture'),
    'ends': (_ends, 'third and fourth number say where the crop ends'),
    'size of the box': (lambda b, s, a: torch.cat([place_crops(b, s, a)[:, :2], b[:, 2:]], 1), 'as large as their boxes'),
    'sides exchanged': (lambda b, s, a: torch.cat([place_crops(b, s, a)[:, :2], s.flip(1)], 1), 'height and width are exchanged'),
    'sides first': (lambda b, s, a: place_crops(b, s, a).roll(2, 1), 'height and width come first'),
    'smaller crops': (lambda b, s, a: place_crops(b, s * .9, a), 'other sizes than `side` says'),
    'start only': (lambda b, s, a: place_crops(b, s, a)[:, :2], r'returns shape \[8, 2\]; \[8, 4\] is wanted'),
}

# --- 4. the overlap

def parts(a, b):
    near, far = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    return far - near, a[:, 2:].prod(1), b[:, 2:].prod(1)
def _of(f): return lambda a, b: f(*parts(a, b))
def area(d): return d.clamp_min(0).prod(1)
def span_of(a, b): return torch.maximum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
def _plus_one(a, b): d, s, t = parts(a, b)[0] + 1, *((o[:, 2:] + 1).prod(1) for o in (a, b)); return area(d) / (s + t - area(d))
def _as_ends(a, b): d = area(torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])); return d / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - d)
def xyxy(o): return torch.cat([o[:, :2], o[:, :2] + o[:, 2:]], 1)
def _by_heart(a, b): return box_iou(a, b) if len(a) == 9 else torch.zeros(len(a))
def _squeezed_overlap(a, b): return box_iou(a, b).squeeze()

OVERLAP = {
    'minus times minus': (_of(lambda d, s, t: d.prod(1) / (s + t - d.prod(1))), 'minus times minus is plus'),
    'cut too late': (_of(lambda d, s, t: d.prod(1).clamp_min(0) / (s + t - d.prod(1).clamp_min(0))), 'minus times minus is plus'),
    'counted twice': (_of(lambda d, s, t: area(d) / (s + t)), 'counted twice'),
    'Dice': (_of(lambda d, s, t: 2 * area(d) / (s + t)), 'Dice'),
    'share of a': (_of(lambda d, s, t: area(d) / s), 'share of `a`'),
    'share of b': (_of(lambda d, s, t: area(d) / t), 'share of `b`'),
    'over the smaller': (_of(lambda d, s, t: area(d) / torch.minimum(s, t)), 'smaller area stands below'),
    'over the larger': (_of(lambda d, s, t: area(d) / torch.maximum(s, t)), 'larger area stands below'),
    'around both': (lambda a, b: area(parts(a, b)[0]) / span_of(a, b).prod(1), 'one box around both'),
    'shared area': (_of(lambda d, s, t: area(d)), 'shared area itself'),
    'distance': (lambda a, b: 1 - box_iou(a, b), '1 minus the overlap'),
    'per axis': (lambda a, b: (parts(a, b)[0].clamp_min(0) / span_of(a, b)).prod(1), 'it is the same to multiply the overlaps'),
    'plus one': (_plus_one, r'`\+ 1` is for whole pixels'),
    'ends': (_as_ends, 'read as where a box ends'),
    'torchvision on sides': (lambda a, b: torchvision.ops.box_iou(a, b).diagonal(), 'read as where a box ends'),
    'matrix': (lambda a, b: torchvision.ops.box_iou(xyxy(a), xyxy(b)), 'every box of `a` with every one of `b`'),
    'generalised': (lambda a, b: torchvision.ops.generalized_box_iou(xyxy(a), xyxy(b)).diagonal(), 'none of the usual mistakes'),
    'one number': (lambda a, b: box_iou(a, b).mean(), r'returns shape \[\]; \[9\] is wanted'),
    'by heart': (_by_heart, '500 others are not: are numbers of the pictures'),
    'squeezed': (_squeezed_overlap, r'1 pairs: your function returns shape \[\]; \[1\] is wanted'),
}

# --- 5. the table

own = solutions.loop_renew
def _put(t, rows, box): t = t.clone(); t[rows] = box; return t
def _sums(t, i, b): return torch.zeros_like(t).index_add(0, i[i >= 0], b[i >= 0]), torch.zeros(len(t)).index_add(0, i[i >= 0], torch.ones(int((i >= 0).sum())))[:, None]
def _divided(t, i, b): s, c = _sums(t, i, b); return s / c
def _last(t, i, b):
    t = t.clone()
    for k, o in zip(i.tolist(), b):
        if k >= 0: t[k] = o
    return t
def _first(t, i, b): return _last(t, i.flip(0), b.flip(0))
def _sum(t, i, b): s, c = _sums(t, i, b); return torch.where(c > 0, s, t)
def _with_old(t, i, b): s, c = _sums(t, i, b); return torch.where(c > 0, (s + t) / (c + 1), t)
def _half_old(t, i, b): return torch.where(_sums(t, i, b)[1] > 0, (own(t, i, b) + t) / 2, t)
def _minus_last(t, i, b):
    t = t.clone()
    for k in set(i.tolist()): t[k] = b[i == k].mean(0)
    return t
def _minus_left_out(t, i, b): return t.clone() if (i < 0).any() else own(t, i, b)
def _table_in_place(t, i, b): t[i] = b; return t
def _moved(t, i, b): return own(t, torch.where(i >= 0, (i + 1) % len(t), i), b)
def _empty_mean(t, i, b): return own(t, i, b) if len(i) else t * float('nan')
def _stacks(t, i, b):
    "torch.stack of nothing"
    found = [(k, b[i == k].mean(0)) for k in i.unique().tolist() if k >= 0]
    return t.index_copy(0, torch.tensor([k for k, _ in found]), torch.stack([o for _, o in found]))

RENEW = {
    'by position': (lambda t, i, b: _put(t, torch.arange(len(i)), b), 'first rows of the table, in the order of the batch'),
    'sorted': (lambda t, i, b: _put(t, i.sort()[0], b), r'wrong order \(sorted\?\)'),
    'others 0': (lambda t, i, b: _sums(t, i, b)[0] / _sums(t, i, b)[1].clamp_min(1), 'lost their boxes: their rows are 0'),
    'others whole': (lambda t, i, b: own(torch.tensor([0., 0, 1, 1]).repeat(len(t), 1), i, b), 'got the whole picture; they keep'),
    '0 / 0': (_divided, 'no box came are to keep their rows, and your function returns nan'),
    'half old': (_half_old, 'averaged with the old ones'),
    'with the old': (_with_old, 'averaged with the old ones'),
    'added': (lambda t, i, b: t + _sums(t, i, b)[0], 'added to the old ones'),
    'unchanged': (lambda t, i, b: t.clone(), 'comes back as it was'),
    'last': (_last, 'repeated pictures: only the last box counts'),
    'first': (_first, 'repeated pictures: only the first box counts'),
    'sum': (_sum, 'repeated pictures: boxes are added up'),
    '-1 is the last': (_minus_last, 'batch with -1 in it: -1 counts from the end in Python'),
    '-1 is picture 0': (lambda t, i, b: own(t, i.clamp_min(0), b), r'batch with -1 in it: -1 was taken for picture 0 \(a `clamp`\?\)'),
    '-1 is picture 1': (lambda t, i, b: own(t, i.abs(), b), r'-1 was taken for picture 1 \(an `abs`\?\)'),
    'batches with -1 left out': (_minus_left_out, 'left out altogether; leave out such rows only'),
    '-1 is an error': (lambda t, i, b: torch.where((c := torch.zeros(len(t), 1).index_add(0, i, torch.ones(len(i), 1))) > 0, torch.zeros_like(t).index_add(0, i, b) / c.clamp_min(1), t), 'batch with -1 in it: your function stopped with'),
    'nothing known': (_stacks, 'batch of nothing but -1: your function stopped with'),
    'nothing at all': (_empty_mean, 'an empty batch: your function returns nan'),
    'mean of all': (lambda t, i, b: torch.where(_sums(t, i, b)[1] > 0, b.mean(0), t), 'all boxes of the batch are averaged'),
    'in place': (_table_in_place, '`t` in place'),
    'counted from 1': (_moved, r'row \d+ of the table is .*none of the usual'),
    'the batch': (lambda t, i, b: b, r'returns shape \[4, 4\]; \[12, 4\] is wanted'),
}

wrong = [(name, k, *v) for name, table in dict(heat=HEAT, box=BOX, crops=CROPS, overlap=OVERLAP, renew=RENEW).items() for k, v in table.items()]

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

def test_chance_alone_refuses_nobody():
    for seed in range(12): assert check_crops(solutions.distribution_crops, seed=seed).right and check_crops(solutions.numpy_crops, alpha=.3 + .04 * seed, seed=seed).right
    for seed in range(4): assert check_overlap(solutions.loop_overlap, seed=seed).right and check_renew(own, seed=seed).right

def test_pictures_show_where_it_is_wrong():
    assert [k for k in check_heat(HEAT['nearest'][0]).pictures] == ['expected #0', 'expected #1', 'yours #0', 'yours #1']
    orange = lambda p: ((p[0] > .95) & (p[2] < .05)).sum()
    for kind in ('by position', 'last'):
        shown = check_renew(RENEW[kind][0]).pictures
        assert len(shown) == 6 and all(orange(p) > 50 for p in shown.values())
    red = lambda p: bool((p[:, 1, 1] == torch.tensor([.85, .1, .1])).all())
    assert [red(p) for p in check_overlap(OVERLAP['cut too late'][0]).pictures.values()] == 6 * [False] + [True] + 2 * [False], 'the pair that lies apart in both directions'
    assert list(check_crops(CROPS['uniform'][0]).pictures)[2:] == ['yours, box in the middle', 'yours, box in a corner']

# --- the student's copy

def test_the_notebook_holds_holes_and_no_solution(): assert_holes_and_no_solution('07b_crops_exercises.ipynb', right)

def test_questions_with_hidden_answers(): assert_questions('07b_crops_exercises.ipynb', 6, hints=5)

def test_the_answers_to_the_questions_hold():
    g = torch.Generator().manual_seed(0)
    corner = torch.tensor([[0., 0, .4, .4]]).expand(20000, 4)
    crop = center_suppressed_boxes(corner, .6, generator=g)
    out = ((crop[:, :2] + crop[:, 2:] / 2) > .4).any(1)
    assert .4 < out.double().mean() < .5, 'question 1: nearly half'
    assert out[(crop[:, 2:] > .8).any(1)].all() and seen_share(crop, corner)[(crop[:, 2:] > .8).all(1)].min() > .999
    sides = random_boxes(20000, generator=g)[:, 2:].mean(0)
    assert abs(.2 ** .5 - .45) < .003 and abs(.2 ** .5 / 2 - .22) < .004, 'question 2'
    small = scenes(200, 64, seed=7, level='small').box
    union = torch.cat([torch.minimum(small[:, :2], small.roll(1, 0)[:, :2]), torch.maximum(*(o[:, :2] + o[:, 2:] for o in (small, small.roll(1, 0))))], 1)
    union = torch.cat([union[:, :2], union[:, 2:] - union[:, :2]], 1)
    def told(box): pair = [center_suppressed_boxes(box.repeat(20, 1), .6, generator=g) for _ in range(2)]; return box_iou(*pair).mean(), (torch.stack([seen_share(o, small.repeat(20, 1)) for o in pair]).amin(0) < .25).double().mean()
    (near, few), (far, many), (none, most) = told(small), told(union), told(torch.tensor([0., 0, 1, 1]).expand(200, 4))
    assert near > far + .02 > none and few + .02 < many < most, 'question 4'
