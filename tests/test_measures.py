"Measures by name: in range, nothing drawn, nothing changed; and each reads what was planted for it"
import random
from types import SimpleNamespace
import numpy as np, pytest, torch, torch.nn.functional as F
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn
import mssl.measures, mssl.questions
from mssl.data import Pictures, ResidentLoader, image_dls
from mssl.edges import HighPass, high_pass
from mssl.gauges import encode
from mssl.groups import INFORMATION
from mssl.measures import MEASURES, box_iou_of, few_labels, prepared, shape_of
from mssl.mscn import MaskedViews
from mssl.probes import fit_linear
from mssl.questions import QUESTIONS
from mssl.recipes import recipe_learner
from mssl.scenes import CLASSES
from mssl.semmim import semmim_learner
from mssl.siamese import info_nce, siamese_learner
from mssl.text import RETRIEVAL
from mssl.train import measure, supervised_learner
from mssl.transfer import few_label_probe
from mssl.views import Views

CPU, HALF = torch.device('cpu'), dict(mean=[.5] * 3, std=[.5] * 3)

@pytest.fixture(scope='module')
def learn():
    "A real one, on drawn pictures with boxes, behind a filter"
    torch.manual_seed(0)
    dls = image_dls('scenes', 16, n=200, bs=50, device='cpu')
    it = recipe_learner('byol', dls, size=16, cbs=[MaskedViews()], model_kwargs=dict(dim=16, hidden=16))
    with it.no_bar(), it.no_logging(): it.fit(1, 1e-3)
    return it

class Planted(nn.Module):
    "An encoder whose features are a given function of the pictures; a view's embedding is the same"
    def __init__(self, of, maps=None):
        super().__init__()
        self.of, self.maps, self.scale = of, maps, nn.Parameter(torch.ones(1))
        self.add_module('encoder', _Encoder(self))
    def embed(self, x): return self.of(x) * self.scale

class _Encoder(nn.Module):
    def __init__(self, owner): super().__init__(); self.__dict__['owner'] = owner
    def forward(self, x): return self.owner.embed(x)
    def forward_features(self, x): return self.owner.maps(x)

def planted(of, train, valid, maps=None, size=16):
    dls = DataLoaders(ResidentLoader(train, 50), ResidentLoader(valid, 50), device=CPU)
    return Learner(dls, Planted(of, maps), loss_func=info_nce, cbs=Views(size, 'weak', **HALF))


@pytest.fixture(scope='module')
def told():
    "A Learner whose pictures have captions, and whose model has groups"
    torch.manual_seed(0)
    learn = semmim_learner(image_dls('scenes', 16, n=100, bs=50, device='cpu'), size=16)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    return learn


# --- all of them

@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', [o for o in MEASURES if o not in ('miou', 'prediction')]) # one needs a map of several places, one a recipe of its own: tests/test_correspondence.py; RETRIEVAL, QUESTIONS and INFORMATION a model with captions and groups
def test_a_number_in_range_that_draws_and_changes_nothing(learn, told, name, training, monkeypatch):
    if name in (*RETRIEVAL, *QUESTIONS, *INFORMATION): learn = told
    if name == 'shape': monkeypatch.setattr(mssl.measures, 'scenes', lambda n, scenes=mssl.measures.scenes, **kw: scenes(min(n, 100), size=16, **kw)) # 2000 are drawn in seconds
    if name in QUESTIONS: monkeypatch.setattr(mssl.questions, 'scenes', lambda n, *args, scenes=mssl.questions.scenes, **kw: scenes(min(n, 100), *args, **kw))
    learn.model.train(training)
    learn.features = *encode(learn, learn.dls.train), *encode(learn, learn.dls.valid)
    before, v = {k: o.clone() for k, o in learn.model.state_dict().items()}, learn.views
    kept, states = (v.view, v.box, v.mask, v.index, v.filter, v._seen), lambda: (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(), learn.dls.train.rng.getstate(), learn.dls.valid.rng.getstate())
    drawn = states()
    try: values = [float(MEASURES[name](learn)) for _ in range(2)]
    finally: del learn.features
    assert values[0] == values[1] and np.isfinite(values[0]) and (-5 if name == 'ratio' else 0) <= values[0] <= 1
    assert states() == drawn, 'no random number of the training'
    assert learn.model.training is training and all(m.training is training for m in learn.model.modules())
    assert all(torch.equal(o, before[k]) for k, o in learn.model.state_dict().items()) and all(a is b for a, b in zip(kept, (v.view, v.box, v.mask, v.index, v.filter, v._seen)))

def test_train_measure_hands_the_features_on_and_takes_them_back(learn):
    told = []
    def mine(learn):
        told.append(learn.features)
        torch.rand(1), random.random(), np.random.rand()
        return 7
    state, others = torch.get_rng_state(), (random.getstate(), np.random.get_state()[1].tolist())
    got = measure(learn, more=dict(few10=MEASURES['few10'], mine=mine))
    assert list(got) == ['knn', 'linear', 'few10', 'mine'] and got['mine'] == 7. and 'features' not in learn.__dict__
    (z, y), (z_test, y_test) = encode(learn, learn.dls.train), encode(learn, learn.dls.valid)
    assert all(torch.equal(a, b) for a, b in zip(told[0], (z, y, z_test, y_test)))
    assert got['few10'] == few_label_probe(z, y, z_test, y_test, shares=(.1,), draws=3)[0].mean == MEASURES['few10'](learn), 'the same number when it asks for the features itself'
    assert torch.equal(state, torch.get_rng_state()) and others == (random.getstate(), np.random.get_state()[1].tolist())
    def fails(learn): raise RuntimeError('no')
    with pytest.raises(RuntimeError): measure(learn, more=dict(fails=fails))
    assert 'features' not in learn.__dict__

def test_the_table():
    assert list(MEASURES) == ['few1', 'few10', 'box', 'small', 'large', 'shape', 'ratio', 'kind', 'fill', 'miou', 'place', 'prediction', 'tail', 'noisy', 'blurred', 'faint', *RETRIEVAL, *QUESTIONS, *INFORMATION] and all(map(callable, MEASURES.values()))

def test_pictures_are_prepared_as_in_the_training(learn):
    image, modes = learn.dls.valid_ds.image[:7], []
    def use(x):
        modes.append((len(x), learn.model.training, torch.is_grad_enabled()))
        return x
    learn.model.train()
    x = prepared(learn, image, use, bs=3)
    mean, std = (torch.tensor(o).view(-1, 1, 1) for o in (learn.views.mean, learn.views.std))
    f = learn.views.filter.settings
    small = F.interpolate(image.float() / 255, size=(16, 16), mode='bilinear', antialias=True, align_corners=False)
    assert isinstance(learn.views.filter, HighPass) and torch.allclose(x, high_pass((small - mean) / std, **f), atol=1e-4)
    assert modes == [(3, False, False), (3, False, False), (1, False, False)] and learn.model.training


# --- few labels

def test_more_labels_tell_more():
    g = torch.Generator().manual_seed(1)
    y, y_test = (torch.randint(0, 8, (n,), generator=g) for n in (600, 300))
    z, z_test = (2.2 * F.one_hot(o, 8) @ torch.eye(8, 30) + torch.randn(len(o), 30, generator=g) for o in (y, y_test))
    learn = SimpleNamespace(features=(z, y, z_test, y_test))
    few1, few10 = MEASURES['few1'](learn), MEASURES['few10'](learn) # one and about seven of 75 in each class
    assert .2 < few1 < few10 - .1 and few10 < 1, (few1, few10)
    assert few1 == few_label_probe(z, y, z_test, y_test, shares=(.01,), draws=3)[0].mean and few10 != few_labels(.2)(learn)
    learn.features = z[:, 8:], y, z_test[:, 8:], y_test
    assert MEASURES['few10'](learn) < .25, 'nothing but noise: chance is 1/8'

def test_without_labels_they_say_so():
    p = Pictures(torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8))
    with pytest.raises(ValueError, match='measure: the loaders carry no labels'): MEASURES['few10'](planted(lambda x: x.flatten(1)[:, :5], p[:40], p[40:]))


# --- boxes

def rectangles(n, seed):
    "A white rectangle on black"
    g = torch.Generator().manual_seed(seed)
    side = torch.randint(4, 9, (n, 2), generator=g)
    start = (torch.rand(n, 2, generator=g) * (17 - side)).long()
    inside = lambda k: (torch.arange(16) >= start[:, k, None]) & (torch.arange(16) < (start + side)[:, k, None])
    image = (inside(0)[:, :, None] & inside(1)[:, None, :]).mul(255).byte()[:, None].expand(n, 3, 16, 16).contiguous()
    return Pictures(image, torch.arange(n) % 2, ['a', 'b'], box=torch.cat([start, side], 1) / 16)

def test_boxes_are_found_where_the_map_shows_them():
    train, valid = rectangles(400, 0), rectangles(100, 1)
    seeing = box_iou_of(planted(None, train, valid, maps=lambda x: F.adaptive_avg_pool2d(x, 4)))
    blind = box_iou_of(planted(None, train, valid, maps=lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)))
    assert seeing > .6 > .45 > blind > 0
    with pytest.raises(ValueError, match='measure box: the pictures carry no boxes'): box_iou_of(planted(None, train, Pictures(valid.image), maps=lambda x: x))

def test_empty_boxes_are_left_out_and_said():
    "As in Tiny ImageNet, where some boxes have no height"
    train, valid = rectangles(400, 0), rectangles(100, 1)
    learn = planted(None, train, valid, maps=lambda x: F.adaptive_avg_pool2d(x, 4))
    whole = box_iou_of(learn)
    valid.box[:50:10, 2] = 0.
    with pytest.warns(UserWarning, match='5 of 100 pictures have an empty box'): assert abs(box_iou_of(learn) - whole) < .1

def test_small_and_large_objects_are_told_apart():
    "Only large rectangles show their class; and the two halves make up the whole"
    def coloured(n, seed):
        p = rectangles(n, seed)
        large = p.box[:, 2:].prod(1) > p.box[:, 2:].prod(1).median()
        p.image[large & (p.label == 1), 0] = 0
        return p
    learn = planted(lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1), coloured(600, 2), coloured(301, 3))
    small, large = MEASURES['small'](learn), MEASURES['large'](learn)
    assert large > .9 and .35 < small < .65, (small, large)
    (z, y), (z_test, y_test) = encode(learn, learn.dls.train), encode(learn, learn.dls.valid)
    count = int((learn.dls.valid_ds.box[:, 2:].prod(1) > learn.dls.valid_ds.box[:, 2:].prod(1).median()).sum())
    whole = (fit_linear(z, y).predict(z_test) == y_test).double().mean().item()
    assert (large * count + small * (301 - count)) / 301 == pytest.approx(whole)

@pytest.mark.parametrize('name', ['small', 'large'])
def test_sizes_need_boxes_that_differ(name):
    p, same = rectangles(60, 4), rectangles(60, 4)
    same.box[:] = same.box[:1]
    learn = planted(lambda x: x.flatten(1)[:, :5], p, Pictures(p.image, p.label, p.classes))
    with pytest.raises(ValueError, match='the pictures carry no boxes'): MEASURES[name](learn)
    if name == 'large':
        with pytest.raises(ValueError, match='measure large: no picture has such an object'): MEASURES[name](planted(lambda x: x.flatten(1)[:, :5], p, same))


# --- shape against texture

def test_shape_is_the_share_of_answers_by_shape(monkeypatch):
    "Three pixels hold what a picture is: red its shape, green its texture; on the training pictures both are the class"
    def coded(shape, texture):
        x = torch.zeros(len(shape), 3, 16, 16, dtype=torch.uint8)
        x[:, 0], x[:, 1] = (20 * shape.byte() + 30).view(-1, 1, 1), (20 * texture.byte() + 30).view(-1, 1, 1)
        return x
    g = torch.Generator().manual_seed(0)
    shape = torch.randint(0, 10, (200,), generator=g)
    texture = (shape + torch.randint(1, 10, (200,), generator=g)) % 10
    asked = []
    def fake(n, **kw):
        asked.append((n, kw))
        named = torch.zeros(200, 2, dtype=torch.bool)
        named[:, 1] = True # the second of two objects is the one that counts
        return SimpleNamespace(classes=CLASSES, image=coded(shape, texture), label=shape, objects=SimpleNamespace(texture=torch.stack([shape, texture], 1), named=named))
    monkeypatch.setattr(mssl.measures, 'scenes', fake)
    y = torch.arange(300) % 10
    train = Pictures(coded(y, y), y, CLASSES)
    read = lambda channel: lambda x: F.one_hot(((x[:, channel, 0, 0] * .5 + .5) * 255 - 30).div(20).round().long().clamp(0, 9), 10).float()
    score = {name: shape_of(planted(of, train, train[:50])) for name, of in dict(shape=read(0), texture=read(1)).items()}
    assert score == dict(shape=1., texture=0.) and any(kw.get('level') == 'conflict' for _, kw in asked)
    half = shape_of(planted(lambda x: torch.where((x[:, :, :1, 0].mean(1) * 0 + torch.arange(len(x))[:, None] % 2) > 0, read(0)(x), read(1)(x)), train, train[:50]))
    assert abs(half - .5) < .01
    with pytest.raises(ValueError, match='measure shape: the classes of `scenes` are needed'): shape_of(planted(read(0), Pictures(train.image, y, [str(i) for i in range(10)]), train[:50]))


# --- what an embedding tells about the mask

@pytest.fixture(scope='module')
def checks():
    "Pictures of pixels that are -1 or 1 when normalised: what is nearer to 0 was hidden"
    x = torch.randint(0, 2, (800, 3, 28, 28), generator=torch.Generator().manual_seed(0)).mul(255).byte()
    return Pictures(x[:100], torch.arange(100) % 2, ['a', 'b']), Pictures(x[100:], torch.arange(700) % 2, ['a', 'b'])

def blind(x): return x.sign()[:, :, :2, 5:7].flatten(1) + 0 * x.mean()
def hidden(x): return (x.abs() < .9).float()
def of_kind(x):
    h = hidden(x)
    return torch.stack([(h.amax(1) - h.amin(1)).mean((1, 2)), torch.stack([h[..., 0], h[..., -1]]).amin(0).mean((1, 2)) + torch.stack([h[:, :, 0], h[:, :, -1]]).amin(0).mean((1, 2)), h[:, :, (0, -1)].mean((1, 2, 3)), h.mean((1, 2, 3))], 1)
def of_fill(x): return ((x == 0).flatten(1).sum(1) / hidden(x).flatten(1).sum(1).clamp_min(1))[:, None]

def test_ratio_reads_a_planted_ratio(checks):
    absolute = MEASURES['ratio'](planted(lambda x: x.abs().mean((2, 3)), *checks, size=28))
    without = MEASURES['ratio'](planted(blind, *checks, size=28))
    assert absolute > .9 and without < .1, (absolute, without)

def test_kind_and_fill_read_what_was_planted(checks):
    for name, of, at_least, chance in (('kind', of_kind, .9, .56), ('fill', of_fill, .99, .5)):
        seeing, unseeing = (MEASURES[name](planted(o, *checks, size=28)) for o in (of, blind))
        assert seeing > at_least and abs(unseeing - chance) < .12, (name, seeing, unseeing)

def test_the_student_is_asked_where_there_is_a_teacher(learn):
    asked = []
    hook = learn.model.student.projector.register_forward_hook(lambda m, a, z: asked.append(len(z)))
    MEASURES['fill'](learn)
    hook.remove()
    assert sum(asked) == len(learn.dls.valid_ds)


# --- what is wrong

@pytest.mark.parametrize('name', ['few10', 'shape'])
def test_called_by_hand_on_a_siamese_learner(learn, name, monkeypatch):
    if name == 'shape': monkeypatch.setattr(mssl.measures, 'scenes', lambda n, scenes=mssl.measures.scenes, **kw: scenes(min(n, 100), size=16, **kw))
    assert 0 <= MEASURES[name](siamese_learner(learn.dls, 'resnet10_tiny', size=16)) <= 1

def test_the_supervised_line_has_an_answer_too(learn):
    measure(supervised_learner(learn.dls, 'resnet10_tiny', 16), more=dict(fill=MEASURES['fill']))

def test_boxes_from_tokens(learn):
    it = siamese_learner(learn.dls, 'vit_tiny_patch16_224', size=16, model_kwargs=dict(img_size=16, patch_size=4, depth=1, embed_dim=48))
    assert 0 <= box_iou_of(it) <= 1

def test_the_mode_comes_back_after_an_error(learn):
    learn.model.train()
    def fails(x): raise RuntimeError
    with pytest.raises(RuntimeError): prepared(learn, learn.dls.valid_ds.image[:2], fails)
    assert learn.model.training
