"""How often the most similar patch is the right one, for features whose answer is known."""
import math, pytest, torch

from mssl.correspondence import DAMAGES, correspondence, damaged_of, miou_of, nearest_patch, place_of, prediction_of, tail_of, tail_rows, view_pairs
from mssl.data import image_dls
from mssl.recipes import recipe_learner
from mssl.siamese_im import where_is
from mssl.views import random_boxes


def coordinates(box, flip, grid):
    "Features that know the place: the point of the picture under each patch, as many waves [B,L,32]"
    whole, no = torch.tensor([[0., 0, 1, 1]]).expand(len(box), 4), torch.zeros(len(box), dtype=torch.bool)
    at = (where_is(whole, no, box, flip, grid) + .5) / grid
    w = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)) * 25
    return torch.cat([(at @ w).sin(), (at @ w).cos()], -1)


def test_features_that_know_the_place_find_it():
    torch.manual_seed(0)
    box1, box2, flip1, flip2 = random_boxes(100, (.3, 1.)), random_boxes(100, (.3, 1.)), torch.rand(100) < .5, torch.rand(100) < .5
    right = where_is(box2, flip2, box1, flip1, 8)
    share = correspondence(coordinates(box1, flip1, 8), coordinates(box2, flip2, 8), right, 8)
    assert share > .95
    assert correspondence(coordinates(box1, flip1, 8), coordinates(box2, flip2, 8), right, 8, reach=1.5) >= share
    assert correspondence(coordinates(box1, ~flip1, 8), coordinates(box2, flip2, 8), right, 8) < .3, 'a forgotten flip is found out'


def test_chance_and_nothing_inside():
    torch.manual_seed(0)
    box, no = torch.tensor([[0., 0, 1, 1]]).expand(100, 4), torch.zeros(100, dtype=torch.bool)
    right = where_is(box, no, box, no, 8)
    assert abs(correspondence(torch.randn(100, 64, 16), torch.randn(100, 64, 16), right, 8) - 1 / 64) < .006
    assert math.isnan(correspondence(torch.randn(2, 64, 16), torch.randn(2, 64, 16), torch.full((2, 64, 2), 40.), 8))


def test_bad_input():
    z = torch.randn(2, 16, 4)
    with pytest.raises(ValueError, match='query, keys'): nearest_patch(z, torch.randn(3, 16, 4))
    with pytest.raises(ValueError, match='grid'): correspondence(z, z, torch.zeros(2, 16, 2), 5)
    with pytest.raises(ValueError, match='right'): correspondence(z, z, torch.zeros(2, 15, 2), 4)
    with pytest.raises(ValueError, match='kind'): damaged_of('nois')


def test_long_tail():
    y = torch.arange(5).repeat(100)[torch.randperm(500, generator=torch.Generator().manual_seed(1))]
    rows = tail_rows(y, 10)
    counts = y[rows].bincount().sort(descending=True).values
    assert counts[0] == 100 and counts[-1] == 10 and (counts.diff() < 0).all() and torch.equal(rows, tail_rows(y, 10))


def test_measures_change_nothing_and_are_shares():
    dls = image_dls('scenes', at_most=32, n=200, bs=50)
    learn = recipe_learner('siamese_im', dls, size=16)
    state, training = torch.get_rng_state(), learn.model.training
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    for f in (place_of, prediction_of, miou_of, tail_of, *map(damaged_of, DAMAGES)):
        a = f(learn)
        assert 0 <= a <= 1 and a == f(learn)
    assert torch.equal(state, torch.get_rng_state()) and learn.model.training == training and all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    other = recipe_learner('info_nce', dls, 'resnet10_tiny', size=32)
    assert 0 <= place_of(other) <= 1
    with pytest.raises(ValueError, match='siamese_im'): prediction_of(other)
    assert torch.equal(view_pairs(learn)[2], view_pairs(other)[2]), 'the same crops for every encoder'
