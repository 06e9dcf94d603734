"""Folders, parquet and drawn pictures: what is read, what is skipped and named, what is refused, and who is who."""
import io, json, warnings
from pathlib import Path
import numpy as np, pyarrow as pa, pytest, torch
from fastai.data.core import DataLoaders
from PIL import Image
from pyarrow import parquet
from mssl.data import Pictures, ResidentLoader, decode, fit_box, image_dls, load_folder, load_parquet, load_pictures, split_pictures, to_rgb

def photo(seed=0, size=(32, 24), mode='RGB'): # size as PIL says it: width, height
    x = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(x).convert(mode)

def as_bytes(image, kind='png'):
    image.save(b := io.BytesIO(), kind)
    return b.getvalue()

def folder_of(path, classes=('cat', 'dog'), each=4, size=(32, 24)):
    for k, name in enumerate(classes):
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(each): photo(100 * k + i, size).save(path / name / f'{i}.png')
    return path

def write_parquet(path, images, meta=None, **columns):
    table = pa.table(dict(image=[o if o is None or isinstance(o, dict) else dict(bytes=o, path=None) for o in images], **columns))
    if meta: table = table.replace_schema_metadata({b'huggingface': json.dumps(dict(info=dict(features=meta))).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path

def numbered(n, size=8, **kwargs):
    "Pictures whose value is their number"
    return Pictures(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, size, size).contiguous(), **kwargs)


# one picture, whatever its mode

@pytest.mark.parametrize('mode', ['RGB', 'L', '1', 'P', 'CMYK', 'YCbCr', 'HSV', 'LA', 'RGBA', 'I', 'F'])
def test_every_mode_becomes_rgb(mode):
    x = photo().convert('L' if mode in ('1', 'LA', 'I', 'F') else 'RGB').convert(mode)
    y = np.asarray(to_rgb(x))
    assert y.shape == (24, 32, 3) and y.dtype == np.uint8
    if mode in ('L', 'LA', 'I', 'F'): assert (y == np.asarray(photo().convert('L'))[..., None]).all()
    if mode in ('RGB', 'RGBA'): assert (y == np.asarray(photo())).all()

def test_sixteen_bits_are_scaled_and_not_cut(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / 'deep.png')
    x, *_ = decode(tmp_path / 'deep.png')
    assert x.shape == (16, 16, 3) and np.abs(x[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1

def test_transparent_pixels_lie_on_white():
    x = Image.new('RGBA', (9, 9), (10, 20, 30, 0))
    x.paste((10, 20, 30, 255), (0, 0, 3, 9))
    rgb = np.asarray(to_rgb(x))
    assert (rgb[:, :3] == (10, 20, 30)).all() and (rgb[:, 3:] == 255).all()
    palette = to_rgb(x).quantize(2)
    palette.info['transparency'] = palette.getpixel((8, 8))
    assert (np.asarray(to_rgb(palette))[:, 3:] == 255).all()

def test_a_phones_rotation_is_undone(tmp_path):
    x = photo(size=(40, 20))
    exif = Image.Exif(); exif[0x0112] = 6
    x.save(tmp_path / 'turned.png', exif=exif)
    y, _, full = decode(tmp_path / 'turned.png')
    assert full == (20, 40) and (y == np.asarray(x.rotate(-90, expand=True))).all()

def test_tiny_pictures_are_no_pictures(tmp_path):
    photo(size=(30, 7)).save(tmp_path / 'a.png'); photo(size=(8, 8)).save(tmp_path / 'b.png')
    with pytest.warns(UserWarning, match=r'1 of 2 pictures skipped: a\.png \(only 30 x 7 pixels\)'): assert len(load_folder(tmp_path)) == 1

@pytest.mark.parametrize('method', ['crop', 'squish', 'pad'])
def test_fit_box_names_the_part_that_decode_shows(method):
    "A white rectangle on black: where it lands is where the box says"
    canvas = Image.new('RGB', (60, 40)); canvas.paste((255, 255, 255), (20, 10, 40, 30))
    x, (t, l, h, w), full = decode(as_bytes(canvas), (32, 32), method)
    assert full == (60, 40) and x.shape == (32, 32, 3)
    rows, cols = np.nonzero(x[..., 0].max(1) > 127)[0], np.nonzero(x[..., 0].max(0) > 127)[0]
    near, far = ((10 / 40 - t) / h * 32, (20 / 60 - l) / w * 32), ((30 / 40 - t) / h * 32, (40 / 60 - l) / w * 32)
    assert np.abs(np.array([rows[0] - near[0], cols[0] - near[1], rows[-1] + 1 - far[0], cols[-1] + 1 - far[1]])).max() <= 1

def test_fit_box_keeps_shapes():
    for out in ((32, 32), (16, 48)):
        for method in ('crop', 'pad'):
            t, l, h, w = fit_box((60, 40), out, method)
            assert abs((w * 60) / (h * 40) - out[1] / out[0]) < 1e-9 and abs(2 * t + h - 1) < 1e-9 and abs(2 * l + w - 1) < 1e-9
    assert fit_box((60, 40), (32, 32), 'squish') == (0, 0, 1, 1)
    with pytest.raises(ValueError, match="method='crp' is not known; did you mean 'crop'"): fit_box((60, 40), (32, 32), 'crp')

def test_decoding_at_its_own_size_changes_nothing():
    x = photo()
    assert (decode(as_bytes(x))[0] == np.asarray(x)).all() and (decode(as_bytes(x), (24, 32))[0] == np.asarray(x)).all()


# Pictures

def test_indexing_keeps_everything_together():
    n = 10
    p = numbered(n, label=torch.arange(n) % 3, classes=['a', 'b', 'c'], caption=[str(i) for i in range(n)], box=torch.rand(n, 4))
    for i in (slice(2, 7, 2), [5, 2, 2], torch.tensor([9, 0]), torch.arange(n) > 6, np.array([1, 3])):
        q, ids = p[i], torch.arange(n)[i if isinstance(i, slice) else torch.as_tensor(i)].tolist()
        assert q.image[:, 0, 0, 0].tolist() == ids and q.caption == [str(j) for j in ids] and q.classes == p.classes
        assert torch.equal(q.box, p.box[ids]) and torch.equal(q.label, p.label[ids])
    assert len(p.new_empty()) == 0 and numbered(3)[[0]].label is None

@pytest.mark.parametrize('bad', [dict(image=torch.rand(4, 3, 8, 8)), dict(image=torch.zeros(3, 8, 8, dtype=torch.uint8)), dict(label=torch.zeros(3)), dict(caption=['a']), dict(box=torch.zeros(5, 4))])
def test_pictures_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): Pictures(**{**dict(image=torch.zeros(4, 3, 8, 8, dtype=torch.uint8)), **bad})

def test_statistics_are_those_of_the_pixels():
    p = Pictures(torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8))
    mean, std = p.statistics()
    x = p.image.numpy() / 255.
    assert np.allclose(mean, x.mean((0, 2, 3)), atol=1e-5) and np.allclose(std, x.std((0, 2, 3)), atol=1e-3)
    assert min(numbered(1).statistics()[1]) > 0, 'one constant picture is not divided by 0'


# folders

def test_class_folders_are_labels(tmp_path):
    p = load_folder(folder_of(tmp_path))
    assert p.image.shape == (8, 3, 24, 32) and p.classes == ['cat', 'dog'] and p.label.tolist() == [0] * 4 + [1] * 4 and not p.skipped
    for k in (0, 1): assert (p.image[4 * k].permute(1, 2, 0).numpy() == np.asarray(photo(100 * k))).all()
    assert load_folder(tmp_path, labels=False).label is None

def test_a_flat_folder_has_no_labels(tmp_path):
    p = load_folder(folder_of(tmp_path, ['.']))
    assert len(p) == 4 and p.label is None and p.classes is None
    assert load_folder(folder_of(tmp_path / 'one', ['all'])).label is None, 'one folder is no class'
    with pytest.raises(ValueError, match='labels=True: 4 of 8 pictures lie in no class folder, the first is 0.png'): load_folder(tmp_path, labels=True)

def test_other_files_and_hidden_folders_are_not_pictures(tmp_path):
    folder_of(tmp_path)
    (tmp_path / 'notes.txt').write_text('x')
    folder_of(tmp_path / '.thumbs', ['cat'])
    photo(1).save(tmp_path / 'cat' / 'LOUD.PNG')
    assert len(load_folder(tmp_path)) == 9

def test_broken_pictures_are_skipped_counted_and_named(tmp_path):
    folder_of(tmp_path)
    (tmp_path / 'cat' / '1.png').write_bytes(b'')
    (tmp_path / 'dog' / '2.png').write_bytes((tmp_path / 'dog' / '3.png').read_bytes()[:300])
    with pytest.warns(UserWarning, match=r'2 of 8 pictures skipped: cat.1\.png \(.+\); dog.2\.png \(.+\)$'): p = load_folder(tmp_path)
    assert len(p) == 6 and [Path(o[0]).as_posix() for o in p.skipped] == ['cat/1.png', 'dog/2.png'] and all(o[1] for o in p.skipped)
    assert p.label.tolist() == [0] * 3 + [1] * 3 and (p.image[5].permute(1, 2, 0).numpy() == np.asarray(photo(103))).all(), 'labels stay with their pictures'

def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(ValueError, match='no pictures in this folder'): load_folder(tmp_path)
    (tmp_path / 'a.png').write_bytes(b'no'); (tmp_path / 'b.txt').write_text('no')
    with pytest.raises(ValueError, match=r'none of 1 pictures could be read; the first: a\.png'): load_folder(tmp_path)
    with pytest.raises(ValueError, match='no such folder'): load_folder(tmp_path / 'x')
    for bad in (0, (3,), 'x', -8):
        photo().save(tmp_path / 'a.png')
        with pytest.raises(ValueError, match='size'): load_folder(tmp_path, bad)

def test_size_and_method(tmp_path):
    folder_of(tmp_path)
    assert load_folder(tmp_path, 16).image.shape[2:] == (16, 16) and load_folder(tmp_path, (16, 20)).image.shape[2:] == (16, 20)
    made = [load_folder(tmp_path, 16, m).image for m in ('crop', 'squish', 'pad')]
    assert (made[2][:, :, 0] == 0).all() and not (made[1][:, :, 0] == 0).all() and not torch.equal(made[0], made[1])
    assert load_folder(tmp_path, at_most=20).image.shape[2:] == (20, 20) and load_folder(tmp_path, at_most=100).image.shape[2:] == (24, 32)
    photo(5, (50, 50)).save(tmp_path / 'cat' / 'other.png')
    assert load_folder(tmp_path).image.shape[2:] == (128, 128), 'pictures of different sizes meet at 128'
    with pytest.raises(ValueError, match="method='fit'"): load_folder(tmp_path, 16, 'fit')

@pytest.mark.parametrize('names', [('train', 'valid'), ('train', 'val'), ('train', 'test'), ('train2017', 'val2017')])
def test_train_and_validation_folders(tmp_path, names):
    folder_of(tmp_path / names[0], each=5); folder_of(tmp_path / names[1], ['dog'], each=2)
    train, valid = load_pictures(tmp_path)
    assert len(train) == 10 and len(valid) == 2 and valid.classes == train.classes == ['cat', 'dog'] and valid.label.tolist() == [1, 1]

def test_validation_is_preferred_to_test(tmp_path):
    for name, each in (('train', 5), ('test', 3), ('val', 2)): folder_of(tmp_path / name, each=each)
    assert [len(o) for o in load_pictures(tmp_path)] == [10, 4]

def test_a_class_that_training_lacks_is_named(tmp_path):
    folder_of(tmp_path / 'train'); folder_of(tmp_path / 'valid', ['cat', 'yak'])
    with pytest.raises(ValueError, match='training does not have: yak'): load_pictures(tmp_path)

def test_without_a_split_a_share_is_kept_for_validation(tmp_path):
    folder_of(tmp_path, each=10)
    train, valid = load_pictures(tmp_path, valid_pct=.2, seed=3)
    again, other = load_pictures(tmp_path, valid_pct=.2, seed=3)[1], load_pictures(tmp_path, valid_pct=.2, seed=4)[1]
    assert len(train) == 16 and len(valid) == 4 and torch.equal(valid.image, again.image) and not torch.equal(valid.image, other.image)
    key = lambda p: {o.numpy().tobytes() for o in p.image}
    assert not key(train) & key(valid) and len(key(train) | key(valid)) == 20
    assert len(load_pictures(tmp_path, n=5)[0]) == 5

def test_a_split_needs_two_pictures_and_a_share():
    assert [len(o) for o in split_pictures(numbered(2), .0)] == [1, 1] and [len(o) for o in split_pictures(numbered(10), .9)] == [1, 9]
    with pytest.raises(ValueError, match='at least 2 pictures'): split_pictures(numbered(1))
    for bad in (-.1, 1., 'x'):
        with pytest.raises(ValueError, match='valid_pct='): split_pictures(numbered(9), bad)


# parquet

META = dict(label=dict(names=['cup', 'pot', 'pan'], _type='ClassLabel'))

def test_one_parquet_file_as_on_the_hub(tmp_path):
    images = [photo(i) for i in range(6)]
    path = write_parquet(tmp_path / 'x.parquet', [as_bytes(o) for o in images], META, label=[0, 2, 1, 0, 2, 1], caption=[f'c{i}' for i in range(6)],
                         box=[[8., 6., 24., 18.]] * 6)
    p = load_parquet(path)
    assert p.classes == ['cup', 'pot', 'pan'] and p.label.tolist() == [0, 2, 1, 0, 2, 1] and p.caption == [f'c{i}' for i in range(6)] and p.name == 'x'
    assert all((p.image[i].permute(1, 2, 0).numpy() == np.asarray(o)).all() for i, o in enumerate(images))
    assert torch.allclose(p.box, torch.tensor([.25, .25, .5, .5]).expand(6, 4))
    assert [len(o) for o in load_pictures(path, valid_pct=.34)] == [4, 2]

@pytest.mark.parametrize('method, box', [('squish', [.25, .25, .5, .5]), ('crop', [.25, 1 / 6, .5, 2 / 3]), ('pad', [.3125, .25, .375, .5])])
def test_boxes_follow_the_picture_into_its_square(tmp_path, method, box):
    "32 x 24 pixels to 24 x 24: crop loses 4 columns on each side, pad adds 4 rows above and below"
    path = write_parquet(tmp_path / 'x.parquet', [as_bytes(photo())] * 2, box=[[8., 6., 24., 18.], [0., 0., 32., 24.]])
    p = load_parquet(path, 24, method)
    assert torch.allclose(p.box[0], torch.tensor(box), atol=1e-6)
    assert torch.allclose(p.box[1], torch.tensor([.125, 0, .75, 1] if method == 'pad' else [0., 0, 1, 1]), atol=1e-6), 'a box never leaves the picture'

@pytest.mark.parametrize('names, expected', [
    (['train-00000-of-00002.parquet', 'train-00001-of-00002.parquet', 'test-00000-of-00001.parquet'], (8, 4)),
    (['train.parquet', 'validation.parquet', 'test.parquet', 'test2.parquet'], (4, 4)),
    (['data/train_0.parquet', 'data/val_0.parquet', 'data/val_1.parquet'], (4, 8)),
    (['default/train/0000.parquet', 'default/train/0001.parquet', 'default/test/0000.parquet'], (8, 4)),
    (['part-0.parquet', 'part-1.parquet', 'part-2.parquet'], (11, 1))])
def test_shards_and_splits(tmp_path, names, expected):
    for k, name in enumerate(names): write_parquet(tmp_path / name, [as_bytes(photo(10 * k + i)) for i in range(4)], META, label=[0, 1, 2, 0])
    train, valid = load_pictures(tmp_path)
    assert (len(train), len(valid)) == expected and train.name == tmp_path.name and train.classes == META['label']['names']
    assert not {o.numpy().tobytes() for o in train.image} & {o.numpy().tobytes() for o in valid.image}

def test_lists_of_captions_and_plain_bytes(tmp_path):
    table = pa.table(dict(image=[as_bytes(photo(i)) for i in range(4)], caption=[['a', 'b'], [], None, ['c']]))
    parquet.write_table(table, tmp_path / 'x.parquet')
    with pytest.warns(UserWarning, match='2 of 4 pictures have no caption'): p = load_parquet(tmp_path / 'x.parquet')
    assert p.caption == [['a', 'b'], '', '', 'c'] and p.label is None and p.box is None

def test_broken_rows_are_skipped_with_all_that_belongs_to_them(tmp_path):
    images = [as_bytes(photo(i)) for i in range(5)]
    images[1], images[3] = b'broken', None
    path = write_parquet(tmp_path / 'x.parquet', images, META, label=[0, 1, 2, 1, 0], caption=list('abcde'), box=[[float(i), 0., 32., 24.] for i in range(5)])
    with pytest.warns(UserWarning, match=r'2 of 5 pictures skipped: row 1 \(.+\); row 3'): p = load_parquet(path)
    assert p.label.tolist() == [0, 2, 0] and p.caption == list('ace') and torch.allclose(p.box[:, 1] * 32, torch.tensor([0., 2, 4]))

@pytest.mark.parametrize('label', [[0, None, 1], [0, -1, 1]])
def test_missing_labels_make_an_unlabelled_set(tmp_path, label):
    path = write_parquet(tmp_path / 'x.parquet', [as_bytes(photo(i)) for i in range(3)], META, label=label)
    with pytest.warns(UserWarning, match='1 of 3 labels are missing'): p = load_parquet(path)
    assert p.label is None and p.classes is None
    with pytest.raises(ValueError, match='has no labels'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        load_pictures(path, labels=True)

def test_missing_boxes_make_a_set_without_boxes(tmp_path):
    path = write_parquet(tmp_path / 'x.parquet', [as_bytes(photo(i)) for i in range(3)], box=[[0., 0., 5., 5.], None, [0., 0., 5., 5.]])
    with pytest.warns(UserWarning, match='1 of 3 boxes are missing'): assert load_parquet(path).box is None

def test_parquet_that_is_none(tmp_path):
    (tmp_path / 'x.parquet').write_bytes(b'not parquet')
    with pytest.raises(ValueError, match='x.parquet.*not readable as parquet'): load_parquet(tmp_path / 'x.parquet')
    parquet.write_table(pa.table(dict(text=['a'])), tmp_path / 'x.parquet')
    with pytest.raises(ValueError, match="a column 'image' is needed, got text"): load_parquet(tmp_path / 'x.parquet')
    with pytest.raises(ValueError, match="labels must be class numbers, got 'cat'"):
        load_parquet(write_parquet(tmp_path / 'y.parquet', [as_bytes(photo())], label=['cat']))


# the drawn pictures, and sources that do not exist

def test_scenes_by_name():
    train, valid = load_pictures('scenes:small', size=16, n=12)
    assert len(train) == 12 and train.image.shape[2:] == (16, 16) and train.classes and train.box.shape == (12, 4) and len(train.caption) == 12
    key = lambda p: {o.numpy().tobytes() for o in p.image}
    assert not key(train) & key(valid), 'validation is drawn from another seed'
    assert load_pictures('scenes:small', size=16, n=12, labels=False)[0].label is None
    with pytest.raises(ValueError, match='size'): load_pictures('scenes', size=0, n=2)

@pytest.mark.parametrize('source, near', [('scene', 'scenes'), ('scenes:smal', 'small'), ('sceens:calm', 'scenes:calm'), ('/no/such/place', 'Allowed: scenes'), ('x.parquet', 'Allowed')])
def test_an_unknown_source_comes_with_its_near_misses(source, near):
    with pytest.raises(ValueError, match=near): load_pictures(source)

def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'x.zip').write_bytes(b'')
    with pytest.raises(ValueError, match='a folder or a parquet file is needed'): load_pictures(tmp_path / 'x.zip')
    with pytest.raises(ValueError, match='no pictures in this folder'): (tmp_path / 'empty').mkdir() or image_dls(tmp_path / 'empty')

@pytest.mark.parametrize('name, value', [('n', 0), ('n', 1), ('n', 2.5), ('bs', 0), ('bs', -1), ('bs', 1.5), ('size', 0), ('size', 'big'), ('valid_pct', 1.5), ('method', 'fit'), ('max_bytes', 1000)])
def test_arguments_out_of_range_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=name): image_dls(folder_of(tmp_path), **{**dict(size=16, in_memory=True), name: value})


# loaders

def values(batch): return batch[0][:, 0, 0, 0].tolist()

def test_every_picture_comes_once():
    for shuffle in (False, True):
        dl = ResidentLoader(numbered(23, label=torch.arange(23)), 5, shuffle=shuffle)
        batches = list(dl)
        assert [len(b[0]) for b in batches] == [5, 5, 5, 5, 3] == [5] * (len(dl) - 1) + [3] and sorted(sum(map(values, batches), [])) == list(range(23))
        assert all(b[0].dtype == torch.uint8 and b[1].tolist() == values(b) for b in batches), 'labels go with their pictures'
        assert (sum(map(values, batches), []) == list(range(23))) != shuffle

def test_drop_last_drops_only_what_is_not_full():
    dl = ResidentLoader(numbered(23), 5, shuffle=True, drop_last=True)
    assert len(dl) == len(list(dl)) == 4 and all(len(b) == 1 for b in dl)
    assert [len(b[0]) for b in ResidentLoader(numbered(3), 5, drop_last=True)] == [3], 'a set smaller than a batch is one batch'

def test_order_changes_between_epochs_and_repeats_from_a_seed():
    dl = ResidentLoader(numbered(40), 40, shuffle=True)
    def orders(seed):
        dl.rng.seed(seed)
        return [values(b) for _ in range(3) for b in dl]
    a, b = orders(1), orders(1)
    assert a == b and len({tuple(o) for o in a}) == 3 and orders(2) != a
    import random
    random.seed(5); one = [values(b) for b in ResidentLoader(numbered(40), 8, shuffle=True)]
    random.seed(5); assert one == [values(b) for b in ResidentLoader(numbered(40), 8, shuffle=True)]

def test_new_and_to_keep_the_pictures():
    dl = ResidentLoader(numbered(10, label=torch.arange(10)), 4, shuffle=True, drop_last=True)
    whole = dl.new(shuffle=False, drop_last=False)
    assert isinstance(whole, ResidentLoader) and sum(map(values, whole), []) == list(range(10)) and whole.bs == 4
    assert whole.to('cpu') is whole and whole.dataset.image.data_ptr() == dl.dataset.image.data_ptr(), 'no second copy'
    with pytest.raises(ValueError, match='bs=0'): ResidentLoader(numbered(3), 0)

def test_image_dls_are_fastais(tmp_path):
    dls = image_dls(folder_of(tmp_path, each=10), bs=256, device='cpu', valid_pct=.2)
    assert isinstance(dls, DataLoaders) and dls.train.bs == 16 and dls.valid.bs == 4 and dls.train.shuffle and not dls.valid.shuffle
    x, y = dls.one_batch()
    assert x.shape == (16, 3, 24, 32) and x.dtype == torch.uint8 and y.shape == (16,) and len(dls.new_empty().train.dataset) == 0
    assert np.allclose(dls.train.stats[0], dls.train.dataset.statistics()[0])
    with pytest.raises(ValueError, match=r'max_bytes=9,999: 20 pictures of \(24, 32\) take 46,080 bytes; a smaller size or n fits, or in_memory=False'): image_dls(tmp_path, max_bytes=9999, in_memory=True)


# the real files

@pytest.mark.parametrize('name, n_class, size', [('cifar10', 10, (32, 32)), ('clothing10', 10, (128, 128)), ('tinyimagenet20', 20, (64, 64)), ('fashion_captions', None, (128, 128))])
def test_real_files(shared, name, n_class, size):
    split = next(p for o in ('validation', 'val', 'test') if (p := shared / 'data' / name / f'{o}.parquet').exists())
    table = parquet.read_table(split).slice(0, 200)
    from tempfile import TemporaryDirectory
    with TemporaryDirectory() as folder:
        parquet.write_table(table, f'{folder}/some.parquet')
        p = load_parquet(f'{folder}/some.parquet', size if name == 'clothing10' else None)
    assert len(p) == 200 and p.image.shape[1:] == (3, *size) and not p.skipped
    assert p.image.float().std() > 30, 'not one colour'
    if n_class: assert len(p.classes) == n_class and not any(o.isdigit() for o in p.classes) and p.label.tolist() == table['label'].to_pylist()
    if name == 'tinyimagenet20':
        assert p.box.shape == (200, 4) and p.box.min() >= 0 and (p.box[:, :2] + p.box[:, 2:]).max() <= 1 + 1e-6 and p.box[:, 2:].min() > 0
        x0, y0, x1, y1 = table['box'][0].as_py()
        assert torch.allclose(p.box[0] * 64, torch.tensor([y0, x0, y1 - y0, x1 - x0], dtype=torch.float32), atol=1e-4)
    if name == 'fashion_captions': assert p.caption == table['caption'].to_pylist() and all(p.caption)
