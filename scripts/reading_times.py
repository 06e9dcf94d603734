"""How long a chapter takes: to read, counted in its notebook; to run, as `run_notebooks.py` has measured it. Both into the table of nbs/teaching.ipynb. The standard library is enough.

    python scripts/reading_times.py [--check]              write the table; --check changes nothing, exit status 1 if it is out of date
    python scripts/reading_times.py --measured log.txt     first take minutes from the output of run_notebooks.py into scripts/minutes.json

Reading: 200 words of prose a minute, 20 s for a figure, a table or a slider, 10 s for a cell of code that makes something to look at, 4 s a line of the exported code.
"""
import argparse, json, re, sys
from pathlib import Path
from project import root, chapters, write

MARK = re.compile(r'(<!-- times -->\n).*?(\n<!-- end of times -->)', re.S)

def as_text(o): return o if isinstance(o, str) else ''.join(o)

def reading(path): # a notebook -> (words, cells of code, minutes)
    "Counted, not guessed; folded answers count too"
    words = cells = seconds = 0
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = as_text(c['source'])
        if c['cell_type'] == 'markdown':
            words += len(re.findall(r'\w[\w\'’-]*', re.sub(r'<!--.*?-->|<[^>]+>|\]\([^)]*\)', ' ', source, flags=re.S)))
            continue
        if c['cell_type'] != 'code' or 'eval: false' in source or 'default_exp' in source: continue
        cells += 1
        kinds = {k for o in c.get('outputs', []) for k in o.get('data', {})}
        seconds += 4 * source.count('\n') if re.search(r'(?m)^#\| *exports?\b', source) else 20 if kinds & {'image/png', 'image/jpeg', 'text/html'} else 10 if c.get('outputs') else 0
    return words, cells, round(words / 200 + seconds / 60)

def title(path): return re.search(r'^# +(.+)$', as_text(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']), re.M)[1].strip()

def table(): # markdown
    "A row for each chapter and room with a number"
    ran = json.loads((root/'scripts/minutes.json').read_text(encoding='utf-8'))
    rows = ['| notebook | to read | to run | words | cells of code |', '|---|---|---|---|---|']
    for name in chapters():
        path = root/'nbs'/f'{name}.ipynb'
        words, cells, minutes = reading(path)
        run = ran['minutes'].get(name)
        rows.append(f"| [{name.split('_')[0]} {title(path)}]({name}.ipynb) | {minutes} | {'–' if run is None else f'{run:.1f}'} | {words:,} | {cells} |")
    return '\n'.join([*rows, '', f"Minutes. To run: {ran['where']}; – is not measured yet."])

def main(check=False): # -> was it out of date?
    "Bring the table up to date"
    path = root/'nbs/teaching.ipynb'
    nb = json.loads(path.read_text(encoding='utf-8'))
    for c in nb['cells']:
        source = as_text(c['source'])
        if MARK.search(source): c['source'] = MARK.sub(lambda m: m[1] + table() + m[2], source).splitlines(keepends=True)
    return write(path, json.dumps(nb, indent=1, ensure_ascii=False) + '\n', check)

def measured(log:str): # output of run_notebooks.py
    "Keep its minutes"
    path = root/'scripts/minutes.json'
    kept = json.loads(path.read_text(encoding='utf-8'))
    for minutes, name in re.findall(r'(?m)^ *(\d+\.\d+) min  ([\w]+)\.ipynb$', log): kept['minutes'][name] = float(minutes)
    path.write_text(json.dumps(dict(kept, minutes=dict(sorted(kept['minutes'].items()))), indent=1) + '\n', encoding='utf-8')

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit status 1 if the table is out of date')
    parser.add_argument('--measured', type=Path, metavar='LOG', help='what run_notebooks.py has printed')
    args = parser.parse_args()
    if args.measured: measured(args.measured.read_text(encoding='utf-8'))
    sys.exit(main(args.check) and args.check)
