"""The teacher is an average of the student, follows at steps only, and its losses are those of the papers, computed in numpy."""
import copy, math
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from torch import nn
from mssl.data import Pictures, ResidentLoader
from mssl.teacher import BYOL, FollowStudent, KWay, Teacher, byol_loss, kway_loss, momentum_at
from mssl.views import Views

def tiny(): return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def state(module): return {k: v.detach().clone() for k, v in module.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def shake(module):
    with torch.no_grad():
        for p in module.parameters(): p.add_(torch.randn_like(p) * .1 * p.requires_grad)

def test_momentum_is_half_a_cosine():
    assert momentum_at(0, .9) == .9 and momentum_at(1, .9) == 1 and abs(momentum_at(.5, .9) - .95) < 1e-12 and momentum_at(.3, 1.) == 1
    for t in np.linspace(0, 1, 7): assert abs(momentum_at(t, .99) - (1 - .01 * (math.cos(math.pi * t) + 1) / 2)) < 1e-12
    for bad in (-.1, 1.1, float('nan'), None):
        with pytest.raises(ValueError, match='^t='): momentum_at(bad)
        with pytest.raises(ValueError, match='^start='): momentum_at(0, bad)

def test_momentum_is_the_official_one(shared):
    values = np.load(shared / 'official' / 'official_values.npz')
    assert all(abs(momentum_at(t, .995) - m) < 1e-12 for t, m in zip(values['momentum_t'], values['momentum_m']))

def test_the_teacher_is_the_average_of_the_students():
    "Weights and statistics, in float64, over several steps"
    student = tiny().double()
    teacher = Teacher(student)
    assert same(state(teacher.net), state(student))
    expected = {k: v.numpy() for k, v in state(student).items()}
    for m in (.9, .5, .99, 0.):
        shake(student); student(torch.rand(4, 3, 9, 9, dtype=torch.float64))
        teacher.follow(student, m)
        for k, v in state(student).items(): expected[k] = v.numpy() if 'num_batches' in k else m * expected[k] + (1 - m) * v.numpy()
        for k, v in teacher.net.state_dict().items(): assert np.abs(v.numpy() - expected[k]).max() < 1e-12, k
    assert same(state(teacher.net), state(student)), 'momentum 0 copies'
    student(torch.rand(4, 3, 9, 9, dtype=torch.float64)); shake(student)
    before = state(teacher.net)
    teacher.follow(student, 1.)
    assert all(torch.equal(v, before[k]) for k, v in teacher.net.state_dict().items() if v.is_floating_point()), 'momentum 1 stands still'

def test_the_teacher_learns_nothing_by_itself():
    student = tiny()
    teacher, x = Teacher(student).train(), torch.rand(6, 3, 9, 9, requires_grad=True)
    before = {k: v for k, v in state(teacher.net).items() if 'num_batches' not in k}
    z = teacher(x)
    assert not z.requires_grad and not any(p.requires_grad for p in teacher.parameters()) and all(p.requires_grad for p in student.parameters())
    assert same(before, {k: v for k, v in state(teacher.net).items() if 'num_batches' not in k}), 'its own batches do not move its statistics'
    assert torch.allclose(z, copy.deepcopy(student).train()(x)), 'but it normalises by the batch, as the student does'


# losses

unit = lambda a: a / np.sqrt((a * a).sum(-1, keepdims=True))

def test_byol_loss_is_numpys():
    p, t = [[torch.randn(9, 5, dtype=torch.float64) for _ in range(2)] for _ in range(2)]
    expected = np.mean([np.mean([((unit(p[i].numpy()[k]) - unit(t[j].numpy()[k]))**2).sum() for k in range(9)]) for i, j in ((0, 1), (1, 0))])
    assert abs(byol_loss(*p, *t).item() - expected) < 1e-10
    assert abs(byol_loss(*p, p[1], p[0]).item()) < 1e-12 and abs(byol_loss(*p, -p[1], -p[0]).item() - 4) < 1e-12

def test_byol_loss_of_three_views_takes_every_ordered_pair():
    p, t = [[torch.randn(4, 5, dtype=torch.float64) for _ in range(3)] for _ in range(2)]
    expected = np.mean([2 - 2 * (unit(p[i].numpy()) * unit(t[j].numpy())).sum(1).mean() for i in range(3) for j in range(3) if i != j])
    assert abs(byol_loss(*p, *t).item() - expected) < 1e-10

def test_kway_loss_is_numpys():
    s = [torch.randn(6, 11, dtype=torch.float64).log_softmax(1) for _ in range(2)]
    t = [torch.randn(6, 11, dtype=torch.float64).softmax(1) for _ in range(2)]
    expected = np.mean([-(t[j].numpy() * s[i].numpy()).sum(1).mean() for i, j in ((0, 1), (1, 0))])
    assert abs(kway_loss(*s, *t).item() - expected) < 1e-10
    assert abs(kway_loss(s[0], s[0], s[0].exp(), s[0].exp()).item() + (s[0].exp() * s[0]).sum(1).mean().item()) < 1e-12, 'never below the entropy of the teacher'

@pytest.mark.parametrize('loss', [byol_loss, kway_loss])
def test_only_the_student_is_told(loss):
    z = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    loss(*z).backward()
    assert all(o.grad.abs().max() > 0 for o in z[:2]) and all(o.grad is None for o in z[2:])
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, z[2].detach(), z[3].detach()), [o.detach().requires_grad_() for o in z[:2]])

@pytest.mark.parametrize('loss', [byol_loss, kway_loss])
def test_types_and_bad_numbers_of_views(loss):
    z = [torch.randn(5, 4).half() for _ in range(4)]
    assert loss(*z).dtype == torch.float32 and loss(*z) == loss(*(o.float() for o in z)) and loss(*(o.double() for o in z)).dtype == torch.float64
    for bad in (z[:2], z[:3]):
        with pytest.raises(ValueError, match=f'of at least two views are needed, got {len(bad)} tensors'): loss(*bad)
    with pytest.raises(ValueError, match='z4: shape'): loss(*z[:3], torch.rand(5, 3))


# models

def test_byol_predicts_what_the_teacher_says():
    model, views = BYOL(tiny(), dim=6, hidden=8).eval(), [torch.rand(5, 3, 9, 9) for _ in range(2)]
    out = model(*views)
    assert len(out) == 4 and all(o.shape == (5, 6) for o in out) and model.encoder is model.student.encoder
    for k, v in enumerate(views): assert torch.allclose(out[k], model.predictor(model.student(v)), atol=1e-6) and torch.allclose(out[2 + k], model.teacher(v), atol=1e-6)
    byol_loss(*model.train()(*views)).backward()
    assert all(p.grad is not None for p in [*model.student.parameters(), *model.predictor.parameters()]) and all(p.grad is None for p in model.teacher.parameters())

def test_kway_is_the_formula():
    "Temperatures, centre and its update, in numpy (DINO, algorithm 1)"
    model = KWay(tiny(), k=7, dim=5, hidden=8, student_temperature=.2, teacher_temperature=.05, centre_momentum=.8).double()
    shake(model.student); model.centre.copy_(torch.randn(7))
    views, centre = [torch.rand(4, 3, 9, 9, dtype=torch.float64) for _ in range(2)], model.centre.numpy().copy()
    def scores(net, v):
        z = unit(net(v).detach().numpy())
        return z @ unit(net.groups.weight.detach().numpy()).T # rows of the last layer have length 1
    def softmax(a): return np.exp(a - a.max(1, keepdims=True)) / np.exp(a - a.max(1, keepdims=True)).sum(1, keepdims=True)
    model.eval()
    out = model(*views)
    assert np.allclose(model.centre, centre), 'looking at validation pictures moves nothing'
    t = [scores(model.teacher.net, v) for v in views]
    for k, v in enumerate(views):
        assert np.abs(np.exp(out[k].detach().numpy()) - softmax(scores(model.student, v) / .2)).max() < 1e-10
        assert np.abs(out[2 + k].numpy() - softmax((t[k] - centre) / .05)).max() < 1e-10
    model.teacher.train(False); model.training = True # the update alone, with the statistics of evaluation
    model(*views)
    assert np.abs(model.centre.numpy() - (.8 * centre + .2 * np.concatenate(t).mean(0))).max() < 1e-10

def test_the_length_of_the_groups_plays_no_part():
    torch.manual_seed(2)
    model, views = KWay(tiny(), k=7, dim=5, hidden=8).eval(), [torch.rand(5, 3, 9, 9) for _ in range(2)]
    before = model(*views)
    kway_loss(*before).backward()
    w = model.student.groups.weight
    assert w.grad.abs().max() > 0 and (w.grad * w).sum(1).abs().max() < 1e-6, 'a gradient turns a direction and never makes it longer'
    with torch.no_grad(): w.mul_(torch.rand(7, 1) + .5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, model(*views)))

def test_kway_can_be_exported(tmp_path):
    learn = Learner(loaders(), KWay(tiny(), 7, 5, 8), loss_func=kway_loss, cbs=[Views(9, 'weak'), FollowStudent(.9)], path=tmp_path)
    learn.export(tmp_path/'it.pkl')
    assert all(torch.equal(a, b) for a, b in zip(learn.model.state_dict().values(), load_learner(tmp_path/'it.pkl').model.state_dict().values()))

@pytest.mark.parametrize('name, kwargs', [('k', dict(k=1)), ('student_temperature', dict(student_temperature=0.)), ('teacher_temperature', dict(teacher_temperature=-1)), ('centre_momentum', dict(centre_momentum=1.1))])
def test_bad_arguments_are_named(name, kwargs):
    with pytest.raises(ValueError, match=f'^{name}='): KWay(tiny(), **kwargs)
    with pytest.raises(ValueError, match='^start='): FollowStudent(1.5)


# while training

class Record(Callback):
    "State of student and teacher after every batch, and whether there was a step"
    order = 30
    def __init__(self): self.teacher, self.student, self.stepped, self._now = [], [], [], False
    def after_step(self): self._now = True
    def after_batch(self):
        if not self.training: return
        self.teacher.append(state(self.model.teacher.net)); self.student.append(state(self.model.student))
        self.stepped.append(self._now); self._now = False

def loaders(n=32, bs=4):
    x = torch.randint(0, 256, (n + 4, 3, 9, 9), dtype=torch.uint8)
    return DataLoaders(ResidentLoader(Pictures(x[:n]), bs, shuffle=True, drop_last=True), ResidentLoader(Pictures(x[n:]), 4), device=torch.device('cpu'))

def fit(learn, *args):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args)

@pytest.mark.parametrize('make, loss', [(lambda: BYOL(tiny(), 6, 8), byol_loss), (lambda: KWay(tiny(), 7, 5, 8), kway_loss)], ids=['byol', 'kway'])
@pytest.mark.parametrize('accumulate', [None, 12])
def test_the_teacher_follows_at_steps_only(make, loss, accumulate):
    record, model = Record(), make()
    first = state(model.teacher.net)
    cbs = [Views(9, 'weak'), FollowStudent(.9), record] + ([GradientAccumulation(accumulate)] if accumulate else [])
    fit(Learner(loaders(), model, loss_func=loss, cbs=cbs), 1, 1e-2)
    assert record.stepped == ([False, False, True] * 3)[:8] if accumulate else [True] * 8
    floats = lambda s: {k: v for k, v in s.items() if v.is_floating_point()}
    for before, after, student, stepped in zip([first] + record.teacher, record.teacher, record.student, record.stepped):
        assert same(floats(before), floats(after)) != stepped
    n = len(record.stepped)
    for i, (before, after, student, stepped) in enumerate(zip([first] + record.teacher, record.teacher, record.student, record.stepped)):
        m = momentum_at(i / n, .9) # pct_train of the batch under way
        if stepped: assert all(torch.allclose(after[k], m * before[k] + (1 - m) * student[k], atol=1e-6) for k in floats(after))

def test_validation_and_a_second_fit_reset_nothing():
    model = BYOL(tiny(), 6, 8)
    learn = Learner(loaders(), model, loss_func=byol_loss, cbs=[Views(9, 'weak'), FollowStudent(.9)])
    fit(learn, 1, 1e-2)
    trained = state(model)
    with learn.no_bar(): learn.validate(); learn.get_preds()
    counters = lambda s: {k: v for k, v in s.items() if 'num_batches' not in k}
    assert same(counters(trained), counters(state(model)))
    teacher = []
    class First(Callback):
        def before_batch(self): teacher.append(state(self.model.teacher.net))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2, cbs=First())
    assert same(counters(teacher[0]), counters({k[len('teacher.net.'):]: v for k, v in trained.items() if k.startswith('teacher.net.')}))

def test_the_teacher_is_saved_and_loaded_with_the_model(tmp_path):
    make = lambda: Learner(loaders(), KWay(tiny(), 7, 5, 8), loss_func=kway_loss, cbs=[Views(9, 'weak'), FollowStudent(.9)], path=tmp_path)
    learn, other = make(), make()
    fit(learn, 1, 1e-2)
    learn.save('half')
    other.load('half')
    assert same(state(learn.model), state(other.model)) and other.model.centre.abs().max() > 0
