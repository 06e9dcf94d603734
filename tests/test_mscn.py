"""Masked views in anybody's Learner: exactly these pixels and nothing else, a filter that stays in front, copies that meet the other branch one by one."""
import random
import numpy as np, pytest, torch, torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, get_image_files
from PIL import Image
from torch import nn
import mssl.train
from mssl.core import mask_on_pixels
from mssl.data import Pictures, ResidentLoader
from mssl.edges import FILLS, HighPass, gaussian_blur, high_pass
from mssl.encoders import load_encoder, pool_features
from mssl.gauges import encode
from mssl.masks import grid_mask
from mssl.mscn import BRANCHES, LADDER, MaskedViews, masked_views
from mssl.recipes import RECIPES, recipe_learner
from mssl.scenes import scenes
from mssl.siamese import Siamese, info_nce, siamese_learner, vicreg
from mssl.teacher import byol_loss, kway_loss
from mssl.train import pretrain
from mssl.views import Augment, Views

CPU = torch.device('cpu')
STATS = dict(mean=[.4, .5, .6], std=[.2, .25, .3])

class Numbers(nn.Module):
    "Embeddings straight from the pixels, one weight for each number"
    def __init__(self, side=4): super().__init__(); self.side, self.w = side, nn.Parameter(torch.linspace(.5, 1.5, 3 * side * side))
    def embed(self, x): return self.w * F.adaptive_avg_pool2d(x, self.side).flatten(1)
    def forward(self, *views):
        z = tuple(self.embed(v) for v in views)
        return z if len(z) > 1 else z[0]

class Seen(Callback):
    "All that a batch was when the model got it, where the random numbers stood, and what came of it"
    order = 7 # after MaskedViews
    def __init__(self): self.batches = []
    def before_batch(self):
        v = self.learn.views
        self.batches.append(dict(training=self.training, xb=self.xb, view=[o.clone() for o in v.view], mask=list(v.mask), box=list(v.box), flip=list(v.flip), index=v.index.clone(), groups=v.groups,
                                 state=torch.get_rng_state(), others=(random.getstate(), np.random.get_state()[1].tolist())))
    def after_loss(self): self.batches[-1]['loss'] = self.learn.loss.detach().clone()
    def before_step(self): self.batches[-1]['grad'] = self.model.w.grad.clone() if hasattr(self.model, 'w') else None

def pictures(n=12, size=16, valid=6, bs=6, label=False):
    drawn = scenes(n + valid, size)
    part = lambda i: Pictures(drawn.image[i], drawn.label[i] if label else None, drawn.classes if label else None)
    return DataLoaders(ResidentLoader(part(slice(0, n)), bs, shuffle=True, drop_last=True), ResidentLoader(part(slice(n, n + valid)), bs), device=CPU)

def run(*cbs, views=None, model=None, loss=info_nce, epochs=1, dls=None):
    "One short training from the same random state -> its batches"
    random.seed(1); np.random.seed(1); torch.manual_seed(1)
    dls, seen = dls or pictures(), Seen()
    dls.train.rng.seed(1)
    learn = Learner(dls, model or Numbers(), loss_func=loss, lr=.1, cbs=[views or Views(16, 'simclr', **STATS), *cbs, seen])
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    return seen.batches

def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)
    return learn

def everywhere(mask, x): return mask_on_pixels(mask, x.shape[2:]).expand_as(x)
def weights(model): return {k: v.detach().clone() for k, v in model.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- in anybody's Learner

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path, drawn = tmp_path_factory.mktemp('pictures'), scenes(26, 16)
    for i, x in enumerate(drawn.image): Image.fromarray(x.permute(1, 2, 0).numpy()).save(path / f'{i:02d}_{"ab"[i % 2]}.png')
    return path

def block(folder, labels):
    blocks, get_y = ((ImageBlock, CategoryBlock), lambda f: f.stem[-1]) if labels else ((ImageBlock,), None)
    b = DataBlock(blocks, get_items=lambda p: sorted(get_image_files(p)), splitter=IndexSplitter(range(18, 26)), get_y=get_y)
    return b.dataloaders(folder, bs=6, num_workers=2, device=CPU)

def of_files(folder, labels, listing, later=None):
    random.seed(2); torch.manual_seed(2)
    seen = Seen()
    learn = Learner(block(folder, labels), Siamese('resnet10_tiny', dim=8, hidden=8), loss_func=vicreg, cbs=[*listing, seen], lr=1e-3)
    if later: learn.add_cb(later)
    torch.manual_seed(3)
    return quiet(learn, 1), seen.batches

@pytest.mark.parametrize('labels', [False, True])
def test_over_a_data_block_with_workers_in_any_order(folder, labels):
    "Listed before or after Views, or added later: the same batches, and the same weights in the end"
    ends, first = [], None
    masks = lambda: MaskedViews(n=2)
    for listing, later in (([Views(16), masks()], None), ([masks(), Views(16)], None), ([Views(16)], masks())):
        learn, batches = of_files(folder, labels, listing, later)
        ends.append(weights(learn.model))
        first = first or batches
        assert len(batches) == 3 + 2 and all(torch.isfinite(o) for o in learn.recorder.losses) and np.isfinite(learn.recorder.values[-1]).all()
        for a, b in zip(batches, first): assert all(torch.equal(x, y) for x, y in zip(a['view'], b['view'])) and torch.equal(a['index'], b['index'])
        assert isinstance(learn.views.filter, HighPass) and learn.views.groups is None
    assert all(o['xb'] == tuple(o['xb']) and len(o['xb']) == 3 and o['mask'][0].any() and o['mask'][2] is None for o in first if len(o['index']) == 6)
    assert same(*ends[:2]) and same(ends[0], ends[2])
    torch.manual_seed(2)
    start = weights(Siamese('resnet10_tiny', dim=8, hidden=8))
    assert not any(torch.equal(ends[0][k], start[k]) for k in start if k.endswith('conv1.weight'))

def test_with_gradient_accumulation_and_channels_last(folder):
    "Two batches, one step; three batches an epoch"
    class Steps(Callback):
        order = 90
        def __init__(self): self.moved = []
        def before_batch(self): self.before = self.model.encoder.conv1.weight.detach().clone()
        def after_batch(self):
            if self.training: self.moved.append(not torch.equal(self.before, self.model.encoder.conv1.weight))
    steps = Steps()
    learn = Learner(block(folder, False), Siamese('resnet10_tiny', dim=8, hidden=8), loss_func=vicreg, cbs=[steps, MaskedViews(n=2, branch='both'), GradientAccumulation(12), Views(16)]).to_channelslast()
    quiet(learn, 2)
    assert steps.moved == [False, True] * 3 and learn.model.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)

def test_accumulated_gradients_are_those_of_the_mean_over_the_groups():
    plain, both = run(MaskedViews(n=3)), run(GradientAccumulation(12), MaskedViews(n=3))
    assert torch.equal(plain[0]['view'][0], both[0]['view'][0])
    of_groups = lambda b: sum(info_nce(*(Numbers().embed(b['view'][i]) for i in g)) for g in b['groups']) / 3
    w = Numbers()
    (sum(info_nce(*(w.embed(b['view'][i]) for i in g)) for b in both[:2] for g in b['groups']) / 3 / 2).backward()
    assert torch.allclose(both[1]['grad'], w.w.grad, atol=1e-6) and both[0]['loss'] == pytest.approx(of_groups(both[0]).item(), rel=1e-5)

def test_one_view_trained_with_labels():
    "Masks as an augmentation of supervised training"
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    seen = run(MaskedViews(fill=7., filter=False), views=Views(16, 'weak', n=1, **STATS), model=model, loss=nn.CrossEntropyLoss(), dls=pictures(label=True))
    for b in seen: assert len(b['view']) == 1 and torch.equal(b['view'][0] == 7, everywhere(b['mask'][0], b['view'][0])) and torch.isfinite(b['loss'])

@pytest.mark.gpu
@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_mixed_precision_on_a_gpu(folder, precision):
    if precision == 'bf16' and torch.cuda.get_device_capability()[0] < 8: pytest.skip('this card only emulates bf16')
    dls = DataBlock(ImageBlock, get_items=get_image_files, splitter=IndexSplitter(range(18, 26))).dataloaders(folder, bs=6, num_workers=2, device=torch.device('cuda'))
    seen = Seen()
    learn = Learner(dls, Siamese('resnet10_tiny'), loss_func=vicreg, cbs=[GradientAccumulation(12), MaskedViews(n=3, branch='both'), Views(16), seen])
    learn = learn.to_fp16() if precision == 'fp16' else learn.to_bf16()
    here = torch.get_rng_state()
    quiet(learn, 3)
    assert torch.equal(here, torch.get_rng_state()), 'nothing is drawn on the CPU'
    b = seen.batches[0]
    assert all(o.is_cuda for o in [*b['view'], *b['mask'], *b['box']]) and b['mask'][0].dtype == torch.bool and len(b['view']) == 6 and len(b['groups']) == 9
    assert not torch.equal(b['mask'][0], seen.batches[1]['mask'][0]) and all(torch.isfinite(p).all() for p in learn.model.parameters()) and all(torch.isfinite(o['loss']) for o in seen.batches)


# --- these views, these pixels, and nothing else

HIDDEN = dict(query=[0], key=[1, 2], both=[0, 1, 2])

@pytest.fixture(scope='module')
def unmasked(): return {f: run(views=Views(16, 'simclr', n=3, filter=HighPass.for_size if f else None, **STATS), epochs=2) for f in (False, True)}

@pytest.mark.parametrize('branch', BRANCHES)
@pytest.mark.parametrize('filter', [False, True])
def test_a_branch_changes_its_views_behind_the_mask_and_nothing_else(unmasked, branch, filter):
    "Beside the same run without masks: boxes, flips, order, all other pixels, and the random numbers"
    masked = run(MaskedViews(branch=branch, filter=filter, fill=7., std=.5), views=Views(16, 'simclr', n=3, **STATS), epochs=2)
    assert len(masked) == len(unmasked[filter]) == 2 * (2 + 1) and {o['training'] for o in masked} == {True, False}
    for a, b in zip(unmasked[filter], masked):
        assert len(b['view']) == 3 and b['groups'] is None and torch.equal(a['index'], b['index'])
        assert torch.equal(a['state'], b['state']) and a['others'] == b['others'], 'masks draw numbers of their own'
        for key in ('box', 'flip'): assert all(torch.equal(x, y) for x, y in zip(a[key], b[key]))
        for k, (x, y, mask) in enumerate(zip(a['view'], b['view'], b['mask'])):
            assert y is b['xb'][k] or torch.equal(y, b['xb'][k])
            if k not in HIDDEN[branch]: assert mask is None and torch.equal(x, y); continue
            assert mask.dtype == torch.bool and mask.shape == (6, 3, 16, 16) and mask.any((1, 2, 3)).all()
            assert torch.equal(torch.where(mask, 7., x), y), '`views.mask` is what was hidden'

def test_the_weights_move_as_they_would_without_when_nothing_is_hidden():
    a, b = run(), run(MaskedViews(filter=False, ratio=0., p_focal=0.))
    for x, y in zip(a, b): assert not y['mask'][0].any() and torch.equal(x['loss'], y['loss'])

def test_masks_differ_from_picture_to_picture_view_to_view_batch_to_batch():
    m = torch.cat([torch.cat(b['mask']) for b in run(MaskedViews(branch='both', p_focal=0., p_channel=1., ratio=.4), epochs=3) if b['training']]).flatten(1)
    assert len(m) == 3 * 2 * 12 and len(m.unique(dim=0)) == len(m)

@pytest.mark.parametrize('size', [32, 64, (24, 40)])
def test_cells_and_windows_grow_with_the_picture(size):
    h, w = (size, size) if isinstance(size, int) else size
    views = lambda: Views(size, 'weak', **STATS)
    b = run(MaskedViews(p_focal=0., p_channel=1., ratio=.3, filter=False), views=views())[0]
    rows, cols = (torch.tensor([(2 * i + 1) * s // 14 for i in range(7)]) for s in (h, w)) # a pixel in the middle of each cell
    cells = b['mask'][0][:, :, rows][..., cols]
    assert b['view'][0].shape == (6, 3, h, w) and (cells.sum((2, 3)) == 14).all() and torch.equal(mask_on_pixels(cells, (h, w)), b['mask'][0])
    b = run(MaskedViews(p_focal=1., p_channel=0., keep=.5, filter=False), views=views())[0]
    seen = ~b['mask'][0]
    assert torch.equal(seen, seen[:, :1].expand_as(seen)) and (seen.any(3).sum(2) == h // 2).all() and (seen.any(2).sum(2) == w // 2).all() and (seen.sum((2, 3)) == h * w // 4).all()

def test_views_of_two_sizes_get_masks_of_two_sizes():
    b = run(MaskedViews(branch='both', p_focal=0., p_channel=0., ratio=.3, grid=(2, 5), n=2), views=Views(20, (Augment(), Augment(size=(12, 10))), **STATS), model=Numbers(2))[0]
    assert [tuple(o.shape[2:]) for o in b['view']] == [(20, 20)] * 2 + [(12, 10)] * 2 == [tuple(o.shape[2:]) for o in b['mask']]
    for m, (h, w) in zip(b['mask'], [(20, 20)] * 2 + [(12, 10)] * 2): assert (m.sum((2, 3)) == 3 * h * w // 10).all()

def test_two_masks_on_one_view():
    b = run(MaskedViews(branch='both', filter=False, fill=7.), views=Views(16, 'simclr', same=True, **STATS))[0]
    a = run(views=Views(16, 'simclr', same=True, **STATS))[0]
    assert torch.equal(a['view'][0], a['view'][1]) and torch.equal(b['box'][0], b['box'][1]) and not torch.equal(b['mask'][0], b['mask'][1])
    for v, m in zip(b['view'], b['mask']): assert torch.equal(torch.where(m, 7., a['view'][0]), v)
    c = run(MaskedViews(branch='both', filter=False, fill=7., same_view=True))[0]
    assert all(torch.equal(x, y) for x, y in zip(b['view'] + b['mask'], c['view'] + c['mask'])), 'asked of the masks instead'


# --- what goes into the hole

@pytest.mark.parametrize('fill', [*FILLS, 3., (1., -2., 5.)], ids=str)
def test_fills(unmasked, fill):
    for a, b in zip(unmasked[False], run(MaskedViews(filter=False, fill=fill, std=.5), views=Views(16, 'simclr', n=3, **STATS))):
        x, y, m = a['view'][0], b['view'][0], b['mask'][0]
        wanted = dict(zero=lambda: 0 * x, mean=lambda: x.mean((2, 3), keepdim=True).expand_as(x), mix=lambda: x.roll(1, 0), blur=lambda: gaussian_blur(x, 3, 10 * 16 / 224)).get(fill)
        assert torch.equal(x[~m], y[~m])
        if fill == 'noise': assert abs(y[m].std() - .5) < .05 and abs(y[m].mean()) < .06 and len(y[m].unique()) > .99 * m.sum()
        else: assert torch.allclose(y[m], (wanted() if wanted else torch.tensor(fill).view(-1, 1, 1).expand(1, 3, 1, 1).expand_as(x))[m], atol=1e-6)


# --- several masks of one view

def by_hand(branch, views, n):
    "Copies of each view, and who meets whom, written out"
    return {('query', 2, 3): ([0, 0, 0, 1], [(0, 3), (1, 3), (2, 3)]),
            ('key', 2, 2): ([0, 1, 1], [(0, 1), (0, 2)]),
            ('both', 2, 2): ([0, 0, 1, 1], [(0, 2), (0, 3), (1, 2), (1, 3)]),
            ('query', 3, 2): ([0, 0, 1, 2], [(0, 2, 3), (1, 2, 3)]),
            ('key', 3, 2): ([0, 1, 1, 2, 2], [(0, 1, 3), (0, 1, 4), (0, 2, 3), (0, 2, 4)])}[branch, views, n]

CASES = [('query', 2, 3), ('key', 2, 2), ('both', 2, 2), ('query', 3, 2), ('key', 3, 2)]

@pytest.mark.parametrize('branch, views, n', CASES)
@pytest.mark.parametrize('loss', [info_nce, vicreg])
def test_copies_meet_the_other_branch_one_by_one(branch, views, n, loss):
    "Boxes are repeated, masks are not; loss and gradient are means over the groups"
    a, b = (run(*o, views=Views(16, 'simclr', n=views, **STATS), loss=loss) for o in ([], [MaskedViews(branch=branch, n=n, filter=False, fill=7.)]))
    of, groups = by_hand(branch, views, n)
    hidden = [i for i, k in enumerate(of) if k in HIDDEN[branch]]
    for x, y in zip(a, b):
        assert len(y['view']) == len(y['mask']) == len(y['box']) == len(y['flip']) == len(of) and y['groups'] == groups
        for i, k in enumerate(of):
            assert torch.equal(y['box'][i], x['box'][k]) and torch.equal(y['flip'][i], x['flip'][k])
            assert torch.equal(y['view'][i], torch.where(y['mask'][i], 7., x['view'][k]) if i in hidden else x['view'][k]) and (y['mask'][i] is None) == (i not in hidden)
        assert not any(torch.equal(y['mask'][i], y['mask'][j]) for i in hidden for j in hidden if i < j)
    model, y = Numbers(), b[0] # the first batch: the weights are still those of the start
    value = sum(loss(*(model.embed(y['view'][i]) for i in g)) for g in groups) / len(groups)
    value.backward()
    assert y['loss'] == pytest.approx(value.item(), rel=1e-5) and torch.allclose(y['grad'], model.w.grad, rtol=1e-4, atol=1e-6) and y['grad'].abs().max() > 1e-3
    first = loss(*(model.embed(y['view'][i]) for i in groups[0]))
    assert abs(first - value) > 1e-4, 'the first group alone would be another number'

class Told(Callback):
    "What the model answered before Views sorts it, and the loss"
    order = 4
    def __init__(self): self.pred, self.loss, self.bare, self.split = [], [], [], []
    def after_pred(self): self.pred.append([o.detach().clone() for o in self.learn.pred]); self.split.append(self.training)
    def after_batch(self): self.loss.append(self.learn.loss.detach().clone())

@pytest.mark.parametrize('name, loss', [('byol', byol_loss), ('kway', kway_loss)])
def test_copies_with_a_teacher(name, loss):
    "The teacher sees the same copies; a group takes the student's and the teacher's answers to its views"
    told = Told()
    learn = recipe_learner(name, pictures(), size=16, cbs=[MaskedViews(n=2, branch='both'), told], model_kwargs=dict(hidden=8, dim=8))
    quiet(learn, 1, 1e-3)
    assert len(told.pred) == 3 and set(told.split) == {True, False}
    for z, value in zip(told.pred, told.loss):
        assert len(z) == 8
        groups = [loss(z[i], z[j], z[4 + i], z[4 + j]) for i, j in ((0, 2), (0, 3), (1, 2), (1, 3))]
        assert value == pytest.approx(sum(groups).item() / 4, rel=1e-5)
        assert max(groups) - min(groups) > 1e-5

def test_what_metrics_and_predictions_get_from_copies():
    learn = siamese_learner(pictures(valid=7), 'resnet10_tiny', size=16, cbs=MaskedViews(n=3), model_kwargs=dict(dim=8, hidden=8)) # the last batch holds one picture
    quiet(learn, 1, 1e-3)
    with learn.no_bar():
        z, index = learn.get_preds()
        value = learn.validate()[0]
    assert z.shape == (7, 8) and index.tolist() == list(range(7)) and np.isfinite(value)


# --- the filter

def filtered_by_hand(learn, dl):
    mean, std = (torch.tensor(o).view(-1, 1, 1) for o in (learn.views.mean, learn.views.std))
    x = torch.cat([b[0] for b in dl.new(shuffle=False, drop_last=False)]) / 255
    with torch.no_grad(): return pool_features(learn.model.encoder.eval()(high_pass((x - mean) / std, 3, 5 * 16 / 224)))

@pytest.mark.parametrize('masks_first', [False, True])
def test_the_filter_is_there_before_and_after_the_training_and_leaves_with_the_encoder(masks_first, tmp_path):
    torch.manual_seed(0)
    cbs = [Views(16, **STATS), MaskedViews()]
    learn = Learner(pictures(label=True), Siamese('resnet10_tiny', dim=8, hidden=8), loss_func=info_nce, cbs=cbs[::-1] if masks_first else cbs, path=tmp_path)
    learn.save_encoder(tmp_path / 'early')
    assert isinstance(load_encoder(tmp_path / 'early').filter, HighPass), 'also before the first batch, the size is known'
    assert torch.allclose(encode(learn, learn.dls.valid)[0], filtered_by_hand(learn, learn.dls.valid), atol=1e-5)
    quiet(learn, 1, 1e-3)
    assert learn.views.filter.settings == HighPass.for_size(16).settings
    expected = filtered_by_hand(learn, learn.dls.valid)
    assert torch.allclose(encode(learn, learn.dls.valid)[0], expected, atol=1e-5), 'kept at evaluation'
    image = learn.dls.valid_ds.image
    learn.save_encoder(tmp_path / 'mine')
    mine = load_encoder(tmp_path / 'mine')
    assert mine.filter.settings == learn.views.filter.settings and torch.allclose(mine(image), expected, atol=1e-5)
    learn.export('mine.pkl')
    back = load_learner(tmp_path / 'mine.pkl')
    assert back.views.filter.settings == mine.filter.settings and back.masked_views.mixture == learn.masked_views.mixture
    back.dls = learn.dls
    quiet(back, 1, 1e-3), quiet(learn, 1, 1e-3) # what came back can train on, and so can the old one
    learn.remove_cb(learn.masked_views)
    kept = learn.views.filter
    quiet(learn, 1, 1e-3)
    assert learn.views.filter is kept is not None, 'an encoder that was trained behind the filter keeps it'

def test_a_callback_added_later_filters_a_validation_too():
    seen = Seen()
    learn = Learner(pictures(), Numbers(), loss_func=info_nce, cbs=[Views(16), seen], lr=.1)
    learn.add_cb(MaskedViews(n=2))
    with learn.no_bar(): learn.validate()
    assert seen.batches[0]['mask'][0].any() and isinstance(learn.views.filter, HighPass)
    learn.remove_cb(learn.masked_views)
    quiet(learn, 1)
    assert seen.batches[-1]['mask'] == [None, None] and seen.batches[-1]['groups'] is None, 'and leaves no groups behind'

def test_without_a_size_the_filter_waits_for_the_first_picture(tmp_path):
    learn = Learner(pictures(size=32), Siamese('resnet10_tiny', dim=8, hidden=8), loss_func=info_nce, cbs=[MaskedViews(), Views()])
    with pytest.raises(ValueError, match='filter: it is made for the size'): learn.save_encoder(tmp_path)
    quiet(learn, 1, 1e-3)
    learn.save_encoder(tmp_path)
    assert load_encoder(tmp_path).filter.settings == HighPass.for_size(32).settings != HighPass.for_size(64).settings

def test_a_filter_that_views_has_already_is_kept():
    own = HighPass(5, 2.)
    for masks in (MaskedViews(), MaskedViews(filter=own), MaskedViews(filter=False)):
        learn = Learner(pictures(), Numbers(), loss_func=info_nce, cbs=[masks, Views(16, filter=own)])
        quiet(quiet(learn, 1), 1)
        assert learn.views.filter is own
    with pytest.raises(ValueError, match=r'(?s)filter=HighPass\(kernel_size=3.*Views has another one already.*kernel_size=5'): Learner(pictures(), Numbers(), loss_func=info_nce, cbs=[Views(16, filter=own), MaskedViews(filter=HighPass(3, 1.))])
    learn = Learner(pictures(), Numbers(), loss_func=info_nce, cbs=[Views(16), MaskedViews(filter=False)])
    assert quiet(learn, 1).views.filter is None

def test_the_wrong_order_is_mask_then_filter(unmasked):
    wrong = run(MaskedViews(filter_first=False, filter=HighPass(5, 2.), fill=2., n=2), views=Views(16, 'simclr', n=3, **STATS), epochs=2)
    for a, b in zip(unmasked[False], wrong):
        assert len(b['view']) == 4 and torch.equal(a['state'], b['state'])
        for i, k in enumerate((0, 0, 1, 2)):
            whole = torch.where(b['mask'][i], 2., a['view'][k]) if k == 0 else a['view'][k]
            assert torch.allclose(b['view'][i], high_pass(whole, 5, 2.), atol=1e-6)
    right = run(MaskedViews(filter=HighPass(5, 2.), fill=2.), views=Views(16, 'simclr', n=3, **STATS))
    assert torch.allclose(right[0]['view'][0], torch.where(right[0]['mask'][0], 2., high_pass(unmasked[False][0]['view'][0], 5, 2.)), atol=1e-6)


# --- masks of one's own

def test_own_masks_know_the_views():
    asked, right = [], torch.zeros(6, 1, 16, 16, dtype=torch.bool)
    right[..., 8:] = True
    def of_the_right_half(views, k):
        asked.append((k, views.view[k].shape, views.index.tolist(), views.image.shape, views.box[k].shape))
        return right.roll(8 * k, -1)
    b = run(MaskedViews(masks=of_the_right_half, branch='both', n=2, fill=7., filter=False))
    assert [o[0] for o in asked] == [0, 0, 1, 1] * 3 and all(o[1] == (6, 3, 16, 16) and o[3] == (6, 3, 16, 16) and o[4] == (6, 4) for o in asked)
    assert all(o[2] == b[i // 4]['index'].tolist() for i, o in enumerate(asked))
    for o in b:
        for v, k in zip(o['view'], (0, 0, 1, 1)): assert torch.equal(v == 7, everywhere(right.roll(8 * k, -1), v))

def test_own_masks_may_be_cells():
    cells = lambda views, k: grid_mask(6, 4, .25, generator=torch.Generator().manual_seed(k))[:, 0]
    b = run(MaskedViews(masks=cells, fill=7., filter=False))[0]
    assert torch.equal(b['view'][0] == 7, everywhere(cells(None, 0), b['view'][0]))

@pytest.mark.parametrize('made, word', [(torch.ones(6, 16, 16), 'bool'), (None, 'bool'), (torch.ones(5, 16, 16, dtype=torch.bool), '6 masks'), (torch.ones(6, 2, 16, 16, dtype=torch.bool), '1 or 3 channels'), (torch.ones(6, 17, 4, dtype=torch.bool), 'no finer than the picture')])
def test_own_masks_that_do_not_fit_are_refused(made, word):
    with pytest.raises(ValueError, match=f'(?s)mask.*{word}'): run(MaskedViews(masks=lambda views, k: made))


# --- the ladder

def setting(m): return dict(filter=m.filter, fill=m.fill, std=m.std, branch=m.branch, n=m.copies, masks=m.masks, filter_first=m.filter_first, same_view=m.same_view, **m.mixture)

def test_every_rung_changes_what_it_says():
    rungs = {name: setting(masked_views(name)) for name in LADDER}
    before = None
    for name, now in rungs.items():
        if before: assert {k for k in now if now[k] != before[k]} == set(LADDER[name]) and all(now[k] == v for k, v in LADDER[name].items()), name
        before = now
    assert list(rungs) == ['naive', 'high_pass', 'focal', 'noise', 'channel', 'query', 'several'] and rungs['naive'] == {**setting(MaskedViews()), **LADDER['naive']}
    assert rungs['query'] == setting(MaskedViews()) == setting(masked_views()), 'the defaults are the ladder without several masks'
    assert setting(masked_views('naive', fill='mix', grid=4)) == {**rungs['naive'], 'fill': 'mix', 'grid': 4}
    with pytest.raises(ValueError, match="rung='focla' is not known; did you mean 'focal'"): masked_views('focla')

@pytest.mark.parametrize('rung', LADDER)
def test_every_rung_in_pixels(rung, unmasked):
    "Which views are masked, whether they are filtered, what is in the hole, which kinds of masks"
    at = list(LADDER).index(rung)
    batches = run(masked_views(rung), views=Views(16, 'simclr', n=3, **STATS), epochs=2)
    rows, cols = (torch.tensor([(2 * i + 1) * 16 // 14 for i in range(7)]),) * 2
    kinds = dict(focal=0, channel=0, grid=0)
    for a, b in zip(unmasked[at >= 1], batches):
        k_of = [0, 0, 0, 1, 2] if rung == 'several' else [0, 1, 2]
        assert len(b['view']) == len(k_of)
        for x, y, m, k in zip((a['view'][k] for k in k_of), b['view'], b['mask'], k_of):
            if at >= 5 and k > 0: assert m is None and torch.equal(x, y); continue
            assert torch.equal(x[~m], y[~m]) and (y[m] == 0).all().item() == (at < 3)
            for one in m:
                alike = torch.equal(one, one[:1].expand_as(one))
                in_cells = torch.equal(mask_on_pixels(one[:, rows][..., cols][None], (16, 16))[0], one)
                kinds['channel' if not alike else 'grid' if in_cells else 'focal'] += 1
    assert (kinds['focal'] > 0) == (at >= 2) and (kinds['channel'] > 0) == (at >= 4) and kinds['grid'] > 0, kinds

def test_the_recipe():
    seen, dls = Seen(), pictures()
    learn = recipe_learner('mscn', dls, size=16, cbs=[seen])
    assert setting(learn.masked_views) == setting(MaskedViews()) and learn.loss_func is info_nce and RECIPES['mscn'].source.startswith('Masked Siamese ConvNets')
    quiet(learn, 1, 1e-3)
    assert isinstance(learn.views.filter, HighPass) and seen.batches[0]['mask'][0].any() and seen.batches[0]['mask'][1] is None
    mine = recipe_learner('mscn', dls, size=16, cbs=[MaskedViews(branch='both')], loss=vicreg)
    assert mine.masked_views.branch == 'both' and mine.loss_func is vicreg and sum(isinstance(c, MaskedViews) for c in mine.cbs) == 1


# --- validation, stop and resume

def test_validation_draws_the_same_masks_every_time_and_changes_nothing():
    seen = Seen()
    learn = Learner(pictures(valid=12), Numbers(), loss_func=info_nce, cbs=[Views(16, 'simclr', **STATS), MaskedViews(branch='both', n=2), seen], lr=.1)
    quiet(learn, 2)
    a, b = [[o for o in seen.batches[4 * e:4 * e + 4] if not o['training']] for e in range(2)]
    assert len(a) == 2 and all(torch.equal(p, q) for x, y in zip(a, b) for p, q in zip(x['mask'] + x['view'], y['mask'] + y['view']))
    assert not torch.equal(a[0]['mask'][0], a[1]['mask'][0]) and not torch.equal(seen.batches[0]['mask'][0], seen.batches[4]['mask'][0])
    before, state, others, last = weights(learn.model), torch.get_rng_state(), random.getstate(), learn.recorder.values[-1][-1]
    with learn.no_bar(): first, second = learn.validate(), learn.validate()
    assert first[0] == second[0] == last and same(before, weights(learn.model)) and torch.equal(state, torch.get_rng_state()) and others == random.getstate()

def test_training_is_the_same_with_and_without_validation_in_between():
    runs = [[b for b in run(MaskedViews(n=2), epochs=2, dls=pictures(valid=valid)) if b['training']] for valid in (2, 12)]
    for a, b in zip(*runs): assert all(torch.equal(x, y) for x, y in zip(a['view'], b['view']))

@pytest.mark.parametrize('parts', ['masks', 'masks/rung:several/fill:mix'])
def test_stopped_and_resumed_is_uninterrupted(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(mssl.train, 'write_report', lambda out, report, learn: None)
    settings = dict(parts=parts, n=64, bs=32, size=16, epochs=2, supervised=False, show_bar=False)
    class Stop(Callback):
        order = 70
        def after_batch(self):
            if self.training and self.epoch == 1: raise KeyboardInterrupt
    whole, cut = pretrain(tmp_path / 'whole', **settings), pretrain(tmp_path / 'cut', cbs=[Stop()], **settings)
    assert cut['stopped'] and len(cut['history']) == 1
    torch.rand(7) # the second process starts from another random state
    resumed = pretrain(tmp_path / 'cut', resume=True, show_bar=False)
    a, b = (torch.load(tmp_path / o / 'checkpoint.pth', weights_only=True) for o in ('whole', 'cut'))
    assert same(a['model'], b['model']) and whole['results'] == resumed['results'] and whole['filter'] == resumed['filter'] == 'high_pass'
    assert {'encoder', 'without filter'} <= set(whole['results']) and whole['settings']['parts'] == parts
    other = pretrain(tmp_path / 'other', **{**settings, 'parts': 'masks/branch:key', 'epochs': 1})
    assert other['history'][0]['train_loss'] != whole['history'][0]['train_loss']


# --- patches of a ViT that leave

def vit(): return Siamese('vit_tiny_small', dim=8, hidden=8, img_size=16, patch_size=4)
LEAVE = dict(filter=False, branch='both', p_focal=0, p_channel=0, grid=4, ratio=.25, fill='leave')

class Garbage(Callback):
    "What stands in the hidden pixels is overwritten after all"
    order = 8
    def __init__(self, where): self.where = where
    def before_batch(self):
        self.learn.xb = tuple(torch.where(m if self.where == 'hidden' else ~m, torch.full_like(x, 9.), x) for x, m in zip(self.xb, self.learn.views.mask))

@pytest.mark.parametrize('n', [1, 2])
def test_what_stands_in_patches_that_leave_is_never_seen(n):
    plain, hidden, visible = (run(MaskedViews(**LEAVE, n=n), *cbs, model=keep_weights(vit)) for cbs in ((), (Garbage('hidden'),), (Garbage('visible'),)))
    assert all(m.float().mean() == .25 for b in plain for m in b['mask'])
    assert all(torch.equal(a['loss'], b['loss']) for a, b in zip(plain, hidden)) and not torch.equal(plain[0]['loss'], visible[0]['loss'])
    assert not torch.equal(plain[0]['loss'], run(MaskedViews(**{**LEAVE, 'fill': 'zero', 'n': n}), model=keep_weights(vit))[0]['loss'])

def keep_weights(make):
    torch.manual_seed(4)
    return make()

def test_patches_come_back_when_the_batch_is_over():
    class Stop(Callback):
        def after_pred(self): raise KeyboardInterrupt
    learn = Learner(pictures(), vit(), loss_func=info_nce, cbs=[Views(16), MaskedViews(**LEAVE)], lr=.1)
    quiet(learn, 1)
    assert not learn.model.encoder.patch_drop._forward_hooks
    with pytest.raises(KeyboardInterrupt): quiet(learn, 1, cbs=Stop())
    assert not learn.model.encoder.patch_drop._forward_hooks

@pytest.mark.parametrize('word, kwargs, model', [
    ('only the patches of a ViT can leave, the encoder is SmallStemResNet', {}, lambda: Siamese('resnet10_tiny')), ('whole patches must be hidden', dict(grid=5), vit), ('whole patches must be hidden', dict(p_channel=1.), vit),
    ('the same number of patches', dict(ratio=(.1, .8)), vit)])
def test_patches_that_cannot_leave(word, kwargs, model):
    with pytest.raises(ValueError, match=word): run(MaskedViews(**{**LEAVE, **kwargs}), model=model())

@pytest.mark.parametrize('kwargs', [dict(branch='query'), dict(filter=True, filter_first=False)])
def test_patches_leave_all_views_or_none(kwargs):
    with pytest.raises(ValueError, match="^fill='leave'"): MaskedViews(**{**LEAVE, **kwargs})


# --- what is refused

@pytest.mark.parametrize('name, kwargs', [('ratio', dict(ratio=1.1)), ('ratio', dict(ratio=(-.1, .2))), ('ratio', dict(ratio=(.3, .2))), ('ratio', dict(ratio='half')), ('ratio', dict(ratio=True)), ('grid', dict(grid=0)), ('grid', dict(grid=(7, 2.5))),
    ('keep', dict(keep=1.2)), ('keep', dict(keep=0)), ('keep', dict(keep='all')), ('std', dict(std=-1)), ('n', dict(n=0)), ('n', dict(n=1.5)), ('fill', dict(fill='nois')), ('branch', dict(branch='teacher')), ('p_focal', dict(p_focal=1.2)),
    ('p_channel', dict(p_channel=-.1)), ('p_focal=0.7, p_channel=0.5', dict(p_focal=.7, p_channel=.5)), ('filter', dict(filter='high_pass')), ('filter', dict(filter=None)), ('masks', dict(masks=torch.ones(2))),
    ('filter_first=False', dict(filter_first=False, filter=False))], ids=str)
def test_what_is_refused_at_once(name, kwargs):
    with pytest.raises(ValueError, match=f'^{name}'): MaskedViews(**kwargs)

def test_near_misses_and_windows_in_the_sentences():
    with pytest.raises(ValueError, match="fill='nosie' is not known; did you mean 'noise'"): MaskedViews(fill='nosie')
    with pytest.raises(ValueError, match="branch='querry' is not known; did you mean 'query'"): MaskedViews(branch='querry')
    with pytest.raises(ValueError, match='keep=1.5: the window would be larger than the picture'): MaskedViews(keep=1.5)

@pytest.mark.parametrize('word, kwargs', [('grid=17: no finer than the picture is allowed, which has 16 x 16', dict(grid=17)), ('grid=.2, 20.: no finer', dict(grid=(2, 20))), ('fill=.1.0, 2.0.: a name, one number or 3', dict(fill=(1., 2.)))])
def test_what_only_the_first_batch_can_tell(word, kwargs):
    with pytest.raises(ValueError, match=word): run(MaskedViews(**kwargs))

def test_without_views_there_is_nothing_to_mask():
    with pytest.raises(ValueError, match='MaskedViews: there are no views to mask; put Views among the callbacks too'): Learner(pictures(), Numbers(), loss_func=info_nce, cbs=MaskedViews())
    learn = Learner(pictures(), Numbers(), loss_func=info_nce)
    learn.add_cb(MaskedViews())
    with pytest.raises(ValueError, match='there are no views to mask'): quiet(learn, 1)


# --- what is wrong

def test_a_filter_made_by_a_function_survives_a_second_fit():
    learn = Learner(pictures(), Numbers(), loss_func=info_nce, cbs=[Views(16), MaskedViews(filter=HighPass.for_size)], lr=.1)
    quiet(quiet(learn, 1), 1)

def test_mix_in_a_last_validation_batch_of_one():
    run(MaskedViews(fill='mix'), dls=pictures(valid=7))

def test_the_wrong_order_leaves_with_its_callback():
    seen = Seen()
    learn = Learner(pictures(), Numbers(), loss_func=info_nce, cbs=[Views(16, 'none', **STATS), seen], lr=.1)
    quiet(learn, 1, cbs=MaskedViews(filter_first=False))
    del seen.batches[:]
    with learn.no_bar(): learn.validate()
    b = seen.batches[0]
    mean, std = (torch.tensor(o).view(-1, 1, 1) for o in (STATS['mean'], STATS['std']))
    assert torch.allclose(b['view'][1], learn.views.filter((learn.views.image / 255 - mean) / std), atol=1e-5)

def test_groups_do_not_outlive_the_callback():
    class Stop(Callback):
        def after_batch(self): raise KeyboardInterrupt
    learn = Learner(pictures(), Numbers(), loss_func=info_nce, cbs=[Views(16), MaskedViews(n=3)], lr=.1)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 1, cbs=Stop())
    learn.remove_cb(learn.masked_views)
    quiet(learn, 1)

def test_views_mask_is_on_pixels_also_for_own_cells():
    b = run(MaskedViews(masks=lambda views, k: torch.ones(6, 4, 4, dtype=torch.bool)))[0]
    assert b['mask'][0].shape[2:] == (16, 16)

def test_no_fill_is_refused_by_name():
    with pytest.raises(ValueError, match='^fill'): MaskedViews(fill=None)
