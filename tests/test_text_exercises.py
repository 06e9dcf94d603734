"Chapter 10: every right answer is accepted, every classic wrong one is refused with the reason that names its own fault."
import math

import pytest, torch
from torch.nn import functional as F
from mssl.captions import boxes_in_view
from mssl.text import contrast, text_guided_mask
from mssl.text_exercises import _chances, check_contrast, check_draw, check_found, check_glance, check_word
from exercises import assert_accepted, assert_error_is_a_verdict, assert_hole_is_not_solved, assert_holes_and_no_solution, assert_questions, assert_refused, assert_repeats, load_solutions, right_answers

solutions = load_solutions('text')

CHECKS = dict(word=check_word, draw=check_draw, found=check_found, glance=check_glance, contrast=check_contrast)
OTHERS = dict(word=[dict(n=100, seed=1)], draw=[dict(k=3, seed=1)], found=[dict(k=5, seed=1)], glance=[dict(heads=4, seed=1)], contrast=[dict(D=5, seed=1)])
right = right_answers(solutions, CHECKS)

@pytest.mark.parametrize('name, fn', right, ids=[f.__name__ for _, f in right])
def test_right_answers_are_accepted(name, fn): assert_accepted(CHECKS[name], fn, OTHERS[name])

def test_several_right_answers_each(): assert min(sum(n == name for n, _ in right) for name in CHECKS) >= 5

# --- 1. the place

word = solutions.plain_word
def middle(box, crop, flip, cut=True, of=.5):
    m0, m1 = ((box[:, :2] + o * box[:, 2:] - crop[:, :2]) / crop[:, 2:] for o in (0, 1))
    if cut: m0, m1 = m0.clamp(0, 1), m1.clamp(0, 1)
    if flip is not None: m0, m1 = (torch.stack([a[:, 0], torch.where(flip, 1 - b[:, 1], a[:, 1])], 1) for a, b in ((m0, m1), (m1, m0)))
    return m0 * (1 - of) + m1 * of
def nine(m): at = (m * 3).long().clamp(0, 2); return 3 * at[:, 0] + at[:, 1]
WORD = {
    'no flip': (lambda b, c, f: word(b, c, torch.zeros_like(f)), '`flip` is not used'),
    'no crop': (lambda b, c, f: word(b, torch.tensor([0., 0, 1, 1]).expand_as(c), f), '`crop` is not used'),
    'neither': (lambda b, c, f: word(b, torch.tensor([0., 0, 1, 1]).expand_as(c), f & False), 'neither `crop` nor `flip`'),
    'other views mirrored': (lambda b, c, f: word(b, c, ~f), 'mirrored where `flip` is False'),
    'all mirrored': (lambda b, c, f: word(b, c, f | True), 'all views are mirrored'),
    'flip first': (lambda b, c, f: word(b, torch.where(f[:, None], torch.stack([c[:, 0], 1 - c[:, 1] - c[:, 3], c[:, 2], c[:, 3]], 1), c), f), 'mirrored first and cropped then'),
    'not cut': (lambda b, c, f: nine(middle(b, c, f, cut=False)), 'only the part in view'),
    'rows mirrored': (lambda b, c, f: nine((lambda m: torch.stack([torch.where(f, 1 - m[:, 0], m[:, 0]), m[:, 1]], 1))(middle(b, c, None))), 'rows are mirrored'),
    'column first': (lambda b, c, f: (lambda n: n % 3 * 3 + n // 3)(word(b, c, f)), 'row and column are exchanged'),
    'from 1': (lambda b, c, f: word(b, c, f) + 1, 'counted from 1'),
    'corner': (lambda b, c, f: nine(middle(b, c, f, of=0.)), 'corner of the object, not its middle'),
    'far corner': (lambda b, c, f: nine(middle(b, c, f, of=1.)), 'far corner'),
    'first': (lambda b, c, f: word(b, c, f)[:1].expand(len(b)).clone(), 'place of the first one'),
    'floating point': (lambda b, c, f: word(b, c, f).float(), 'whole numbers are wanted'),
    'pairs': (lambda b, c, f: torch.stack([word(b, c, f)] * 2, 1), r'returns shape \[2, 2\]; \[2\] is wanted'),
    'by heart': (lambda b, c, f: word(b, c, f) if len(b) > 2 else torch.tensor([0] * len(b)), 'single picture|written into your function'),
    'in place': (lambda b, c, f: (word(b, c, f), b.add_(1))[0], '`b` in place'),
    'something else': (lambda b, c, f: (word(b, c, f) + 4) % 9, 'none of the usual mistakes'),
}

# --- 2. the draws

draw = solutions.gumbel_draw
def top(score): return lambda r, k: torch.zeros_like(r, dtype=torch.bool).scatter(1, score(r, torch.rand_like(r)).topk(k, 1).indices, True)
def gumbel(u): return -(-u.log()).log()
def _replaced(r, k): return F.one_hot(r.softmax(1).multinomial(max(k, 1), replacement=True), r.shape[1]).bool().any(1)
def _seeded(r, k): torch.manual_seed(0); return draw(r, k)
def _of_first(r, k): return draw(r[:1].expand_as(r), k)
DRAW = {
    'most': (top(lambda r, u: r + 1e-9 * u), 'chance has no part|none of the usual'),
    'random': (top(lambda r, u: u), 'the relevance plays no part'),
    'least': (top(lambda r, u: gumbel(u) - r), 'hidden least often: the sign is wrong'),
    'sign of the noise': (top(lambda r, u: r - gumbel(u)), 'noise has the wrong sign'),
    'Gaussian': (top(lambda r, u: r + torch.randn_like(u)), 'noise is Gaussian'),
    'uniform': (top(lambda r, u: r + u), 'noise is uniform'),
    'one logarithm': (top(lambda r, u: r - u.log()), 'one logarithm is missing'),
    'one logarithm, added': (top(lambda r, u: r + u.log()), 'one logarithm is missing'),
    'twice': (lambda r, k: draw(2 * r, k), r'exp\(2 relevance\)'),
    'half': (lambda r, k: draw(r / 2, k), r'exp\(relevance / 2\)'),
    'softmax twice': (lambda r, k: draw(r.softmax(1), k), 'softmax was taken twice'),
    'putting back': (_replaced, 'with putting back, a patch comes twice|of .* patches are hidden'),
    'inverted': (lambda r, k: ~draw(r, k), 'wrong way round: True = hidden'),
    'seeded': (_seeded, 'a second call hides the same patches'),
    'one for all': (lambda r, k: draw(r[:1], k).expand(len(r), -1), 'all pictures of the batch hide the same'),
    'one for two': (lambda r, k: draw(r[::2], k).repeat_interleave(2, 0)[:len(r)], 'neighbours in the batch hide the same'),
    'of the first': (_of_first, 'relevance of the first one'),
    'one less': (lambda r, k: draw(r, max(k - 1, 0)), r'15 to 15 of 64 patches are hidden; `k` = 16'),
    'numbers': (lambda r, k: draw(r, k).float(), 'torch.bool is wanted'),
    'places': (lambda r, k: r.topk(k, 1).indices, r'returns shape \[500, 16\]; \[500, 64\] is wanted'),
    'in place': (lambda r, k: (draw(r, k), r.mul_(2))[0], '`r` in place'),
}

# --- 3. what is found

def at(order, right=None): return lambda s, key, k: ((key[:, None] == key) if right is None else right(s)).gather(1, order(s)[:, :k]).any(1)
def best(s): return s.argsort(1, descending=True)
def same(key): return key[:, None] == key
FOUND = {
    'own only': (at(best, lambda s: torch.eye(len(s)).bool()), 'only its own caption counts'),
    'columns': (lambda s, key, k: same(key).gather(1, s.T.topk(k, 1).indices).any(1), 'captions ask for pictures'),
    'dimension 0': (lambda s, key, k: same(key).gather(0, s.topk(k, 0).indices).any(0), 'captions ask for pictures'),
    'least similar': (at(lambda s: s.argsort(1)), 'least similar'),
    'one too few': (lambda s, key, k: same(key).gather(1, best(s)[:, :k - 1]).any(1), 'one answer too few'),
    'one too many': (lambda s, key, k: same(key).gather(1, best(s)[:, :k + 1]).any(1), 'one answer too many'),
    'last only': (lambda s, key, k: same(key).gather(1, best(s)[:, k - 1:k])[:, 0], 'only the last of the `k`'),
    'first only': (lambda s, key, k: same(key).gather(1, best(s)[:, :1])[:, 0], 'only the first answer'),
    'all right': (lambda s, key, k: same(key).gather(1, best(s)[:, :k]).all(1), 'all of the `k` answers must be right'),
    'own left out': (lambda s, key, k: solutions.gather_found(s.masked_fill(torch.eye(len(s)).bool(), -9e9), key, k), 'own caption is left out'),
    'inverted': (lambda s, key, k: ~solutions.gather_found(s, key, k), 'wrong way round'),
    'numbers and keys': (lambda s, key, k: (best(s)[:, :k] == key[:, None]).any(1), 'numbers of the answers are compared with the key'),
    'keys and numbers': (lambda s, key, k: (key[best(s)[:, :k]] == torch.arange(len(s))[:, None]).any(1), 'keys of the answers are compared with the number'),
    'recall': (lambda s, key, k: solutions.gather_found(s, key, k).float().mean(), 'its mean is the recall'),
    'numbers': (lambda s, key, k: solutions.gather_found(s, key, k).long(), 'torch.bool is wanted'),
    'in place': (lambda s, key, k: (solutions.gather_found(s, key, k), s.fill_diagonal_(0))[0], '`s` in place'),
}

# --- 4. the glance

def weights(p, cls=0., pad=0.): w = torch.where(p, pad, 1.); w[:, 0] = cls; return w
def by(w, heads=lambda a: a.mean(1), over=lambda w: w.sum(1, keepdim=True).clamp_min(1)): return lambda a, p: (heads(a) * w(p)[..., None]).sum(1) / over(w(p))
own = solutions.weight_glance
def _batch(a, p): w = weights(p); return (a.mean(1) * w[..., None]).sum((0, 1)).expand(len(a), -1) / w.sum()
def _stretch(a, p): y = own(a, p); low = y.amin(1, keepdim=True); return (y - low) / (y.amax(1, keepdim=True) - low).clamp_min(1e-9)
GLANCE = {
    'padding': (by(lambda p: weights(p, 0., 1.)), 'padding counts too'),
    'cls': (by(lambda p: weights(p, 1.)), r'\[CLS\] counts too'),
    'all': (lambda a, p: a.mean((1, 2)), 'all tokens count'),
    'cls only': (lambda a, p: a[:, :, 0].mean(1), r'this is where \[CLS\] looks'),
    'padding only': (by(lambda p: p.float()), 'only padding counts'),
    'by T': (by(weights, over=lambda w: w.shape[1]), 'number of all tokens; each'),
    'by T - 1': (by(weights, over=lambda w: w.shape[1] - 1), r'all tokens but \[CLS\]'),
    'one too many': (by(weights, over=lambda w: w.sum(1, keepdim=True) + 1), 'counted when it is divided'),
    'sum': (by(weights, over=lambda w: 1), 'sum over the words'),
    'sum of heads': (by(weights, lambda a: a.sum(1)), 'sum over the heads'),
    'largest head': (by(weights, lambda a: a.amax(1)), 'largest of the heads'),
    'first head': (by(weights, lambda a: a[:, 0]), 'only the first head'),
    'largest word': (lambda a, p: (a.mean(1) * weights(p)[..., None]).amax(1), 'largest over the words'),
    'whole batch': (_batch, 'one mean over all words of the batch'),
    'stretched': (_stretch, 'stretched to 0..1'),
    'softmax': (lambda a, p: own(a, p).softmax(1), 'a softmax was taken'),
    'first word': (lambda a, p: a.mean(1)[:, 1], 'only the first word'),
    'nan': (lambda a, p: (a.mean(1) * weights(p)[..., None]).sum(1) / weights(p).sum(1, keepdim=True), 'a caption without a word: your function returns nan'),
    'heads stay': (lambda a, p: a[:, :, 1], r'returns shape \[2, 3, 64\]; \[2, 64\] is wanted'),
    'in place': (lambda a, p: (own(a, p), p.logical_not_())[0], '`p` in place'),
}

# --- 5. the contrast

def both(f): return lambda z, c, key: (f(z @ c.T, key) + f((z @ c.T).T, key)) / 2
def share(key, s): w = same(key).to(s.dtype); return w / w.sum(1, keepdim=True)
def _left_out(s, key): return F.cross_entropy(s.masked_fill(same(key) & ~torch.eye(len(s)).bool(), -1e9), torch.arange(len(s)))
def unit(x): return F.normalize(x, dim=1)
CONTRAST = {
    'own only': (both(lambda s, key: F.cross_entropy(s, torch.arange(len(s)))), 'only its own caption is right'),
    'pictures only': (lambda z, c, key: F.cross_entropy(z @ c.T, share(key, z)), 'only pictures choose'),
    'captions only': (lambda z, c, key: F.cross_entropy(c @ z.T, share(key, z)), 'only captions choose'),
    'added': (lambda z, c, key: 2 * contrast(z, c, key), 'their mean is wanted'),
    'not shared': (both(lambda s, key: F.cross_entropy(s, same(key).to(s.dtype))), 'does not sum to 1'),
    'sum': (both(lambda s, key: F.cross_entropy(s, share(key, s), reduction='sum')), 'the sum over the pictures'),
    'any will do': (both(lambda s, key: -(s.softmax(1) * same(key)).sum(1).log().mean()), 'logarithm of summed chances'),
    'left out': (both(_left_out), 'equal captions are left out'),
    'unit': (lambda z, c, key: contrast(unit(z), unit(c), key), 'z and c are brought to length 1'),
    'unit c': (lambda z, c, key: contrast(z, unit(c), key), 'c is brought to length 1'),
    'unit z': (lambda z, c, key: contrast(unit(z), c, key), 'z is brought to length 1'),
    'temperature': (lambda z, c, key: contrast(z, c / .07, key), 'temperature of .07'),
    'sign': (lambda z, c, key: -contrast(z, c, key), 'sign is wrong'),
    'KL': (both(lambda s, key: F.kl_div(s.log_softmax(1), share(key, s), reduction='batchmean')), 'KL divergence'),
    'sigmoids': (both(lambda s, key: F.binary_cross_entropy_with_logits(s, same(key).to(s.dtype))), 'sigmoids are taken'),
    'all pairs': (both(lambda s, key: F.cross_entropy(s, share(key, s)) / len(s)), 'number of all pairs'),
    'rows': (lambda z, c, key: -(z @ c.T).log_softmax(1).diagonal(), r'returns shape \[10\]; one number is wanted'),
    'something else': (lambda z, c, key: contrast(z, c, key) * 1.3, 'none of the usual mistakes'),
    'in place': (lambda z, c, key: (contrast(z, c, key), z.mul_(2))[0], '`z` in place'),
}

WRONG = dict(word=WORD, draw=DRAW, found=FOUND, glance=GLANCE, contrast=CONTRAST)
wrong = [(name, k, *v) for name, each in WRONG.items() for k, v in each.items()]

@pytest.mark.parametrize('name, fault, fn, reason', wrong, ids=[f'{n}: {k}' for n, k, *_ in wrong])
def test_wrong_answers_are_refused(name, fault, fn, reason): assert_refused(CHECKS[name], fn, OTHERS[name], reason)

@pytest.mark.parametrize('name', CHECKS)
def test_holes_and_errors(name):
    assert_hole_is_not_solved(CHECKS[name])
    assert_error_is_a_verdict(CHECKS[name])

@pytest.mark.parametrize('name', CHECKS)
def test_the_same_verdict_twice(name): assert_repeats(CHECKS[name], next(f for n, f in right if n == name))

def test_settings_are_checked():
    for check, bad in ((check_word, dict(n=3)), (check_draw, dict(k=0)), (check_draw, dict(k=5)), (check_found, dict(k=1)), (check_glance, dict(heads=1)), (check_contrast, dict(D=2))):
        with pytest.raises(ValueError, match=next(iter(bad))): check(print, **bad)

def test_the_notebook():
    assert_questions('10c_text_exercises.ipynb', 5, 5)
    assert_holes_and_no_solution('10c_text_exercises.ipynb', right)

def test_the_questions_say_the_truth():
    "Question 1: the word alone does not tell; 3: chances; 4: floors"
    left = torch.tensor([[.4, .02, .1, .1], [.4, .22, .1, .1]])
    places = word(left, torch.tensor([[0., 0, 1, .33]]).expand(2, -1), torch.tensor([True, True]))
    assert (places % 3).tolist() == [2, 0], 'both are left in the picture'
    assert _chances(torch.tensor([1., 3.]).double(), 1)[1].item() == pytest.approx(.75)
    two = _chances(torch.tensor([1., 3., 1.]).double(), 2)
    assert two.tolist() == pytest.approx([.55, .9, .55])
    m, apart = 5, torch.eye(6, dtype=torch.float64)[[0] * 5 + [1]]
    for key in (torch.arange(6), torch.tensor([0] * 5 + [1])): assert contrast(apart, apart / .001, key).item() == pytest.approx(5 / 6 * math.log(m))
    flat = torch.zeros(4000, 4)
    for mode in ('most', 'least', 'weighted'): assert (text_guided_mask(flat, .5, mode).float().mean(0) - .5).abs().max() < .05
