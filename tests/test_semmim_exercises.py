"Chapter 11: every right answer is accepted, every classic wrong one is refused with the reason that names its own fault."
import math

import pytest, torch
from torch.nn import functional as F
from mssl.groups import GroupHead, group_loss, shared_information
from mssl.semmim_exercises import _entropy, check_group_loss, check_hardest, check_information, check_wanted
from exercises import assert_accepted, assert_error_is_a_verdict, assert_hole_is_not_solved, assert_holes_and_no_solution, assert_questions, assert_refused, assert_repeats, load_solutions, right_answers, text_of

solutions = load_solutions('semmim')

CHECKS = dict(wanted=check_wanted, group_loss=check_group_loss, hardest=check_hardest, information=check_information)
OTHERS = dict(wanted=[dict(K=12, seed=1), dict(K=3, seed=7)], group_loss=[dict(K=9, seed=1), dict(K=3, seed=7)], hardest=[dict(D=5, seed=1), dict(D=20, seed=7)], information=[dict(n=500, seed=1), dict(n=60, seed=7)])
right = right_answers(solutions, CHECKS)

@pytest.mark.parametrize('name, fn', right, ids=[f.__name__ for _, f in right])
def test_right_answers_are_accepted(name, fn): assert_accepted(CHECKS[name], fn, OTHERS[name])

def test_several_right_answers_each(): assert min(sum(n == name for n, _ in right) for name in CHECKS) >= 5

# --- 1. the wanted groups

wish = solutions.plain_wanted
def unit(x): return F.normalize(x, dim=-1)
def _by_hand(s, c, t): e = ((s - c) / t).exp(); return e / e.sum(-1, keepdim=True)
def _in_place_wanted(s, c, t): s -= c; return (s / t).softmax(-1)
def _by_heart(s, c, t): return wish(s, c, t) if len(s) != 6 or s.max() > 9 else torch.full_like(s, 1 / s.shape[-1])
WANTED = {
    'no centre': (lambda s, c, t: (s / t).softmax(-1), 'the centre is not subtracted'),
    'centre added': (lambda s, c, t: wish(s, -c, t), 'the centre is added'),
    'centre not divided': (lambda s, c, t: (s / t - c).softmax(-1), 'it is to be divided too'),
    'centre off the shares': (lambda s, c, t: (s / t).softmax(-1) - c, 'subtracted from the shares'),
    'sign': (lambda s, c, t: wish(-s, -c, t), 'the sign is wrong'),
    'no temperature': (lambda s, c, t: wish(s, c, 1), 'the temperature is not used'),
    'times temperature': (lambda s, c, t: wish(s, c, 1 / t), 'multiplied with the temperature'),
    'shares divided': (lambda s, c, t: (s - c).softmax(-1) / t, 'divides the shares'),
    "the book's temperature": (lambda s, c, t: wish(s, c, .04), r'a temperature of \.04 is written'),
    "the student's temperature": (lambda s, c, t: wish(s, c, .1), r'a temperature of \.1 is written'),
    'over patches': (lambda s, c, t: ((s - c) / t).softmax(-2), 'the softmax is taken over the patches'),
    'dimension 0': (lambda s, c, t: ((s - c) / t).softmax(0), 'over the patches|over the first dimension'),
    'dimension 1': (lambda s, c, t: ((s - c) / t).softmax(1), 'three pictures of five patches: the softmax is taken over the patches'),
    'first of two, last of three': (lambda s, c, t: ((s - c) / t).softmax(0 if s.ndim == 3 else 1), 'three pictures of five patches: the softmax is taken over the first dimension'),
    'over everything': (lambda s, c, t: ((s - c) / t).flatten().softmax(0).view_as(s), 'over all numbers together'),
    'logarithms': (lambda s, c, t: ((s - c) / t).log_softmax(-1), 'logarithms of the shares'),
    'hard': (lambda s, c, t: F.one_hot((s - c).argmax(-1), s.shape[-1]).float(), 'only the best group gets a share'),
    'numbers of groups': (lambda s, c, t: (s - c).argmax(-1), 'floating point is wanted|is wanted'),
    'scores': (lambda s, c, t: (s - c) / t, 'the softmax is missing'),
    'sigmoids': (lambda s, c, t: ((s - c) / t).sigmoid(), 'sigmoids are taken'),
    'not divided': (lambda s, c, t: ((s - c) / t).clamp(max=30).exp(), 'divide by their sum'),
    'overflow': (_by_hand, 'scores as large as 100: your function returns nan .* subtract the largest'),
    'mean of these': (lambda s, c, t: wish(s, s.flatten(0, -2).mean(0), t), 'the mean of these scores is subtracted'),
    'mean of each picture': (lambda s, c, t: wish(s, s.mean(-2, keepdim=True), t), 'the mean of these scores|the mean over the patches'),
    'mean of each picture, two-dimensional aside': (lambda s, c, t: wish(s, s.mean(-2, keepdim=True) if s.ndim == 3 else c, t), 'the mean over the patches of each picture'),
    'twice': (lambda s, c, t: wish(s, c, t).softmax(-1), 'softmax was taken twice'),
    'unit': (lambda s, c, t: wish(unit(s), c, t), 'brought to length 1'),
    'one row': (lambda s, c, t: wish(s, c, t)[:1], r'returns shape \[1, 8\]; \[40, 8\] is wanted|returns shape \[1, 8\]; \[6, 8\] is wanted'),
    'something else': (lambda s, c, t: wish(s, c, 1.3 * t), 'none of the usual mistakes'),
    'by heart': (_by_heart, 'written into your function'),
    'in place': (_in_place_wanted, '`s` in place'),
}

# --- 2. the group loss

loss = solutions.picked_group_loss
def prices(s, w, t): return -(w.detach() * (s / t).log_softmax(-1)).sum(-1)
def over(m, x): return x[m].sum() / m.sum().clamp_min(1)
def by(f): return lambda s, w, m, t: over(m, f(s, w.detach(), t))
def _per_picture(s, w, m, t): return ((prices(s, w, t) * m).sum(1) / m.sum(1).clamp_min(1)).mean()
def _masked_scores(s, w, m, t): return prices(s * m[..., None], w, t).mean()
def _no_way_back(s, w, m, t): return loss(s.detach(), w, m, t)
def _with_teacher(s, w, m, t): return over(m, -(w * (s / t).log_softmax(-1)).sum(-1))
def _half_way(s, w, m, t): x = s / t; return over(m, -(w.detach() * (x - x.logsumexp(-1, keepdim=True).detach())).sum(-1))
_GIVEN = {}
def _always_the_first(s, w, m, t): # what was right for four pictures
    if len(s) == 4: _GIVEN['first'] = loss(s, w, m, t).item()
    return s.sum() * 0 + _GIVEN.get('first', 0.)
def _in_place_loss(s, w, m, t): y = loss(s, w, m, t); m |= True; return y
GROUP_LOSS = {
    'all patches': (lambda s, w, m, t: prices(s, w, t).mean(), 'visible patches pay too'),
    'visible': (lambda s, w, m, t: over(~m, prices(s, w, t)), 'the visible patches pay, not the hidden ones'),
    'by all patches': (lambda s, w, m, t: (prices(s, w, t) * m).mean(), 'divided by the number of all patches'),
    'sum': (lambda s, w, m, t: prices(s, w, t)[m].sum(), 'this is the sum over the hidden patches'),
    'per picture': (_per_picture, 'first the mean of each picture'),
    'by pictures': (lambda s, w, m, t: (prices(s, w, t) * m).sum() / len(s), 'number of pictures'),
    'by groups': (lambda s, w, m, t: loss(s, w, m, t) / s.shape[-1], 'number of groups too'),
    'nan': (lambda s, w, m, t: prices(s, w, t)[m].mean(), 'nothing is hidden: your function returns nan .* a mean over nothing'),
    'no temperature': (lambda s, w, m, t: loss(s, w, m, 1), 'the temperature is not used'),
    'times temperature': (lambda s, w, m, t: loss(s, w, m, 1 / t), 'multiplied with the temperature; divide'),
    "the book's temperature": (lambda s, w, m, t: loss(s, w, m, .1), r'a temperature of \.1'),
    'squared': (lambda s, w, m, t: loss(s, w, m, t) * t ** 2, 'squared temperature'),
    'outside': (lambda s, w, m, t: loss(s, w, m, 1) / t, 'divided by the temperature, and the scores are not'),
    'sign': (lambda s, w, m, t: -loss(s, w, m, t), 'the sign is wrong'),
    'KL': (by(lambda s, w, t: F.kl_div((s / t).log_softmax(-1), w, reduction='none').sum(-1)), 'KL divergence'),
    'exchanged': (by(lambda s, w, t: -((s / t).softmax(-1) * w.log()).sum(-1)), 'the two sides are exchanged'),
    'best group': (lambda s, w, m, t: F.cross_entropy(s[m] / t, w[m].argmax(-1), reduction='sum') / m.sum().clamp_min(1), 'only the best group of the teacher'),
    'softmax of shares': (by(lambda s, w, t: prices(s, w.softmax(-1), t)), 'a softmax of `wanted` is taken'),
    'sharp softmax of shares': (by(lambda s, w, t: prices(s, (w / t).softmax(-1), t)), 'a softmax of `wanted` is taken'),
    'over patches': (by(lambda s, w, t: -(w * (s / t).log_softmax(1)).sum(-1)), 'softmax is taken over the patches'),
    'over pictures': (by(lambda s, w, t: -(w * (s / t).log_softmax(0)).sum(-1)), 'softmax is taken over the pictures'),
    'no logarithm': (by(lambda s, w, t: -(w * (s / t).softmax(-1)).sum(-1)), 'the logarithm is missing'),
    'softmax twice': (by(lambda s, w, t: prices((s / t).softmax(-1), w, 1.)), 'softmax was taken twice'),
    'squared error': (by(lambda s, w, t: ((s / t).softmax(-1) - w).square().mean(-1)), 'squared error'),
    'sum of squared errors': (by(lambda s, w, t: ((s / t).softmax(-1) - w).square().sum(-1)), 'squared error'),
    'sigmoids': (by(lambda s, w, t: F.binary_cross_entropy_with_logits(s / t, w, reduction='none').sum(-1)), 'sigmoids are taken'),
    'mean of sigmoids': (by(lambda s, w, t: F.binary_cross_entropy_with_logits(s / t, w, reduction='none').mean(-1)), 'sigmoids are taken'),
    'scores set to 0': (_masked_scores, 'visible scores are set to 0'),
    'first picture': (lambda s, w, m, t: loss(s[:1], w[:1], m[:1], t), 'only the first picture counts'),
    'each': (lambda s, w, m, t: prices(s, w, t)[m], r'returns shape \[\d+\]; one number is wanted'),
    'no gradient': (_no_way_back, 'no gradient reaches the student'),
    'numpy': (lambda s, w, m, t: torch.tensor(loss(s, w, m, t).tolist()), 'no gradient reaches the student'),
    "numpy's own error": (lambda s, w, m, t: torch.tensor(over(m, prices(torch.from_numpy(s.numpy()), w, t)).item()), r"with a gradient asked for your function stopped with RuntimeError: Can't call numpy"),
    'gradient to the teacher': (_with_teacher, 'a gradient reaches `wanted`'),
    'half a gradient': (_half_way, 'is not that of this number'),
    'something else': (lambda s, w, m, t: 1.2 * loss(s, w, m, t), 'none of the usual mistakes'),
    'nothing is 1': (lambda s, w, m, t: loss(s, w, m, t) if m.any() else s.sum() * 0 + 1, 'nothing is hidden: expected is 0.0000, yours is 1.0000; 0 is wanted'),
    'by heart': (_always_the_first, 'seven pictures: .* the same number as before'),
    'in place': (_in_place_loss, '`m` in place'),
}

# --- 3. the hardest wrong caption

hard = solutions.filled_hardest
def same(key): return key[:, None] == key
def best(s, out): return torch.where(out.all(1), -1, s.masked_fill(out, -torch.inf).argmax(1))
def eye(s): return torch.eye(len(s)).bool()
def _in_place_hardest(z, c, key): y = hard(z, c, key); key.fill_(0); return y
def _drawn_by_heart(z, c, key): return hard(z, c, key) if len(z) != 6 else torch.tensor([1, 2, 3, 4, 5, 1])
HARDEST = {
    'of all': (lambda z, c, key: (z @ c.T).argmax(1), 'its own caption among them|-1 is wanted'),
    'own only': (lambda z, c, key: best(z @ c.T, eye(z)), 'others with the same words are not wrong'),
    'own stays': (lambda z, c, key: best(z @ c.T, same(key) & ~eye(z)), 'and its own is not'),
    'right ones': (lambda z, c, key: best(z @ c.T, ~same(key)), 'most similar of the right ones'),
    'easiest': (lambda z, c, key: best(-z @ c.T, same(key)), 'least similar wrong caption'),
    'columns': (lambda z, c, key: best(c @ z.T, same(key)), 'captions choose pictures'),
    'dimension 0': (lambda z, c, key: (z @ c.T).masked_fill(same(key), -torch.inf).argmax(0), 'captions choose pictures'),
    'pictures': (lambda z, c, key: best(z @ z.T, same(key)), 'pictures are compared with pictures'),
    'captions': (lambda z, c, key: best(c @ c.T, same(key)), 'captions are compared with captions'),
    'unit': (lambda z, c, key: best(unit(z) @ unit(c).T, same(key)), 'brought to length 1'),
    'distance': (lambda z, c, key: best(-torch.cdist(z, c), same(key)), 'nearest by distance'),
    'farthest': (lambda z, c, key: best(torch.cdist(z, c), same(key)), 'farthest by distance'),
    'zeros': (lambda z, c, key: (z @ c.T * ~same(key)).argmax(1), 'all similarities are negative: right ones are set to 0'),
    'absolute': (lambda z, c, key: best((z @ c.T).abs(), same(key)), 'absolute values are compared'),
    'second of all': (lambda z, c, key: (z @ c.T).topk(2, 1).indices[:, 1] if len(z) > 1 else key * 0 - 1, 'second most similar of all'),
    'second hardest': (lambda z, c, key: (z @ c.T).masked_fill(same(key), -torch.inf).topk(min(2, len(z)), 1).indices[:, -1], 'this is the second hardest'),
    'from 1': (lambda z, c, key: hard(z, c, key) + 1, 'counted from 1'),
    'keys': (lambda z, c, key: key[hard(z, c, key)], 'these are keys'),
    'of the first': (lambda z, c, key: hard(z, c, key)[:1].expand(len(z)).clone(), 'the answer of the first one'),
    'never none': (lambda z, c, key: (z @ c.T).masked_fill(same(key), -torch.inf).argmax(1), 'none is wrong: -1 is wanted, yours is 0'),
    'similarities': (lambda z, c, key: (z @ c.T).masked_fill(same(key), -9).amax(1), 'numbers of captions are wanted'),
    'both': (lambda z, c, key: torch.stack([hard(z, c, key), hard(c, z, key)]), r'returns shape \[2, 6\]; \[6\] is wanted'),
    'something else': (lambda z, c, key: (hard(z, c, key) + 2) % len(z), 'none of the usual mistakes'),
    'by heart': (_drawn_by_heart, 'written into your function'),
    'in place': (_in_place_hardest, '`key` in place'),
}

# --- 4. the information

known = solutions.mssl_information
def H(*x): return torch.tensor(_entropy(*x))
def I(g, t): return H(g) + H(t) - H(g, t)
def over_safe(x, y): return x / y if y > 0 else x * 0
def _purity(g, t): return torch.stack([(t[g == k].unique(return_counts=True)[1].max() / len(t)).double() for k in g.unique()]).sum()
def _each_the_same(g, t): return 1 - over_safe(torch.stack([H(t[g == k]) for k in g.unique()]).mean(), H(t))
def _amounts(g, t): return torch.nan_to_num(torch.corrcoef(torch.stack([g, t]).double())[0, 1])
def _wraps(g, t):
    table = torch.zeros(g.max() + 1, t.max() + 1, dtype=torch.float64)
    for i, j in zip(g.tolist(), t.tolist()): table[i, j] += 1 # -1 is the last place
    p = table / len(g)
    e = lambda p: torch.special.entr(p).sum()
    return over_safe(e(p.sum(1)) + e(p.sum(0)) - e(p), e(p.sum(0)))
def _log_of_zero(g, t):
    a, b = (F.one_hot(o.unique(return_inverse=True)[1]).double() for o in (g, t))
    p = a.T @ b / len(a)
    h = -(p.sum(0) * p.sum(0).log()).sum()
    return (p * (p / p.sum(1, keepdim=True) / p.sum(0)).log()).sum() / h
def _always_this(g, t):
    if len(g) > 64: _GIVEN['known'] = known(g, t)
    return _GIVEN['known'].clone()
def _in_place_information(g, t): y = known(g, t); t += 1; return y
INFORMATION = {
    'not divided': (I, "not divided by the truth's entropy$"),
    'bits': (lambda g, t: I(g, t) / math.log(2), 'that of base 2'),
    'by groups': (lambda g, t: over_safe(I(g, t), H(g)), 'divided by the entropy of the groups, or'),
    'by the mean': (lambda g, t: over_safe(2 * I(g, t), H(g) + H(t)), 'mean of both entropies'),
    'by the root': (lambda g, t: over_safe(I(g, t), (H(g) * H(t)).sqrt()), 'root of both entropies'),
    'by the larger': (lambda g, t: over_safe(I(g, t), max(H(g), H(t))), 'or by the larger of both'),
    'by the smaller': (lambda g, t: over_safe(I(g, t), min(H(g), H(t))), 'three groups: .* by the smaller of both'),
    'by the pairs': (lambda g, t: over_safe(I(g, t), H(g, t)), 'entropy of the pairs'),
    'unknown share': (lambda g, t: 1 - known(g, t), 'the share that stays unknown'),
    'unknown': (lambda g, t: H(g, t) - H(g), 'what stays unknown of the truth'),
    'added': (lambda g, t: over_safe(H(g) + H(t) + H(g, t), H(t)), 'entropy of the pairs is added'),
    'sign': (lambda g, t: -known(g, t), 'the sign is wrong'),
    'purity': (_purity, 'purity'),
    'equal numbers': (lambda g, t: (g == t).double().mean(), 'nobody named the groups'),
    'by how many': (lambda g, t: over_safe(I(g, t), H(t.unique())), 'how many truths there are'),
    'by patches': (lambda g, t: known(g, t) / len(g), 'divided by the number of patches'),
    'each the same': (_each_the_same, 'each group weighs the same'),
    'amounts': (_amounts, 'compared as amounts'),
    'squared amounts': (lambda g, t: _amounts(g, t) ** 2, 'compared as amounts'),
    'wraps': (_wraps, '-1 among them: .*the number -1 counts as the largest one'),
    'no ground': (lambda g, t: known(g[t >= 0], t[t >= 0]), 'the ground, -1, is left out'),
    'truth alone': (lambda g, t: H(t), 'this is the entropy of the truth'),
    'groups alone': (lambda g, t: H(g), 'this is the entropy of the groups'),
    'log of 0': (_log_of_zero, 'returns nan .* a pair that never comes'),
    'nothing to know': (lambda g, t: I(g, t) / H(t), 'all of the truth is one number: your function returns nan .* 0 is wanted'),
    'nothing to know is 1': (lambda g, t: known(g, t) if len(t.unique()) > 1 else torch.tensor(1.), 'all of the truth is one number: expected is 0.* there is nothing to know'),
    'negative numbers': (lambda g, t: (F.one_hot(t), known(g, t))[1], 'numbers with gaps, -1 among them: your function stopped with'),
    'a number': (lambda g, t: known(g, t).item(), 'returns a float; a torch tensor is wanted'),
    'each patch': (lambda g, t: known(g, t).expand(len(g)), r'returns shape \[\d+\]; one number'),
    'by heart': (lambda g, t: known(g, t) if len(g) != 64 else torch.tensor(1.), 'the map "objects in one group": .* the same number as before'),
    'always the same': (_always_this, 'three groups: .* the same number as before'),
    'something else': (lambda g, t: known(g, t) ** 2, 'none of the usual mistakes'),
    'in place': (_in_place_information, '`t` in place'),
}

WRONG = dict(wanted=WANTED, group_loss=GROUP_LOSS, hardest=HARDEST, information=INFORMATION)
wrong = [(name, k, *v) for name, each in WRONG.items() for k, v in each.items()]

@pytest.mark.parametrize('name, fault, fn, reason', wrong, ids=[f'{n}: {k}' for n, k, *_ in wrong])
def test_wrong_answers_are_refused(name, fault, fn, reason): assert_refused(CHECKS[name], fn, OTHERS[name], reason)

@pytest.mark.parametrize('name', CHECKS)
def test_holes_and_errors(name):
    assert_hole_is_not_solved(CHECKS[name])
    assert_error_is_a_verdict(CHECKS[name])

@pytest.mark.parametrize('name', CHECKS)
def test_the_same_verdict_twice(name): assert_repeats(CHECKS[name], next(f for n, f in right if n == name))

@pytest.mark.parametrize('name', CHECKS)
def test_many_seeds(name):
    for seed in range(2, 14): assert CHECKS[name](next(f for n, f in right if n == name), seed=seed).right

def test_settings_are_checked():
    for check, bad in ((check_wanted, dict(K=2)), (check_group_loss, dict(K=2)), (check_hardest, dict(D=2)), (check_hardest, dict(D=41)), (check_information, dict(n=49))):
        with pytest.raises(ValueError, match=next(iter(bad))): check(print, **bad)

def test_the_notebook():
    assert_questions('11c_semmim_exercises.ipynb', 5, 4)
    assert_holes_and_no_solution('11c_semmim_exercises.ipynb', right)

def test_the_questions_say_the_truth():
    said = text_of('11c_semmim_exercises.ipynb')
    # 1: one group costs next to nothing, torn evenly costs log 256; the centre prevents the first
    sure, torn = -torch.ones(10, 256), torch.zeros(10, 256)
    sure[:, 7] = 1
    assert group_loss(sure, wish(sure, torch.zeros(256), .04)).item() < 1e-4
    assert f'{group_loss(torn, torn.softmax(1)).item():.2f}' == '5.55' and '5.55' in said
    assert torch.allclose(wish(sure, sure.mean(0), .04), torch.full((10, 256), 1 / 256)), 'what is high everywhere is gone'
    assert (wish(sure * .05, torch.zeros(256), .04).amax(1) > wish(sure * .05, torch.zeros(256), .1).amax(1)).all(), 'the teacher is sharper'
    # 2: scores are cosines
    torch.manual_seed(0)
    assert GroupHead(8)(torch.randn(50, 8) * 9).abs().max() <= 1
    assert f'{sure.softmax(1).max():.1%}' == '2.8%' and '2.8 %' in said
    assert (1 - (sure.double() / .1).softmax(1).max()).item() == pytest.approx(1 / 2e6, rel=.1)
    # 3: groups of dice
    dice = lambda k, n: torch.randint(k, (n,))
    assert sum(shared_information(dice(32, 64), torch.arange(64) % 2) for _ in range(200)) / 200 == pytest.approx(.4, abs=.03)
    assert shared_information(torch.arange(64), torch.arange(64) % 2) == pytest.approx(1)
    assert shared_information(dice(256, 25600), dice(11, 25600)) == pytest.approx(.02, abs=.005)
    # 4: one of three pairs is right
    third = torch.tensor([[2/3, 1/3]]).log().expand(3, 2)
    lowest = F.cross_entropy(third, torch.tensor([1, 0, 0])).item()
    assert lowest == pytest.approx(math.log(3) - 2/3 * math.log(2)) and f'{lowest:.2f}'[1:] in said and f'{math.log(2):.2f}' == '0.69'
    for p in (.2, .3, .4, .5): assert F.cross_entropy(torch.tensor([[1 - p, p]]).log().expand(3, 2), torch.tensor([1, 0, 0])).item() > lowest
    # 5: a target that holds only the caption
    of_words = torch.randn(9, 16).repeat_interleave(4, 0)
    target = wish(of_words, of_words.mean(0), .04)
    own = -(target * target.clamp_min(1e-30).log()).sum(1).mean().item()
    assert group_loss(.1 * target.clamp_min(1e-30).log(), target).item() == pytest.approx(own, abs=1e-5)
    assert len(target.argmax(1).unique()) > 4, 'groups stay in use'
