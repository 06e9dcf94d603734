"""Many JPEG pictures of mixed sizes: made, packed, trained on for one pass as they come from the shards. Prints pictures per second and peak memory.

    python tests/benchmarks/pack_many.py --n 20000 --folder /tmp/many [--workers 2] [--bs 128] [--size 64] [--again]

What lies in the folder already is used again: pictures, shards. `--again` packs anew. The peak is the largest sum over this process and its workers of what is
theirs alone, shared pages divided among them (PSS, Linux), looked at four times a second; beside it the plain RSS, which counts shared pages once for each process.
"""
import argparse, os, shutil, threading, time, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, torch
from PIL import Image
from fastai.callback.core import Callback
from mssl.data import image_dls
from mssl.pack import pack
from mssl.siamese import siamese_learner

SIZES = ((640, 480), (480, 640), (1024, 768), (512, 512), (300, 200), (1600, 1200))

def make(folder, n):
    "Grain over soft colours: a JPEG of it is about as large as one of a photo"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    grains = [Image.fromarray(rng.integers(0, 256, (400, 550, 3), dtype=np.uint8)).resize((2200, 1600), Image.Resampling.BILINEAR) for _ in range(4)]
    def one(i):
        path = folder / f'{i % 50:02}' / f'{i:06}.jpg'
        if path.exists(): return
        rng = np.random.default_rng(i)
        w, h = SIZES[rng.integers(len(SIZES))]
        soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BILINEAR)
        x, y = (int(rng.integers(o)) for o in (2200 - w, 1600 - h))
        path.parent.mkdir(exist_ok=True)
        Image.blend(soft, grains[i % 4].crop((x, y, x + w, y + h)), .2).save(path, quality=90)
    with ThreadPoolExecutor(os.cpu_count()) as pool: list(pool.map(one, range(n)))

def processes(pid):
    "This process and all below it"
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for task in Path(f'/proc/{found[-1]}/task').glob('*'):
            try: todo += [int(o) for o in (task / 'children').read_text().split()]
            except OSError: pass
    return found

def memory():
    "(PSS, RSS) in bytes, summed over this process and its workers"
    total = dict(Pss=0, Rss=0)
    for pid in processes(os.getpid()):
        try: lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
        except OSError: continue # ended meanwhile
        for line in lines:
            key = line.split(':')[0]
            if key in total: total[key] += int(line.split()[1]) * 1024
    return total['Pss'], total['Rss']

class Peak:
    "The largest memory while a block runs"
    def __enter__(self):
        self.start, self.most, self.stop = memory(), memory(), threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True); self.thread.start()
        self.began = time.perf_counter()
        return self
    def look(self):
        while not self.stop.wait(.25): self.most = tuple(max(a, b) for a, b in zip(self.most, memory()))
    def __exit__(self, *args):
        self.seconds = time.perf_counter() - self.began
        self.stop.set(); self.thread.join()
    def __str__(self): return f'peak {self.most[0] / 2**20:,.0f} MiB (before {self.start[0] / 2**20:,.0f}; RSS with shared pages counted again {self.most[1] / 2**20:,.0f})'

class Steady(Callback):
    "Seconds of every tenth of the pass"
    order = 70
    def before_train(self): self.times = [time.perf_counter()]
    def after_batch(self):
        if self.training and (self.iter + 1) % max(1, self.n_iter // 10) == 0: self.times.append(time.perf_counter())

def main(n, folder, workers, bs, size, again, seed=0):
    folder = Path(folder)
    start = time.perf_counter()
    make(folder / 'photos', n)
    total = sum(f.stat().st_size for f in (folder / 'photos').rglob('*.jpg'))
    print(f'{n:,} pictures of {len(SIZES)} sizes, {total / 1e6:,.0f} MB, made or found in {time.perf_counter() - start:.0f} s', flush=True)
    if again: shutil.rmtree(folder / 'packed', ignore_errors=True)
    done = (folder / 'packed' / 'pack.json').exists()
    with Peak() as p: index = pack(folder / 'photos', folder / 'packed', workers=workers or None)
    print(f"\npacked: {index['pictures']:,} pictures, {index['bytes'] / 1e6:,.0f} MB, {len(index['shards'])} shards, " + ('were there' if done else f"{index['pictures'] / p.seconds:,.0f} pictures/s, {p}"), flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.manual_seed(seed)
        with Peak() as p:
            dls = image_dls(folder / 'packed', at_most=2 * size, bs=bs, device='cpu', in_memory=False, workers=workers)
            list(zip(range(2), dls.train)) # workers start once
        print(f'opened: {len(dls.train_ds):,} to train on, {p.seconds:.1f} s', flush=True)
        with Peak() as p: count = sum(len(b[0]) for b in dls.train)
        print(f'read alone: {count / p.seconds:,.0f} pictures/s at {dls.train_ds.size}, {p}', flush=True)
        steady = Steady()
        learn = siamese_learner(dls, 'resnet10_tiny', size=size, cbs=[steady])
        with Peak() as p, learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    per = np.diff(steady.times)
    tenth = max(1, len(dls.train) // 10) * bs
    print(f'trained: {(len(steady.times) - 1) * tenth / per.sum():,.0f} pictures/s, tenths of the pass {tenth / per.max():,.0f} to {tenth / per.min():,.0f}, loss {learn.recorder.values[0][0]:.3f}, {p}')

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n', type=int, default=20_000, help='pictures')
    parser.add_argument('--folder', default='/tmp/many', help='where they are made and packed')
    parser.add_argument('--workers', type=int, default=2, help='processes that decode while training, threads that pack')
    parser.add_argument('--bs', type=int, default=128, help='pictures a batch')
    parser.add_argument('--size', type=int, default=64, help='pixels of the views')
    parser.add_argument('--again', action='store_true', help='pack anew')
    main(**vars(parser.parse_args()))
