"What teachers and students are given: questions with answers, copies without them, minutes that are counted, words that are linked."
import json, re, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'scripts'))
import project, reading_times, student_copies

def text(name): return '\n\n'.join(''.join(c['source']) for c in json.loads((root/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown')

def test_thirty_questions_and_thirty_answers_apart():
    asked, answered = (re.findall(r'(?m)^\*\*(\d+)\.\*\* (.+)', text(o)) for o in ('teaching', 'teaching_answers'))
    assert [n for n, _ in asked] == [n for n, _ in answered] == [str(k + 1) for k in range(30)]
    assert all(o.rstrip().endswith('?') for _, o in asked)
    assert not any(a[:40] in text('teaching') for _, a in answered)

def test_six_sessions_of_ninety_minutes():
    sessions = re.findall(r'(?ms)^### (\d)\. .*?(?=^### |^## )', text('teaching') + '\n## ')
    assert sessions == list('123456')
    for part in re.split(r'(?m)^### \d\. ', text('teaching'))[1:]:
        part = part.split('\n## ')[0]
        assert '**Chapter' in part and '**Afterwards**' in part
        minutes = sum(map(int, re.findall(r'\((\d+)\)', part)))
        assert 85 <= minutes <= 90, (part[:30], minutes)

def test_minutes_are_those_of_the_notebooks():
    assert not reading_times.main(check=True), 'run scripts/reading_times.py'
    assert text('teaching').count('.ipynb) | ') == len(project.chapters())

def test_reading_time_is_counted(tmp_path):
    code = lambda source, *kinds: dict(cell_type='code', source=source, outputs=[dict(data={k: ''}) for k in kinds])
    cells = [dict(cell_type='markdown', source=' '.join(['word'] * 400) + ' <!-- run: a b --> [here](x.ipynb)'), code('plot()', 'image/png'), code('x', 'text/plain'), code('#| export\na\nb\nc'), code('#| hide\n#| eval: false\nx\n' * 9), code('y = 1')]
    (tmp_path/'n.ipynb').write_text(json.dumps(dict(cells=cells)))
    assert reading_times.reading(tmp_path/'n.ipynb') == (401, 4, round(401 / 200 + (20 + 10 + 12) / 60))

PAGES = sorted((root/'nbs').glob('*_exercises.ipynb'))

@pytest.fixture(scope='module')
def copies(tmp_path_factory): return {p.name: json.loads(p.read_text(encoding='utf-8')) for p in student_copies.main(tmp_path_factory.mktemp('copies'), [])}

@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_a_copy_has_the_holes_and_no_answers(path, copies):
    copy, whole = copies[path.name], path.read_text(encoding='utf-8')
    source = '\n\n'.join(c['source'] if isinstance(c['source'], str) else ''.join(c['source']) for c in copy['cells'])
    for name in set(re.findall(r'check_\w+\(my_(\w+)\)', whole)): assert f'def my_{name}(' in source and f'check_{name}(my_{name})' in source
    assert '<summary>Answer' not in source and '#| export' not in source and 'tests/solutions' not in source and '## The checks' not in source
    assert whole.count('**1.** ') == source.count('**1.** ') and source.count('<summary>Hint') == whole.count('<summary>Hint')
    assert not any(c.get('outputs') for c in copy['cells']) and copy['nbformat'] == 4
    answers = re.findall(r'<summary>Answer</summary>\\n",\s*"\\n",\s*"([^"]{30,})\\n"', whole)
    assert answers and not any(o[:60] in source for o in answers)

def test_hints_can_go_and_a_copy_of_a_copy_is_the_copy(copies):
    for path in PAGES:
        nb = json.loads(path.read_text(encoding='utf-8'))
        assert 'Hint' not in json.dumps(student_copies.student_copy(nb, hints=False))
        assert student_copies.student_copy(copies[path.name])['cells'] == copies[path.name]['cells']

def test_a_question_in_its_own_summary_stays_and_its_answer_goes():
    said = student_copies.prose('a\n<details><summary>Why?</summary>\n\nBecause.\n</details>\nb', True)
    assert said == 'a\n\nWhy?\n\nb' and 'Because' not in said

def test_a_source_is_never_written_over(tmp_path):
    (tmp_path/'x.ipynb').write_text('{"cells": []}')
    with pytest.raises(ValueError, match='take the place'): student_copies.main(tmp_path, [tmp_path/'x.ipynb'])

def test_the_command(tmp_path):
    done = subprocess.run([sys.executable, root/'scripts/student_copies.py', tmp_path/'out', root/'nbs/05_masks.ipynb'], capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path/'out/05_masks.ipynb').exists() and '<details>' not in (tmp_path/'out/05_masks.ipynb').read_text(encoding='utf-8')
    assert subprocess.run([sys.executable, root/'scripts/student_copies.py', tmp_path/'out', 'nothing.ipynb'], capture_output=True).returncode == 1

def test_the_glossary_has_the_words_of_the_book():
    said = text('glossary')
    for word in 'image view box flip mask grid patch ratio encoder projector predictor teacher'.split(): assert re.search(rf'(?m)^\| {word}\b', said), word
    import ast
    names = set(re.findall(r'`(\w+)[(`]', said))
    there = {n.name for p in (root/'mssl').glob('*.py') for n in ast.parse(p.read_text(encoding='utf-8')).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    for name in ('high_pass', 'grid_mask', 'focal_mask', 'fill_masked', 'heatmap', 'heatmap_box', 'center_suppressed_boxes', 'random_boxes', 'relative_position', 'sincos_position', 'dense_unigrad', 'momentum_at', 'info_nce', 'HighPass', 'ContrastiveCrop'):
        assert name in names and name in there, name

def test_the_pipeline_leads_to_chapters():
    nb = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))
    page = next(''.join(o['data']['text/html']) for c in nb['cells'] for o in c.get('outputs', []) if '<svg' in ''.join(o.get('data', {}).get('text/html', '')))
    links = re.findall(r'<a href="([^"]+)"', page)
    assert len(links) == 12 and all((root/'nbs'/o).exists() for o in links) and 'aria-label' in page and 'currentColor' in page
    assert min(map(float, re.findall(r'font-size="([\d.]+)"', page))) >= 10.5, 'at 390 px a unit of the drawing is about a pixel'
