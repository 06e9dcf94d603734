"""Run notebooks top to bottom, one after the other, each in a kernel of its own, and say how long each takes.

    python scripts/run_notebooks.py [nbs/01_views.ipynb …] [--save] [--jobs 2]

Without names, every notebook of nbs/ in reading order. The first failing cell of each is printed; the exit status is 1
then. The environment variable MSSL_PATH chooses how much is trained: it is set to `tests` (the short path) unless it is
set already. Needs nbclient and ipykernel.
"""
import argparse, os, re, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from project import notebooks

os.environ.setdefault('MSSL_PATH', 'tests')
os.environ['JUPYTER_PREFER_ENV_PATH'] = '1' # the kernel of this environment, not one in the user's home

def plain(error:Exception): # str without terminal colours
    return re.sub(r'\x1b\[[\d;]*m', '', str(error)).strip()

WARNING = re.compile(r'^\S*[/\\]\S+\.py:\d+: (\w+): (.*\n)(  .*\n)?', re.M)

def tidied(nb): # -> the same notebook
    "Warnings without the path of this machine and the line of code; those of libraries about their own future are left out"
    for o in [o for c in nb.cells for o in c.get('outputs', []) if o.get('name') == 'stderr']:
        o['text'] = WARNING.sub(lambda m: '' if m[1] in ('FutureWarning', 'DeprecationWarning') else f'{m[1]}: {m[2]}', o['text'])
    for c in nb.cells:
        if 'outputs' in c: c['outputs'] = [o for o in c['outputs'] if o.get('name') != 'stderr' or o['text'].strip()]
    return nb

def run(path:Path, # a notebook
        timeout:int, # seconds for one cell
       ): # (notebook with outputs, minutes, error text or None)
    "Run one notebook in its own folder"
    nb, start = nbformat.read(path, as_version=4), time.perf_counter()
    client = NotebookClient(nb, timeout=timeout, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}})
    try: client.execute(); error = None
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e: error = plain(e)
    return nb, (time.perf_counter() - start)/60, error

def run_apart(path:Path, # a notebook
              timeout:int, # seconds for one cell
              save:bool, # write the outputs into the notebook?
             ): # (minutes, error text or None)
    "The same in a process of its own that computes with one thread, so that several can run side by side"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, str(path), '--timeout', str(timeout), *(['--save'] if save else [])], capture_output=True, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return (time.perf_counter() - start)/60, None if done.returncode == 0 else done.stdout + done.stderr

def main(paths:list, # notebooks; empty for all
         save:bool=False, # write the outputs into the notebooks?
         timeout:int=1200, # seconds for one cell
         jobs:int=1, # notebooks at a time
        )->int: # how many failed
    "Run the notebooks, print a line for each and one for all"
    paths, start, failed = [Path(p).resolve() for p in paths] or notebooks(), time.perf_counter(), []
    def one(path):
        if jobs > 1: return run_apart(path, timeout, save)
        nb, minutes, error = run(path, timeout)
        if save: nbformat.write(tidied(nb), path)
        return minutes, error
    with ThreadPoolExecutor(jobs) as pool:
        for path, (minutes, error) in zip(paths, pool.map(one, paths) if jobs > 1 else map(one, paths)):
            print(f"{minutes:6.2f} min  {path.name}{'  FAILED' if error else ''}", flush=True)
            if error: failed.append(path.name); print(error, flush=True)
    print(f"{(time.perf_counter() - start)/60:6.2f} min  {len(paths)} notebooks, {len(failed)} failed{': ' + ', '.join(failed) if failed else ''}, MSSL_PATH={os.environ['MSSL_PATH']}")
    return len(failed)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', help='notebooks to run; all of nbs/ if none is named')
    parser.add_argument('--save', action='store_true', help='write the outputs into the notebooks (run nbdev_clean afterwards)')
    parser.add_argument('--timeout', type=int, default=1200, help='seconds for one cell')
    parser.add_argument('--jobs', type=int, default=1, help='notebooks at a time, each with one thread when there are several')
    args = parser.parse_args()
    sys.exit(bool(main(args.notebooks, args.save, args.timeout, args.jobs)))
