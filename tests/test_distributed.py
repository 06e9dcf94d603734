"Two processes on a CPU, started as people start them, train what one process with the whole batch trains."
import importlib.util, json, os, re, socket, subprocess, sys
from pathlib import Path
import pytest, torch
from fastai.data.load import DataLoader
from hypothesis import given, strategies as st
import mssl
import mssl.distributed as distributed
from mssl.checkpoint import read_checkpoint
from mssl.data import Pictures, ResidentLoader
from mssl.distributed import from_first, join_processes, part_loader, part_of
from mssl.processes import apart, process_count, process_rank, sync_batchnorm
from mssl.train import Settings, run_learner
from several import BS, N, train

here = Path(__file__).resolve().parent
RECIPES = 'info_nce', 'vicreg', 'byol', 'siamese_im', 'mae', 'contrastive_crop'
unix = pytest.mark.skipif(os.name == 'nt', reason='torchrun is started on Linux and macOS')

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def start(launcher, script, *args, cwd=None):
    "Two processes; the machine's memory of other launches stays out"
    env = {k: v for k, v in os.environ.items() if k not in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'MASTER_PORT')}
    env.update(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true', PYTHONPATH=os.pathsep.join([str(Path(mssl.__file__).parent.parent), os.environ.get('PYTHONPATH', '')]))
    line = dict(torchrun=['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '--'], # without the -- torchrun takes a flag such as --n for its own
                accelerate=['-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', str(free_port())])[launcher]
    return subprocess.run([sys.executable, '-W', 'ignore', *line, str(script), *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, timeout=500)

def both(folder, name): return [torch.load(f'{folder}/{name}.{r}', weights_only=True) for r in range(2)]

def equal(a, b, tol):
    assert a['state'].keys() == b['state'].keys()
    for k, v in a['state'].items(): assert (v.double() - b['state'][k].double()).abs().max() < tol, k
    assert len(a['losses']) == len(b['losses']) and max(abs(x - y) for x, y in zip(a['losses'], b['losses'])) < tol

@pytest.fixture(scope='module')
def by_torchrun(tmp_path_factory):
    folder = tmp_path_factory.mktemp('torchrun')
    done = start('torchrun', here / 'several.py', folder, 'together', *RECIPES, 'contrastive_crop:truth')
    assert done.returncode == 0, done.stderr[-3000:]
    return folder

@unix
@pytest.mark.parametrize('name', RECIPES)
def test_torchrun_equals_one_process(name, by_torchrun):
    "Losses, weights, batch statistics, teacher, boxes, validation: all of them"
    one, (a, b) = train(name, 'alone'), both(by_torchrun, name)
    equal(one, a, 1e-7), equal(one, b, 1e-7)
    assert all(abs(x - y) < 1e-3 for p, q in zip(one['values'], a['values']) for x, y in zip(p, q) if x == x), 'validation and gauges see the whole set'
    for whole, p, q in zip(one['ids'], a['ids'], b['ids'], strict=True): assert p + q == whole, 'a batch holds the same pictures, each process has its half'
    if name == 'contrastive_crop': assert (one['state']['crop_boxes.state'] == 1).float().mean() > .9 and one['state']['crop_boxes.box'].std(0).min() > 0, 'there were boxes to compare'

@unix
def test_crops_lie_in_the_boxes_of_their_own_pictures(by_torchrun):
    "The script checks it in each process; here: that it ran, and that both drew crops of their own"
    a, b = both(by_torchrun, 'contrastive_crop:truth')
    assert len(a['ids']) == len(b['ids']) == 2 * (N // BS) and all(not set(p) & set(q) for p, q in zip(a['ids'], b['ids']))

@unix
@pytest.mark.skipif(importlib.util.find_spec('accelerate') is None, reason='accelerate is not installed')
def test_accelerate_launch_and_fastais_own_context(tmp_path):
    "`bs` is the batch of one process there, and the parts of an epoch are its halves"
    done = start('accelerate', here / 'several.py', tmp_path, 'fastai', 'info_nce', 'vicreg')
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ('info_nce', 'vicreg'):
        a, b = both(tmp_path, name)
        order = [i for p, q in zip(a['ids'][:N // BS], b['ids'][:N // BS]) for i in p + q]
        assert sorted(order) == list(range(N))
        second = [i for p, q in zip(a['ids'][N // BS:], b['ids'][N // BS:]) for i in p + q]
        epochs = iter([order, second])
        class Given(list):
            def __iter__(self): return iter(next(epochs))
        one = train(name, 'alone', Given([0]))
        equal(one, a, 1e-7), equal(one, b, 1e-7)

MAIN = "from mssl.cli import mssl_train\nmssl_train()\n"

@unix
def test_the_main_job_in_two_processes(tmp_path):
    (tmp_path / 'main.py').write_text(MAIN)
    flags = ['--n', 96, '--bs', 32, '--size', 16, '--epochs', 2, '--unsupervised', '--every', 2, '--out', 'run']
    done = start('torchrun', 'main.py', *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('report: run/report.html') == 1, 'one process speaks'
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['processes'] == 2 and len(report['history']) == 2 and not list((tmp_path / 'run').glob('*.part'))
    state = read_checkpoint(tmp_path / 'run/checkpoint.pth')
    assert len(state['random']) == 2 and not torch.equal(state['random'][0]['torch'], state['random'][1]['torch']), 'each process draws its own views'
    assert not any(k.startswith('module.') for k in state['model'])
    assert mssl.load_encoder(tmp_path / 'run')(torch.rand(2, 3, 16, 16)).isfinite().all()
    done = start('torchrun', 'main.py', *flags, '--bs', 33, '--overwrite', cwd=tmp_path)
    assert done.returncode and done.stderr.count('bs=33: a multiple of the number of processes (2) is needed') == 1 and 'Traceback' not in re.split('mssl_train:', done.stderr)[0], done.stderr[-2000:]

# --- one process, fast

@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_parts_of_an_epoch(n, bs, count, drop):
    ids = list(range(n))
    parts = [part_of(ids, bs, r, count, drop) for r in range(count)]
    assert len({len(p) for p in parts}) == 1, 'equal parts, or processes wait for each other for ever'
    for k in range(n // (bs * count)): # batch by batch the pictures of one process
        assert [i for p in parts for i in p[k * bs:(k + 1) * bs]] == ids[k * bs * count:(k + 1) * bs * count]
    seen = {i for p in parts for i in p}
    assert seen == (set(ids[:n // (bs * count) * bs * count]) if drop else set(ids))

@pytest.mark.parametrize('drop', [True, False])
def test_a_part_has_as_many_batches(drop):
    whole = ResidentLoader(Pictures(torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()), 8, shuffle=True, drop_last=drop)
    whole.rng.seed(1)
    parts = [part_loader(whole, r, 2) for r in range(2)]
    batches = [[b[0][:, 0, 0, 0].tolist() for b in p] for p in parts]
    assert len(batches[0]) == len(batches[1]) == len(parts[0]) == len(whole)
    assert [len(b) for b in batches[0]] == [len(b) for b in batches[1]]
    whole.rng.seed(1)
    for (x,), a, b in zip(whole, *batches): assert x[:, 0, 0, 0].tolist() == (a + b)[:len(x)]
    assert len(parts[0].new(bs=50)) == 1 and len(next(iter(parts[0].new(bs=50, drop_last=False)))[0]) == 50, 'a loader made from a part is whole'

def test_a_part_is_refused():
    data = Pictures(torch.zeros(9, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r'bs=9: a multiple of the number of processes \(2\)'): part_loader(ResidentLoader(data, 9), 0, 2)
    with pytest.raises(ValueError, match='over numbered pictures'): part_loader(torch.utils.data.DataLoader(data), 0, 2)
    with pytest.raises(ValueError, match='over numbered pictures'): part_loader(DataLoader(iter([1]), bs=1, indexed=False), 0, 2)

def test_the_batch_is_split_evenly(monkeypatch):
    monkeypatch.setattr('mssl.train.process_count', lambda: 3)
    with pytest.raises(ValueError, match=r'bs=64: a multiple of the number of processes \(3\)'): run_learner(Settings(), torch.device('cpu'))

def test_alone():
    assert join_processes('cpu') == torch.device('cpu') and process_count() == 1 and process_rank() == 0 and from_first(lambda: 7) == 7
    with apart(): assert process_count() == 1

def test_several_gpus_are_asked_for_by_kind(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2'), monkeypatch.setenv('LOCAL_RANK', '5')
    with pytest.raises(ValueError, match="device='cuda:1'"): join_processes('cuda:1')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(ValueError, match='process 5 of this machine has no GPU of its own, there are 2'): join_processes('cuda')

def test_synchronised_batch_norm_keeps_what_an_optimizer_holds():
    import timm
    torch.manual_seed(0)
    net = timm.create_model('efficientnet_lite0', num_classes=3) # with `BatchNormAct2d`
    before, x = dict(net.named_parameters()), torch.rand(2, 3, 32, 32)
    names, expected = list(net.state_dict()), net.eval()(x)
    net = sync_batchnorm(net)
    assert list(net.state_dict()) == names and all(p is before[k] for k, p in net.named_parameters()) and torch.equal(net(x), expected)
