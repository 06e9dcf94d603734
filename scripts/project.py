"What the project says about itself: settings.ini, the addresses made from it, and the reading order of the notebooks."
import re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
rooms = ['glossary', 'teaching', 'teaching_answers', 'core', 'show', 'explore', 'toy', 'exercise', 'grade', 'recipes', 'pictures', 'lazy', 'pack', 'sources', 'train', 'checkpoint', 'memory', 'plan', 'fine_tune', 'embed', 'unlabelled', 'takeaway', 'processes', 'distributed', 'sheet', 'report', 'runs', 'ledger', 'measures', 'compare', 'cli'] # notebooks without a chapter number, in reading order
badge = 'https://colab.research.google.com/assets/colab-badge.svg'

def settings(): # the section of settings.ini, with its %(…)s filled in
    "What settings.ini says"
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def addresses(cfg, # what has keys git_url, branch, docs_url
             ): # dict: git_url, docs_url, colab (the address in front of a notebook's name)
    "The three addresses that prose may hold"
    repo = cfg['git_url'].removeprefix('https://github.com/')
    return dict(git_url=cfg['git_url'], docs_url=cfg['docs_url'],
                colab=f"https://colab.research.google.com/github/{repo}/blob/{cfg['branch']}/nbs/")

def current(): # dict as from `addresses`
    "The addresses as settings.ini has them now"
    cfg = settings()
    return addresses(dict(git_url=cfg['git_url'], branch=cfg['branch'], docs_url=cfg['doc_host'] + cfg['doc_baseurl']))

def fill(text:str, # prose, perhaps with {{git_url}}, {{docs_url}} or {{colab:02_siamese}}
         urls:dict, # from `current`
        )->str: # the prose with addresses; {{colab:…}} becomes a badge
    "Replace placeholders by addresses"
    for name in ('git_url', 'docs_url'): text = text.replace('{{%s}}' % name, urls[name])
    return re.sub(r'\{\{colab:(\w+)\}\}', lambda m: f"[![Open in Colab]({badge})]({urls['colab']}{m[1]}.ipynb)", text)

def chapters(): # list of names without .ipynb
    "The notebooks that carry a chapter number, in reading order (00_data before 00a_scenes)"
    return sorted(p.stem for p in (root/'nbs').glob('[0-9]*.ipynb'))

def support(): # list of names without .ipynb
    "The other notebooks beside index: first those of `rooms`, then what is not in that list"
    there = {p.stem for p in (root/'nbs').glob('*.ipynb')} - set(chapters()) - {'index'}
    return [o for o in rooms if o in there] + sorted(there - set(rooms))

def notebooks(): # list of paths
    "Every notebook in reading order, index first"
    index = ['index'] if (root/'nbs/index.ipynb').exists() else []
    return [root/'nbs'/f'{o}.ipynb' for o in index + chapters() + support()]

def write(path:Path, # file in the repository
          text:str, # what it must hold
          check:bool=False, # only compare?
         )->bool: # did the file differ?
    "Write `text` if the file holds anything else; with `check` only say so"
    differs = not path.exists() or path.read_text(encoding='utf-8') != text
    if differs: print(f"{path.relative_to(root)} {'is out of date' if check else 'written'}")
    if differs and not check: path.write_text(text, encoding='utf-8', newline='\n')
    return differs
