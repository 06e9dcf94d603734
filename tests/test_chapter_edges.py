"""Chapter 04 as it is saved: what a reader without a kernel gets, moved in a real browser; and the sentences that its pictures carry."""
import json, re, time
from pathlib import Path
import pytest
from browser import needs_browser

NOTEBOOK = Path(__file__).parent.parent / 'nbs' / '04_parasitic_edges.ipynb'

@pytest.fixture(scope='module')
def outputs():
    "(source, output) of every saved output, in order"
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    return [(''.join(c['source']), o) for c in cells if c['cell_type'] == 'code' for o in c['outputs']]

@pytest.fixture(scope='module')
def page(outputs, tmp_path_factory):
    "The saved sliders and the toy, one under the other, and nothing else"
    parts = [''.join(o['data']['text/html']) for source, o in outputs if 'text/html' in o.get('data', {}) and re.search(r'explore\(|mask_toy\(', source)]
    assert len(parts) == 3
    path = tmp_path_factory.mktemp('chapter') / 'page.html'
    path.write_text('<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"></head><body>' + ''.join(parts) + '</body></html>', encoding='utf-8')
    return path

def test_the_broken_picture_comes_before_any_section():
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    first = next(i for i, c in enumerate(cells) if any('image/png' in o.get('data', {}) for o in c.get('outputs', [])))
    before = ''.join(''.join(c['source']) for c in cells[:first] if c['cell_type'] == 'markdown')
    assert '\n## ' not in before and len(before) < 1500

def test_nothing_failed_and_no_picture_is_left_without_words(outputs):
    assert not any(o['output_type'] == 'error' for _, o in outputs)
    pictures = [source for source, o in outputs if 'image/png' in o.get('data', {})]
    assert len(pictures) >= 8 and all('#| fig-alt' in o for o in pictures)

@needs_browser
@pytest.mark.parametrize('width, touch', [(1280, False), (390, True)])
def test_the_saved_sliders_move_and_the_picture_changes(browser, page, width, touch):
    browser.open(page, width=width, touch=touch)
    for n in range(2):
        picture = lambda: browser.js(f"document.querySelectorAll('.mssl-explore')[{n}].querySelector('img').src")
        seen = {picture()}
        for k in range(4):
            browser.js(f"document.querySelectorAll('.mssl-explore')[{n}].querySelector('input[type=range]').focus()")
            browser.key('ArrowRight', 39)
            seen.add(picture())
        assert len(seen) == 5, 'every step of the slider is another picture'
    assert browser.js('document.documentElement.scrollWidth') <= width and browser.errors == []

@needs_browser
def test_painting_on_the_saved_toy_changes_mask_and_numbers(browser, page):
    browser.open(page, width=390, height=844, touch=True)
    for _ in range(100):
        if browser.js("!!document.querySelector('.mssl-toy[data-ready]')"): break
        time.sleep(.05)
    state = lambda: browser.js("document.querySelector('.mssl-toy').msslToy.state()")
    before = state()
    assert before['ratios'][0] > 2 * before['ratios'][1], 'the point is made before anybody touches it'
    browser.drag('.mssl-toy canvas', (.15, .2), (.4, .25), (.8, .2), finger=True)
    after = state()
    assert after['hidden'] > before['hidden'] and after['ratios'] != before['ratios'] and browser.errors == []
    assert [o for o in browser.requests if not o.startswith(('file:', 'data:'))] == []
