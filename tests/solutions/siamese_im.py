"""Solutions to the exercises of nbs/09b_siamese_im_exercises.ipynb: several right answers each, the plainest first.

Every function whose name ends in its exercise's name is given to that exercise's check by tests/test_siamese_im_exercises.py.
"""
import random

import numpy as np
import torch
from torch.nn import functional as F

from mssl import mae, siamese_im


# 1. What stays: (tokens [B,L,D], k) -> visible [B,k,D], mask bool [B,L]

def argsort_keep(tokens, k):
    "A random order of the places for every picture; its first k, sorted"
    B, L, D = tokens.shape
    places = torch.rand(B, L).argsort(1)[:, :k].sort(1).values
    visible = tokens.gather(1, places[:, :, None].expand(-1, -1, D))
    return visible, torch.ones(B, L, dtype=torch.bool).scatter(1, places, False)

def rank_keep(tokens, k):
    "The rank of each place in a random order; True picks row by row and in order"
    B, L, D = tokens.shape
    mask = torch.randn(B, L).argsort(1).argsort(1) >= k
    return tokens[~mask].view(B, k, D), mask

def loop_keep(tokens, k):
    "randperm for each picture"
    visible, masks = [], []
    for t in tokens:
        mask = torch.ones(len(t), dtype=torch.bool)
        mask[torch.randperm(len(t))[:k]] = False
        visible.append(t[~mask])
        masks.append(mask)
    return torch.stack(visible), torch.stack(masks)

def multinomial_keep(tokens, k):
    "Draw without putting back, all places with one weight"
    places, _ = torch.ones(tokens.shape[:2]).multinomial(k).sort(1)
    rows = torch.arange(len(tokens))[:, None]
    mask = torch.full(tokens.shape[:2], True)
    mask[rows, places] = False
    return tokens[rows, places], mask

def sample_keep(tokens, k):
    "Python's own sample"
    B, L, _ = tokens.shape
    places = torch.tensor([sorted(random.sample(range(L), k)) for _ in range(B)])
    visible = torch.stack([t[i] for t, i in zip(tokens, places)])
    return visible, ~F.one_hot(places, L).bool().any(1)

def numpy_keep(tokens, k):
    x = tokens.numpy()
    order = np.random.random(x.shape[:2]).argpartition(k - 1, axis=1)[:, :k]
    places = np.sort(order, axis=1)
    mask = np.ones(x.shape[:2], dtype=bool)
    np.put_along_axis(mask, places, False, axis=1)
    return torch.from_numpy(np.take_along_axis(x, places[:, :, None], axis=1)), torch.from_numpy(mask)

def threshold_keep(tokens, k):
    "Whatever is above the (L-k)th smallest of its row"
    B, L, D = tokens.shape
    noise = torch.rand(B, L, dtype=torch.float64)
    mask = noise <= noise.kthvalue(L - k, dim=1, keepdim=True).values if k < L else torch.zeros(B, L, dtype=torch.bool)
    return torch.masked_select(tokens, ~mask.unsqueeze(-1)).reshape(B, k, D), mask

def mssl_keep(tokens, k):
    mask = mae.patch_mask(len(tokens), (1, tokens.shape[1]), (tokens.shape[1] - k) / tokens.shape[1]).flatten(1)
    return mae.drop_tokens(tokens, mask), mask


# 2. Patches to pixels: (p [B,L,h*w*C], patch, grid) -> [B,C,H,W]

def permute_pixels(p, patch, grid):
    "An axis for each; rows of patches and rows in a patch make the rows of the picture"
    (h, w), (rows, cols), B = patch, grid, len(p)
    y = p.reshape(B, rows, cols, h, w, -1).permute(0, 5, 1, 3, 2, 4)
    return y.reshape(B, y.shape[1], rows * h, cols * w)

def loop_pixels(p, patch, grid):
    "Patch after patch to its place"
    h, w = patch
    C = p.shape[2] // (h * w)
    y = torch.zeros(len(p), C, grid[0] * h, grid[1] * w)
    for i in range(p.shape[1]):
        r, c = divmod(i, grid[1])
        y[:, :, r * h:(r + 1) * h, c * w:(c + 1) * w] = p[:, i].view(-1, h, w, C).movedim(-1, 1)
    return y

def fold_pixels(p, patch, grid):
    "fold wants channel by channel, and patches last"
    C = p.shape[2] // (patch[0] * patch[1])
    columns = p.unflatten(2, (-1, C)).permute(0, 3, 2, 1).flatten(1, 2)
    return F.fold(columns, (grid[0] * patch[0], grid[1] * patch[1]), kernel_size=tuple(patch), stride=tuple(patch))

def cat_pixels(p, patch, grid):
    "Patches side by side make a strip, strips below each other the picture"
    tiles = p.view(len(p), *grid, *patch, -1)
    strips = [torch.cat(tiles[:, r].unbind(1), dim=2) for r in range(grid[0])]
    return torch.cat(strips, dim=1).permute(0, 3, 1, 2)

def numpy_pixels(p, patch, grid):
    x = p.numpy().reshape(len(p), grid[0], grid[1], patch[0], patch[1], -1)
    x = np.transpose(x, (0, 1, 3, 2, 4, 5)).reshape(len(p), grid[0] * patch[0], grid[1] * patch[1], -1)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))

def lookup_pixels(p, patch, grid):
    "For every pixel: which patch holds it, and which number there?"
    (h, w), (rows, cols) = patch, grid
    C = p.shape[2] // (h * w)
    i, j = torch.arange(rows * h)[:, None], torch.arange(cols * w)
    token, pixel = i // h * cols + j // w, i % h * w + j % w
    return p.unflatten(2, (h * w, C))[:, token, pixel].movedim(3, 1)

def numbered_pixels(p, patch, grid):
    "Take the numbers of all pixels apart as chapter 08 does, and sort by them"
    C = p.shape[2] // (patch[0] * patch[1])
    shape = (1, C, grid[0] * patch[0], grid[1] * patch[1])
    number = mae.patchify(torch.arange(float(np.prod(shape))).view(shape), patch).flatten().long()
    return p.flatten(1)[:, number.argsort()].view(-1, *shape[1:])

def mssl_pixels(p, patch, grid): return mae.unpatchify(p, patch, grid)


# 3. The place: (box1, flip1, box2, flip2, grid) -> [B,L,2]

def plain_place(box1, flip1, box2, flip2, grid):
    "Share of view 2, place in the picture, share of view 1, patches"
    rows, cols = grid
    v = ((torch.arange(rows) + .5) / rows).expand(len(box1), rows)
    u = ((torch.arange(cols) + .5) / cols).expand(len(box1), cols)
    u = torch.where(flip2[:, None], 1 - u, u)
    y, x = box2[:, 0:1] + v * box2[:, 2:3], box2[:, 1:2] + u * box2[:, 3:4]
    v, u = (y - box1[:, 0:1]) / box1[:, 2:3], (x - box1[:, 1:2]) / box1[:, 3:4]
    u = torch.where(flip1[:, None], 1 - u, u)
    y, x = v * rows - .5, u * cols - .5
    return torch.stack([y.repeat_interleave(cols, 1), x.repeat(1, rows)], 2)

def official_place(box1, flip1, box2, flip2, grid):
    "SiameseIM's six numbers: boxes in the mirrored picture, and a case for flips that differ"
    rows, cols = grid
    (i1, j1, h1, w1), (i2, j2, h2, w2) = box1.T, box2.T
    j1, j2 = torch.where(flip1, 1 - j1 - w1, j1), torch.where(flip2, 1 - j2 - w2, j2)
    delta_i, delta_j, delta_h, delta_w, flip_delta_j = (i2 - i1) / h1, (j2 - j1) / w1, h2 / h1, w2 / w1, (1 - j1 - j2) / w1
    out = []
    for b in range(len(box1)):
        y = delta_h[b] * (torch.arange(rows) + .5) + rows * delta_i[b] - .5
        x = delta_w[b] * (torch.arange(cols) + .5)
        x = -x + cols * flip_delta_j[b] - .5 if flip1[b] != flip2[b] else x + cols * delta_j[b] - .5
        out.append(torch.stack(torch.meshgrid(y, x, indexing='ij'), -1).flatten(0, 1))
    return torch.stack(out)

def loop_place(box1, flip1, box2, flip2, grid):
    "One patch after another"
    rows, cols = grid
    out = []
    for (t1, l1, h1, w1), f1, (t2, l2, h2, w2), f2 in zip(box1.tolist(), flip1.tolist(), box2.tolist(), flip2.tolist()):
        places = []
        for r in range(rows):
            for c in range(cols):
                seen = cols - 1 - c if f2 else c # the column where the patch would be in an unflipped view
                y, x = t2 + h2 * (r + .5) / rows, l2 + w2 * (seen + .5) / cols
                y, x = (y - t1) / h1 * rows - .5, (x - l1) / w1 * cols - .5
                places.append([y, cols - 1 - x if f1 else x])
        out.append(places)
    return torch.tensor(out)

def matrix_place(box1, flip1, box2, flip2, grid):
    "A view's patches to the picture is a matrix; so is the way back, inverted"
    n = torch.tensor([float(o) for o in grid])
    def to_picture(box, flip):
        A, turn = torch.eye(3, dtype=torch.float64).repeat(len(box), 1, 1), torch.where(flip, -1., 1.)
        A[:, 0, 0], A[:, 0, 2] = box[:, 2] / n[0], box[:, 0] + .5 * box[:, 2] / n[0]
        A[:, 1, 1] = turn * box[:, 3] / n[1]
        A[:, 1, 2] = box[:, 1] + torch.where(flip, 1 - .5 / n[1], .5 / n[1]) * box[:, 3]
        return A
    r, c = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing='ij')
    points = torch.stack([r.flatten(), c.flatten(), torch.ones(r.numel())]).double()
    found = torch.linalg.inv(to_picture(box1, flip1)) @ to_picture(box2, flip2) @ points
    return found[:, :2].transpose(1, 2).float()

def corners_place(box1, flip1, box2, flip2, grid):
    "Where the first and the last patch lie; the others lie between them evenly"
    def ends(start, length, flip): # of the middles of the first and the last patch, along one side
        first, last = start + length * half, start + length * (1 - half)
        return torch.where(flip, last, first), torch.where(flip, first, last)
    sides, never = [], torch.zeros_like(flip1)
    for k, n in enumerate(grid):
        half = .5 / n
        a1, b1 = ends(box1[:, k], box1[:, k + 2], flip1 if k else never)
        a2, b2 = ends(box2[:, k], box2[:, k + 2], flip2 if k else never)
        one = box1[:, k + 2] / n * torch.where(flip1 if k else never, -1., 1.)
        a, b = (a2 - a1) / one, (b2 - a1) / one
        sides.append(torch.stack([a + (b - a) * (i / (n - 1) if n > 1 else 0.) for i in range(n)], 1))
    return torch.stack([torch.cartesian_prod(y, x) for y, x in zip(*sides)])

def picture_place(box1, flip1, box2, flip2, grid):
    "Numpy, rows and columns in one go with broadcasting"
    b1, b2 = box1.numpy().astype('float64')[:, None, None], box2.numpy().astype('float64')[:, None, None]
    turn1, turn2 = ((o.numpy()[:, None, None, None] & np.array([False, True])) for o in (flip1, flip2))
    n = np.array(grid)
    share = (np.stack(np.indices(tuple(grid)), -1) + .5) / n
    share = np.where(turn2, 1 - share, share)
    share = (b2[..., :2] + b2[..., 2:] * share - b1[..., :2]) / b1[..., 2:]
    return torch.from_numpy((np.where(turn1, 1 - share, share) * n - .5).reshape(len(b1), -1, 2))

def mssl_place(box1, flip1, box2, flip2, grid): return siamese_im.where_is(box1, flip1, box2, flip2, grid)


# 4. The patch: (place [B,n,2], grid) -> int64 [B,n]

def floor_match(place, grid):
    "From half a patch before to half a patch behind: round, and look at rows and columns apart"
    r, c = (place + .5).floor().long().unbind(-1)
    inside = (r >= 0) & (r < grid[0]) & (c >= 0) & (c < grid[1])
    return torch.where(inside, r * grid[1] + c, -1)

def round_match(place, grid):
    number = place.round().long()
    out = number[..., 0] * grid[1] + number[..., 1]
    out[(number < 0).any(-1) | (number >= torch.tensor(grid)).any(-1)] = -1
    return out

def loop_match(place, grid):
    out = []
    for picture in place.tolist():
        out.append([])
        for y, x in picture:
            there = -.5 <= y < grid[0] - .5 and -.5 <= x < grid[1] - .5
            out[-1].append(int(y + .5) * grid[1] + int(x + .5) if there else -1)
    return torch.tensor(out)

def distance_match(place, grid):
    "The patch whose middle is nearest, if it is not more than half a patch away along either side"
    r, c = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing='ij')
    middle = torch.stack([r, c], -1).flatten(0, 1)
    off = (place[:, :, None] - middle).abs().amax(-1)
    near, number = off.min(-1)
    return number.masked_fill(near > .5, -1)

def numpy_match(place, grid):
    o = np.rint(place.numpy()).astype('int64')
    inside = ((o >= 0) & (o < np.array(grid))).all(-1)
    safe = np.where(inside[..., None], o, 0)
    return torch.from_numpy(np.where(inside, np.ravel_multi_index((safe[..., 0], safe[..., 1]), tuple(grid)), -1))

def bucket_match(place, grid):
    "Borders between patches, and how many of them lie before a place"
    found = []
    for o, n in zip(place.unbind(-1), grid):
        k = torch.bucketize(o.contiguous(), torch.arange(n + 1) - .5, right=True) - 1
        found.append(torch.where(k < n, k, -1))
    r, c = found
    return torch.where((r < 0) | (c < 0), -1, r * grid[1] + c)

def table_match(place, grid):
    "A table of numbers with a frame of -1; what is far outside is pushed into the frame"
    table = F.pad(torch.arange(grid[0] * grid[1]).view(*grid), (1, 1, 1, 1), value=-1)
    r, c = ((o + .5).floor().long().clamp(-1, n) + 1 for o, n in zip(place.unbind(-1), grid))
    return table[r, c]


# 5. The price: (p [B,L,D], z [B,L,D]) -> one number

def plain_price(p, z):
    P, Z = p.flatten(0, 1), z.flatten(0, 1)
    C = Z.T @ Z / len(Z)
    return ((P @ C) * P).sum(1).mean()

def trace_price(p, z):
    "Two D x D matrices, multiplied number by number"
    D = p.shape[-1]
    P, Z = p.reshape(-1, D), z.reshape(-1, D)
    return (torch.mm(Z.T, Z) * torch.mm(P.T, P)).sum() / len(P) ** 2

def einsum_price(p, z):
    M = p.shape[0] * p.shape[1]
    C = torch.einsum('bld,ble->de', z, z) / M
    A = torch.einsum('bld,ble->de', p, p) / M
    return torch.einsum('de,ed->', A, C)

def loop_price(p, z):
    "Row after row"
    C, total = 0, 0
    for row in z.flatten(0, 1): C = C + torch.outer(row, row)
    for row in p.flatten(0, 1): total = total + row @ C @ row
    return total / (p.shape[0] * p.shape[1]) ** 2

def numpy_price(p, z):
    P, Z = (o.numpy().reshape(-1, p.shape[-1]).astype('float64') for o in (p, z))
    C = Z.T @ Z / len(Z)
    return torch.tensor(np.einsum('md,de,me->', P, C, P, optimize=True) / len(P))

def axes_price(p, z):
    "Along the axes of C the price is a sum of squares"
    P, Z = p.flatten(0, 1).double(), z.flatten(0, 1).double()
    stretch, axes = torch.linalg.eigh(Z.T @ Z / len(Z))
    return (P @ axes).square().mean(0) @ stretch

def length_price(p, z):
    "C = R^T R, so the price is the squared length of R p"
    R = torch.linalg.qr(z.flatten(0, 1), mode='r').R / (z.shape[0] * z.shape[1]) ** .5
    return F.linear(p, R).square().sum(-1).mean()

def chunk_price(p, z):
    "All pairs, a few predictions at a time: slow, and no large matrix"
    P, Z = p.flatten(0, 1), z.flatten(0, 1)
    return sum((some @ Z.T).square().sum() for some in P.split(50)) / len(P) ** 2

def picture_price(p, z):
    "C picture by picture, bmm"
    C = torch.bmm(z.transpose(1, 2), z).sum(0) / z[..., 0].numel()
    return torch.tensordot(C, torch.bmm(p.transpose(1, 2), p).mean(0) / p.shape[1])
