"What the measures promise: limit cases, invariances, scikit-learn's answers, and no look at the test labels"
import math
import numpy as np, pytest, torch
from torch import nn
from torch.nn import functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from mssl.encoders import PreparedEncoder, create_encoder
from mssl.evaluation import (alignment, embed, embed_maps, feature_map, pixel_features, fit_linear, knn_accuracy, knn_predict, linear_probe, nearest,
                             rank_me, spread, uniformity)

def blobs(n, classes=6, width=16, seed=0, distance=1.5):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    return torch.eye(classes, width)[y] * distance + torch.randn(n, width, generator=g), y

@pytest.fixture(scope='module')
def sets(): return *blobs(1200), *blobs(700, seed=1)

def rotation(width, seed=0): return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())[0]

# pixels

def test_pixel_features_are_the_small_picture_without_the_channels_means():
    x = pictures(20).repeat_interleave(2, 2).repeat_interleave(2, 3) # 16 px, each pixel four times
    z = pixel_features(x, 8).view(20, 3, 8, 8)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    same = pixel_features(pictures(20), 8).view(20, 3, 8, 8) # no change of size: the pixels themselves
    assert torch.allclose(same, pictures(20) / 255 - (pictures(20) / 255).mean((0, 2, 3)).view(3, 1, 1), atol=1e-5)
    assert torch.allclose(pixel_features(pictures(5), 8, mean=(.1, .2, .3)).view(5, 3, 64)[:, 2], pictures(5)[:, 2].flatten(1) / 255 - .3, atol=1e-5)

def test_pixel_features_of_flat_pictures_are_flat():
    x = torch.full((4, 3, 40, 30), .25) + torch.arange(4).view(4, 1, 1, 1) / 8
    z = pixel_features(x, 16, mean=(0, 0, 0))
    assert z.shape == (4, 768) and torch.allclose(z, x[:, :1, 0, 0].expand(4, 768))
    with pytest.raises(ValueError, match='size=0'): pixel_features(x, 0)
    with pytest.raises(ValueError, match='images'): pixel_features(x[0])

# embed

def pictures(n=37): return torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
def small_net(): return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(.5), nn.ReLU())

def test_embed_does_not_depend_on_the_batch_size():
    net = small_net()
    assert torch.allclose(embed(net, pictures(), bs=5).z, embed(net, pictures(), bs=64).z, atol=1e-6)

def test_embed_leaves_the_net_as_it_was():
    net = small_net().train()
    net[1].eval()
    modes, state = [m.training for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}
    z = embed(net, pictures()).z
    assert [m.training for m in net.modules()] == modes and not z.requires_grad
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())

def test_embed_restores_the_modes_after_an_error():
    net = nn.Sequential(small_net(), nn.Flatten(), nn.Linear(7, 2)).train()
    with pytest.raises(RuntimeError): embed(net, pictures())
    assert all(m.training for m in net.modules())

def test_embed_averages_maps_and_tokens_and_returns_float32():
    x = pictures()
    assert torch.allclose(embed(nn.Identity(), x).z, x.float().mean((2, 3)) / 255, atol=1e-6)
    assert torch.allclose(embed(lambda x: x.double().flatten(2).mT, x).z, x.float().mean((2, 3)) / 255, atol=1e-6)
    assert embed(lambda x: x.flatten(1).half(), x).z.dtype == torch.float32

def test_embed_prepare_comes_before_the_encoder():
    assert embed(nn.Flatten(), pictures(), prepare=lambda x: torch.zeros(len(x), 1, 2, 2)).z.eq(0).all()

def test_embed_keeps_labels_and_order_of_any_loader():
    x, y = pictures(), torch.arange(37)
    loader = torch.utils.data.DataLoader(list(zip(x, y.tolist())), batch_size=10, shuffle=True)
    z, found = embed(nn.Flatten(), loader)
    assert torch.equal(z, x[found].flatten(1).float() / 255) and torch.equal(found.sort()[0], y)
    assert embed(nn.Flatten(), [x[:20], x[20:]]).y is None
    assert embed(nn.Flatten(), [(x[:20],), (x[20:],)]).y is None
    assert embed(nn.Flatten(), [(x, torch.rand(37))]).y is None, 'numbers that are no labels'

def test_embed_over_fastai_loaders():
    from mssl.data import image_dls
    dls = image_dls('scenes', size=16, n=40, bs=16, device='cpu')
    z, y = embed(nn.Flatten(), dls.valid)
    assert torch.equal(y, dls.valid_ds.label) and torch.allclose(z, dls.valid_ds.image.flatten(1) / 255)

@pytest.mark.parametrize('images, words', [(pictures()[0], r'\[B,C,H,W\]'), (pictures()[:0], 'no picture'), ([], 'no picture'), (pictures().long(), 'int64')])
def test_embed_says_what_is_wrong_with_pictures(images, words):
    with pytest.raises(ValueError, match=words): embed(nn.Flatten(), images)

def test_embed_says_what_is_wrong_with_the_encoder():
    with pytest.raises(ValueError, match='encoder: features'): embed(lambda x: x.flatten(), pictures())

# maps

@pytest.mark.parametrize('arch, kwargs, shape', [
    ('resnet10_tiny', {}, (256, 2, 3)), ('vit_tiny_patch16_224', dict(img_size=(32, 48), patch_size=8, depth=2), (192, 4, 6)),
    ('vit_tiny_patch16_224', dict(img_size=(32, 48), patch_size=8, depth=2, reg_tokens=3), (192, 4, 6)),
    ('swin_tiny_patch4_window7_224', dict(img_size=(64, 96), window_size=2, depths=(1, 1, 1, 1)), (768, 2, 3)), ('convnext_atto', {}, (320, 1, 1))])
def test_maps_of_timm_models(arch, kwargs, shape):
    encoder = create_encoder(arch, **kwargs)
    x = torch.rand(3, 3, *(kwargs.get('img_size') or (32, 48)))
    maps = embed_maps(encoder, x)
    assert maps.shape == (3, *shape) and maps.dtype == torch.float32 and not maps.requires_grad
    if arch.startswith('resnet'): assert torch.allclose(maps.mean((2, 3)), embed(encoder, x).z, atol=1e-5)
    if arch.startswith('vit'):
        with torch.no_grad(): tokens = encoder.eval().forward_features(x)[:, -24:]
        assert torch.allclose(maps[:, :, 2, 5], tokens[:, 2 * 6 + 5], atol=1e-5), 'row by row, class and register tokens in front'

def test_maps_lie_where_the_picture_is():
    "A bright spot in one corner changes the token of that corner most"
    encoder, x = create_encoder('vit_tiny_patch16_224', img_size=(24, 40), patch_size=8, depth=1), torch.zeros(2, 3, 24, 40)
    x[1, :, 16:, :8] = 1
    change = (lambda m: (m[1] - m[0]).norm(dim=0))(embed_maps(encoder, x))
    assert divmod(change.argmax().item(), 5) == (2, 0)

def test_maps_of_a_prepared_encoder_an_earlier_stage_and_half():
    bare, x = create_encoder('resnet10_tiny'), pictures().repeat_interleave(4, 2).repeat_interleave(4, 3)
    prepared = PreparedEncoder(bare, (.4, .5, .6), (.2, .2, .3))
    normalised = (x / 255 - torch.tensor([.4, .5, .6]).view(3, 1, 1)) / torch.tensor([.2, .2, .3]).view(3, 1, 1)
    assert torch.allclose(embed_maps(prepared, x), embed_maps(bare, normalised), atol=1e-5)
    assert torch.allclose(embed_maps(prepared, x).mean((2, 3)), embed(prepared, x).z, atol=1e-5)
    assert embed_maps(bare, x[:2], stage=3).shape == (2, 128, 4, 4) and embed_maps(bare, x[:2], dtype=torch.float16).dtype == torch.float16
    assert torch.allclose(embed_maps(bare, x[:2], stage=-1), embed_maps(bare, x[:2]), atol=1e-5)

def test_maps_leave_the_net_as_it_was_and_take_any_loader():
    net = small_net().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    maps = embed_maps(net, pictures(), bs=5)
    assert net.training and all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.allclose(embed_maps(net, [(pictures()[:20], 0), pictures()[20:]]), maps, atol=1e-6)

@pytest.mark.parametrize('call, words', [
    (lambda: embed_maps(nn.Flatten(), pictures()), r'encoder: a map'), (lambda: embed_maps(small_net(), []), 'no picture'), (lambda: embed_maps(small_net(), pictures(), bs=0), 'bs=0'),
    (lambda: embed_maps(small_net(), pictures(), stage=1), 'stage=1: stages are for timm'), (lambda: feature_map(lambda x: torch.zeros(2, 17, 5), torch.zeros(2, 3, 8, 8)), '17 tokens are no grid')])
def test_maps_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words): call()

# nearest neighbours

def reference_knn(z, y, z_test, k=20, temperature=.07):
    judge = KNeighborsClassifier(k, metric='cosine', algorithm='brute', weights=lambda d: np.exp((1 - d) / temperature))
    return torch.from_numpy(judge.fit(z.double().numpy(), y.numpy()).predict(z_test.double().numpy()))

@pytest.mark.parametrize('k, temperature', [(1, .07), (20, .07), (20, .5), (200, .07)])
def test_knn_is_scikit_learns(sets, k, temperature):
    z, y, z_test, y_test = sets
    theirs = reference_knn(z, y, z_test, k, temperature)
    assert torch.equal(knn_predict(z.double(), y, z_test.double(), k, temperature), theirs)
    assert knn_accuracy(z, y, z_test, y_test, k, temperature) == pytest.approx((theirs == y_test).double().mean().item(), abs=2e-3)

def test_knn_is_the_vote_of_dino():
    (z, y), (z_test, _) = blobs(300, 4), blobs(100, 4, seed=1)
    sim, row = (F.normalize(z_test) @ F.normalize(z).T).topk(20)
    votes = (F.one_hot(y[row]) * (sim / .07).exp()[..., None]).sum(1)
    assert torch.equal(knn_predict(z, y, z_test), votes.argmax(1))

def test_knn_does_not_care_about_lengths_rotations_chunks_or_names(sets):
    z, y, z_test, y_test = (o.double() if o.is_floating_point() else o for o in sets)
    plain, turn = knn_predict(z, y, z_test), rotation(16)
    lengths = torch.rand(len(z), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 100 + .01
    assert torch.equal(knn_predict(z * lengths, y, z_test * 1e-3), plain)
    assert torch.equal(knn_predict(z @ turn, y, z_test @ turn), plain)
    assert torch.equal(knn_predict(z, y, z_test, chunk=7), plain)
    assert torch.equal(knn_predict(z, y * 1000 - 5, z_test), plain * 1000 - 5)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(1))
    assert torch.equal(knn_predict(z[order], y[order], z_test), plain)

def test_knn_a_small_temperature_is_the_nearest_alone(sets):
    z, y, z_test, _ = sets
    assert torch.equal(knn_predict(z, y, z_test, 50, 1e-5), knn_predict(z, y, z_test, 1))

def test_knn_with_all_rows_and_a_huge_temperature_is_the_majority(sets):
    z, y, z_test, _ = sets
    found = knn_predict(z, y, z_test, k=10**6, temperature=1e9)
    assert (found == y.bincount().argmax()).all(), 'k is clipped to the bank; one row, one vote'

def test_knn_does_not_count_the_rows_own_vote():
    z, y = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)), torch.arange(500) % 2
    assert knn_accuracy(z, y, z.clone(), y, k=1) == 1
    assert abs(knn_accuracy(z, y, k=1, leave_one_out=True) - .5) < .1
    by_hand = [knn_predict(z[torch.arange(500) != i], y[torch.arange(500) != i], z[i:i+1]).item() for i in range(0, 500, 50)]
    assert knn_predict(z, y, None)[::50].tolist() == by_hand

def test_ties_go_to_the_earlier_row():
    z = torch.eye(4)[[0, 1, 0, 0, 2, 0]]
    assert nearest(torch.eye(4)[:1], z, 3).tolist() == [[0, 2, 3]]
    assert nearest(torch.eye(4)[:1], z, 6).tolist() == [[0, 2, 3, 5, 1, 4]]
    assert nearest(torch.ones(1, 4), torch.ones(1000, 4), 5).tolist() == [[0, 1, 2, 3, 4]], 'a collapsed bank'
    assert knn_predict(torch.ones(6, 3), torch.tensor([4, 2, 4, 2, 1, 1]), torch.ones(1, 3), k=4).item() == 2, 'equal votes: the smaller label'

def test_nearest_against_a_full_sort(sets):
    z, _, z_test, _ = sets
    sim = F.normalize(z_test) @ F.normalize(z).T
    assert torch.equal(nearest(z_test, z, 7), sim.argsort(dim=1, descending=True, stable=True)[:, :7])
    own = torch.arange(len(z))
    assert torch.equal(nearest(z, z, 1)[:, 0], own) and not (nearest(z, z, 5, own=own) == own[:, None]).any()

# linear probe

@pytest.mark.parametrize('l2', [.1, .01, 1e-3])
def test_linear_probe_is_scikit_learns(l2):
    (z, y), (z_test, y_test) = blobs(900, distance=1.), blobs(1500, seed=1, distance=1.)
    z, z_test = z * torch.linspace(.01, 30, 16) + 5, z_test * torch.linspace(.01, 30, 16) + 5
    right, head = linear_probe(z, y, z_test, y_test, l2=l2, return_head=True)
    mean, std = z.double().mean(0), z.double().std(0, correction=0)
    x, x_test = ((o - mean) / std for o in (z, z_test))
    theirs = LogisticRegression(C=1 / (l2 * len(z)), tol=1e-10, max_iter=5000).fit(x, y)
    assert abs(right - theirs.score(x_test, y_test)) <= .005
    assert np.abs(theirs.coef_ - head.weight.numpy()).max() < 1e-4
    log_loss = -np.log(theirs.predict_proba(x_test)[range(len(y_test)), y_test]).mean()
    assert F.cross_entropy(head(z_test), y_test).item() == pytest.approx(log_loss, abs=1e-4)

def test_linear_probe_with_more_features_than_rows():
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(60, 200, generator=g), torch.arange(60) % 3
    theirs = LogisticRegression(C=1 / (.01 * 60), tol=1e-10, max_iter=5000).fit((z - z.mean(0)) / z.std(0, correction=0), y)
    assert np.abs(theirs.coef_ - fit_linear(z, y, l2=.01).weight.numpy()).max() < 1e-4

def test_the_gradient_is_zero_at_the_fitted_head(sets):
    z, y, *_ = (o.double() if o.is_floating_point() else o for o in sets)
    head = fit_linear(z, y, l2=.003)
    x, weight = (z - z.mean(0)) / z.std(0, correction=0), head.weight.double().requires_grad_()
    (F.cross_entropy(x @ weight.T + head.bias, y) + .003 / 2 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-6

def test_the_test_labels_choose_nothing(sets):
    z, y, z_test, y_test = sets
    _, a = linear_probe(z, y, z_test, y_test, return_head=True)
    _, b = linear_probe(z, y, z_test, y_test.flip(0), return_head=True)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items()) and a.l2 == b.l2

def test_the_penalty_is_chosen_by_held_out_rows():
    "Few rows, many features, little signal: a strong penalty is right; many rows and a clear rule: a weak one"
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    noisy = torch.randn(120, 300, generator=g) + .15 * (2 * y[:, None] - 1)
    z = torch.randn(2000, 4, generator=g)
    clear = (z[:, 0] > .4 * z[:, 1]).long()
    assert fit_linear(noisy, y).l2 > fit_linear(z, clear).l2

def test_linear_probe_draws_no_number_of_the_callers(sets):
    state = torch.get_rng_state()
    a, b = linear_probe(*sets), linear_probe(*sets)
    assert a == b and torch.equal(torch.get_rng_state(), state)

def test_linear_probe_does_not_care_about_units_or_names(sets):
    z, y, z_test, y_test = sets
    plain = linear_probe(z, y, z_test, y_test, l2=.01)
    assert linear_probe(z * 1000 - 3, y, z_test * 1000 - 3, y_test, l2=.01) == pytest.approx(plain, abs=2e-3)
    assert linear_probe(z, y * 7 + 2, z_test, y_test * 7 + 2, l2=.01) == plain

def test_linear_probe_ignores_constant_features(sets):
    z, y, z_test, y_test = sets
    constant = torch.full((1,), 3.3)
    a = linear_probe(z, y, z_test, y_test, l2=.01)
    assert linear_probe(torch.cat([z, constant.expand(len(z), 5)], 1), y, torch.cat([z_test, constant.expand(len(z_test), 5)], 1), y_test, l2=.01) == a
    assert linear_probe(torch.ones(40, 3), torch.arange(40) % 2, torch.ones(9, 3), torch.zeros(9).long()) == 1, 'nothing to tell apart: one answer for all'

def test_classes_that_only_the_test_set_has_are_wrong(sets):
    z, y, z_test, y_test = sets
    assert linear_probe(z, y, z_test, y_test + 100, l2=.1) == 0 and knn_accuracy(z, y, z_test, y_test + 100) == 0

def test_one_row_of_a_class_stays_in_the_fit():
    z, y = blobs(200, 3)
    y[0] = 99
    assert 99 in fit_linear(z, y).classes
    with pytest.raises(ValueError, match='l2: no class has two rows'): fit_linear(z[:3], torch.arange(3))
    assert fit_linear(z[:3], torch.arange(3), l2=.1).predict(z[:3]).tolist() == [0, 1, 2]

# without labels

def independent_rank_me(z, eps=1e-7):
    s = np.linalg.svd(z.double().numpy(), compute_uv=False)
    p = s / s.sum() + eps
    return math.exp(-(p * np.log(p)).sum())

@pytest.mark.parametrize('shape', [(300, 20), (20, 300), (50, 50), (1, 5)])
def test_rank_me_is_the_papers_formula(shape):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(.01, 2, shape[1]) + .3
    assert rank_me(z) == pytest.approx(independent_rank_me(z), rel=1e-4)
    assert rank_me(z * 1e-25) == pytest.approx(rank_me(z), rel=1e-4) and rank_me(z * 1e15) == pytest.approx(rank_me(z), rel=1e-4)

def test_rank_me_of_known_matrices():
    axes = rotation(32).float()
    assert rank_me(axes) == pytest.approx(32, rel=1e-3)
    assert rank_me(torch.cat([axes[:5]] * 10)) == pytest.approx(5, rel=1e-3)
    assert rank_me(torch.ones(100, 1) * torch.randn(1, 32)) == pytest.approx(1, rel=1e-3)
    assert rank_me(torch.zeros(10, 4)) == 0

def test_rank_me_turns_with_the_features_and_sees_the_mean():
    z = torch.randn(400, 16, generator=torch.Generator().manual_seed(0)).double()
    assert rank_me(z @ rotation(16)) == pytest.approx(rank_me(z), rel=1e-9)
    assert rank_me(z + 10) < .7 * rank_me(z), 'not centred: a large mean is one direction that takes most'

def test_spread_of_known_clouds():
    z = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    assert spread(z) == pytest.approx(1, abs=.01) and spread(z * torch.rand(5000, 1)) == pytest.approx(1, abs=.01)
    assert spread(torch.ones(10, 7)) == pytest.approx(0, abs=1e-6) and spread(torch.rand(10, 1) * torch.ones(10, 7)) == pytest.approx(0, abs=1e-3)
    assert spread(torch.cat([torch.eye(8), -torch.eye(8)])) == pytest.approx(1, abs=1e-6)

def test_spread_is_never_above_one():
    g = torch.Generator().manual_seed(0)
    assert all(spread(torch.randn(6, 5, generator=g) ** 3) <= 1 + 1e-6 for _ in range(200))

def test_spread_is_simsiams_standard_deviation():
    z = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) + 1
    unit = (z / z.norm(dim=1, keepdim=True)).double().numpy()
    assert spread(z) == pytest.approx(unit.std(0).mean() * math.sqrt(10), rel=1e-5)

def test_alignment_by_hand():
    a, b = torch.randn(50, 7), torch.randn(50, 7)
    unit = [(o / o.norm(dim=1, keepdim=True)).double() for o in (a, b)]
    for alpha in (1, 2, 3.5): assert alignment(a, b, alpha) == pytest.approx(((unit[0] - unit[1]).square().sum(1) ** (alpha / 2)).mean().item(), rel=1e-6)
    assert alignment(a, 3 * a) == pytest.approx(0, abs=1e-12) and alignment(a, -a) == pytest.approx(4) and alignment(a, b * 100) == pytest.approx(alignment(b, a), rel=1e-6)
    assert alignment(torch.randn(4000, 256), torch.randn(4000, 256)) == pytest.approx(2, abs=.02), 'independent directions are at right angles'

@pytest.mark.parametrize('t', [.5, 2, 50, 1000])
def test_uniformity_by_brute_force(t):
    z = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 20
    unit = z.double().numpy() / np.linalg.norm(z.double().numpy(), axis=1, keepdims=True)
    pairs = [-t * ((unit[i] - unit[j]) ** 2).sum() for i in range(60) for j in range(i)]
    assert uniformity(z, t) == pytest.approx(max(pairs) + math.log(np.mean(np.exp(np.array(pairs) - max(pairs)))), rel=1e-6), 'nothing vanishes at a large t'
    assert all(uniformity(z, t, chunk=c) == pytest.approx(uniformity(z, t), rel=1e-9) for c in (1, 7, 59, 60, 500))

def test_uniformity_of_known_clouds():
    assert uniformity(torch.ones(9, 4)) == pytest.approx(0, abs=1e-6) and uniformity(torch.tensor([[1., 0], [-3, 0]])) == pytest.approx(-8)
    sphere = torch.randn(6000, 3, generator=torch.Generator().manual_seed(0))
    for t in (1, 2, 5): assert uniformity(sphere, t) == pytest.approx(math.log((1 - math.exp(-4 * t)) / (4 * t)), abs=.03)
    assert uniformity(sphere) < uniformity(sphere.abs()) < uniformity(sphere + 5)

# what is refused

good_z, good_y = blobs(30, 3)
broken = good_z.clone(); broken[[2, 7], 1] = torch.tensor([math.nan, math.inf])
@pytest.mark.parametrize('measure', [knn_accuracy, linear_probe])
@pytest.mark.parametrize('change, words', [
    (dict(y=None), 'y=None: labels are needed'), (dict(y_test=None), 'y_test=None: labels are needed'),
    (dict(y=good_y[:-1]), 'y: 29 labels for 30 rows'), (dict(y_test=good_y[:-1]), 'y_test: 29 labels for 30 rows'),
    (dict(y=good_y * 0 + 4), 'y: only one class came .4.'), (dict(y=good_y.float()), 'y: whole-number labels'),
    (dict(z=broken), 'z: 2 of 30 rows hold NaN or inf'), (dict(z_test=broken), 'z_test: 2 of 30 rows hold NaN or inf'),
    (dict(z=good_z[:0], y=good_y[:0]), 'z: at least 2 rows'), (dict(z_test=good_z[:0], y_test=good_y[:0]), 'z_test: at least 1 row'),
    (dict(z_test=good_z[:, :9]), 'z_test: 9 features per row, z has 16'), (dict(z=good_z[0]), r'z: features \[N,D\]')])
def test_bad_sets_are_named(measure, change, words):
    with pytest.raises(ValueError, match=words): measure(**{**dict(z=good_z, y=good_y, z_test=good_z.clone(), y_test=good_y), **change})

@pytest.mark.parametrize('call, words', [
    (lambda: knn_accuracy(good_z, good_y), 'z_test=None'), (lambda: knn_accuracy(good_z, good_y, good_z, good_y), 'leave_one_out=True'),
    (lambda: knn_accuracy(good_z, good_y, good_z, good_y, leave_one_out=True), 'must be left out'),
    (lambda: knn_predict(good_z, good_y, good_z, k=0), 'k=0'), (lambda: knn_predict(good_z, good_y, good_z, temperature=0), 'temperature=0'),
    (lambda: knn_predict(good_z, good_y, good_z, chunk=0), 'chunk=0'),
    (lambda: nearest(good_z, good_z, own=torch.arange(3)), 'own: one row number'), (lambda: nearest(good_z, good_z[:, :3]), 'z: 16 features'),
    (lambda: linear_probe(good_z, good_y, good_z, good_y, l2=0), 'l2=0'), (lambda: linear_probe(good_z, good_y, good_z, good_y, l2=[]), 'l2=None'),
    (lambda: rank_me(broken), '2 of 30 rows'), (lambda: rank_me(good_z, eps=-1), 'eps=-1'),
    (lambda: alignment(good_z, good_z[:5]), 'z2: 5 rows, z1 has 30'), (lambda: alignment(good_z, good_z[:, :5]), 'z2: 5 features'), (lambda: alignment(good_z, broken), 'z2: 2 of 30'),
    (lambda: alignment(good_z, good_z, alpha=0), 'alpha=0'), (lambda: uniformity(good_z, t=-1), 't=-1'), (lambda: uniformity(good_z, chunk=0), 'chunk=0'),
    (lambda: uniformity(good_z[:1]), 'at least 2 rows'), (lambda: uniformity(broken), '2 of 30 rows'),
    (lambda: spread(broken), '2 of 30 rows'), (lambda: spread(good_z[:1]), 'at least 2 rows'), (lambda: embed(nn.Flatten(), pictures(), bs=0), 'bs=0')])
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words): call()

def test_half_precision_and_arrays_are_taken():
    (z, y), (z_test, y_test) = blobs(300, 4), blobs(200, 4, seed=1)
    a = knn_accuracy(z, y, z_test, y_test)
    assert knn_accuracy(z.half(), y, z_test.half(), y_test) == pytest.approx(a, abs=.02)
    assert knn_accuracy(z.numpy(), y.numpy(), z_test.numpy(), y_test.numpy()) == a
    assert linear_probe(z.numpy(), y.numpy(), z_test.numpy(), y_test.numpy(), l2=.1) == linear_probe(z, y, z_test, y_test, l2=.1)
    assert rank_me(z.half()) == pytest.approx(rank_me(z), rel=1e-3) and spread(z.bfloat16()) == pytest.approx(spread(z), rel=1e-2)
