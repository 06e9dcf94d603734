"""Two views of each picture: `mssl.views` on resident uint8 pictures against torchvision v2, picture by picture, in a DataLoader with 2 workers.

    python tests/benchmarks/views_speed.py [--sizes 32,64,128] [--seconds 20] [--batch 256] [--threads 2]

Both sides start from uint8 pictures in memory and end in two float batches, crop .2 to 1, flip, jitter (.4,.4,.4,.1) with p .8, grey .2,
normalised. torchvision runs in the faster of two forms, on uint8 or on float pictures. The sides take turns, and each side's best turn counts.
Run it while nothing else runs."""
import argparse, os, platform, sys, time
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from mssl.data import Pictures, ResidentLoader
from mssl.views import AUGMENTS, IMAGENET, Views

NEEDED = {32: 6., 64: 3., 128: 1.5} # ours over torchvision's, in pictures per second

def torchvision_transform(size, form='uint8'): # form: the pictures are 'uint8' or 'float' while they are cropped and coloured
    "The recipe 'small' as torchvision v2 spells it, for one uint8 picture [3,H,W]"
    a, to_float = AUGMENTS['small'][0], v2.ToDtype(torch.float32, scale=True)
    steps = [v2.RandomResizedCrop(size, scale=a.scale, ratio=a.ratio, antialias=True), v2.RandomHorizontalFlip(a.flip),
             v2.RandomApply([v2.ColorJitter(*a.jitter)], a.jitter_p), v2.RandomGrayscale(a.grey)]
    return v2.Compose([*steps, to_float, v2.Normalize(*IMAGENET)] if form == 'uint8' else [to_float, *steps, v2.Normalize(*IMAGENET)])

class TwoViews(Dataset):
    "Two views of each picture, one picture at a time"
    def __init__(self, image, transform): self.image, self.transform = image, transform
    def __len__(self): return len(self.image)
    def __getitem__(self, i): return self.transform(self.image[i]), self.transform(self.image[i])

def torchvision_loader(image, size, batch, form='uint8', workers=2):
    return DataLoader(TwoViews(image, torchvision_transform(size, form)), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)

def our_batches(image, size, batch):
    "Two views of every batch of a `ResidentLoader`, as a Learner makes them"
    views = Views(size, 'small', mean=IMAGENET[0], std=IMAGENET[1])
    loader = ResidentLoader(Pictures(image), batch, shuffle=True, drop_last=True)
    def epoch():
        for x, in loader: yield views.make(x)
    return epoch

def rate(epoch): # a function that returns an iterable of (view, view)
    "Pictures per second of one pass"
    start, seen = time.perf_counter(), 0
    for a, b in epoch():
        assert a.shape == b.shape and a.dtype == torch.float32
        seen += len(a)
    return seen / (time.perf_counter() - start)

def compare(size, seconds=20., batch=256, workers=2):
    "Best rates of both sides at one size -> dict(ours, torchvision, form, turns); at least three turns each"
    n = max(2, round(4 * 64 / size)) * batch
    image = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    loaders = {form: torchvision_loader(image, size, batch, form, workers) for form in ('uint8', 'float')}
    sides = {'ours': our_batches(image, size, batch), **{form: loader.__iter__ for form, loader in loaders.items()}}
    best, turns, start = dict.fromkeys(sides, 0.), 0, time.perf_counter()
    for epoch in sides.values(): rate(epoch) # warm-up: workers start, memory is touched
    while turns < 3 or time.perf_counter() - start < seconds:
        for name, epoch in sides.items():
            for _ in range(3 if name == 'ours' else 1): best[name] = max(best[name], rate(epoch))
        turns += 1
    form = max(loaders, key=best.get)
    return dict(ours=best['ours'], torchvision=best[form], form=form, turns=turns)

def machine():
    "Which machine this is, in one line"
    cpu = platform.processor() or platform.machine()
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as f: cpu = next((l.split(':')[1].strip() for l in f if l.startswith('model name')), cpu)
    import torchvision
    return f'{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}'

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--sizes', default='32,64,128', help='pixels of pictures and views')
    parser.add_argument('--seconds', type=float, default=20., help='for each size, both sides together')
    parser.add_argument('--batch', type=int, default=256)
    parser.add_argument('--threads', type=int, default=2, help="torch's threads for our side; torchvision has 2 workers")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f'{machine()}; {args.threads} threads against 2 workers, batch {args.batch}, two views of each picture')
    print(f'{"px":>4}{"mssl":>12}{"torchvision":>14}{"ratio":>8}{"needed":>8}   pictures per second, best of the turns')
    missed = 0
    for size in map(int, args.sizes.split(',')):
        r = compare(size, args.seconds, args.batch)
        ratio, needed = r['ours'] / r['torchvision'], NEEDED.get(size)
        missed += needed is not None and ratio < needed
        print(f'{size:4d}{r["ours"]:12,.0f}{r["torchvision"]:14,.0f}{ratio:8.2f}{needed or "":>8}   {r["turns"]} turns, torchvision on {r["form"]}', flush=True)
    return missed

if __name__ == '__main__': sys.exit(main())
