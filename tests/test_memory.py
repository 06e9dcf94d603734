"""Freed memory kept on a CPU: fewer pages touched, the same numbers; every recipe's Learner has it."""
import subprocess, sys
import pytest, torch
from fastai.torch_core import set_seed
from mssl.memory import KeepMemory, keep_freed_memory
from mssl.recipes import RECIPES

COUNT = '''
import resource, sys, torch
from mssl.memory import keep_freed_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def made(n=16 << 20): # 64 MiB
    for _ in range(5): torch.ones(n).add_(1)
    start = faults()
    for _ in range(10): torch.ones(n).add_(1)
    return (faults() - start) // 10
usual = made()
taken = keep_freed_memory()
kept = made()
print(int(taken), usual, kept, int(keep_freed_memory(False)), made(64 << 20)) # larger than any piece that may still be kept
'''

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc only')
def test_memory_that_is_kept_is_not_touched_anew():
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', COUNT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    taken, usual, kept, back, again = map(int, done.stdout.split())
    if not taken: pytest.skip('another C library')
    assert usual > 4 * max(kept, 1), f'{usual} pages touched a tensor as usual, {kept} kept'
    assert back and again > 4 * max(kept, 1), f'{again} pages a tensor after it was undone, {kept} before'

def test_elsewhere_it_says_no(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'darwin')
    assert keep_freed_memory() is False

def _learner(cbs=()):
    from mssl.data import image_dls
    from mssl.siamese import siamese_learner
    set_seed(0)
    return siamese_learner(image_dls('scenes', size=32, n=128, bs=64, device='cpu', seed=0) , 'resnet10_tiny', size=32, cbs=list(cbs), model_kwargs=dict(dim=8))

def test_the_numbers_are_the_same():
    found = []
    for keep in (True, False):
        learn = _learner()
        if not keep: learn.remove_cb(KeepMemory); keep_freed_memory(False)
        set_seed(1)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
        found.append(torch.cat([p.detach().flatten() for p in learn.model.parameters()]))
    keep_freed_memory(False)
    assert torch.equal(*found)

def test_once_and_only_once():
    assert len([c for c in _learner().cbs if isinstance(c, KeepMemory)]) == 1
    mine = KeepMemory()
    assert [c for c in _learner([mine]).cbs if isinstance(c, KeepMemory)] == [mine]

@pytest.mark.parametrize('name', ['info_nce', 'byol', 'mscn', 'mae', 'siamese_im', 'lejepa'])
def test_recipes_have_it(name):
    from mssl.data import image_dls
    from mssl.recipes import recipe_learner
    import mssl.all
    assert name in RECIPES
    assert any(isinstance(c, KeepMemory) for c in recipe_learner(name, image_dls('scenes', size=32, n=128, bs=64, device='cpu', seed=0), size=32).cbs)
