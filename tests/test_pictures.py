"""Whatever lies in a folder or a parquet file: it is read, or named with a reason; never a crash, never a picture under another's label."""
import io, os, tempfile, warnings
from pathlib import Path
import numpy as np, pyarrow as pa, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from pyarrow import parquet
from mssl import data
from mssl.data import image_dls, load_parquet, load_pictures
from mssl.lazy import lazy_shards
from mssl.pictures import (ENDINGS, clean_boxes, clean_captions, clean_labels, decode, decode_all, fit_box, from_array, list_folder, list_splits, split_of, to_rgb)
from mssl.train import pretrain
from test_data import as_bytes, folder_of, photo, write_parquet

many = settings(max_examples=200)
side = st.integers(8, 4000)
small = st.integers(8, 40)
method = st.sampled_from(['crop', 'squish', 'pad'])


# where a picture's part lies

@many
@given(w=side, h=side, H=st.integers(1, 600), W=st.integers(1, 600), how=method)
def test_fit_box_for_any_size(w, h, H, W, how):
    t, l, bh, bw = fit_box((w, h), (H, W), how)
    assert bh > 0 and bw > 0 and abs(t * 2 + bh - 1) < 1e-9 and abs(l * 2 + bw - 1) < 1e-9, 'in the middle'
    if how == 'crop': assert -1e-9 <= t and -1e-9 <= l and max(bh, bw) == pytest.approx(1)
    if how == 'pad': assert t <= 1e-9 and l <= 1e-9 and min(bh, bw) == pytest.approx(1)
    if how != 'squish': assert (bw * w) / (bh * h) == pytest.approx(W / H), 'shapes stay'

@many
@given(w=small, h=small, H=small, W=small, how=method, mode=st.sampled_from(['RGB', 'L', 'P', '1', 'CMYK', 'RGBA', 'LA', 'I;16', 'I', 'F', 'YCbCr']), kind=st.sampled_from(['png', 'jpeg', 'tiff', 'gif', 'bmp', 'webp', 'ppm']), seed=st.integers(0, 99))
def test_every_file_that_can_be_written_is_read(w, h, H, W, how, mode, kind, seed):
    x = photo(seed, (w, h))
    x = Image.fromarray(np.asarray(x.convert('L')).astype(np.uint16) * 257) if mode == 'I;16' else x.convert('L' if mode in ('1', 'LA', 'I', 'F') else 'RGB').convert(mode)
    try: x.save(b := io.BytesIO(), kind)
    except (OSError, ValueError, KeyError): return # there are no such files
    y, fit, full = decode(b.getvalue(), (H, W), how)
    assert y.shape == (H, W, 3) and y.dtype == np.uint8 and full == (w, h) and fit == fit_box((w, h), (H, W), how)

@many
@given(data=st.binary(max_size=200), header=st.sampled_from([b'', b'\xff\xd8\xff\xe0', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'BM', b'II*\0', b'RIFF']))
def test_bytes_that_are_no_picture_are_refused_with_a_reason(data, header):
    good = as_bytes(photo())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        image, kept, _, _, skipped = decode_all([header + data, good, good[:len(good) // 2]], 'abc', (8, 8), 'crop')
    assert 1 in kept and len(image) == len(kept) and len(kept) + len(skipped) == 3 and all(r for _, r in skipped) and 'c' in dict(skipped)

@many
@given(shape=st.lists(st.integers(1, 30), min_size=1, max_size=4), dtype=st.sampled_from(['uint8', 'uint16', 'int16', 'int32', 'float16', 'float32', 'float64', 'bool', 'complex64', 'U1']), seed=st.integers(0, 99), high=st.sampled_from([.5, 1, 2, 300, 70_000, np.nan]))
def test_arrays_become_pictures_or_a_reason(shape, dtype, seed, high):
    with np.errstate(all='ignore'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        x = (np.random.default_rng(seed).random(shape) * high).astype(dtype)
        try: y = from_array(x)
        except ValueError as e: assert str(e); return
    assert y.dtype == np.uint8 and y.ndim == 3 and sorted(y.shape[:2] + (y.shape[2] if x.ndim == 3 and 1 not in x.shape else 3,)) == sorted(y.shape) and len(shape) in (2, 3)

def test_what_white_is_depends_on_the_kind_of_number_alone():
    for dtype, white in (('uint8', 255), ('uint16', 65535), ('int32', 65535), ('float32', 1.), ('float64', 1.), ('bool', True)):
        half = np.array([[0, white]] * 2).astype(dtype)
        assert from_array(half)[0, :, 0].tolist() == [0, 255]
        if dtype != 'bool': assert abs(int(from_array((half // 2 if 'int' in dtype else half / 2).astype(dtype))[0, 1, 0]) - 127) <= 1, 'a dark picture stays dark'
    with pytest.raises(ValueError, match='values from 0 to 3, 0 to 1 are needed for float64'): from_array(np.array([[0, 3.]]))
    with pytest.raises(ValueError, match='nan or infinite'): from_array(np.array([[0, np.inf]]))

def test_channels_first_or_last():
    x = np.random.default_rng(0).integers(0, 256, (20, 30, 6), dtype=np.uint8)
    assert (from_array(x) == from_array(np.moveaxis(x, 2, 0))).all() and from_array(x[..., :1]).shape == (20, 30, 3) and from_array(x[..., 0]).shape == (20, 30, 3)

def test_nan_pixels_of_a_file_are_a_reason(tmp_path):
    (tmp_path / 'a').mkdir(), (tmp_path / 'b').mkdir()
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / 'a' / 'nan.tif'); photo().save(tmp_path / 'a' / 'x.png')
    np.save(tmp_path / 'b' / 'inf.npy', np.full((9, 9), np.inf)); np.save(tmp_path / 'b' / 'x.npy', np.zeros((9, 9)))
    for folder, name in (('a', 'nan.tif'), ('b', 'inf.npy')):
        with pytest.warns(UserWarning, match=rf'1 of 2 pictures skipped: {name} \(pixels that are nan or infinite\)'): assert len(data.load_folder(tmp_path / folder)) == 1

def test_arrays_beside_pictures_are_no_pictures(tmp_path):
    folder_of(tmp_path, ['.']); np.save(tmp_path / 'labels.npy', np.zeros((20, 20)))
    assert list_folder(tmp_path).files == [f'{i}.png' for i in range(4)]

def test_an_array_with_python_objects_is_not_opened(tmp_path):
    np.save(tmp_path / 'a.npy', np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match='none of 1 pictures.*allow_pickle'): data.load_folder(tmp_path)

def test_many_channels_are_resized_as_three_are(tmp_path):
    x = np.asarray(photo(size=(40, 30)))
    np.save(tmp_path / 'x.npy', np.concatenate([x, x], 2)); Image.fromarray(x).save(tmp_path / 'x.png')
    for how in ('crop', 'squish', 'pad'):
        a, fit_a, full_a = decode(tmp_path / 'x.npy', (16, 20), how)
        b, fit_b, full_b = decode(tmp_path / 'x.png', (16, 20), how)
        assert (a[..., :3] == b).all() and (a[..., 3:] == b).all() and fit_a == fit_b and full_a == full_b == (40, 30)


# names of files and folders

word = st.text('abcxyz019-_. äß日', min_size=1, max_size=6).filter(lambda o: o.strip(' .') == o and not o.startswith('.'))

@many
@given(names=st.lists(st.tuples(st.lists(word, max_size=2), word, st.sampled_from(['.jpg', '.PNG', '.tiff', '.txt', '', '.jpg.bak'])), min_size=1, max_size=8))
def test_any_folder_is_listed_or_refused(names):
    with tempfile.TemporaryDirectory() as folder:
        there = set()
        for parts, name, ending in names:
            path = Path(folder, *parts, name + ending)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b'')
            except OSError: continue # a file of that name, or a folder
            if os.path.splitext(path.name)[1].lower() in ENDINGS: there.add(str(path.relative_to(folder)))
        try: found = list_folder(folder)
        except ValueError as e: assert 'no pictures in this folder' in str(e) and not there; return
        assert set(found.files) == there and len(found) == len(there)
        if found.label is not None: assert [found.classes[k] for k in found.label] == [Path(f).parent.name for f in found.files] and all(len(Path(f).parts) > 1 for f in found.files)
        train, valid = list_splits(folder)
        assert set(train.files) <= there or valid is not None

@many
@given(st.text(max_size=12))
def test_any_name_is_a_split_or_none(name): assert split_of(name) in ('train', 'valid', None)

def test_split_names():
    assert [split_of(o) for o in ('train', 'Train2017', 'training', 'train-00000-of-00002.parquet', 'val', 'validation_1', 'dev', 'test.parquet', 'tester', 'x')] == \
        ['train', 'train', None, 'train', 'valid', 'valid', 'valid', 'valid', None, None]


# columns of parquet

@many
@given(st.lists(st.one_of(st.integers(-2, 20), st.none(), st.booleans(), st.floats(), st.text(max_size=2)), max_size=6))
def test_any_column_of_labels_is_read_or_refused(column):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try: label = clean_labels(column, 'x.parquet')
        except ValueError as e: assert 'labels must be class numbers' in str(e) and "source='x.parquet'" in str(e); return
    missing = [v for v in column if v is None or v != v or v < 0]
    if missing: assert label is None and f'{len(missing)} of {len(column)} labels are missing' in str(said[0].message)
    else: assert label.tolist() == [int(v) for v in column] and label.dtype == torch.long

coordinate = st.one_of(st.floats(0, 100, width=32), st.integers(0, 100))
frame = dict(full=st.tuples(st.integers(8, 100), st.integers(8, 100)), out=st.tuples(st.integers(8, 100), st.integers(8, 100)), how=method)

@many
@given(box=st.one_of(st.none(), st.lists(st.one_of(coordinate, st.none(), st.just(float('nan'))), max_size=5)), good=st.booleans(), **frame)
def test_any_box_is_read_or_refused(box, good, full, out, how):
    fit = fit_box(full, out, how)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: found = clean_boxes([box, [0., 0., 1., 1.]] if not good else [[0., 0., 1., 1.]], [full] * (1 if good else 2), [fit] * (1 if good else 2), 'x.parquet')
        except ValueError as e: assert 'boxes must be [x0, y0, x1, y1]' in str(e) and (len(box) != 4 or box[2] < box[0] or box[3] < box[1]); return
    if not good and (box is None or any(v is None or v != v for v in box)): assert found is None; return
    assert found.shape[1] == 4 and found.min() >= 0 and (found[:, :2] + found[:, 2:]).max() <= 1 + 1e-5

@many
@given(x=st.tuples(*[st.floats(0, 1, width=32)] * 4), **frame)
def test_a_box_inside_what_is_shown_keeps_its_pixels(x, full, out, how):
    "Back from fractions of the shown part to pixels of the file"
    t, l, h, w = fit = fit_box(full, out, how)
    x0, x1, y0, y1 = *sorted(max(0, l) + v * (min(1, l + w) - max(0, l)) for v in x[:2]), *sorted(max(0, t) + v * (min(1, t + h) - max(0, t)) for v in x[2:])
    box = clean_boxes([[x0 * full[0], y0 * full[1], x1 * full[0], y1 * full[1]]], [full], [fit], 'x')[0]
    back = torch.tensor([t + box[0] * h, l + box[1] * w, t + (box[0] + box[2]) * h, l + (box[1] + box[3]) * w])
    assert torch.allclose(back, torch.tensor([y0, x0, y1, x1], dtype=torch.float32), atol=2e-5)

@many
@given(st.lists(st.one_of(st.none(), st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2)), max_size=5))
def test_any_column_of_captions_is_strings(column):
    "One string a picture, '' where nothing is said; a list only where several captions are"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # those that have none are counted
        found = clean_captions(column)
    assert len(found) == len(column)
    for o in found: assert isinstance(o, str) or len(o) > 1 and all(isinstance(s, str) and s.strip() for s in o)

PICTURE = as_bytes(photo(size=(12, 10)))
@many
@given(rows=st.lists(st.tuples(st.sampled_from([PICTURE, PICTURE[:60], b'', None]), st.one_of(st.none(), st.integers(-1, 3)), st.one_of(st.none(), st.text(max_size=2))), min_size=1, max_size=5), struct=st.booleans(), group=st.integers(1, 3))
def test_any_parquet_is_read_or_refused_the_same_way_lazily(rows, struct, group):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        image = pa.array([dict(bytes=o, path=None) for o, *_ in rows], pa.struct([('bytes', pa.binary()), ('path', pa.string())])) if struct else pa.array([o for o, *_ in rows], pa.binary())
        parquet.write_table(pa.table(dict(image=image, label=pa.array([o[1] for o in rows], pa.int64()), caption=pa.array([o[2] for o in rows], pa.string()))), f'{folder}/x.parquet', row_group_size=group)
        good = [i for i, o in enumerate(rows) if o[0] == PICTURE]
        lazy = lazy_shards([f'{folder}/x.parquet'], 8)
        try: p = load_parquet(f'{folder}/x.parquet', 8)
        except ValueError as e:
            assert not good and 'none of' in str(e)
            with pytest.raises(ValueError, match='none of'): lazy.channels
            return
        q = lazy[good]
        assert len(p) == len(good) and torch.equal(p.image, q.image) and p.caption == q.caption and len(p.skipped) == len(rows) - len(good)
        if p.label is not None and lazy.label is not None: assert torch.equal(p.label, q.label)

def test_shards_that_do_not_go_together_are_refused(tmp_path):
    a = write_parquet(tmp_path / 'a.parquet', [PICTURE])
    parquet.write_table(pa.table(dict(image=['a text'])), tmp_path / 'b.parquet')
    with pytest.raises(ValueError, match='a.parquet.*not readable as parquet'): load_parquet([a, tmp_path / 'b.parquet'])
    with pytest.raises(ValueError, match='label=5: the metadata names 2 classes'): load_parquet(write_parquet(tmp_path / 'c.parquet', [PICTURE], dict(label=dict(names=['a', 'b'], _type='ClassLabel')), label=[5]))


# what is too little to train on, or too plain

@pytest.mark.parametrize('in_memory', [True, False])
def test_pictures_of_one_colour_are_trained_on_and_stay_finite(tmp_path, in_memory):
    from mssl.siamese import siamese_learner
    for i in range(16): Image.new('RGB', (16, 16), (9, 9, 9) if i < 8 else (i, 200, 3)).save(tmp_path / f'{i}.png')
    dls = image_dls(tmp_path, bs=7, device='cpu', in_memory=in_memory, workers=0)
    learn = siamese_learner(dls, 'resnet10_tiny', size=16)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    assert np.isfinite([v for row in learn.recorder.values for v in row]).all() and all(torch.isfinite(p).all() for p in learn.model.parameters())

@pytest.mark.parametrize('in_memory', [True, False])
def test_one_picture_alone_is_too_few(tmp_path, in_memory):
    photo().save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='at least 2 pictures are needed, got 1'): image_dls(tmp_path, in_memory=in_memory)
    photo(1).save(tmp_path / 'b.png')
    with pytest.raises(ValueError, match='compared with each other, 1 to train on and 1 to validate'): pretrain(tmp_path / 'run', data=str(tmp_path), epochs=1, bs=8, size=16, device='cpu', show_bar=False)
    with pytest.raises(ValueError, match='bs=1: a whole number at least 2'): pretrain(tmp_path / 'other', data=str(tmp_path), bs=1)

def test_an_empty_or_wrong_folder_is_said(tmp_path):
    (tmp_path / 'notes.txt').write_text('x')
    for in_memory in (None, True, False):
        with pytest.raises(ValueError, match='no pictures in this folder.*1 other files'): image_dls(tmp_path, in_memory=in_memory)
        with pytest.raises(ValueError, match='is not known'): image_dls(tmp_path / 'nowhere', in_memory=in_memory)
