"""Headless Chromium for tests: open a page, press keys, tap, drag, read what the page says. `from browser import Browser, CHROMIUM, needs_browser`

Chromium is driven through its debugging pipe, so nothing but Chromium itself is needed (Debian: apt-get install chromium)."""
import base64, json, os, shutil, subprocess, tempfile, time
from pathlib import Path
import pytest

CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome')) if p), None)
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe']
needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != 'posix',
    reason='Chromium is not installed (Debian: apt-get install chromium), or its debugging pipe is not driven here: Linux and macOS only')


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

    def until(self, holds, seconds=10):
        "Whether `holds()` becomes true in time; what a finger or a key sets off may come after the answer to it"
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end: return False
            time.sleep(.02)
        return True

    def key(self, key, code):
        for kind in ('keyDown', 'keyUp'): self.send('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def place(self, selector, x=.5, y=.5, scroll=False):
        "Where a place inside an element is in the window, x and y as fractions of the element"
        return self.js(f"(()=>{{let e=document.querySelector({json.dumps(selector)});if({json.dumps(scroll)})e.scrollIntoView({{block:'center'}});"
                       f"let r=e.getBoundingClientRect();return {{x:r.left+{x}*r.width,y:r.top+{y}*r.height}}}})()")

    def touch(self, kind, *points): self.send('Input.dispatchTouchEvent', type=kind, touchPoints=list(points))

    def mouse(self, kind, point, held):
        self.send('Input.dispatchMouseEvent', type=kind, button='none' if kind == 'mouseMoved' and not held else 'left',
                  buttons=int(held), clickCount=int(kind != 'mouseMoved'), **point)

    def tap(self, selector, x=.5, y=.5):
        "A finger on a place inside an element, x and y as fractions of it"
        point = self.place(selector, x, y, scroll=True)
        self.touch('touchStart', point), self.touch('touchEnd')

    def drag(self, selector, *places, finger=False):
        "Press at the first place inside an element, move through the others, release; each place is (x, y) as fractions of it"
        self.place(selector, scroll=True)
        points = [self.place(selector, *o) for o in places]
        if finger:
            self.touch('touchStart', points[0])
            for o in points[1:]: self.touch('touchMove', o)
            self.touch('touchEnd')
        else:
            self.mouse('mouseMoved', points[0], False), self.mouse('mousePressed', points[0], True)
            for o in points[1:]: self.mouse('mouseMoved', o, True)
            self.mouse('mouseReleased', points[-1], False)

    def screenshot(self, path): Path(path).write_bytes(base64.b64decode(self.send('Page.captureScreenshot', captureBeyondViewport=True)['data']))

    def close(self):
        try: self.send('Browser.close')
        except (RuntimeError, OSError): pass
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: self.process.kill()
        os.close(self.out), os.close(self.into)
        shutil.rmtree(self.home, ignore_errors=True)
