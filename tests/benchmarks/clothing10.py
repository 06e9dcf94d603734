"""As somebody with pictures of their own would write it: pretrain without labels, keep the report, fine-tune with ten labels a class.

    python tests/benchmarks/clothing10.py ../shared/data/clothing10 --out runs/clothing10

The folder holds train.parquet, validation.parquet and test.parquet with a column `label`. The pretraining sees the pictures of train and validation
and no label; the labels are drawn from train; test is asked once a draw. Prints a table and leaves report.html, the encoder and fine_tune.json in the
run folder. About ten minutes on two processor cores."""
import argparse, json, time
from pathlib import Path
import torch
from mssl import load_encoder
from mssl.data import load_parquet
from mssl.fine_tune import RATES, fine_tune
from mssl.train import pretrain

def main(data, out, epochs, size, per_class, draws, steps, rates, method, seed, overwrite):
    report  = pretrain(out, data=data, labels=False, method=method, epochs=epochs, size=size, seed=seed, overwrite=overwrite)
    encoder = load_encoder(out)
    train, test = (load_parquet(Path(data)/f'{o}.parquet', 2 * size) for o in ('train', 'test'))
    result  = fine_tune(encoder, train, test, per_class=per_class, draws=draws, steps=steps, rates=rates, seed=seed, published=False, say=print)
    print(f"\n{result}\npretraining: {method}, {epochs} epochs, {report['minutes']:.1f} minutes, {report['data']['train']:,} pictures without labels\nreport: {out}/report.html")
    return report, result

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', help='folder with train.parquet, validation.parquet, test.parquet')
    parser.add_argument('--out', default='runs/clothing10', help='the run folder')
    parser.add_argument('--epochs', type=int, default=15, help='of the pretraining')
    parser.add_argument('--size', type=int, default=32, help='pixels of the views')
    parser.add_argument('--labels', type=int, nargs='+', default=[10], help='labels a class, one or several numbers')
    parser.add_argument('--draws', type=int, default=5, help='of the labels')
    parser.add_argument('--steps', type=int, default=150, help='of each fine-tuning')
    parser.add_argument('--rates', type=float, nargs='+', default=list(RATES), help='learning rates to choose from')
    parser.add_argument('--method', default='info_nce', help='the recipe')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace a run in the folder')
    a, start = parser.parse_args(), time.perf_counter()
    report, result = main(a.data, a.out, a.epochs, a.size, a.labels, a.draws, a.steps, a.rates, a.method, a.seed, a.overwrite)
    whole = (time.perf_counter() - start) / 60
    (Path(a.out) / 'fine_tune.json').write_text(json.dumps({**result.as_dict(), 'minutes_pretraining': report['minutes'], 'minutes_whole': round(whole, 2), 'threads': torch.get_num_threads()}, indent=1) + '\n')
    print(f'{whole:.1f} minutes in all')
