"""Carry settings.ini into nbs/: nbdev.yml and sidebar.yml are made anew, addresses in notebooks are brought up to date. The standard library is enough.

    python scripts/write_quarto.py [--check]     --check changes nothing; exit status 1 if anything is out of date
    python scripts/write_quarto.py --finish _proc     after nbdev_proc_nbs, before quarto render: a link to Colab in every page, no links inside code
"""
import argparse, json, re, sys
from pathlib import Path
from project import root, settings, addresses, current, fill, chapters, support, notebooks, write

# nbdev writes this file too (refresh_quarto_yml); the two must agree to the letter
nbdev_yml = '''project:
  output-dir: {doc_path}

website:
  title: "{title}"
  site-url: "{doc_host}{doc_baseurl}"
  description: "{description}"
  repo-branch: {branch}
  repo-url: "{git_url}"
'''

def sidebar_yml(): # text of the file
    "Chapters in reading order, then the support rooms in a section of their own"
    lines = ['website:', '  sidebar:', '    contents:', '      - index.ipynb'] + [f'      - {o}.ipynb' for o in chapters()]
    if support(): lines += ['      - section: Behind the chapters', '        contents:'] + [f'          - {o}.ipynb' for o in support()]
    return '\n'.join(lines) + '\n'

def written_addresses(): # dict as from `addresses`, or None
    "The addresses that nbs/nbdev.yml was last written with: those that notebooks may still hold"
    path = root/'nbs/nbdev.yml'
    if not path.exists(): return None
    text = path.read_text(encoding='utf-8')
    find = lambda key: re.search(rf'^  {key}: "?([^"\n]+)"?$', text, re.M)[1]
    return addresses(dict(git_url=find('repo-url'), branch=find('repo-branch'), docs_url=find('site-url')))

def moved(text:str, # a notebook's JSON: no address needs escaping there
          old, # from `written_addresses`
          new:dict, # from `current`
         )->str: # the same text with the new addresses
    "Replace old addresses by new ones, and placeholders by addresses"
    for k in (new if old else ()):
        end = '' if old[k].endswith('/') else r'(?![\w-])'
        text = re.sub(re.escape(old[k]) + end, lambda m: new[k], text)
    return fill(text, new)

# beside the link to the source that `repo-actions` of _quarto.yml gives
colab_link = '''format:
  html:
    code-links:
      - text: Open in Colab
        icon: play
        href: {href}
'''

def unlinked(text:str, # markdown from nbdev
            )->str: # the same; inside fences, `name` instead of [`name`](address)
    "nbdev makes links of names also in the comments of a signature, where nobody can follow them"
    plain = lambda m: re.sub(r'\[(`[^`\n]+`)\]\(https?://[^)\s]+\)', r'\1', m[0])
    return re.sub(r'(?ms)^```.*?^```', plain, text)

def finished(text:str, # JSON of a notebook as nbdev_proc_nbs leaves it: front matter in a raw cell
             href:str, # its address on Colab
            )->str: # JSON for Quarto
    "`code-links` into the front matter, the only place where a link can differ from page to page; `unlinked` documentation"
    nb = json.loads(text)
    for cell in nb['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'raw' and 'code-links:' not in source:
            cell['source'] = source.rstrip().removesuffix('---').rstrip() + '\n' + colab_link.format(href=href) + '---\n'
        for data in (o['data'] for o in cell.get('outputs', []) if 'text/markdown' in o.get('data', {})):
            data['text/markdown'] = unlinked(''.join(data['text/markdown']))
    return json.dumps(nb)

def finish(folder:Path)->int:
    "Every notebook of a folder; returns how many"
    paths = [p for p in sorted(folder.glob('*.ipynb')) if (root/'nbs'/p.name).exists()]
    for p in paths: p.write_text(finished(p.read_text(encoding='utf-8'), current()['colab'] + p.name), encoding='utf-8')
    return len(paths)

def main(check:bool=False, # change nothing?
        )->bool: # was anything out of date?
    "Bring every file up to date"
    old, new, cfg = written_addresses(), current(), settings()
    todo = [(p, moved(p.read_text(encoding='utf-8'), old, new)) for p in notebooks()]
    todo += [(root/'nbs/sidebar.yml', sidebar_yml()), (root/'nbs/nbdev.yml', nbdev_yml.format(**cfg))]
    return any([write(p, text, check) for p, text in todo])

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='change nothing; exit status 1 if a file is out of date')
    parser.add_argument('--finish', type=Path, metavar='FOLDER', help='only this: the notebooks of _proc, for Quarto')
    args = parser.parse_args()
    if args.finish: sys.exit(0 if finish(args.finish) else f'no notebooks in {args.finish}')
    sys.exit(main(args.check) and args.check)
