"""Run notebooks top to bottom, one after the other, each in a kernel of its own, and say how long each takes.

    python scripts/run_notebooks.py [nbs/01_views.ipynb …] [--save]

Without names, every notebook of nbs/ in reading order. The first failing cell of each is printed; the exit status is 1
then. The environment variable MSSL_PATH chooses how much is trained: it is set to `tests` (the short path) unless it is
set already. Needs nbclient and ipykernel.
"""
import argparse, os, re, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from project import root, notebooks

os.environ.setdefault('MSSL_PATH', 'tests')
os.environ['JUPYTER_PREFER_ENV_PATH'] = '1' # the kernel of this environment, not one in the user's home

def plain(error:Exception): # str without terminal colours
    return re.sub(r'\x1b\[[\d;]*m', '', str(error)).strip()

def run(path:Path, # a notebook
        timeout:int, # seconds for one cell
       ): # (notebook with outputs, minutes, error text or None)
    "Run one notebook in its own folder"
    nb, start = nbformat.read(path, as_version=4), time.perf_counter()
    client = NotebookClient(nb, timeout=timeout, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}})
    try: client.execute(); error = None
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e: error = plain(e)
    return nb, (time.perf_counter() - start)/60, error

def main(paths:list, # notebooks; empty for all
         save:bool=False, # write the outputs into the notebooks?
         timeout:int=1200, # seconds for one cell
        )->int: # how many failed
    "Run the notebooks, print a line for each and one for all"
    paths, total, failed = [Path(p).resolve() for p in paths] or notebooks(), 0., []
    for path in paths:
        nb, minutes, error = run(path, timeout)
        total += minutes
        print(f"{minutes:6.2f} min  {path.name}{'  FAILED' if error else ''}", flush=True)
        if error: failed.append(path.name); print(error, flush=True)
        if save: nbformat.write(nb, path)
    print(f"{total:6.2f} min  {len(paths)} notebooks, {len(failed)} failed{': ' + ', '.join(failed) if failed else ''}, MSSL_PATH={os.environ['MSSL_PATH']}")
    return len(failed)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', help='notebooks to run; all of nbs/ if none is named')
    parser.add_argument('--save', action='store_true', help='write the outputs into the notebooks (run nbdev_clean afterwards)')
    parser.add_argument('--timeout', type=int, default=1200, help='seconds for one cell')
    args = parser.parse_args()
    sys.exit(bool(main(args.notebooks, args.save, args.timeout)))
