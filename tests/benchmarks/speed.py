"""How fast a training step of each recipe is, what memory it takes, where its time goes, and what lightly's SimCLR and VICReg take beside it. By hand, on a quiet machine.

    python tests/benchmarks/speed.py [--size 64] [--batch 256] [--steps 8] [--threads 2]     every recipe
    python tests/benchmarks/speed.py --cost                                                   batch, size and views of one recipe
    python tests/benchmarks/speed.py --lightly                                                the two pipelines, turn by turn (pip install lightly)

The step is a whole training step of a fastai Learner, views included; the median of the steps after five that do not count. Each row is measured in a process of
its own, so that its peak memory is its own: the highest of the training less what the process had when everything was imported. "Encoder" is what its passes take
alone, forward and backward for what is trained, forward for a teacher, on as many views; what a step takes beside them is "beside", the quickest step against the quickest passes. With --save a folder, the
results are stored there as JSON."""
import argparse, json, os, statistics, subprocess, sys, time
from pathlib import Path
import torch
sys.path.append(str(Path(__file__).parent))

RECIPES = ['info_nce', 'vicreg', 'byol', 'kway', 'lejepa', 'mscn', 'info_nce:parts=crops/boxes:truth', 'info_nce:parts=crops/layer:layer3/threshold:.4',
           'mscn:parts=crops/layer:layer3/threshold:.4', 'info_nce:arch=vit_tiny_small', 'mae', 'siamese_im', 'image_text', 'semmim']
PASSES = dict(byol=(2, 2), kway=(2, 2)) # of the encoder a picture: with gradient, without; two and none otherwise
CONVNETS = ('info_nce', 'vicreg', 'byol', 'kway', 'lejepa', 'mscn')
KEPT = dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_=str(2**31 - 1), MALLOC_TOP_PAD_=str(64 << 20)) # what `mssl.memory.keep_freed_memory` asks for, for a process that does not know it

def peak():
    from mssl.memory import peak_memory
    return peak_memory(torch.device('cpu'))

def encoder_alone(learn, size, batch, views, half, steps=8):
    "Seconds of one forward and backward, and of one forward, of as many pictures as a batch has views; the quickest of some, since anything else of the machine only adds"
    net, x = learn.model.encoder, torch.randn(batch * views, 3, size, size).to(memory_format=torch.channels_last)
    context = torch.autocast('cpu', torch.bfloat16, enabled=half)
    def both():
        with context: z = net(x)
        z.float().square().mean().backward()
    def forward():
        with torch.no_grad(), context: net(x)
    found = []
    for f in (both, forward):
        f(); times = []
        for _ in range(steps):
            start = time.perf_counter(); f(); times.append(time.perf_counter() - start)
        found.append(min(times))
    return found

def one(arm, size, batch, steps, precision, views=None):
    "What is measured of one recipe"
    from mssl.compare import parse_arms
    from mssl.data import image_dls
    from mssl.memory import reset_peak
    from mssl.recipes import find_recipe, make_parts, recipe_learner
    from mssl.train import make_filter, pick_precision, quiet, set_precision
    from mssl.views import AUGMENTS
    from step_cost import Clock
    import mssl.all
    s = parse_arms([arm], size=size, bs=batch, precision=precision)[0].settings
    cpu, arch, filter = torch.device('cpu'), s.arch or find_recipe(s.method).arch, make_filter(s.filter, s.size)
    before = peak()
    torch.manual_seed(0)
    dls, clock = image_dls(s.data, at_most=2 * s.size, bs=s.bs, device='cpu', n=4 * s.bs, seed=0), Clock(steps)
    learn = recipe_learner(s.method, dls, arch, size=s.size, augment=AUGMENTS['scenes'] * views if views else s.augment, cbs=[*make_parts(s.parts), clock], model_kwargs=dict(img_size=s.size) if arch.startswith('vit') else {}, **(dict(filter=filter) if filter else {}))
    set_precision(learn, pick_precision(s.precision, cpu), cpu)
    learn.model.to(cpu, memory_format=torch.channels_last)
    reset_peak(cpu)
    with quiet(learn, False): learn.fit(1000, 1e-4) # stops after so many steps
    rows = clock.rows[clock.warm:]
    parts = {k.strip(): statistics.median(r.get(k, 0.) for r in rows) for k in rows[-1]}
    times = [sum(v for k, v in r.items() if not k.startswith(' ')) for r in rows]
    step = statistics.median(times)
    found = dict(arm=arm, steps=steps, size=size, batch=batch, views=learn.views.n, precision=precision, step=step, rate=batch / step, memory=peak() - before, parts={k: v / step for k, v in parts.items()})
    if arm.split(':')[0] in CONVNETS and 'vit' not in arm:
        grad, none = PASSES.get(arm.split(':')[0], (learn.views.n, 0))
        both, forward = encoder_alone(learn, size, batch, 1, precision == 'bf16')
        found.update(encoder=grad * both + none * forward, beside=1 - (grad * both + none * forward) / min(times)) # quickest against quickest
    return found

def in_process(kind, *args, threads, **env):
    "The same in a process of its own -> what it prints as JSON"
    done = subprocess.run([sys.executable, '-W', 'ignore', __file__, kind, json.dumps(args)], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': str(threads), **env})
    if done.returncode: raise SystemExit(f'{args[0]}: {done.stderr[-1500:]}')
    return json.loads(done.stdout.splitlines()[-1])

def line(r):
    mb, beside = r['memory'] / 2**20, f"{r['beside']:7.1%}" if 'beside' in r else '      -'
    views = r['parts'].get('data and views', 0.)
    return f"{r['arm']:48} {r['size']:4} px  batch {r['batch']:4}  {r['views']} views  {1000 * r['step'] / r['batch']:7.2f} ms a picture {r['rate']:8,.0f} /s {mb:8,.0f} MiB   beside the encoder {beside}   views {views:6.1%}, loss {r['parts'].get('loss', 0.):5.1%}"

# --- lightly

ARCH = dict(channels=(16, 32, 64, 128)) # of timm's resnet18, with its own stem

def data(n, size=32): # uint8 [n,3,size,size]
    from mssl.scenes import scenes
    return scenes(n, size).image

def ours(method, size, batch, n):
    "Pictures a second of a fastai Learner, one epoch, after a short one"
    import timm
    from fastai.data.core import DataLoaders
    from mssl.data import Pictures, ResidentLoader
    from mssl.siamese import info_nce, siamese_learner, vicreg
    from mssl.views import AUGMENTS, Augment
    from dataclasses import replace
    net, image = timm.create_model('resnet18', num_classes=0, **ARCH), data(n, size)
    one = replace(AUGMENTS['simclr'][0], blur=0.) if method == 'simclr' else replace(AUGMENTS['simclr'][0], jitter=(.4, .4, .2, .1), blur=0., solarise=.1)
    load = lambda x: ResidentLoader(Pictures(x), batch, shuffle=True, drop_last=True)
    kwargs = dict(dim=128, hidden=128) if method == 'simclr' else dict(dim=2048, hidden=2048, layers=3)
    def learner(x): return siamese_learner(DataLoaders(load(x), load(x[:batch])), net, info_nce if method == 'simclr' else vicreg, size=size, augment=(one, one), model_kwargs=kwargs)
    def epoch(x):
        learn = learner(x)
        learn.model.to(memory_format=torch.channels_last)
        start = [0.]
        from fastai.callback.core import Callback
        class Time(Callback):
            def before_train(self): start[0] = time.perf_counter()
            def after_train(self): start[0] = time.perf_counter() - start[0]
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=Time())
        return len(x) // batch * batch / start[0]
    epoch(image[:3 * batch])
    return epoch(image)

def lightlys(method, size, batch, n, workers=2):
    "The same with lightly's transforms, heads and losses, in a plain loop, as its documentation has it"
    import timm
    from lightly.loss import NTXentLoss, VICRegLoss
    from lightly.models.modules.heads import SimCLRProjectionHead, VICRegProjectionHead
    from lightly.transforms import SimCLRTransform, VICRegTransform
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    transform = SimCLRTransform(size, gaussian_blur=0) if method == 'simclr' else VICRegTransform(size, gaussian_blur=0)
    pictures = [Image.fromarray(o.permute(1, 2, 0).numpy()) for o in data(n, size)]
    class Set(Dataset):
        def __len__(self): return len(pictures)
        def __getitem__(self, i): return transform(pictures[i])
    net = timm.create_model('resnet18', num_classes=0, **ARCH)
    head = SimCLRProjectionHead(128, 128, 128) if method == 'simclr' else VICRegProjectionHead(128, 2048, 2048, num_layers=3)
    model, loss = torch.nn.Sequential(net, head).to(memory_format=torch.channels_last), NTXentLoss() if method == 'simclr' else VICRegLoss()
    opt = torch.optim.Adam(model.parameters(), 1e-3)
    loader = DataLoader(Set(), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True)
    def epoch():
        seen, start = 0, time.perf_counter()
        for a, b in loader:
            opt.zero_grad()
            loss(model(a.to(memory_format=torch.channels_last)), model(b.to(memory_format=torch.channels_last))).backward()
            opt.step()
            seen += len(a)
        return seen / (time.perf_counter() - start)
    epoch() # workers start
    return epoch()

def beside_lightly(args):
    from importlib.metadata import PackageNotFoundError, version
    try: print(f"lightly {version('lightly')}, torch {version('torch')}, fastai {version('fastai')}; resnet18 with channels {ARCH['channels']}, {args.size} px, batch {args.batch}, {args.n:,} pictures, all in turn, the best of {args.turns}; lightly with 2 workers; {args.threads} threads of torch where none are said")
    except PackageNotFoundError as e: raise SystemExit(f'--lightly needs {e.args[0]}: pip install lightly')
    rows = {}
    sides = {'ours': ('ours', args.threads, {}), 'lightly': ('lightlys', args.threads, {}), 'lightly, 1 thread': ('lightlys', 1, {}), 'lightly, 1 thread, memory kept': ('lightlys', 1, KEPT)}
    for method in ('simclr', 'vicreg'):
        best = dict.fromkeys(sides, 0.)
        for _ in range(args.turns):
            for name, (side, threads, env) in sides.items(): best[name] = max(best[name], in_process(side, method, args.size, args.batch, args.n, threads=threads, **env))
        rows[method] = best
        print(f"{method:8}" + '   '.join(f"{name} {v:,.0f} pictures/s" + (f" ({best['ours'] / v:.2f} times)" if name != 'ours' else '') for name, v in best.items()), flush=True)
    return rows

def main():
    if len(sys.argv) == 3 and sys.argv[1] in ('one', 'ours', 'lightlys'):
        print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2])))); return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recipes', nargs='+', default=RECIPES, help='as for mssl_compare')
    for name, value, text in (('size', None, 'pixels of the views; 64, beside lightly 32'), ('batch', 256, 'pictures'), ('steps', 12, 'that count'), ('threads', 2, "torch's"), ('n', 5120, 'pictures of an epoch beside lightly'), ('turns', 2, 'beside lightly')): parser.add_argument(f'--{name}', type=int, default=value, help=text)
    parser.add_argument('--precision', default='fp32', help='fp32 or bf16')
    parser.add_argument('--cost', action='store_true', help='what batch, size and views cost'), parser.add_argument('--lightly', action='store_true', help='beside lightly')
    parser.add_argument('--save', default='', help='a folder for the JSON, such as mssl/stored/measured')
    args = parser.parse_args()
    args.size = args.size or (32 if args.lightly else 64)
    from views_speed import machine
    from mssl.train import device_name
    print(machine())
    start = time.perf_counter()
    if args.lightly: name, found = 'speed-lightly', beside_lightly(args)
    else:
        if args.cost: jobs = [('info_nce', s, b, v) for s, b, v in ((32, 64, 2), (32, 256, 2), (64, 64, 2), (64, 256, 2), (128, 64, 2), (32, 64, 3), (32, 64, 4))]
        else: jobs = [(o, args.size, args.batch, None) for o in args.recipes]
        name, found = 'speed-cost' if args.cost else 'speed', []
        for arm, size, batch, views in jobs:
            found.append(in_process('one', arm, size, batch, args.steps, args.precision, views, threads=args.threads))
            print(line(found[-1]), flush=True)
    if args.save:
        from mssl.runs import save_run
        save_run(dict(settings=dict(size=args.size, bs=args.batch, threads=args.threads, precision=args.precision), results=found, minutes=round((time.perf_counter() - start) / 60, 1), device=device_name(torch.device('cpu')), command=f"python tests/benchmarks/speed.py {' '.join(o for o in sys.argv[1:])}".replace(f' --save {args.save}', '')), name, args.save, overwrite=True)

if __name__ == '__main__': main()
