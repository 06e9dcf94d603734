"ContrastiveCrop: heat, boxes and centres as the official code's; a table that knows which picture is which, whatever the loader does"
import inspect, math, re, warnings
import numpy as np, pytest, torch
import torch.multiprocessing as mp
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.vision.all import DataBlock, ImageBlock, RandomSplitter, Resize, aug_transforms, get_image_files
from PIL import Image
from torch import nn
from mssl import load_encoder
from mssl.contrastive_crop import BOXES, ContrastiveCrop, center_suppressed_boxes, heatmap, heatmap_box, place_crops, seen_share, simccrop, symmetric_beta
from mssl.data import Pictures, ResidentLoader
from mssl.encoders import create_encoder
from mssl.heatmaps import BoxGauge, coarse_heatmap, coarse_heatmap_box, find_boxes, stage_features
from mssl.recipes import make_parts, recipe_learner
from mssl.scenes import scenes
from mssl.siamese import Siamese, info_nce, vicreg
from mssl.train import pretrain
from mssl.views import Augment, Views, box_iou, random_boxes

FULL, CORNER, CENTRE = (0., 0, 1, 1), (.5, .5, .4, .4), (.25, .25, .5, .5)
PLAIN = Augment(jitter_p=0., grey=0.)
def boxes(box, n): return torch.tensor([box]).expand(n, 4)
def centre(box): return box[:, :2] + box[:, 2:] / 2

# --- the official code's values

@pytest.fixture(scope='module')
def official(shared): return np.load(shared / 'official' / 'official_values.npz')

def test_heat_maps_and_boxes_are_the_official_codes(official):
    heat = heatmap(torch.from_numpy(official['ccrop_features']), 56)
    assert (heat - torch.from_numpy(official['ccrop_heatmap'])).abs().max() < 1e-5
    for k in (.1, .3):
        ours, theirs = heatmap_box(heat, k), torch.from_numpy(official[f'ccrop_official_box_{k}']).float()
        ends = torch.cat([ours[:, :2], ours[:, :2] + ours[:, 2:] - 1 / 56], 1) # theirs end at the last row that is kept, ours behind it
        assert (ends - theirs).abs().max() < 1e-6
        assert (heatmap_box(torch.from_numpy(official['ccrop_heatmap']), k) == ours).all()

@pytest.mark.parametrize('name, box', [('full', FULL), ('corner', CORNER), ('centre', CENTRE)])
@pytest.mark.parametrize('alpha', [.1, .6, 1])
def test_centres_lie_where_the_official_codes_do(official, name, box, alpha):
    c = centre(center_suppressed_boxes(boxes(box, 60_000), alpha)).flatten()
    found = c.quantile(torch.tensor([.05, .1, .25, .5, .75, .9, .95])).numpy()
    assert np.abs(found - official[f'ccrop_centre_quantiles_a{alpha}_{name}']).max() < .02
    assert abs(c.std().item() - official[f'ccrop_centre_std_a{alpha}_{name}']) < .008

def test_overlap_of_two_views():
    for box, alpha, wanted in ((FULL, .1, .423), (FULL, .6, .480), (FULL, 1., .508), (CENTRE, .1, .426)):
        a, b = (center_suppressed_boxes(boxes(box, 400_000), alpha) for _ in range(2))
        assert abs(box_iou(a, b).mean().item() - wanted) < .006, (box, alpha)

# --- heat and boxes

def test_heat_is_the_sum_over_channels_from_0_to_1():
    h = torch.rand(5, 7, 4, 6)
    s = h.sum(1)
    assert torch.allclose(heatmap(h, (4, 6)), (s - s.amin((1, 2), keepdim=True)) / (s.amax((1, 2)) - s.amin((1, 2)))[:, None, None], atol=1e-6), 'at its own size nothing is enlarged'
    assert torch.allclose(heatmap(3 * h + 2, 24), heatmap(h, 24), atol=1e-5), 'scale and shift do not matter'
    one = torch.zeros(1, 1, 4, 4); one[0, 0, 1, 1] = 1
    assert abs(heatmap(one, 32).max() - .879) < .001, 'a lone peak is lower when enlarged: stretched before, not after'
    assert heatmap(h.half(), 24).dtype == torch.float32 and heatmap(h.double(), 24).dtype == torch.float64

def test_boxes_are_half_open_and_tight():
    heat = torch.zeros(3, 10, 20)
    heat[0, 2:5, 4:14] = 1; heat[1, 9, 0] = 1; heat[2, 0, 0] = heat[2, 9, 19] = 1
    assert torch.allclose(heatmap_box(heat), torch.tensor([[.2, .2, .3, .5], [.9, 0, .1, .05], [0, 0, 1, 1]]))
    edge = torch.tensor([[[.1, .1, .5], [.1, .1, .1]]])
    assert torch.allclose(heatmap_box(edge, .1), torch.tensor([[0, 2 / 3, .5, 1 / 3]])), 'hotter than the threshold, not as hot'

def test_the_hottest_place_is_in_the_box_however_high_the_threshold():
    one = torch.zeros(1, 1, 4, 4); one[0, 0, 1, 1] = 1
    box = heatmap_box(heatmap(one, 32), 1.)
    assert 0 < box[0, 2] < .1 and (centre(box) - .375).abs().max() < .02

def test_a_map_that_says_nothing_gives_the_whole_picture():
    h = torch.rand(6, 8, 4, 4)
    h[1] = 0; h[2] = 5; h[3, 0, 0, 0] = math.nan; h[4, 2, 1, 1] = math.inf; h[5] = 7 + 1e-6 * torch.rand(8, 4, 4)
    heat = heatmap(h, 16)
    assert heat.isfinite().all() and heat[0].max() > 0 and not heat[1:].any()
    assert (heatmap_box(heat)[1:] == torch.tensor(FULL)).all()
    assert (heatmap_box(torch.tensor([math.nan, math.inf]).view(2, 1, 1).expand(2, 4, 4)) == torch.tensor(FULL)).all()
    part = torch.zeros(1, 4, 4); part[0, 0, 0], part[0, 3, 3] = 1, math.nan
    assert (heatmap_box(part) == torch.tensor(FULL)).all()

def test_each_picture_for_itself():
    h = torch.rand(9, 5, 4, 4)
    together = heatmap_box(heatmap(h, 32), .6)
    assert torch.equal(together, torch.cat([heatmap_box(heatmap(o[None], 32), .6) for o in h]))
    assert heatmap(h[:0], 8).shape == (0, 8, 8) and heatmap_box(torch.rand(0, 8, 8)).shape == (0, 4) and center_suppressed_boxes(torch.rand(0, 4)).shape == (0, 4)
    for f in (heatmap, heatmap_box, place_crops, center_suppressed_boxes, symmetric_beta): assert not re.search(r'^\s*for ', inspect.getsource(f), re.M), 'no loop over pictures'

@pytest.mark.parametrize('cells,size', [((7, 7), 224), ((4, 4), 32), ((7, 5), (100, 64)), ((1, 3), 17), ((8, 8), 8), ((9, 9), (5, 4))])
def test_the_box_without_the_large_map(cells, size):
    "The same box as of the enlarged map: of every line between two cells only the ends can be the highest"
    torch.manual_seed(0)
    h = torch.rand(400, 6, *cells, dtype=torch.float64)
    h[0], h[1, 0, 0, 0] = 1., math.nan
    coarse, whole = coarse_heatmap(h), heatmap(h, size)
    for k in (0., .1, .5, .9, 1.): assert torch.equal(coarse_heatmap_box(coarse, size, k), heatmap_box(whole, k)), k
    assert (coarse_heatmap_box(coarse, size)[:2] == torch.tensor(FULL)).all()
    single = coarse_heatmap_box(coarse.float(), size, .5), heatmap_box(whole.float(), .5)
    assert (single[0] - single[1]).abs().max(1).values.gt(1e-6).float().mean() < .01, 'float32: rounding alone'

# --- centres

def test_beta_has_its_mean_and_variance():
    for alpha in (.01, .1, .6, 1., 3.):
        u = symmetric_beta(alpha, (200_000,))
        assert u.isfinite().all() and u.min() >= 0 and u.max() <= 1
        assert abs(u.mean() - .5) < .005 and abs(u.var() - 1 / (4 * (2 * alpha + 1))) < .003, alpha

def test_centres_avoid_the_middle_and_are_symmetric():
    c = {a: centre(center_suppressed_boxes(boxes(FULL, 100_000), a)) for a in (.1, 1.)}
    assert c[.1].std() > 1.4 * c[1.].std()
    assert ((c[.1] - .5).abs() < .05).float().mean() < .6 * ((c[1.] - .5).abs() < .05).float().mean()
    crop = center_suppressed_boxes(boxes(FULL, 100_000), .1)
    at_start, at_end = (crop[:, :2] < 1e-3).float().mean(0), (crop[:, :2] + crop[:, 2:] > 1 - 1e-3).float().mean(0)
    assert (at_start - at_end).abs().max() < .01 and at_start.min() > .25, 'both sides alike: nothing is rounded towards the top and the left'

def test_the_box_moves_the_crop_and_leaves_its_size():
    torch.manual_seed(1); a = center_suppressed_boxes(boxes(CORNER, 20_000), .6)
    torch.manual_seed(1); b = random_boxes(20_000)
    assert torch.equal(a[:, 2:], b[:, 2:])
    assert a.min() >= 0 and (a[:, :2] + a[:, 2:]).max() < 1 + 1e-6, 'no crop leaves the picture'
    tiny = center_suppressed_boxes(torch.rand(5000, 4) * .4 + .1, .6, scale=(1e-4, 1e-4), ratio=(1., 1.))
    box = torch.tensor([[.2, .3, .4, .1]]).expand(5000, 4)
    c = centre(center_suppressed_boxes(box, .3, scale=(1e-4, 1e-4)))
    assert (c >= box[:, :2] - 1e-5).all() and (c <= box[:, :2] + box[:, 2:] + 1e-5).all() and (c.amax(0) - box[0, :2] - box[0, 2:]).abs().max() < 1e-3, 'where the picture sets no limit, centres lie in the box and reach its border'
    wide = center_suppressed_boxes(boxes(FULL, 5000), aspect=2.)
    assert wide[:, 3].mul(2).div(wide[:, 2]).min() > .7499 and tiny.shape == (5000, 4)

def test_the_same_seed_gives_the_same_boxes():
    box = boxes(CORNER, 50)
    torch.manual_seed(4); a = center_suppressed_boxes(box)
    torch.manual_seed(4); b = center_suppressed_boxes(box)
    assert torch.equal(a, b) and not torch.equal(a, center_suppressed_boxes(box))
    state, g = torch.get_rng_state(), lambda: torch.Generator().manual_seed(2)
    assert torch.equal(center_suppressed_boxes(box, generator=g()), center_suppressed_boxes(box, generator=g())) and torch.equal(state, torch.get_rng_state())

@pytest.mark.gpu
def test_on_a_gpu():
    h = torch.rand(20, 8, 7, 7, device='cuda')
    box = heatmap_box(heatmap(h, 56), .6)
    assert box.is_cuda and (box.cpu() - heatmap_box(heatmap(h.cpu(), 56), .6)).abs().max() < .03
    crop = center_suppressed_boxes(box, .1)
    assert crop.is_cuda and crop.isfinite().all() and (crop[:, :2] + crop[:, 2:]).max() < 1 + 1e-6

def test_share_of_an_object_that_a_crop_holds():
    held = seen_share(torch.tensor([[0., 0, .5, .5], [.5, .5, .5, .5], [0, 0, 1, 1]]), torch.tensor([.25, .25, .5, .5]))
    assert torch.allclose(held, torch.tensor([.25, .25, 1.])) and seen_share(torch.tensor([0., 0, .1, .1]), torch.tensor([.5, .5, .2, .2])) == 0

def test_random_crops_lose_small_objects_and_true_boxes_keep_them():
    box = scenes(500, 32, level='small').box.repeat(20, 1)
    def missed(of): return (torch.minimum(*(seen_share(of(), box) for _ in range(2))) < .25).float().mean().item()
    rate = {name: missed(of) for name, of in dict(random=lambda: random_boxes(len(box)), truth=lambda: center_suppressed_boxes(box), suppressed=lambda: center_suppressed_boxes(boxes(FULL, len(box)), .1)).items()}
    assert rate['random'] > .1 and rate['truth'] < .2 * rate['random'] and rate['suppressed'] > rate['random'], rate

# --- refused

@pytest.mark.parametrize('call, said', [
    (lambda: heatmap(torch.rand(3, 4, 4), 8), 'features: maps'), (lambda: heatmap([1], 8), 'features'), (lambda: heatmap(torch.ones(1, 2, 3, 3).long(), 8), 'floating'), (lambda: heatmap(torch.rand(1, 2, 3, 3), 0), 'size'),
    (lambda: heatmap_box(torch.rand(2, 1, 4, 4)), 'heat'), (lambda: coarse_heatmap_box(torch.rand(2, 1, 4, 4), 8), 'heat'), (lambda: coarse_heatmap_box(torch.rand(2, 4, 4), 8, 2), 'threshold'), (lambda: coarse_heatmap_box(torch.rand(2, 4, 4), 0), 'size'), (lambda: heatmap_box(torch.rand(2, 4, 4), 1.5), 'threshold'), (lambda: heatmap_box(torch.rand(2, 4, 4), '.1'), 'threshold'),
    (lambda: center_suppressed_boxes(torch.rand(4)), 'box'), (lambda: center_suppressed_boxes(torch.tensor([[.5, .5, .6, .2]])), 'inside the picture'), (lambda: center_suppressed_boxes(torch.tensor([[.5, .5, 0, .2]])), 'above 0'),
    (lambda: center_suppressed_boxes(torch.tensor([[math.nan, 0, 1, 1]])), 'box'), (lambda: center_suppressed_boxes(torch.tensor([FULL]), 0), 'alpha'), (lambda: center_suppressed_boxes(torch.tensor([FULL]), math.nan), 'alpha'),
    (lambda: center_suppressed_boxes(torch.tensor([FULL]), scale=(.5, .2)), 'scale'), (lambda: center_suppressed_boxes(torch.tensor([FULL]), ratio=(0, 1)), 'ratio'),
    (lambda: ContrastiveCrop('modle'), 'model'), (lambda: ContrastiveCrop(torch.rand(4)), 'boxes'), (lambda: ContrastiveCrop(alpha=-1), 'alpha'), (lambda: ContrastiveCrop(threshold=2), 'threshold'),
    (lambda: ContrastiveCrop(warmup=2), 'warmup'), (lambda: ContrastiveCrop(every=0), 'every'), (lambda: ContrastiveCrop(heat='summ'), 'sum'), (lambda: BoxGauge(treshold=.3), 'threshold'),
    (lambda: stage_features(create_encoder('resnet10_tiny'), torch.rand(2, 3, 32, 32), 'layer9'), 'layer4'), (lambda: find_boxes(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.rand(2, 3, 2, 2)), 'a map'),
    (lambda: make_parts('crops/alpha:0'), 'alpha'), (lambda: make_parts('crops/tresh:.3'), 'threshold')])
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said): call()

# --- encoders

def test_maps_of_convnets_and_vits():
    x = torch.randn(2, 3, 32, 32)
    net = create_encoder('resnet10_tiny').train()
    net.bn1.eval() # frozen by its user
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert stage_features(net, x)[0].shape == (2, net.num_features, 2, 2) and stage_features(net, x, 'layer3')[0].shape[2:] == (4, 4)
    assert net.training and net.layer1.training and not net.bn1.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), 'nothing was learned or switched'
    for kwargs in (dict(), dict(class_token=False, global_pool='avg')):
        vit = create_encoder('vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2, **kwargs)
        h, tokens = stage_features(vit, x)
        assert tokens and h.shape == (2, 24, 4, 4)
        assert torch.allclose(h[:, :, 1, 2], vit.eval().forward_features(x)[:, vit.num_prefix_tokens + 6], atol=1e-5), 'rows before columns'
        assert find_boxes(vit, x).heat.shape == (2, 32, 32)

def test_trained_maps_find_the_object():
    s = scenes(150, 64, seed=5)
    vit, convnet = load_encoder('scenes_vit'), load_encoder('scenes_convnet')
    small = torch.nn.functional.interpolate(s.image / 255, size=(32, 32), mode='bilinear', antialias=True)
    whole = box_iou(boxes(FULL, 150), s.box).mean()
    assert box_iou(find_boxes(vit.encoder, vit.prepare(small), .7).box, s.box).mean() > .6 > 2 * whole
    assert box_iou(find_boxes(convnet.encoder, convnet.prepare(s.image), .4, 'layer3').box, s.box).mean() > .6

# --- in a Learner: which picture is which

def small_dls(n=40, bs=8, box=True, **kwargs):
    drawn = scenes(n + 8, 16, level='small')
    train, valid = (Pictures(drawn.image[a:b], box=drawn.box[a:b] if box else None) for a, b in ((0, n), (n, n + 8)))
    kwargs = {**dict(shuffle=True, drop_last=True), **kwargs}
    return DataLoaders(ResidentLoader(train, bs, **kwargs), ResidentLoader(valid, 8), device=torch.device('cpu'))

class Spot(nn.Module):
    "An encoder whose map is hot in one of 16 cells, that of the picture's red value"
    def __init__(self): super().__init__(); self.num_features, self.gain, self.seen = 1, nn.Parameter(torch.ones(1)), 0
    def forward_features(self, x):
        red = (x[:, 0].mean((1, 2)) * 255).round().long() % 16
        return self.gain * nn.functional.one_hot(red, 16).view(-1, 1, 4, 4).float()
    def forward(self, x): return self.gain * x.mean((2, 3))[:, :1]

class Model(nn.Module):
    def __init__(self, encoder): super().__init__(); self.encoder, self.projector = encoder, nn.Linear(1, 2)
    def forward(self, *views): return tuple(self.projector(self.encoder(v)) for v in views)

def numbered(n): # picture i is one red value, i, everywhere
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1) * torch.tensor([1, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(n, 3, 16, 16)
def cell(i): return torch.stack([i % 16 // 4, i % 4], 1) / 4. + .125 # its middle

class Watch(Callback):
    "Remembers index and boxes of every view"
    order = 20
    def __init__(self): self.log = []
    def before_batch(self):
        if self.training: self.log.append((self.epoch, self.views.index.clone(), self.views.image[:, 0, 0, 0].clone(), [b.clone() for b in self.views.box]))

def fit(learn, n=2, cbs=None, **kwargs):
    with warnings.catch_warnings(), learn.no_bar(), learn.no_logging():
        warnings.simplefilter('ignore')
        learn.fit(n, 1e-3, cbs=cbs, **kwargs)
    return learn

def spot_learner(dls, *cbs, **kwargs):
    return Learner(dls, Model(Spot()), loss_func=lambda a, b: (a - b).square().mean() + a.mean(), cbs=[Views(16, PLAIN, mean=[0.] * 3, std=[1.] * 3), ContrastiveCrop(**{**dict(warmup=0.), **kwargs}), *cbs])

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('numbered')
    for i, x in enumerate(numbered(26)): Image.fromarray(x.permute(1, 2, 0).numpy()).save(path / f'{i:02}.png')
    return path

def ordinary(folder, workers=0, **kwargs):
    block = DataBlock(ImageBlock, get_items=lambda p: sorted(get_image_files(p)), splitter=lambda o: (list(range(25, 1, -1)), [0, 1]), item_tfms=Resize(16, 'squish'))
    return block.dataloaders(folder, bs=5, num_workers=workers, device=torch.device('cpu'), **kwargs)

def resident(folder=None, workers=0, **kwargs):
    return DataLoaders(ResidentLoader(Pictures(numbered(26)[range(25, 1, -1)]), 5, **{**dict(shuffle=True), **kwargs}), ResidentLoader(Pictures(numbered(2)), 2), device=torch.device('cpu'))

@pytest.mark.parametrize('loaders, workers, how', [(resident, 0, {}), (resident, 0, dict(drop_last=True)), (ordinary, 0, dict(drop_last=False)), (ordinary, 2, {}), (ordinary, 2, dict(persistent_workers=True)), (ordinary, 0, dict(shuffle=False))])
@pytest.mark.parametrize('kind', ['model', 'online'])
def test_every_picture_gets_its_own_box(folder, loaders, workers, how, kind):
    learn = spot_learner(loaders(folder, workers, **how), watch := Watch(), boxes=kind, threshold=.8)
    red = torch.arange(25, 1, -1)
    fit(learn)
    if kind == 'model' or not how.get('drop_last', loaders is ordinary): assert (learn.model.crop_boxes.state == 1).all()
    known = learn.model.crop_boxes.state == 1
    assert (centre(learn.model.crop_boxes.box)[known] - cell(red)[known]).abs().max() < .08 and known.sum() >= 20
    for epoch, index, image, both in watch.log:
        value = (image * 255).round().long() if image.is_floating_point() else image.long()
        assert torch.equal(red[index], value), 'index and picture belong together'
        if kind == 'online' and epoch == 0: continue
        for crop in both: # a crop covers its picture's cell: its centre is as near as the picture's border allows
            nearest = cell(value).clamp(crop[:, 2:] / 2, 1 - crop[:, 2:] / 2)
            near = (centre(crop) - nearest).abs().amax(1) < .12 # half a cell
            assert near.all() if kind == 'model' else near.float().mean() > .7 # a picture that was dropped before has no box yet

def test_only_places_differ_from_random_crops():
    logs = []
    for cbs in ([], [ContrastiveCrop(warmup=.5, threshold=.6)]):
        dls = small_dls()
        dls.train.rng.seed(3)
        torch.manual_seed(0)
        learn = Learner(dls, Siamese('resnet10_tiny'), loss_func=info_nce, cbs=[Views(16), *cbs, watch := Watch()])
        torch.manual_seed(1)
        fit(learn, 2)
        logs.append(watch.log)
    for (epoch, i, _, a), (_, j, _, b) in zip(*logs):
        assert torch.equal(i, j) and all(torch.equal(x[:, 2:], y[:, 2:]) for x, y in zip(a, b)), 'order, sizes and all draws are those of the run without it'
        assert all(torch.equal(x, y) for x, y in zip(a, b)) == (epoch == 0), 'and in the warm-up the places too'

@pytest.mark.parametrize('n, kwargs, passes', [(500, {}, [100, 200, 300, 400]), (100, {}, [20, 40, 60, 80]), (5, {}, [1, 2, 3, 4]), (1, {}, []), (10, dict(warmup=0.), [0, 2, 4, 6, 8]), (10, dict(warmup=.5), [5, 7, 9]),
                                               (10, dict(every=1.), [2]), (10, dict(warmup=1.), []), (10, dict(boxes='online'), [])])
def test_the_schedule(n, kwargs, passes): assert ContrastiveCrop(**kwargs).passes(n) == passes

def test_boxes_are_computed_when_the_schedule_says():
    learn, seen = spot_learner(resident(), warmup=.2), []
    crop, refresh = learn.contrastive_crop, learn.contrastive_crop.refresh
    crop.refresh = lambda: (seen.append(learn.epoch), refresh())
    fit(learn, 10)
    assert seen == [2, 4, 6, 8] and crop.seconds > 0

def test_validation_takes_random_crops_and_changes_nothing():
    learn = fit(spot_learner(resident(), threshold=.8), 1)
    before, drawn = {k: v.clone() for k, v in learn.model.state_dict().items()}, torch.get_rng_state()
    table = learn.model.crop_boxes
    with learn.no_bar():
        learn.validate(); random = [b.clone() for b in learn.views.box]
        learn.get_preds()
    assert learn.model.crop_boxes is table and all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items()) and torch.equal(drawn, torch.get_rng_state())
    learn.remove_cb(ContrastiveCrop)
    with learn.no_bar(): learn.validate()
    assert all(torch.equal(a, b) for a, b in zip(random, learn.views.box)), "the training pictures' boxes are not those of the validation pictures"

def test_a_second_fit_keeps_the_table_and_save_and_load_too(tmp_path):
    learn = fit(spot_learner(resident(), threshold=.8), 1)
    table, box = learn.model.crop_boxes, learn.model.crop_boxes.box.clone()
    learn.contrastive_crop.warmup = 1.
    fit(learn, 1)
    assert learn.model.crop_boxes is table and torch.equal(table.box, box)
    learn.save(tmp_path / 'whole')
    other = spot_learner(resident(), threshold=.8)
    assert not (other.model.crop_boxes.state > 0).any()
    other.load(tmp_path / 'whole')
    assert torch.equal(other.model.crop_boxes.box, box) and (other.model.crop_boxes.state == 1).all()
    fewer = spot_learner(DataLoaders(ResidentLoader(Pictures(numbered(10)), 5, shuffle=True), ResidentLoader(Pictures(numbered(2)), 2)))
    with pytest.warns(UserWarning, match='belong to 24 pictures'): fewer.load(tmp_path / 'whole')
    assert not fewer.model.crop_boxes.state.any() and len(fewer.model.crop_boxes) == 10
    fewer.dls = resident()
    with pytest.raises(ValueError, match='boxes of 10 pictures, the training set has 24'): fit(fewer, 1)

def test_a_callback_for_one_fit_only():
    learn = Learner(resident(), Model(Spot()), loss_func=lambda a, b: (a - b).square().mean(), cbs=[Views(16, PLAIN)])
    fit(learn, 1, cbs=[ContrastiveCrop(warmup=0.)])
    assert learn.model.crop_boxes.state.any()
    fit(learn, 1, cbs=[watch := Watch()])
    assert len(watch.log) == 5, 'without it, random crops again'

def test_without_views_it_says_so():
    with pytest.raises(ValueError, match='put Views among'): Learner(resident(), Model(Spot()), loss_func=info_nce, cbs=[ContrastiveCrop()])
    with pytest.raises(ValueError, match='no `encoder`'): Learner(resident(), nn.Linear(1, 1), loss_func=info_nce, cbs=[Views(16), ContrastiveCrop()])

@pytest.mark.parametrize('parts', ['crops/threshold:.6/layer:layer2', 'crops/boxes:online/threshold:.6/layer:layer2'])
def test_stopped_and_resumed_is_uninterrupted(parts, tmp_path):
    settings = dict(data='scenes:small', parts=parts, n=96, bs=32, size=16, epochs=3, supervised=False, show_bar=False)
    class Stop(Callback):
        order = 70
        def after_batch(self):
            if self.training and self.epoch == 2: raise KeyboardInterrupt
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        whole = pretrain(tmp_path / 'whole', **settings)
        pretrain(tmp_path / 'cut', cbs=[Stop()], **settings)
        torch.rand(7)
        resumed = pretrain(tmp_path / 'cut', resume=True, show_bar=False)
    a, b = (torch.load(tmp_path / o / 'checkpoint.pth', weights_only=True)['model'] for o in ('whole', 'cut'))
    assert all(torch.equal(a[k], b[k]) for k in a) and (a['crop_boxes.state'] == 1).any() and a['crop_boxes.box'].unique(dim=0).shape[0] > 5
    assert whole['results'] == resumed['results'] and whole['history'][-1]['box_area'] == resumed['history'][-1]['box_area'] < 1
    assert all(math.isfinite(h[k]) for h in whole['history'] for k in ('box_area', 'whole_boxes', 'flat_maps')), 'a run with nan cannot be stored'

# --- where boxes come from

def test_true_boxes_fixed_boxes_and_a_tensor():
    truth = small_dls().train_ds.box
    for given, wanted in (('truth', truth), ('fixed', boxes(CENTRE, 40)), (truth.flip(0), truth.flip(0))):
        learn = fit(Learner(small_dls(), Siamese('resnet10_tiny'), loss_func=info_nce, cbs=[Views(16), ContrastiveCrop(given, warmup=0.)]), 1)
        assert torch.equal(learn.model.crop_boxes.box, wanted) and learn.contrastive_crop.passes(10)[0] == 0
    one = simccrop()
    assert (one.boxes, one.alpha, one.warmup) == ('fixed', .1, 0.)
    for given, said in (('truth', 'carries no boxes'), (truth[:7], 'one for each of 40')):
        with pytest.raises(ValueError, match=said): fit(Learner(small_dls(box=False), Siamese('resnet10_tiny'), loss_func=info_nce, cbs=[Views(16), ContrastiveCrop(given, warmup=0.)]), 1)

def test_parts_and_recipe():
    crop, fixed, gauge = make_parts('crops/boxes:truth/threshold:.4/layer:layer3+simccrop/alpha:.2+boxes/layer:layer3')
    assert (crop.boxes, crop.threshold, crop.layer, fixed.boxes, fixed.alpha, gauge.kwargs) == ('truth', .4, 'layer3', 'fixed', .2, dict(layer='layer3')) and set(BOXES) == {'model', 'online', 'truth', 'fixed'}
    learn = recipe_learner('contrastive_crop', small_dls(), size=16, cbs=[ContrastiveCrop(alpha=.1)])
    assert learn.contrastive_crop.alpha == .1 and sum(isinstance(c, ContrastiveCrop) for c in learn.cbs) == 1 and len(learn.model.crop_boxes) == 40
    assert isinstance(recipe_learner('contrastive_crop', small_dls(), size=16).contrastive_crop, ContrastiveCrop)

def test_gauges_of_the_boxes_and_of_the_map():
    learn = Learner(small_dls(), Siamese('resnet10_tiny'), loss_func=info_nce, cbs=[Views(16), ContrastiveCrop('truth', warmup=.5), BoxGauge(16, threshold=.5, layer='layer2')])
    fit(learn, 2)
    rows = [dict(zip(learn.recorder.metric_names[1:], v)) for v in learn.recorder.values]
    assert [r['box_area'] for r in rows] == [1., pytest.approx(small_dls().train_ds.box[:, 2:].prod(1).mean().item(), rel=1e-4)]
    assert [r['whole_boxes'] for r in rows] == [1., 0.] and all(0 < r['map_iou'] < 1 and 0 < r['map_area'] <= 1 for r in rows)

# --- fallback and warnings

def fit_warned(learn, n=1):
    with warnings.catch_warnings(record=True) as said, learn.no_bar(), learn.no_logging():
        warnings.simplefilter('always')
        learn.fit(n, 0.)
    return [str(o.message) for o in said if 'ContrastiveCrop' in str(o.message)]

class Broken(Spot):
    "Flat for red values below 6, nan for 7"
    def forward_features(self, x):
        h, red = super().forward_features(x), (x[:, 0].mean((1, 2)) * 255).round().long()
        h = torch.where((red < 6).view(-1, 1, 1, 1), 3., h)
        return torch.where((red == 7).view(-1, 1, 1, 1), math.nan, h)

def test_maps_that_say_nothing_are_counted():
    learn = spot_learner(resident(), threshold=.8)
    learn.model.encoder = Broken()
    said = fit_warned(learn)
    state = learn.model.crop_boxes.state
    assert (state == 2).sum() == 5 and (learn.model.crop_boxes.box[state == 2] == torch.tensor(FULL)).all() # 2 to 5, and 7
    assert learn.contrastive_crop.values['flat_maps'] == pytest.approx(5 / 24) and any('5 of 24 pictures are flat or not finite' in o for o in said)

class Even(Spot):
    def forward_features(self, x): return super().forward_features(x) * 0 + self.level
@pytest.mark.parametrize('level, word', [(torch.ones(1, 1, 1, 1), 'collapsed'), (torch.linspace(1, 2, 16).view(1, 1, 4, 4), 'cuts nothing')])
def test_a_collapsed_encoder_and_a_threshold_that_cuts_nothing_are_said_once(level, word):
    learn = spot_learner(resident(), threshold=0. if word == 'cuts nothing' else .1)
    learn.model.encoder = Even(); learn.model.encoder.level = level if word == 'collapsed' else level.roll(8).flip(3)
    if word == 'cuts nothing': learn.model.encoder.level = torch.tensor([[1., 2, 2, 2], [2, 2, 2, 2], [2, 2, 1, 2], [2, 2, 2, 2]]).view(1, 1, 4, 4)
    said = fit_warned(learn, 3)
    assert sum(word in o for o in said) == 1, said

def test_one_epoch_is_all_warm_up():
    learn = spot_learner(resident(), warmup=.2)
    assert any('all warm-up' in o for o in fit_warned(learn)) and not learn.model.crop_boxes.state.any()
    assert not fit_warned(spot_learner(resident(), warmup=1.)), 'asked for: the run without it'

# --- random transforms

@pytest.fixture(scope='module')
def oblong(tmp_path_factory):
    path = tmp_path_factory.mktemp('oblong')
    for i, x in enumerate(scenes(20, 40).image): Image.fromarray(x.permute(1, 2, 0).numpy()[:28]).save(path / f'{i}.jpg')
    return path

@pytest.mark.parametrize('item, batch, said', [(Resize(32), [], re.escape("item_tfms=Resize(32, 'squish')")), (Resize(32, 'pad'), [], re.escape("Resize(32, 'squish')")),
                                               (Resize(32, 'squish'), [*aug_transforms(max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0, size=32)], r'Flip \(batch_tfms\)')])
def test_random_transforms_are_refused_with_the_line_to_change(oblong, item, batch, said):
    dls = DataBlock(ImageBlock, get_items=get_image_files, splitter=RandomSplitter(.2, seed=0), item_tfms=item, batch_tfms=batch).dataloaders(oblong, bs=4, num_workers=0, device=torch.device('cpu'))
    learn = Learner(dls, Siamese('resnet10_tiny'), loss_func=vicreg, cbs=[Views(16), ContrastiveCrop(warmup=0.)])
    with pytest.raises(ValueError, match=said): fit(learn, 1)
    for calm in (ContrastiveCrop(warmup=0., check=False), simccrop()):
        fit(Learner(dls, Siamese('resnet10_tiny'), loss_func=vicreg, cbs=[Views(16), calm]), 1)

def test_five_lines_over_an_unlabelled_folder(oblong, tmp_path):
    dls = DataBlock(ImageBlock, get_items=get_image_files, splitter=RandomSplitter(.2, seed=0), item_tfms=Resize(32, 'squish')).dataloaders(oblong, bs=4, num_workers=2, device=torch.device('cpu'))
    learn = Learner(dls, Siamese('resnet10_tiny'), loss_func=vicreg, cbs=[ContrastiveCrop(threshold=.5), Views(32)], path=tmp_path) # in any order
    start = {k: v.detach().clone() for k, v in learn.model.named_parameters()}
    fit(learn, 3)
    assert not any(torch.equal(v, start[k]) for k, v in learn.model.named_parameters()) and (learn.model.crop_boxes.state == 1).all()
    x = (torch.stack([torch.from_numpy(np.array(dls.train_ds[i][0].resize((32, 32), Image.Resampling.BILINEAR))) for i in range(4)]).permute(0, 3, 1, 2) / 255 - torch.tensor(learn.views.mean).view(3, 1, 1)) / torch.tensor(learn.views.std).view(3, 1, 1)
    learn.contrastive_crop.refresh()
    assert (find_boxes(learn.model.encoder, x, .5).box - learn.model.crop_boxes.box[:4]).abs().max() < .1
    learn.save_encoder(tmp_path / 'mine')
    assert load_encoder(tmp_path / 'mine')(x.clamp(0, 1)).isfinite().all() and not any('crop' in k for k in load_encoder(tmp_path / 'mine').state_dict())

# --- two processes

def _process(rank, path):
    from torch import distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{path}/rendezvous', rank=rank, world_size=2)
    out = {}
    for kind in ('model', 'online'):
        dls = DataLoaders(ResidentLoader(Pictures(numbered(9)), 3), ResidentLoader(Pictures(numbered(2)), 2), device=torch.device('cpu'))
        learn = spot_learner(dls, threshold=.8, boxes=kind)
        crop = learn.contrastive_crop
        learn.model(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
        if kind == 'model': crop.refresh()
        else:
            learn.training, crop._trained, learn.n_epoch, learn.epoch = True, [], 1, 0
            for ids in ([0, 1, 2], [8]) if rank == 0 else ([3, 4], [5, 6, 7]):
                learn.views.index, learn.views.image = torch.tensor(ids), numbered(9)[ids]
                crop.before_batch()
            crop.after_train()
        wrapped = torch.nn.parallel.DistributedDataParallel(learn.model)
        out[kind] = (learn.model.crop_boxes.box, learn.model.crop_boxes.state, [k for k in wrapped.parameters_to_ignore])
    torch.save(out, f'{path}/{rank}')
    dist.destroy_process_group()

def test_two_processes_have_one_table(tmp_path):
    mp.start_processes(_process, args=(str(tmp_path),), nprocs=2, start_method='fork')
    a, b = (torch.load(tmp_path / str(r), weights_only=False) for r in range(2))
    for kind in ('model', 'online'):
        assert torch.equal(a[kind][0], b[kind][0]) and torch.equal(a[kind][1], b[kind][1]) and (a[kind][1] == 1).all()
        assert (centre(a[kind][0]) - cell(torch.arange(9))).abs().max() < .08, 'cells are .25 apart'
        assert {'crop_boxes.box', 'crop_boxes.state'} <= set(a[kind][2]), "the other process's table is not sent over at every step"
