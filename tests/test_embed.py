"""A vector per file: right file, right vector, whatever lies in the folder; and a page that opens alone."""
import json, re, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pytest, torch
from PIL import Image
from pyarrow import parquet
import mssl
from mssl.data import decode
from mssl.embed import embed_pictures, load_embeddings, neighbour_rows, picture_items, save_embeddings, write_neighbours
from mssl.encoders import PreparedEncoder, create_encoder, load_encoder, save_encoder
from mssl.scenes import scenes

def command(folder):
    "The installed command; in an environment that was installed before there was one, the same as a script"
    if found := shutil.which('mssl_embed', path=str(Path(sys.executable).parent)): return [found]
    (folder / 'embed_it.py').write_text('from mssl.cli import mssl_embed\nmssl_embed()\n')
    return [sys.executable, '-W', 'ignore', str(folder / 'embed_it.py')]

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path, drawn = tmp_path_factory.mktemp('pictures'), scenes(40, 40)
    for i, x in enumerate(drawn.image):
        f = path / drawn.classes[drawn.label[i]] / f'{i:02}.png'
        f.parent.mkdir(exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(f)
    Image.fromarray(drawn.image[0, 0].numpy()).resize((60, 30)).save(path / 'grey & wide.png')
    (path / 'torn.jpg').write_bytes(b'\xff\xd8 half')
    Image.new('RGB', (4, 4)).save(path / 'tiny.png')
    (path / 'notes.txt').write_text('no picture')
    (path / '.hidden').mkdir(); Image.new('RGB', (40, 40)).save(path / '.hidden' / 'x.png')
    return path

def test_every_file_has_its_own_vector(folder, tmp_path):
    e = embed_pictures(folder, 'scenes_convnet', bs=7)
    assert len(e) == 41 and e.z.shape == (41, 192) and sorted(n for n, _ in e.skipped) == ['tiny.png', 'torn.jpg'] and '2 skipped' in repr(e)
    encoder = load_encoder('scenes_convnet')
    for i in (0, 7, 20, e.names.index('grey & wide.png')):
        x = torch.from_numpy(decode(folder / e.names[i], (32, 32))[0].copy()).permute(2, 0, 1)[None]
        with torch.no_grad(): assert (encoder(x)[0] - e.z[i]).abs().max() < 1e-4
    items = [name for name, _ in picture_items(folder)]
    assert [items[p] for p in e.place] == e.names and not any('hidden' in o for o in items)
    assert torch.allclose(e.z, embed_pictures(folder, encoder, bs=64).z, atol=1e-5), 'whatever the batch'

def test_the_parquet_comes_back_and_says_what_made_it(folder, tmp_path):
    e = embed_pictures(folder, 'scenes_high_pass')
    names, z = load_embeddings(save_embeddings(e, tmp_path / 'e.parquet'))
    assert names == e.names and torch.equal(z, e.z)
    info = json.loads(parquet.read_schema(tmp_path / 'e.parquet').metadata[b'mssl'])
    assert info['encoder'] == 'scenes_high_pass' and info['filter']['name'] == 'high_pass' and [o[0] for o in info['skipped']] == [n for n, _ in e.skipped]
    assert np.allclose(np.stack(parquet.read_table(tmp_path / 'e.parquet').to_pandas()['vector']), e.z.numpy()), 'pandas reads it too'

def test_parquet_sources_in_shards_and_beside_embeddings(folder, tmp_path):
    def rows(files): return [dict(bytes=f.read_bytes(), path=f.name) for f in files]
    files = sorted(folder.rglob('*/*.png'))[:12]
    for k in (0, 1): parquet.write_table(pa.table(dict(image=rows(files[6 * k:6 * k + 6]))), tmp_path / f'part-{k}.parquet', row_group_size=4)
    e = embed_pictures(tmp_path, 'scenes_convnet', bs=5)
    assert e.names[0] == 'part-0.parquet row 0' and e.names[7] == 'part-1.parquet row 1' and len(e) == 12
    assert torch.allclose(e.z[7], embed_pictures(tmp_path / 'part-1.parquet', 'scenes_convnet').z[1], atol=1e-5)
    save_embeddings(e, tmp_path / 'embeddings.parquet')
    assert len(embed_pictures(tmp_path, 'scenes_convnet')) == 12, 'its own output is no source'
    parquet.write_table(pa.table(dict(image=[b'', None, rows(files[:1])[0]['bytes']])), tmp_path / 'bare.parquet')
    bare = embed_pictures(tmp_path / 'bare.parquet', 'scenes_convnet')
    assert bare.names == ['bare.parquet row 2'] and len(bare.skipped) == 2 and bare.place == [2]

def test_grey_encoders_and_their_size(folder, tmp_path):
    grey = PreparedEncoder(create_encoder('resnet10_tiny', in_chans=1), [.4], [.2]).eval()
    assert embed_pictures(folder, grey, size=16).z.shape[1] == 256
    with pytest.raises(ValueError, match='wants 4 channels'): embed_pictures(folder, PreparedEncoder(create_encoder('resnet10_tiny', in_chans=4), [.4] * 4, [.2] * 4))
    save_encoder(create_encoder('resnet10_tiny'), tmp_path, [.5] * 3, [.2] * 3, size=[24, 32])
    assert embed_pictures(folder, tmp_path).info['size'] == [24, 32] and embed_pictures(folder, tmp_path, size=40).info['size'] == [40, 40]

def test_neighbours_strangers_and_twins():
    z = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    z[:20] = z[:1] + .5 * z[:20]
    z[5], z[30] = z[4] * 3, -z[0]
    shown = neighbour_rows(z, 40, 4)
    near = {line[0][0]: line[1:] for line in shown['Nearest neighbours']}
    assert near[5][0] == (4, pytest.approx(1, abs=1e-5)) and all(q not in [r for r, _ in line] and len(line) == 4 for q, line in near.items())
    assert all(s == pytest.approx(torch.cosine_similarity(z[q], z[r], 0).item(), abs=1e-4) for q, line in near.items() for r, s in line)
    assert 30 in [line[0][0] for line in shown['Strangers: their nearest neighbour is far']]
    assert [[r for r, _ in line] for line in shown['Almost there twice']] == [[4, 5]], 'a pair is shown once'
    assert len(neighbour_rows(z[:3], 24, 6)['Nearest neighbours'][0]) == 3

def test_the_page_opens_alone_on_a_phone(folder, tmp_path):
    e = embed_pictures(folder, 'scenes_convnet')
    page = write_neighbours(tmp_path / 'n.html', e, folder, rows=41, k=3).read_text()
    assert not re.search(r'(src|href)="?(?!data:)[^" >]*(//|\.(png|js|css))', page) and 'width=device-width' in page
    assert 'torn.jpg' in page and 'grey &amp; wide.png' in page and 'grey & wide.png' not in page and '<script' not in page
    first = page[page.index('Nearest neighbours'):page.index('Strangers')]
    assert first.count('<div class=near>') == 41 and first.count('<figure>') == 164 and all('alt="' in t for t in re.findall(r'<img[^>]*', page))

def test_one_picture_and_a_broken_encoder(folder, tmp_path):
    one = tmp_path / 'one'; one.mkdir()
    Image.new('RGB', (40, 40), 'red').save(one / 'a.png')
    assert 'One picture has no neighbours' in write_neighbours(tmp_path / 'n.html', embed_pictures(one, 'scenes_convnet'), one).read_text()
    e = embed_pictures(folder, 'scenes_convnet'); e.z[3] = float('nan')
    assert 'this encoder is broken' in write_neighbours(tmp_path / 'n.html', e, folder).read_text()

def test_the_command(folder, tmp_path):
    cli = command(tmp_path)
    done = subprocess.run(cli + [str(folder), '--encoder', 'scenes_convnet', '--out', 'found', '--rows', '5'], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and '41 pictures, 192 numbers each, 2 skipped' in done.stdout and 'skipped: torn.jpg' in done.stderr, done.stdout + done.stderr
    assert {o.name for o in (tmp_path / 'found').iterdir()} == {'embeddings.parquet', 'neighbours.html'}
    done = subprocess.run(cli + [str(folder), '--encoder', 'nobody'], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and 'mssl_embed: ' in done.stderr and 'scenes_convnet' in done.stderr and 'Traceback' not in done.stderr, done.stderr

@pytest.mark.parametrize('args, words', [((), '--encoder: a run folder or the name'), (('scenes_convnet', '', 0, 'strech'), "did you mean 'squish'|method='strech'"), (('scenes_convnet', '', 0, 'crop', 64, 0), 'rows=0')])
def test_the_command_refuses_with_a_sentence(folder, args, words):
    from mssl.cli import mssl_embed
    with pytest.raises(SystemExit, match=words): mssl_embed(str(folder), *args)

@pytest.mark.parametrize('make, words', [(lambda p: None, 'no pictures in this folder'), (lambda p: (p / 'a.jpg').write_bytes(b'x'), 'none of 1 pictures could be read'), (lambda p: (p / 'a.parquet').write_bytes(b'x'), 'not readable as parquet')])
def test_bad_sources(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(ValueError, match=words): embed_pictures(tmp_path, 'scenes_convnet')
    parquet.write_table(pa.table(dict(x=[1])), tmp_path / 'other.parquet')
    with pytest.raises(ValueError, match="a column 'image' is needed, got x"): embed_pictures(tmp_path / 'other.parquet', 'scenes_convnet')
