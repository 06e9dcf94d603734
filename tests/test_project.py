"The project holds together: one settings.ini, notebooks as the only source, a README that is made and not written."
import ast, importlib.metadata, json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest, yaml
import mssl

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'scripts'))
import make_readme, project, write_quarto

cfg, urls = project.settings(), project.current()
package = Path(mssl.__file__).resolve().parent
pages = [root/o for o in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'LICENSE-TEXT')] + project.notebooks()
stem = lambda p: p.stem

def read(path): return path.read_text(encoding='utf-8')
def cells(path): return [(c['cell_type'], ''.join(c['source']), c) for c in json.loads(read(path))['cells']]
def links(path): return re.findall(r'https?://[^\s)\]>"\'\\}`]+', read(path))

def prose(path): # without code
    text = read(path) if path.suffix != '.ipynb' else '\n\n'.join(source for kind, source, _ in cells(path) if kind == 'markdown')
    return re.sub(r'(?s)```.*?```|`[^`\n]*`', '', text)

def wrong_addresses(links, urls): # those that point to a repository, badge target or docs that are not this project's
    repo, bad = re.escape(cfg['repo']), []
    for link in links:
        if link.startswith('https://colab.research.google.com/github/'): ok = link.startswith(urls['colab'])
        elif re.match(rf'https://(raw\.)?github(usercontent)?\.com/[^/]+/{repo}\b', link): ok = re.match(re.escape(urls['git_url']) + r'(?![\w-])', link)
        elif re.match(rf'https://[^/]+\.github\.io/{repo}\b', link): ok = re.match(re.escape(urls['docs_url']) + r'(?![\w-])', link)
        else: ok = True
        if not ok: bad.append(link)
    return bad

def imports(tree): # (dots, module) of each import, wherever it stands in the file
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from ((0, a.name) for a in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from ([(node.level, node.module)] if node.module else [(node.level, a.name) for a in node.names])

# --- README and addresses

def test_readme_is_the_index_notebook():
    assert read(root/'README.md') == make_readme.readme(), 'run scripts/make_readme.py'

def test_readme_shows_code_and_text_and_hides_what_is_marked(monkeypatch, tmp_path):
    code = lambda source, *outputs: dict(cell_type='code', source=source, outputs=list(outputs))
    text = lambda o: dict(output_type='stream', name='stdout', text=o)
    (tmp_path/'nbs').mkdir()
    (tmp_path/'nbs/index.ipynb').write_text(json.dumps(dict(cells=[
        dict(cell_type='markdown', source='# T\n\n[a](00_data.ipynb) {{git_url}}'), code('#| default_exp x'), code('#| hide\nsecret=1', text('s')),
        code('1+1', dict(output_type='execute_result', data={'text/plain': '2'})), code('#| echo: false\nprint(7)', text('7\n8\n')),
        code('plot()', dict(output_type='display_data', data={'image/png': 'x', 'text/plain': '<Figure>'}))])), encoding='utf-8')
    monkeypatch.setattr(make_readme, 'root', tmp_path)
    assert make_readme.readme().split('\n\n')[1:] == ['# T', f"[a](nbs/00_data.ipynb) {urls['git_url']}",
        '```python\n1+1\n```', '    2', '    7\n    8', '```python\nplot()\n```\n']

@pytest.mark.parametrize('page', pages, ids=lambda p: p.name)
def test_addresses_are_those_of_settings(page):
    assert not wrong_addresses(links(page), urls)
    assert project.fill(read(page), urls) == read(page) or page.name == 'CONTRIBUTING.md', 'a placeholder is left: run scripts/write_quarto.py'

def test_readme_names_no_other_repository():
    for link in links(root/'README.md'):
        if 'github.com' in link: assert link.startswith(urls['git_url'])
        if 'github.io' in link: assert link.startswith(urls['docs_url'])

def test_a_foreign_address_is_noticed():
    foreign = ['https://github.com/someone/mssl', urls['git_url'] + '-fork', urls['docs_url'].replace('https://', 'https://x'),
               urls['colab'].replace('/blob/', '/blob/old-') + '00_data.ipynb']
    assert wrong_addresses(foreign, urls) == foreign
    assert not wrong_addresses([urls['git_url'], urls['git_url'] + '/issues', urls['docs_url'] + '/core.html', urls['colab'] + 'x.ipynb', 'https://github.com/fastai/fastai'], urls)

@pytest.mark.parametrize('page', pages, ids=lambda p: p.name)
def test_badges_and_links_point_to_files_that_are_there(page):
    text = prose(page)
    for name in re.findall(re.escape(urls['colab']) + r'([\w-]+\.ipynb)', text): assert (root/'nbs'/name).exists(), name
    for name in re.findall(r'\]\(((?!https?:|#|mailto:)[^)\s]+)\)', text): assert (page.parent/name.split('#')[0]).exists(), name

def test_settings_are_the_one_place_for_addresses(tmp_path):
    "Another user, repository and branch in settings.ini, the two scripts, and no old address is left"
    for o in 'scripts', 'nbs': shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    text = read(root/'settings.ini')
    for key, value in dict(user='else-where', repo='mssl-2', branch='trunk').items(): text = re.sub(rf'(?m)^{key} = .*$', f'{key} = {value}', text)
    (tmp_path/'settings.ini').write_text(text, encoding='utf-8')
    for script in 'write_quarto', 'make_readme': subprocess.run([sys.executable, tmp_path/'scripts'/f'{script}.py'], check=True)
    for path in [*tmp_path.glob('nbs/*.ipynb'), tmp_path/'README.md', tmp_path/'nbs/nbdev.yml']:
        assert not any(urls[k] + end in read(path) for k, end in dict(git_url='/', docs_url='/', colab='').items()), path
        assert cfg['user'] not in read(path), path
    assert 'https://colab.research.google.com/github/else-where/mssl-2/blob/trunk/nbs/00_data.ipynb' in read(tmp_path/'README.md')
    assert 'https://github.com/else-where/mssl-2' in read(tmp_path/'nbs/nbdev.yml')

def test_readme_commands_are_one_line_each():
    found = make_readme.commands(read(root/'README.md'))
    assert found.keys() == {'train', 'test'}
    for o in found.values(): assert '\n' not in o and o.startswith('python3 -m venv ') and 'pip install ' in o

# --- docs

def test_quarto_files_are_made_from_settings():
    assert not write_quarto.main(check=True), 'run scripts/write_quarto.py'
    made = yaml.safe_load(read(root/'nbs/nbdev.yml'))['website']
    assert (made['repo-url'], made['site-url'], made['title']) == (urls['git_url'], urls['docs_url'], cfg['title'])

def test_sidebar_lists_every_notebook_once():
    contents = yaml.safe_load(read(root/'nbs/sidebar.yml'))['website']['sidebar']['contents']
    listed = [p for o in contents for p in (o['contents'] if isinstance(o, dict) else [o])]
    assert listed[0] == 'index.ipynb' and sorted(listed) == sorted(p.name for p in (root/'nbs').glob('*.ipynb'))

def test_quarto_has_light_and_dark_search_mathml_and_code_folded_with_a_switch():
    made = yaml.safe_load(read(root/'nbs/_quarto.yml'))
    page, site = made['format']['html'], made['website']
    assert page['theme'].keys() == {'light', 'dark'} and page['respect-user-color-scheme'] and page['html-math-method'] == 'mathml'
    assert page['code-fold'] is True and page['code-tools']['toggle'] and site['navbar']['search'] and 'source' in site['repo-actions']
    assert made['metadata-files'] == ['nbdev.yml', 'sidebar.yml'] and 'http' not in read(root/'nbs/_quarto.yml').replace('https://creativecommons.org', '')
    docs = read(root/'.github/workflows/docs.yml')
    assert re.search(r'quarto-actions/setup@v\d+\n\s+with:\n\s+version: \d+\.\d+\.\d+\n', docs), 'Quarto is pinned'
    order = [docs.index(o) for o in ('nbdev_proc_nbs', 'write_quarto.py --finish _proc', 'quarto render')]
    assert order == sorted(order)

def test_workflows_pin_actions_and_cover_the_python_versions():
    for path in (root/'.github/workflows').glob('*.yml'):
        for use in re.findall(r'uses: (\S+)', read(path)): assert re.search(r'@v\d+$', use), f'{path.name}: {use}'
    matrix = yaml.safe_load(read(root/'.github/workflows/test.yml'))['jobs']['user']['strategy']['matrix']
    assert matrix['python'] == cfg['python_versions'].split() and matrix['python'][0] == cfg['min_python']
    assert {o.split('-')[0] for o in matrix['os'] + [i['os'] for i in matrix['include']]} == {'ubuntu', 'macos', 'windows'}

# --- notebooks

@pytest.mark.parametrize('path', project.notebooks(), ids=stem)
def test_first_cell_is_title_and_description_only(path):
    "nbdev drops whatever else stands there"
    kind, source, _ = cells(path)[0]
    assert kind == 'markdown' and re.fullmatch(r'# [^\n]+\n\n> [^\n]+\n?', source)

@pytest.mark.parametrize('path', project.notebooks(), ids=stem)
def test_imports_have_cells_of_their_own(path):
    "The docs build runs cells with imports again, without the cells before them"
    for kind, source, _ in cells(path):
        if kind != 'code' or re.match(r'\s*[%!]', source): continue
        body = ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', source)).body
        assert len({isinstance(o, (ast.Import, ast.ImportFrom)) for o in body}) < 2, source

@pytest.mark.parametrize('path', project.notebooks(), ids=stem)
def test_no_cell_needs_nbdev_and_none_ended_in_an_error(path):
    for kind, source, cell in cells(path):
        if kind != 'code': continue
        assert not re.search(r'(?m)^\s*(import|from) nbdev', source), source
        assert not any(o['output_type'] == 'error' for o in cell['outputs']), source
    assert path.stat().st_size < 2e6

TABLES = {'run_table', 'DataFrame', 'claim_row'}

@pytest.mark.parametrize('path', project.notebooks(), ids=stem)
def test_figures_and_tables_are_saved_with_the_notebook(path):
    "A cell that was changed and not run again has lost its output, and the page its figure"
    for kind, source, cell in cells(path):
        if kind != 'code' or 'eval: false' in source or re.match(r'\s*[%!]', source): continue
        last = (ast.parse(source).body or [None])[-1]
        shown = last.value if isinstance(last, ast.Expr) else None
        table = isinstance(shown, (ast.Name, ast.Tuple, ast.JoinedStr)) or isinstance(shown, ast.Call) and TABLES & {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(shown) if isinstance(n, (ast.Name, ast.Attribute))}
        if table or '#| fig-alt' in source: assert cell['outputs'], f'no output is saved: {source}'

@pytest.mark.parametrize('how', [[], ['--forked']])
def test_run_notebooks_tells_the_failing_cell(tmp_path, how):
    cell = lambda source: dict(cell_type='code', execution_count=None, id=f'c{abs(hash(source))%10**6}', metadata={}, outputs=[], source=source)
    def save(name, *sources):
        meta = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
        (tmp_path/name).write_text(json.dumps(dict(cells=[cell(s) for s in sources], metadata=meta, nbformat=4, nbformat_minor=5)), encoding='utf-8')
        return tmp_path/name
    good = save('good.ipynb', 'import os, sys', f"assert os.environ['MSSL_PATH'] == 'tests' and os.path.samefile(os.getcwd(), {str(tmp_path)!r})",
                f'assert sys.prefix == {sys.prefix!r}')
    bad = save('bad.ipynb', 'x = 1', 'x/0')
    env = {k: v for k, v in os.environ.items() if k != 'MSSL_PATH'}
    done = subprocess.run([sys.executable, root/'scripts/run_notebooks.py', *how, good, bad], capture_output=True, text=True, env=env)
    assert done.returncode == 1 and 'x/0' in done.stdout and 'ZeroDivisionError' in done.stdout, done.stdout + done.stderr
    assert re.search(r'min  good\.ipynb$', done.stdout, re.M) and '2 notebooks, 1 failed: bad.ipynb' in done.stdout

# --- the package

def test_installed_package_agrees_with_settings():
    assert mssl.__version__ == importlib.metadata.version('mssl') == cfg['version']
    name = lambda o: re.match(r'[\w.-]+', o)[0].lower().replace('_', '-')
    installed = {name(o) for o in importlib.metadata.requires('mssl') if 'extra ==' not in o}
    assert installed == {name(o) for o in cfg['requirements'].split()}
    assert importlib.metadata.metadata('mssl')['Requires-Python'] == '>=' + cfg['min_python'], 'install again, and remove an old mssl.egg-info'

def test_package_imports_only_what_it_requires():
    "No nbdev, nothing of the test tools: the standard library, the requirements, and what those bring themselves"
    known = {re.match(r'[\w-]+', o)[0] for o in cfg['requirements'].split()} - {'scikit-image'}
    known |= {'skimage', 'numpy', 'PIL', 'pandas', 'fastcore', 'fastprogress', 'IPython', 'mssl'} | set(sys.stdlib_module_names)
    for path in package.rglob('*.py'):
        other = {m.split('.')[0] for dots, m in imports(ast.parse(read(path))) if not dots} - known
        assert not other, f'{path.name} imports {other}'

@pytest.mark.parametrize('path', sorted(package.glob('[a-z]*.py')), ids=stem)
def test_what_a_page_shows_says_what_it_does(path):
    "Classes, functions and patched methods: nbdev shows torch's or Python's own sentence where there is none"
    def patched(o): return any('patch' in ast.unparse(d) for d in o.decorator_list)
    shown = [o for o in ast.parse(read(path)).body if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and (patched(o) or not o.name.startswith('_'))]
    assert not [o.name for o in shown if not ast.get_docstring(o)]

def test_rooms_import_in_one_direction():
    "No room needs, directly or through others, a room that needs it"
    needs = {p.stem: {m.split('.')[0] for dots, m in imports(ast.parse(read(p))) if dots} for p in package.glob('*.py') if not p.stem.startswith('_')}
    done = set()
    while ready := {o for o in needs.keys() - done if needs[o] & needs.keys() <= done}: done |= ready
    assert done == needs.keys(), f'in a circle: {sorted(needs.keys() - done)}'

@pytest.mark.parametrize('path', sorted(package.glob('[a-z]*.py')), ids=stem)
def test_every_room_comes_from_a_notebook(path):
    source = re.search(r'File to edit: \.\./nbs/(\S+\.ipynb)', read(path))
    assert source and (root/'nbs'/source[1]).exists()
