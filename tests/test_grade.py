"mssl_check: right answers count, nothing runs when only asked, and no student's code stops it."
import json, os, subprocess, sys, time
from pathlib import Path
import pytest
from mssl import grade
from mssl.grade import Exercise, Score, exercises_of, mssl_check, score

root = Path(__file__).resolve().parent.parent
PAGES = {'04a_edges_exercises': 'edges', '06a_mscn_exercises': 'mscn', '07b_crops_exercises': 'crops', '09b_siamese_im_exercises': 'siamese_im'}

def write(path, *cells):
    path.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=o, outputs=[], metadata={}, execution_count=None) for o in cells], nbformat=4, nbformat_minor=5, metadata={})), encoding='utf-8')
    return path

def solved(page, path): # the exercise notebook, each hole filled with the plainest solution
    nb = json.loads((root/'nbs'/f'{page}.ipynb').read_text(encoding='utf-8'))
    source = (root/'tests/solutions'/f'{PAGES[page]}.py').read_text(encoding='utf-8')
    names = [o.split('(')[0] for o in source.split('\ndef ')[1:]]
    at = next(i for i, c in enumerate(nb['cells']) if f'from mssl.{page[4:]}' in ''.join(c['source']))
    nb['cells'].insert(at + 1, dict(cell_type='code', id='x', metadata={}, outputs=[], execution_count=None, source=source))
    for c in nb['cells']:
        text = ''.join(c['source'])
        if text.startswith('def my_') and text.endswith('...'):
            name = text[len('def my_'):].split('(')[0]
            c['source'] = f"my_{name} = {next(o for o in names if o.endswith('_' + name))}"
    path.write_text(json.dumps(nb), encoding='utf-8')
    return path

@pytest.mark.parametrize('page', PAGES)
def test_every_exercise_of_a_page_is_found(page):
    text = (root/'nbs'/f'{page}.ipynb').read_text(encoding='utf-8')
    found = exercises_of(root/'nbs'/f'{page}.ipynb')
    assert [o.name for o in found] and all(f'check_{o.name}(my_{o.name})' in text and o.module == page[4:] for o in found)
    assert len(found) == text.count('(my_') and all(len(o.cells) >= 2 and f'def my_{o.name}' in o.cells[-1] for o in found)
    assert not any('check_' in s and 'import' not in s for o in found for s in o.cells), 'no check is run twice'

def test_holes_are_not_solved_yet():
    assert score(exercises_of(root/'nbs/04a_edges_exercises.ipynb')[0]).word == 'not solved yet'

def test_a_solved_notebook_is_right(tmp_path, capsys):
    "The plainest solutions, in the notebook as a student hands it in"
    mssl_check(str(solved('04a_edges_exercises', tmp_path/'s.ipynb')), out=str(tmp_path/'s.json'))
    assert '4 of 4 right' in capsys.readouterr().out
    said = json.loads((tmp_path/'s.json').read_text())
    assert said['right'] == said['of'] == 4 and {o['word'] for o in said['exercises']} == {'right'}

@pytest.mark.slow
@pytest.mark.parametrize('page', list(PAGES)[1:])
def test_the_others_too(page, tmp_path):
    scores = [score(o) for o in exercises_of(solved(page, tmp_path/'s.ipynb'))]
    assert {o.word for o in scores} == {'right'}, scores

def test_listing_runs_nothing(tmp_path, capsys, monkeypatch):
    mark = tmp_path/'ran'
    nb = write(tmp_path/'s.ipynb', f'open({str(mark)!r}, "w")', 'from mssl.edges_exercises import check_hide', f'def my_hide(x, mask, seen=open({str(mark)!r}, "w")): return x', 'check_hide(my_hide)')
    monkeypatch.setattr(grade.subprocess, 'Popen', lambda *a, **k: pytest.fail('a process was started'))
    mssl_check(str(nb), list=True)
    assert not mark.exists() and capsys.readouterr().out.split() == ['high_pass', 'missing', 'grid_mask', 'missing', 'hide', 'there', 'edge_ratio', 'missing']

BAD = {
    'endless': ('def my_hide(x, mask):\n    while True: pass', 'too slow', 'endless loop'),
    'endless above': ('while True: pass\ndef my_hide(x, mask): return x', 'too slow', 'endless loop'),
    'sleeps': ('import time\ndef my_hide(x, mask): time.sleep(1e5)', 'too slow', 'after 3 seconds'),
    'syntax': ('def my_hide(x, mask)\n    return x', 'error', 'SyntaxError'),
    'error above': ('1 / 0\ndef my_hide(x, mask): return x', 'error', 'ZeroDivisionError'),
    'error inside': ('def my_hide(x, mask): return x + "a"', 'not yet', 'stopped with TypeError'),
    'exit': ('import sys\nsys.exit(0)\ndef my_hide(x, mask): return x', 'error', 'SystemExit'),
    'exit inside': ('import sys\ndef my_hide(x, mask): sys.exit(3)', 'error', 'SystemExit'),
    'hard exit': ('import os\ndef my_hide(x, mask): os._exit(0)', 'error', 'without an answer'),
    'asks': ('def my_hide(x, mask): return input()', 'not yet', 'EOF'),
    'loud': ('import sys\ndef my_hide(x, mask):\n    for _ in range(20000): print("x" * 100); sys.stderr.write("y" * 50)\n    return x', 'not yet', ''),
    'no function': ('my_hide = 3', 'not yet', 'function itself'),
    'hole': ('def my_hide(x, mask):\n    ...', 'not solved yet', 'wanted is'),
    'a library that is not there': ('import torch, no_such_library\ndef my_hide(x, mask): return x', 'error', 'ModuleNotFoundError'),
    'remainder': ('def my_hide(x, mask):\n    k = (7\n      % 4)\n    return x[:k]', 'not yet', ''),
    'magic': ('%matplotlib inline\n!echo no\ndef my_hide(x, mask): return x', 'not yet', ''),
}

ALWAYS = ('endless', 'syntax', 'error above', 'exit', 'hard exit') # each costs the seconds that PyTorch takes to load

@pytest.mark.parametrize('name', [o if o in ALWAYS else pytest.param(o, marks=pytest.mark.slow) for o in BAD])
def test_whatever_a_student_wrote_there_is_a_score(name, tmp_path):
    source, word, reason = BAD[name]
    nb = write(tmp_path/'s.ipynb', 'import torch\nfrom mssl.edges_exercises import check_hide', source, 'check_hide(my_hide)')
    got = score(next(o for o in exercises_of(nb) if o.name == 'hide'), 3 if word == 'too slow' else 60)
    assert got.word == word and reason in got.reason, got

@pytest.mark.skipif(os.name != 'posix', reason='process groups')
def test_what_it_started_ends_with_it(tmp_path):
    source = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\nopen({str(tmp_path/'pid')!r}, 'w').write(str(child.pid))\ndef my_hide(x, mask):\n    while True: pass"
    nb = write(tmp_path/'s.ipynb', 'from mssl.edges_exercises import check_hide', source)
    assert score(exercises_of(nb)[2], 2).word == 'too slow'
    pid = int((tmp_path/'pid').read_text())
    for _ in range(50):
        stat = Path(f'/proc/{pid}/stat')
        if not stat.exists() or stat.read_text().rsplit(')', 1)[1].split()[0] == 'Z': break
        time.sleep(.1)
    else: pytest.fail('the child is still there')

def test_one_exercise_takes_only_its_own_cells(tmp_path):
    nb = write(tmp_path/'s.ipynb', 'import torch', 'def helper(x): return other(x)', 'def other(x): return x', 'while True: pass', 'def my_hide(x, mask): return helper(x)', 'def my_grid_mask(n, grid, count): return 1 / 0', 'k = 3', 'check_hide(my_hide)')
    cells = {o.name: o.cells for o in exercises_of(nb)}
    assert cells['hide'] == ['import torch', 'def helper(x): return other(x)', 'def other(x): return x', 'def my_hide(x, mask): return helper(x)']
    assert cells['grid_mask'] == ['import torch', 'def my_grid_mask(n, grid, count): return 1 / 0'] and cells['edge_ratio'] == []

def test_a_check_beside_the_answer_does_not_hide_it(tmp_path):
    nb = write(tmp_path/'s.ipynb', 'from mssl.edges_exercises import *', 'from mssl import edges\ndef my_high_pass(x, k, s): return edges.high_pass(x, k, s)\ncheck_high_pass(my_high_pass)')
    assert score(exercises_of(nb)[0]).word == 'right'

def test_a_failing_import_costs_nothing_that_does_not_need_it(tmp_path):
    nb = write(tmp_path/'s.ipynb', 'import no_such_library', 'from mssl.edges_exercises import *', 'from mssl import edges', 'def my_high_pass(x, k, s): return edges.high_pass(x, k, s)')
    assert score(exercises_of(nb)[0]).word == 'right'

def test_missing_and_unreadable(tmp_path):
    assert score(Exercise('hide', 'edges_exercises', [])) == Score('hide', 'missing', 'the notebook has no my_hide')
    (tmp_path/'a.ipynb').write_text('not json'), (tmp_path/'b.ipynb').write_text('[]'), (tmp_path/'c.ipynb').write_bytes(b'\xff\xfe')
    for name, said in (('a.ipynb', 'not a Jupyter'), ('b.ipynb', 'not a Jupyter'), ('c.ipynb', 'not a Jupyter'), ('d.ipynb', 'no such file')):
        with pytest.raises(ValueError, match=said): exercises_of(tmp_path/name)
    with pytest.raises(ValueError, match='names no check'): exercises_of(write(tmp_path/'e.ipynb', 'x = 1'))
    with pytest.raises(SystemExit, match='mssl_check: notebook'): mssl_check(str(tmp_path/'d.ipynb'))
    with pytest.raises(ValueError, match='seconds'): score(Exercise('hide', 'edges_exercises', ['x']), 0)

def test_the_command_is_there(tmp_path):
    import importlib.metadata, configparser
    config = configparser.ConfigParser(delimiters=['='])
    config.read(root/'settings.ini')
    assert 'mssl_check=mssl.grade:mssl_check' in config['DEFAULT']['console_scripts']
    (tmp_path/'run.py').write_text(f'import sys; sys.path.insert(0, {str(root)!r})\nfrom mssl.grade import mssl_check\nmssl_check()')
    done = subprocess.run([sys.executable, tmp_path/'run.py', str(root/'nbs/04a_edges_exercises.ipynb'), '--list'], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and done.stdout.count('there') == 4, done.stderr
