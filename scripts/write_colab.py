"""The Colab badge and the first code cell of every chapter: the same everywhere. The standard library is enough.

    python scripts/write_colab.py [--check] [nbs/01_views.ipynb …]     --check changes nothing; exit status 1 if a chapter is out of date

Without names, every notebook with a chapter number. The cell installs mssl where it is missing and does nothing elsewhere.
"""
import argparse, json, re, sys
from pathlib import Path
from project import badge, chapters, current, fill, root, settings, write

MARK = '# On Colab: install mssl where it is missing'
# hide: not on the page; eval: false: not in the docs build (Colab and nbclient run it all the same)
CELL = '''#| hide
#| eval: false
{mark} (the released package, else the repository, else a wheel beside this notebook)
try: import mssl
except ImportError:
    import glob, importlib, subprocess, sys
    wheels = sorted(glob.glob('mssl-*.whl') + glob.glob('../dist/mssl-*.whl'))
    for source in ['{name}>={version}', 'git+{git_url}', *wheels[-1:]]:
        done = subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-input', source], capture_output=True, text=True)
        if done.returncode == 0: break
    else: raise RuntimeError(f'{name} could not be installed. The last try: {{source}}: {{done.stderr[-500:]}}')
    importlib.invalidate_caches(); print(f'{name} installed from {{source}}')'''

def install_cell()->str:
    "Source of the cell, with name, version and address from settings.ini"
    cfg = settings()
    return CELL.format(mark=MARK, name=cfg['lib_name'], version=cfg['version'], git_url=current()['git_url'])

def as_text(o): return o if isinstance(o, str) else ''.join(o)

def with_colab(text:str, # a notebook's JSON
               name:str, # the notebook's name without .ipynb
              )->str: # the same with badge and cell right after the title
    "Put both where they belong; a notebook that has them stays as it is, to the letter"
    nb, link, cell = json.loads(text), fill('{{colab:%s}}' % name, current()), install_cell()
    cells = nb['cells']
    if [as_text(c['source']).strip() for c in cells[1:3]] == [link, cell]: return text
    ours = lambda c: MARK in as_text(c['source']) if c['cell_type'] == 'code' else re.fullmatch(rf'\[!\[[^]]*\]\({re.escape(badge)}\)\]\(\S+\)', as_text(c['source']).strip())
    cells = [c for c in cells if not ours(c)]
    made = [dict(cell_type='markdown', id='colab-badge', metadata={}, source=[link]),
            dict(cell_type='code', execution_count=None, id='colab-cell', metadata={}, outputs=[], source=cell.splitlines(keepends=True))]
    return json.dumps(nb | dict(cells=cells[:1] + made + cells[1:]), indent=1, ensure_ascii=False) + '\n'

def main(paths:list, # notebooks; empty for all chapters
         check:bool=False, # change nothing?
        )->bool: # was anything out of date?
    "Bring every chapter up to date"
    paths = [Path(p).resolve() for p in paths] or [root/'nbs'/f'{o}.ipynb' for o in chapters()]
    return any([write(p, with_colab(p.read_text(encoding='utf-8'), p.stem), check) for p in paths])

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', help='notebooks; every chapter if none is named')
    parser.add_argument('--check', action='store_true', help='change nothing; exit status 1 if a chapter is out of date')
    args = parser.parse_args()
    sys.exit(main(args.notebooks, args.check) and args.check)
