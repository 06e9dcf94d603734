"""Solutions to the exercises of nbs/11c_semmim_exercises.ipynb: several right answers each, the plainest first.

Every function whose name ends in its exercise's name is given to that exercise's check by tests/test_semmim_exercises.py.
"""
import math
from collections import Counter

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mssl import groups as rooms


# 1. The wanted groups: (scores [n,K] or [B,L,K], centre [K], temperature) -> shares of the same shape

def plain_wanted(scores, centre, temperature): return F.softmax((scores - centre) / temperature, -1)

def product_wanted(scores, centre, temperature):
    "exp of a difference is a quotient; the largest exponent is taken away, so that nothing overflows"
    x = (scores - centre) / temperature
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)

def loop_wanted(scores, centre, temperature):
    flat = scores.reshape(-1, scores.shape[-1])
    out = torch.empty_like(flat)
    for row, o in zip(flat, out):
        x = [(a - b) / temperature for a, b in zip(row.tolist(), centre.tolist())]
        e = [math.exp(a - max(x)) for a in x]
        o.copy_(torch.tensor([a / sum(e) for a in e]))
    return out.view(scores.shape)

def log_wanted(scores, centre, temperature):
    x = scores.sub(centre).div(temperature)
    return (x - x.logsumexp(-1, keepdim=True)).exp()

def numpy_wanted(scores, centre, temperature):
    x = (scores.numpy().astype('float64') - centre.numpy()) / temperature
    e = np.exp(x - x.max(-1, keepdims=True))
    return torch.from_numpy(e / e.sum(-1, keepdims=True))

def layer_wanted(scores, centre, temperature):
    "A linear layer that does nothing but subtract, and the module of torch"
    return nn.Softmax(dim=-1)(F.linear(scores, torch.eye(len(centre)), -centre) / temperature)


# 2. The group loss: (student [B,L,K], wanted [B,L,K], mask bool [B,L], temperature) -> one number

def picked_group_loss(student, wanted, mask, temperature):
    rows = -(wanted.detach() * F.log_softmax(student / temperature, -1)).sum(-1)[mask]
    return rows.sum() / max(len(rows), 1)

def library_group_loss(student, wanted, mask, temperature):
    "torch's own cross-entropy knows shares"
    return F.cross_entropy(student[mask] / temperature, wanted[mask].detach(), reduction='sum') / mask.sum().clamp(min=1)

def weighted_group_loss(student, wanted, mask, temperature):
    "All patches, the visible ones with weight 0"
    p = (student / temperature).log_softmax(-1)
    each = -torch.einsum('blk,blk->bl', wanted.data, p)
    return (each * mask).sum() / mask.sum().clamp_min(1)

def loop_group_loss(student, wanted, mask, temperature):
    total, count = student.sum() * 0, 0
    for s, w, m in zip(student, wanted.detach(), mask):
        for i in range(len(m)):
            if m[i]:
                x = s[i] / temperature
                total, count = total + (w[i] * (x.logsumexp(0) - x)).sum(), count + 1
    return total / count if count else total

def branch_group_loss(student, wanted, mask, temperature):
    if not mask.any(): return student.sum() * 0
    with torch.no_grad(): target = wanted[mask]
    x = student[mask] / temperature
    return (x.logsumexp(-1) - (target * x).sum(-1)).mean()

def divergence_group_loss(student, wanted, mask, temperature):
    "A KL divergence, and the teacher's entropy put back"
    w = wanted[mask].detach()
    own = torch.distributions.Categorical(w).entropy().sum() if len(w) else 0.
    return (F.kl_div((student[mask] / temperature).log_softmax(1), w, reduction='sum') + own) / max(1, len(w))

def mssl_group_loss(student, wanted, mask, temperature):
    return rooms.group_loss(student[mask], wanted[mask], temperature) if mask.any() else 0. * student.sum()


# 3. The hardest wrong caption: (z [n,D], c [n,D], key [n]) -> int64 [n], -1 where there is none

def filled_hardest(z, c, key):
    right = key[:, None] == key
    best = (z @ c.T).masked_fill(right, -torch.inf).argmax(1)
    return torch.where(right.all(1), -1, best)

def loop_hardest(z, c, key):
    out = []
    for i in range(len(z)):
        wrong = [j for j in range(len(c)) if key[j] != key[i]]
        out.append(max(wrong, key=lambda j: float(z[i] @ c[j])) if wrong else -1)
    return torch.tensor(out)

def sorted_hardest(z, c, key):
    "Down the list of the most similar, the first one with other words"
    order = torch.einsum('id,jd->ij', z, c).argsort(1, descending=True)
    wrong = key[order] != key[:, None]
    first = order.gather(1, wrong.int().argmax(1, keepdim=True))[:, 0]
    first[~wrong.any(1)] = -1
    return first

def penalty_hardest(z, c, key):
    "What is right gets far less than anybody has"
    s = z @ c.T
    same = (key.unsqueeze(1) == key.unsqueeze(0)).to(s.dtype)
    value, at = (s - same * (1e3 + 3 * s.abs().max())).max(1)
    return at * (value > -1e3).long() - (value <= -1e3).long()

def numpy_hardest(z, c, key):
    k = key.numpy()
    s = np.where(k[:, None] == k, -np.inf, z.numpy() @ c.numpy().T)
    return torch.from_numpy(np.where(np.isinf(s).all(1), -1, s.argmax(1)))

def mssl_hardest(z, c, key):
    of_picture, _, there = rooms.hardest(z, c, key)
    return of_picture.where(there, torch.tensor(-1))


# 4. The information: (groups [n], truth [n]) -> one number

def table_information(groups, truth):
    "A table of how often each pair comes"
    a, b = groups.unique(return_inverse=True)[1], truth.unique(return_inverse=True)[1]
    m = int(b.max()) + 1
    p = torch.bincount(a * m + b, minlength=(int(a.max()) + 1) * m).view(-1, m).double() / len(a)
    def H(p): return -(p[p > 0] * p[p > 0].log()).sum()
    return (H(p.sum(1)) + H(p.sum(0)) - H(p.flatten())) / H(p.sum(0)) if m > 1 else torch.tensor(0.)

def counted_information(groups, truth):
    g, t = groups.tolist(), truth.tolist()
    def H(seen): return -sum(k / len(g) * math.log2(k / len(g)) for k in Counter(seen).values())
    return torch.tensor((H(g) + H(t) - H(zip(g, t))) / H(t) if len(set(t)) > 1 else 0.)

def left_information(groups, truth):
    "1 less what stays unknown inside of the groups"
    def H(x):
        p = x.unique(return_counts=True)[1] / len(x)
        return -(p * p.log()).sum()
    whole = H(truth)
    if whole <= 0: return torch.zeros(())
    inside = sum(H(truth[groups == k]) * (groups == k).float().mean() for k in groups.unique())
    return 1 - inside / whole

def equal_information(groups, truth):
    "No table at all: how many others are equal to each"
    def mean_log(same): return same.double().mean(1).log().mean()
    g, t = groups[:, None] == groups, truth[:, None] == truth
    whole = mean_log(t)
    return (mean_log(g) + whole - mean_log(g & t)) / whole if whole < 0 else whole

def divergence_information(groups, truth):
    "How far the pairs are from chance: a KL divergence"
    a = F.one_hot(groups.unique(return_inverse=True)[1]).double()
    b = F.one_hot(truth.unique(return_inverse=True)[1]).double()
    joint, chance = a.T @ b / len(a), a.mean(0)[:, None] * b.mean(0)
    I = torch.special.xlogy(joint, joint / chance).sum()
    H = torch.special.entr(b.mean(0)).sum()
    return I / H.clamp_min(1e-12)

def numpy_information(groups, truth):
    def H(x):
        p = np.unique(x, axis=0, return_counts=True)[1] / len(x)
        return -(p * np.log(p)).sum()
    both = torch.stack([groups, truth], 1).numpy()
    h = H(both[:, 1:])
    return torch.tensor((H(both[:, :1]) + h - H(both)) / h if h > 0 else 0.)

def mssl_information(groups, truth): return torch.tensor(rooms.shared_information(groups, truth))
