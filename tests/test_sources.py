"""Data sets by name, from copies laid out as the archives are: classes, splits, labels; no network is needed for what is there."""
import numpy as np, pytest, torch
from pathlib import Path
from mssl import sources
from mssl.data import ResidentLoader, image_dls, load_pictures
from mssl.lazy import LazyLoader
from mssl.sources import SOURCES, WORDNET, find_known, known_folder
from test_data import folder_of, photo

@pytest.fixture
def home(tmp_path, monkeypatch):
    "fastai's folder of data, empty, and a machine without a network"
    monkeypatch.setattr(sources, 'fastai_path', lambda key: tmp_path / key)
    def none(*args, **kwargs): raise OSError('Network is unreachable')
    monkeypatch.setattr(sources, 'untar_data', none); monkeypatch.setattr(sources, 'download_and_extract_archive', none)
    return tmp_path / 'data'

def cifar10(home): # labels.txt, train/<class>/<number>_<class>.png, test/...
    for split, each in (('train', 6), ('test', 2)): folder_of(home / 'cifar10' / split, ['airplane', 'truck'], each, (32, 32))
    (home / 'cifar10' / 'labels.txt').write_text('airplane\ntruck\n')

def imagenette(home, name='imagenette2-320'): # train/<wnid>/*.JPEG, val/..., noisy_imagenette.csv
    for split, each in (('train', 5), ('val', 3)):
        for w in ('n01440764', 'n03888257'):
            (home / name / split / w).mkdir(parents=True)
            for i in range(each): photo(i, (40 + i, 36)).save(home / name / split / w / f'{w}_{i}.JPEG')
    (home / name / 'noisy_imagenette.csv').write_text('path,noisy_labels_0\n')

def pets(home): # images/Breed_1.jpg, images/Breed_1.mat, annotations/{list,trainval,test}.txt, annotations/trimaps/*.png
    images, notes = home / 'oxford-iiit-pet' / 'images', home / 'oxford-iiit-pet' / 'annotations'
    images.mkdir(parents=True), (notes / 'trimaps').mkdir(parents=True)
    names = [f'{b}_{i}' for b in ('Abyssinian', 'great_pyrenees', 'wheaten_terrier') for i in (1, 2, 10, 100)]
    for k, o in enumerate(names): photo(k, (50, 40)).save(images / f'{o}.jpg'), photo(k).convert('L').save(notes / 'trimaps' / f'{o}.png')
    (images / 'Abyssinian_100.mat').write_bytes(b'')
    lines = [f'{o} 1 1 1' for o in names]
    (notes / 'list.txt').write_text('#Image CLASS-ID SPECIES BREED ID\n' + '\n'.join(lines))
    (notes / 'trainval.txt').write_text('\n'.join(lines[::2]) + '\n'), (notes / 'test.txt').write_text('\n'.join(lines[1::2]) + '\n')
    return names

def stl10(home):
    root, x = home / 'stl10_binary', np.random.default_rng(0).integers(0, 256, (9, 3, 96, 96), dtype=np.uint8)
    root.mkdir(parents=True)
    for name, part in (('unlabeled', x[:4]), ('train', x[4:7]), ('test', x[7:])): part.transpose(0, 1, 3, 2).tofile(root / f'{name}_X.bin')
    np.array([1, 10, 3], np.uint8).tofile(root / 'train_y.bin'), np.array([2, 2], np.uint8).tofile(root / 'test_y.bin')
    (root / 'class_names.txt').write_text('airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n')
    return torch.from_numpy(x)

def test_cifar10(home):
    cifar10(home)
    train, valid = load_pictures('cifar10')
    assert len(train) == 12 and len(valid) == 4 and train.classes == ['airplane', 'truck'] and train.image.shape[2:] == (32, 32) and train.name == 'cifar10' and valid.label.tolist() == [0, 0, 1, 1]

@pytest.mark.parametrize('name', SOURCES['imagenette'])
def test_imagenette_in_any_of_its_sizes_with_names_for_its_numbers(home, name):
    imagenette(home, name)
    train, valid = load_pictures('imagenette', 32)
    assert len(train) == 10 and len(valid) == 6 and train.classes == valid.classes == ['tench', 'parachute'] and len(WORDNET) == 10
    assert load_pictures('imagenette', 32, labels=False)[0].label is None

def test_pets_take_the_breed_from_the_name_and_the_split_from_the_lists(home):
    names = pets(home)
    train, valid = find_known('pets')
    assert [Path(f).stem for f in train.files] == sorted(names[::2]) and len(valid) == 6 and not set(train.files) & set(valid.files)
    assert train.classes == ['Abyssinian', 'great_pyrenees', 'wheaten_terrier'] and all(Path(f).stem.rpartition('_')[0] == train.classes[k] for f, k in zip(train.files, train.label))
    assert load_pictures('pets', 16)[0].label.tolist() == [0, 0, 1, 1, 2, 2] and load_pictures('pets', 16, labels=False)[1].label is None
    (home / 'oxford-iiit-pet' / 'annotations' / 'test.txt').unlink()
    assert [len(o) for o in load_pictures('pets', 16, valid_pct=.25)] == [9, 3], 'without the lists a random share is kept'
    for f in (home / 'oxford-iiit-pet' / 'images').glob('*.jpg'): f.rename(f.with_name(f.stem.replace('_', '-') + '.jpg'))
    with pytest.raises(ValueError, match='no picture is named as in Abyssinian_1.jpg'): find_known('pets')

def test_stl10_trains_without_labels_and_with_them_when_asked(home):
    x = stl10(home)
    train, valid = load_pictures('stl10')
    assert torch.equal(train.image, x[:4]) and torch.equal(valid.image, x[4:7]) and train.label is None and valid.label is None and train.name == 'stl10'
    train, valid = load_pictures('stl10', labels=True)
    assert torch.equal(train.image, x[4:7]) and train.label.tolist() == [0, 9, 2] and valid.label.tolist() == [1, 1] and train.classes[9] == 'truck'
    dls = image_dls('stl10', at_most=48, bs=2, device='cpu', in_memory=False, workers=1)
    assert isinstance(dls.train, LazyLoader) and dls.one_batch()[0].shape == (2, 3, 48, 48) and isinstance(image_dls('stl10', bs=2, device='cpu').train, ResidentLoader)
    (home / 'stl10_binary' / 'train_y.bin').write_bytes(b'\1')
    with pytest.raises(ValueError, match='1 labels for 3 pictures'): load_pictures('stl10', labels=True)
    (home / 'stl10_binary' / 'unlabeled_X.bin').write_bytes(b'half')
    with pytest.raises(ValueError, match='unlabeled_X.bin.*not there, or not whole'): load_pictures('stl10')

@pytest.mark.parametrize('name', SOURCES)
def test_a_download_that_fails_says_where_to_put_the_data(home, name):
    with pytest.raises(ValueError, match=rf"source='{name}': not found in .* not to be downloaded \(OSError: Network is unreachable\)\. Unpack http.* to .*{SOURCES[name][0]}"): image_dls(name)

def test_what_is_missing_is_downloaded_from_its_address(home):
    asked = []
    def download(url):
        asked.append(url)
        cifar10(home)
        return home / 'cifar10'
    assert known_folder('cifar10', download) == home / 'cifar10' == known_folder('cifar10', download) and len(asked) == 1 and asked[0].endswith('cifar10.tgz')

def test_a_folder_of_that_name_is_the_folder(home, tmp_path, monkeypatch):
    folder_of(tmp_path / 'here' / 'pets')
    monkeypatch.chdir(tmp_path / 'here')
    assert load_pictures('pets', 16)[0].classes == ['cat', 'dog']

def test_near_misses_of_names():
    with pytest.raises(ValueError, match="did you mean 'imagenette'"): load_pictures('imagenete')
