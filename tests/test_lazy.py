"""Pictures that stay on disk: every one once and under its number, the same batches as from memory, broken ones named, memory that does not grow."""
import pickle, random, warnings
from pathlib import Path
import numpy as np, pyarrow as pa, pytest, torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from PIL import Image
from pyarrow import parquet
from mssl import data, lazy
from mssl.contrastive_crop import ContrastiveCrop
from mssl.data import ResidentLoader, image_dls, load_pictures
from mssl.lazy import ArrayReader, FileReader, LazyLoader, LazyPictures, ShardReader, lazy_arrays, lazy_files, lazy_shards, load_arrays
from mssl.pictures import list_folder
from mssl.siamese import siamese_learner
from mssl.train import pretrain
from test_data import as_bytes, folder_of, photo, write_parquet

def one_colour(i, size=16): return Image.new('RGB', (size, size), (i, i, i))

def numbered_folder(path, n=40):
    "Every picture shows its number"
    path.mkdir(parents=True, exist_ok=True)
    for i in range(n): one_colour(i).save(path / f'{i:03}.png')
    return path

def numbered_shards(path, sizes=(30, 0, 25), group=7, label=True):
    start, shards = 0, []
    path.mkdir(parents=True, exist_ok=True)
    for k, n in enumerate(sizes):
        rows = dict(image=pa.array([dict(bytes=as_bytes(one_colour(i)), path=None) for i in range(start, start + n)], pa.struct([('bytes', pa.binary()), ('path', pa.string())])))
        if label: rows['label'] = pa.array([i % 5 for i in range(start, start + n)], pa.int64())
        shards.append(path / f'part-{k}.parquet')
        parquet.write_table(pa.table(rows), shards[-1], row_group_size=group)
        start += n
    return shards

def values(batch): return batch[0][:, 0, 0, 0].tolist()
def from_folder(path, **kwargs): return lazy_files(list_folder(numbered_folder(path, **kwargs)))


# numbers

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ['files', 'shards'])
def test_every_picture_once_and_under_its_number(tmp_path, kind, workers):
    pictures = from_folder(tmp_path / 'a', n=55) if kind == 'files' else lazy_shards(numbered_shards(tmp_path / 'a'))
    dl, seen = LazyLoader(pictures, 8, shuffle=True, num_workers=workers), []
    get = dl.get_idxs
    dl.get_idxs = lambda: seen.append(get()) or seen[-1]
    batches = list(dl)
    assert [len(b[0]) for b in batches] == [8] * 6 + [7] and all(b[0].dtype == torch.uint8 for b in batches)
    assert sum(map(values, batches), []) == seen[0] and sorted(seen[0]) == list(range(55)) and seen[0] != sorted(seen[0])
    if kind == 'shards': assert torch.cat([b[1] for b in batches]).tolist() == [i % 5 for i in seen[0]]
    del dl.get_idxs # a function would be copied
    assert sum(map(values, dl.new(shuffle=False, drop_last=False)), []) == list(range(55))

class Watch(Callback):
    order = 8 # after Views
    def before_batch(self): self.pairs += list(zip(self.views.index.tolist(), self.views.image[:, 0, 0, 0].tolist()))

@pytest.mark.parametrize('workers', [0, 2])
def test_views_know_which_picture_is_which(tmp_path, workers):
    shards = lazy_shards(numbered_shards(tmp_path / 'a'))
    train, valid = shards.part(range(5, 55)), shards.part(range(5))
    dls = DataLoaders(LazyLoader(train, 8, shuffle=True, drop_last=True, num_workers=workers), LazyLoader(valid, 5, num_workers=workers), device='cpu')
    watch = Watch(); watch.pairs = []
    learn = siamese_learner(dls, 'resnet10_tiny', size=16, cbs=[watch])
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    assert len(watch.pairs) == 2 * (48 + 5) and all(v == i + 5 or v == i for i, v in watch.pairs)
    assert sum(v == i + 5 for i, v in watch.pairs) >= 96 and len({i for i, _ in watch.pairs[:48]}) == 48

def test_the_order_repeats_from_a_seed(tmp_path):
    pictures = lazy_shards(numbered_shards(tmp_path / 'a'))
    dl = LazyLoader(pictures, 55, shuffle=True, num_workers=0)
    def orders(seed):
        dl.rng.seed(seed)
        return [values(b) for _ in range(3) for b in dl]
    a = orders(1)
    assert a == orders(1) and len({tuple(o) for o in a}) == 3 and a != orders(2)


# the same as from memory

@pytest.mark.parametrize('labelled', [True, False])
def test_training_equals_that_from_memory(tmp_path, labelled):
    folder_of(tmp_path, ['cat', 'dog'] if labelled else ['.'], each=20, size=(24, 24))
    def losses(**kwargs):
        dls = image_dls(tmp_path, bs=8, device='cpu', **kwargs)
        torch.manual_seed(0); dls.train.rng.seed(0)
        learn = siamese_learner(dls, 'resnet10_tiny', size=16)
        before = [p.detach().clone() for p in learn.model.parameters()]
        torch.manual_seed(1)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
        assert all((p != b).any() for p, b in zip(learn.model.parameters(), before) if p.ndim > 1), 'weights move, with labels and without'
        return [float(v) for row in learn.recorder.values for v in row[:2]], dls
    kept, dls = losses()
    come, lazy_dls = losses(in_memory=False, workers=2)
    assert isinstance(dls.train, ResidentLoader) and isinstance(lazy_dls.train, LazyLoader) and np.allclose(kept, come, atol=2e-4) and kept[0] != kept[2]
    assert (dls.train_ds.label is None) == (lazy_dls.train_ds.label is None) == (not labelled) and (not labelled or torch.equal(dls.train_ds.label, lazy_dls.train_ds.label))
    assert np.allclose(dls.train.stats, lazy_dls.train.stats, atol=1e-3)

def test_rows_are_pictures(tmp_path):
    p = lazy_files(list_folder(folder_of(tmp_path)), 16)
    whole = load_pictures(tmp_path, 16, valid_pct=0)
    q = p[[5, 0]]
    assert torch.equal(q.image[1], data.load_folder(tmp_path, 16).image[0]) and q.label.tolist() == [1, 0] and q.classes == ['cat', 'dog']
    assert len(p[:3]) == 3 and len(p[torch.tensor([True] * 2 + [False] * 6)]) == 2 and len(p.new_empty()) == 0 and len(p.new_empty()[:].image) == 0
    assert len(whole[0]) + len(whole[1]) == len(p)
    with pytest.raises(ValueError, match='not in memory'): p.image

def test_a_set_survives_being_sent_to_another_process(tmp_path):
    for p in (from_folder(tmp_path / 'a'), lazy_shards(numbered_shards(tmp_path / 'b'))):
        want = values(p.batch([3, 30, 1]))
        assert values(pickle.loads(pickle.dumps(p)).batch([3, 30, 1])) == want == [3, 30, 1]


# memory

def test_a_worker_keeps_no_more_than_two_windows_and_reads_each_group_once(tmp_path, monkeypatch):
    shards = numbered_shards(tmp_path / 'a', (100, 100), 10)
    read = ShardReader(shards)
    monkeypatch.setattr(lazy, 'WINDOW', 3 * read.group_bytes[0])
    p, reads, most, call = LazyPictures(read, (16, 16)), [], [0], parquet.ParquetFile.read_row_group
    monkeypatch.setattr(parquet.ParquetFile, 'read_row_group', lambda self, g, *args, **kwargs: reads.append(g) or call(self, g, *args, **kwargs))
    order = p.shuffled(list(range(200)), random.Random(0))
    for i in order:
        read(i)
        most[0] = max(most[0], sum(read.group_bytes[k] for _, k in read.kept))
    assert sorted(order) == list(range(200)) and len(reads) == 20 and most[0] <= 2 * lazy.WINDOW
    near = [abs(order.index(i) - order.index(i + 1)) for i in range(0, 190, 10)]
    assert max(near) < 40 and len(set(i // 10 for i in order[:10])) > 1, 'pictures of a window are mixed'

def test_a_row_group_larger_than_the_window_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy, 'WINDOW', 1)
    p = lazy_shards(numbered_shards(tmp_path / 'a', (20,), 10))
    assert values(p.batch([0, 15, 1])) == [0, 15, 1] and len(p.read.kept) == 1

def test_names_take_one_array(tmp_path):
    read = FileReader(list_folder(numbered_folder(tmp_path / 'ä b')))
    assert read.names.dtype.kind == 'S' and read.name(3) == '003.png' and Path(read(3)).is_file()


# broken ones

def test_files_that_are_no_pictures_are_left_out_at_once(tmp_path):
    folder_of(tmp_path)
    (tmp_path / 'cat' / '1.png').write_bytes(b'no'); photo(size=(30, 7)).save(tmp_path / 'dog' / '0.png')
    with pytest.warns(UserWarning, match=r'2 of 8 pictures skipped: cat.1\.png \(.+\); dog.0\.png \(only 30 x 7 pixels\)'): p = lazy_files(list_folder(tmp_path))
    assert len(p) == 6 and len(p.skipped) == 2 and p.label.tolist() == [0] * 3 + [1] * 3

@pytest.mark.parametrize('workers', [0, 2])
def test_a_truncated_picture_has_a_stand_in_and_is_named_once(tmp_path, workers):
    numbered_folder(tmp_path)
    photo(size=(64, 64)).save(tmp_path / '007.jpg', quality=95); (tmp_path / '007.png').unlink()
    (tmp_path / '007.jpg').write_bytes((tmp_path / '007.jpg').read_bytes()[:2000])
    dl = LazyLoader(lazy_files(list_folder(tmp_path), 16), 10, num_workers=workers)
    with pytest.warns(UserWarning, match=r'1 of 40 pictures cannot be read, the next ones stand in for them: 007\.jpg \(.*truncated'): first = sum(map(values, dl), [])
    assert first == [*range(7), 8, *range(8, 40)], 'all numbers stay'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert sum(map(values, dl), []) == first
    assert [n for n, _ in dl.dataset.skipped] == ['007.jpg']

def test_nothing_that_can_be_read_is_said(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'no')
    with pytest.raises(ValueError, match=r'none of 1 pictures could be read; the first: a\.png'): lazy_files(list_folder(tmp_path))
    path = write_parquet(tmp_path / 'x.parquet', [b'no', None])
    with pytest.raises(ValueError, match='none of the first 2 pictures could be read; the first: row 0 of group 0 in x.parquet'): LazyLoader(lazy_shards([path]))
    with pytest.raises(ValueError, match='no rows'): lazy_shards(numbered_shards(tmp_path / 'b', (0,)))
    (tmp_path / 'y.parquet').write_bytes(b'no')
    with pytest.raises(ValueError, match='y.parquet.*not readable as parquet'): lazy_shards([tmp_path / 'y.parquet'])
    parquet.write_table(pa.table(dict(text=['a'])), tmp_path / 'y.parquet')
    with pytest.raises(ValueError, match="a column 'image' is needed, got text"): lazy_shards([tmp_path / 'y.parquet'])

def test_labels_captions_and_boxes_of_shards(tmp_path):
    images = [as_bytes(photo(i)) for i in range(3)]
    with pytest.warns(UserWarning, match='1 of 3 pictures have no caption'): p = lazy_shards([write_parquet(tmp_path / 'x.parquet', images, dict(label=dict(names=['a', 'b'], _type='ClassLabel')), label=[0, 1, 1], caption=[['x', 'y'], None, ['z']])])
    assert p.label.tolist() == [0, 1, 1] and p.classes == ['a', 'b'] and p.caption == [['x', 'y'], '', 'z'] and p[[2]].caption == ['z']
    with pytest.warns(UserWarning, match='1 of 3 labels are missing'): assert lazy_shards([write_parquet(tmp_path / 'y.parquet', images, label=[0, None, 1])]).label is None
    with pytest.warns(UserWarning, match='boxes are left out'): assert lazy_shards([write_parquet(tmp_path / 'z.parquet', images, box=[[0., 0., 5., 5.]] * 3)]).box is None
    with pytest.raises(ValueError, match="labels must be class numbers, got 'cat'"): lazy_shards([write_parquet(tmp_path / 'w.parquet', images, label=['cat'] * 3)])

def test_other_channel_counts_are_refused_by_name(tmp_path):
    for i in range(4): np.save(tmp_path / f'{i}.npy', np.zeros((16, 16, 6 if i < 3 else 5), np.uint8))
    p = lazy_files(list_folder(tmp_path))
    assert p.batch([0, 1])[0].shape == (2, 6, 16, 16) and p.channels == 6
    assert p.batch([3])[0].shape == (1, 6, 16, 16) and p.skipped == [('3.npy', '5 channels, others have 6')]


# image_dls

def test_what_does_not_fit_is_decoded_while_training(tmp_path):
    folder_of(tmp_path, each=10)
    kept = image_dls(tmp_path, 16, bs=4, device='cpu', max_bytes=20 * 3 * 16 * 16)
    assert isinstance(kept.train, ResidentLoader)
    with pytest.warns(UserWarning, match=r'max_bytes=15,359: 20 pictures of \(16, 16\) take 15,360 bytes; they are decoded while'):
        come = image_dls(tmp_path, 16, bs=4, device='cpu', max_bytes=20 * 3 * 16 * 16 - 1)
    assert isinstance(come.train, LazyLoader) and torch.equal(come.valid_ds[:].image, kept.valid_ds.image), 'the same split'
    assert come.train_ds.name == kept.train_ds.name and come.train.drop_last and come.train.shuffle and not come.valid.shuffle
    some = image_dls(tmp_path, 16, n=5, bs=4, device='cpu', max_bytes=8 * 3 * 16 * 16)
    assert isinstance(some.train, ResidentLoader) and torch.equal(some.train_ds.image, image_dls(tmp_path, 16, n=5, bs=4, device='cpu').train_ds.image), 'the few that are wanted fit'
    for bad in (dict(in_memory=True, max_bytes=9), dict(in_memory=False, bs=0), dict(in_memory=False, workers=-1), dict(in_memory=False, n=1)):
        with pytest.raises(ValueError, match={'max_bytes': 'max_bytes=9', 'bs': 'bs=0', 'workers': 'num_workers=-1', 'n': 'n=1'}[[*bad][-1]]): image_dls(tmp_path, 16, device='cpu', **bad)
    with pytest.raises(ValueError, match='drawn pictures are in memory'): image_dls('scenes', n=10, in_memory=False)

@pytest.mark.parametrize('split', [True, False])
def test_shards_are_split_as_from_memory(tmp_path, split):
    shards = numbered_shards(tmp_path, (40, 10), 8)
    for o, name in zip(shards, ('train-0', 'val-0') if split else ('a', 'b')): o.rename(tmp_path / f'{name}.parquet')
    a, b = image_dls(tmp_path, bs=8, device='cpu'), image_dls(tmp_path, bs=8, device='cpu', in_memory=False, workers=0)
    for x, y in zip((a.train_ds, a.valid_ds), (b.train_ds, b.valid_ds)): assert sorted(x.image[:, 0, 0, 0].tolist()) == sorted(y[:].image[:, 0, 0, 0].tolist()) and len(x) == len(y)
    assert image_dls(tmp_path, bs=8, device='cpu', labels=False, in_memory=False).train_ds.label is None

@pytest.mark.parametrize('labelled', [True, False])
def test_pretraining_on_what_does_not_fit_stops_and_resumes_to_the_same_numbers(tmp_path, monkeypatch, labelled):
    folder_of(tmp_path / 'in', ['cat', 'dog'] if labelled else ['.'], each=24, size=(30, 20))
    (tmp_path / 'in' / 'broken.jpg').write_bytes(b'no')
    (tmp_path / 'in' / ('cat' if labelled else '.') / 'half.jpg').write_bytes(b'')
    if labelled: (tmp_path / 'in' / 'broken.jpg').unlink()
    monkeypatch.setattr(data, 'memory_for_pictures', lambda device: 0)
    settings = dict(data=str(tmp_path / 'in'), epochs=3, bs=8, size=16, device='cpu', show_bar=False, supervised=False)
    class Stop(Callback):
        order = 70
        def after_epoch(self):
            if self.epoch == 1: raise KeyboardInterrupt
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        whole = pretrain(tmp_path / 'a', **settings)
        stopped = pretrain(tmp_path / 'b', cbs=[Stop()], **settings)
        assert stopped['stopped'] and len(stopped['history']) < 3
        rest = pretrain(tmp_path / 'b', resume=True, device='cpu', show_bar=False)
    keys = ('train_loss', 'valid_loss', 'spread')
    assert [[h[k] for k in keys] for h in rest['history']] == [[h[k] for k in keys] for h in whole['history']] and len(rest['history']) == 3
    assert ('encoder' in whole['results']) == labelled and any('half.jpg' in o[0] for o in whole['data']['skipped']) and (tmp_path / 'b' / 'report.html').stat().st_size > 10_000

def test_boxes_are_found_on_pictures_that_come_from_disk(tmp_path):
    folder_of(tmp_path, each=12, size=(32, 32))
    dls = image_dls(tmp_path, bs=8, device='cpu', in_memory=False, workers=2)
    learn = siamese_learner(dls, 'resnet10_tiny', size=32, cbs=[ContrastiveCrop()])
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-3)
    assert len(learn.model.crop_boxes) == len(dls.train_ds)

@pytest.mark.parametrize('kind', ['npy', 'tif'])
def test_six_channels_are_trained_on(tmp_path, kind):
    tifffile = pytest.importorskip('tifffile') # comes with scikit-image
    (tmp_path / 'in').mkdir()
    for i in range(24):
        x = np.random.default_rng(i).integers(0, 65536, (20, 24, 6)).astype(np.uint16)
        if kind == 'npy': np.save(tmp_path / 'in' / f'{i}.npy', x)
        else: tifffile.imwrite(tmp_path / 'in' / f'{i}.tif', x, photometric='minisblack', planarconfig='contig')
    report = pretrain(tmp_path / 'run', data=str(tmp_path / 'in'), epochs=1, bs=8, size=16, device='cpu', show_bar=False)
    import mssl
    encoder = mssl.load_encoder(tmp_path / 'run')
    assert report['augment'] == 'weak' and encoder(torch.randint(0, 256, (2, 6, 16, 16), dtype=torch.uint8)).shape[0] == 2
    with pytest.raises(ValueError, match="3 channels are needed, got 6.*augment='weak'"):
        pretrain(tmp_path / 'other', data=str(tmp_path / 'in'), epochs=1, bs=8, size=16, device='cpu', show_bar=False, augment='small')


# arrays

def test_pictures_in_one_file_of_bytes(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (7, 3, 12, 12), dtype=np.uint8)
    x.transpose(0, 1, 3, 2).tofile(tmp_path / 'x.bin')
    read = ArrayReader(tmp_path / 'x.bin', (3, 12, 12), (0, 2, 1), label=range(7))
    p = lazy_arrays(read)
    assert p.size == (12, 12) and torch.equal(p[:].image, torch.from_numpy(x)) and p.label.tolist() == list(range(7)) and torch.equal(load_arrays(read).image, p[:].image)
    assert lazy_arrays(read, at_most=8).size == (8, 8)
