"""Notebooks for students: the exercises with their holes, and chapters, without solutions, answers and the code of the checks. The standard library is enough.

    python scripts/student_copies.py OUT [nbs/04a_edges_exercises.ipynb …] [--hints no]

Without names, every exercise notebook. What goes: exported cells and everything from "The checks" on (they live in the installed package), unfolded answers, saved outputs. What stays: the text, the
holes, the calls of the checks, the questions, and the hints unless `--hints no`. `mssl_check` scores what comes back.
"""
import argparse, json, re, sys
from pathlib import Path
from project import root

FOLD = re.compile(r'\n*<details>\s*<summary>(.*?)</summary>.*?</details>\n*', re.S)
SOLUTIONS = re.compile(r'\[[^\]]*\]\(\S*tests/solutions/\S*\)[^.\n]*\.?\n?')

def as_text(o): return o if isinstance(o, str) else ''.join(o)

def prose(source, hints): # markdown without answers
    "A question that stands in its own summary stays as a sentence; a hint stays folded"
    def fold(m):
        head = m[1].strip()
        if head.lower() == 'hint': return m[0] if hints else '\n\n'
        return '\n\n' if head.lower() in ('answer', 'solution') else f'\n\n{head}\n\n'
    return SOLUTIONS.sub('', FOLD.sub(fold, source)).strip()

def student_copy(nb:dict, # a notebook
                 hints:bool=True, # keep them?
                )->dict: # the copy
    "The notebook as a student gets it"
    cells = []
    for c in nb['cells']:
        source = as_text(c['source'])
        if c['cell_type'] == 'markdown':
            if re.match(r'## The checks\s*$', source.strip()): break
            source = prose(source, hints)
            if source: cells.append(dict(cell_type='markdown', id=c['id'], metadata={}, source=source))
        elif c['cell_type'] == 'code' and not re.search(r'(?m)^#\| *(exports?|default_exp)\b', source):
            cells.append(dict(cell_type='code', id=c['id'], metadata={}, execution_count=None, outputs=[], source=source))
    return dict(nb, cells=cells)

def main(out:Path, # folder
         paths:list, # notebooks; empty for all exercises
         hints:bool=True, # keep them?
        )->list: # of the files
    "Write the copies"
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for p in paths or sorted((root/'nbs').glob('*_exercises.ipynb')):
        target = out/Path(p).name
        if target.resolve() == Path(p).resolve(): raise ValueError(f'{out}: a copy would take the place of {p}')
        nb = json.loads(Path(p).read_text(encoding='utf-8'))
        target.write_text(json.dumps(student_copy(nb, hints), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
        made.append(target)
    return made

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for the copies')
    parser.add_argument('notebooks', nargs='*', help='notebooks; every exercise notebook if none is named')
    parser.add_argument('--hints', choices=('yes', 'no'), default='yes', help='keep the hints')
    args = parser.parse_args()
    try: print('\n'.join(map(str, main(args.out, args.notebooks, args.hints == 'yes'))))
    except (OSError, ValueError, KeyError) as e: sys.exit(f'student_copies: {e}')
