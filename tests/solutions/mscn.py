"""Solutions to the exercises of nbs/06a_mscn_exercises.ipynb: several right answers each, the plainest first.

Every function whose name ends in its exercise's name is given to that exercise's check by tests/test_mscn_exercises.py.
"""
import random

import numpy as np
import torch
from torch.nn import functional as F

from mssl import edges, masks
from mssl.siamese import info_nce


# 1. The window: (n, size, keep) -> bool [n,1,size,size]

def compared_window(n, size, keep):
    "A start for rows and one for columns, and all places compared with them"
    window, i = round(keep * size), torch.arange(size)
    top, left = torch.randint(size - window + 1, (2, n, 1))
    rows, cols = ((i >= o) & (i < o + window) for o in (top, left))
    return ~(rows[:, None, :, None] & cols[:, None, None, :])

def loop_window(n, size, keep):
    window, mask = round(keep * size), torch.ones(n, 1, size, size, dtype=torch.bool)
    for m in mask:
        top, left = random.randint(0, size - window), random.randint(0, size - window)
        m[:, top:top + window, left:left + window] = False
    return mask

def numpy_window(n, size, keep):
    window, i = round(keep * size), np.arange(size)
    starts = np.random.default_rng(np.random.randint(2**31)).integers(0, size - window, size=(n, 2), endpoint=True)
    d = i - starts[:, :, None]
    seen = (d >= 0) & (d < window)
    return torch.from_numpy(~(seen[:, 0, :, None] & seen[:, 1, None, :]))[:, None]

def floored_window(n, size, keep):
    "Evenly drawn numbers, rounded down, as in the book"
    window = max(1, round(keep * size))
    start = (torch.rand(n, 2) * (size - window + 1)).floor()
    d = torch.arange(size) - start[..., None]
    seen = (d >= 0) & (d < window)
    return torch.logical_not(seen[:, 0].unsqueeze(2) * seen[:, 1].unsqueeze(1)).unsqueeze(1)

def one_place_window(n, size, keep):
    "One number for all places at once, taken apart into row and column"
    window = round(keep * size)
    free = size - window + 1
    at, mask = torch.randint(free * free, (n,)), torch.zeros(n, 1, size, size)
    for k, o in enumerate(at.tolist()): mask[k, 0, o // free:o // free + window, o % free:o % free + window] = 1
    return mask == 0

def mssl_window(n, size, keep): return masks.focal_mask(n, size, keep)


# 2. A mask for each channel: (n, grid, count) -> bool [n,3,grid,grid]

def ranks_channel_mask(n, grid, count):
    return (torch.rand(n, 3, grid * grid).argsort(2).argsort(2) < count).view(n, 3, grid, grid)

def sorted_channel_mask(n, grid, count):
    "3n masks, then three of them for each picture"
    order = torch.rand(3 * n, grid * grid).argsort(1)
    return torch.zeros(3 * n, grid * grid, dtype=torch.bool).scatter(1, order[:, :count], True).view(n, 3, grid, grid)

def loop_channel_mask(n, grid, count):
    mask = torch.zeros(n, 3, grid * grid, dtype=torch.bool)
    for picture in mask:
        for channel in picture: channel[torch.randperm(grid * grid)[:count]] = True
    return mask.view(n, 3, grid, grid)

def numpy_channel_mask(n, grid, count):
    cells = np.tile(np.arange(grid * grid) < count, (n, 3, 1))
    return torch.from_numpy(np.random.default_rng().permuted(cells, axis=2)).view(n, 3, grid, grid)

def stacked_channel_mask(n, grid, count):
    one = lambda: torch.stack([torch.tensor([k in chosen for k in range(grid * grid)]) for chosen in (set(random.sample(range(grid * grid), count)) for _ in range(n))])
    return torch.stack([one(), one(), one()], 1).view(n, 3, grid, grid)

def mssl_channel_mask(n, grid, count): return masks.grid_mask(n, grid, (count + .5) / grid**2 if count < grid**2 else 1, channels=3)


# 3. The branches: (query [n,3,h,w], key [n,3,h,w], masks bool [k,n,1,h,w]) -> [k+1,n,3,h,w]

def where_branches(query, key, masks):
    k, x = len(masks), edges.high_pass(query)
    noise = .18 * torch.randn(k, *x.shape)
    return torch.cat([torch.where(masks, noise, x), edges.high_pass(key)[None]])

def loop_branches(query, key, masks):
    views = []
    for m in masks:
        x = edges.high_pass(query)
        hidden = m.expand_as(x)
        x[hidden] = torch.randn(int(hidden.sum())) * .18
        views.append(x)
    return torch.stack(views + [edges.high_pass(key)])

def formula_branches(query, key, masks):
    "y = m x + (1 - m) s e for all views at once, with an m that keeps everything of the key"
    x = edges.high_pass(torch.cat([query, key])).view(2, *query.shape)
    x = torch.cat([x[:1].expand(len(masks), -1, -1, -1, -1), x[1:]])
    m = torch.cat([(~masks).float(), torch.ones_like(masks[:1]).float()])
    return m * x + (1 - m) * torch.normal(0., .18, x.shape)

def numpy_branches(query, key, masks):
    q, z, m = edges.high_pass(query).numpy(), edges.high_pass(key).numpy(), masks.numpy()
    e = np.random.normal(0, .18, (len(m), *q.shape)).astype('float32')
    return torch.from_numpy(np.concatenate([np.where(m, e, q), z[None]]))

def mssl_branches(query, key, masks):
    return torch.stack([edges.fill_masked(edges.high_pass(query), m) for m in masks] + [edges.high_pass(key)])


# 4. The loss: (queries [k,n,d], key [n,d], temperature) -> a number

def mean_copies_loss(queries, key, temperature):
    return torch.stack([info_nce(q, key, temperature=temperature) for q in queries]).mean()

def sum_copies_loss(queries, key, temperature):
    total = 0
    for q in queries: total = total + info_nce(q, key, temperature=temperature)
    return total / len(queries)

def batched_copies_loss(queries, key, temperature):
    "All copies at once: k matrices of 2n x 2n"
    k, n, _ = queries.shape
    u = F.normalize(torch.cat([queries, key.expand(k, -1, -1)], 1), dim=2)
    s = u @ u.mT / temperature
    s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool), float('-inf'))
    return F.cross_entropy(s.flatten(0, 1), torch.arange(2 * n).roll(n).repeat(k))

def formula_copies_loss(queries, key, temperature):
    "The formula, term by term"
    losses, n = [], len(key)
    for q in queries:
        u = torch.cat([q, key]).double()
        u = u / u.norm(dim=1, keepdim=True)
        for i in range(2 * n):
            e = torch.stack([(u[i] @ u[j] / temperature).exp() for j in range(2 * n)])
            losses.append(-(e[(i + n) % (2 * n)] / (e.sum() - e[i])).log())
    return sum(losses) / len(losses)

def numpy_copies_loss(queries, key, temperature):
    out = []
    for q in queries.numpy().astype('float64'):
        u = np.concatenate([q, key.numpy()])
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        s, n = u @ u.T / temperature, len(q)
        np.fill_diagonal(s, -np.inf)
        partner = s[np.arange(2 * n), np.roll(np.arange(2 * n), n)]
        out.append((np.log(np.exp(s).sum(1)) - partner).mean())
    return torch.tensor(np.mean(out))

def vmap_copies_loss(queries, key, temperature):
    "As a vector of one number"
    return torch.vmap(lambda q: info_nce(q, key, temperature=temperature))(queries).mean().view(1)


# 5. The copied noise: (y [n,3,h,w], mask bool [n,1,rows,cols]) -> bool [n]

def tiles_of(y, mask):
    "Hidden tiles [m,values], and which picture each is in [m]"
    n, c, h, w = y.shape
    rows, cols = mask.shape[2:]
    tiles = y.view(n, c, rows, h // rows, cols, w // cols).permute(0, 2, 4, 1, 3, 5).reshape(n, rows * cols, -1)
    hidden = mask.view(n, -1)
    return tiles[hidden], hidden.nonzero()[:, 0]

def compared_copied_noise(y, mask):
    tiles, picture = tiles_of(y, mask)
    same = (tiles[:, None] == tiles).all(2).fill_diagonal_(False).any(1)
    return torch.zeros(len(y), dtype=torch.bool).index_fill(0, picture[same], True)

def unique_copied_noise(y, mask):
    "Tiles that occur more than once"
    tiles, picture = tiles_of(y, mask)
    _, which, count = tiles.unique(dim=0, return_inverse=True, return_counts=True)
    return torch.isin(torch.arange(len(y)), picture[count[which] > 1])

def correlation_copied_noise(y, mask):
    tiles, picture = tiles_of(y, mask)
    r = torch.corrcoef(tiles).fill_diagonal_(0)
    out = torch.zeros(len(y), dtype=torch.bool)
    out[picture[(r > .9).any(1)]] = True
    return out

def dictionary_copied_noise(y, mask):
    "The bytes of each hidden cell, and who has shown them"
    (n, _, h, w), (rows, cols), seen = y.shape, mask.shape[2:], {}
    for p in range(n):
        for i in range(rows):
            for j in range(cols):
                if mask[p, 0, i, j]: seen.setdefault(y[p, :, i * h // rows:(i + 1) * h // rows, j * w // cols:(j + 1) * w // cols].numpy().tobytes(), []).append(p)
    copied = {p for shown in seen.values() if len(shown) > 1 for p in shown}
    return torch.tensor([p in copied for p in range(n)])

def unfold_copied_noise(y, mask):
    "Distances of tiles, cut out by unfold"
    n, (rows, cols) = len(y), mask.shape[2:]
    cell = (y.shape[2] // rows, y.shape[3] // cols)
    tiles = F.unfold(y, cell, stride=cell).mT.flatten(0, 1).double()
    near = (torch.cdist(tiles, tiles, p=1) < 1e-6) & mask.flatten()[:, None] & mask.flatten()
    near.fill_diagonal_(False)
    return near.any(1).view(n, -1).any(1)
