"The pages: every kind of fault is found, and a page made of a small notebook folds, scrolls and darkens as it should."
import base64, importlib.util, io, json, re, sys
from pathlib import Path
import pytest
from PIL import Image
from browser import needs_browser

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'scripts'))
import project, render_pages, write_quarto
from render_pages import Page, LARGEST, page_name, prepare, problems, render, wrong_images, wrong_links, wrong_text

urls, cfg = project.current(), project.settings()
needs_nbdev = pytest.mark.skipif(importlib.util.find_spec('nbdev') is None, reason='nbdev is not installed: it belongs to the development environment')
has_pandoc = importlib.util.find_spec('pypandoc') is not None
needs_pandoc = pytest.mark.skipif(not has_pandoc, reason='pypandoc_binary is not installed')
fence = '`' * 3

# --- faults of a page

def page(body): return Page(f'<html><head><title>t</title><style>#| a</style></head><body><h2 id="top">Top</h2>{body}</body></html>')

@pytest.mark.parametrize('body', ['<pre><code>x = 1\n#| hide\n</code></pre>', '<p>#| export</p>', '<pre><span>#| </span><span>fig-alt: x</span></pre>', '<p>::: {.callout-note}</p>',
    '<p>text\n:::\nmore</p>', '<p>see {{colab:01_views}}</p>', '<p>{{git_url}}</p>', '<pre># from [`x`](https://a.org/b.html#x)</pre>', '<p>{{< include x >}}</p>', '<pre>%%time</pre>'])
def test_a_stray_directive_is_found(body):
    wrong = wrong_text(page(body))
    assert len(wrong) == 1 and wrong[0].startswith('under "Top"')

@pytest.mark.parametrize('body', ['<p>a directive such as <code>#| export</code></p>', '<script>\n#| x\n:::\n</script>', '<p>a::b, x[:::2]</p>', '<pre># comment | other</pre>', '<p>f"{{x}}"</p>'])
def test_what_only_looks_like_one_is_left_alone(body): assert not wrong_text(page(body))

def test_pictures_are_in_the_page_and_have_alternative_text():
    assert not wrong_images(page('<img src="data:image/png;base64,AA" alt="A cat">'))
    for body in '<img src="data:x">', '<img src="data:x" alt="">', '<img src="data:x" alt="  ">': assert 'without alternative text' in wrong_images(page(body))[0]
    for src in 'cat.png', 'https://a.org/cat.png': assert f'{src} is not in the page' in wrong_images(page(f'<img src="{src}" alt="A cat">'))[0]

def test_a_fault_is_told_with_heading_cell_and_code():
    text = '<h1>One</h1><h2>Two <code>three</code></h2><div id="ab12" class="cell code"><p><img src="data:x"></p></div>'
    assert wrong_images(Page(text, {'ab12': 'plt.show()'}))[0].startswith('under "Two three", cell ab12, `plt.show()`: ')

LINKS = dict([('#top', ''), ('#nowhere', 'no such anchor'), ('b.html', ''), ('b.html#there', ''), ('b.html#caf%C3%A9', ''), ('b.html#not', 'no such anchor'), ('c.html', 'no such page'),
    ('01_views.ipynb', 'no such page'), ('later.html#any', ''), ('https://a.org/x?y=1#z', ''), ('http://localhost', 'not a web address'), ('https:/a.org', 'not a web address'),
    ('https://a.org/x y', 'blank'), ('', 'no address'), ('javascript:alert(1)', 'of the kind'), ('//a.org/x', 'of the kind'), ('mailto:a@b.org', ''), ('mailto:nobody', 'not a mail'), ('#', '')])

@pytest.mark.parametrize('href', LINKS)
def test_links_and_anchors(href):
    "later.html exists, but was not rendered this time: its anchors are not known"
    here = page(f'<p><a href="{href}">x</a></p>')
    found = wrong_links(here, {'a.html': here, 'b.html': page('<p id="there"></p><p id="café"></p>'), 'later.html': None})
    assert (len(found) == 1 and LINKS[href] in found[0]) if LINKS[href] else not found

def test_an_anchor_is_there_once(): assert wrong_links(page('<p id="a"></p><p id="a"></p>'), {}) == ["the anchor 'a' is there 2 times"]

def test_a_page_over_2_mb_is_found():
    small, large = '<p>é</p>', f'<p>{"é" * (LARGEST // 2)}</p>'
    found = problems({'a.html': small, 'b.html': large})
    assert not found['a.html'] and '2.00 MB; 2 are allowed' in found['b.html'][0]

def test_pages_are_named_as_nbdev_names_them():
    names = {'00a_scenes': 'scenes.html', '01_views': 'views.html', '04_parasitic_edges': 'parasitic_edges.html', 'index': 'index.html'}
    assert {o: page_name(o) for o in names} == names
    assert len({page_name(p.stem) for p in project.notebooks()}) == len(project.notebooks())

# --- from notebook to page

def picture(width=8, height=8):
    Image.new('RGB', (width, height), 'red').save(b := io.BytesIO(), 'png')
    return base64.b64encode(b.getvalue()).decode()

def cell(source, *outputs, id='c1'): return dict(cell_type='code', id=id, metadata={}, execution_count=None, source=source, outputs=list(outputs))
def prose(source): return dict(cell_type='markdown', id=f'm{abs(hash(source)) % 10**8}', metadata={}, source=source)
def shows(**data): return dict(output_type='display_data', metadata={}, data={k.replace('_', '/'): v for k, v in data.items()})
def says(text): return dict(output_type='stream', name='stdout', text=text)
def result(text): return dict(output_type='execute_result', execution_count=None, metadata={}, data={'text/plain': text})
def book(*cells):
    head = dict(cell_type='raw', metadata={}, source='---\ndescription: What it is about\noutput-file: x.html\ntitle: A page\n\n---\n\n')
    return dict(cells=[head, prose('<!-- WARNING: THIS FILE WAS AUTOGENERATED! DO NOT EDIT! -->'), *cells], metadata={}, nbformat=4, nbformat_minor=5)

TITLES = {'index': 'Start', '01_views': 'Views', '01a_colour': 'Colour', 'core': 'Core'}
def rendered(*cells, name='01_views'):
    text, firsts, wrong = render(name, book(*cells), TITLES, urls)
    return text, wrong + problems({page_name(name): text}, {page_name(name): firsts}, map(page_name, TITLES))[page_name(name)]

def test_directives_say_what_is_shown():
    made = lambda source: [c['source'] for c in prepare(book(cell(source, says('7'))), urls)[1]['cells'] if c['cell_type'] == 'code']
    assert made('#| include: false\nx') == [] and made('#| echo: false\nx') == ['x'] and made('x') == ['x']
    state = lambda source: prepare(book(cell(source, says('7'))), urls)[1]['cells'][-1]
    assert state('x')['metadata']['fold'] == 'closed' and state('#| code-fold: show\nx')['metadata']['fold'] == 'open' and state('#| echo: false\nx')['metadata']['fold'] == 'hidden'
    assert state('#| output: false\nx')['outputs'] == [] and state('#| fig-alt: A cat.\nx')['metadata']['alts'] == '["A cat."]'

@pytest.mark.parametrize('line', ['#| fig-atl: A cat', '#| fig-alt: A cat: asleep', '#| colour'])
def test_a_directive_that_is_not_understood_is_told(line):
    assert 'directive' in prepare(book(cell(f'{line}\nx = 1')), urls)[3][0]

@needs_pandoc
def test_a_sound_notebook_becomes_a_sound_page():
    text, wrong = rendered(
        prose('## One `thing`\n\nSee [colour](01a_colour.ipynb), [here](#one-thing) and $x^2$.\n\n$$\\sum_i x_i$$\n\n| a | b |\n|---|---|\n| 1 | 2 |'),
        prose(f"[![Open in Colab]({project.badge})]({urls['colab']}01_views.ipynb)"),
        prose(f"Again: [![Open in Colab]({project.badge})]({urls['colab']}core.ipynb) and [`y`]({urls['docs_url']}/colour.html)"),
        prose('::: {.callout-note title="Mind"}\nthe gap\n:::'), prose('::: {.callout-tip collapse="true"}\n## More\nhidden\n:::'),
        cell('#| fig-alt: A red square.\nplot()', shows(image_png=picture(), text_plain='<Figure>')), cell('1 + 1', result('2'), id='c2'),
        cell('#| echo: false\n#| output: asis\nshow_doc(f)', dict(output_type='execute_result', metadata={}, data={'text/plain': 'f', 'text/markdown':
            f'---\n\n[source](https://a.org/f.py#L1){{target="_blank" style="float:right"}}\n\n### f\n\n{fence}python\ndef f(\n    x:int, # from [`g`](https://a.org/g.html)\n):\n{fence}\n\n*Does it*'}), id='c3'),
        prose('## f'))
    assert not wrong
    for o in ['<title>A page · mssl</title>', 'What it is about', 'id="one-thing"', 'href="colour.html">colour', '<math display="block"', 'class="formula"', 'class="table"', 'alt="A red square."',
              'class="callout callout-note"', 'class="callout-title">\nMind', '<summary class="callout-title">More</summary>', 'aria-current="page"', '← Start', 'Colour →', '<summary>Code</summary>', 'from `g`', 'id="f"', 'id="f-1"',
              f'href="{urls["colab"]}01_views.ipynb">Open in Colab', f"{urls['git_url']}/blob/{cfg['branch']}/nbs/01_views.ipynb"]: assert o in text, o
    assert text.count('<details class="code">') == 2 and 'AUTOGENERATED' not in text and '.ipynb"' in text and 'href="core.ipynb' not in text
    assert text.count('Open in Colab') == 2, 'the badge of the chapter is the link in the head'
    assert not re.search(r'(src|href)="(?!data:|https://|#|[a-z]+\.html)', text), 'the page opens alone'

@needs_pandoc
@pytest.mark.parametrize('made, what', [
    ([cell('plot()', shows(image_png=picture(), text_plain='<Figure>'))], 'cell c1, `plot()`: a picture without alternative text'),
    ([prose('![A cat](nowhere.png)')], 'pandoc: [WARNING]'), ([prose('![A cat](nowhere.png)')], 'nowhere.png is not in the page'),
    ([prose('[x](99_nowhere.ipynb)')], "the link 'nowhere.html': there is no such page"), ([prose('## A\n\n[x](#b)')], 'under "A"'),
    ([prose('::: {.callout-note}\nnever closed'), prose('more')], 'unclosed'), ([prose('text\n\n:::')], 'a stray directive: :::'), ([prose('text\n::: x\nmore')], 'a stray directive: ::: x'), ([cell('x = 1\n#| hide\ny = 2')], 'a stray directive: #| hide'), ([prose('$\\notaformula{$')], 'pandoc: [WARNING]')])
def test_a_fault_in_a_notebook_is_a_problem_of_its_page(made, what):
    text, wrong = rendered(*made)
    assert any(what in o for o in wrong), wrong

@needs_pandoc
def test_main_counts_and_prints_and_keeps_pages_only_when_asked(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(render_pages, 'processed', lambda names, work: ({o: book(prose('[x](#no)')) for o in names}, ['core: nbdev: a warning']))
    assert render_pages.main(['core'], tmp_path/'out') == 2 and [o.name for o in (tmp_path/'out').iterdir()] == ['core.html']
    said = capsys.readouterr().out.splitlines()
    assert said[0] == 'core: nbdev: a warning' and said[1].startswith("core: ") and "'#no'" in said[1] and '1 pages' in said[2] and '2 problems' in said[2]
    assert render_pages.main(['core'], None) == 2
    with pytest.raises(SystemExit, match='not a notebook'): render_pages.main(['nowhere'])

@needs_nbdev
@needs_pandoc
def test_nbdev_prepares_in_a_copy(tmp_path):
    before = sorted(o.name for o in root.iterdir())
    made, wrong = render_pages.processed(['core'], tmp_path)
    text, firsts, more = render('core', made['core'], TITLES, urls)
    assert not wrong + more + problems({'core.html': text}, {'core.html': firsts}, [page_name(p.stem) for p in project.notebooks()])['core.html']
    assert 'id="check_number"' in text and 'default_exp' not in text and sorted(o.name for o in root.iterdir()) == before

@pytest.mark.parametrize('path', project.notebooks(), ids=lambda p: p.stem)
def test_every_figure_says_what_is_to_be_seen(path):
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        for o in c.get('outputs', []):
            if not any(k.startswith('image/') for k in o.get('data', {})): continue
            source = ''.join(c['source'])
            own = any(isinstance(v, dict) and v.get('alt') for v in o.get('metadata', {}).values())
            assert own or render_pages.directives(source)[0].get('fig-alt', '').strip(), f'no `#| fig-alt:` in the cell\n{source}'

def test_quarto_gets_a_link_to_colab_and_no_links_inside_code():
    nb = book(cell('x', shows(text_markdown=f'[`a`](https://a.org)\n{fence}python\n# [`b`](https://a.org/b.html#b)\n{fence}\n')))
    made = json.loads(write_quarto.finished(json.dumps(nb), urls['colab'] + 'core.ipynb'))
    import yaml
    head = yaml.safe_load(made['cells'][0]['source'].strip().strip('-'))
    assert head['title'] == 'A page' and head['format']['html']['code-links'] == [dict(text='Open in Colab', icon='play', href=urls['colab'] + 'core.ipynb')]
    assert made['cells'][2]['outputs'][0]['data']['text/markdown'] == f'[`a`](https://a.org)\n{fence}python\n# `b`\n{fence}\n'
    assert write_quarto.finished(json.dumps(made), 'x') == json.dumps(made)

# --- in a browser

@pytest.fixture(scope='module')
def wide(tmp_path_factory):
    "A page with everything that could be wider than a phone"
    if not has_pandoc: pytest.skip('pypandoc_binary is not installed')
    table = '| ' + ' | '.join(f'column{i}' for i in range(20)) + ' |\n' + '|---' * 20 + '|\n' + '| ' + ' | '.join('value' for i in range(20)) + ' |'
    text, wrong = rendered(prose('## A heading with a_very_long_name_that_does_not_break_anywhere_at_all_since_it_is_one\n\n' + table),
        prose('$$' + '+'.join(f'x_{{{i}}}' for i in range(60)) + '$$\n\nhttps://a.org/' + 'x' * 90 + ' `' + 'y' * 90 + '`\n\n    ' + 'z' * 200),
        cell('#| fig-alt: Red.\n' + 'plot(' + 'a, ' * 90 + ')', shows(image_png=picture(1400, 30)), says('7' * 300)), cell('2', result('2'), id='c2'),
        cell('3', shows(text_html='<table><tr>' + '<td>value</td>' * 40 + '</tr></table>'), id='c3'))
    assert not wrong
    path = tmp_path_factory.mktemp('pages')/'views.html'
    path.write_text(text, encoding='utf-8')
    return path

@needs_browser
@pytest.mark.parametrize('width', [320, 390, 1000, 1280])
def test_nothing_scrolls_sideways_but_inside_itself(browser, wide, width):
    browser.open(wide, width=width, height=844, touch=width < 900)
    for o in 'true', 'false':
        browser.js(f"document.querySelectorAll('details.code').forEach(e => e.open = {o})")
        assert browser.js('document.documentElement.scrollWidth') <= width
    assert browser.js("[...document.querySelectorAll('.table, .formula, .output')].filter(e => e.scrollWidth > e.clientWidth).length") >= 3 * (width < 900)
    assert browser.js("[...document.querySelectorAll('img')].every(e => e.getBoundingClientRect().right <= innerWidth)")
    assert browser.errors == [] and [o for o in browser.requests if not o.startswith(('file:', 'data:'))] == []

@needs_browser
def test_code_is_folded_and_one_switch_shows_and_hides_it_all(browser, wide):
    read = lambda: browser.js("[[...document.querySelectorAll('details.code')].map(e => e.open), document.getElementById('code-switch').textContent]")
    def shows(*is_open, says, opens=False):
        "A tap and a kept choice come in their own time: Chromium writes both to other processes"
        def now():
            if opens: browser.open(wide, width=390, height=844, touch=True)
            return read() == [list(is_open), says]
        assert browser.until(now), (read(), is_open, says)
    browser.open(wide, width=390, height=844, touch=True)
    browser.js('localStorage.clear()')
    shows(False, False, False, says='Show all code', opens=True)
    browser.tap('#code-switch')
    shows(True, True, True, says='Hide all code')
    shows(True, True, True, says='Hide all code', opens=True) # the choice is kept for the next page
    browser.tap('#code-switch')
    shows(False, False, False, says='Show all code')
    browser.tap('details.code summary', x=.5)
    shows(True, False, False, says='Show all code')

@needs_browser
def test_a_thumb_finds_44_px_and_the_contents(browser, wide):
    browser.open(wide, width=390, height=844, touch=True)
    heights = browser.js("[...document.querySelectorAll('button, summary, .tools a, .turn a')].map(e => e.getBoundingClientRect().height)")
    assert len(heights) >= 9 and min(heights) >= 44
    shown = lambda: browser.js("document.querySelector('#contents nav').checkVisibility({contentVisibilityAuto: true}) && document.querySelector('#contents nav').getBoundingClientRect().height > 100")
    assert not shown()
    browser.tap('#contents > summary')
    assert browser.until(shown) and browser.js("[...document.querySelectorAll('#contents li a')].every(e => e.getBoundingClientRect().height >= 44)")
    browser.open(wide, width=1280)
    assert shown(), 'beside the text on a wide screen'

@needs_browser
def test_dark_is_dark_and_both_can_be_read(browser, wide):
    def luminance(css): # relative luminance of the colour that a script computes
        rgb = [int(v)/255 for v in re.findall(r'\d+', css)[:3]]
        return sum(w * (v/12.92 if v <= .04045 else ((v+.055)/1.055)**2.4) for w, v in zip((.2126, .7152, .0722), rgb))
    paper = {}
    for dark in False, True:
        browser.open(wide, dark=dark)
        browser.js("document.querySelectorAll('details.code').forEach(e => e.open = true)")
        behind = luminance(browser.js("getComputedStyle(document.body).backgroundColor"))
        paper[dark] = behind
        for what in 'article p', 'article a', '.description', 'details.code summary', 'pre', 'pre .op, pre code', '#toc a':
            ink = luminance(browser.js(f"getComputedStyle(document.querySelector({json.dumps(what)})).color"))
            assert (max(ink, behind) + .05) / (min(ink, behind) + .05) >= 4.5, (dark, what)
    assert paper[False] > .9 and paper[True] < .05
