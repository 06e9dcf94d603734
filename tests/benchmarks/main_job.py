"""The main job, timed: README's training command in a fresh copy and a fresh environment, and `mssl_train` on real pictures.

    python tests/benchmarks/main_job.py --fresh                        README's command, word for word, on a copy of the tree
    python tests/benchmarks/main_job.py --shared ../shared/data        cifar10 and clothing10; one JSON each in mssl/stored/runs

Prints minutes and results. The real pictures stay where they are: of a run only its numbers are stored."""
import argparse, json, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL = dict(cifar10=['--epochs', '3'], clothing10=['--epochs', '30']) # flags beside --data and --out

def command(name): # 'train' or 'test' -> README's command
    return subprocess.run([sys.executable, ROOT / 'scripts' / 'make_readme.py', '--command', name], capture_output=True, text=True, check=True).stdout.strip()

def fresh():
    "README's training command in a copy that holds what git tracks, with no environment yet"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'mssl'
        subprocess.run(['git', 'clone', '-q', ROOT, copy], check=True)
        install, train = command('train').rsplit('&&', 1)
        times = []
        for part in (install, train):
            start = time.perf_counter()
            subprocess.run(part, shell=True, cwd=copy, check=True)
            times.append((time.perf_counter() - start) / 60)
        report = json.loads((copy / 'runs/first/report.json').read_text())
        print(f"install {times[0]:.2f} min, command {times[1]:.2f} min, of it siamese training {report['minutes']} min")
        print({k: round(v['knn'], 3) for k, v in report['results'].items()}, sorted(o.name for o in (copy / 'runs/first').iterdir()))

def real(shared, out, only=None):
    for name, flags in REAL.items():
        if only and name not in only: continue
        run, start = Path(out) / name, time.perf_counter()
        subprocess.run([Path(sys.executable).parent / 'mssl_train', '--data', Path(shared) / name, '--out', run, '--overwrite', *flags], check=True)
        whole = (time.perf_counter() - start) / 60
        r = json.loads((run / 'report.json').read_text())
        r['settings']['data'] = r['data']['source'] = name # the folder on this machine is nobody's business
        commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        kept = {k: r[k] for k in ('settings', 'arch', 'augment', 'results', 'minutes', 'device', 'precision', 'lr', 'versions', 'data')}
        (ROOT / 'mssl/stored/runs' / f"main-{name}-{r['settings']['seed']}.json").write_text(json.dumps({**kept, 'minutes_whole': round(whole, 2), 'commit': commit}, indent=1) + '\n')
        print(name, {k: round(v['knn'], 3) for k, v in r['results'].items()}, f"training {r['minutes']} min, whole command {whole:.2f} min", flush=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--fresh', action='store_true', help="time README's command from nothing")
    parser.add_argument('--shared', help='folder that holds cifar10 and clothing10')
    parser.add_argument('--only', nargs='*', choices=REAL)
    parser.add_argument('--out', default='runs', help='where the run folders go')
    args = parser.parse_args()
    if args.fresh: fresh()
    if args.shared: real(args.shared, args.out, args.only)
