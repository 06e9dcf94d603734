"""Blind to what: encoders whose answer is known, and a report without labels."""
import math
import pytest, torch
from torch import nn
from mssl.encoders import PreparedEncoder, load_encoder
from mssl.scenes import scenes
from mssl.unlabelled import FAMILIES, BlindTo, blind_to, squeezed

@pytest.fixture(scope='module')
def pictures(): return scenes(48, 24).image

def of(found): return {r.family: r for r in found}

def test_mean_colour_sees_no_flip_and_raw_pixels_see_all(pictures):
    colour = of(blind_to(lambda x: x.mean((2, 3)), pictures))
    assert max(colour[k].moved for k in ('flip', 'upside down', 'quarter turn')) < 1e-3 and colour['flip'].found == 1 and colour['flip'].word == 'blind'
    assert min(colour[k].moved for k in ('grey', 'hue', 'light')) > .3
    pixels = of(blind_to(lambda x: x.flatten(1), pictures))
    assert set(pixels) == set(FAMILIES) and min(r.moved for k, r in pixels.items() if k not in ('blur', 'noise')) > .1
    assert pixels['blur'].found > .9

def test_the_unit_is_the_distance_to_another_picture(pictures):
    "An encoder that answers every change with another picture's features is 1 away; scale and shift of the features change nothing"
    x = squeezed(pictures, None)
    z = nn.functional.normalize(torch.randn(len(x), 64, generator=torch.Generator().manual_seed(0)), dim=1)
    calls = []
    def shuffled(x): calls.append(1); return z if len(calls) == 1 else z.roll(1, 0)
    assert blind_to(shuffled, pictures, 'flip')[0].moved == pytest.approx(1, abs=.05)
    a, b = (of(blind_to(f, pictures, ['crop', 'grey'])) for f in (lambda x: x.mean((2, 3)), lambda x: 7 * x.mean((2, 3)) + 3))
    assert all(a[k].moved == pytest.approx(b[k].moved, abs=1e-3) for k in a)

def test_each_family_does_what_it_says():
    g, x = torch.Generator().manual_seed(0), torch.rand(6, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    done = {k: f(x, g) for k, (_, f, _) in FAMILIES.items()}
    assert all(o.shape == x.shape and o.isfinite().all() and not torch.allclose(o, x, atol=1e-2) for o in done.values())
    assert torch.equal(done['flip'].flip(3), x) and torch.equal(done['upside down'].flip(2), x) and (done['grey'].std(1) < 1e-6).all()
    assert done['blur'].std((2, 3)).mean() < .7 * x.std((2, 3)).mean() and (done['noise'] - x).std() == pytest.approx(.1, rel=.1)
    assert torch.equal(done['solarise'], torch.where(x >= .5, 1 - x, x))
    square = torch.zeros(1, 3, 21, 21); square[..., 10, 3] = 1
    turned = FAMILIES['rotation'][1](square, g)[0, 0]
    row, column = (o.item() for o in torch.stack(torch.meshgrid(torch.arange(21.), torch.arange(21.), indexing='ij')).mul(turned).sum((1, 2)) / turned.sum())
    assert math.hypot(row - 10, column - 10) == pytest.approx(7, abs=.4) and math.degrees(math.atan2(abs(row - 10), abs(column - 10))) == pytest.approx(20, abs=3)
    assert torch.equal(FAMILIES['quarter turn'][1](square, g).rot90(3, (2, 3)), square)

def test_it_can_be_repeated_and_leaves_random_numbers_alone(pictures):
    encoder, before = load_encoder('scenes_convnet'), torch.get_rng_state()
    a, b = (blind_to(encoder, pictures, ['crop', 'noise']) for _ in range(2))
    assert [r.moved for r in a] == [r.moved for r in b] and torch.equal(before, torch.get_rng_state())
    assert [r.moved for r in a] == pytest.approx([r.moved for r in blind_to(encoder, pictures, ['crop', 'noise'], bs=48)], rel=1e-4)

def test_sentences_figure_and_order(pictures):
    found = blind_to(load_encoder('scenes_convnet'), pictures)
    assert [r.moved for r in found] == sorted(r.moved for r in found) and found[0].family in ('hue', 'grey')
    assert found.words().startswith('It is blind to ') and 'hue' in found.words() and f'{found.spread:.2f} of 1' in found.gauges()
    assert all(r.family in found.show().alt and r.family in repr(found) for r in found) and found.show(found).get_size_inches()[0] < 5.5

def test_a_collapsed_encoder_is_said_to_be_collapsed(pictures):
    found = blind_to(lambda x: torch.ones(len(x), 8), pictures, ['flip', 'grey'])
    assert 'collapsed' in found.gauges() and all(r.moved == 0 for r in found)

def test_bad_input(pictures):
    with pytest.raises(ValueError, match="did you mean 'rotation'"): blind_to(lambda x: x.mean((2, 3)), pictures, 'rotaton')
    with pytest.raises(ValueError, match='at least 3'): blind_to(lambda x: x.mean((2, 3)), pictures[:2])
    with pytest.raises(ValueError, match='nan or inf'): blind_to(lambda x: x.mean((2, 3)) * math.nan, pictures)
    with pytest.raises(ValueError, match='grey need pictures of 3 channels, got 1'): blind_to(lambda x: x.mean((2, 3)), pictures[:, :1], 'grey')
    assert {r.family for r in blind_to(lambda x: x.flatten(1), pictures[:, :1])} == {k for k, (_, _, colour) in FAMILIES.items() if not colour}

def test_the_report_without_labels_says_what_it_is_blind_to(tmp_path):
    from mssl.train import pretrain
    pretrain(tmp_path, data='scenes', labels=False, n=96, bs=32, size=16, epochs=1, show_bar=False)
    page = (tmp_path / 'report.html').read_text()
    for words in ('What it is blind to', 'Nearest neighbours', 'While it trained', 'spread ', 'dimensions in use', 'quarter turn', 'the same network untrained'): assert words in page, words
    assert '20-NN' not in page and 'trained with labels' not in page
