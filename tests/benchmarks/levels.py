"""The table of chapter 00: what each level of `scenes` asks of a learner. Each run is one JSON in mssl/stored/runs; stored runs are skipped.

    python tests/benchmarks/levels.py [--only calm small] [--again] [--threads 2]

For each level: weighted 20-NN of pixels, of an untrained, a siamese and a supervised encoder on 2,000 new pictures, and the share of random
pairs of crops (area .2 to 1) in which at least one view holds less than a quarter of the named object's box. Training is `mssl_train`'s own.
About half an hour on 2 cores for all."""
import argparse, json, subprocess, tempfile
from pathlib import Path
import torch
from mssl.scenes import scenes
from mssl.train import pretrain
from mssl.views import random_boxes

ROOT = Path(__file__).resolve().parents[2]
RUNS = dict(calm=(10, (0, 1, 2)), small=(40, (0,)), several=(16, (0,)), conflict=(10, (0,))) # level: epochs of 10,000 pictures, seeds

def miss_rate(box, pairs=10, share=.25, seed=0): # box [n,4] of the objects -> share of the pairs
    "How often two random crops are a pair in which a view holds less than `share` of the object's box"
    held = []
    for view in (0, 1):
        crop = random_boxes(len(box) * pairs, generator=torch.Generator().manual_seed(seed + view))
        b = box.repeat(pairs, 1)
        low, high = torch.maximum(crop[:, :2], b[:, :2]), torch.minimum(crop[:, :2] + crop[:, 2:], b[:, :2] + b[:, 2:])
        held.append((high - low).clamp(min=0).prod(1) / b[:, 2:].prod(1))
    return (torch.minimum(*held) < share).float().mean().item()

def run(level, seed, epochs):
    "One run of `mssl_train`, as the JSON that is stored"
    with tempfile.TemporaryDirectory() as out:
        report = pretrain(out, data=f'scenes:{level}', seed=seed, epochs=epochs, show_bar=False)
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    keep = ('settings', 'arch', 'augment', 'results', 'minutes', 'minutes_training', 'device', 'precision', 'lr', 'versions')
    return {**{k: report[k] for k in keep}, 'miss_rate': miss_rate(scenes(10_000, level=level, seed=seed).box), 'commit': commit}

def main(only=None, again=False):
    folder = ROOT / 'mssl' / 'stored' / 'runs'
    folder.mkdir(parents=True, exist_ok=True)
    for level, seed in [(l, s) for k in range(3) for l, (_, seeds) in RUNS.items() for s in seeds[k:k + 1]]:
        file = folder / f'levels-{level}-{seed}.json'
        if (only and level not in only) or (file.exists() and not again): continue
        r = run(level, seed, RUNS[level][0])
        file.write_text(json.dumps(r, indent=1) + '\n')
        print(level, seed, {k: round(v['knn'], 3) for k, v in r['results'].items()}, f"miss {r['miss_rate']:.3f}, {r['minutes']} min", flush=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='*', choices=RUNS, help='levels; all when left out')
    parser.add_argument('--again', action='store_true', help='run what is stored, too')
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    main(args.only, args.again)
