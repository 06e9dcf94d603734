"What the tests of every exercise notebook share."
import importlib.util, inspect, json, re
from pathlib import Path
import torch

root = Path(__file__).resolve().parent.parent

def load_solutions(name): # 'edges' -> the module tests/solutions/edges.py
    spec = importlib.util.spec_from_file_location(f'solutions_{name}', root/f'tests/solutions/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def right_answers(solutions, names): # -> (exercise, function) of every solution
    return [(name, f) for name in names for k, f in vars(solutions).items() if k.endswith('_' + name)]

def cells_of(notebook): return json.loads((root/'nbs'/notebook).read_text(encoding='utf-8'))['cells']

def text_of(notebook): # its prose
    return '\n\n'.join(''.join(c['source']) for c in cells_of(notebook) if c['cell_type'] == 'markdown')

def assert_accepted(check, fn, others):
    "Right, also at other settings"
    for settings in [{}] + others:
        verdict = check(fn, **settings)
        assert verdict.right and verdict.word == 'right', f'{settings}: {verdict}'

def assert_refused(check, fn, others, reason):
    "Not right yet, for the reason given, with pictures that can be shown; also at another setting"
    verdict = check(fn)
    assert verdict.word == 'not yet' and not verdict and re.search(reason, verdict.reason), verdict
    assert verdict.pictures and all(p.shape[0] == 3 and p.ndim == 3 and 0 <= p.min() and p.max() <= 1 for p in verdict.pictures.values())
    assert check(fn, **others[0]).word == 'not yet', others[0]

def _docstring_only(*args): "To do"
def _raises(*args): raise NotImplementedError('write me')

def assert_hole_is_not_solved(check, shown='expected'): # shown: stands in the titles of the pictures
    "Whatever a student leaves in a hole: not solved yet, what is wanted is shown, and a forgotten `return` is named"
    for hole in (_docstring_only, _raises, lambda *args: ..., lambda *args: None, None, ...):
        verdict = check(hole)
        assert str(verdict).startswith('not solved yet: wanted is ') and not verdict.right and not verdict.solved
        titles = ' '.join(verdict.pictures)
        assert shown in titles and 'yours' not in titles
    def forgot(*args): args = 1
    assert '`return` missing' in check(forgot).reason and not check(forgot).solved

def assert_error_is_a_verdict(check):
    "An error is told in one line that names the student's own line; what is no function is refused"
    def broken(*args):
        half = args[0]
        return torch.ones(1, 2, 3, 4, 'five')
    said = check(broken).reason
    assert re.search(r"your function stopped with TypeError: .*, in its line `return torch.ones\(1, 2, 3, 4, 'five'\)`$", said) and '\n' not in said and 'Traceback' not in said
    assert 'required positional' in check(lambda a, b, c, d, e, f, g, h: a).reason
    assert 'without brackets' in check(torch.zeros(2)).reason and 'the check needs your function itself' in check(3).reason

def assert_repeats(check, fn):
    "The same verdict and pictures twice, and torch's random numbers are left alone"
    state = torch.get_rng_state()
    a, b = check(fn), check(fn)
    assert torch.equal(state, torch.get_rng_state()) and str(a) == str(b)
    assert all(torch.equal(p, q) for p, q in zip(a.pictures.values(), b.pictures.values()))

def assert_questions(notebook, n, hints=0):
    "`n` numbered questions with a hidden answer each, and so many hidden hints"
    source = text_of(notebook)
    assert re.findall(r'(?m)^\*\*(\d+)\.\*\* ', source) == [str(k + 1) for k in range(n)]
    assert source.count('<summary>Answer</summary>') == n and source.count('<summary>Hint</summary>') == hints
    assert source.count('<details>') == source.count('</details>') == n + hints

def assert_holes_and_no_solution(notebook, right):
    "Every exercise is a hole whose check says so, and no solution stands in the notebook"
    cells = cells_of(notebook)
    source = [''.join(c['source']) for c in cells]
    for name in dict.fromkeys(name for name, _ in right):
        assert any(re.fullmatch(rf'def my_{name}\([\w, ]+\):\n    \.\.\.', s) for s in source), f'my_{name} is not a hole'
        cell = next(c for c in cells if ''.join(c['source']).endswith(f'check_{name}(my_{name})'))
        said = ''.join(''.join(o.get('data', {}).get('text/plain', '')) for o in cell['outputs'])
        assert said.startswith('not solved yet: wanted is'), name
    squeeze = lambda text: re.sub(r'\s+', '', text)
    page = squeeze('\n'.join(source))
    for _, fn in right:
        lines = [squeeze(o) for o in inspect.getsource(fn).splitlines()[1:]]
        lines = [o for o in lines if len(o) > 25 and not o.startswith('"')]
        found = [o for o in lines if o in page]
        assert len(found) < max(1, len(lines)), f'{fn.__name__}: {found}'
