"""Few labels: the same draws for every start, the encoder's own front, and no test picture in any choice."""
import copy, dataclasses, json, math
import pytest, torch
from torch import nn
import mssl.fine_tune as room
from mssl.data import Pictures, load_pictures
from mssl.edges import HighPass
from mssl.encoders import PreparedEncoder, create_encoder, load_encoder
from mssl.fine_tune import FineTuned, FineTunedRow, answers, fine_tune, set_head, tune
from mssl.probes import fit_linear
from mssl.evaluation import embed

QUICK = dict(steps=4, bs=16, draws=2, rates=1e-3, published=False)

def tiny(filter=None, mean=(.3, .4, .5), std=(.2, .25, .3)): return PreparedEncoder(create_encoder('resnet10_tiny', channels=(8, 8, 8, 8), stem_width=8), mean, std, filter, dict(size=[16, 16]))

@pytest.fixture(scope='module')
def sets(): return load_pictures('scenes', size=16, n=200)

@pytest.fixture(scope='module')
def result(sets): return fine_tune(tiny(), *sets, per_class=(2, 5), **QUICK)

def test_the_table_has_every_start_and_amount(result):
    assert result.starts == ['pretrained', 'scratch', 'pretrained, frozen'] and result.amounts == [2, 5] and len(result) == 6
    assert all(len(r.accuracy) == 2 and 0 <= min(r.accuracy) <= max(r.accuracy) <= 1 for r in result)
    assert [r.labels for r in result if r.start == 'scratch'] == [20, 50]
    text, page = repr(result), result._repr_html_()
    assert 'pretrained minus scratch' in text and '<table' in page and 'asked once a draw' in page and '±' in text
    d = result.as_dict()
    assert d['rows'][0]['per_class'] == 2 and d['facts']['steps'] == '4 of 16 pictures, 16 x 16 pixels'
    assert list(FineTuned.from_dict(json.loads(json.dumps(d)))) == [dataclasses.replace(r, seconds=round(r.seconds, 1)) for r in result] and repr(FineTuned.from_dict(d)) == text
    assert 'labels' in result.show().alt or 'scratch' in result.show().alt

def test_differences_are_paired():
    rows = FineTuned([FineTunedRow('pretrained', 10, 100, [.5, .7, .6]), FineTunedRow('scratch', 10, 100, [.4, .6, .5])])
    mean, half = rows.gain('pretrained')
    assert math.isclose(mean, .1, abs_tol=1e-9) and half < 1e-6 and math.isclose(rows[0].std, .1, abs_tol=1e-9)
    with pytest.raises(ValueError, match='the table has pretrained, scratch'): rows.gain('nobody')

def test_the_same_seed_gives_the_same_numbers_and_nothing_outside_moves(sets, result):
    torch.manual_seed(3); before = torch.get_rng_state()
    again = fine_tune(tiny_like(result), *sets, per_class=2, frozen=False, scratch=False, **QUICK)
    twice = fine_tune(tiny_like(result), *sets, per_class=2, frozen=False, scratch=False, **QUICK)
    assert again[0].accuracy == twice[0].accuracy and torch.equal(before, torch.get_rng_state())

def tiny_like(_): torch.manual_seed(11); e = tiny(); torch.manual_seed(3); return e

def test_no_test_picture_decides_anything(sets, monkeypatch):
    "Other test pictures and labels: the same learning rate and the same weights; and they are asked only when training is over"
    train, test = sets
    other = Pictures(255 - test.image, (test.label + 3) % 10, test.classes)
    weights, chosen, asked = [], [], []
    whole = room.tune
    def watched(*args, **kwargs):
        learn = whole(*args, **kwargs)
        weights.append(learn.model.head.weight.detach().clone())
        return learn
    monkeypatch.setattr(room, 'tune', watched)
    encoder = tiny_like(None)
    for t in (test, other):
        found = fine_tune(encoder, train, t, per_class=4, frozen=False, **{**QUICK, 'rates': (1e-3, 1e-2)})
        chosen.append([r.lr for r in found])
    half = len(weights) // 2
    assert half == 2 * (2 * 2 + 2), 'two starts, two rates times two halves, two draws'
    assert chosen[0] == chosen[1] and all(torch.equal(a, b) for a, b in zip(weights[:half], weights[half:]))

def test_the_rate_is_chosen_on_the_labelled_pictures_of_the_first_draw(sets, monkeypatch):
    seen, real = [], room.tune
    monkeypatch.setattr(room, 'tune', lambda start, pictures, **kwargs: (seen.append((kwargs['lr'], pictures.image.clone())), real(start, pictures, **kwargs))[1])
    fine_tune(tiny(), *sets, per_class=4, scratch=False, frozen=False, **{**QUICK, 'rates': (1e-3, 1e-2)})
    (first, second), whole = [o for lr, o in seen[:2]], seen[4][1]
    assert [len(o) for o in (first, second, whole)] == [20, 20, 40]
    rows = lambda x: {o.numpy().tobytes() for o in x}
    assert rows(first) | rows(second) == rows(whole) and not rows(first) & rows(second)

def test_its_own_normalisation_and_filter_stay_in_front(sets):
    start = tiny(HighPass.for_size(16)).eval()
    learn = tune(copy.deepcopy(start), sets[0][:20], 10, lr=1e-12, steps=2, bs=20)
    assert isinstance(learn.views.filter, HighPass) and learn.views.mean == pytest.approx([.3, .4, .5]) and learn.views.std == pytest.approx([.2, .25, .3])
    learn.model.encoder.load_state_dict(start.encoder.state_dict())
    x = sets[1].image[:8]
    with torch.no_grad(): assert torch.allclose(answers(learn, x), learn.model.head(start(x)), atol=1e-4), 'measured on whole pictures, behind the same front'

def test_the_linear_layer_begins_as_the_probe(sets):
    start, few = tiny().eval(), sets[0][:60]
    head = nn.Linear(8, 12)
    set_head(head, start, few, None, 'cpu')
    z = embed(start, few.image).z
    assert torch.allclose(head(z)[:, :10], fit_linear(z, few.label)(z), atol=1e-3) and (head(z)[:, 10:] == -10).all(), 'classes that no picture has are never named'

def test_it_learns(sets):
    torch.manual_seed(0)
    train = sets[0]
    learn = tune(load_encoder('scenes_convnet'), train[:40], 10, lr=3e-3, steps=60, bs=20, size=16, augment='none')
    assert (answers(learn, train.image[:40]).argmax(1) == train.label[:40]).float().mean() > .8

def test_published_weights_are_a_start_of_their_own(sets, monkeypatch):
    from timm import create_model
    whole = create_model('resnet10t')
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', lambda *args, **kwargs: {k: v.clone() for k, v in whole.state_dict().items()})
    seen, real = [], room.tune
    monkeypatch.setattr(room, 'tune', lambda start, *args, **kwargs: (seen.append((start.mean.flatten().tolist(), copy.deepcopy(start.encoder.state_dict()))), real(start, *args, **kwargs))[1])
    result = fine_tune(tiny(), *sets, per_class=1, scratch=False, frozen=False, **{**QUICK, 'published': 'resnet10t', 'draws': 1, 'size': 32})
    assert result.starts == ['pretrained', 'timm resnet10t'] and not result.notes
    mean, state = seen[-1]
    assert mean == pytest.approx([.485, .456, .406]) and all(torch.equal(v, whole.state_dict()[k]) for k, v in state.items() if 'running' not in k and 'num_batches' not in k)

def test_without_a_network_the_table_says_so(sets, monkeypatch):
    def offline(*args, **kwargs): raise OSError('no network')
    monkeypatch.setattr('timm.models._builder.load_pretrained', offline)
    result = fine_tune(tiny(), *sets, per_class=1, frozen=False, scratch=False, **{**QUICK, 'published': 'resnet10t', 'draws': 1})
    assert result.starts == ['pretrained'] and "timm's weights for 'resnet10t' could not be had (OSError: no network)" in repr(result)

def test_several_encoders_and_a_small_class(sets):
    train, test = sets
    few = train[(train.label != 3) | (torch.arange(len(train)) == int((train.label == 3).nonzero()[0]))]
    result = fine_tune({'one': tiny(), 'two': tiny()}, few, test, per_class=3, frozen=True, **{**QUICK, 'draws': 1})
    assert result.starts == ['one', 'two', 'scratch'] and result[0].labels == 3 * 9 + 1 and 'the smallest class has 1' in repr(result)

@pytest.mark.parametrize('bad, words', [(dict(per_class=0), 'per_class=0'), (dict(draws=0), 'draws=0'), (dict(steps=0), 'steps=0'), (dict(rates=-1.), 'lr=-1'), (dict(train=None), 'train: labelled'), (dict(test='unlabelled'), 'test: the pictures carry no labels'),
                                        (dict(test='other'), 'test: classes .10. have no picture in train'), (dict(encoder='nobody'), 'nobody')])
def test_bad_input(sets, bad, words):
    train, test = sets
    swap = dict(unlabelled=Pictures(test.image), other=Pictures(test.image, test.label + 1))
    args = dict(encoder=tiny(), train=train, test=test, per_class=1, **QUICK)
    args.update({k: swap.get(v, v) if k == 'test' else v for k, v in bad.items()})
    with pytest.raises(ValueError, match=words): fine_tune(**args)

def test_a_module_of_ones_own_needs_a_function_for_scratch(sets):
    bare = lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
    start = PreparedEncoder(bare(), [.4] * 3, [.2] * 3)
    with pytest.raises(ValueError, match='give a function'): fine_tune(start, *sets, per_class=1, **QUICK)
    assert fine_tune(start, *sets, per_class=1, scratch=bare, frozen=False, **QUICK).starts == ['pretrained', 'scratch']
