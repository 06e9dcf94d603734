"""The main job: what it leaves behind, how it stops, goes on and refuses."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import mssl
from mssl.cli import mssl_train
from mssl.data import image_dls
from mssl.scenes import scenes
from fastai.callback.core import Callback
from mssl.siamese import siamese_learner
from mssl.train import HalfOnCPU, Settings, pick_precision, pretrain

TINY = dict(n=96, bs=32, size=16, epochs=2)
FLAGS = ['--n', '96', '--bs', '32', '--size', '16', '--unsupervised']
CLI = [shutil.which('mssl_train', path=str(Path(sys.executable).parent)) or 'mssl_train'] # the installed command


def run(args, folder, **kwargs):
    return subprocess.run(CLI + args, cwd=folder, capture_output=True, text=True, timeout=300, **kwargs)


def picture_folder(path, n=48, labels=False):
    drawn = scenes(n, 32)
    for i in range(n):
        f = path / (drawn.classes[drawn.label[i]] if labels else '') / f'{i}.png'
        f.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image[i].permute(1, 2, 0).numpy()).save(f)
    return path


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp('run') / 'first'
    return out, pretrain(out, show_bar=False, **TINY)


def test_run_folder(finished):
    out, report = finished
    assert {p.name for p in out.iterdir()} == {'report.html', 'report.json', 'settings.json', 'encoder.safetensors', 'encoder.json', 'checkpoint.pth'}
    assert json.loads((out / 'report.json').read_text()) == json.loads(json.dumps(report))
    assert set(report['results']) == {'pixels', 'untrained', 'encoder', 'supervised'} and report['augment'] == 'scenes'
    assert len(report['history']) == 2 and {'train_loss', 'valid_loss', 'knn', 'spread', 'rank', 'seconds', 'train_seconds'} <= set(report['history'][0])


def test_report_opens_alone(finished):
    page = (finished[0] / 'report.html').read_text()
    assert not re.search(r'(src|href)="?(?!data:)[^" >]*(//|\.(png|js|css))', page) and 'src=' in page, 'pictures are inside, nothing is fetched'
    for word in ('Result', 'While it trained', 'Views it was trained on', 'Nearest neighbours', 'Load it', 'Settings', 'pixels, 16 x 16', 'untrained', 'trained with labels'): assert word in page, word
    assert all('alt=' in tag for tag in re.findall(r'<img[^>]*?>', page[:200_000_000]))


def test_lines_of_the_report_load_the_encoder(finished):
    out, _ = finished
    import html
    lines = html.unescape(re.search(r'<pre>(.*?)</pre>', (out / 'report.html').read_text(), re.S)[1])
    check = "\nimport torch\nx = torch.rand(3, 3, 16, 16)\nm, s = encoder.mean, encoder.std\nassert torch.allclose(encoder(x), bare.eval()((x - m) / s), atol=1e-4)\nprint('equal')"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', lines + check], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == 'equal', done.stderr


def test_same_seed_same_run(finished, tmp_path):
    torch.rand(5)
    again = pretrain(tmp_path / 'again', show_bar=False, **TINY)
    assert again['results'] == finished[1]['results']


def test_folder_without_labels(tmp_path):
    source = picture_folder(tmp_path / 'mine')
    (source / 'broken.jpg').write_bytes(b'no picture')
    with pytest.warns(UserWarning, match='1 of 49 pictures skipped: broken.jpg'):
        report = pretrain(tmp_path / 'run', data=str(source), bs=16, size=16, epochs=1, show_bar=False)
    assert report['results'] == {} and 'knn' not in report['history'][0] and report['history'][0]['spread'] > 0
    page = (tmp_path / 'run' / 'report.html').read_text()
    assert 'Nearest neighbours' in page and 'broken.jpg' in page and 'trained with labels' not in page


def test_killed_while_training_goes_on_to_the_same_end(tmp_path):
    "SIGKILL, the hard way, in another process; the rest in a third one"
    whole = run([*FLAGS, '--epochs', '4', '--out', 'whole'], tmp_path)
    assert whole.returncode == 0, whole.stderr
    victim = subprocess.Popen(CLI + [*FLAGS, '--epochs', '4', '--out', 'cut'], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while not (tmp_path / 'cut' / 'checkpoint.pth').exists() and time.time() < deadline and victim.poll() is None: time.sleep(.002)
    victim.kill(); victim.wait()
    epochs_done = torch.load(tmp_path / 'cut' / 'checkpoint.pth', weights_only=True)['epoch']
    resumed = run(['--resume', '--out', 'cut'], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    a, b = (torch.load(tmp_path / o / 'checkpoint.pth', weights_only=True) for o in ('whole', 'cut'))
    assert epochs_done < 4 and b['epoch'] == 4 and all(torch.equal(a['model'][k], b['model'][k]) for k in a['model'])


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGINT for another process')
def test_ctrl_c_saves(tmp_path):
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) # a shell's background job would ignore it, and so would its children
    child = subprocess.Popen(CLI + ['--n', '300', '--bs', '32', '--size', '16', '--epochs', '200', '--out', 'run'], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=listen)
    deadline = time.time() + 300
    while not (tmp_path / 'run' / 'checkpoint.pth').exists() and time.time() < deadline and child.poll() is None: time.sleep(.01)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=300)[0]
    assert child.returncode == 0 and 'stopped by hand in epoch' in said and '--resume' in said, said[-2000:]
    assert mssl.load_encoder(tmp_path / 'run')(scenes(2, 16).image).shape == (2, 256)
    assert 'stopped by hand' in (tmp_path / 'run' / 'report.html').read_text()


@pytest.mark.parametrize('flags, words', [(dict(method='info_nec'), "did you mean 'info_nce'"), (dict(out='file/run'), 'cannot be written'), (dict(resume=True, out='nowhere'), 'no run to go on with'), (dict(weights='nobody'), "weights='nobody'")])
def test_command_refuses_with_a_sentence(flags, words, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning) # the command sets its own
    with pytest.raises(SystemExit, match=f'^mssl_train: .*{re.escape(words)}'): mssl_train(**{**TINY, 'unsupervised': True, 'out': 'run', **flags})

def test_the_installed_command_refuses_without_a_traceback(tmp_path):
    done = run(['--data', 'sceens', '--out', 'run'], tmp_path)
    assert done.returncode == 1 and "did you mean 'scenes'" in done.stderr and 'Traceback' not in done.stderr, done.stderr


@pytest.mark.parametrize('bad, word', [(dict(epochs=0), 'epochs=0'), (dict(bs=0), 'bs=0'), (dict(size=0), 'size=0'), (dict(lr=-1.), 'lr=-1'), (dict(precision='fp8'), "precision='fp8'"),
                                       (dict(method='byl'), "did you mean 'byol'"), (dict(arch='resnet18_smal'), "did you mean 'resnet18_small'"), (dict(seed=-1), 'seed=-1')])
def test_bad_settings(bad, word, tmp_path):
    with pytest.raises(ValueError, match=re.escape(word)): pretrain(tmp_path / 'run', show_bar=False, **{**TINY, **bad})


def test_a_run_is_not_overwritten_by_accident(finished):
    with pytest.raises(ValueError, match='holds a run already'): pretrain(finished[0], show_bar=False, **TINY)


def test_checkpoint_of_another_run(finished, tmp_path):
    out = tmp_path / 'other'
    out.mkdir()
    settings = json.loads((finished[0] / 'settings.json').read_text())
    (out / 'settings.json').write_text(json.dumps({**settings, 'method': 'vicreg'}))
    (out / 'checkpoint.pth').write_bytes((finished[0] / 'checkpoint.pth').read_bytes())
    with pytest.raises(ValueError, match="method was 'info_nce', now 'vicreg'"): pretrain(out, resume=True, show_bar=False)


def test_precision_by_device():
    assert pick_precision('auto', torch.device('cpu')) == 'fp32'
    with pytest.raises(ValueError, match='needs a GPU'): pick_precision('fp16', torch.device('cpu'))


def test_real_pictures(shared, tmp_path):
    "The file format of the hub, on real files: it learns something in a minute"
    report = pretrain(tmp_path / 'cifar', data=str(shared / 'data' / 'cifar10'), n=2000, epochs=1, supervised=False, show_bar=False)
    assert report['data']['train'] == 2000 and report['data']['classes'][0] == 'airplane' and report['results']['encoder']['knn'] > .15


def test_settings_table_is_complete():
    "Every setting that the command offers is stored with the run"
    import inspect
    flags = set(inspect.signature(mssl_train).parameters) - {'out', 'resume', 'overwrite', 'device', 'unlabelled', 'unsupervised', 'every', 'plan'}
    assert flags | {'labels', 'supervised'} == set(Settings.__dataclass_fields__)
    assert not any('_' in f for f in flags | {'unlabelled', 'unsupervised'}), 'one word a flag: fastcore 1 would offer --two_words, fastcore 2 --two-words'


# --- bfloat16 on a CPU

def test_half_precision_on_a_cpu_is_the_forward_pass_only(tmp_path):
    learn = siamese_learner(image_dls('scenes', size=16, n=64, bs=32), 'resnet10_tiny', size=16, cbs=[HalfOnCPU()])
    seen = []
    class Look(Callback):
        order = 4
        def after_pred(self): seen.append((self.learn.pred[0] if isinstance(self.learn.pred, tuple) else self.learn.pred).dtype)
        def after_loss(self): seen.append(self.learn.loss_grad.dtype)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Look())
    assert set(seen[::2]) == {torch.bfloat16} and set(seen[1::2]) == {torch.float32}, 'the model answers in half precision, the loss is whole'
    assert 'forward' not in vars(learn.model) and all(p.dtype == torch.float32 for p in learn.model.parameters())
    assert learn.model(*learn.views.view)[0].dtype == torch.float32, 'the callback leaves nothing behind'

def test_half_precision_by_device():
    cpu = torch.device('cpu')
    assert pick_precision('bf16', cpu) == 'bf16' and pick_precision('auto', cpu) == 'fp32'
    with pytest.raises(ValueError, match='fp16.*GPU.*bf16'): pick_precision('fp16', cpu)


def test_starts_from_a_stored_encoder(finished, tmp_path):
    "An epoch at a vanishing rate leaves the weights where the first run had brought them"
    out, before = finished
    report = pretrain(tmp_path / 'on', show_bar=False, weights=str(out), supervised=False, lr=1e-12, **{**TINY, 'epochs': 1})
    a, b = (mssl.load_encoder(o).encoder.state_dict() for o in (out, tmp_path / 'on'))
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a if 'running' not in k and 'num_batches' not in k)
    assert report['arch'] == before['arch'] and report['results']['untrained'] == before['results']['encoder'], 'the line to compare with is where it started'
    assert 'as it started, from first' in (tmp_path / 'on' / 'report.html').read_text()


def test_weights_that_do_not_fit(finished, tmp_path):
    with pytest.raises(ValueError, match='they do not fit resnet18_small'): pretrain(tmp_path / 'no', show_bar=False, arch='resnet18_small', weights=str(finished[0]), **TINY)
