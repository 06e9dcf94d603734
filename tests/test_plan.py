"What a run will cost: measured in twenty steps, without a trace."
import re, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
import mssl.plan as room
from mssl.memory import peak_memory, reset_peak, total_memory
from mssl.plan import largest_that_fits, plan, plan_table

TINY = dict(n=128, bs=16, size=16, epochs=10)

@pytest.fixture(scope='module')
def planned(): return plan('cpu', steps=4, warm=1, **TINY)

def test_numbers_belong_together(planned):
    p = planned
    assert p['pictures'] == 128 and p['bs'] == 16 and abs(p['pictures_second'] * p['seconds_step'] - 16) < 1e-6
    assert abs(p['hours'] * 3600 - 10 * (8 * p['seconds_step'] + p['seconds_check'])) < 1e-6
    assert 0 < p['peak'] < p['total'] and (p['fits'] is None or p['fits'] >= 1)

def test_table_holds_them(planned):
    text = plan_table(planned)
    assert len(text.splitlines()) == 7 and f"{planned['pictures_second']:,.0f} pictures per second" in text and '10 epochs' in text and max(map(len, text.splitlines())) < 110
    assert 'not told' in plan_table({**planned, 'fits': None}) and '(tried)' in plan_table({**planned, 'device': 'NVIDIA T4', 'fits': 512})
    assert '30.0 hours' in plan_table({**planned, 'hours': 30.}) and '12.0 minutes' in plan_table({**planned, 'hours': .2})

def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    plan('cpu', steps=2, warm=1, **TINY)
    assert torch.equal(before, torch.get_rng_state()) and not list(tmp_path.iterdir())

def test_more_steps_than_pictures():
    assert plan('cpu', steps=5, warm=1, n=32, bs=32, size=16)['pictures_second'] > 0

@pytest.mark.parametrize('bad, words', [(dict(steps=0), 'steps=0'), (dict(bs=0), 'bs=0'), (dict(method='byl'), "did you mean 'byol'")])
def test_refused(bad, words):
    with pytest.raises(ValueError, match=words): plan('cpu', **{**TINY, **bad})

def test_one_process(monkeypatch):
    monkeypatch.setattr(room, 'process_count', lambda: 2)
    with pytest.raises(ValueError, match='one process is enough'): plan('cpu', **TINY)

@pytest.mark.parametrize('peak2, total, fits', [(1640, 10_000, 512), (1640, 1_600, 64), (1640, 900, 36), (1000, 10_000, None)])
def test_the_batch_that_fits_by_estimate(peak2, total, fits):
    "64 pictures take 1000, of which 640 are theirs; four fifths of what there is may be used"
    assert largest_that_fits(64, 1000, 128, peak2, total) == fits

def test_the_batch_that_fits_by_trying(monkeypatch):
    "A GPU with room for 300 pictures, played"
    tried = []
    def one(learn, bs):
        tried.append(bs)
        if bs > 300: raise torch.OutOfMemoryError('CUDA out of memory')
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: None)
    learn = type('', (), dict(model=torch.nn.Linear(1, 1)))()
    assert room._fits_gpu(learn, 64, 10_000, one) == 256 and tried == [128, 256, 512]
    assert room._fits_gpu(learn, 64, 100, one) == 64, 'no larger than the set'

def test_memory_of_this_process():
    cpu = torch.device('cpu')
    torch.ones(7_000_000) # from now on the C library keeps smaller pieces when they are freed
    held = [torch.ones(1_000_000) for _ in range(100)]
    del held[:-1]
    reset_peak(cpu)
    start = peak_memory(cpu)
    x = torch.ones(50_000_000)
    assert peak_memory(cpu) - start > 150 * 2**20 and total_memory(cpu) > peak_memory(cpu)
    del x
    reset_peak(cpu)
    if sys.platform == 'linux': assert peak_memory(cpu) - start < 100 * 2**20, 'the peak is forgotten'

def test_the_command(tmp_path):
    cli = shutil.which('mssl_train', path=str(Path(sys.executable).parent)) or 'mssl_train' # the installed command
    done = subprocess.run([cli, '--plan', '--n', '64', '--bs', '16', '--size', '16'], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and re.search(r'^step +\d+ ms, [\d,]+ pictures per second$', done.stdout, re.M), done.stderr
    assert not list(tmp_path.iterdir()), 'no run folder, no file'

@pytest.mark.gpu
def test_on_a_gpu():
    if not torch.cuda.is_available(): pytest.skip('no GPU here')
    p = plan('cuda', steps=4, warm=1, n=2048, bs=64, size=32)
    assert p['fits'] >= 64 and 0 < p['peak'] < p['total']
