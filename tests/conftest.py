import os, random, sys
from pathlib import Path
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('HF_HUB_OFFLINE', '1') # no test may need the network
import numpy as np, pytest, torch
from hypothesis import settings

root = Path(__file__).resolve().parent.parent
settings.register_profile('mssl', deadline=None, derandomize=True, max_examples=50)
settings.load_profile('mssl')

def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests marked slow too')

def pytest_configure(config):
    "One thread each: small tensors gain nothing from more, and on a busy machine two threads that wait for each other are a hundred times slower"
    threads = int(os.environ.get('MSSL_THREADS', 1))
    os.environ.setdefault('OMP_NUM_THREADS', str(threads))
    torch.set_num_threads(threads)

def pytest_collection_modifyitems(config, items):
    for item in items:
        if 'slow' in item.keywords and not config.getoption('--slow'): item.add_marker(pytest.mark.skip(reason='slow: runs with --slow'))
        if 'gpu' in item.keywords and not torch.cuda.is_available(): item.add_marker(pytest.mark.skip(reason='no CUDA device'))

@pytest.fixture(autouse=True)
def alone():
    "Every test starts from the same random state and leaves no figure open, whichever ran before it"
    random.seed(0); np.random.seed(0); torch.manual_seed(0)
    yield
    if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')

@pytest.fixture(scope='session')
def shared():
    "The folder with real data sets beside the checkout: `MSSL_SHARED`, else ../shared; the test is skipped where there is none"
    path = Path(os.environ.get('MSSL_SHARED', root.parent/'shared'))
    if not (path/'data').is_dir(): pytest.skip(f'no real data sets at {path}/data (MSSL_SHARED says where they are)')
    return path

@pytest.fixture(scope='module')
def browser():
    "A page of headless Chromium; tests that take it are marked `needs_browser`"
    from browser import Browser
    it = Browser()
    yield it
    it.close()
