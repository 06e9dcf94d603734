"""What a training step costs and where the time goes, for any recipe; by hand, on a quiet machine.

    python tests/benchmarks/step_cost.py siamese_im mae info_nce:arch=vit_tiny_small [--size 32] [--batch 64] [--steps 15] [--threads 2] [--device cpu]

Milliseconds of a step per picture, and the share of: data and views, the forward pass of each part of the model (the teacher's is one part), the loss,
the backward pass, and the optimizer's step with everything else. The median over the steps, after five that are not counted."""
import argparse, re, statistics, sys, time
from pathlib import Path
import torch
from fastai.callback.core import Callback, CancelFitException
from mssl.compare import parse_arms
from mssl.data import image_dls
from mssl.recipes import RECIPES, make_parts, recipe_learner
from mssl.runs import save_run
from mssl.train import device_name, make_filter, pick_precision, quiet, set_precision
sys.path.append(str(Path(__file__).parent))
from views_speed import machine

def parts_of(model): # -> name -> modules whose forward passes are timed together
    "The parts of a model; an encoder is timed by its own parts, because some recipes call only some of these"
    inner, out = getattr(model, 'module', model), {}
    children = dict(inner.named_children())
    if 'student' in children: children = {**dict(children.pop('student').named_children()), **children}
    for name, module in children.items(): out[name] = list(module.children()) if name == 'encoder' else [module]
    return out

class Clock(Callback):
    "Note when each stage of a step ends"
    order = 100 # the last in every event
    def __init__(self, steps, warm=5): self.steps, self.warm, self.rows = steps, warm, []
    def now(self):
        if self.dls.device is not None and self.dls.device.type == 'cuda': torch.cuda.synchronize()
        return time.perf_counter()
    def before_fit(self):
        self.parts, self.handles = {}, []
        for name, modules in parts_of(self.model).items():
            for m in modules:
                self.handles += [m.register_forward_pre_hook(lambda m, args: self.starts.append(self.now())),
                                 m.register_forward_hook(lambda m, args, out, name=name: self.parts.__setitem__(name, self.parts.get(name, 0.) + self.now() - self.starts.pop()))]
        self.starts = []
    def before_train(self): self.then = self.now()
    def lap(self, name):
        if not self.training: return
        t = self.now()
        self.row[name], self.then = t - self.then, t
    def before_batch(self): self.row = {}; self.parts.clear(); self.lap('data and views')
    def after_pred(self):
        self.lap('forward')
        self.row.update({f'  {k}': v for k, v in self.parts.items()})
    def after_loss(self): self.lap('loss')
    def before_step(self): self.lap('backward')
    def after_batch(self):
        if not self.training: return
        self.lap('optimizer and the rest')
        self.rows.append(self.row)
        if len(self.rows) >= self.steps + self.warm: raise CancelFitException()
    def after_cancel_fit(self): self.after_fit()
    def after_fit(self):
        for h in self.handles: h.remove()

def shares(s, device, steps): # s: `train.Settings`
    "Median seconds of each stage"
    dls, arch, filter = image_dls(s.data, at_most=2 * s.size, bs=s.bs, device=device, n=8 * s.bs, seed=s.seed), s.arch or RECIPES[s.method].arch, make_filter(s.filter, s.size)
    clock = Clock(steps)
    learn = recipe_learner(s.method, dls, arch, size=s.size, augment=s.augment, cbs=[*make_parts(s.parts), clock], model_kwargs=dict(img_size=s.size) if arch.startswith(('vit', 'deit')) else {}, **(dict(filter=filter) if filter else {}))
    set_precision(learn, pick_precision(s.precision, device), device)
    learn.model.to(device, memory_format=torch.channels_last)
    with quiet(learn, False): learn.fit(100, 1e-4) # stops after so many steps
    rows = clock.rows[clock.warm:]
    return {k: statistics.median(r.get(k, 0.) for r in rows) for k in rows[-1]}

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('arms', nargs='+', help='recipes, with settings as for mssl_compare')
    for name, value, text in (('size', 32, 'pixels of the views'), ('batch', 64, 'pictures'), ('steps', 15, 'that count'), ('threads', 2, "torch's")): parser.add_argument(f'--{name}', type=int, default=value, help=text)
    parser.add_argument('--save', default='', help='a folder for one JSON an arm, such as mssl/stored/measured')
    parser.add_argument('--device', default='cpu'), parser.add_argument('--precision', default='fp32')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    gpu = torch.device(args.device).type == 'cuda'
    print(f'{torch.cuda.get_device_name() if gpu else machine()}; {args.threads} threads, batch {args.batch}, {args.size} px, median of {args.steps} steps')
    for arm in parse_arms(args.arms, size=args.size, bs=args.batch, precision=args.precision):
        torch.manual_seed(0)
        s = shares(arm.settings, torch.device(args.device), args.steps)
        total = sum(v for k, v in s.items() if not k.startswith(' '))
        print(f'{arm.name}: {1000 * total / args.batch:.2f} ms a picture, {args.batch / total:,.0f} pictures a second')
        for k, v in s.items(): print(f'  {k:24} {v / total:6.1%}')
        if args.save:
            name = re.sub(r'[^\w.+=-]+', '_', f'step-{arm.name}')
            save_run(dict(settings=dict(data='scenes', method=arm.settings.method, epochs=0, bs=args.batch, size=args.size, seed=0, precision=args.precision), results=dict(milliseconds={k.strip(): round(1000 * v / args.batch, 4) for k, v in s.items()}),
                          command=f"python tests/benchmarks/step_cost.py {arm.name} --size {args.size} --batch {args.batch} --precision {args.precision} --save {args.save}", minutes=0., device=device_name(torch.device(args.device))), name, args.save, overwrite=True)

if __name__ == '__main__': main()
