"""What each part of SemMIM adds to a training step; by hand, on a quiet machine.

    python tests/benchmarks/semmim_parts.py [--size 32] [--batch 64] [--steps 7] [--threads 1] [--save mssl/stored/measured]

Models with one part more each take steps in turn, on the same batch; of each the fastest step counts, and a part costs what its model takes longer than the
one before it. Milliseconds a picture: forward, backward and optimizer, views and captions once."""
import argparse, sys, time
from pathlib import Path
import torch
from mssl.data import image_dls
from mssl.runs import save_run
from mssl.semmim import SemMIM, semmim_learner, semmim_loss
from mssl.train import device_name
from mssl.words import Words
sys.path.append(str(Path(__file__).parent))
from views_speed import machine

BARE = dict(matching=False, guessing=False, agreement=False, target='none')
ADDED = {'contrast': {}, 'hidden words': dict(guessing=True), 'matching': dict(matching=True), 'agreement, two views': dict(agreement=True), 'hidden patches': dict(target='space', start=0, inject=False, mask='random'),
         'masks by the caption': dict(mask='weighted'), 'text in the student': dict(start=3), 'text in the target': dict(inject=True)}

def inputs_of(learn): # what the model is given for a batch
    learn.dl, learn.training, learn.pct_train = learn.dls.train, True, .5
    learn.views._watch(learn.dls.train)
    learn.xb, learn.yb = (learn.dls.train.one_batch()[0],), ()
    for cb in learn.cbs.sorted('order'):
        if cb.order < 10: cb('before_batch')
    return learn.xb

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name, value, text in (('size', 32, 'pixels of the views'), ('batch', 64, 'pictures'), ('steps', 7, 'of which the fastest counts'), ('threads', 1, "torch's")): parser.add_argument(f'--{name}', type=int, default=value, help=text)
    parser.add_argument('--save', default='', help='a folder for the JSON, such as mssl/stored/measured')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    dls = image_dls('scenes:several', at_most=2 * args.size, bs=args.batch, n=2 * args.batch, device='cpu')
    words, settings, learners, views = Words.fit(dls.train_ds.caption), dict(BARE), {}, []
    for name, added in ADDED.items():
        settings |= added
        torch.manual_seed(0)
        learners[name] = semmim_learner(dls, SemMIM('vit_tiny_small', words, img_size=args.size, **settings), args.size)
    for _ in range(args.steps + 1): # the first is not counted
        start = time.perf_counter()
        given = inputs_of(learners['text in the target'])
        views.append(time.perf_counter() - start)
    times = {k: [] for k in learners}
    for learn in learners.values(): learn.create_opt()
    for _ in range(args.steps + 1):
        for name, learn in learners.items():
            m = learn.model.train()
            mine = given if m.views == 2 else (given[0], *given[2:])
            mine = mine if m.hides else mine[:len(mine) - 2]
            start = time.perf_counter()
            semmim_loss(*m(*mine)).backward()
            learn.opt.step(), learn.opt.zero_grad(), m.follow(.99)
            times[name].append(time.perf_counter() - start)
    best = {k: 1000 * min(v[1:]) / args.batch for k, v in times.items()}
    out, before = {'views and captions': 1000 * min(views[1:]) / args.batch}, 0.
    for k, v in best.items(): out[k], before = v - before, v
    print(f'{machine()}; {args.threads} threads, batch {args.batch}, {args.size} px, fastest of {args.steps}')
    for k, v in out.items(): print(f'  {k:24} {v:7.3f} ms  {v / sum(out.values()):6.1%}')
    if args.save:
        save_run(dict(settings=dict(data='scenes:several', method='semmim', epochs=0, bs=args.batch, size=args.size, seed=0, precision='fp32'), results=dict(milliseconds={k: round(v, 4) for k, v in out.items()}),
                      command=f'python tests/benchmarks/semmim_parts.py --size {args.size} --batch {args.batch} --threads {args.threads} --save {args.save}', minutes=0., device=device_name(torch.device('cpu'))), 'step-semmim_parts', args.save, overwrite=True)

if __name__ == '__main__': main()
