"""Train the small encoders that come with the package, and store each with its run.

    python scripts/train_encoders.py [convnet high_pass vit siamese_im text semmim] [--folder mssl/stored]

Each sees the embedded pictures only (`scenes`, 10,000 of them, level calm, for `text` level several with captions) without labels, and is
kept in half precision, below 2 MB. The runs' settings, minutes and results lie beside them in `stored/runs/encoder-NAME.json`.
"""
import argparse, platform, time
from functools import partial
from pathlib import Path
import torch
from project import root
import mssl.edges
from mssl.captions import Captions
from mssl.data import image_dls
from mssl.edges import HighPass
from mssl.groups import INFORMATION, GroupsGauge
from mssl.recipes import recipe_learner
from mssl.runs import code_version, save_run
from mssl.semmim import save_semmim
from mssl.siamese_im import save_siamese_im
from mssl.text import RETRIEVAL, ShareGauge, save_image_text
from mssl.train import device_name, measure
from mssl.views import Views

CONVNET = dict(arch='resnet10_tiny', model_kwargs=dict(channels=(32, 64, 128, 192)))
VIT = dict(arch='vit_tiny_patch16_224', model_kwargs=dict(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3))
ENCODERS = dict(
    convnet=dict(**CONVNET, epochs=10, lr=3e-3),
    high_pass=dict(**CONVNET, epochs=10, lr=3e-3, filter=True),
    vit=dict(**VIT, epochs=20, lr=1e-3),
    siamese_im=dict(arch='vit_tiny_small', model_kwargs=dict(img_size=32), method='siamese_im', epochs=20, lr=1e-3),
    text=dict(arch='vit_tiny_small', model_kwargs=dict(img_size=32), method='image_text', data='scenes:several', augment='text', epochs=10, lr=2e-3),
    semmim=dict(arch='vit_tiny_small', model_kwargs=dict(img_size=32), method='semmim', data='scenes:several', augment='text_far', n=5000, bs=32, epochs=6, lr=2e-3),
)
GAUGES = dict(image_text=ShareGauge, semmim=GroupsGauge) # recipes with captions, and what is watched while they train
LEFT_OUT = ('text', 'to_text', 'to_image', 'log_temperature', 'layers', 'look', 'guess', 'match', 'entries', 'mask_token') # of SemMIM's parts: its encoder and groups are what the book shows, and 10 MB hold all encoders
SHARED = dict(data='scenes', method='info_nce', augment='scenes', size=32, bs=64, seed=0)

def train(name, folder, n=None, epochs=None):
    "Train one of ENCODERS and store it; returns its run"
    own = ENCODERS[name]
    settings = {**SHARED, **own, 'epochs': epochs or own['epochs'], 'n': n or own.get('n')}
    dls = image_dls(settings['data'], at_most=2 * settings['size'], bs=settings['bs'], n=settings['n'], seed=settings['seed'])
    torch.manual_seed(settings['seed'])
    dls.train.rng.seed(settings['seed'])
    told = settings['method'] in GAUGES
    cbs = [GAUGES[settings['method']](), Captions(short=.5)] if told else [Views(settings['size'], settings['augment'], filter=HighPass.for_size(settings['size']) if own.get('filter') else None)]
    learn = recipe_learner(settings['method'], dls, own['arch'], size=settings['size'], augment=settings['augment'], cbs=cbs, model_kwargs=own['model_kwargs'])
    learn.model.to(dls.device, memory_format=torch.channels_last)
    more = {**RETRIEVAL, **(INFORMATION if settings['method'] == 'semmim' else {})} if told else None
    results, started = dict(untrained=measure(learn, more=more)), time.perf_counter()
    learn.fit_one_cycle(settings['epochs'], own['lr'])
    minutes, results['encoder'] = (time.perf_counter() - started) / 60, measure(learn, more=more)
    save = {'siamese_im': save_siamese_im, 'image_text': save_image_text, 'semmim': partial(save_semmim, without=LEFT_OUT)}.get(settings['method'], type(learn).save_encoder)
    save(learn, folder / 'encoders' / f'scenes_{name}', half=True, data=settings['data'].replace('scenes:', 'scenes, ') if told else 'scenes, calm', method=settings['method'], epochs=settings['epochs'])
    run = dict(settings=settings, results=results, minutes=round(minutes, 2), device=device_name(torch.device(dls.device)),
               data=dict(train=len(dls.train_ds), valid=len(dls.valid_ds)), commit=code_version(), command=f'python scripts/train_encoders.py {name}', versions=dict(torch=torch.__version__, python=platform.python_version()))
    save_run(run, f'encoder-{name}', folder / 'runs', overwrite=True)
    return run

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', choices=[*ENCODERS, []], help='which; all when none is named')
    parser.add_argument('--folder', type=Path, default=root/'mssl/stored')
    args = parser.parse_args()
    for name in args.names or ENCODERS: print(name, train(name, args.folder)['results'], flush=True)
