"The first code cell of a chapter: the same everywhere, three sources in order, nothing where mssl is there."
import builtins, json, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'scripts'))
import project, write_colab

cell, urls, cfg = write_colab.install_cell(), project.current(), project.settings()

@pytest.mark.parametrize('name', project.chapters())
def test_every_chapter_has_badge_and_cell_after_its_title(name):
    "scripts/write_colab.py puts them there"
    cells = json.loads((root/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']
    assert [''.join(c['source']).strip() for c in cells[1:3]] == [project.fill('{{colab:%s}}' % name, urls), cell]
    assert next(c for c in cells if c['cell_type'] == 'code')['outputs'] == []

@pytest.fixture
def run(monkeypatch, tmp_path):
    "Run the cell as in an environment without mssl, where only some sources can be installed; returns what was tried"
    monkeypatch.chdir(tmp_path)
    def run(works, there=False):
        tried, real = [], builtins.__import__
        def pip(command, **kwargs):
            assert command[:4] == [sys.executable, '-m', 'pip', 'install']
            tried.append(command[-1])
            return SimpleNamespace(returncode=0 if works(command[-1]) else 1, stderr='no matching distribution', stdout='')
        def absent(name, *args, **kwargs):
            if name.split('.')[0] == 'mssl': raise ImportError(name)
            return real(name, *args, **kwargs)
        monkeypatch.setattr(subprocess, 'run', pip)
        if not there: monkeypatch.setattr(builtins, '__import__', absent)
        try: exec(cell, {'__name__': '__main__'})
        finally: monkeypatch.undo(); monkeypatch.chdir(tmp_path)
        return tried
    return run

released, repository = f"mssl>={cfg['version']}", f"git+{urls['git_url']}"

def test_nothing_happens_where_mssl_is_there(run, capsys):
    assert run(lambda o: True, there=True) == [] and capsys.readouterr().out == ''

def test_the_released_package_comes_first(run, capsys):
    assert run(lambda o: o == released) == [released] and capsys.readouterr().out == f'mssl installed from {released}\n'

def test_then_the_repository(run, capsys):
    assert run(lambda o: o == repository) == [released, repository] and capsys.readouterr().out == f'mssl installed from {repository}\n'

@pytest.mark.parametrize('folder', ['.', '../dist'])
def test_then_the_newest_wheel_beside_the_notebook(run, capsys, tmp_path, monkeypatch, folder):
    (tmp_path/'nbs').mkdir(); (tmp_path/'dist').mkdir()
    monkeypatch.chdir(tmp_path/'nbs')
    for o in '0.1.0', '0.1.1': (Path(folder)/f'mssl-{o}-py3-none-any.whl').touch()
    monkeypatch.setattr(monkeypatch, 'chdir', lambda o: None) # `run` stays in nbs
    wheel = run(lambda o: o.endswith('.whl'))[2:]
    assert [Path(o).name for o in wheel] == ['mssl-0.1.1-py3-none-any.whl'] and capsys.readouterr().out == f'mssl installed from {wheel[0]}\n'

def test_where_none_works_the_last_reason_is_told(run):
    with pytest.raises(RuntimeError, match=r'(?s)mssl could not be installed.*no matching distribution'): run(lambda o: False)

def test_the_cell_is_short_has_floors_and_no_pins_and_stays_off_the_page():
    lines = cell.splitlines()
    assert len(lines) <= 13 and lines[:2] == ['#| hide', '#| eval: false'] and '==' not in cell.replace('returncode == 0', '') and 'export' not in cell

def test_both_are_put_in_brought_up_to_date_and_then_left_alone():
    prose = lambda s: dict(cell_type='markdown', id=f'm{len(s)}', metadata={}, source=[s])
    code = lambda s: dict(cell_type='code', execution_count=None, id=f'c{len(s)}', metadata={}, outputs=[], source=s.splitlines(keepends=True))
    nb = lambda *cells: json.dumps(dict(cells=list(cells), metadata={}, nbformat=4, nbformat_minor=5), indent=1, ensure_ascii=False) + '\n'
    link, title, rest = project.fill('{{colab:01_views}}', urls), prose('# T\n\n> D'), [code('#| default_exp x'), prose('See [![other](x.svg)](y) é')]
    want = write_colab.with_colab(nb(title, *rest), '01_views')
    sources = [''.join(c['source']) for c in json.loads(want)['cells']]
    assert sources == ['# T\n\n> D', link, cell, '#| default_exp x', 'See [![other](x.svg)](y) é'] and write_colab.with_colab(want, '01_views') == want
    old = nb(title, code(cell.replace(cfg['version'], '0.0.1')), rest[0], prose(link.replace(urls['colab'], 'https://colab.research.google.com/github/else/where/')), rest[1])
    assert write_colab.with_colab(old, '01_views') == want
