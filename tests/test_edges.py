"The outline of a mask, the filter in front of it, and what a network answers"
import json, math
from importlib.resources import files
import numpy as np, pytest, torch
import torchvision.transforms.v2.functional as TF
from fastai.learner import Learner
from mssl import load_encoder
from mssl.core import mask_on_pixels
from mssl.data import image_dls
from mssl.edges import (FILLS, HighPass, edge_ratio, fill_masked, gaussian_blur, high_pass, outline_places, response_change,
                        response_ratio, responses)
from mssl.encoders import create_encoder
from mssl.evaluation import embed, knn_accuracy
from mssl.gauges import encode
from mssl.scenes import scenes
from mssl.siamese import Siamese, vicreg
from mssl.views import Views

STORED = files('mssl') / 'stored'
VIT = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3)


def natural(n, size=224):
    "Amplitude exactly 1/f"
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    f[0, 0] = np.inf
    x = np.fft.ifft2(np.fft.fft2(np.random.RandomState(0).randn(n, 3, size, size)) / f).real
    return torch.from_numpy(x / x.std((2, 3), keepdims=True)).float()

def random_cells(n, count=15, grid=7):
    torch.manual_seed(0)
    return (torch.rand(n, grid * grid).argsort(1).argsort(1) < count).view(n, grid, grid)

@pytest.mark.parametrize('size, k, sigma', [((32, 32), 3, .71), ((17, 40), 11, 5.), ((64, 64), 7, 3.), ((6, 9), 11, 2.)])
def test_blur_is_torchvisions(size, k, sigma):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert torch.allclose(gaussian_blur(x, k, sigma), TF.gaussian_blur(x, [k, k], [sigma, sigma]), atol=1e-6)

def test_a_flat_part_becomes_zero_and_nothing_but_detail_stays():
    x = torch.randn(2, 3, 40, 40)
    assert high_pass(torch.full((1, 3, 32, 32), 3.)).abs().max() < 1e-5
    assert torch.allclose(high_pass(x + 7), high_pass(x), atol=1e-5) and torch.allclose(high_pass(2 * x), 2 * high_pass(x), atol=1e-5)
    wave = lambda length: torch.cos(2 * math.pi * torch.arange(224.) / length).expand(1, 1, 224, 224)
    share = lambda length: high_pass(wave(length))[..., 60:160].std().item() / wave(length)[..., 60:160].std().item()
    assert share(112) < .05 and share(16.4) == pytest.approx(.5, abs=.02) and share(7) > 1.1, 'gain .5 at 16.4 px, overshoot to 1.14 (papers/mscn.md, A3)'

def test_settings_scale_with_the_picture():
    assert HighPass.for_size(224).settings == dict(kernel_size=11, sigma=5.)
    for size in (16, 32, 64, 96, 128, (160, 300), 448):
        f, side = HighPass.for_size(size), min(size) if isinstance(size, tuple) else size
        assert f.kernel_size % 2 == 1 and f.kernel_size >= 3 and abs(f.kernel_size - max(3, 11 * side / 224)) <= 1 and f.sigma == pytest.approx(5 * side / 224)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(HighPass(5, 1.)(x), high_pass(x, 5, 1.))

def test_edge_ratio_by_loops():
    x, m = torch.randn(2, 2, 5, 6, dtype=torch.float64), torch.rand(2, 2, 5, 6) < .4
    for i in range(2):
        across, visible = [], []
        for c in range(2):
            for r in range(5):
                for k in range(6):
                    for r2, k2 in ((r + 1, k), (r, k + 1)):
                        if r2 < 5 and k2 < 6:
                            hidden = int(m[i, c, r, k]) + int(m[i, c, r2, k2])
                            if hidden < 2: (across if hidden else visible).append(abs(x[i, c, r, k] - x[i, c, r2, k2]).item())
        assert edge_ratio(x, m)[i].item() == pytest.approx(np.mean(across) / np.mean(visible))

def test_edge_ratio_limits():
    x = torch.randn(3, 3, 21, 21)
    assert edge_ratio(x, torch.zeros(3, 7, 7, dtype=torch.bool)).isnan().all(), 'no outline'
    assert torch.allclose(edge_ratio(torch.randn(64, 3, 56, 56), random_cells(64)), torch.ones(64, dtype=torch.float64), atol=.1), 'untouched noise has no outline'
    half = torch.zeros(1, 1, 4, 4, dtype=torch.bool); half[..., 2:] = True
    assert edge_ratio(half.float(), half).isinf().all(), 'a flat picture'

def test_the_numbers_of_natural_pictures():
    "papers/mscn.md, A4: 1.55 raw with zeros, .99 filtered first, 1.49 in the wrong order"
    x, m = natural(48), random_cells(48)
    zero = lambda x: fill_masked(x, m, 'zero')
    for y, value in ((zero(x), 1.55), (zero(high_pass(x)), .99), (high_pass(zero(x)), 1.49)): assert edge_ratio(y, m).mean().item() == pytest.approx(value, abs=.04)

@pytest.mark.parametrize('fill', [*FILLS, -2., (1., 2., 3.)])
@pytest.mark.parametrize('channels', [1, 3])
def test_what_is_visible_stays(fill, channels):
    x, m = torch.randn(4, 3, 30, 30), random_cells(4 * channels).view(4, channels, 7, 7)
    y, hidden, before = fill_masked(x, m, fill), mask_on_pixels(m, (30, 30)).expand(4, 3, 30, 30), x.clone()
    y = y.x if fill == 'mix' else y
    assert torch.equal(y[~hidden], x[~hidden]) and torch.equal(x, before) and not torch.equal(y[hidden], x[hidden])

def test_fills_are_what_they_say():
    x, m = torch.randn(5, 3, 28, 28) + 1, random_cells(5)
    hidden = mask_on_pixels(m, (28, 28)).expand(5, 3, 28, 28)
    assert (fill_masked(x, m, 'zero')[hidden] == 0).all()
    assert torch.allclose(fill_masked(x, m, 'mean')[hidden], x.mean((2, 3), keepdim=True).expand_as(x)[hidden])
    assert torch.allclose(fill_masked(x, m, 'blur')[hidden], TF.gaussian_blur(x, [5, 5], [1.25, 1.25])[hidden], atol=1e-5), '31 taps and sigma 10 at 224 px'
    mixed = fill_masked(x, m, 'mix')
    assert (mixed.partner != torch.arange(5)).all() and torch.equal(mixed.x[hidden], x[mixed.partner][hidden]) and torch.allclose(mixed.share, torch.tensor([15 / 49], dtype=torch.float64).expand(5))
    assert torch.equal(fill_masked(x, m, (1, 2, 3.))[0, :, hidden[0, 0]].unique(dim=1), torch.tensor([[1.], [2.], [3.]]))

def test_noise_is_fresh_for_every_pixel():
    x, m = torch.zeros(64, 3, 28, 28), torch.ones(64, 1, 1, dtype=torch.bool)
    z = fill_masked(x, m, std=.18)
    assert z.std().item() == pytest.approx(.18, rel=.01) and abs(z.mean().item()) < .005
    assert len(z.flatten().unique()) > .99 * z.numel(), 'no tile pasted twice'
    g = lambda: torch.Generator().manual_seed(1)
    assert torch.equal(fill_masked(x, m, generator=g()), fill_masked(x, m, generator=g()))

def test_refusals():
    x, m = torch.randn(2, 3, 16, 16), torch.zeros(2, 4, 4, dtype=torch.bool)
    for call, words in ((lambda: high_pass(x, 4, 1.), 'kernel_size=4: an odd'), (lambda: high_pass(x, 3, 0.), 'sigma=0'), (lambda: high_pass(x, 33, 1.), 'kernel_size=33: at most 31'),
                        (lambda: edge_ratio(x.byte(), m), 'uint8'), (lambda: edge_ratio(x, m.float()), 'bool'), (lambda: edge_ratio(x, m[:1]), 'mask: 2 masks'),
                        (lambda: fill_masked(x, m, 'nois'), "did you mean 'noise'"), (lambda: fill_masked(x, m, (1., 2.)), '3 numbers'), (lambda: fill_masked(x[:1], m[:1], 'mix'), 'two pictures'),
                        (lambda: fill_masked(x, m, std=-1.), 'std=-1'), (lambda: responses(torch.nn.Conv2d(3, 3, 3), x), 'feature_info'),
                        (lambda: responses(create_encoder('resnet10_tiny'), x, leave=m), 'fill_masked'), (lambda: Views(16, filter='high_pass'), "filter='high_pass'")):
        with pytest.raises(ValueError) as e: call()
        assert words in str(e.value), e.value

def test_responses_are_the_encoders_own():
    net, x = create_encoder('resnet10_tiny').train(), torch.randn(2, 3, 32, 32)
    found = responses(net, x)
    assert list(found) == ['act1', 'layer1', 'layer2', 'layer3', 'layer4'] and net.training
    assert torch.allclose(found['layer4'], net.eval().forward_features(x)) and not any(o._forward_hooks for o in net.modules())
    assert all((v == 0).all() for v in response_change(found, found).values())

def test_what_left_a_vit_cannot_be_seen():
    "Whatever stood in a patch that leaves, the others answer the same; a square put there is noticed"
    torch.manual_seed(0)
    net, x = create_encoder('vit_tiny_patch16_224', **VIT), torch.randn(2, 3, 32, 32)
    leave = torch.zeros(2, 4, 4, dtype=torch.bool); leave[0, 1, 1:3] = True; leave[1, 3, :2] = True
    other = fill_masked(x, leave, 5.)
    a, b = responses(net, x, leave=leave), responses(net, other, leave=leave)
    for k in a: assert torch.equal(a[k].isnan().any(1), leave) and torch.equal(a[k].nan_to_num(), b[k].nan_to_num()) and a[k].shape == (2, 48, 4, 4)
    assert (responses(net, x)['blocks.1'] - responses(net, other)['blocks.1']).abs().max() > 1e-3
    with pytest.raises(ValueError, match='same number'): responses(net, x, leave=torch.tensor([[[True, False], [False, False]], [[True, True], [False, False]]]))

def test_outline_places_by_hand():
    m = torch.zeros(1, 1, 8, 8, dtype=torch.bool); m[..., 2:4, 2:4] = True
    outline, free = outline_places(m, 8, (8, 8))
    assert outline[0].sum() == 12 and free[0].sum() == 64 - 12, 'four hidden pixels and the eight beside them'
    coarse, _ = outline_places(m, 8, (4, 4))
    assert coarse[0].sum() == 5
    h = torch.ones(1, 2, 8, 8); h[:, :, outline[0]] = 3
    assert response_ratio(h, m, 8).item() == 3

def test_views_filter_and_the_encoder_keeps_it(tmp_path):
    torch.manual_seed(0)
    dls = image_dls('scenes', size=32, n=96, bs=32)
    learn = Learner(dls, Siamese('resnet10_tiny'), loss_func=vicreg, cbs=[Views(32, filter=HighPass.for_size(32))])
    image = scenes(8, 32).image
    torch.manual_seed(1); with_filter = learn.views.make(image)
    learn.views.filter, kept = None, learn.views.filter
    torch.manual_seed(1); without = learn.views.make(image)
    for a, b in zip(with_filter, without): assert torch.allclose(a, high_pass(b, 3, 5 * 32 / 224), atol=1e-5)
    learn.views.filter = kept
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    net = load_encoder(learn.save_encoder(tmp_path / 'mine'))
    assert json.loads((tmp_path / 'mine' / 'encoder.json').read_text())['filter'] == dict(name='high_pass', **HighPass.for_size(32).settings)
    z, _ = encode(learn, learn.dls.valid)
    assert torch.allclose(net(dls.valid_ds.image.cpu()), z, atol=1e-4), 'the gauges measure behind the filter too'

@pytest.mark.parametrize('name', ['convnet', 'high_pass', 'vit'])
def test_the_stored_encoders_know_what_their_runs_say(name):
    folder, run = STORED / 'encoders' / f'scenes_{name}', json.loads((STORED / 'runs' / f'encoder-{name}.json').read_text())
    assert sum((folder / o).stat().st_size for o in ('encoder.safetensors', 'encoder.json')) < 2e6
    net, train, test = load_encoder(f'scenes_{name}'), scenes(10_000, 64), scenes(1000, 64, seed=1_000_003)
    small = lambda x: TF.resize(x.float() / 255, [32, 32], antialias=True)
    knn = knn_accuracy(embed(net, small(train.image)).z, train.label, embed(net, small(test.image)).z, test.label)
    assert knn == pytest.approx(run['results']['encoder']['knn'], abs=.03) and knn > run['results']['untrained']['knn'] + .2

def test_the_chapters_claim_in_one_picture():
    "A trained net answers a black square's outline more than anything else; behind the filter it does not"
    x = scenes(64, 64, seed=11).image
    m = torch.zeros(64, 7, 7, dtype=torch.bool); m[:, 2:4, 3:5] = True
    net, behind = load_encoder('scenes_convnet'), load_encoder('scenes_high_pass')
    raw = response_ratio(responses(net.encoder, fill_masked(net.prepare(x), m, (-net.mean / net.std).flatten().tolist()))['layer1'], m, 64)
    filtered = response_ratio(responses(behind.encoder, fill_masked(behind.prepare(x), m, 'zero'))['layer1'], m, 64)
    assert raw.mean() > 3 and filtered.mean() < 1.5
