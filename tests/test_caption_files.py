"Where captions lie: JSON, tables, a text file each, COCO's annotations, parquet; what is broken is named."
import json, warnings

import pyarrow as pa, pytest, torch
from PIL import Image
from pyarrow import parquet

from mssl.caption_files import coco_captions, read_captions, told
from mssl.data import load_folder, load_parquet, load_pictures

SAID = {'a.png': ['a red star'], 'b.png': ['two cats', 'cats on a sofa'], 'sub/c.png': ['a dog, running']}


@pytest.fixture
def folder(tmp_path):
    "Three pictures that differ in colour, one in a folder of its own"
    for i, name in enumerate(SAID):
        (tmp_path / 'set' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (16, 16), (60 * i, 0, 0)).save(tmp_path / 'set' / name)
    return tmp_path / 'set'


def as_json(folder): (folder / 'captions.json').write_text(json.dumps({k: v if len(v) > 1 else v[0] for k, v in SAID.items()}))
def as_jsonl(folder): (folder / 'metadata.jsonl').write_text('\n\n'.join(json.dumps(dict(file_name=k, text=s)) for k, v in SAID.items() for s in v) + '\n')
def as_csv(folder): (folder / 'metadata.csv').write_text('\ufefffile_name,caption\r\n' + ''.join(f'{k},"{s}"\r\n' for k, v in SAID.items() for s in v), encoding='utf-8')
def as_captions_csv(folder): (folder / 'captions.csv').write_text('caption,image\n' + ''.join(f'"{s}",{k}\n' for k, v in SAID.items() for s in v))
def as_txt(folder):
    for k, v in SAID.items(): (folder / k).with_suffix('.txt').write_text('\n'.join(v) + '\n\n')
def as_coco(folder):
    (folder.parent / 'annotations').mkdir()
    images = [dict(id=7 * i + 3, file_name=k) for i, k in enumerate(SAID)]
    said = [dict(id=j, image_id=7 * i + 3, caption=s) for i, v in enumerate(SAID.values()) for j, s in enumerate(v)]
    (folder.parent / 'annotations' / f'captions_{folder.name}.json').write_text(json.dumps(dict(images=images, annotations=said + [dict(id=99, image_id=-1, caption='of a picture that is not here')])))

EVERY = [as_json, as_jsonl, as_csv, as_captions_csv, as_txt, as_coco]


@pytest.mark.parametrize('write', EVERY)
def test_every_layout_says_the_same(folder, write):
    write(folder)
    assert read_captions(folder) == SAID


@pytest.mark.parametrize('write', EVERY)
def test_captions_belong_to_their_pictures(folder, write):
    write(folder)
    got = load_folder(folder)
    assert {round(float(x[0].float().mean()) / 60): c for x, c in zip(got.image, got.caption)} == {0: 'a red star', 1: ['two cats', 'cats on a sofa'], 2: 'a dog, running'}


def test_nothing_said_is_no_captions(folder):
    assert read_captions(folder) == {} and load_folder(folder).caption is None


def test_a_readme_is_no_caption(folder):
    (folder / 'README.txt').write_text('about this set')
    assert read_captions(folder) == {}


def test_text_beside_json_and_picture(folder):
    "img2dataset's layout: picture, text and JSON share a name"
    as_txt(folder)
    (folder / 'a.json').write_text('{}'), (folder / 'a.b.png').write_bytes((folder / 'b.png').read_bytes())
    assert read_captions(folder)['a.png'] == SAID['a.png']
    assert 'a.b.png' not in read_captions(folder), 'another picture whose name begins alike'


def test_names_with_glob_characters(folder):
    Image.new('RGB', (16, 16)).save(folder / 'x[1].png')
    (folder / 'x[1].txt').write_text('brackets')
    assert read_captions(folder)['x[1].png'] == ['brackets']


def test_missing_captions_are_counted(folder):
    (folder / 'captions.json').write_text(json.dumps({'a.png': 'a star', 'b.png': None, 'sub/c.png': '  '}))
    with pytest.warns(UserWarning, match='2 of 3 pictures have no caption'): got = load_folder(folder)
    assert sorted(got.caption) == ['', '', 'a star']


@pytest.mark.parametrize('name, text, said', [
    ('captions.json', '{broken', 'captions.json is no readable JSON'),
    ('captions.json', '["a", "b"]', 'must be a table from file names to captions'),
    ('captions.json', '{"a.png": 3}', 'captions.json says 3 of a.png, words are needed'),
    ('captions.json', '{"a.png": ["x", 4]}', 'says 4 of a.png'),
    ('metadata.csv', 'name,words\na.png,x\n', 'needs the columns file_name or filename and caption'),
    ('metadata.csv', 'caption,file_name\nonly words\n', 'metadata.csv names no file'),
    ('metadata.jsonl', '{"file_name": "a.png", "text": "x"}\noops\n', 'line 2 of metadata.jsonl is no JSON'),
    ('metadata.jsonl', '[1]\n', 'line 1 of metadata.jsonl is no row'),
])
def test_what_is_broken_is_named(folder, name, text, said):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=said): read_captions(folder)


@pytest.mark.parametrize('data, said', [({}, "lacks 'images' or 'annotations'"), (dict(images=[dict(id=1)], annotations=[]), 'without id, file_name'), (dict(images=[1], annotations=[]), 'without id'),
                                        (dict(images=[dict(id=1, file_name='a.png')], annotations=[dict(image_id=1, caption=5)]), 'words are needed')])
def test_broken_coco(tmp_path, data, said):
    (tmp_path / 'captions_x.json').write_text(json.dumps(data))
    with pytest.raises(ValueError, match=said): coco_captions(tmp_path / 'captions_x.json')


def test_told():
    with pytest.warns(UserWarning, match='here: 3 of 6 pictures have no caption'): got = told(['a  cat\n', ['a', ' b  c '], ['one', ''], None, '', []], 'here')
    assert got == ['a cat', ['a', 'b c'], 'one', '', '', '']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert told(['a'], 'here') == ['a']


@pytest.mark.parametrize('column', ['caption', 'captions', 'text'])
def test_parquet_with_several_captions(folder, tmp_path, column):
    image = [dict(bytes=(folder / k).read_bytes(), path=k) for k in SAID]
    parquet.write_table(pa.table({'image': image, column: pa.array([SAID['a.png'], SAID['b.png'], None], pa.list_(pa.string()))}), tmp_path / 'train.parquet')
    with pytest.warns(UserWarning, match='1 of 3 pictures have no caption'): got = load_parquet(tmp_path / 'train.parquet')
    assert got.caption == ['a red star', ['two cats', 'cats on a sofa'], '']


def test_some_of_the_pictures_keep_their_captions(folder):
    as_json(folder)
    got = load_folder(folder)
    some = got[[2, 0]]
    assert some.caption == [got.caption[2], got.caption[0]] and torch.equal(some.image, got.image[[2, 0]])


# Real sets

def test_coco(shared):
    path = shared / 'data/coco_mini'
    train, valid = load_pictures(path, 32)
    truth = json.loads((path / 'annotations/captions_train2017.json').read_text())
    names = {o['id']: o['file_name'] for o in truth['images']}
    wanted = {}
    for o in truth['annotations']: wanted.setdefault(names[o['image_id']], []).append(' '.join(o['caption'].split()))
    files = sorted(o.name for o in (path / 'train2017').iterdir())
    assert len(train) == len(files) and [train.caption[i] if isinstance(train.caption[i], list) else [train.caption[i]] for i in range(len(files))] == [wanted[f] for f in files]
    assert all(valid.caption) and min(len(c) for c in train.caption) >= 5, "COCO has five captions a picture and more"


def test_fashion_captions(shared):
    path = shared / 'data/fashion_captions/val.parquet'
    got, table = load_parquet(path, 16), parquet.read_table(path, columns=['caption'])['caption'].to_pylist()
    assert len(got) == len(table) and all(isinstance(o, str) and o for o in got.caption)
    assert got.caption == [' '.join(o.split()) for o in table] and len(set(got.caption)) < len(got), 'several pictures share a caption'
