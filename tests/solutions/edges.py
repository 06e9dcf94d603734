"""Solutions to the exercises of nbs/04a_edges_exercises.ipynb: several right answers each, the plainest first.

Every function whose name ends in its exercise's name is given to that exercise's check by tests/test_edges_exercises.py.
"""
import random

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch.nn import functional as F

from mssl import edges


# 1. The high-pass filter: (x [n,c,h,w], kernel_size, sigma) -> [n,c,h,w]

def bell(kernel_size, sigma):
    i = torch.arange(kernel_size) - kernel_size // 2
    g = torch.exp(-i**2 / (2 * sigma**2))
    return g / g.sum()  # without this line a flat picture does not become 0

def conv2d_high_pass(x, kernel_size, sigma):
    "One convolution in two dimensions, a group per channel"
    g, c, r = bell(kernel_size, sigma), x.shape[1], kernel_size // 2
    kernel = (g[:, None] * g).expand(c, 1, -1, -1)
    return x - F.conv2d(F.pad(x, (r, r, r, r), mode='reflect'), kernel, groups=c)

def separable_high_pass(x, kernel_size, sigma):
    "Rows, then columns: 2k instead of k * k products a pixel"
    g, r = bell(kernel_size, sigma), kernel_size // 2
    y = F.pad(x.flatten(0, 1)[:, None], (r, r, r, r), mode='reflect')
    y = F.conv2d(F.conv2d(y, g.view(1, 1, 1, -1)), g.view(1, 1, -1, 1))
    return x - y.view_as(x)

def torchvision_high_pass(x, kernel_size, sigma):
    return x - TF.gaussian_blur(x, [kernel_size, kernel_size], [sigma, sigma])

def replicate_high_pass(x, kernel_size, sigma):
    "The last pixel is repeated at the border: another right choice"
    g, c, r = bell(kernel_size, sigma), x.shape[1], kernel_size // 2
    return x - F.conv2d(F.pad(x, (r, r, r, r), mode='replicate'), (g[:, None] * g).repeat(c, 1, 1, 1), groups=c)

def renormalised_high_pass(x, kernel_size, sigma):
    "Zeros around the picture, but each mean is divided by the weights that fell on the picture"
    g, r = bell(kernel_size, sigma), kernel_size // 2
    blur = lambda o: F.conv2d(o.flatten(0, 1)[:, None], (g[:, None] * g)[None, None], padding=r).view_as(o)
    return x - blur(x) / blur(torch.ones_like(x))

def numpy_high_pass(x, kernel_size, sigma):
    "Loops over the kernel's places, in numpy"
    g, r, a = bell(kernel_size, sigma).numpy(), kernel_size // 2, x.numpy()
    p, blur = np.pad(a, ((0, 0), (0, 0), (r, r), (r, r)), mode='symmetric'), 0
    for i in range(kernel_size):
        for j in range(kernel_size): blur = blur + g[i] * g[j] * p[:, :, i:i + a.shape[2], j:j + a.shape[3]]
    return torch.from_numpy(a - blur)

def mssl_high_pass(x, kernel_size, sigma): return edges.high_pass(x, kernel_size, sigma)


# 2. The grid mask: (n, grid, count) -> bool [n,1,grid,grid]

def sorted_noise_grid_mask(n, grid, count):
    "The `count` smallest of random numbers: without replacement, and no loop"
    order = torch.rand(n, grid * grid).argsort(1)
    mask = torch.zeros(n, grid * grid, dtype=torch.bool)
    return mask.scatter(1, order[:, :count], True).view(n, 1, grid, grid)

def ranks_grid_mask(n, grid, count):
    return (torch.rand(n, grid * grid).argsort(1).argsort(1) < count).view(n, 1, grid, grid)

def randperm_grid_mask(n, grid, count):
    mask = torch.zeros(n, grid * grid, dtype=torch.bool)
    for row in mask: row[torch.randperm(grid * grid)[:count]] = True
    return mask.view(n, 1, grid, grid)

def numpy_grid_mask(n, grid, count):
    rng = np.random.default_rng()
    cells = np.tile(np.arange(grid * grid) < count, (n, 1))
    return torch.from_numpy(rng.permuted(cells, axis=1)).view(n, 1, grid, grid)

def python_grid_mask(n, grid, count):
    mask = torch.zeros(n, 1, grid, grid, dtype=torch.bool)
    for i in range(n):
        for cell in random.sample(range(grid * grid), count): mask[i, 0, cell // grid, cell % grid] = True
    return mask


# 3. Filter, mask, fill: (x [n,3,h,w], mask bool [n,1,h,w]) -> [n,3,h,w]

def where_hide(x, mask):
    return torch.where(mask, .18 * torch.randn_like(x), edges.high_pass(x))

def arithmetic_hide(x, mask):
    "The formula: m keeps"
    m = (~mask).float()
    return m * torchvision_high_pass(x, 11, 5.) + (1 - m) * .18 * torch.randn(x.shape)

def index_hide(x, mask):
    y, m = replicate_high_pass(x, 11, 5.), mask.expand_as(x)
    y[m] = torch.normal(0., .18, (int(m.sum()),))
    return y

def loop_hide(x, mask):
    y = edges.high_pass(x).clone()
    for i in range(len(x)):
        for c in range(x.shape[1]): y[i, c, mask[i, 0]] = torch.randn(int(mask[i].sum())) * .18
    return y

def mssl_hide(x, mask): return edges.fill_masked(edges.high_pass(x), mask)


# 4. The outline's strength: (x [n,3,h,w], mask bool [n,1,h,w]) -> [n]

def sliced_edge_ratio(x, mask):
    across = visible = n_across = n_visible = 0
    for a, b, m, k in ((x[:, :, 1:], x[:, :, :-1], mask[:, :, 1:], mask[:, :, :-1]), (x[..., 1:], x[..., :-1], mask[..., 1:], mask[..., :-1])):
        d = (a - b).abs().mean(1, keepdim=True)
        across, n_across = across + (d * (m ^ k)).sum((1, 2, 3)), n_across + (m ^ k).sum((1, 2, 3))
        visible, n_visible = visible + (d * (~m & ~k)).sum((1, 2, 3)), n_visible + (~m & ~k).sum((1, 2, 3))
    return (across / n_across) / (visible / n_visible)

def loop_edge_ratio(x, mask):
    out = []
    for p, m in zip(x, mask.expand_as(x)):
        d = torch.cat([p.diff(dim=1).abs().flatten(), p.diff(dim=2).abs().flatten()])
        hidden = torch.cat([(m[:, 1:].int() + m[:, :-1]).flatten(), (m[..., 1:].int() + m[..., :-1]).flatten()])
        out.append(d[hidden == 1].mean() / d[hidden == 0].mean())
    return torch.stack(out)

def nan_edge_ratio(x, mask):
    "Not a number where a pair does not belong, and `nanmean`"
    m = mask.expand_as(x).float()
    d = [torch.cat([o.diff(dim=2).flatten(1), o.diff(dim=3).flatten(1)], 1) for o in (x, m, x.masked_fill(mask, torch.nan))]
    return d[0].abs().masked_fill(d[1] == 0, torch.nan).nanmean(1) / d[2].abs().nanmean(1)

def rolled_edge_ratio(x, mask):
    "Every pixel against the one below and the one to the right, without those that roll came round with"
    parts = []
    for axis in (2, 3):
        keep = torch.arange(x.shape[axis] - 1)
        d, h = (x - x.roll(-1, axis)).abs().index_select(axis, keep), (mask.int() + mask.roll(-1, axis)).index_select(axis, keep)
        parts.append((d.flatten(1), h.expand_as(d).flatten(1)))
    d, h = (torch.cat(o, 1) for o in zip(*parts))
    return (d * (h == 1)).sum(1) / (h == 1).sum(1) * (h == 0).sum(1) / (d * (h == 0)).sum(1)

def mssl_edge_ratio(x, mask): return edges.edge_ratio(x, mask)
