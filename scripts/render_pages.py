"""Every notebook as one HTML page that opens alone, without Quarto, and what is wrong with the pages.

    python scripts/render_pages.py [--out _pages] [--check] [01_views …]

nbdev prepares the notebooks as for Quarto (in a temporary copy: the development environment is needed), pandoc writes the
pages. --check throws them away again. The exit status is 1 if anything is wrong: a warning of nbdev or pandoc, a directive
that a reader would see, a link or anchor that leads nowhere, a picture that is missing or has no alternative text
(`#| fig-alt: …` in its cell), a page over 2 MB. Each is printed with page and place.
"""
import argparse, contextlib, html, json, re, shutil, subprocess, sys, tempfile, time, warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
import yaml
from project import badge, current, notebooks, root, settings, support
from write_quarto import unlinked

READER = 'ipynb+fenced_divs+fenced_code_attributes+header_attributes+link_attributes-gfm_auto_identifiers' # anchors as Quarto makes them
LARGEST = 2_000_000 # bytes of a page
# what Quarto reads in a code cell; nbdev takes its own directives out before
KNOWN = {'echo', 'eval', 'output', 'include', 'warning', 'message', 'code-fold', 'code-summary', 'fig-alt', 'label', 'column'}
parts = root/'scripts/page'

def page_name(name:str, # a notebook's name without .ipynb
             )->str: # as nbdev names its page, such as views.html for 01_views
    "The address of a notebook's page"
    return re.sub(r'^\d+[a-z0-9]*_', '', name.lower()) + '.html'

def as_text(o): return o if isinstance(o, str) else ''.join(o)

def title(path:Path)->str:
    "The first heading of a notebook; that of index is the book's, which stands above every list of pages already"
    if path.stem == 'index': return 'Start'
    return re.search(r'^# +(.+)$', as_text(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']), re.M)[1].strip()

# --- nbdev, then what pandoc reads

def processed(names:list, # notebooks without .ipynb
              work:Path, # an empty folder
             )->tuple: # ({name: notebook as nbdev hands it to Quarto}, problems)
    "Let nbdev prepare them, in a copy, so that the repository stays as it is; it runs imports and exported cells again"
    from nbdev.config import get_config
    from nbdev.serve import proc_nbs
    for o in ('settings.ini', 'pyproject.toml'): shutil.copy(root/o, work)
    made, wrong = {}, []
    with contextlib.chdir(work), warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings('always', message='Found cells containing imports')
        get_config.cache_clear()
        for name in names:
            alone = Path('nbs')/name
            alone.mkdir(parents=True)
            shutil.copy(root/'nbs'/f'{name}.ipynb', alone)
            try: made[name] = json.loads((proc_nbs(alone, n_workers=0)/f'{name}.ipynb').read_text(encoding='utf-8'))
            except Exception as e: wrong.append(f'{name}: nbdev: {" ".join(str(e).split())[:300]} ({e.__cause__!r})')
            wrong += [f'{name}: nbdev: {" ".join(str(o.message).split())[:300]}' for o in said if 'Found cells' in str(o.message)]
            said.clear()
    get_config.cache_clear()
    return made, wrong

def directives(source:str, # of a code cell
              )->tuple: # (dict of its leading `#|` lines, the code without them)
    "Read the lines that nbdev left for Quarto"
    lines = source.splitlines()
    n = next((i for i, l in enumerate(lines) if not l.startswith('#|')), len(lines))
    said = yaml.safe_load('\n'.join(l[2:].removeprefix(' ') for l in lines[:n])) if n else {}
    if not isinstance(said, dict): raise ValueError(f'not of the form name: value: {lines[0]}')
    return said, '\n'.join(lines[n:]).strip('\n')

def markdown(source:str, id:str, urls:dict)->dict:
    "A cell of prose; a badge, which is a picture from elsewhere, becomes a plain link"
    source = re.sub(rf'\[!\[([^]]*)\]\({re.escape(badge)}\)\]', r'[\1]', source)
    if re.fullmatch(rf'\[[^]]*\]\({re.escape(urls["colab"])}\S+\)', source.strip()): source = '' # every page has this link in its head
    return dict(cell_type='markdown', id=id, metadata={}, source=source)

def documented(source:str)->str:
    "What `show_doc` says, in a frame of its own: name, link to the source, signature, docstring"
    source = unlinked(source).strip().removeprefix('---').strip()
    return '::: {.api}\n' + re.sub(r'\A(\[source\]\([^)]*\))\{[^}]*\}\s*\n(#+ [^\n]+)\n', r'\2\n\n::: {.source}\n\1\n:::\n', source) + '\n:::\n'

def code(cell:dict, source:str, said:dict)->list:
    "A code cell for pandoc and the filter, then its outputs that are markdown, as prose"
    alts, fold = said.get('fig-alt', []), said.get('code-fold', True)
    meta = dict(alts=json.dumps([alts] if isinstance(alts, str) else alts), summary=str(said.get('code-summary', 'Code')),
                fold='hidden' if said.get('echo') is False else 'closed' if fold in (True, 'hide') else 'open')
    prose, outputs = [], []
    for o in cell['outputs'] if said.get('output') is not False else []:
        if o['output_type'] == 'execute_result': o = dict(output_type='display_data', data=o['data'], metadata={}) # pandoc wants an execution count otherwise
        if 'text/markdown' in o.get('data', {}):
            text = as_text(o['data']['text/markdown'])
            prose.append(documented(text) if source.startswith('show_doc(') else text)
        else: outputs.append(o)
    made = [dict(cell_type='code', id=cell['id'], execution_count=None, metadata=meta, source=source, outputs=outputs)]
    return made * bool(outputs or (source and meta['fold'] != 'hidden')) + [dict(cell_type='markdown', id=f"{cell['id']}-{i}", metadata={}, source=o) for i, o in enumerate(prose)]

def prepare(nb:dict, # a notebook as nbdev leaves it
            urls:dict, # from `current`
           )->tuple: # (title and description, notebook for pandoc, {cell id: its first line}, problems)
    "Front matter and directives out of the cells"
    head, cells, firsts, wrong = {}, [], {}, []
    for i, cell in enumerate(nb['cells']):
        source, id = as_text(cell['source']), str(cell.get('id') or f'cell-{i}')
        if cell['cell_type'] == 'raw': head.update(yaml.safe_load(source.strip().strip('-'))); continue
        if cell['cell_type'] == 'markdown': cells.append(markdown(re.sub(r'<!-- WARNING: THIS FILE WAS AUTOGENERATED.*?-->', '', source), id, urls)); continue
        try: said, source = directives(source)
        except (yaml.YAMLError, ValueError) as e: wrong.append(f'cell {id}: directive not understood: {" ".join(str(e).split())}'); said = {}
        firsts[id] = next(iter(source.splitlines()), '')
        wrong += [f'cell {id}, `{firsts[id]}`: unknown directive {k}' for k in said.keys() - KNOWN]
        if said.get('include') is not False: cells += code(dict(cell, id=id), source, said)
    meta = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    return head, dict(cells=cells, metadata=meta, nbformat=4, nbformat_minor=5), firsts, wrong

# --- pages

def nav(name:str, titles:dict)->str:
    "The book's contents in reading order, the page itself marked"
    def item(o):
        number = next(iter(re.findall(r'^(\d+[a-z]?)_', o)), '')
        marks = ' aria-current="page"' * (o == name) + ' class="deeper"' * (number[-1:].isalpha())
        shown = f'<span class="number">{number}</span>' * bool(number) + f'<span>{html.escape(titles[o])}</span>'
        return f'<li><a href="{page_name(o)}"{marks}>{shown}</a></li>'
    rest = [o for o in support() if o in titles]
    front = [o for o in titles if o not in rest]
    ol = lambda names: '<ol>' + ''.join(map(item, names)) + '</ol>'
    return ol(front) + (f'<p class="part">Behind the chapters</p>{ol(rest)}' if rest else '')

def turn(name:str, titles:dict)->str:
    "Links to the page before and the page after"
    order = list(titles)
    i = order.index(name) if name in order else 0
    link = lambda o, text: f'<a href="{page_name(o)}">{text}</a>'
    before = link(order[i-1], f'← {html.escape(titles[order[i-1]])}') if i else '<span></span>'
    return before + (link(order[i+1], f'{html.escape(titles[order[i+1]])} →') if i + 1 < len(order) else '')

def tidy(page:str, # HTML from pandoc
         urls:dict, # from `current`
        )->str:
    "Links between notebooks and to the published pages become links between these pages"
    here = lambda m: f'href="{page_name(unquote(m[1]))}{m[2] or ""}"'
    page = re.sub(r'href="(?:\./)?([^":/#?]+)\.ipynb(#[^"]*)?"', here, page)
    page = re.sub(rf'href="{re.escape(urls["docs_url"])}/([^":/#?]+\.html(?:#[^"]*)?)"', r'href="\1"', page)
    return re.sub(r'<a href="#cb\d+-\d+" aria-hidden="true" tabindex="-1"></a>', '', page)

def render(name:str, # a notebook's name
           nb:dict, # as nbdev leaves it
           titles:dict, # {name: title} of all notebooks in reading order
           urls:dict, # from `current`
          )->tuple: # (HTML, {cell id: its first line}, problems)
    "One page"
    import pypandoc
    cfg, (head, nb, firsts, wrong) = settings(), prepare(nb, urls)
    texts = dict(book=cfg['title'], nav=nav(name, titles), turn=turn(name, titles), colab=f"{urls['colab']}{name}.ipynb",
                 source=f"{urls['git_url']}/blob/{cfg['branch']}/nbs/{name}.ipynb",
                 style=(parts/'style.css').read_text(encoding='utf-8'), script=(parts/'script.js').read_text(encoding='utf-8'))
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        (work/'page.ipynb').write_text(json.dumps(nb), encoding='utf-8')
        said = {k: str(head.get(k, '')) for k in ('title', 'description')}
        plain = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', said['description']).replace('`', '').replace('"', "'") # an attribute of the page's head takes no markup
        (work/'head.json').write_text(json.dumps(said | {'description-meta': plain}), encoding='utf-8')
        (work/'defaults.json').write_text(json.dumps(dict(variables=texts)), encoding='utf-8')
        done = subprocess.run([pypandoc.get_pandoc_path(), '-f', READER, '-t', 'html5', '-s', '--mathml', '--embed-resources', '--toc', '--toc-depth=3', '--wrap=preserve',
            f'--template={parts/"template.html"}', f'--lua-filter={parts/"filter.lua"}', f'--defaults={work/"defaults.json"}', f'--metadata-file={work/"head.json"}',
            f'--resource-path={root/"nbs"}', str(work/'page.ipynb')], capture_output=True, text=True, encoding='utf-8')
    said = re.sub(r'\n\s+', ' ', done.stderr).strip().splitlines()
    return tidy(done.stdout, urls), firsts, wrong + [f'pandoc: {o}' for o in said] + [f'pandoc: ended with {done.returncode}'] * bool(done.returncode)

# --- what is wrong with a page

BLOCKS = set('address article aside blockquote body dd details div dl dt figcaption figure footer h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section summary table td th tr ul br'.split())
VOID = set('area base br col embed hr img input link meta source track wbr'.split())

class Page(HTMLParser):
    "What a page links to, shows and says, each with its place"
    def __init__(self, text:str, firsts:dict=None):
        super().__init__(convert_charrefs=True)
        self.firsts, self.ids, self.links, self.images, self.lines = firsts or {}, Counter(), [], [], []
        self.heading, self.cell, self.open, self.line = '', '', [], ''
        self.feed(text); self.close(); self.end_line()

    def place(self): # where the parser is, for a human reader
        return ', '.join([f'under "{" ".join(self.heading.split())}"'] * bool(self.heading) + [f'cell {self.cell}'] * bool(self.cell) + [f'`{self.firsts.get(self.cell)}`'] * bool(self.firsts.get(self.cell)))

    def end_line(self):
        if self.line.strip(): self.lines.append((self.line, self.place()))
        self.line = ''

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in BLOCKS: self.end_line()
        if tag in ('h1', 'h2', 'h3', 'h4'): self.heading = ''
        if 'cell' in (attrs.get('class') or '').split(): self.cell = attrs.get('id', '')
        if attrs.get('id'): self.ids[attrs['id']] += 1
        if tag == 'a' and attrs.get('name') and not attrs.get('id'): self.ids[attrs['name']] += 1
        if tag == 'a' and 'href' in attrs: self.links.append((attrs['href'] or '', self.place()))
        if tag == 'img': self.images.append((attrs.get('src') or '', attrs.get('alt'), self.place()))
        if tag not in VOID: self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag: pass
        if tag in BLOCKS: self.end_line()

    def handle_data(self, data):
        if set(self.open) & {'script', 'style', 'annotation', 'title'}: return
        if set(self.open) & {'h1', 'h2', 'h3', 'h4'}: self.heading += data
        first, *more = data.split('\n')
        self.line += first
        for o in more: self.end_line(); self.line = o

def wrong_text(page:Page)->list:
    "Directives, fences of divisions and placeholders that a reader would see"
    stray = r'^\s*(#\s?\||:{3,}|\{\{<|%%)|\{\{(git_url|docs_url|colab:\w+)\}\}|\[`[^`\n]+`\]\(http'
    return [f'{place}: a stray directive: {line.strip()[:80]}' for line, place in page.lines if re.search(stray, line)]

def wrong_images(page:Page)->list:
    "Pictures that are not in the page, and pictures without alternative text"
    missing = [f'{place}: the picture {src[:80] or "without an address"} is not in the page' for src, alt, place in page.images if not src.startswith('data:')]
    return missing + [f'{place}: a picture without alternative text; its cell needs a line `#| fig-alt: …`' for src, alt, place in page.images if not (alt or '').strip()]

def wrong_link(href:str, # as it stands in the page
               page:Page, # where it stands
               pages:dict, # {address: Page, or None for one that was not rendered this time}
              )->str: # what is wrong with it, or ''
    "A link leads to a page or an anchor that is there; one to the world outside is only looked at"
    if not href.strip() or re.search(r'\s', href): return 'no address' if not href.strip() else 'a blank in the address'
    try: to = urlsplit(href)
    except ValueError as e: return str(e)
    if to.scheme in ('http', 'https'): return '' if re.fullmatch(r'([\w-]+\.)+[a-z]{2,}(:\d+)?', to.netloc, re.I) else 'not a web address'
    if to.scheme == 'mailto': return '' if '@' in to.path else 'not a mail address'
    if to.scheme or to.netloc: return f'a link of the kind {to.scheme or "//"}'
    where = unquote(to.path)
    if where and where not in pages: return 'there is no such page'
    target = pages[where] if where else page
    return 'there is no such anchor' if to.fragment and target and not {to.fragment, unquote(to.fragment)} & target.ids.keys() else ''

def wrong_links(page:Page, pages:dict)->list:
    "All links of a page, and anchors that are there twice"
    found = [f'{place}: the link {href[:120]!r}: {what}' for href, place in page.links if (what := wrong_link(href, page, pages))]
    return found + [f'the anchor {o!r} is there {n} times' for o, n in page.ids.items() if n > 1]

def wrong_size(text:str)->list: return [f'the page has {len(text.encode())/1e6:.2f} MB; {LARGEST/1e6:.0f} are allowed'] * (len(text.encode()) > LARGEST)

def problems(texts:dict, # {address: HTML}
             firsts:dict=None, # {address: {cell id: its first line}}
             others=(), # addresses of pages that exist and were not rendered this time
            )->dict: # {address: list of problems}
    "Everything that is wrong with a set of pages"
    pages = {k: Page(v, (firsts or {}).get(k)) for k, v in texts.items()}
    known = dict.fromkeys(others) | pages
    return {k: wrong_text(p) + wrong_images(p) + wrong_links(p, known) + wrong_size(texts[k]) for k, p in pages.items()}

def main(names:list, # notebooks; empty for all
         out:Path=None, # where the pages go; None: nowhere
        )->int: # how many problems
    "Render, check, print"
    titles, urls, start = {p.stem: title(p) for p in notebooks()}, current(), time.perf_counter()
    names = [Path(o).stem for o in names] or list(titles)
    for o in names:
        if o not in titles: raise SystemExit(f'{o!r} is not a notebook of nbs/')
    if len({page_name(o) for o in titles}) < len(titles): raise SystemExit('two notebooks have the same page name')
    with tempfile.TemporaryDirectory() as work:
        nbs, wrong = processed(names, Path(work))
        prepared = time.perf_counter() - start
    with ThreadPoolExecutor(2) as pool: done = dict(zip(nbs, pool.map(lambda o: render(o, nbs[o], titles, urls), nbs)))
    texts, firsts = ({page_name(o): d[k] for o, d in done.items()} for k in (0, 1))
    checked = problems(texts, firsts, map(page_name, titles))
    wrong += [f'{o}: {w}' for o in nbs for w in done[o][2] + checked[page_name(o)]]
    if out:
        out.mkdir(parents=True, exist_ok=True)
        for k, v in texts.items(): (out/k).write_text(v, encoding='utf-8', newline='\n')
    print(*wrong, sep='\n', end='\n' * bool(wrong))
    size = max((len(v.encode()) for v in texts.values()), default=0)
    print(f'{len(texts)} pages, the largest {size/1e6:.2f} MB, {len(wrong)} problems, {time.perf_counter() - start:.0f} s (nbdev {prepared:.0f})' + (f', in {out}' if out else ''))
    return len(wrong)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', help='names, such as 01_views; all of nbs/ if none is named')
    parser.add_argument('--out', type=Path, default=root/'_pages', help='folder for the pages (_pages)')
    parser.add_argument('--check', action='store_true', help='keep no pages')
    args = parser.parse_args()
    sys.exit(bool(main(args.notebooks, None if args.check else args.out)))
