"""What masks cost: filter, mask and fill of a batch beside one training step on it, and block masks beside a loop.

    python tests/benchmarks/mask_cost.py [--batch 256] [--size 64] [--masks 256] [--turns 7] [--threads 2] [--device cpu]

1. `HighPass`, `mixed_masks` and `fill_masked` ('noise') of 256 x 3 x 64 x 64 numbers, against forward and backward of timm's resnet18
   (its own stem) on that batch. Needed: below 10 %.
2. 256 block masks, 118 of 14 x 14 cells hidden, all at once, against the same rule picture by picture in Python.
   Needed: no slower on two cores; 10 times as fast on a GPU (--device cuda).
The sides take turns, and each side's best turn counts. Run it while nothing else runs."""
import argparse, sys, time
from pathlib import Path
import timm, torch
from mssl.edges import HighPass, fill_masked
from mssl.masks import block_mask, mixed_masks
sys.path += [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from views_speed import machine
from test_masks import loop # the rule for one picture after another

def interleaved(sides, turns, device='cpu'): # name -> function
    "Seconds of each side's best turn"
    best = dict.fromkeys(sides, float('inf'))
    wait = torch.cuda.synchronize if torch.device(device).type == 'cuda' else lambda: None
    for f in sides.values(): f(), wait() # warm-up
    for _ in range(turns):
        for name, f in sides.items():
            start = time.perf_counter()
            f(), wait()
            best[name] = min(best[name], time.perf_counter() - start)
    return best

def mask_cost(batch=256, size=64, turns=7, device='cpu'):
    "Seconds of filter, mask and fill, of each of them, and of a training step"
    x, filter = torch.randn(batch, 3, size, size, device=device), HighPass.for_size(size).to(device)
    model = timm.create_model('resnet18', num_classes=0).to(device).train()
    def step():
        model.zero_grad()
        model(x).square().mean().backward()
    masks = lambda: mixed_masks(batch, size, device=device).mask
    mask, y = masks(), filter(x)
    return interleaved(dict(all=lambda: fill_masked(filter(x), masks()), step=step, filter=lambda: filter(x), mask=masks, fill=lambda: fill_masked(y, mask)), turns, device)

def block_cost(n=256, turns=7, device='cpu'):
    "Seconds of so many block masks, all at once and in a loop"
    return interleaved(dict(batched=lambda: block_mask(n, 14, 118, device=device), loop=lambda: loop(n, 14, 118)), turns, device)

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name, value, text in (('batch', 256, 'pictures'), ('size', 64, 'pixels'), ('masks', 256, 'block masks'), ('turns', 7, 'of each side'), ('threads', 2, "torch's")): parser.add_argument(f'--{name}', type=int, default=value, help=text)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    gpu = torch.device(args.device).type == 'cuda'
    print(f'{torch.cuda.get_device_name() if gpu else machine()}; {args.threads} threads, timm {timm.__version__}, best of {args.turns} turns')
    s = mask_cost(args.batch, args.size, args.turns, args.device)
    share = s['all'] / s['step']
    print(f"filter, mask and fill of {args.batch} x 3 x {args.size} x {args.size}: {1e3 * s['all']:.1f} ms (alone: filter {1e3 * s['filter']:.1f}, mask {1e3 * s['mask']:.1f}, fill {1e3 * s['fill']:.1f})")
    print(f"resnet18 forward and backward: {1e3 * s['step']:.1f} ms; ratio {share:.3f} (needed: below .1)", flush=True)
    b = block_cost(args.masks, args.turns, args.device)
    faster = b['loop'] / b['batched']
    print(f"{args.masks} block masks, 118 of 14 x 14: {1e3 * b['batched']:.1f} ms at once, {1e3 * b['loop']:.1f} ms in a loop; ratio {faster:.2f} (needed: {10 if gpu else 1} at least)")
    return int(share >= .1) + int(faster < (10 if gpu else 1))

if __name__ == '__main__': sys.exit(main())
