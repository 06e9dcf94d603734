"""How good an encoder is after so many views of CIFAR-10, and what the minutes are made of. By hand; on a GPU the whole of it, on a CPU a rehearsal.

    python tests/benchmarks/fast.py DATA                            4 million views: the goal is 75 % by 20 neighbours, about ten minutes of a T4
    python tests/benchmarks/fast.py DATA --views 10e6               10 million: 90 % by a linear probe
    python tests/benchmarks/fast.py DATA --views 16e6 --minutes 5   a card of the H200's class: 85 % by 20 neighbours within five minutes
    python tests/benchmarks/fast.py DATA --rehearse [--crops 2]     a CPU: a small encoder, 20,000 pictures, 240,000 views
    python tests/benchmarks/fast.py --parts                         what each part of the speed is worth, turn by turn, on the machine in hand

DATA is CIFAR-10 as `image_dls` reads it: a parquet folder, a folder of class folders, or cifar10. A view is one crop that the encoder sees; small crops count by
their area. The minutes are those of training, views included, measures not. With --save a folder, what was found is stored there as JSON."""
import argparse, json, statistics, sys, time
from dataclasses import asdict, dataclass
from pathlib import Path
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import set_seed
import mssl.all  # noqa: F401  (every module enters its recipes)
from mssl.data import image_dls
from mssl.gauges import KNNGauge
from mssl.memory import KeepMemory, keep_freed_memory
from mssl.recipes import find_recipe, recipe_learner
from mssl.runs import save_run
from mssl.train import device_name, measure, pick_precision, set_precision
sys.path.append(str(Path(__file__).parent))
from views_speed import machine

class Curve(KNNGauge):
    "20-NN after every epoch, beside the minutes of training until then"
    def before_fit(self): super().before_fit(); self.curve, self.seconds = [], 0.
    def before_train(self): super().before_train(); self.started = time.perf_counter()
    def after_train(self):
        if self.dls.device.type == 'cuda': torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self.started
    def measure(self):
        super().measure()
        if 'knn' in self.values: self.curve.append(dict(minutes=self.seconds / 60, knn=float(self.values['knn'])))

def trained(args, device):
    "A Learner after its training, and its curve"
    dls = image_dls(args.data, bs=args.bs, device=device, n=args.n, seed=args.seed)
    each = 2 + args.crops / 4
    epochs = max(1, round(args.views / (each * (len(dls.train_ds) // args.bs * args.bs))))
    set_seed(args.seed)
    dls.train.rng.seed(args.seed)
    gauge = Curve(every=max(1, epochs // 10))
    more = dict(crops=args.crops) if args.method == 'fast' else {}
    learn = recipe_learner(args.method, dls, args.arch, size=32, cbs=[gauge], **more)
    set_precision(learn, args.precision, device)
    learn.model.to(device, memory_format=torch.channels_last)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, args.lr or find_recipe(args.method).lr)
    return learn, gauge, epochs, each

# --- what each part is worth

@dataclass
class Way:
    channels_last:bool=False; half:bool=False; keep:bool=False; compiled:bool=False
WAYS = {'as it comes': Way(), '+ channels last': Way(True), '+ half precision': Way(True, True), '+ memory kept': Way(True, True, True), '+ compiled': Way(True, True, True, True)}

class Steps(Callback):
    "Seconds of each training step after the first; no hooks, which a compiled encoder would stumble over"
    order = 100
    def __init__(self, warm, count): self.warm, self.count, self.seconds, self.then = warm, count, [], None
    def after_batch(self):
        if not self.training: return
        if self.dls.device.type == 'cuda': torch.cuda.synchronize()
        now = time.perf_counter()
        if self.then is not None: self.seconds.append(now - self.then)
        self.then = now
        if len(self.seconds) >= self.warm + self.count: raise CancelFitException

def rate(way, device, arch, bs, steps=8):
    "Pictures a second: the median step of a training that goes this way"
    from mssl.fast import Compile
    keep_freed_memory(False)
    torch.manual_seed(0)
    dls, clock = image_dls('scenes', bs=bs, device=device, n=40 * bs, seed=0), Steps(5, steps)
    learn = recipe_learner('info_nce', dls, arch, size=32, augment='small', cbs=[clock, *([Compile(steps=1, devices=('cuda', 'cpu'))] if way.compiled else [])])
    if not way.keep: learn.remove_cb(KeepMemory)
    if way.half: set_precision(learn, 'bf16' if device.type == 'cpu' else pick_precision('auto', device), device)
    learn.model.to(device, **(dict(memory_format=torch.channels_last) if way.channels_last else {}))
    with learn.no_bar(), learn.no_logging(): learn.fit(1000, 1e-4) # stops after so many steps
    return bs / statistics.median(clock.seconds[clock.warm:])

def parts(args, device):
    best = dict.fromkeys(WAYS, 0.)
    for _ in range(args.turns):
        for name, way in WAYS.items(): best[name] = max(best[name], rate(way, device, args.arch or 'resnet10_tiny', args.bs))
    for name, v in best.items(): print(f"{v:8,.0f} pictures/s  {v / best['as it comes']:5.2f} times  {name}", flush=True)
    return best

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', nargs='?', help='CIFAR-10'), parser.add_argument('--parts', action='store_true'), parser.add_argument('--rehearse', action='store_true')
    for name, value, text in (('views', 4e6, 'that the encoder sees'), ('minutes', 0., 'the time that a goal allows; 0: none'), ('lr', 0., "0: the recipe's")): parser.add_argument(f'--{name}', type=float, default=value, help=text)
    for name, value, text in (('bs', 256, 'pictures a batch'), ('crops', 0, 'small crops beside the two large ones'), ('seed', 0, 'of weights, order and views'), ('n', None, 'at most so many training pictures'), ('turns', 2, 'for --parts'), ('threads', 0, "torch's; 0: as it is")): parser.add_argument(f'--{name}', type=int, default=value, help=text)
    for name, value, text in (('method', 'fast', 'another recipe for comparison'), ('arch', '', "empty: the recipe's"), ('precision', 'auto', 'fp32, fp16 or bf16'), ('device', '', 'cpu or cuda'), ('save', '', 'a folder for the JSON'), ('name', '', 'of the JSON')): parser.add_argument(f'--{name}', default=value, help=text)
    args = parser.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    device = torch.device(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    args.arch = args.arch or None
    print(machine() if device.type == 'cpu' else f'{device_name(device)}, torch {torch.__version__}')
    said = ' '.join('DATA' if o == args.data else o for o in sys.argv[1:] if not o.startswith('--save')).replace(f' {args.save}', '') if args.save else ''
    run = dict(command=f'python tests/benchmarks/fast.py {said}'.strip(), device=device_name(device), settings=dict(threads=torch.get_num_threads(), bs=args.bs), minutes=0.)
    if args.parts: name, run['results'] = 'fast-parts', parts(args, device)
    elif not args.data: parser.error('DATA is needed, or --parts')
    else:
        if args.rehearse: args.arch, args.n, args.views = args.arch or 'resnet10_tiny', args.n or 20_000, 240_000
        args.precision = ('bf16' if args.rehearse and args.precision == 'auto' and device.type == 'cpu' else pick_precision(args.precision, device))
        learn, gauge, epochs, each = trained(args, device)
        found, minutes, seen = measure(learn), gauge.seconds / 60, epochs * each * (len(learn.dls.train_ds) // args.bs * args.bs)
        print(f"{args.method}, {args.crops} small crops, {args.arch or find_recipe(args.method).arch}, {args.precision}: 20-NN {found['knn']:.3f}, linear {found['linear']:.3f} after {seen:,.0f} views in {minutes:.1f} minutes of training" + (f' (allowed: {args.minutes:g})' if args.minutes else ''))
        name = args.name or f"fast-{'rehearsal' if args.rehearse else 'cifar10'}-{args.method}{args.crops or ''}-{args.seed}"
        run['settings'] |= dict(method=args.method, arch=args.arch or find_recipe(args.method).arch, n=len(learn.dls.train_ds), epochs=epochs, crops=args.crops, seed=args.seed, precision=args.precision, size=32)
        run['results'], run['minutes'], run['views'], run['history'] = dict(encoder=found), minutes, seen, gauge.curve
    if args.save: save_run(run, name, args.save, overwrite=True)

if __name__ == '__main__': main()
