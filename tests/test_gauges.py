"Gauges look at a fixed random choice of pictures, in an order that is known, whatever the loader"
import pytest, torch
from fastai.data.core import DataLoaders
from mssl.data import Pictures, ResidentLoader
from mssl.gauges import FiniteLoss, KNNGauge, SpreadGauge, encode, some_rows
from mssl.scenes import scenes
from mssl.siamese import siamese_learner
from mssl.train import _pixels

@pytest.fixture
def learn():
    "Pictures sorted by class, as public data sets often are"
    drawn = scenes(200, 16)
    order = drawn.label.argsort()
    part = lambda i: Pictures(drawn.image[i], drawn.label[i], drawn.classes)
    dls = DataLoaders(ResidentLoader(part(order), 32, shuffle=True, drop_last=True), ResidentLoader(part(order[::2]), 32), device=torch.device('cpu'))
    torch.manual_seed(0)
    return siamese_learner(dls, 'resnet10_tiny', size=16)

def test_some_rows():
    assert some_rows(10) is None and some_rows(10, 10) is None and some_rows(10, 99) is None
    rows = some_rows(50_000, 5000)
    assert rows == some_rows(50_000, 5000) == sorted(set(rows)) and len(rows) == 5000 and 0 <= rows[0] and rows[-1] < 50_000
    tenths = torch.tensor(rows).div(5000, rounding_mode='floor').bincount(minlength=10)
    assert (tenths - 500).abs().max() < 100 # sorted classes of equal size all get their share

def test_a_part_of_sorted_pictures_holds_every_class(learn):
    z, y = encode(learn, learn.dls.train, 60)
    assert z.shape == (60, 256) and torch.equal(y, learn.dls.train_ds.label[some_rows(200, 60)]) and len(y.unique()) >= 8
    whole, labels = encode(learn, learn.dls.train)
    assert torch.equal(labels, learn.dls.train_ds.label) and torch.allclose(whole[some_rows(200, 60)], z, atol=1e-5)

def test_gauge_on_sorted_pictures(learn):
    learn.add_cb(KNNGauge(n=60))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert 0 <= learn.recorder.values[-1][2] <= 1

def test_pixel_floor_on_sorted_pictures(learn): assert .1 < _pixels(learn.dls, 80)['knn'] < 1

def test_the_order_of_training_is_untouched(learn):
    torch.manual_seed(1); learn.dls.train.rng.seed(5)
    before = [b[1].tolist() for b in learn.dls.train]
    learn.dls.train.rng.seed(5); encode(learn, learn.dls.train, 20)
    assert [b[1].tolist() for b in learn.dls.train] == before

# --- warned of

def embeddings_of(kind):
    "A loss that drives the embeddings somewhere"
    def loss(z1, z2):
        if kind == 'point': return (z1 - 1).square().mean() + (z2 - 1).square().mean()
        return (z1 - z1.mean(1, keepdim=True)).square().mean() + (z2 - z2.mean(1, keepdim=True)).square().mean() + (z1.std(0) - 1).square().mean() # a line: all dimensions alike
    return loss

@pytest.mark.parametrize('kind, word', [('point', 'SpreadGauge: collapsed in epoch .*the spread of the embeddings is'), ('line', 'SpreadGauge: collapsed in epoch .*the rank of the embeddings is')])
def test_collapse_is_warned_of_once_and_names_the_gauge(learn, kind, word):
    learn.loss_func = embeddings_of(kind)
    learn.add_cb(SpreadGauge(warn_below=.1 if kind == 'point' else 0., warn_rank=3.))
    with pytest.warns(UserWarning, match=word) as said, learn.no_bar(), learn.no_logging(): learn.fit(8, 1e-2)
    assert len([o for o in said if 'collapsed' in str(o.message)]) == 1

def test_a_healthy_training_is_not_warned_of(learn, recwarn):
    learn.add_cbs([SpreadGauge(), FiniteLoss()])
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    assert not [o for o in recwarn if 'Gauge' in str(o.message) or 'FiniteLoss' in str(o.message)]

def break_loss(learn, bad):
    own, learn.seen = learn.loss_func, 0
    def loss(*z):
        learn.seen += learn.training
        return own(*z) * (float('nan') if learn.training and bad(learn.seen) else 1)
    learn.loss_func = loss

def test_a_batch_without_a_loss_is_passed_over(learn):
    break_loss(learn, lambda i: i in (2, 5))
    learn.add_cb(FiniteLoss())
    with pytest.warns(UserWarning, match='FiniteLoss: the loss of batch 1 in epoch 0 is nan') as said, learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    assert len([o for o in said if 'FiniteLoss' in str(o.message)]) == 1 and learn.finite_loss.passed == 2
    assert all(p.isfinite().all() for p in learn.model.state_dict().values()) and all(torch.tensor(learn.recorder.losses).isfinite()) and len(learn.recorder.losses) == 2 * 6 - 2

def test_losses_that_stay_bad_end_the_training(learn):
    break_loss(learn, lambda i: i > 3)
    learn.add_cb(FiniteLoss(patience=4))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='nan or inf for 4 batches in a row .*lr=0.001 may be too high'), learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-3)
    assert learn.seen == 7 and all(p.isfinite().all() for p in learn.model.parameters())

def test_an_epoch_of_single_pictures_is_refused(learn):
    learn.dls.loaders[0] = learn.dls.train.new(bs=1)
    learn.add_cb(FiniteLoss())
    with pytest.warns(UserWarning, match='a batch of one picture is skipped'), pytest.raises(ValueError, match='no batch of epoch 0 could be trained on; with bs=1 and 200 pictures'), learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
