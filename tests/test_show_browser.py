"""The slider of `explore` in a real browser: it moves, the picture changes, without a kernel and without a server."""
import json
import pytest, torch
from browser import needs_browser
from mssl.show import explore

pytestmark = needs_browser


def coloured(level, tint): return torch.tensor([level, .5, float(tint == 'blue')]).view(3, 1, 1).expand(3, 48, 64)

@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "Two sliders, one of them twice: on one page each must answer for itself"
    one = explore(coloured, level=[0., .25, .5, 1.], tint=['blue', 'none'], alt='A coloured field')
    two = explore(lambda step_size: coloured(step_size / 10, 'none'), step_size=range(10))
    path = tmp_path_factory.mktemp('page') / 'page.html'
    path.write_text('<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"></head>'
                    f'<body>{one._repr_html_()}{one._repr_html_()}{two._repr_html_()}</body></html>')
    return path

COLOUR = """(async n=>{let i=document.querySelectorAll('.mssl-explore img')[n];await i.decode();let c=document.createElement('canvas');
c.width=c.height=1;let t=c.getContext('2d');t.drawImage(i,8,8,1,1,0,0,1,1);return [...t.getImageData(0,0,1,1).data.slice(0,3)]})(%d)"""
def colour(browser, n=0): return browser.js(COLOUR % n)
def close_to(a, b): return all(abs(x - y) <= 4 for x, y in zip(a, b))


def test_arrow_keys_move_the_picture(browser, page):
    browser.open(page)
    assert close_to(colour(browser), [0, 128, 255])
    browser.js("document.querySelector('input[type=range]').focus()")
    browser.key('ArrowRight', 39)
    assert close_to(colour(browser), [64, 128, 255])
    assert browser.js("document.querySelector('.mssl-name b').textContent") == '0.25'
    assert browser.js("document.querySelector('.mssl-explore img').alt") == 'A coloured field: level 0.25, tint blue'
    assert browser.js("document.querySelector('input[type=range]').getAttribute('aria-valuetext')") == '0.25'
    browser.key('End', 35)
    assert close_to(colour(browser), [255, 128, 255])
    assert browser.errors == []

def test_keys_stay_with_the_slider(browser, page):
    "JupyterLab takes arrow keys that leave it, and moves to another cell"
    browser.open(page)
    browser.js("window.escaped=0;document.body.addEventListener('keydown',()=>escaped++);document.querySelector('input[type=range]').focus()")
    browser.key('ArrowRight', 39)
    assert browser.js('escaped') == 0 and browser.js("document.querySelector('input[type=range]').value") == '1'

def test_each_slider_of_a_page_moves_its_own_picture(browser, page):
    browser.open(page)
    browser.js("document.querySelectorAll('input[type=range]')[1].focus()")
    browser.key('End', 35)
    assert close_to(colour(browser, 0), [0, 128, 255]) and close_to(colour(browser, 1), [255, 128, 255])
    browser.js("document.querySelectorAll('.mssl-explore')[1].querySelectorAll('input[type=radio]')[1].click()")
    assert close_to(colour(browser, 0), [0, 128, 255]) and close_to(colour(browser, 1), [255, 128, 0])
    assert close_to(colour(browser, 2), [0, 128, 0])

def test_a_thumb_on_a_phone_moves_the_picture(browser, page):
    browser.open(page, width=390, height=844, touch=True)
    browser.tap('input[type=range]', x=.98, y=.9)
    assert close_to(colour(browser), [255, 128, 255])
    browser.tap('.mssl-words label:nth-child(2)')
    assert close_to(colour(browser), [255, 128, 0])

def test_touch_targets_are_44_px_and_nothing_is_wider_than_a_phone(browser, page):
    browser.open(page, width=390, height=844, touch=True)
    heights = browser.js("[...document.querySelectorAll('input[type=range],.mssl-words label')].map(e=>e.getBoundingClientRect().height)")
    assert len(heights) == 2 * 3 + 1 and min(heights) >= 44
    assert browser.js('document.documentElement.scrollWidth') <= 390

def test_nothing_is_asked_of_the_network(browser, page):
    browser.open(page)
    browser.js("document.querySelectorAll('input').forEach(e=>{e.value=1;e.dispatchEvent(new Event('input',{bubbles:true}))})")
    assert [o for o in browser.requests if not o.startswith(('file:', 'data:'))] == []

def test_without_scripts_the_first_picture_and_its_values_stay(browser, page):
    browser.send('Emulation.setScriptExecutionDisabled', value=True)
    try:
        browser.open(page)
        assert browser.js("document.querySelector('.mssl-explore img').naturalWidth") == 64
        assert browser.js("document.querySelector('.mssl-explore .mssl-now').textContent") == 'level 0, tint blue'
        assert browser.js("document.querySelectorAll('.mssl-explore input').length") == 0, 'no dead slider'
    finally: browser.send('Emulation.setScriptExecutionDisabled', value=False)

def test_print_shows_the_picture_and_its_values_instead_of_the_slider(browser, page):
    browser.open(page)
    assert browser.js("getComputedStyle(document.querySelector('.mssl-explore .mssl-now')).display") == 'none'
    browser.send('Emulation.setEmulatedMedia', media='print')
    try:
        assert browser.js("getComputedStyle(document.querySelector('.mssl-explore form')).display") == 'none'
        assert browser.js("getComputedStyle(document.querySelector('.mssl-explore .mssl-now')).display") == 'block'
    finally: browser.send('Emulation.setEmulatedMedia', media='')

def test_the_slider_works_in_a_page_that_pandoc_made_of_a_notebook(browser, tmp_path):
    pypandoc = pytest.importorskip('pypandoc')
    made = explore(coloured, level=[0., .25, .5, 1.], tint=['blue', 'none'])
    cell = dict(cell_type='code', execution_count=1, metadata={}, source=['explore(...)'], outputs=[dict(
        output_type='execute_result', execution_count=1, metadata={}, data={'text/plain': [repr(made)], 'text/html': made._repr_html_().splitlines(True)})])
    (tmp_path / 'x.ipynb').write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    pypandoc.convert_file(str(tmp_path / 'x.ipynb'), 'html5', extra_args=['-s', '--embed-resources', '--metadata', 'title=x'], outputfile=str(tmp_path / 'x.html'))
    browser.open(tmp_path / 'x.html')
    browser.js("document.querySelector('input[type=range]').focus()")
    browser.key('End', 35)
    assert close_to(colour(browser), [255, 128, 255])
