"""Carry settings.ini into nbs/: nbdev.yml and sidebar.yml are made anew, addresses in notebooks are brought up to date. The standard library is enough.

    python scripts/write_quarto.py [--check]     --check changes nothing; exit status 1 if anything is out of date
"""
import argparse, re, sys
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
    args = parser.parse_args()
    sys.exit(main(args.check) and args.check)
