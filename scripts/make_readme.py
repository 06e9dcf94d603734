"""README.md from nbs/index.ipynb, and the picture it opens with from chapter 04; without Quarto, the standard library is enough.

    python scripts/make_readme.py                   write README.md
    python scripts/make_readme.py --check           change nothing; exit status 1 if README.md is out of date
    python scripts/make_readme.py --command test    print README's command of that name, to be run as it stands

A command is a fence that follows an HTML comment: <!-- command: test -->
"""
import argparse, base64, json, re, sys, textwrap
from project import root, current, fill, write

def as_text(o): return o if isinstance(o, str) else ''.join(o)

def has(source:str, # a code cell
        *names, # directives, such as 'hide' or 'echo: false'
       )->bool:
    "Does the cell carry one of these `#|` directives?"
    return any(re.search(rf'^#\|\s*{n}\s*$', source, re.M) for n in names)

def output(o:dict, # one output of a code cell
          )->str: # markdown, empty for what is not text
    "Text as an indented block, markdown as it is; a picture or a slider is left to the page"
    data = o.get('data', {})
    if 'text/markdown' in data: return as_text(data['text/markdown'])
    if 'image/png' in data or 'image/svg+xml' in data: return ''
    text = as_text(o.get('text') or data.get('text/plain') or '')
    return textwrap.indent(re.sub(r'\x1b\[[\d;]*m', '', text).rstrip(), ' '*4)

def code(cell:dict, # a code cell
        )->list: # blocks of markdown
    "A fence with the source unless a directive hides it, then the outputs"
    source = as_text(cell['source'])
    if has(source, 'hide', 'include: false'): return []
    shown = '\n'.join(l for l in source.splitlines() if not l.startswith('#|')).strip('\n')
    fence = [] if not shown or has(source, 'echo: false', 'hide_input') else [f'```python\n{shown}\n```']
    return fence + ([] if has(source, 'output: false', 'hide_output', 'fig-alt: .*') else [output(o) for o in cell['outputs']])

def readme()->str: # the whole of README.md
    "The notebook as one markdown page; links between notebooks get their folder"
    cells = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    blocks = ['<!-- Made from nbs/index.ipynb by scripts/make_readme.py: change the notebook, not this file. -->']
    for c in cells: blocks += code(c) if c['cell_type'] == 'code' else [as_text(c['source'])]
    text = '\n\n'.join(b.strip('\n') for b in blocks if b.strip()) + '\n'
    text = re.sub(r'\]\(([\w-]+\.ipynb|images/[\w-]+\.png)\)', r'](nbs/\1)', text)
    return fill(text, current())

def picture(check:bool=False, # change nothing?
           )->bool: # did the file differ?
    "nbs/images/parasitic_edges.png is the first picture that chapter 04 has saved"
    cells, path = json.loads((root/'nbs/04_parasitic_edges.ipynb').read_text(encoding='utf-8'))['cells'], root/'nbs/images/parasitic_edges.png'
    first = next(as_text(o['data']['image/png']) for c in cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {}))
    made = base64.b64decode(first)
    differs = not path.exists() or path.read_bytes() != made
    if differs: print(f"{path.relative_to(root)} {'is out of date' if check else 'written'}")
    if differs and not check:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(made)
    return differs

def commands(text:str, # a markdown page
            )->dict: # name -> command
    "The marked commands of a page"
    return {name: body.strip() for name, body in re.findall(r'<!-- command: (\w+) -->\s*```bash\n(.*?)```', text, re.S)}

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit status 1 if README.md is out of date')
    parser.add_argument('--command', metavar='NAME', help='print this command of README.md')
    args = parser.parse_args()
    if args.command:
        there = commands((root/'README.md').read_text(encoding='utf-8'))
        if args.command not in there: sys.exit(f"README.md has no command {args.command!r}; it has: {', '.join(there)}")
        print(there[args.command])
    else: sys.exit(any([write(root/'README.md', readme(), args.check), picture(args.check)]) and args.check)
