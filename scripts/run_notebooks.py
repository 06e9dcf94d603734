"""Run notebooks top to bottom, one after the other, each in a kernel of its own, and say how long each takes.

    python scripts/run_notebooks.py [nbs/01_views.ipynb …] [--save] [--jobs 2] [--forked]

Without names, every notebook of nbs/ in reading order. With --forked the libraries (not mssl) are imported once, and each
notebook's cells are run by IPython in a copy of that process: no kernel, no saved outputs, and ten seconds less a notebook. The first failing cell of each is printed; the exit status is 1
then. The environment variable MSSL_PATH chooses how much is trained: it is set to `tests` (the short path) unless it is
set already. Needs nbclient and ipykernel.
"""
import argparse, importlib, multiprocessing, os, re, subprocess, sys, tempfile, time, traceback
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

LIBRARIES = 'torch', 'torchvision', 'timm', 'fastai.vision.all', 'matplotlib.pyplot', 'pandas', 'sklearn.neighbors', 'skimage.data', 'tokenizers', 'ipywidgets'

def cells(path:Path, # a notebook
          said:str, # a file for what goes wrong; stays empty when nothing does
         ):
    "Every cell in this process, which is a copy made for it; what it prints is dropped"
    sys.stdout, sys.stderr = open(os.devnull, 'w'), open(os.devnull, 'w')
    os.chdir(path.parent)
    try:
        from IPython.core.interactiveshell import InteractiveShell
        shell, source = InteractiveShell.instance(), ''
        for source in [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']:
            done = shell.run_cell(source, store_history=True)
            if not done.success: raise done.error_before_exec or done.error_in_exec
    except BaseException: Path(said).write_text(f'An error occurred while executing the following cell:\n{source}\n\n{plain(traceback.format_exc())}', encoding='utf-8')
    finally:
        sys.stdout.close(), sys.stderr.close()
        os._exit(0) # what a notebook has started in this process is of no use any more

def run_forked(paths:list, # notebooks
               timeout:int, # seconds for one notebook
               jobs:int, # at a time, each with one thread when there are several
              ): # yields (path, minutes, error text or None) as they end
    "Each notebook in a fork of this process, which has imported the libraries and computed nothing"
    if jobs > 1: os.environ['OMP_NUM_THREADS'] = '1'
    os.environ.setdefault('MPLBACKEND', 'module://matplotlib_inline.backend_inline')
    for o in LIBRARIES: importlib.import_module(o)
    assert 'mssl' not in sys.modules
    fork, waiting, running = multiprocessing.get_context('fork'), list(paths), []
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                path = waiting.pop(0)
                said = Path(folder)/f'{len(waiting)}.txt'
                process = fork.Process(target=cells, args=(path, str(said)))
                process.start()
                running.append((path, said, process, time.perf_counter()))
            time.sleep(.05)
            for o in list(running):
                path, said, process, start = o
                late = time.perf_counter() - start > timeout
                if process.is_alive() and not late: continue
                if late: process.kill()
                process.join()
                running.remove(o)
                error = said.read_text(encoding='utf-8') if said.exists() else f'longer than {timeout} s' if late else f'its process died ({process.exitcode})' if process.exitcode else None
                yield path, (time.perf_counter() - start)/60, error

def main(paths:list, # notebooks; empty for all
         save:bool=False, # write the outputs into the notebooks?
         timeout:int=1200, # seconds for one cell
         jobs:int=1, # notebooks at a time
         forked:bool=False, # in copies of one process instead of kernels
        )->int: # how many failed
    "Run the notebooks, print a line for each and one for all"
    paths, start, failed = [Path(p).resolve() for p in paths] or notebooks(), time.perf_counter(), []
    def one(path):
        if jobs > 1: return run_apart(path, timeout, save)
        nb, minutes, error = run(path, timeout)
        if save: nbformat.write(tidied(nb), path)
        return minutes, error
    with ThreadPoolExecutor(jobs) as pool:
        for path, minutes, error in run_forked(paths, timeout, jobs) if forked else ((p, *o) for p, o in zip(paths, pool.map(one, paths) if jobs > 1 else map(one, paths))):
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
    parser.add_argument('--forked', action='store_true', help='in copies of one process that has imported the libraries; nothing is saved (Linux, macOS)')
    args = parser.parse_args()
    if args.forked and args.save: parser.error('--forked saves no outputs')
    sys.exit(bool(main(args.notebooks, args.save, args.timeout, args.jobs, args.forked)))
