"""The dense UniGrad loss without its M x M matrix against the form with it, forward and backward; by hand, on a quiet machine.

    python tests/benchmarks/unigrad.py [threads]

Interleaved, the minimum of three each, after loss and gradient were found equal in float64. Exits with 1 below five times as fast
at M = 6,272, D = 256 or twenty times at M = 12,544, D = 768 (issue 6)."""
import sys, time
import torch, torch.nn.functional as F
from mssl.siamese_im import dense_unigrad

def with_matrix(p, z, weight=.02):
    "As the formula reads: a product of every prediction with every other, of which the diagonal is used"
    z = F.layer_norm(z, z.shape[-1:])
    C = z.T @ z / len(z)
    return ((p - z).square().sum(1).mean() + weight * (p @ C @ p.T).diagonal().mean()) / p.shape[1]

def seconds(f, p, z):
    p.grad, start = None, time.perf_counter()
    f(p, z).backward()
    return time.perf_counter() - start

def main(threads=2):
    torch.set_num_threads(threads), torch.manual_seed(0)
    p, z = torch.randn(2, 1500, 96, dtype=torch.float64)
    p.requires_grad_()
    (a, da), (b, db) = ((v, torch.autograd.grad(v, p)[0]) for v in (dense_unigrad(p, z), with_matrix(p, z)))
    assert abs(a - b) < 1e-10 and (da - db).abs().max() < 1e-10, 'the two are one function'
    good = True
    for M, D, wanted in ((6272, 256, 5), (12544, 768, 20)):
        p, z, times = torch.randn(M, D, requires_grad=True), torch.randn(M, D), dict(matrix=[], fused=[])
        for f in (dense_unigrad, with_matrix): seconds(f, p, z) # warm
        for _ in range(3):
            for name, f in (('matrix', with_matrix), ('fused', dense_unigrad)): times[name].append(seconds(f, p, z))
        matrix, fused = (min(times[k]) for k in ('matrix', 'fused'))
        print(f'M = {M:,}, D = {D}: {1000 * matrix:,.0f} ms with the matrix, {1000 * fused:,.1f} ms without, {matrix / fused:.1f} times (at least {wanted} wanted)')
        good &= matrix / fused >= wanted
    return 0 if good else 1

if __name__ == '__main__': sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
