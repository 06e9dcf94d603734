"The Epps-Pulley statistic against its closed form, its limits, and the loss that is made of it."
import math
import numpy as np, pytest, torch
from types import SimpleNamespace
from mssl import sigreg
from mssl.data import image_dls
from mssl.recipes import recipe_learner
from mssl.siamese import Siamese, siamese_learner, info_nce
from mssl.sigreg import LeJEPA, Resketch, epps_pulley, random_directions

def closed_form(x): # one sample
    "The integral over the whole line, as sums over pairs"
    n, d = len(x), np.subtract.outer(x, x)
    return math.sqrt(2 * math.pi) * (np.exp(-d**2 / 2).sum() / n - math.sqrt(2) * np.exp(-x**2 / 4).sum() + n / math.sqrt(3))

@pytest.mark.parametrize('width, middle', [(1, 0), (0, 0), (.3, 1), (2, -1)])
def test_the_integral_is_the_closed_form(width, middle):
    x = width * torch.randn(30, 3, dtype=torch.float64) + middle
    wanted = torch.tensor([closed_form(o) for o in x.T.numpy()])
    assert torch.allclose(epps_pulley(x, reach=9., knots=400), wanted, atol=1e-8)
    assert ((epps_pulley(x) - wanted).abs() < .02 * wanted + .05).all(), '17 knots up to 3 are enough'

def test_known_values():
    part = lambda a: math.sqrt(math.pi / a) * math.erf(3 * math.sqrt(a)) # integral of exp(-a t^2) from -3 to 3
    zero = 50 * (part(.5) - 2 * part(1) + part(1.5))
    assert abs(epps_pulley(torch.zeros(50, 1)).item() - zero) < .01 * zero
    expected = part(.5) - part(1.5) # of a Gaussian sample, at every n
    for n in (20, 400): assert abs(epps_pulley(torch.randn(n, 4000)).mean() - expected) < .05

def test_zero_in_the_limit_and_growing_with_collapse():
    by_n = [epps_pulley(torch.randn(n, 200)).mean().item() / n for n in (10, 100, 1000)]
    assert by_n[0] > 8 * by_n[1] > 64 * by_n[2]
    by_width = [epps_pulley(w * torch.randn(200, 50)).mean().item() for w in (1., .7, .4, .1, 0.)]
    assert by_width == sorted(by_width) and by_width[-1] > 50 * by_width[0]
    assert epps_pulley(torch.randn(200, 50) + 1).mean() > 20 * by_width[0], 'the middle counts too'
    assert torch.allclose(epps_pulley(x := torch.randn(40, 5)), epps_pulley(-x))

def test_a_shape_that_variance_and_covariance_do_not_see():
    "Signs have mean 0 and variance 1, and are no Gaussian"
    signs = torch.randint(2, (400, 8)).float() * 2 - 1
    assert epps_pulley(signs).mean() > 5 * epps_pulley(torch.randn(400, 8)).mean()

def test_directions():
    a = random_directions(16, 4000, 3)
    assert a.shape == (16, 4000) and torch.allclose(a.norm(dim=0), torch.ones(4000, dtype=torch.float64)) and torch.equal(a, random_directions(16, 4000, 3))
    assert (a @ a.T / 4000 - torch.eye(16) / 16).abs().max() < .01, 'each equally likely'
    state = torch.get_rng_state()
    random_directions(4, 4)
    assert torch.equal(state, torch.get_rng_state())

def test_the_loss_is_its_terms():
    z = [torch.randn(12, 6, dtype=torch.float64) for _ in range(3)]
    mean = sum(z) / 3
    unlike = sum((o - mean).square().mean() for o in z) / 3
    a = random_directions(6, 10, 5)
    far = torch.stack([epps_pulley(o @ a[:, k:k + 1])[0] for o in z for k in range(10)]).mean()
    loss = LeJEPA(.3, 10, seed=5)
    assert torch.allclose(loss(*z), .7 * unlike + .3 * far) and torch.allclose(torch.stack(loss.parts(*z)), torch.stack([unlike, far]))
    assert loss.parts(z[0], z[0])[0] == 0 and LeJEPA(0.)(z[0], z[0]) == 0

def test_gradients_are_those_of_the_numbers():
    assert torch.autograd.gradcheck(LeJEPA(.4, 6), [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)])
    assert torch.autograd.gradcheck(epps_pulley, torch.randn(6, 2, dtype=torch.float64, requires_grad=True))

def test_half_is_raised_and_double_stays():
    z = [torch.randn(16, 8) for _ in range(2)]
    assert LeJEPA()(*(o.half() for o in z)).dtype == torch.float32 and LeJEPA()(*(o.double() for o in z)).dtype == torch.float64

@pytest.mark.parametrize('make, said', [(lambda: LeJEPA(1.2), 'weight=1.2'), (lambda: LeJEPA(directions=0), 'directions=0'), (lambda: LeJEPA()(torch.randn(1, 4), torch.randn(1, 4)), '2 pictures'),
    (lambda: LeJEPA()(torch.randn(3, 4)), 'two views'), (lambda: epps_pulley(torch.zeros(3)), r'\[n,m\]'), (lambda: epps_pulley(torch.zeros(3, 1), reach=0), 'reach'), (lambda: epps_pulley(torch.zeros(3, 1), knots=1), 'knots')])
def test_bad_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said): make()

def test_parts_of_several_processes_add_up(monkeypatch):
    "Two halves whose sums are added are one whole"
    z = [torch.randn(20, 6, dtype=torch.float64) for _ in range(2)]
    whole, seen = LeJEPA()(*z), []
    def halves(add):
        monkeypatch.setattr(sigreg, 'process_count', lambda: 2)
        monkeypatch.setattr(sigreg, 'sum_over_processes', add)
        return [LeJEPA()(*(o[h] for o in z)) for h in (slice(0, 10), slice(10, 20))]
    halves(lambda x: seen.append(x) or x)
    first, second = seen[:2], seen[2:]
    sums = [a + b for a, b in zip(first, second)]
    given = iter(sums * 2)
    assert all(torch.allclose(o, whole) for o in halves(lambda x: next(given)))

@pytest.fixture(scope='module')
def dls(): return image_dls('scenes', 16, n=64, bs=16, device='cpu')

def test_other_directions_at_every_step_and_the_same_in_validation(dls):
    learn, seeds = recipe_learner('lejepa', dls, size=16), []
    parts = LeJEPA.parts
    class Watch(LeJEPA):
        def parts(self, *z): seeds.append((learn.training, self.seed)); return parts(self, *z)
    learn.loss_func.__class__ = Watch
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    training = [s for t, s in seeds if t]
    assert len(set(training)) == len(training) == 4 and {s for t, s in seeds if not t} == {0}

def test_all_processes_use_the_first_ones_seed(monkeypatch):
    monkeypatch.setattr(sigreg, 'process_count', lambda: 2)
    monkeypatch.setattr(sigreg, 'gather', lambda o: torch.cat([torch.tensor([17]), o]))
    cb, loss = Resketch(), LeJEPA()
    cb.learn = SimpleNamespace(training=True, loss_func=loss, dls=SimpleNamespace(device='cpu'))
    cb.after_pred()
    assert loss.seed == 17

def test_resketch_needs_its_loss(dls):
    with pytest.raises(ValueError, match='LeJEPA'): siamese_learner(dls, 'resnet10_tiny', info_nce, cbs=[Resketch()], size=16).fit(1)

def test_alone_it_keeps_embeddings_from_collapse():
    "Gradient descent on one point and its noise ends in a round cloud; without the Gaussian's part it stays a point"
    ends = {}
    for weight in (0., .5):
        torch.manual_seed(0)
        z, loss = (.05 * torch.randn(64, 4)).requires_grad_(), LeJEPA(weight, 64)
        opt = torch.optim.Adam([z], lr=.05)
        for _ in range(150): opt.zero_grad(); loss(z, z + .01).backward(); opt.step()
        ends[weight] = z.detach().std(0)
    assert (ends[0.] < .1).all() and ((.75 < ends[.5]) & (ends[.5] < 1.25)).all()
