"""Questions about drawn pictures: right answers, no trick, and a head that can only use what the features hold."""
import pytest
import torch
from fastai.data.core import DataLoaders

from mssl.data import Pictures, ResidentLoader
from mssl.measures import MEASURES
from mssl.questions import ANSWERS, KINDS, NUMBERS, QUESTIONS, AnswerHead, Questions, answered, ask, frozen, question_scores
from mssl.recipes import recipe_learner
from mssl.scenes import COLOURS, PLACES, SHAPES, place_word, scenes

drawn = scenes(60, 32, seed=2, level='several')


def learner(name='image_text', source='scenes:several'):
    torch.manual_seed(0)
    part = lambda a, b: Pictures(drawn.image[a:b], drawn.label[a:b], drawn.classes, drawn.caption[a:b], name=source)
    dls = DataLoaders(ResidentLoader(part(0, 32), 16, shuffle=True, drop_last=True), ResidentLoader(part(32, 60), 16), device=torch.device('cpu'))
    return recipe_learner(name, dls, size=32, model_kwargs=dict(img_size=32))


def test_answers_are_the_truth():
    q = ask(drawn)
    assert len(set(ANSWERS)) == len(ANSWERS) == 10 + 8 + 9 + 4
    there = drawn.objects.label >= 0
    for text, answer, kind, i in zip(q.text, q.answer.tolist(), q.kind.tolist(), q.picture.tolist()):
        said, o = ANSWERS[answer], drawn.objects[i]
        shapes = [list(SHAPES)[k] for k in o.label[there[i]].tolist()]
        places = [place_word(b) for b in o.box[there[i]]]
        colours = [list(COLOURS)[k] for k in o.colour[there[i]].tolist()]
        last = text.split()[-1]
        if KINDS[kind] == 'what': assert places.count(text.removeprefix('what is at the ')) == 1 and shapes[places.index(text.removeprefix('what is at the '))] == said
        elif KINDS[kind] == 'colour': assert colours[shapes.index(last)] == said
        elif KINDS[kind] == 'where': assert places[shapes.index(last)] == said
        else: assert NUMBERS.index(said) + 1 == len(shapes)


def test_every_picture_is_asked_and_every_object_gets_its_turn():
    q = ask(drawn)
    count = [(q.kind == k).sum().item() for k in range(4)]
    assert count[1:] == [60, 60, 60] and 40 < count[0] <= 60, 'two things at one place: no question'
    one = ask(drawn, kinds=('where',))
    assert len(one) == 60 and one.kind.eq(2).all()
    assert len({t for t in one.text}) == 10, 'about every shape'
    with pytest.raises(ValueError, match='kinds'): ask(drawn, kinds=('when',))


def test_no_answer_is_given_away():
    "The commonest answer of a kind is far from always right, and the question alone does not tell"
    q = ask(scenes(1000, 16, seed=3, level='several'))
    for k, most in zip(range(4), (.2, .2, .25, .45)):
        got = q.answer[q.kind == k]
        assert got.bincount().max() / len(got) < most
        by_text = {}
        for t, a in zip([t for t, o in zip(q.text, q.kind.tolist()) if o == k], got.tolist()): by_text.setdefault(t, []).append(a)
        guessed = sum(max(v.count(a) for a in set(v)) for v in by_text.values()) / len(got)
        assert guessed < most + .1


def test_head_learns_what_is_there_and_nothing_else():
    torch.manual_seed(0)
    n, T, L, d = 400, 3, 5, 12
    def made(seed, tell):
        g = torch.Generator().manual_seed(seed)
        answer = torch.randint(0, 4, (n,), generator=g)
        h = torch.randn(n, L, d, generator=g)
        if tell: h[torch.arange(n), torch.randint(0, L, (n,), generator=g), answer] += 8 # one patch, anywhere, tells
        return Questions(['?'] * n, answer, torch.zeros(n, dtype=torch.long), torch.arange(n)), (torch.randn(n, T, d, generator=g), h, torch.zeros(n, T, dtype=torch.bool))
    assert answered(made(0, True), made(1, True), epochs=20, bs=32).double().mean() > .8
    assert answered(made(0, False), made(1, False)).double().mean() < .4
    state = torch.get_rng_state()
    a, b = (answered(made(0, True), made(1, True), epochs=1) for _ in range(2))
    assert a.equal(b) and torch.equal(state, torch.get_rng_state()), 'the same again, and no random number of the training'


def test_head_ignores_padding():
    head, t, h = AnswerHead(12, 8, 4), torch.randn(2, 4, 12), torch.randn(2, 5, 8)
    padding = torch.tensor([[False, False, True, True]] * 2)
    other = torch.where(padding[..., None], torch.randn(2, 4, 12), t)
    assert torch.allclose(head(t, h, padding), head(other, h, padding), atol=1e-6)


@pytest.mark.parametrize('name', ['image_text', 'semmim'])
def test_measure(name):
    learn = learner(name)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    q = ask(drawn[torch.arange(8)])
    t, h, padding = frozen(learn, drawn[torch.arange(8)], q)
    assert t.shape[:2] == padding.shape and len(t) == len(q) and h.shape == (8, 64, 96)
    if name == 'semmim': # the words have been through the fusion
        m, tokens = learn.model.eval(), learn.model.words(q.text)
        with torch.no_grad(): assert torch.allclose(m.fuse(m.text(tokens.ids, tokens.padding), h[q.picture], tokens.padding), t, atol=1e-5)
    got = question_scores(learn, 16, 8)
    assert set(got) == {'questions', *KINDS} and all(0 <= v <= 1 for v in got.values())
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items()), 'the model is frozen'


def test_measures_are_there_and_refuse():
    assert set(QUESTIONS) <= set(MEASURES) and set(QUESTIONS) == {'questions', *KINDS}
    with pytest.raises(ValueError, match='drawn pictures'): QUESTIONS['questions'](learner(source='photos'))
    torch.manual_seed(0)
    with pytest.raises(ValueError, match='captions'): QUESTIONS['what'](recipe_learner('mae', learner().dls, size=32, model_kwargs=dict(img_size=32)))
