"""Solutions to the exercises of nbs/10c_text_exercises.ipynb: several right answers each, the plainest first.

Every function whose name ends in its exercise's name is given to that exercise's check by tests/test_text_exercises.py.
"""
import numpy as np
import torch
from torch.nn import functional as F

from mssl import captions, scenes, text


# 1. The place: (box [B,4], crop [B,4], flip bool [B]) -> int64 [B]

def plain_word(box, crop, flip):
    "Corners as shares of the crop, cut, their middle, mirrored"
    near = ((box[:, :2] - crop[:, :2]) / crop[:, 2:]).clamp(0, 1)
    far = ((box[:, :2] + box[:, 2:] - crop[:, :2]) / crop[:, 2:]).clamp(0, 1)
    row, column = ((near + far) / 2).unbind(1)
    column = torch.where(flip, 1 - column, column)
    return 3 * (row * 3).long().clamp(0, 2) + (column * 3).long().clamp(0, 2)

def loop_word(box, crop, flip):
    out = []
    for (t, l, h, w), (top, left, height, width), f in zip(box.tolist(), crop.tolist(), flip.tolist()):
        y0, y1, x0, x1 = max(t, top), min(t + h, top + height), max(l, left), min(l + w, left + width)
        y, x = ((y0 + y1) / 2 - top) / height, ((x0 + x1) / 2 - left) / width
        out.append(3 * min(2, int(3 * y)) + min(2, int(3 * (1 - x if f else x))))
    return torch.tensor(out)

def number_word(box, crop, flip):
    "Mirror the number of the column, at the end"
    start, end = torch.maximum(box[:, :2], crop[:, :2]), torch.minimum(box[:, :2] + box[:, 2:], crop[:, :2] + crop[:, 2:])
    at = torch.bucketize((start + end - 2 * crop[:, :2]) / crop[:, 2:] / 2, torch.tensor([1 / 3, 2 / 3]))
    return at[:, 0] * 3 + (at[:, 1] - flip.long() * 2).abs()

def numpy_word(box, crop, flip):
    b, c = box.numpy().astype('float64'), crop.numpy().astype('float64')
    ends = np.clip((np.stack([b[:, :2], b[:, :2] + b[:, 2:]]) - c[:, :2]) / c[:, 2:], 0, 1).mean(0)
    ends[:, 1] = np.where(flip.numpy(), 1 - ends[:, 1], ends[:, 1])
    return torch.from_numpy(np.minimum(np.floor(ends * 3), 2).astype('int64') @ np.array([3, 1]))

def mssl_word(box, crop, flip):
    inside, _ = captions.boxes_in_view(box[:, None], crop, flip)
    return torch.tensor([scenes.PLACES.index(o) for o in scenes.place_word(inside[:, 0])])


# 2. The draws: (relevance [B,L], k) -> bool [B,L]

def gumbel_draw(relevance, k):
    "The k best of relevance plus Gumbel noise"
    score = relevance - (-torch.rand_like(relevance).log()).log()
    return torch.zeros_like(relevance, dtype=torch.bool).scatter(1, score.topk(k, 1).indices, True)

def decay_draw(relevance, k):
    "Who decays first?"
    time = torch.empty_like(relevance).exponential_() / relevance.exp()
    return time.argsort(1).argsort(1) < k

def multinomial_draw(relevance, k):
    if k == 0: return relevance > torch.inf
    return F.one_hot(relevance.softmax(1).multinomial(k), relevance.shape[1]).bool().any(1)

def loop_draw(relevance, k):
    "One after another; what is drawn has no chance any more"
    left, mask = relevance.exp(), torch.zeros_like(relevance, dtype=torch.bool)
    for _ in range(k):
        i = left.multinomial(1)
        mask.scatter_(1, i, True)
        left = left.masked_fill(mask, 0)
    return mask

def numpy_draw(relevance, k):
    r = relevance.numpy()
    rank = (r + np.random.gumbel(size=r.shape)).argsort(1).argsort(1)
    return torch.from_numpy(rank >= r.shape[1] - k)

def mssl_draw(relevance, k): return text.text_guided_mask(relevance, k / relevance.shape[1])


# 3. What is found: (s [n,n], key [n], k) -> bool [n]

def gather_found(s, key, k):
    right = key[:, None] == key
    return right.gather(1, s.topk(k, 1).indices).any(1)

def lookup_found(s, key, k): return (key[s.argsort(1, descending=True)[:, :k]] == key[:, None]).any(1)

def loop_found(s, key, k):
    out = []
    for i, row in enumerate(s.tolist()):
        best = sorted(range(len(row)), key=lambda j: -row[j])[:k]
        out.append(any(key[j] == key[i] for j in best))
    return torch.tensor(out)

def rank_found(s, key, k):
    "How many are more similar than the best right one?"
    right = key[:, None] == key
    best = s.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return (s > best).sum(1) < k

def numpy_found(s, key, k):
    order, names = np.argsort(-s.numpy(), axis=1), key.numpy()
    return torch.from_numpy((names[order[:, :k]] == names[:, None]).any(1))


# 4. The glance: (a [B,heads,T,L], padding bool [B,T]) -> [B,L]

def weight_glance(a, padding):
    w = (~padding).float()
    w[:, 0] = 0
    return (a.mean(1) * w[..., None]).sum(1) / w.sum(1, keepdim=True).clamp(min=1)

def loop_glance(a, padding):
    out = []
    for one, over in zip(a, padding):
        said = [one[:, t].mean(0) for t in range(1, len(over)) if not over[t]]
        out.append(torch.stack(said).mean(0) if said else torch.zeros(a.shape[3]))
    return torch.stack(out)

def product_glance(a, padding):
    "A row of weights times a matrix of glances"
    w = F.pad((~padding[:, 1:]).to(a.dtype), (1, 0))
    return torch.einsum('bt,bhtl->bl', w / w.sum(1, keepdim=True).clamp_min(1), a) / a.shape[1]

def nan_glance(a, padding):
    return a.mean(1)[:, 1:].masked_fill(padding[:, 1:, None], torch.nan).nanmean(1).nan_to_num(0.)

def numpy_glance(a, padding):
    keep = ~padding.numpy()[:, 1:]
    total = np.where(keep[..., None], a.numpy()[:, :, 1:].mean(1), 0).sum(1)
    return torch.from_numpy(total / np.maximum(keep.sum(1, keepdims=True), 1))


# 5. The contrast: (z [n,D], c [n,D], key [n]) -> one number

def entropy_contrast(z, c, key):
    s = z @ c.T
    wish = (key[:, None] == key).to(s.dtype)
    wish = wish / wish.sum(1, keepdim=True)
    return (F.cross_entropy(s, wish) + F.cross_entropy(s.T, wish)) / 2

def loop_contrast(z, c, key):
    total = 0.
    for a, b in ((z, c), (c, z)):
        for i in range(len(a)):
            p = (b @ a[i]).log_softmax(0)
            total = total - p[key == key[i]].mean()
    return total / (2 * len(z))

def product_contrast(z, c, key):
    s, same = z @ c.T, key[:, None] == key
    p = s.log_softmax(1) + s.log_softmax(0)
    return -(p * same / same.sum(1, keepdim=True)).sum() / (2 * len(s))

def logsumexp_contrast(z, c, key):
    "The wish picks products, the rest is the logarithm of a sum"
    s, same = torch.einsum('id,jd->ij', z, c), (key[:, None] == key).to(z.dtype)
    picked = (s * same / same.sum(1, keepdim=True)).sum(1)
    other = (s.T * same / same.sum(1, keepdim=True)).sum(1)
    return ((s.logsumexp(1) - picked) + (s.logsumexp(0) - other)).mean() / 2

def numpy_contrast(z, c, key):
    s, names = z.numpy() @ c.numpy().T, key.numpy()
    same = (names[:, None] == names) / (names[:, None] == names).sum(1, keepdims=True)
    def ce(s): return -(same * (s - np.log(np.exp(s).sum(1, keepdims=True)))).sum(1).mean()
    return torch.tensor((ce(s) + ce(s.T)) / 2)
