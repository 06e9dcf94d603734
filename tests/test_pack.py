"""Packing: small JPEGs, whole shards or none, the same bytes after a kill, other settings refused, broken files named."""
import io, json, os, signal, subprocess, sys, time, warnings
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from pyarrow import parquet
from mssl import pack as room
from mssl.data import image_dls, load_pictures
from mssl.lazy import LazyLoader
from mssl.pack import pack, shrink, tell_unfinished
from test_data import folder_of, photo

def smooth(seed, size):
    "A picture whose corners are known"
    w, h = size
    x = np.zeros((h, w, 3), np.uint8)
    x[..., 0], x[..., 1], x[..., 2] = np.linspace(0, 255, w)[None], np.linspace(0, 255, h)[:, None], seed * 37 % 256
    return Image.fromarray(x)

def photos(path, n=30, classes=('cat', 'dog')):
    for i in range(n):
        f = path / classes[i % len(classes)] / f'{i:02}.{("jpg", "png")[i % 3 == 2]}'
        f.parent.mkdir(parents=True, exist_ok=True)
        smooth(i, ((120, 80), (60, 90), (40, 30))[i % 3]).save(f)
    return path

def opened(data): return Image.open(io.BytesIO(data))
def rows(out): return [r for f in sorted(out.glob('*.parquet')) for r in parquet.read_table(f).to_pylist()]


# one picture

@pytest.mark.parametrize('size, expected', [((120, 80), (48, 32)), ((80, 120), (32, 48)), ((64, 64), (32, 32)), ((33, 400), (32, 388)), ((32, 32), (32, 32)), ((20, 31), (20, 31)), ((20, 400), (20, 400))])
def test_the_shorter_side_is_made_so_long_and_nothing_is_enlarged(tmp_path, size, expected):
    smooth(1, size).save(tmp_path / 'x.png')
    x = opened(shrink(tmp_path / 'x.png', 32))
    assert x.size == expected and x.format == 'JPEG' and x.mode == 'RGB'
    corner = np.asarray(x)[-3, -3].astype(int)
    assert corner[0] > 215 and corner[1] > 215, 'the whole picture'

def test_small_jpegs_stay_as_they_are_and_others_are_made_upright(tmp_path):
    smooth(0, (40, 30)).save(tmp_path / 'x.jpg', quality=31)
    assert shrink(tmp_path / 'x.jpg', 32) == (tmp_path / 'x.jpg').read_bytes()
    turned = Image.Exif(); turned[0x0112] = 6
    smooth(0, (40, 30)).save(tmp_path / 'y.jpg', exif=turned)
    y = opened(shrink(tmp_path / 'y.jpg', 32))
    assert y.size == (30, 40) and y.getexif().get(0x0112, 1) == 1
    smooth(0, (40, 30)).convert('CMYK').save(tmp_path / 'z.jpg')
    assert opened(shrink(tmp_path / 'z.jpg', 32)).mode == 'RGB'

def test_quality_is_the_jpegs(tmp_path):
    photo(size=(90, 60)).save(tmp_path / 'x.png')
    assert len(shrink(tmp_path / 'x.png', 60, 30)) < .6 * len(shrink(tmp_path / 'x.png', 60, 90))

def test_a_truncated_jpeg_is_not_copied(tmp_path):
    photo(size=(60, 60)).save(tmp_path / 'x.jpg')
    (tmp_path / 'x.jpg').write_bytes((tmp_path / 'x.jpg').read_bytes()[:1500])
    for size in (32, 256):
        with pytest.raises(OSError): shrink(tmp_path / 'x.jpg', size)


# a folder

def test_all_pictures_come_with_name_and_class_in_a_mixed_order(tmp_path):
    index = pack(photos(tmp_path / 'in'), tmp_path / 'out', size=32, shard=12, show_bar=False)
    assert index['complete'] and index['pictures'] == 30 and index['classes'] == ['cat', 'dog'] and [f.name for f in sorted((tmp_path / 'out').glob('*.parquet'))] == index['shards'] == [f'train-{k:05}-of-00003.parquet' for k in range(3)]
    found = rows(tmp_path / 'out')
    names = [r['image']['path'] for r in found]
    assert sorted(names) == sorted(str(f.relative_to(tmp_path / 'in')) for f in (tmp_path / 'in').rglob('*.*')) and names != sorted(names)
    for r in found: assert r['label'] == ['cat', 'dog'].index(Path(r['image']['path']).parent.name) and min(opened(r['image']['bytes']).size) in (30, 32)
    assert sum(len(r['image']['bytes']) for r in found) == index['bytes']
    assert {m: parquet.ParquetFile(tmp_path / 'out' / index['shards'][0]).metadata.row_group(0).column(0).compression for m in '0'} == {'0': 'UNCOMPRESSED'}

def test_splits_and_unlabelled_folders_stay_what_they_are(tmp_path):
    photos(tmp_path / 'in' / 'train', 10), photos(tmp_path / 'in' / 'val', 4)
    pack(tmp_path / 'in', tmp_path / 'out', shard=5, show_bar=False)
    assert sorted(f.name for f in (tmp_path / 'out').glob('*.parquet')) == ['train-00000-of-00002.parquet', 'train-00001-of-00002.parquet', 'valid-00000-of-00001.parquet']
    assert [len(o) for o in load_pictures(tmp_path / 'out', 16)] == [10, 4]
    pack(folder_of(tmp_path / 'flat', ['.']), tmp_path / 'flat out', show_bar=False)
    assert all(set(r) == {'image'} for r in rows(tmp_path / 'flat out')) and load_pictures(tmp_path / 'flat out', 16)[0].label is None

@pytest.mark.parametrize('in_memory', [True, False])
def test_packed_pictures_are_trained_on(tmp_path, in_memory):
    pack(photos(tmp_path / 'in'), tmp_path / 'out', size=32, shard=12, show_bar=False)
    dls = image_dls(tmp_path / 'out', 32, bs=8, device='cpu', in_memory=in_memory, workers=1)
    assert isinstance(dls.train, LazyLoader) != in_memory and dls.train_ds.classes == ['cat', 'dog']
    x, y = next(iter(dls.train))
    seen = {int(p[2].float().median()) for p in x}
    assert x.shape == (8, 3, 32, 32) and len(seen) > 3 and y.shape == (8,)
    for p, label in zip(x, y): assert min(abs(int(p[2].float().median()) - i * 37 % 256) for i in range(int(label), 30, 2)) <= 3, 'the label goes with its picture'

def test_broken_files_are_skipped_counted_and_named(tmp_path):
    photos(tmp_path / 'in')
    (tmp_path / 'in' / 'cat' / 'no.jpg').write_bytes(b'no'); photo(size=(30, 5)).save(tmp_path / 'in' / 'dog' / 'flat.png')
    (tmp_path / 'in' / 'dog' / 'empty.webp').write_bytes(b'')
    with pytest.warns(UserWarning, match='3 of 33 pictures skipped: '): index = pack(tmp_path / 'in', tmp_path / 'out', shard=12, show_bar=False)
    assert index['pictures'] == 30 and sorted(Path(n).name for n, _ in index['skipped']) == ['empty.webp', 'flat.png', 'no.jpg'] and dict((Path(n).name, r) for n, r in index['skipped'])['flat.png'] == 'only 30 x 5 pixels'
    with pytest.warns(UserWarning, match='3 of 33'): assert [list(o) for o in pack(tmp_path / 'in', tmp_path / 'out', shard=12, show_bar=False)['skipped']] == [list(o) for o in index['skipped']], 'still known when nothing is left to do'
    assert json.loads((tmp_path / 'out' / 'pack.json').read_text())['pictures'] == 30

def test_nothing_to_pack_is_said(tmp_path):
    (tmp_path / 'in').mkdir()
    with pytest.raises(ValueError, match='no pictures in this folder'): pack(tmp_path / 'in', tmp_path / 'out', show_bar=False)
    with pytest.raises(ValueError, match='no such folder'): pack(tmp_path / 'x', tmp_path / 'out', show_bar=False)
    (tmp_path / 'in' / 'a.jpg').write_bytes(b'no')
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r'none of 1 pictures could be read; the first: a\.jpg'): pack(tmp_path / 'in', tmp_path / 'out', show_bar=False)
    for k, v in dict(size=4, quality=96, shard=0).items():
        with pytest.raises(ValueError, match=f'{k}={v}'): pack(tmp_path / 'in', tmp_path / 'out', **{k: v})
    with pytest.raises(ValueError, match='must not lie inside'): pack(tmp_path / 'in', tmp_path / 'in' / 'out')


# stopped and called again

def everything(out): return {f.name: f.read_bytes() for f in out.glob('*')}

def test_going_on_makes_only_what_is_missing_and_the_same_bytes(tmp_path, monkeypatch):
    photos(tmp_path / 'in')
    pack(tmp_path / 'in', tmp_path / 'whole', size=32, shard=6, show_bar=False)
    made, usual = [], room._write_shard
    def write(path, *args):
        if len(made) == 2: raise KeyboardInterrupt
        made.append(path.name)
        return usual(path, *args)
    monkeypatch.setattr(room, '_write_shard', write)
    with pytest.raises(KeyboardInterrupt): pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=6, show_bar=False)
    assert not json.loads((tmp_path / 'out' / 'pack.json').read_text())['complete']
    with pytest.warns(UserWarning, match='packing is not finished, 2 shards are there; mssl_pack'): load_pictures(tmp_path / 'out', 16)
    (tmp_path / 'out' / 'train-00004-of-00005.parquet.part').write_bytes(b'half a shard')
    monkeypatch.setattr(room, '_write_shard', lambda path, *args: made.append(path.name) or usual(path, *args))
    pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=6, show_bar=False)
    assert made == [f'train-{k:05}-of-00005.parquet' for k in range(5)] and everything(tmp_path / 'out') == {**everything(tmp_path / 'whole')}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tell_unfinished(tmp_path / 'out')

def test_a_shard_that_is_not_whole_is_made_again(tmp_path):
    photos(tmp_path / 'in')
    pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=6, show_bar=False)
    before, shard = everything(tmp_path / 'out'), tmp_path / 'out' / 'train-00001-of-00005.parquet'
    shard.write_bytes(shard.read_bytes()[:999])
    pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=6, show_bar=False)
    assert everything(tmp_path / 'out') == before

def test_other_settings_and_other_pictures_are_refused(tmp_path):
    photos(tmp_path / 'in')
    pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=6, show_bar=False)
    before = everything(tmp_path / 'out')
    for other, said in (dict(size=48), 'size was 32, now 48'), (dict(quality=50), 'quality was 90, now 50'), (dict(shard=7), 'shard was 6, now 7'):
        with pytest.raises(ValueError, match=said): pack(tmp_path / 'in', tmp_path / 'out', **{**dict(size=32, shard=6), **other}, show_bar=False)
    photo().save(tmp_path / 'in' / 'cat' / 'new.png')
    with pytest.raises(ValueError, match='files was 30, now 31'): pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=6, show_bar=False)
    (tmp_path / 'in' / 'cat' / '00.jpg').unlink()
    with pytest.raises(ValueError, match='fingerprint was'): pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=6, show_bar=False)
    assert everything(tmp_path / 'out') == before
    (tmp_path / 'out' / 'pack.json').write_text('{')
    with pytest.raises(ValueError, match='pack.json cannot be read'): pack(tmp_path / 'in', tmp_path / 'out', show_bar=False)
    (tmp_path / 'out' / 'pack.json').unlink()
    with pytest.raises(ValueError, match='not packed here'): pack(tmp_path / 'in', tmp_path / 'out', show_bar=False)

@pytest.mark.skipif(os.name == 'nt', reason='SIGKILL')
def test_killed_in_the_middle_it_goes_on(tmp_path):
    photos(tmp_path / 'in')
    slow = f'''import time, mssl.pack as p
usual = p.shrink
def slow(*args): time.sleep(.05); return usual(*args)
p.shrink = slow
p.pack({str(tmp_path / 'in')!r}, {str(tmp_path / 'out')!r}, size=32, shard=2, workers=1, show_bar=False)'''
    running = subprocess.Popen([sys.executable, '-c', slow], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 240
    while time.time() < until and running.poll() is None and len(list((tmp_path / 'out').glob('*.parquet'))) < 3: time.sleep(.02)
    running.send_signal(signal.SIGKILL); running.wait()
    there = {f.name: f.read_bytes() for f in (tmp_path / 'out').glob('*.parquet')}
    assert 3 <= len(there) < 15 and not json.loads((tmp_path / 'out' / 'pack.json').read_text())['complete']
    pack(tmp_path / 'in', tmp_path / 'out', size=32, shard=2, show_bar=False)
    assert len({r['image']['path'] for r in rows(tmp_path / 'out')}) == len(rows(tmp_path / 'out')) == 30
    assert all((tmp_path / 'out' / k).read_bytes() == v for k, v in there.items())

def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    from mssl.cli import mssl_pack
    monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning) # the command sets its own
    folder, out = str(photos(tmp_path / 'in')), str(tmp_path / 'out')
    mssl_pack(folder, out, size=32, shard=12)
    said = capsys.readouterr().out
    assert '30 pictures, ' in said and 'in 3 shards, 0 skipped' in said and f'mssl_train --data {out}' in said
    with pytest.raises(SystemExit, match='mssl_pack: out=.*size was 32, now 48'): mssl_pack(folder, out, size=48, shard=12)
    with pytest.raises(SystemExit, match='mssl_pack: source=.*no such folder'): mssl_pack(folder + 'x', out + 'x')
