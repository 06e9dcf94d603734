"""The photo to paint a mask on: its size and its refusals, and in a real browser its strokes, its numbers and its looks."""
import json, re, time
import numpy as np, pytest, torch
from skimage import data
from browser import needs_browser
from mssl.edges import edge_ratio, fill_masked, gaussian_blur, high_pass
from mssl.toy import mask_toy
from mssl.views import IMAGENET

MEAN, STD = (torch.tensor(o).view(3, 1, 1) for o in IMAGENET)

@pytest.fixture(scope='module')
def cat(): return mask_toy(data.chelsea(), alt='A cat <3')

@pytest.fixture(scope='module')
def small(): return mask_toy(data.astronaut()[:256], size=100)


def test_the_page_is_small_and_needs_nothing_else(cat):
    page = cat._repr_html_()
    assert len(page.encode()) < 150_000
    assert 'http' not in page and not re.search(r'src="(?!data:)|@import|url\(', page)
    assert 'A cat &lt;3' in page and 'A cat <3' not in page
    assert page == mask_toy(data.chelsea(), alt='A cat <3')._repr_html_(), 'a notebook run twice stays the same'

def test_the_photo_is_its_middle_square_and_nothing_is_lost_where_it_fits(cat):
    grey = np.full((64, 128, 3), 90, np.uint8)
    grey[:, 32:96] = 200
    assert (mask_toy(grey, size=64).photo == 200).all()
    assert cat.photo.shape == (224, 224, 3) and cat.file[0] in ('image/webp', 'image/png')

def test_a_photo_too_rich_for_the_page_is_packed_with_loss_and_known_as_the_page_knows_it():
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    made = mask_toy(noise)
    assert len(made._repr_html_().encode()) < 150_000 and (made.photo != noise).any()

@pytest.mark.parametrize('size,kernel,sigma', [(224, 11, 5), (100, 5, 5 * 100 / 224), (64, 3, 5 * 64 / 224)])
def test_the_filter_scales_with_the_photo(size, kernel, sigma):
    made = mask_toy(data.chelsea(), size=size)
    assert (made.kernel_size, made.sigma) == (kernel, pytest.approx(sigma))

@pytest.mark.parametrize('wrong,said', [(dict(photo=torch.zeros(2, 3, 64, 64)), 'batch'), (dict(size=32), 'size=32'), (dict(size=64.), 'size=64.0'),
    (dict(std=-1), 'std=-1'), (dict(max_bytes=20_000), 'max_bytes'), (dict(photo='cat.jpg'), 'str')])
def test_bad_arguments_are_named(wrong, said):
    with pytest.raises(ValueError, match=said): mask_toy(**{'photo': data.chelsea(), **wrong})


@pytest.fixture(scope='module')
def page(tmp_path_factory, cat, small):
    path = tmp_path_factory.mktemp('page') / 'page.html'
    path.write_text('<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>'
                    'body{margin:16px;background:#fff;color:#222}@media(prefers-color-scheme:dark){body{background:#1b1e21;color:#dee2e6}}</style></head>'
                    f'<body>{cat._repr_html_()}{small._repr_html_()}<p style="height:900px"></p></body></html>', encoding='utf-8')
    return path

def open_page(browser, page, **how):
    browser.open(page, **how)
    for _ in range(100):
        if browser.js("document.querySelectorAll('.mssl-toy[data-ready]').length") == 2: return
        time.sleep(.05)
    raise AssertionError(f'the toys did not start: {browser.errors}')

def ask(browser, what, n=0): return browser.js(f"document.querySelectorAll('.mssl-toy')[{n}].msslToy.{what}")
def state(browser, n=0): return ask(browser, 'state()', n)
def press(browser, selector, n=0): browser.js(f"document.querySelectorAll('.mssl-toy')[{n}].querySelector('{selector}').click()")
def pick(browser, value, n=0): press(browser, f'input[value={value}]', n)
def slide(browser, name, value, n=0): browser.js(f"(e=>{{e.value={value};e.dispatchEvent(new Event('input',{{bubbles:true}}))}})"
                                                 f"(document.querySelectorAll('.mssl-toy')[{n}].querySelector('[name={name}]'))")
def seen(browser, canvas): return browser.js(f"[...document.querySelectorAll('.mssl-toy canvas')[{canvas}].getContext('2d').getImageData(0,0,224,224).data]")
def says(browser, n=0): return browser.js(f"[...document.querySelectorAll('.mssl-toy')[{n}].querySelectorAll('.mssl-number')].map(e=>e.innerText.replace(/\\s+/g,' ').trim())")

def arrays(browser, n=0):
    "What the page has computed, as tensors [3,S,S]"
    found = ask(browser, 'arrays()', n)
    size = int(len(found['mask'])**.5)
    mask = torch.tensor(found.pop('mask')).bool().view(1, 1, size, size)
    maps = torch.tensor(found.pop('maps')).view(2, size, size)
    return mask, maps, {k: torch.tensor(v).view(1, 3, size, size) for k,v in found.items()}

def neighbours(x):
    "The largest difference to the four neighbours, mean over channels [H,W]"
    down, across = x[0].diff(dim=1).abs().mean(0), x[0].diff(dim=2).abs().mean(0)
    out = torch.zeros(x.shape[2:])
    for view, d in ((out[1:], down), (out[:-1], down), (out[:, 1:], across), (out[:, :-1], across)): view.copy_(torch.maximum(view, d))
    return out

def expected(x, mask, order, fill, noise, kernel, sigma):
    "The right-hand picture, by `edges`"
    put = lambda x: torch.where(mask, noise, x) if fill == 'noise' else fill_masked(x, mask, 'zero' if fill == 'grey' else (-MEAN / STD).flatten())
    if order == 'filter': return put(high_pass(x, kernel, sigma))
    return high_pass(put(x), kernel, sigma) if order == 'mask' else put(x)


@needs_browser
@pytest.mark.parametrize('n', [0, 1])
def test_every_choice_equals_python(browser, page, cat, small, n):
    open_page(browser, page)
    toy = (cat, small)[n]
    x = (torch.from_numpy(toy.photo).permute(2, 0, 1).float() / 255 - MEAN)[None] / STD
    for order, fill, kernel, preset in (('filter', 'grey', toy.kernel_size, 'square'), ('mask', 'black', 31, 'grid'), ('none', 'noise', 3, 'grid'),
                                        ('filter', 'noise', 3, 'grid'), ('filter', 'black', 7, 'square'), ('mask', 'grey', toy.kernel_size, 'square')):
        pick(browser, order, n), pick(browser, fill, n), slide(browser, 'kernel', kernel, n), press(browser, f'button[value={preset}]', n)
        now, (mask, maps, found) = state(browser, n), arrays(browser, n)
        assert (now['order'], now['fill'], now['kernel']) == (order, fill, kernel)
        assert now['sigma'] == pytest.approx(toy.sigma * kernel / toy.kernel_size)
        assert torch.allclose(found['photo'], x, atol=1e-5)
        left, right = (expected(x, mask, o, fill, found['noise'], kernel, now['sigma']) for o in ('none', order))
        assert torch.allclose(found['left'], left, atol=1e-4) and torch.allclose(found['right'], right, atol=1e-4)
        assert torch.allclose(maps, torch.stack([neighbours(left), neighbours(right)]), atol=1e-4)
        assert now['ratios'] == pytest.approx([edge_ratio(o, mask).item() for o in (left, right)], rel=1e-3)

@needs_browser
def test_the_blur_is_torchvisions(browser, page, cat):
    import torchvision.transforms.v2.functional as tvf
    x = torch.from_numpy(cat.photo).permute(2, 0, 1)[None].float()
    assert torch.allclose(gaussian_blur(x, 11, 5.), tvf.gaussian_blur(x, [11, 11], [5., 5.]), atol=1e-3)

@needs_browser
def test_the_square_makes_the_point_before_any_touch(browser, page):
    open_page(browser, page)
    now, words = state(browser), says(browser)
    mask = arrays(browser)[0][0, 0]
    assert mask[64:160, 64:160].all() and mask.sum() == now['hidden'] == 96 * 96
    raw, filtered = now['ratios']
    assert raw > 4 and filtered < .5 * raw
    assert words == [f'the mask’s outline is {o:.1f} × as strong as the photo’s own edges' for o in (raw, filtered)]

@needs_browser
def test_the_wrong_order_leaves_the_outline(browser, page):
    open_page(browser, page)
    right = state(browser)['ratios'][1]
    pick(browser, 'mask')
    raw, wrong = state(browser)['ratios']
    assert wrong > 2 * right and wrong > .9 * raw
    assert 'too late' in browser.js("document.querySelector('.mssl-why').innerText")
    pick(browser, 'none')
    assert len(set(state(browser)['ratios'])) == 1 and browser.js("document.querySelector('[name=kernel]').disabled")

@needs_browser
def test_a_smaller_filter_leaves_less(browser, page):
    open_page(browser, page)
    found = []
    for kernel in (3, 7, 11, 31):
        slide(browser, 'kernel', kernel)
        found.append(state(browser)['ratios'][1])
    assert found == sorted(found)

@needs_browser
def test_the_mouse_paints_and_everything_answers(browser, page):
    open_page(browser, page)
    press(browser, 'button[value=clear]')
    assert state(browser)['hidden'] == 0 and says(browser) == ['no outline'] * 2
    pictures = [seen(browser, o) for o in range(4)]
    browser.drag('.mssl-toy canvas', (.2, .2), (.5, .2), (.8, .2))
    mask, now = arrays(browser)[0][0, 0], state(browser)
    assert mask[44, 45:179].all(), 'a stroke has no gaps'
    assert not mask[:30].any() and not mask[60:].any()
    assert mask[:, 112].sum() in (23, 24, 25), 'as wide as the brush'
    assert all(seen(browser, o) != pictures[o] for o in range(4))
    assert now['ratios'][0] > now['ratios'][1] > 0 and 'no outline' not in says(browser)
    browser.mouse('mouseMoved', browser.place('.mssl-toy canvas', .5, .9), False)
    assert state(browser)['hidden'] == now['hidden'], 'a released mouse does not paint'
    slide(browser, 'brush', 60)
    browser.drag('.mssl-on:nth-of-type(2) canvas', (.5, .7))
    assert arrays(browser)[0][0, 0][:, 112].sum() in range(83, 87), 'the filtered photo can be painted too, with a fatter brush'
    assert browser.errors == []

@needs_browser
def test_a_finger_paints_on_a_phone_and_the_page_stays(browser, page):
    open_page(browser, page, width=390, height=844, touch=True)
    before = state(browser)['hidden']
    browser.js("document.querySelector('.mssl-toy').scrollIntoView()")
    browser.drag('.mssl-toy canvas', (.1, .9), (.1, .5), (.1, .1), finger=True)
    there = browser.js('scrollY')
    browser.drag('.mssl-toy canvas', (.9, .9), (.9, .5), (.9, .1), finger=True)
    assert browser.js('scrollY') == there and browser.js('scrollX') == 0
    mask = arrays(browser)[0][0, 0]
    assert mask[30:200, 22].all() and mask[30:200, 201].all() and state(browser)['hidden'] > before
    assert browser.js("getComputedStyle(document.querySelector('.mssl-hint')).display") == 'none'
    assert browser.js("[...document.querySelectorAll('.mssl-toy canvas')].slice(0,4).map(e=>getComputedStyle(e).touchAction)") == ['none'] * 2 + ['auto'] * 2

@needs_browser
def test_on_a_phone_the_numbers_are_on_the_first_screen_and_thumbs_find_the_controls(browser, page):
    open_page(browser, page, width=390, height=844, touch=True)
    assert browser.js('document.documentElement.scrollWidth') <= 390
    assert browser.js("Math.max(...[...document.querySelectorAll('.mssl-number')].slice(0,2).map(e=>e.getBoundingClientRect().bottom))") < 664, 'an 844 px phone shows 664'
    sizes = browser.js("[...document.querySelectorAll('.mssl-toy button,.mssl-toy label,.mssl-toy input[type=range]')].map(e=>e.getBoundingClientRect()).map(r=>[r.width,r.height])")
    assert len(sizes) == 2 * (3 + 6 + 2) and min(min(o) for o in sizes) >= 44

@needs_browser
def test_keys_choose_masks_and_move_them(browser, page):
    open_page(browser, page)
    browser.js("window.escaped=0;document.body.addEventListener('keydown',()=>escaped++);document.querySelector('button[value=grid]').focus()")
    browser.key(' ', 32)
    first = arrays(browser)[0]
    browser.key(' ', 32)
    second = arrays(browser)[0]
    assert first.sum() == second.sum() == 14 * 32 * 32 and (first != second).any(), 'floor(.3 x 49) cells, drawn anew'
    browser.js("document.querySelector('button[value=square]').focus()")
    browser.key(' ', 32)
    browser.js("document.querySelector('.mssl-toy canvas').focus()")
    browser.key('ArrowRight', 39), browser.key('ArrowUp', 38)
    mask = arrays(browser)[0][0, 0]
    assert mask[56:152, 72:168].all() and mask.sum() == 96 * 96
    browser.js("document.querySelector('[name=order]').focus()")
    browser.key('ArrowDown', 40)
    assert state(browser)['order'] == 'mask' and browser.js('escaped') == 0, 'JupyterLab takes keys that leave'

@needs_browser
def test_a_screen_reader_hears_the_numbers_once_they_rest(browser, page):
    open_page(browser, page)
    press(browser, 'button[value=grid]')
    raw, filtered = state(browser)['ratios']
    wanted = f'No filter: the outline is {raw:.1f} times as strong as the photo’s own edges; Filter, then mask: the outline is {filtered:.1f} times as strong as the photo’s own edges.'
    assert browser.until(lambda: browser.js("document.querySelector('.mssl-said').textContent") == wanted), wanted
    labels = browser.js("[...document.querySelectorAll('.mssl-toy canvas')].slice(0,4).map(e=>e.getAttribute('aria-label'))")
    assert 'A cat <3' in labels[0] and f'{filtered:.1f} times' in labels[3] and browser.js("document.querySelector('.mssl-said').getAttribute('aria-live')") == 'polite'

@needs_browser
@pytest.mark.parametrize('dark', [False, True])
def test_words_stand_out_from_the_page(browser, page, dark):
    open_page(browser, page, dark=dark)
    colours = browser.js("['.mssl-lead','.mssl-number b','.mssl-toy button','.mssl-toy label','.mssl-why'].map(s=>getComputedStyle(document.querySelector(s))).flatMap(s=>[s.color,s.borderTopColor])"
                         ".concat(getComputedStyle(document.body).backgroundColor)")
    def light(c):
        o = (np.array([int(v) for v in re.findall(r'\d+', c)[:3]]) / 255)
        return float(np.where(o <= .04045, o / 12.92, ((o + .055) / 1.055)**2.4) @ [.2126, .7152, .0722])
    back = light(colours.pop())
    assert all((max(light(o), back) + .05) / (min(light(o), back) + .05) >= 4.5 for o in colours)
    fields = browser.js("['.mssl-toy','.mssl-toy button','.mssl-toy label'].map(s=>getComputedStyle(document.querySelector(s)).backgroundColor)")
    assert fields == ['rgba(0, 0, 0, 0)'] * 3, 'the page behind shines through'

@needs_browser
def test_nothing_is_asked_of_the_network(browser, page):
    open_page(browser, page)
    press(browser, 'button[value=grid]'), pick(browser, 'mask'), state(browser)
    assert [o for o in browser.requests if not o.startswith(('file:', 'data:'))] == [] and browser.errors == []

@needs_browser
def test_two_toys_on_a_page_answer_each_for_itself(browser, page):
    open_page(browser, page)
    first = state(browser)
    pick(browser, 'black', 1), press(browser, 'button[value=grid]', 1)
    assert state(browser)['ratios'] == first['ratios'] and state(browser)['fill'] == 'grey' and state(browser, 1)['fill'] == 'black'

@needs_browser
def test_without_scripts_the_photo_stays_and_no_dead_control(browser, page):
    browser.send('Emulation.setScriptExecutionDisabled', value=True)
    try:
        browser.open(page)
        assert browser.js("document.querySelector('.mssl-toy>img').naturalWidth") == 224
        assert browser.js("document.querySelectorAll('.mssl-toy button,.mssl-toy input').length") == 0
    finally: browser.send('Emulation.setScriptExecutionDisabled', value=False)

@needs_browser
def test_it_works_in_a_page_that_pandoc_made_of_a_notebook(browser, cat, tmp_path):
    pypandoc = pytest.importorskip('pypandoc')
    cell = dict(cell_type='code', execution_count=1, metadata={}, source=['mask_toy(...)'], outputs=[dict(
        output_type='execute_result', execution_count=1, metadata={}, data={'text/plain': [repr(cat)], 'text/html': cat._repr_html_().splitlines(True)})])
    (tmp_path / 'x.ipynb').write_text(json.dumps(dict(cells=[cell] * 2, metadata={}, nbformat=4, nbformat_minor=5)))
    pypandoc.convert_file(str(tmp_path / 'x.ipynb'), 'html5', extra_args=['-s', '--embed-resources', '--metadata', 'title=x'], outputfile=str(tmp_path / 'x.html'))
    open_page(browser, tmp_path / 'x.html')
    browser.drag('.mssl-toy canvas', (.1, .1), (.9, .1))
    assert state(browser)['hidden'] > state(browser, 1)['hidden'] == 96 * 96
