"What the probes of chapter 03c promise: scikit-learn's answers, known limits, the same draws for everybody, and no look at the test set"
import json, math
import numpy as np, pytest, torch
from torch.nn import functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import jaccard_score
from mssl import evaluation, transfer
from mssl.scenes import scenes
from mssl.transfer import (L2_ALONE, box_probe, class_iou, dense_probe, few_label_probe, label_ranks, patch_classes, scene_classes, segment)
from mssl.views import box_iou

def blobs(n, classes=5, width=12, seed=0, distance=2.):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    return torch.eye(classes, width)[y] * distance + torch.randn(n, width, generator=g), y

@pytest.fixture(scope='module')
def sets(): return *blobs(600), *blobs(500, seed=1)

def noise(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

def standardised(z, *others):
    mean, std = z.double().mean(0), z.double().std(0, correction=0)
    return [((o.double() - mean) / std).numpy() for o in (z, *others)]

def test_evaluation_offers_the_same_functions():
    for name in ('few_label_probe', 'dense_probe', 'box_probe', 'class_iou', 'scene_classes', 'segment'):
        assert getattr(evaluation, name) is getattr(transfer, name) and name in evaluation.__all__

# which labels

def test_ranks_number_every_class_from_zero():
    y = torch.tensor([4] * 50 + [9] * 7 + [-2])
    for r in label_ranks(y[torch.randperm(58)], 6): assert sorted(r.tolist()) == sorted([*range(50), *range(7), 0])

def test_ranks_depend_on_labels_and_seed_only():
    y = torch.arange(300) % 7
    state = torch.get_rng_state()
    ranks = label_ranks(y, 4, seed=3)
    assert torch.equal(label_ranks(y, 2, seed=3), ranks[:2]) and torch.equal(label_ranks(y * 11 + 5, 4, seed=3), ranks), 'names of classes, number of draws'
    assert not torch.equal(label_ranks(y, 4, seed=4), ranks) and len({tuple(r.tolist()) for r in ranks}) == 4
    assert torch.equal(torch.get_rng_state(), state)

def test_every_row_is_as_likely():
    y = torch.arange(40) % 2
    first = (label_ranks(y, 4000) == 0).double().mean(0)
    assert (first - 1 / 20).abs().max() < 4 * (1 / 20 * 19 / 20 / 4000) ** .5

class Rows:
    "Features that tell which rows were used: row i is all i"
    def __init__(self, monkeypatch):
        self.used = []
        def probe(z, y, z_test, y_test, l2): self.used.append((sorted(z[:, 0].long().tolist()), l2)); return .5
        monkeypatch.setattr(transfer, 'linear_probe', probe)

def test_the_draws_are_stratified_nested_and_the_same_for_every_encoder(monkeypatch):
    seen, y = Rows(monkeypatch), torch.tensor([0] * 200 + [1] * 30 + [2] * 4)
    for width in (3, 50):
        z = torch.arange(234.)[:, None] + torch.zeros(1, width)
        few_label_probe(z, y, z, y, shares=(.1, .5), draws=3, l2=.1, seed=5)
    a, b = seen.used[:6], seen.used[6:]
    assert a == b, 'paired'
    for rows, _ in a[:3]: assert y[rows].bincount().tolist() == [20, 3, 1], 'ten per cent of each class, at least one'
    for rows, _ in a[3:]: assert y[rows].bincount().tolist() == [100, 15, 2]
    assert all(set(few) < set(more) for (few, _), (more, _) in zip(a[:3], a[3:])), 'nested within a draw'
    assert len({tuple(rows) for rows, _ in a[:3]}) == 3

def test_each_accuracy_is_scikit_learns_on_the_same_rows(sets):
    z, y, z_test, y_test = sets
    found = few_label_probe(z, y, z_test, y_test, shares=.05, per_class=(1, 8), draws=3, l2=.05, seed=2)
    rank = label_ranks(y, 3, 2)
    for row, wanted in zip(found, [(y.bincount() * .05 + .5).long(), torch.ones(5), torch.full((5,), 8)]):
        for accuracy, r in zip(row.accuracy, rank):
            use = r < wanted[y]
            assert use.sum() == row.labels
            x, x_test = standardised(z[use], z_test)
            theirs = LogisticRegression(C=1 / (.05 * row.labels), tol=1e-8, max_iter=5000).fit(x, y[use]).score(x_test, y_test)
            assert accuracy == pytest.approx(theirs, abs=.005)
        assert row.mean == pytest.approx(np.mean(row.accuracy)) and row.std == pytest.approx(np.std(row.accuracy, ddof=1))

def test_the_penalty_is_that_of_scikit_learns_cross_validation(sets):
    z, y, z_test, y_test = blobs(600, distance=1.)[0], *sets[1:]
    row, = few_label_probe(z, blobs(600, distance=1.)[1], z_test, y_test, (), 10, draws=2, l2=(1., .1, .01))
    y = blobs(600, distance=1.)[1]
    for r, l2 in zip(label_ranks(y, 2), row.l2):
        use, loss = r < 10, {}
        for o in (1., .1, .01):
            loss[o] = 0
            for fold in range(5):
                fit, held = use & (r % 5 != fold), use & (r % 5 == fold)
                x, x_held = standardised(z[fit], z[held])
                p = LogisticRegression(C=1 / (o * int(fit.sum())), tol=1e-8, max_iter=5000).fit(x, y[fit]).predict_proba(x_held)
                loss[o] -= np.log(p[range(len(p)), y[held]]).sum()
        assert l2 == min(loss, key=loss.get)

def test_perfect_features_need_one_label_and_noise_is_chance():
    y, y_test = torch.arange(400) % 10, torch.arange(1000) % 10
    perfect = few_label_probe(torch.eye(10)[y], y, torch.eye(10)[y_test], y_test, per_class=1, draws=2)
    assert all(r.mean == 1 and r.std == 0 for r in perfect)
    chance = few_label_probe(noise(400, 8), y, noise(1000, 8, seed=1), y_test, shares=.1, draws=4)
    assert abs(chance[0].mean - .1) < .03

def test_all_labels_are_one_fit(sets):
    z, y, z_test, y_test = sets
    row, = few_label_probe(z, y, z_test, y_test, shares=1, draws=4, l2=.1)
    assert row.accuracy == [evaluation.linear_probe(z, y, z_test, y_test, l2=.1)] * 4 and row.std == 0 and row.labels == 600 and row.amount == '100 %'

def test_the_test_set_chooses_no_penalty(sets):
    z, y, z_test, y_test = sets
    a = few_label_probe(z, y, z_test, y_test, (), 6, draws=2)[0]
    b = few_label_probe(z, y, noise(50, 12), torch.arange(50) % 5, (), 6, draws=2)[0]
    assert a.l2 == b.l2 and len(a.l2) == 2
    assert few_label_probe(z, y, z_test, y_test, (), 1, draws=2)[0].l2 == [L2_ALONE] * 2

def test_the_result_goes_into_json(sets):
    found = few_label_probe(*sets, shares=(.02,), per_class=(1,), draws=1, l2=.1)
    back = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert list(back) == ['2 %', '1 per class'] and back['1 per class']['labels'] == 5 and back['2 %']['std'] is None and math.isnan(found[0].std)
    assert back['2 %']['accuracy'] == found[0].accuracy and '1 per class' in repr(found)

# the class of every pixel

def test_scene_classes_are_the_visible_objects():
    s = scenes(30, 32, level='several')
    c = scene_classes(s)
    assert torch.equal(c > 0, s.objects.mask.any(1))
    for i in range(30):
        for k in range(s.objects.label.shape[1]): assert (c[i][s.objects.mask[i, k]] == s.objects.label[i, k] + 1).all()

@pytest.mark.parametrize('size, grid', [((12, 12), (4, 4)), ((13, 10), (3, 4)), ((6, 5), (6, 5))])
def test_patch_classes_are_the_majority_of_the_pixels_that_count(size, grid):
    label = torch.randint(0, 4, (5, *size), generator=torch.Generator().manual_seed(0)) * 3
    label[torch.rand(label.shape, generator=torch.Generator().manual_seed(1)) < .5] = 77
    found = patch_classes(label, grid, ignore=77)
    for n in range(5):
        for r in range(grid[0]):
            for c in range(grid[1]):
                votes = [label[n, i, j].item() for i in range(size[0]) for j in range(size[1]) if (i * grid[0] // size[0], j * grid[1] // size[1]) == (r, c)]
                votes = [v for v in votes if v != 77]
                assert found[n, r, c] == (min(set(votes), key=lambda v: (-votes.count(v), v)) if votes else 77)

def test_class_iou_is_scikit_learns_jaccard():
    g = torch.Generator().manual_seed(0)
    p, t = (torch.randint(0, 6, (4, 9, 7), generator=g) for _ in range(2))
    t[t == 5], p[p == 4] = 3, 0 # 5 only predicted, 4 only true
    seen = torch.rand(t.shape, generator=g) < .8
    label = torch.where(seen, t, 255)
    theirs = jaccard_score(t[seen], p[seen], labels=range(6), average=None)
    assert np.allclose([class_iou(p, label)[c] for c in range(6)], theirs)
    assert class_iou(t > 2, t > 2) == {0: 1., 1: 1.}

def quadrants(n, size=16, seed=0):
    "Class maps in which each quarter is of one class, and maps 2 x 2 that say which"
    which = torch.randint(0, 3, (n, 2, 2), generator=torch.Generator().manual_seed(seed))
    return F.one_hot(which, 3).permute(0, 3, 1, 2).float(), which.repeat_interleave(size // 2, 1).repeat_interleave(size // 2, 2)

def test_dense_probe_of_perfect_and_of_random_maps():
    h, label = quadrants(60)
    (h_test, label_test) = quadrants(40, seed=1)
    fine, fine_test = (o.repeat_interleave(8, 2).repeat_interleave(8, 3) for o in (h, h_test)) # a place per pixel
    assert dense_probe(fine, label, fine_test, label_test, l2=1e-3) == 1
    assert .6 < dense_probe(h, label, h_test, label_test, l2=1e-3) < 1, 'two places a side, enlarged bilinearly, miss the corners'
    random = dense_probe(noise(60, 5, 2, 2), label, noise(40, 5, 2, 2, seed=1), label_test, l2=.1)
    assert abs(random - 1 / 5) < .08, 'three classes, guessed: a third right, 1/3 / (1 + 2/3)'

def test_dense_probe_is_scikit_learns_classifier_and_jaccard():
    h, label = noise(40, 6, 3, 4), torch.randint(0, 3, (40, 12, 12), generator=torch.Generator().manual_seed(0)) * 2
    h_test, label_test = noise(20, 6, 3, 4, seed=1), torch.randint(0, 3, (20, 12, 12), generator=torch.Generator().manual_seed(1)) * 2
    label[:, :4], label_test[:, 6:] = 255, 255
    iou, head = dense_probe(h, label, h_test, label_test, l2=.02, return_head=True)
    target = patch_classes(label, (3, 4))
    rows, y = h.permute(0, 2, 3, 1)[target != 255], target[target != 255]
    (x, x_test) = standardised(rows, h_test.permute(0, 2, 3, 1).reshape(-1, 6))
    theirs = LogisticRegression(C=1 / (.02 * len(rows)), tol=1e-10, max_iter=5000).fit(x, y)
    assert np.abs(theirs.coef_ - head.weight.numpy()).max() < 1e-4
    logits = torch.from_numpy(theirs.decision_function(x_test)).view(20, 3, 4, 3).permute(0, 3, 1, 2)
    found = F.interpolate(logits, (12, 12), mode='bilinear').argmax(1) * 2
    seen = label_test != 255
    assert iou == pytest.approx(jaccard_score(label_test[seen], found[seen], average='macro'), abs=.005)
    assert (segment(head, h_test, 12) == found).double().mean() > .99

def test_dense_probe_takes_masks_layouts_and_any_names():
    h, label = quadrants(40)
    h_test, label_test = quadrants(30, seed=1)
    plain = dense_probe(h, label, h_test, label_test, l2=.01)
    assert dense_probe(h.permute(0, 2, 3, 1), label, h_test.permute(0, 2, 3, 1), label_test, l2=.01, channels_last=True) == pytest.approx(plain, abs=1e-6)
    assert dense_probe(h, label * 40 - 7, h_test, label_test * 40 - 7, l2=.01) == plain and dense_probe(h, label.byte(), h_test, label_test.byte(), l2=.01) == plain
    assert dense_probe(h, label == 1, h_test, label_test == 1, l2=.01) == dense_probe(h, (label == 1).long(), h_test, (label_test == 1).long(), l2=.01)

def test_dense_probe_the_test_set_chooses_nothing_and_patches_are_drawn_by_the_seed():
    h, label = quadrants(60)
    h = h + noise(*h.shape)
    h_test, label_test = quadrants(20, seed=1)
    state = torch.get_rng_state()
    a, head = dense_probe(h, label, h_test, label_test, patches=100, return_head=True)
    b, same = dense_probe(h, label, noise(9, 3, 2, 2), label_test[:9].flip(1), patches=100, return_head=True)
    assert head.l2 == same.l2 and torch.equal(head.weight, same.weight) and a != b and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(dense_probe(h, label, h_test, label_test, patches=100, seed=1, return_head=True)[1].weight, head.weight)

def test_dense_probe_holds_out_pictures():
    "Patches of a picture are copies: held-out patches would find theirs again and choose hardly any penalty, held-out pictures do not"
    h = noise(30, 60, 1, 1).expand(30, 60, 3, 3) + .01 * noise(30, 60, 3, 3)
    label = torch.randint(0, 2, (30, 1, 1), generator=torch.Generator().manual_seed(0)).expand(30, 3, 3).contiguous()
    signal = h + .4 * (2 * label[:, None] - 1)
    _, head = dense_probe(signal, label, signal, label, l2=(10., 1., 1e-4), return_head=True)
    rows = signal.permute(0, 2, 3, 1).flatten(0, 2)
    assert transfer.fit_linear(rows, label.flatten(), (10., 1., 1e-4)).l2 <= head.l2

# boxes

def places(n, size=6, seed=0):
    "Maps with a one where the box is, and the box"
    g = torch.Generator().manual_seed(seed)
    top, left = torch.randint(0, size - 2, (2, n), generator=g)
    high, wide = torch.randint(1, 4, (2, n), generator=g)
    i = torch.arange(size)
    rows, columns = ((i >= a[:, None]) & (i < (a + b)[:, None]).logical_and(i < size) for a, b in ((top, high), (left, wide)))
    box = torch.stack([top, left, rows.sum(1), columns.sum(1)], 1) / size
    # rows and columns as channels: the box is a linear function of where they begin and how many there are
    h = torch.stack([rows[:, :, None].expand(-1, -1, size), columns[:, None].expand(-1, size, -1), (i == top[:, None])[:, :, None].expand(-1, -1, size),
                     (i == left[:, None])[:, None].expand(-1, size, -1)], 1).float()
    return h, box

def test_box_probe_of_perfect_and_of_random_maps():
    (h, box), (h_test, box_test) = places(300), places(200, seed=1)
    found = box_probe(h, box, h_test, box_test, grid=6)
    assert found.iou > .999 and found.half == 1
    floor = box_probe(torch.zeros(300, 1), box, torch.zeros(200, 1), box_test, l2=1.)
    mean_box = box_iou(box.mean(0).expand(200, 4), box_test)
    assert floor.iou == pytest.approx(mean_box.mean().item(), abs=1e-5) and floor.half == pytest.approx((mean_box >= .5).float().mean().item())
    assert box_probe(noise(300, 4, 3, 3), box, noise(200, 4, 3, 3, seed=1), box_test).iou < floor.iou + .03

@pytest.mark.parametrize('rows, l2', [(200, .1), (200, 3.), (30, .5)])
def test_box_probe_is_scikit_learns_ridge(rows, l2):
    h, h_test, (_, box), (_, box_test) = noise(rows, 5, 4, 4), noise(50, 5, 4, 4, seed=1), places(rows), places(50, seed=1)
    scores, head = box_probe(h, box, h_test, box_test, l2=l2, return_head=True)
    x, x_test = standardised(h.flatten(1), h_test.flatten(1))
    theirs = Ridge(alpha=l2 * rows).fit(x, box)
    assert np.abs(theirs.coef_ - head.weight.numpy()).max() < 1e-5 and np.abs(theirs.predict(x_test) - head(h_test).numpy()).max() < 1e-4
    found = torch.from_numpy(theirs.predict(x_test))
    near, far = found[:, :2].clamp(0, 1), (found[:, :2] + found[:, 2:].clamp_min(0)).clamp(0, 1)
    assert scores.iou == pytest.approx(box_iou(torch.cat([near, far - near], 1), box_test).mean().item(), abs=1e-4)

def test_predicted_boxes_lie_in_the_picture():
    h, box = noise(50, 3, 2, 2) * 9, places(50)[1]
    _, head = box_probe(h, box, h, box, l2=1e-4, return_head=True)
    p = head.predict(noise(500, 3, 2, 2, seed=1) * 90)
    assert (p >= 0).all() and (p[:, :2] + p[:, 2:] <= 1 + 1e-6).all() and (head(noise(500, 3, 2, 2, seed=1) * 90) < 0).any()

def test_box_probe_the_test_set_chooses_nothing():
    (h, box), (h_test, box_test) = places(80), places(40, seed=1)
    h = h + noise(*h.shape)
    a, head = box_probe(h, box, h_test, box_test, return_head=True)
    b, same = box_probe(h, box, h_test, box_test.flip(0), return_head=True)
    assert torch.equal(head.weight, same.weight) and head.l2 == same.l2 and a != b

def test_box_probe_maps_know_the_place_averages_do_not():
    (h, box), (h_test, box_test) = places(300), places(200, seed=1)
    assert box_probe(h, box, h_test, box_test).iou > box_probe(h.mean((2, 3)), box, h_test.mean((2, 3)), box_test).iou + .2
    assert box_probe(h, box, h_test, box_test, grid=1).iou == pytest.approx(box_probe(h.mean((2, 3)), box, h_test.mean((2, 3)), box_test).iou, abs=1e-4)
    assert box_probe(h.permute(0, 2, 3, 1), box, h_test.permute(0, 2, 3, 1), box_test, channels_last=True).iou == pytest.approx(box_probe(h, box, h_test, box_test).iou, abs=1e-5)

# what is refused

z, y = blobs(60, 3)
maps, classes = quadrants(8)
boxes = places(8)[1]
hole = maps.clone(); hole[3, 0, 1, 1] = math.nan
@pytest.mark.parametrize('call, words', [
    (lambda: few_label_probe(z, y, z, y, shares=(0,)), 'shares=0'), (lambda: few_label_probe(z, y, z, y, shares=1.5), 'shares=1.5'),
    (lambda: few_label_probe(z, y, z, y, per_class=50), 'per_class=50: the smallest class has'), (lambda: few_label_probe(z, y, z, y, per_class=(0,)), 'per_class=0'),
    (lambda: few_label_probe(z, y, z, y, shares=()), 'at least one amount'), (lambda: few_label_probe(z, y, z, y, draws=0), 'draws=0'),
    (lambda: few_label_probe(z, None, z, y), 'y=None'), (lambda: few_label_probe(z, y[:9], z, y), 'y: 9 labels'), (lambda: few_label_probe(z, y, z[:, :4], y), 'z_test: 4 features'),
    (lambda: few_label_probe(z, y, z, None), 'y_test=None'), (lambda: few_label_probe(z, y, z, y, l2=()), 'l2=None'), (lambda: few_label_probe(z, y, z, y, seed=-1), 'seed=-1'),
    (lambda: label_ranks(None), 'y=None'), (lambda: patch_classes(classes, 0), 'grid'), (lambda: patch_classes(classes * 0 + 255, 2), 'ignore=255'),
    (lambda: dense_probe(z, classes, maps, classes), r'h: maps \[N,D,h,w\]'), (lambda: dense_probe(hole, classes, maps, classes), 'h: 1 of 8 maps'),
    (lambda: dense_probe(maps, classes, hole, classes), 'h_test: 1 of 8'), (lambda: dense_probe(maps, None, maps, classes), 'label=None'),
    (lambda: dense_probe(maps, classes.float(), maps, classes), 'label: whole-number'), (lambda: dense_probe(maps, classes, maps, classes[:5]), 'label_test: 5 class maps for 8'),
    (lambda: dense_probe(maps, classes, maps[:, :2], classes), 'h_test: 2 features'), (lambda: dense_probe(maps, classes * 0, maps, classes), 'label: most pixels'),
    (lambda: dense_probe(maps[:1], classes[:1], maps, classes), 'l2: one picture'), (lambda: dense_probe(maps, classes, maps, classes, patches=3), 'patches=3'),
    (lambda: dense_probe(maps, classes, maps, classes, l2=0), 'l2=0'), (lambda: class_iou(classes, classes[:3]), 'predicted: shape'),
    (lambda: box_probe(maps, boxes * 32, maps, boxes), 'box: 8 of 8 boxes'), (lambda: box_probe(maps, boxes, maps, boxes * torch.tensor([1, 1, 0, 1])), 'box_test: 8 of 8'),
    (lambda: box_probe(maps, boxes[:3], maps, boxes), 'box: 3 boxes for 8'), (lambda: box_probe(maps, None, maps, boxes), 'box=None'), (lambda: box_probe(maps, boxes[:, :3], maps, boxes), r'\[N,4\]'),
    (lambda: box_probe(hole, boxes, maps, boxes), 'h: 1 of 8'), (lambda: box_probe(maps, boxes, maps[:, :1], boxes), 'h_test: 4 features per row, h has 12'),
    (lambda: box_probe(maps, boxes, maps, boxes, grid=0), 'grid=0'), (lambda: box_probe(maps, boxes, maps, boxes, l2=-1), 'l2=-1')])
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words): call()
