"""Solutions to the exercises of nbs/07b_crops_exercises.ipynb: several right answers each, the plainest first.

Every function whose name ends in its exercise's name is given to that exercise's check by tests/test_crops_exercises.py.
"""
import random

import numpy as np
import torch
import torchvision.ops
from skimage import transform
from torch.nn import functional as F

from mssl import contrastive_crop, heatmaps, views


# 1. Heat: (features [n,d,h,w], size) -> [n,height,width]

def plain_heat(features, size):
    "The formula, with a 0 where there is nothing to divide by"
    s = features.sum(1, keepdim=True)
    s = s - s.amin((2, 3), keepdim=True)
    top = s.amax((2, 3), keepdim=True)
    m = torch.where(top > 0, s / top, 0)
    return F.interpolate(m, size=size, mode='bilinear', align_corners=False)[:, 0]

def clamped_heat(features, size):
    "A tiny number below the line: 0 / 1e-6 is 0"
    s = features.mean(1).flatten(1)
    low, high = s.min(1, keepdim=True).values, s.max(1, keepdim=True).values
    m = ((s - low) / (high - low).clamp(min=1e-6)).view(len(s), 1, *features.shape[2:])
    return F.interpolate(m, size, mode='bilinear').squeeze(1)

def nan_heat(features, size):
    "0 / 0 is nan, and nan becomes 0"
    s = torch.einsum('ndhw->nhw', features)
    s = s - s.min(2, keepdim=True)[0].min(1, keepdim=True)[0]
    s = (s / s.max(2, keepdim=True)[0].max(1, keepdim=True)[0]).nan_to_num(0.)
    return F.interpolate(s.unsqueeze(1), size, mode='bilinear', align_corners=False).squeeze(1)

def loop_heat(features, size):
    "Picture by picture, and the enlarging as two matrices"
    def weights(n_in, n_out): # where the middle of each new pixel lies among the old ones
        at = ((torch.arange(n_out) + .5) * n_in / n_out - .5).clamp(0, n_in - 1)
        return (1 - (at[:, None] - torch.arange(n_in)).abs()).clamp(min=0)
    out = []
    for f in features:
        s = f.sum(0)
        m = (s - s.min()) / (s.max() - s.min()) if s.max() > s.min() else torch.zeros_like(s)
        out.append(weights(len(m), size[0]) @ m @ weights(m.shape[1], size[1]).T)
    return torch.stack(out)

def skimage_heat(features, size):
    out = []
    for f in features.numpy().astype('float64'):
        s = f.sum(0)
        s -= s.min()
        if s.max() > 0: s /= s.max()
        out.append(transform.resize(s, size, order=1, mode='edge', anti_aliasing=False))
    return torch.from_numpy(np.stack(out))

def mssl_heat(features, size): return heatmaps.heatmap(features, size)


# 2. The box: (heat [n,H,W], threshold) -> [n,4]

def argmax_box(heat, threshold):
    "The first hot row from above, and the first one from below"
    (n, h, w), top = heat.shape, heat.amax((1, 2), keepdim=True)
    hot = ((heat > threshold) | (heat == top)).int()
    rows, cols = hot.amax(2), hot.amax(1)
    t, b = rows.argmax(1), h - rows.flip(1).argmax(1)
    l, r = cols.argmax(1), w - cols.flip(1).argmax(1)
    return torch.stack([t / h, l / w, (b - t) / h, (r - l) / w], 1)

def loop_box(heat, threshold):
    "nonzero, one picture after another"
    boxes = []
    for m in heat:
        i, j = ((m > threshold) | (m == m.max())).nonzero().T
        h, w = m.shape
        boxes.append([i.min() / h, j.min() / w, (i.max() + 1 - i.min()) / h, (j.max() + 1 - j.min()) / w])
    return torch.tensor(boxes)

def lowered_box(heat, threshold):
    "A threshold for each picture: its own maximum is at least as hot"
    heat = heat.numpy()
    out = []
    for m in heat:
        k = min(threshold, np.nextafter(m.max(), np.float32(-9)))
        rows, cols = np.flatnonzero((m > k).any(1)), np.flatnonzero((m > k).any(0))
        out.append([rows[0] / m.shape[0], cols[0] / m.shape[1], (rows[-1] - rows[0] + 1) / m.shape[0], (cols[-1] - cols[0] + 1) / m.shape[1]])
    return torch.tensor(np.array(out))

def places_box(heat, threshold):
    "Smallest and largest number of the hot rows and columns"
    n, h, w = heat.shape
    hot = (heat > threshold) | (heat >= heat.flatten(1).max(1).values.view(n, 1, 1))
    i, j = torch.arange(h, dtype=torch.float).view(1, h, 1).expand(n, h, w), torch.arange(w, dtype=torch.float).expand(n, h, w)
    ends = [(o.masked_fill(~hot, 1e9).amin((1, 2)), o.masked_fill(~hot, -1).amax((1, 2)) + 1) for o in (i, j)]
    (t, b), (l, r) = ends
    return torch.stack([t / h, l / w, (b - t) / h, (r - l) / w]).T

def torchvision_box(heat, threshold):
    hot = (heat > threshold) | (heat == heat.amax((1, 2), keepdim=True))
    l, t, r, b = torchvision.ops.masks_to_boxes(hot).T # the last two are the last hot column and row
    h, w = heat.shape[1:]
    return torch.stack([t / h, l / w, (b - t + 1) / h, (r - l + 1) / w], 1)

def cumulative_box(heat, threshold):
    "What is neither before the first nor behind the last one"
    hot = (heat > threshold) | (heat == heat.amax((1, 2), keepdim=True))
    out = []
    for line in (hot.any(2).double(), hot.any(1).double()):
        before, behind = (line.cumsum(1) == 0).sum(1), (line.flip(1).cumsum(1) == 0).sum(1)
        n = line.shape[1]
        out += [before / n, (n - before - behind) / n]
    return torch.stack([out[0], out[2], out[1], out[3]], 1)

def mssl_box(heat, threshold): return heatmaps.heatmap_box(heat, threshold)


# 3. The crops: (box [n,4], side [n,2], alpha) -> [n,4]

def distribution_crops(box, side, alpha):
    a = torch.minimum((box[:, :2] - side / 2).clamp(min=0), 1 - side)
    b = torch.minimum((box[:, :2] + box[:, 2:] - side / 2).clamp(min=0), 1 - side)
    u = torch.distributions.Beta(alpha, alpha).sample(a.shape)
    return torch.cat([a + (b - a) * u, side], 1)

def numpy_crops(box, side, alpha):
    box, s = box.numpy(), side.numpy()
    a = np.clip(box[:, :2] - s / 2, 0, 1 - s)
    b = np.clip(box[:, :2] + box[:, 2:] - s / 2, 0, 1 - s)
    return torch.from_numpy(np.concatenate([a + (b - a) * np.random.beta(alpha, alpha, a.shape), s], 1))

def centre_crops(box, side, alpha):
    "The centre is drawn where a centre can be, then the crop is put around it"
    y = []
    for axis in (0, 1):
        half = side[:, axis] / 2
        near = box[:, axis].maximum(half).minimum(1 - half)
        far = (box[:, axis] + box[:, axis + 2]).maximum(half).minimum(1 - half)
        u = torch.distributions.Beta(torch.full_like(half, alpha), torch.full_like(half, alpha)).sample()
        y.append(near * (1 - u) + far * u - half)
    return torch.stack([*y, side[:, 0], side[:, 1]], 1)

def loop_crops(box, side, alpha):
    out = []
    for (top, left, height, width), (h, w) in zip(box.tolist(), side.tolist()):
        start = []
        for b0, b1, s in ((top, top + height, h), (left, left + width, w)):
            a, b = (min(max(o - s / 2, 0), 1 - s) for o in (b0, b1))
            start.append(a + (b - a) * random.betavariate(alpha, alpha))
        out.append([*start, h, w])
    return torch.tensor(out)

def dirichlet_crops(box, side, alpha):
    "The first of two shares of a Dirichlet is a Beta; lerp goes from a to b"
    ends = torch.stack([box[:, :2], box[:, :2] + box[:, 2:]]) - side / 2
    a, b = ends.clamp(torch.zeros_like(side), 1 - side)
    u = torch.distributions.Dirichlet(torch.tensor([alpha, alpha])).sample((len(box), 2))[..., 0]
    return torch.cat((a.lerp(b, u), side), dim=1)

def gamma_crops(box, side, alpha):
    "Two gamma variables, and the first one's share in doubles: far below 1e-38 float32 ends"
    g = torch._standard_gamma(torch.full((2, len(box), 2), alpha, dtype=torch.float64))
    u = g[0] / (g[0] + g[1])
    a, b = (torch.max(torch.min(o - side / 2, 1 - side), torch.tensor(0.)) for o in (box[:, :2], box[:, :2] + box[:, 2:]))
    return torch.cat([b + (a - b) * u, side], 1) # u and 1 - u are alike

def mssl_crops(box, side, alpha): return contrastive_crop.place_crops(box, side, alpha)


# 4. The overlap: (a [n,4], b [n,4]) -> [n]

def plain_overlap(a, b):
    begin = torch.maximum(a[:, :2], b[:, :2])
    end = torch.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = (end - begin).clamp(min=0).prod(1)
    return shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared)

def loop_overlap(a, b):
    out = []
    for (t, l, h, w), (t2, l2, h2, w2) in zip(a.tolist(), b.tolist()):
        height = max(0, min(t + h, t2 + h2) - max(t, t2))
        width = max(0, min(l + w, l2 + w2) - max(l, l2))
        out.append(height * width / (h * w + h2 * w2 - height * width))
    return torch.tensor(out)

def torchvision_overlap(a, b):
    corners = lambda o: torch.stack([o[:, 1], o[:, 0], o[:, 1] + o[:, 3], o[:, 0] + o[:, 2]], 1) # x, y, x, y
    return torchvision.ops.box_iou(corners(a), corners(b)).diagonal()

def numpy_overlap(a, b):
    a, b = a.numpy().astype('float64'), b.numpy().astype('float64')
    sides = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(1), sides.prod(1), 0)
    return torch.from_numpy(shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared))

def relu_overlap(a, b):
    "Two lengths: what the two sides are long together, less what they span"
    far, near = torch.max(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]), torch.min(a[:, :2], b[:, :2])
    y, x = F.relu(a[:, 2:] + b[:, 2:] - (far - near)).unbind(1)
    return x * y / (a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - x * y)

def mssl_overlap(a, b): return views.box_iou(a, b)


# 5. The table: (table [N,4], index [n], box [n,4]) -> [N,4]

def sums_renew(table, index, box):
    "Two sums over the batch: of boxes and of ones"
    known = index >= 0
    index, box = index[known], box[known]
    total = torch.zeros_like(table).index_add(0, index, box)
    count = torch.zeros(len(table)).index_add(0, index, torch.ones(len(index)))[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), table)

def loop_renew(table, index, box):
    new = table.clone()
    for i in set(index.tolist()) - {-1}: new[i] = box[index == i].mean(0)
    return new

def dictionary_renew(table, index, box):
    found = {}
    for i, b in zip(index.tolist(), box): found.setdefault(i, []).append(b)
    return torch.stack([sum(found[i]) / len(found[i]) if i in found else row for i, row in enumerate(table)])

def matrix_renew(table, index, box):
    "Row i of a matrix says which boxes are picture i's; -1 is in no row"
    who = (torch.arange(len(table))[:, None] == index).float()
    count = who.sum(1, keepdim=True)
    return torch.where(count > 0, who @ box / count.clamp(min=1), table)

def reduced_renew(table, index, box):
    keep = index != -1
    return table.index_reduce(0, index[keep], box[keep], 'mean', include_self=False)

def numpy_renew(table, index, box):
    out, i = table.numpy().copy(), index.numpy()
    pictures, which = np.unique(i[i >= 0], return_inverse=True)
    total = np.zeros((len(pictures), 4))
    np.add.at(total, which, box.numpy()[i >= 0])
    out[pictures] = total / np.bincount(which, minlength=len(pictures))[:, None]
    return torch.from_numpy(out)

def spare_row_renew(table, index, box):
    "A row more, which -1 may write on and nobody reads"
    n = len(table)
    where = torch.where(index < 0, n, index)[:, None].expand(-1, 4)
    return torch.cat([table, table[:1]]).scatter_reduce(0, where, box, 'mean', include_self=False)[:n]
