"""The slider of `explore` in a real browser: it moves, the picture changes, without a kernel and without a server.

Chromium is driven through its debugging pipe, so nothing but Chromium itself is needed (Debian: apt-get install chromium)."""
import base64, json, os, shutil, subprocess, tempfile, time
from pathlib import Path
import pytest, torch
from mssl.show import explore

CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome')) if p), None)
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe']
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed (Debian: apt-get install chromium)'),
              pytest.mark.skipif(os.name != 'posix', reason='the debugging pipe is driven here on Linux and macOS only')]


class Browser:
    "One page of headless Chromium; messages are JSON, each ended by a zero byte, on file descriptors 3 and 4"
    def __init__(self):
        self.home = tempfile.mkdtemp(prefix='mssl-chromium-')
        (theirs_in, self.out), (self.into, theirs_out) = os.pipe(), os.pipe()
        wire = lambda: [os.dup2(theirs_in, 100), os.dup2(theirs_out, 101), os.dup2(100, 3), os.dup2(101, 4)]
        self.process = subprocess.Popen([CHROMIUM, *FLAGS, f'--user-data-dir={self.home}', 'about:blank'], preexec_fn=wire,
                                        close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in), os.close(theirs_out)
        self.number, self.rest, self.session, self.requests, self.errors = 0, b'', None, [], []
        page = next(o for o in self.send('Target.getTargets')['targetInfos'] if o['type'] == 'page')
        self.session = self.send('Target.attachToTarget', targetId=page['targetId'], flatten=True)['sessionId']
        for domain in ('Page', 'Network', 'Runtime'): self.send(f'{domain}.enable')

    def read(self):
        while b'\0' not in self.rest:
            came = os.read(self.into, 1 << 16)
            if not came: raise RuntimeError('Chromium ended')
            self.rest += came
        message, self.rest = self.rest.split(b'\0', 1)
        message = json.loads(message)
        if message.get('method') == 'Network.requestWillBeSent': self.requests.append(message['params']['request']['url'][:100])
        if message.get('method') == 'Runtime.exceptionThrown': self.errors.append(message['params']['exceptionDetails']['text'])
        return message

    def send(self, method, **params):
        self.number += 1
        message = dict(id=self.number, method=method, params=params, **({'sessionId': self.session} if self.session else {}))
        os.write(self.out, json.dumps(message).encode() + b'\0')
        while (answer := self.read()).get('id') != self.number: pass
        if 'error' in answer: raise RuntimeError(f"{method}: {answer['error']}")
        return answer['result']

    def open(self, path, width=1280, height=900, dark=False, touch=False):
        self.send('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send('Emulation.setTouchEmulationEnabled', enabled=touch)
        self.send('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')])
        self.requests.clear(), self.errors.clear()
        failed = self.send('Page.navigate', url=Path(path).as_uri()).get('errorText')
        if failed: raise RuntimeError(f'{path}: {failed}')
        for _ in range(200):
            if self.js("document.readyState") == 'complete': return
            time.sleep(.05)
        raise RuntimeError(f'{path} did not load')

    def js(self, expression):
        answer = self.send('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in answer: raise RuntimeError(str(answer['exceptionDetails']))
        return answer['result'].get('value')

    def key(self, key, code):
        for kind in ('keyDown', 'keyUp'): self.send('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def tap(self, selector, x=.5, y=.5):
        "A finger on a place inside an element, x and y as fractions of it"
        left, top, width, height = self.js(f"(()=>{{let e=document.querySelector({json.dumps(selector)});e.scrollIntoView({{block:'center'}});"
                                           "let r=e.getBoundingClientRect();return [r.left,r.top,r.width,r.height]})()")
        point = [dict(x=left + x * width, y=top + y * height)]
        self.send('Input.dispatchTouchEvent', type='touchStart', touchPoints=point)
        self.send('Input.dispatchTouchEvent', type='touchEnd', touchPoints=[])

    def screenshot(self, path): Path(path).write_bytes(base64.b64decode(self.send('Page.captureScreenshot', captureBeyondViewport=True)['data']))

    def close(self):
        try: self.send('Browser.close')
        except (RuntimeError, OSError): pass
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: self.process.kill()
        os.close(self.out), os.close(self.into)
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture(scope='module')
def browser():
    it = Browser()
    yield it
    it.close()


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
