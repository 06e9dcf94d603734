"""Views: boxes as torchvision draws them, crops as torchvision cuts them, and a callback that knows which picture is which in anybody's Learner."""
import pickle, random
import numpy as np, pytest, torch, torch.nn.functional as F, torchvision.transforms.v2.functional as TF
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import AvgMetric, Learner, load_learner
from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, Normalize, get_image_files, imagenet_stats
from hypothesis import given, strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import RandomResizedCrop
from mssl.colour import random_sigma
from mssl.data import Pictures, ResidentLoader
from mssl.siamese import Siamese, info_nce
from mssl.views import AUGMENTS, Augment, Views, box_iou, crop_and_flip, random_boxes, resample_matrix
import mssl.views

PLAIN = Augment((1., 1.), (1., 1.), 0., jitter_p=0., grey=0.) # the whole picture as it is
QUANTILES = torch.tensor([.02, .1, .25, .5, .75, .9, .98])


# boxes

def torchvisions_boxes(n, scale, ratio, size=(1000, 1000)):
    x = torch.empty(1, *size)
    return torch.tensor([RandomResizedCrop.get_params(x, scale, ratio) for _ in range(n)])[:, :4] / torch.tensor([*size, *size])

@pytest.mark.parametrize('scale, ratio, size', [((.2, 1.), (3/4, 4/3), (1000, 1000)), ((.08, 1.), (3/4, 4/3), (1000, 1000)),
                                                ((.3, .6), (.5, 2.), (600, 1000)), ((.5, 1.), (3/4, 4/3), (1500, 1000))])
def test_boxes_are_distributed_as_torchvisions(scale, ratio, size):
    "Quantiles of area, shape and place; torchvision rounds to whole pixels, so on large pictures"
    theirs = torchvisions_boxes(6000, scale, ratio, size)
    ours = random_boxes(60_000, scale, ratio, aspect=size[1] / size[0])
    for name, f in dict(area=lambda b: b[:, 2] * b[:, 3], shape=lambda b: (b[:, 3] * size[1] / (b[:, 2] * size[0])).log(), top=lambda b: b[:, 0], left=lambda b: b[:, 1],
                        bottom=lambda b: 1 - b[:, 0] - b[:, 2], right=lambda b: 1 - b[:, 1] - b[:, 3]).items():
        a, b = f(ours).quantile(QUANTILES), f(theirs).quantile(QUANTILES)
        assert (a - b).abs().max() < .04, (name, a, b)

def test_overlap_of_two_random_crops_is_507():
    iou = box_iou(random_boxes(400_000), random_boxes(400_000))
    assert abs(iou.mean().item() - .507) < .004

@pytest.mark.parametrize('aspect', [.05, .3, 1., 3., 20.])
def test_boxes_stay_inside_and_keep_their_ranges(aspect):
    b = random_boxes(20_000, (.2, 1.), aspect=aspect)
    assert b.min() >= 0 and (b[:, :2] + b[:, 2:]).max() <= 1 + 1e-6 and b[:, 2:].min() > 0
    shape = aspect * b[:, 3] / b[:, 2]
    assert shape.min() > .7499 and shape.max() < 1.3334

@pytest.mark.parametrize('size', [(40, 1000), (1000, 40)])
def test_fallback_on_extreme_pictures_is_torchvisions(size):
    "A long strip holds no box of a fifth of its area: the largest central one of an allowed shape"
    theirs, ours = torchvisions_boxes(1, (.2, 1.), (3/4, 4/3), size), random_boxes(50, aspect=size[1] / size[0])
    assert torch.equal(ours, ours[:1].expand(50, 4)) and (ours[0] - theirs[0]).abs().max() < .02
    mixed = random_boxes(2, aspect=torch.tensor([25., 1.]))
    assert abs(mixed[0, 3] - 4 / 3 / 25) < 1e-6 and mixed[0, 2] == 1 and abs(mixed[0, 1] - (1 - 4 / 75) / 2) < 1e-6

def test_boxes_repeat_from_a_seed_or_a_generator():
    torch.manual_seed(3); a = random_boxes(5)
    torch.manual_seed(3); assert torch.equal(a, random_boxes(5)) and not torch.equal(a, random_boxes(5))
    state, g = torch.get_rng_state(), lambda s: torch.Generator().manual_seed(s)
    assert torch.equal(random_boxes(5, generator=g(1)), random_boxes(5, generator=g(1))) and not torch.equal(random_boxes(5, generator=g(1)), random_boxes(5, generator=g(2)))
    assert torch.equal(torch.get_rng_state(), state) and random_boxes(0).shape == (0, 4)

@pytest.mark.parametrize('name, kwargs', [('scale', dict(scale=(0, 1))), ('scale', dict(scale=(.5, .2))), ('scale', dict(scale=(.2, 1.1))), ('ratio', dict(ratio=(0, 1))),
    ('ratio', dict(ratio=2.)), ('aspect', dict(aspect=0.)), ('aspect', dict(aspect=torch.tensor([1., -1.]))), ('n', dict(n=-1)), ('n', dict(n=1.5))])
def test_bad_box_arguments_are_named(name, kwargs):
    with pytest.raises(ValueError, match=name): random_boxes(**{**dict(n=2), **kwargs})

def test_iou_counts_pixels():
    pixels = torch.randint(0, 10, (200, 2, 2)).sort(-1)[0]
    a, b = (torch.stack([p[:, 0, 0], p[:, 1, 0], p[:, 0, 1] - p[:, 0, 0] + 1, p[:, 1, 1] - p[:, 1, 0] + 1], 1) for p in (pixels, torch.randint(0, 10, (200, 2, 2)).sort(-1)[0]))
    def mask(o):
        m = torch.zeros(10, 10, dtype=torch.bool)
        m[o[0]:o[0] + o[2], o[1]:o[1] + o[3]] = True
        return m
    for x, y, iou in zip(a, b, box_iou(a / 10, b / 10)):
        assert abs((mask(x) & mask(y)).sum() / (mask(x) | mask(y)).sum() - iou) < 1e-5
    assert box_iou(a[:, None] / 10, b[None] / 10).shape == (200, 200) and box_iou(torch.zeros(4), torch.zeros(4)) == 0


# crop, flip, blur

@given(st.data())
def test_crops_are_torchvisions(data):
    "Any picture, any box on whole pixels, any size, flipped or not"
    d = lambda low, high: data.draw(st.integers(low, high))
    H, W, h, w, n = d(4, 70), d(4, 70), d(1, 60), d(2, 60), d(1, 4) # views one pixel wide come out wrong in torch 2.15
    torch.manual_seed(d(0, 999))
    x = torch.rand(n, 3, H, W)
    hw = torch.stack([torch.randint(1, s + 1, (n,)) for s in (H, W)], 1)
    tl = (torch.rand(n, 2) * (torch.tensor([H, W]) + 1 - hw)).long()
    flip = torch.rand(n) < .5
    ours = crop_and_flip(x, torch.cat([tl, hw], 1) / torch.tensor([H, W, H, W]), flip, (h, w))
    for i in range(n):
        theirs = TF.resized_crop(x[i], *tl[i].tolist(), *hw[i].tolist(), [h, w], antialias=True)
        assert (ours[i] - (theirs.flip(-1) if flip[i] else theirs)).abs().max() < 2e-5

def test_crops_are_torchvisions_on_224():
    x = torch.rand(2, 3, 300, 400)
    for t, l, h, w in [(0, 0, 300, 400), (13, 57, 211, 305), (100, 100, 60, 80)]:
        ours = crop_and_flip(x, torch.tensor([[t / 300, l / 400, h / 300, w / 400]] * 2), torch.tensor([False, True]), 224)
        theirs = TF.resized_crop(x, t, l, h, w, [224, 224], antialias=True)
        assert (ours[0] - theirs[0]).abs().max() < 1e-4 and (ours[1] - theirs[1].flip(-1)).abs().max() < 1e-4

def test_bytes_and_floats_give_the_same_views_and_float64_stays():
    x, box, flip = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8), random_boxes(6), torch.arange(6) % 2 == 0
    views = [crop_and_flip(o, box, flip, 16) for o in (x, x.float() / 255, x.double() / 255)]
    assert [o.dtype for o in views] == [torch.float32, torch.float32, torch.float64]
    assert (views[0] - views[1]).abs().max() < 1e-5 and (views[2] - views[1]).abs().max() < 1e-5
    assert crop_and_flip(x[:, :1], box, flip, (5, 9)).shape == (6, 1, 5, 9) and crop_and_flip(x[:0], box[:0], flip[:0], 4).shape == (0, 3, 4, 4)

def test_a_box_between_pixels_moves_smoothly():
    "The mean place of the light moves with the box, and a view of half a pixel is still a mean"
    ramp = torch.arange(64.).view(1, 1, 1, 64).expand(1, 1, 64, 64)
    centre = lambda box: crop_and_flip(ramp, torch.tensor([box]), torch.tensor([False]), 16).mean().item()
    lefts = torch.arange(20) * .0037 + .2
    means = torch.tensor([centre([.25, l, .5, .5]) for l in lefts.tolist()])
    assert ((means - ((lefts + .25) * 64 - .5)).abs() < .26).all() and (means.diff() > 0).all()
    assert torch.isfinite(crop_and_flip(ramp, torch.tensor([[.5, .5, .001, .001]]), torch.tensor([True]), 8)).all()

def test_rows_of_the_matrix_are_means():
    b = random_boxes(50, (.05, 1.))
    m = resample_matrix(b[:, 0], b[:, 2], 37, 20, torch.rand(50) < .5)
    assert m.min() >= 0 and (m.sum(-1) - 1).abs().max() < 1e-5
    outside = (torch.arange(37) + 1 <= b[:, :1] * 37) | (torch.arange(37) >= (b[:, :1] + b[:, 2:3]) * 37)
    assert m.amax(1)[outside].max() == 0, 'no pixel from outside the box'

def test_shrinking_does_not_alias():
    stripes = (torch.arange(128) % 2.).expand(1, 1, 128, 128)
    small = crop_and_flip(stripes, torch.tensor([[0., 0, 1, 1]]), torch.tensor([False]), 32)
    assert (small - .5).abs().max() < .1 and (stripes[..., ::4] - .5).abs().max() == .5

def test_blur_is_torchvisions_after_the_crop():
    x, flip = torch.rand(3, 3, 40, 40), torch.tensor([False, True, False])
    sigma = torch.tensor([1.5, 1.5, 0.])
    box = torch.tensor([[4., 8, 30, 20], [0, 0, 40, 40], [10, 10, 20, 20]]) / 40
    ours, sharp = crop_and_flip(x, box, flip, (24, 32), sigma), crop_and_flip(x, box, flip, (24, 32))
    assert (ours[:2] - TF.gaussian_blur(sharp[:2], [13, 13], [1.5, 1.5])).abs().max() < 1e-5 and (ours[2] - sharp[2]).abs().max() < 1e-6

def test_gradients_flow_through_a_crop():
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o: crop_and_flip(o, random_boxes(2, generator=torch.Generator().manual_seed(0)), torch.tensor([True, False]), 4), x)

@pytest.mark.parametrize('name, kwargs', [('image', dict(image=torch.rand(3, 8, 8))), ('image', dict(image=torch.zeros(2, 3, 8, 8, dtype=torch.int32))), ('box', dict(box=torch.rand(3, 4))),
    ('flip', dict(flip=torch.tensor([True]))), ('size', dict(size=0)), ('size', dict(size=(4, 4, 4)))])
def test_bad_crops_are_named(name, kwargs):
    with pytest.raises(ValueError, match=f'^{name}'): crop_and_flip(**{**dict(image=torch.rand(2, 3, 8, 8), box=random_boxes(2), flip=torch.zeros(2, dtype=torch.bool), size=4), **kwargs})


# recipes and make

@pytest.mark.parametrize('name, kwargs', [('scale', dict(scale=(0., 1.))), ('ratio', dict(ratio=(2., 1.))), ('flip', dict(flip=1.5)), ('grey', dict(grey=-.1)), ('jitter', dict(jitter=(.4, .4))),
    ('jitter hue', dict(jitter=(.4, .4, .4, .6))), ('blur_sigma', dict(blur_sigma=(2., 1.))), ('size', dict(size=0)), ('solarise', dict(solarise='yes'))])
def test_bad_recipes_are_named(name, kwargs):
    with pytest.raises(ValueError, match=name): Augment(**kwargs)

def test_bad_views_are_named():
    with pytest.raises(ValueError, match="augment='simcrl' is not known; did you mean 'simclr'"): Views(augment='simcrl')
    with pytest.raises(ValueError, match='n=0'): Views(n=0)
    with pytest.raises(ValueError, match='size=-1'): Views(-1)
    with pytest.raises(ValueError, match='mean, std: give both or neither'): Views(mean=[.5] * 3)
    with pytest.raises(ValueError, match='mean=.*3 numbers are needed'): Views(8, mean=[.5], std=[.2]).make(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match='3 channels are needed, got 1'): Views(8).make(torch.rand(2, 1, 8, 8))

@pytest.mark.parametrize('name', AUGMENTS)
def test_every_recipe_makes_finite_views_that_repeat(name):
    x = torch.randint(0, 256, (12, 3, 24, 32), dtype=torch.uint8)
    views = Views(16, name, mean=[.5] * 3, std=[.25] * 3)
    torch.manual_seed(1); a = views.make(x)
    box, flip = views.box, views.flip
    torch.manual_seed(1); b = views.make(x)
    assert all(torch.equal(p, q) for p, q in zip(a, b)) and all(torch.equal(p, q) for p, q in zip(box, views.box))
    assert len(a) == 2 and all(v.shape == (12, 3, 16, 16) and v.dtype == torch.float32 and v.abs().max() <= 2.0001 for v in a)
    if name != 'none': assert not torch.equal(box[0], box[1]) and not torch.equal(flip[0], flip[1])
    assert views.image is x and views.index.tolist() == [-1] * 12 and views.mask == [None, None]

def test_views_are_the_crops_that_their_boxes_say():
    x = torch.rand(8, 3, 30, 20)
    views = Views((16, 12), 'weak', mean=[.4, .5, .6], std=[.1, .2, .3])
    for v, box, flip in zip(views.make(x, torch.arange(8)), views.box, views.flip):
        plain = v * torch.tensor([.1, .2, .3]).view(3, 1, 1) + torch.tensor([.4, .5, .6]).view(3, 1, 1)
        assert (plain - crop_and_flip(x, box, flip, (16, 12))).abs().max() < 1e-5
        shape = box[:, 3] * 20 / (box[:, 2] * 30)
        assert shape.min() > .749 and shape.max() < 1.334, 'the ratio is one of pixels'
    assert views.index.tolist() == list(range(8))

def test_bytes_floats_and_doubles_make_equal_views():
    x, made = torch.randint(0, 256, (10, 3, 20, 20), dtype=torch.uint8), []
    for image in (x, x.float() / 255, x.double() / 255):
        torch.manual_seed(2); made.append(Views(16, 'byol').make(image))
    for other in made[1:]:
        for a, b in zip(made[0], other): assert a.dtype == b.dtype and ((a - b).abs() > 1e-4).float().mean() < 1e-3, 'but for pixels at the threshold of solarise'

@pytest.mark.parametrize('augment', ['small', 'simclr', 'byol'])
def test_working_in_pieces_changes_nothing(augment, monkeypatch):
    x, made = torch.randint(0, 256, (11, 3, 20, 20), dtype=torch.uint8), []
    for numbers in (1, 4000, 10**9):
        monkeypatch.setattr(mssl.views, 'CACHED', numbers)
        torch.manual_seed(2); made.append(Views(16, augment).make(x))
    for other in made[1:]:
        for a, b in zip(made[0], other): assert ((a - b).abs() > 1e-5).float().mean() < 1e-3

def test_many_views_each_by_its_own_recipe():
    small = Augment((.05, .2), size=8, flip=0., jitter_p=0., grey=0.)
    views = Views(16, (Augment((.5, 1.)), Augment((.5, 1.)), small, small), n=3)
    made = views.make(torch.rand(40, 3, 32, 32))
    assert [v.shape[-1] for v in made] == [16, 16, 8, 8] and not views.flip[3].any()
    area = [(b[:, 2] * b[:, 3]) for b in views.box]
    assert min(area[0].min(), area[1].min()) > .499 and max(area[2].max(), area[3].max()) < .2001
    assert len(Views(16, n=3).make(torch.rand(2, 3, 32, 32))) == 3 and not torch.equal(views.box[2], views.box[3])
    assert Views(None, 'weak').make(torch.rand(2, 3, 12, 18))[0].shape == (2, 3, 12, 18), 'no size: the pictures keep theirs'

def test_shares_of_flip_and_solarise_and_blur():
    x = torch.linspace(.6, .9, 8).expand(4000, 3, 8, 8)
    views = Views(8, Augment((1., 1.), (1., 1.), flip=.3, jitter_p=0., grey=0., solarise=.2), mean=[0.] * 3, std=[1.] * 3)
    v = views.make(x)[0]
    rising = v[:, 0, 0, 7] > v[:, 0, 0, 0]
    assert abs(views.flip[0].float().mean() - .3) < .025
    assert abs((v.amax((1, 2, 3)) < .5).float().mean() - .2) < .025 and ((v.amax((1, 2, 3)) < .5) == (rising == views.flip[0])).all()
    noise = torch.rand(1, 1, 32, 32).expand(2000, 3, 32, 32)
    v = Views(32, Augment((1., 1.), (1., 1.), 0., jitter_p=0., grey=0., blur=.5, blur_sigma=(7., 14.)), mean=[0.] * 3, std=[1.] * 3).make(noise)[0]
    assert abs((v.std((1, 2, 3)) < .9 * noise[0].std()).float().mean() - .5) < .04

def test_box_source_can_be_replaced():
    views, asked = Views(8, 'weak'), []
    def source(index):
        asked.append(index.tolist())
        return torch.tensor([[.25, .25, .5, .5]]).repeat(len(index), 1)
    views.box_source = source
    views.make(torch.rand(3, 3, 16, 16), torch.tensor([7, 5, 6]))
    assert asked == [[7, 5, 6]] * 2 and (views.box[0] == torch.tensor([.25, .25, .5, .5])).all()


# in somebody's Learner

class Numbers(nn.Module):
    "Embeddings straight from the pixels, with one weight"
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(1)); self.seen = []
    def forward(self, *views):
        self.seen.append([v.detach().clone() for v in views])
        z = tuple(self.w * F.adaptive_avg_pool2d(v, 4).flatten(1) for v in views)
        return z if len(z) > 1 else z[0]

class Watch(Callback):
    "Which pictures came, by what is in them, and which ones Views says they were"
    order = 6
    def __init__(self): self.said, self.came, self.splits, self.labels = [], [], [], []
    def after_batch(self):
        v = self.learn.views
        image = v.image if v.image.dtype == torch.uint8 else (v.image * 255).round().byte()
        self.said.append(v.index.tolist()); self.came.append(image[:, 0, 0, 0].tolist()); self.splits.append(self.training); self.labels.append(self.yb)

def numbered(n=23, size=8, label=False):
    x = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, size, size).contiguous()
    x[..., 4:] = torch.randint(0, 256, (n, 3, size, 4), dtype=torch.uint8)
    return Pictures(x, torch.arange(n) % 3 if label else None, ['a', 'b', 'c'] if label else None)

def resident(n=23, bs=5, label=False, valid=7):
    p = numbered(n + valid, label=label)
    return DataLoaders(ResidentLoader(p[:n], bs, shuffle=True, drop_last=True), ResidentLoader(p[n:], 3), device=torch.device('cpu'))

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures')
    for i, o in enumerate(numbered(30).image): Image.fromarray(o.permute(1, 2, 0).numpy()).save(path / f'{i:02d}_{"abc"[i % 3]}.png')
    return path

def block(folder, labels=True, bs=5, num_workers=0, batch_tfms=None, **kwargs):
    blocks, get_y = ((ImageBlock, CategoryBlock), lambda f: f.stem[-1]) if labels else ((ImageBlock,), None)
    b = DataBlock(blocks, get_items=lambda p: sorted(get_image_files(p)), splitter=IndexSplitter(range(23, 30)), get_y=get_y, batch_tfms=batch_tfms)
    return b.dataloaders(folder, bs=bs, num_workers=num_workers, device=torch.device('cpu'), **kwargs)

def learner(dls, *cbs, size=8, loss=info_nce, model=None, **kwargs):
    views = [] if any(isinstance(c, Views) for c in cbs) else [Views(size, 'weak')]
    return Learner(dls, model or Numbers(), loss_func=loss, cbs=[*views, *cbs], lr=.1, **kwargs)

def fit(learn, epochs=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    return learn

def check_index(watch, first_valid):
    "Every batch, training and validation: what Views said is what came (the validation set counts from 0 again)"
    assert watch.said
    for said, came, training in zip(watch.said, watch.came, watch.splits): assert [i if training else i + first_valid for i in said] == came
    return [sorted(sum((o for o, t in zip(watch.came, watch.splits) if t == training), [])) for training in (True, False)]

@pytest.mark.parametrize('label', [False, True])
def test_index_on_resident_pictures(label):
    watch = Watch()
    fit(learner(resident(label=label), watch), 3)
    train, valid = check_index(watch, 23)
    assert len(train) == 3 * 20 and valid == sorted(3 * list(range(23, 30))) and len({tuple(sum(watch.came[i:i + 4], [])) for i in (0, 7, 14)}) == 3

@pytest.mark.parametrize('labels, kwargs', [(True, dict(num_workers=2)), (False, dict(num_workers=2, persistent_workers=True)), (False, {}), (True, dict(drop_last=False, bs=4))],
                         ids=['workers', 'persistent workers', 'no workers', 'no drop_last'])
def test_index_on_a_data_block(folder, labels, kwargs):
    watch, dls = Watch(), block(folder, labels, **kwargs)
    fit(learner(dls, watch), 2)
    train, valid = check_index(watch, 23)
    assert len(train) == 2 * (20 if dls.train.drop_last else 23) and valid == sorted(2 * list(range(23, 30)))

def test_index_survives_a_stop_and_a_second_fit():
    watch, dls = Watch(), resident()
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.iter == 1: raise KeyboardInterrupt
    learn = learner(dls, watch)
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Stop())
    copy_of = dls.train.new(shuffle=False, drop_last=False)
    assert sum((b[0][:, 0, 0, 0].tolist() for b in copy_of), []) == list(range(23)), 'a loader made meanwhile has an order of its own'
    fit(learn)
    check_index(watch, 23)
    assert 'get_idxs' not in dls.train.__dict__ and 'get_idxs' not in dls.valid.__dict__, 'nothing is left behind'

def test_a_loaders_own_order_is_kept():
    p, own = numbered(20), lambda: [3, 1, 4, 15, 9, 2]
    dls = DataLoaders(ResidentLoader(p, 3, get_idxs=own, n=6), ResidentLoader(p, 3), device=torch.device('cpu'))
    watch = Watch()
    fit(learner(dls, watch), 2)
    assert sum(watch.said[:2], []) == own() and check_index(watch, 0) and dls.train.get_idxs is own

def test_without_ids_the_index_says_so():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([(o,) for o in torch.rand(10, 3, 8, 8)])
    dls = DataLoaders(DataLoader(Stream(), bs=5, n=10), ResidentLoader(numbered(5), 5), device=torch.device('cpu'))
    watch = Watch()
    fit(learner(dls, watch))
    assert watch.said[0] == [-1] * 5

@pytest.mark.parametrize('labels', [False, True])
def test_weights_move_with_and_without_labels(folder, labels):
    learn = fit(learner(block(folder, labels)))
    assert abs(learn.model.w.item() - 1) > 1e-4 and all(np.isfinite(o.item()) for o in learn.recorder.losses)

def test_labels_do_not_reach_the_loss_but_reach_metrics_and_callbacks(folder):
    seen, watch = [], Watch()
    def loss(*z):
        seen.append(z)
        return info_nce(*z)
    metric = AvgMetric(lambda pred, y: (y == y.long()).float().mean() if y.shape == (len(pred),) else torch.tensor(float('nan')))
    dls = block(folder)
    learn = fit(learner(dls, watch, loss=loss, metrics=metric))
    assert all(len(z) == 2 and z[1].shape == z[0].shape for z in seen)
    classes = {i: dls.vocab.o2i['abc'[i % 3]] for i in range(30)}
    assert all([classes[i] for i in came] == y[0].tolist() for came, y in zip(watch.came, watch.labels))
    assert learn.recorder.values[-1][-1] == 1, 'the metric saw the labels'

def test_one_view_trains_on_labels(folder):
    model = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * 3, 3))
    learn = fit(learner(block(folder), Views(8, n=1), loss=nn.CrossEntropyLoss(), model=model, metrics=lambda p, y: (p.argmax(1) == y).float().mean()))
    assert len(learn.recorder.losses) == 4 and 0 <= learn.recorder.values[-1][-1] <= 1
    preds, targets = learn.get_preds()
    assert preds.shape == (7, 3) and targets.tolist() == [learn.dls.vocab.o2i['abc'[i % 3]] for i in range(23, 30)]

def test_a_model_that_forgets_a_view_is_told():
    class First(Numbers):
        def forward(self, *views): return super().forward(views[0])
    with pytest.raises(ValueError, match='one batch of embeddings per view'): fit(learner(resident(), model=First()))

def test_a_batch_of_one_is_skipped_with_a_warning_or_left_out_of_the_validation_loss():
    watch = Watch()
    p = numbered(13, label=True)
    dls = DataLoaders(ResidentLoader(p[:6], 5), ResidentLoader(p[6:], 3), device=torch.device('cpu'))
    learn = learner(dls, watch)
    with pytest.warns(UserWarning, match='a batch of one picture is skipped.*drop_last=True'): fit(learn, 2)
    check_index(watch, 6)
    assert len(learn.recorder.losses) == 2 and np.isfinite(learn.recorder.values[-1]).all()
    with learn.no_bar():
        preds, targets = learn.get_preds()
        a = learn.validate()[0]
    assert len(preds) == 7 and targets.tolist() == [i % 3 for i in range(6, 13)] and np.isfinite(a)

def test_get_preds_and_validate_work_and_change_nothing():
    for label in (False, True):
        learn = fit(learner(resident(label=label)))
        state, weight = torch.get_rng_state(), learn.model.w.item()
        with learn.no_bar():
            preds, targets = learn.get_preds()
            a, b = learn.validate(), learn.validate()
        assert preds.shape == (7, 48) and len(targets) == 7 and torch.equal(targets, torch.arange(23, 30) % 3 if label else torch.arange(7))
        assert a[0] == b[0] and torch.equal(torch.get_rng_state(), state) and learn.model.w.item() == weight


# validation

def test_validation_draws_the_same_views_every_epoch():
    learn = learner(resident(), Views(8, 'simclr', seed=5))
    fit(learn, 2)
    seen = learn.model.seen # per epoch 4 training batches, 3 of validation
    assert len(seen) == 14
    for a, b in zip(seen[4:7], seen[11:14]): assert all(torch.equal(p, q) for p, q in zip(a, b))
    assert not torch.equal(seen[0][0], seen[7][0])
    other = learner(resident(), Views(8, 'simclr', seed=6))
    fit(other)
    assert not torch.equal(other.model.seen[4][0], seen[4][0])

def test_validation_leaves_the_random_numbers_of_training_alone():
    runs = []
    for valid in (0, 7):
        random.seed(1); np.random.seed(1); torch.manual_seed(1)
        dls = resident(valid=7)
        dls.loaders[1] = dls.valid.new(dls.valid.dataset[:valid or 2])
        learn = fit(learner(dls, Views(8, 'simclr')), 2)
        runs.append([s for s in learn.model.seen if len(s[0]) == 5] + [random.random(), np.random.rand(), torch.rand(1).item()])
    assert runs[0][-3:] == runs[1][-3:] and len(runs[0]) == len(runs[1]) == 11
    for a, b in zip(runs[0][:-3], runs[1][:-3]): assert all(torch.equal(p, q) for p, q in zip(a, b))


# what the batch holds

def test_normalize_is_recognised_and_undone(folder):
    images = {}
    for name, tfms in dict(plain=None, normalised=[Normalize.from_stats([.3, .4, .5], [.1, .2, .3])], imagenet=[Normalize.from_stats(*imagenet_stats)]).items():
        learn = learner(block(folder, batch_tfms=tfms), Views(8, PLAIN))
        with learn.no_bar(): learn.validate()
        v = learn.views
        images[name] = v.image
        assert v.image.min() >= 0 and v.image.max() <= 1
        assert torch.allclose(v.view[0] * torch.tensor(v.std).view(3, 1, 1) + torch.tensor(v.mean).view(3, 1, 1), v.image, atol=1e-5)
        if name == 'normalised': assert np.allclose(v.mean, [.3, .4, .5]) and np.allclose(v.std, [.1, .2, .3])
    assert (images['plain'] - images['normalised']).abs().max() < 1e-5 and (images['plain'] - images['imagenet']).abs().max() < 1e-5

def test_pictures_out_of_range_are_refused_with_what_to_change():
    for x in (torch.randn(10, 3, 8, 8), torch.rand(10, 3, 8, 8) * 255):
        dl = DataLoader([(o,) for o in x], bs=5)
        with pytest.raises(ValueError, match='Views: the batch holds values from .* take that out .*Normalize'): fit(learner(DataLoaders(dl, dl, device=torch.device('cpu'))))

def test_statistics_come_from_what_knows_them(folder):
    dls = resident()
    learn = learner(dls)
    learn.validate()
    assert np.allclose(learn.views.mean, dls.train.stats[0], atol=1e-6) and np.allclose(learn.views.std, dls.train.stats[1], atol=1e-6)
    learn = learner(block(folder))
    learn.validate()
    assert np.allclose(learn.views.mean, imagenet_stats[0]) and np.allclose(learn.views.std, imagenet_stats[1])
    learn = learner(resident(), Views(8, mean=[.1, .2, .3], std=[1., 2., 3.]))
    learn.validate()
    assert learn.views.mean == [.1, .2, .3]
    grey = Views(8, 'weak')
    assert grey.make(torch.full((2, 1, 8, 8), .5))[0].abs().max() == 0 and grey.mean == [.5]


# in company

def test_the_order_of_callbacks_makes_no_difference():
    def run(order):
        random.seed(2); torch.manual_seed(2)
        dls, watch = resident(label=True), Watch()
        cbs = [Views(8, 'small'), GradientAccumulation(8), watch]
        return fit(learner(dls, *[cbs[i] for i in order]), 2).model.w.item(), watch.said
    assert run([0, 1, 2]) == run([2, 1, 0]) == run([1, 0, 2])

def test_several_views_become_one_prediction_and_the_rest_targets():
    got = []
    def loss(first, *others):
        got.append(len(others))
        return info_nce(first, *others)
    learn = fit(learner(resident(), Views(8, 'small', n=3), loss=loss))
    assert set(got) == {2} and len(learn.views.box) == 3 and learn.views.index.shape == (1,)

def test_views_are_plain_float32_tensors_also_from_fastais_types(folder):
    learn = learner(block(folder), Views(8, 'simclr'))
    learn.validate()
    assert all(type(v) is torch.Tensor and v.dtype == torch.float32 for v in learn.model.seen[0])

def test_show_with_and_without_labels_before_and_after_training(folder):
    for dls in (block(folder), block(folder, labels=False), resident(), resident(label=True)):
        learn = learner(dls)
        state = learn.views.image
        before = learn.views.show(2)
        assert state is None and len(learn.views.index) == 5 and (learn.views.index >= 0).all() and 'get_idxs' not in dls.train.__dict__
        image = learn.views.image if learn.views.image.dtype == torch.uint8 else (learn.views.image * 255).round().byte()
        assert image[:, 0, 0, 0].tolist() == learn.views.index.tolist()
        fit(learn)
        for sheet in (before, learn.views.show()): assert len(sheet.axes[0].images) >= 4
    with pytest.raises(ValueError, match='n=0'): learn.views.show(0)

def test_an_exported_learner_comes_back_without_the_pictures(tmp_path):
    dls = resident(n=400, valid=50, bs=50, label=True)
    learn = fit(learner(dls, path=tmp_path, model=Siamese('resnet10_tiny', dim=8, hidden=8)))
    learn.export('mine.pkl')
    assert learn.views.image is not None and dls.train.dataset.image.numel() == 400 * 192, 'exporting takes nothing from the one at hand'
    back = load_learner(tmp_path / 'mine.pkl')
    assert back.views.augments == learn.views.augments and back.views.image is None and back.views._order is None and len(back.dls.train.dataset) == 0
    x = torch.rand(4, 3, 8, 8)
    assert torch.allclose(back.model.eval()(x), learn.model.eval()(x), atol=1e-6)
    weights = sum(o.numel() * o.element_size() for o in learn.model.state_dict().values())
    assert (tmp_path / 'mine.pkl').stat().st_size - weights < 60_000 < dls.train.dataset.image.numel(), 'no batch and no data set inside'

def test_a_loader_under_watch_can_be_sent_to_a_spawned_worker():
    views = Views(8)
    dl = ResidentLoader(numbered(), 5, shuffle=True)
    views._watch(dl); list(dl)
    back = pickle.loads(pickle.dumps(dl))
    assert sum((b[0][:, 0, 0, 0].tolist() for b in back.new(shuffle=False)), []) == list(range(23))

def test_finding_a_learning_rate_leaves_all_as_it_was(tmp_path):
    learn = learner(resident(), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=6, show_plot=False)
    assert learn.model.w.item() == 1 and 'get_idxs' not in learn.dls.train.__dict__
    fit(learn)

@pytest.mark.gpu
def test_on_a_gpu_everything_lies_there_and_nothing_is_drawn_elsewhere():
    x = torch.randint(0, 256, (16, 3, 40, 40), dtype=torch.uint8)
    box, flip, sigma = random_boxes(16), torch.rand(16) < .5, random_sigma(16, size=224)
    here = crop_and_flip(x, box, flip, 24, sigma)
    there = crop_and_flip(x.cuda(), box.cuda(), flip.cuda(), 24, sigma.cuda())
    assert (here - there.cpu()).abs().max() < 1e-4
    views = Views(24, 'byol')
    state = torch.get_rng_state()
    made = views.make(x.cuda())
    assert all(o.is_cuda for o in [*made, *views.box, *views.flip, views.index]) and torch.equal(state, torch.get_rng_state())


# one view again, groups, a filter that waits for the size

def test_the_same_view_again():
    x, again, once = torch.rand(6, 3, 12, 18), Views(8, 'byol', n=3, same=True), Views(8, 'byol', n=3)
    torch.manual_seed(1); a = again.make(x)
    state = torch.get_rng_state()
    torch.manual_seed(1); b = once.make(x)
    assert len(a) == len(again.box) == len(again.flip) == len(again.mask) == 3 and torch.equal(a[0], b[0]), 'by the first recipe'
    for o in (a, again.box, again.flip): assert torch.equal(o[0], o[1]) and torch.equal(o[0], o[2])
    assert not torch.equal(b[0], b[1]) and not torch.equal(state, torch.get_rng_state()), 'one view is drawn, not three'
    learn = fit(learner(resident(), Views(8, 'weak', same=True)))
    assert all(torch.equal(*o) for o in learn.model.seen)

class Grouped(Callback):
    "What a later room does: says who meets whom"
    order = 6
    def __init__(self, groups): self.groups, self.value, self.grad, self.yb = groups, [], [], []
    def before_batch(self): self.learn.views.groups = self.groups
    def after_loss(self): self.value.append(self.learn.loss.item()); self.yb.append(self.learn.yb)
    def before_step(self): self.grad.append(self.model.w.grad.item())

def squares(a, *others): return sum((i + 2) * (a - o).square().mean() for i, o in enumerate(others)) # the order counts

@pytest.mark.parametrize('groups', [[(0, 2), (1, 2)], [(2, 0, 1)], [(0, 1), (0, 2), (1, 2), (2, 1)], None])
def test_the_loss_is_the_mean_over_the_groups(groups):
    told, calls = Grouped(groups), []
    def loss(*z):
        calls.append(len(z))
        return squares(*z)
    learn = fit(learner(resident(label=True), Views(8, 'weak', n=3), told, loss=loss, metrics=lambda pred, y: (pred.shape[1] == 48 and y.shape == (len(pred),)) * 1.))
    whole = groups or [(0, 1, 2)]
    z = lambda o, w: tuple(w * F.adaptive_avg_pool2d(v, 4).flatten(1) for v in o)
    expected = lambda o, w=torch.ones(1): sum(squares(*(z(o, w)[i] for i in g)) for g in whole) / len(whole)
    w = torch.ones(1, requires_grad=True)
    expected(learn.model.seen[0], w).backward()
    assert told.value[0] == pytest.approx(expected(learn.model.seen[0]).item(), rel=1e-5) and told.grad[0] == pytest.approx(w.grad.item(), rel=1e-5) and abs(w.grad) > 1e-3
    valid = expected(learn.model.seen[4], learn.model.w.detach())
    assert told.value[4] == pytest.approx(valid.item(), rel=1e-5) and learn.recorder.values[-1][-1] == 1, 'validation and metrics too'
    assert calls == [len(g) for g in whole] * 6 + calls[6 * len(whole):] and all(len(o) == 1 and o[0].shape == (len(o[0]),) for o in told.yb), 'labels are back for metrics and callbacks'

def test_groups_of_a_model_with_a_teacher():
    "A group takes the student's answers to its views, then the teacher's to the same"
    got = []
    class Both(Numbers):
        def forward(self, *views): return (*(z := super().forward(*views)), *(10 * o for o in z))
    def loss(*z):
        got.append([o.detach() for o in z])
        return squares(*z)
    learn = fit(learner(resident(valid=2), Views(8, 'weak', n=3), Grouped([(0, 2), (1, 2)]), loss=loss, model=Both()))
    z = [F.adaptive_avg_pool2d(v, 4).flatten(1) for v in learn.model.seen[0]]
    for call, wanted in zip(got, ([z[0], z[2], 10 * z[0], 10 * z[2]], [z[1], z[2], 10 * z[1], 10 * z[2]])):
        assert len(call) == 4 and all(torch.allclose(a, b) for a, b in zip(call, wanted))

class Doubled(nn.Module):
    def __init__(self, size): super().__init__(); self.size = size
    def forward(self, x): return 2 * x

def test_a_filter_is_made_once_from_the_views_size():
    asked = []
    def of_size(size):
        asked.append(tuple(size))
        return Doubled(size)
    x, views = torch.rand(6, 3, 20, 20), Views((8, 12), 'weak', filter=of_size)
    assert asked == [] and views.filter is of_size
    torch.manual_seed(1); a = views.make(x)
    torch.manual_seed(1); b = Views((8, 12), 'weak').make(x)
    assert all(torch.equal(2 * q, p) for p, q in zip(a, b)) and isinstance(views.filter, Doubled)
    made = views.filter
    views.make(x), views.filtered(x)
    assert asked == [(8, 12)] and views.filter is made
    views.filter_views = False
    torch.manual_seed(1); c = views.make(x)
    assert all(torch.equal(p, q) for p, q in zip(b, c)) and torch.equal(views.filtered(c[0]), a[0]), 'a later callback may do it itself'

def test_what_is_no_filter_is_refused():
    for bad in ('high_pass', 3, torch.rand(2)):
        with pytest.raises(ValueError, match='^filter='): Views(filter=bad)

def test_a_function_that_makes_no_filter_is_refused():
    with pytest.raises(ValueError, match='filter'): Views(8, filter=lambda size: 3).make(torch.rand(2, 3, 8, 8))
