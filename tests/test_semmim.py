"""SemMIM: one space for [CLS] and patches, captions in the masked model and in its target; and that what is switched off is gone."""
import math

import pytest
import torch
import torch.nn.functional as F
from fastai.data.core import DataLoaders

from mssl.data import Pictures, ResidentLoader
from mssl.groups import INFORMATION, TRUTHS, Attend, GroupHead, GroupsGauge, group_information, group_loss, hardest, patch_truth, shared_information
from mssl.recipes import make_parts, recipe_learner
from mssl.scenes import named_boxes, scenes
from mssl.semmim import SemMIM, Switches, load_semmim, save_semmim, semmim_learner, semmim_loss
from mssl.text import RELEVANCES, RETRIEVAL, guess_loss, text_guided_mask
from mssl.views import AUGMENTS, Views
from mssl.words import Words

drawn = scenes(48, 16, seed=4, level='several')
words = Words.fit(drawn.caption)
L = 16 # patches of 16 pixels


def make(**kwargs):
    torch.manual_seed(0)
    return SemMIM('vit_tiny_small', words, **{**dict(img_size=16, k=32, hidden=48, bottleneck=16), **kwargs})


def small_dls(n=32, bs=16, d=drawn):
    part = lambda a, b: Pictures(d.image[a:b], d.label[a:b], d.classes, d.caption[a:b], name='scenes:several', named_boxes=named_boxes(d.objects)[a:b])
    return DataLoaders(ResidentLoader(part(0, n), bs, shuffle=True, drop_last=True), ResidentLoader(part(n, n + bs), bs), device=torch.device('cpu'))


def learner(**kwargs):
    torch.manual_seed(0)
    return semmim_learner(small_dls(), size=16, **{**dict(model_kwargs=dict(img_size=16, k=32, hidden=48, bottleneck=16)), **kwargs})


def quiet_fit(learn, epochs=1, lr=1e-3):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)


def batch(model, n=6, seed=0, dtype=torch.float32, trust=1.):
    g = torch.Generator().manual_seed(seed)
    x, t = drawn.image[:n].to(dtype) / 255, words(drawn.caption[:n])
    views = [x, x.flip(3)][:model.views]
    guess = (torch.rand(t.ids.shape, generator=g) < .3) & (t.word >= 0)
    choice = [torch.rand(n, L, generator=g), torch.full((n,), trust)] if model.hides else []
    return [*views, t.ids, t.padding, guess, *choice]


# The parts

def test_scores_of_groups_are_cosines():
    head, h = GroupHead(24, 10, 16, 8), 5 * torch.randn(7, 3, 24)
    s = head(h)
    assert s.shape == (7, 3, 10) and s.abs().max() <= 1 + 1e-6
    long = GroupHead(24, 10, 16, 8)
    long.load_state_dict({k: v * (7 if k == 'groups.weight' else 1) for k, v in head.state_dict().items()})
    assert torch.allclose(long(h), s, atol=1e-6), 'the length of a direction plays no part'
    with pytest.raises(ValueError, match='k=1'): GroupHead(24, 1)


def test_what_is_absent_is_not_seen():
    torch.manual_seed(0)
    attend, x, y = Attend(12, 8, 3), torch.randn(2, 5, 12), torch.randn(2, 4, 8)
    absent = torch.tensor([[False, False, True, True], [False, True, True, True]])
    other = torch.where(absent[..., None], torch.randn(2, 4, 8), y)
    assert torch.equal(attend(x, y, absent), attend(x, other, absent))
    assert not torch.allclose(attend(x, y), attend(x, other))
    one = attend(x[1:], y[1:], absent[1:]) - x[1:] # a single word: everybody takes the same along
    assert torch.allclose(one, one[:, :1].expand_as(one), atol=1e-6)
    with pytest.raises(ValueError, match='heads=5'): Attend(12, 8, 5)


def test_group_loss_knows_its_limits():
    k, scores = 32, torch.randn(6, 32, dtype=torch.float64)
    uniform = torch.full((6, k), 1 / k, dtype=torch.float64)
    assert torch.isclose(group_loss(torch.zeros_like(uniform), uniform), torch.tensor(math.log(k)).double())
    wanted = F.softmax(scores / .1, 1)
    assert torch.isclose(group_loss(scores, wanted, .1), -(wanted * wanted.log()).sum(1).mean()), 'its minimum is the entropy of what is wanted'
    assert group_loss(scores + .1 * torch.randn_like(scores), wanted, .1) > group_loss(scores, wanted, .1)
    scores.requires_grad_(), wanted.requires_grad_()
    group_loss(scores, wanted).backward()
    assert wanted.grad is None and scores.grad.abs().sum() > 0
    with pytest.raises(ValueError, match='same shape'): group_loss(scores, wanted[:3])


def test_guess_loss_is_cross_entropy_of_the_hidden_words():
    scores, ids, guess = torch.randn(3, 5, 11), torch.randint(0, 11, (3, 5)), torch.rand(3, 5) < .5
    assert torch.isclose(guess_loss(scores, ids, guess), F.cross_entropy(scores[guess], ids[guess]))
    assert guess_loss(scores, ids, torch.zeros(3, 5, dtype=torch.bool)) == 0


def test_hardest_pairs():
    z = torch.eye(4)
    c = torch.tensor([[1, .9, .2, 0], [.1, 1, .8, 0], [0, .3, 1, 0], [.5, 0, 0, 1.]])
    caption, picture, there = hardest(z, c, torch.tensor([1, 2, 3, 4]))
    s = z @ c.T
    s.fill_diagonal_(-9)
    assert caption.equal(s.argmax(1)) and picture.equal(s.argmax(0)) and there.all()
    caption, picture, there = hardest(z, c, torch.tensor([1, 1, 3, -1])) # two equal captions, one missing
    assert caption[0] == 2 and caption[1] == 2 and picture[0] == 2 and there.tolist() == [True, True, True, False]
    assert not hardest(z, c, torch.tensor([5, 5, 5, 5]))[2].any()


# The caption comes where it should and nowhere else

@pytest.mark.parametrize('kwargs', [{}, dict(start=1), dict(shared=False)])
def test_cls_never_hears_the_caption(kwargs):
    model = make(**kwargs).eval()
    a, b = words(drawn.caption[:6]), words(drawn.caption[6:12])
    x = drawn.image[:6] / 255.
    told, other = (model.teach([x, x.flip(3)], o.ids, o.padding) for o in (a, b))
    assert torch.equal(told['cls'], other['cls']) and not torch.allclose(told['patches'], other['patches'])
    model.train()
    given = batch(model)
    model.zero_grad()
    model(*given)[1][model.parts.index('agreement')].backward()
    heard = [k for k, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert heard and not any(k.startswith(('text', 'look', 'layers', 'entries', 'mask_token')) for k in heard)


def test_patches_hear_it_where_it_is_switched_on():
    for start, inject in ((3, True), (0, True), (3, False), (0, False)):
        model = make(start=start, inject=inject).eval()
        (v1, v2, ids, padding, *_), other = batch(model), words(drawn.caption[6:12])
        mask = text_guided_mask(torch.zeros(6, L), .3)
        with torch.no_grad():
            said = [model.masked_patches(v1, mask, model.text(o, p) if start else None, p) for o, p in ((ids, padding), (other.ids, other.padding))]
        assert torch.equal(*said) == (not start)
        assert torch.equal(*(model.teach([v1, v2], o, p)['patches'] for o, p in ((ids, padding), (other.ids, other.padding)))) == (not inject)


def test_text_enters_from_a_block_on():
    x, mask = drawn.image[:4] / 255., text_guided_mask(torch.zeros(4, L), .3)
    t = words(drawn.caption[:4])
    for start in (1, 3, 4):
        model = make(start=start).eval()
        assert len(model.entries) == 5 - start
        seen = []
        hooks = [b.register_forward_pre_hook(lambda m, a: seen.append(a[0])) for b in model.encoder.blocks]
        with torch.no_grad(): [model.masked_patches(x, mask, o, t.padding) for o in (model.text(t.ids, t.padding), None)]
        same = [torch.equal(a, b) for a, b in zip(seen[:4], seen[4:])]
        assert same == [i < start for i in range(1, 5)]
        assert torch.equal(seen[start - 1][:, 0], seen[start + 3][:, 0]), 'patches look at the caption, [CLS] does not'
        for h in hooks: h.remove()


def test_hidden_patches_are_not_seen():
    model = make().eval()
    x, mask = drawn.image[:4] / 255., text_guided_mask(torch.zeros(4, L), .5)
    pixels = F.interpolate(mask.view(4, 1, 4, 4).float(), scale_factor=4) > 0
    other = torch.where(pixels, torch.rand_like(x), x)
    with torch.no_grad(): assert torch.equal(model.masked_patches(x, mask), model.masked_patches(other, mask))


# Masks

def test_masks_by_chance_at_first_then_by_caption():
    model = make(mask='most', ratio=.25)
    g = torch.Generator().manual_seed(0)
    relevance, noise = torch.rand(8, L, generator=g), torch.rand(8, L, generator=g)
    early, late = (model.hidden_patches(relevance, noise, torch.full((8,), v)) for v in (0., 1.))
    assert late.sum(1).eq(4).all() and early.sum(1).eq(4).all()
    assert late.equal(text_guided_mask(relevance, .25, 'most')) and early.equal(text_guided_mask(noise, .25, 'most'))
    assert make(mask='least', ratio=.25).hidden_patches(relevance, noise, torch.ones(8)).equal(text_guided_mask(relevance, .25, 'least'))
    assert make(mask='random', ratio=.25).hidden_patches(None, noise, torch.ones(8)).equal(early)


def test_weighted_masks_are_those_of_chapter_10():
    model, r = make(ratio=.25, spread=.5), torch.linspace(-1, 1, L)
    g, n = torch.Generator().manual_seed(0), 20_000
    mine = model.hidden_patches(r.expand(n, L), torch.rand(n, L, generator=g), torch.ones(n)).double().mean(0)
    theirs = text_guided_mask(((r - r.mean()) / r.std()).expand(n, L), .25, 'weighted', .5, generator=g).double().mean(0)
    assert (mine - theirs).abs().max() < 5 * (.25 / n)**.5, 'Gumbel top-k, as in text_guided_mask'


@pytest.mark.parametrize('by', RELEVANCES)
def test_the_teacher_says_what_is_relevant(by):
    model = make(by=by).eval()
    v1, v2, ids, padding, *_ = batch(model)
    told = model.teach([v1, v2], ids, padding)['relevance']
    assert torch.allclose(told, model.relevance(v1, ids, padding, by), atol=1e-5), 'at first the teacher is the student'
    assert not any(torch.allclose(told, model.relevance(v1, ids, padding, o), atol=1e-5) for o in RELEVANCES if o != by)


# Losses

def test_matching_knows_nothing_at_log_2():
    model = make()
    model.match.weight.data.zero_(), model.match.bias.data.zero_()
    losses = dict(zip(model.parts, model(*batch(model))[1]))
    assert torch.isclose(losses['matching'], torch.tensor(math.log(2)), atol=1e-6)


def test_pictures_without_captions_do_not_match():
    model = make(target='none', agreement=False, guessing=False)
    n = 5
    t, x = words(drawn.caption[:n - 1] + ['']), drawn.image[:n] / 255.
    h = model.patches(x)
    words_of, z = model.text(t.ids, t.padding), model.of_patches(h)
    from mssl.text import caption_key
    def loss(h): return model.match_loss(h, words_of, t.padding, z, model.of_words(words_of), caption_key(t.ids))
    other = h.clone(); other[-1] = torch.randn_like(other[-1])
    assert torch.isclose(loss(h), loss(other), atol=1e-6)
    nobody = model.match_loss(h, words_of, t.padding, z, model.of_words(words_of), torch.full((n,), -1))
    assert nobody == 0 and nobody.requires_grad


def test_painting_nothing_costs_one():
    model = make(target='pixels')
    model.paint.weight.data.zero_(), model.paint.bias.data.zero_()
    got = dict(zip(model.parts, model(*batch(model))[1]))['hidden']
    assert .5 < got < 1.01, 'pixels in units of their patch have variance 1 (47/48 by mean of squares), flat patches less'


def test_only_hidden_patches_count():
    model = make().double()
    given = batch(model, dtype=torch.float64)
    h = []
    hook = model.head.register_forward_hook(lambda m, a, o: h.append(a[0].shape))
    model(*given)
    hook.remove()
    assert h == [(6, 96), (6 * 4, 96)], 'six [CLS], and of sixteen patches four in each picture'


def test_the_sum_is_the_loss():
    model = make()
    z, losses = model(*batch(model))
    assert z.shape == (6, 64) and losses.shape == (5,) and torch.isclose(semmim_loss(z, losses), losses.sum())
    assert torch.isfinite(losses).all()


# The teacher

def test_teacher_follows_and_is_never_trained():
    model = make()
    assert not any(p.requires_grad for p in model.teacher.parameters())
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p += 1
    model.follow(.9)
    for k, v in model.teacher.state_dict().items():
        moved = 'pos_embed' not in k
        assert torch.allclose(v, before[k] + (.1 if moved else 0), atol=1e-5), k


def test_centre_moves_in_training_only():
    model = make()
    model.eval()(*batch(model))
    assert model.centre.eq(0).all()
    given = batch(model)
    told = model.teach(given[:2], *given[2:4])
    model.train()(*given)
    assert torch.allclose(model.centre[0], .1 * told['cls'].mean(0), atol=1e-6) and torch.allclose(model.centre[1], .1 * told['patches'].mean((0, 1)), atol=1e-6)


# Switches

OFF = {
    'no contrast':  (dict(contrast=False, matching=False, by='attention'), ['to_image', 'to_text', 'log_temperature', 'match'], ['guessing', 'agreement', 'hidden']),
    'no matching':  (dict(matching=False), ['match'], ['contrast', 'guessing', 'agreement', 'hidden']),
    'no guessing':  (dict(guessing=False), ['guess'], ['contrast', 'matching', 'agreement', 'hidden']),
    'no agreement': (dict(agreement=False), [], ['contrast', 'matching', 'guessing', 'hidden']),
    'pixels':       (dict(target='pixels'), ['patch_head'], ['contrast', 'matching', 'guessing', 'agreement', 'hidden']),
    'nothing hidden': (dict(target='none'), ['mask_token', 'entries', 'paint', 'patch_head'], ['contrast', 'matching', 'guessing', 'agreement']),
    'no text in the student': (dict(start=0), ['entries'], ['contrast', 'matching', 'guessing', 'agreement', 'hidden']),
    'contrast alone': (dict(matching=False, guessing=False, agreement=False, target='none'), ['look', 'layers', 'guess', 'match', 'mask_token', 'entries', 'paint', 'head', 'patch_head', 'centre'], ['contrast']),
    'groups alone': (dict(contrast=False, matching=False, guessing=False, target='none'), ['to_image', 'to_text', 'text', 'look', 'layers', 'guess', 'match', 'mask_token', 'entries', 'paint', 'patch_head'], ['agreement']),
    'hidden alone': (dict(contrast=False, matching=False, guessing=False, agreement=False, inject=False, mask='random', start=0), ['text', 'look', 'layers', 'to_image', 'patch_head'], ['hidden']),
}


@pytest.mark.parametrize('name', OFF)
def test_what_is_off_is_gone(name):
    kwargs, gone, parts = OFF[name]
    model, full = make(**kwargs), make()
    assert model.parts == parts
    have, theirs = dict(model.named_parameters()), dict(full.named_parameters())
    assert not any(k.split('.')[0] in gone for k in (*have, *dict(model.named_buffers()))), 'no parameter'
    assert all(not hasattr(model, k) for k in gone)
    assert all(torch.equal(v, theirs[k]) for k, v in have.items() if k in theirs), 'what stays starts as in the full model'
    ran = set()
    hooks = [m.register_forward_hook(lambda m, a, o, k=k: ran.add(k)) for k, m in model.named_modules() if not list(m.children())]
    losses = model(*batch(model))[1]
    losses.sum().backward()
    for h in hooks: h.remove()
    assert len(losses) == len(parts)
    assert all(p.grad is not None for p in have.values() if p.requires_grad), 'and nothing that stays lies idle'
    assert all(k in ran or k.startswith('teacher.') or k.endswith(('drop', 'out_proj')) or '_drop' in k or 'groups' in k or not list(m.parameters(recurse=False)) for k, m in model.named_modules() if not list(m.children())), 'every layer that is there runs'


def test_teacher_holds_only_what_is_asked():
    def parts(**kwargs): t = make(**kwargs).teacher; return None if t is None else set(t.net)
    spaces = {'to_image', 'to_text'} # what the caption chooses by
    assert parts() == {'encoder', 'head', 'text', 'look', 'layers'} | spaces
    assert parts(by='attention') == parts(mask='random') == {'encoder', 'head', 'text', 'look', 'layers'}
    assert parts(shared=False) == {'encoder', 'head', 'patch_head', 'text', 'look', 'layers'} | spaces
    assert parts(inject=False) == {'encoder', 'head', 'text'} | spaces
    assert parts(inject=False, by='attention') == {'encoder', 'head', 'text', 'look'}
    assert parts(inject=False, mask='random') == {'encoder', 'head'}
    assert parts(target='pixels', agreement=False) == {'encoder', 'text'} | spaces
    assert parts(target='pixels', agreement=False, mask='random') is None and parts(target='none', agreement=False) is None


def test_one_view_is_one_view():
    seen = []
    for kwargs, n in ((dict(), 2), (dict(views=1), 1), (dict(agreement=False), 1)):
        learn = learner(model_kwargs=dict(img_size=16, k=32, **kwargs))
        assert learn.views.n == n and learn.model.views == n
        hook = learn.model.teacher.net['encoder'].patch_embed.register_forward_hook(lambda m, a, o: seen.append(len(a[0])))
        quiet_fit(learn)
        hook.remove()
        assert set(seen) == {16 * n}, 'pictures that the teacher sees'
        seen.clear()


def test_separate_heads_share_nothing():
    model = make(shared=False)
    assert model.head is not model.patch_head and not set(map(id, model.head.parameters())) & set(map(id, model.patch_head.parameters()))
    assert not hasattr(make(), 'patch_head')
    model(*batch(model))[1][model.parts.index('hidden')].backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.head.parameters()) and model.patch_head.mlp[0].weight.grad.abs().sum() > 0


def test_wrong_combinations_are_refused():
    for kwargs, match in ((dict(contrast=False), 'matching=True'), (dict(matching=False, guessing=False), 'inject=True'), (dict(matching=False, guessing=False, inject=False, by='attention'), "mask='weighted', by='attention'"), (dict(contrast=False, matching=False), "mask='weighted', by='left_out'"), (dict(target='tokens'), 'target'),
                          (dict(contrast=False, matching=False, guessing=False, agreement=False, target='none'), 'nothing is left'), (dict(start=7), 'start=7'), (dict(ratio=0), 'ratio=0'), (dict(fusion=0), 'inject=True'), (dict(views=3), 'views=3')):
        with pytest.raises(ValueError, match=match): make(**kwargs)
    with pytest.raises(ValueError, match='CLS'): make(class_token=False, global_pool='avg')
    with pytest.raises(ValueError, match='contrast=False'): make(contrast=False, matching=False, by='attention').embed(torch.zeros(2, 3, 16, 16))


# In a Learner

def test_learner_and_command_line():
    learn = recipe_learner('semmim', small_dls(), size=16, cbs=make_parts('semmim/target:pixels/k:32/start:4+groups'), model_kwargs=dict(img_size=16))
    assert learn.model.target == 'pixels' and len(learn.model.entries) == 1 and learn.model.centre.shape == (2, 32)
    quiet_fit(learn)
    gauge = next(c for c in learn.cbs if isinstance(c, GroupsGauge))
    assert all(1 <= gauge.values[k] <= 32.01 for k in gauge.names)
    assert 0 <= RETRIEVAL['caption5'](learn) <= 1
    with pytest.raises(ValueError, match='Switches'): semmim_learner(small_dls(), make(), 16, cbs=[Switches(target='pixels')])
    with pytest.raises(ValueError, match='n=2'): semmim_learner(small_dls(), size=16, cbs=[Views(16, n=1)])
    for augment in ('scenes', (AUGMENTS['scenes'][0], AUGMENTS['text'][0])): # the caption's view keeps its colours, the other need not
        with pytest.raises(ValueError, match='hue, grey would make colour words'): semmim_learner(small_dls(), size=16, augment=augment)
    assert semmim_learner(small_dls(), size=16).views.augments == AUGMENTS['text_far'] and AUGMENTS['text_far'][1].grey > 0
    assert semmim_learner(small_dls(), size=16, model_kwargs=dict(views=1)).views.augments == AUGMENTS['text_far'][:1]
    with pytest.raises(ValueError, match='target'): recipe_learner('semmim', small_dls(), size=16, cbs=make_parts('semmim/target:words'))


def test_warm_up_is_by_chance():
    learn = learner(model_kwargs=dict(img_size=16, k=32, warmup=.5))
    from fastai.callback.core import Callback
    class Look(Callback):
        order = 9
        def before_fit(self): self.learn.trusts = []
        def before_batch(self):
            if self.training: self.learn.trusts.append(self.xb[-1].unique().tolist())
    learn.add_cb(Look())
    quiet_fit(learn, 2)
    assert learn.trusts == [[0.], [0.], [1.], [1.]]


def test_it_learns():
    learn = learner()
    losses = []
    from fastai.callback.core import Callback
    class Look(Callback):
        order = 6 # after Views has put the losses where the target is
        def after_pred(self):
            if self.training: losses.append(self.yb[0].detach())
    learn.add_cb(Look())
    quiet_fit(learn, 8, 2e-3)
    first, last = torch.stack(losses[:4]).mean(0), torch.stack(losses[-4:]).mean(0)
    of = dict(zip(learn.model.parts, (last - first).tolist()))
    assert of['contrast'] < -.1 and of['guessing'] < -.5, of
    assert torch.isfinite(last).all()


def test_saved_and_loaded(tmp_path):
    learn = learner()
    quiet_fit(learn)
    model, prepare = load_semmim(save_semmim(learn, tmp_path / 'mine'))
    picture = scenes(3, 16, seed=9, level='several')
    x = prepare(picture.image)
    mine = learn.model.eval()
    assert (model.embed(x) - mine.embed(x)).abs().max() < .02 and (model.say(picture.caption) - mine.say(picture.caption)).abs().max() < .02
    assert torch.allclose(model.in_groups(x).sum(-1), torch.ones(3, 1 + L), atol=1e-5)
    learn.save_encoder(tmp_path / 'alone')
    with pytest.raises(ValueError, match='without its words'): load_semmim(tmp_path / 'alone')


# What groups tell

def test_shared_information_knows_its_limits():
    truth = torch.arange(4000) % 8
    assert abs(shared_information(truth, truth) - 1) < 1e-9
    assert abs(shared_information(7 - truth, truth) - 1) < 1e-9, 'names do not matter'
    assert abs(shared_information(truth // 2, truth) - 2 / 3) < 1e-9, 'four groups of eight things: two of three bits'
    assert shared_information(torch.zeros_like(truth), truth) == 0
    assert shared_information(torch.randint(0, 8, (4000,)), truth) < .01
    with pytest.raises(ValueError, match='groups, truth'): shared_information(truth, truth[:5])


def test_patch_truth_is_the_mask():
    got = patch_truth(drawn, (4, 4))
    for i in range(8):
        for p in range(16):
            r, c = divmod(p, 4)
            m = drawn.objects.mask[i, :, 4*r:4*r + 4, 4*c:4*c + 4].flatten(1).float().mean(1)
            assert got['object'][i, p] == int(m.sum() >= .5)
            assert got['shape'][i, p] == (drawn.objects.label[i, m.argmax()] if m.sum() >= .5 else -1)
            assert got['ground'][i, p] == drawn.ground[i]


def test_saving_without_some_parts(tmp_path):
    learn = learner()
    model, _ = load_semmim(save_semmim(learn, tmp_path / 'small', without=('layers', 'entries')))
    whole, _ = load_semmim(save_semmim(learn, tmp_path / 'whole'))
    assert (tmp_path / 'small/semmim.safetensors').stat().st_size < (tmp_path / 'whole/semmim.safetensors').stat().st_size
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model.in_groups(x), whole.in_groups(x))


def test_what_groups_tell_is_measured():
    learn = learner()
    found = group_information(learn, 40)
    assert list(found) == list(TRUTHS) and all(0 <= v <= 1 for v in found.values())
    assert found == group_information(learn, 40), 'the same pictures each time'
    with torch.no_grad(): learn.model.head.groups.weight[:] = learn.model.head.groups.weight[:1]
    assert all(v == 0 for v in group_information(learn, 40).values()), 'one group for all tells nothing'
    with pytest.raises(ValueError, match='a model with groups is needed'): INFORMATION['group_shape'](learner(model_kwargs=dict(img_size=16, agreement=False, target='pixels')))
    photos = learner()
    photos.dls.train_ds.name = 'photos'
    with pytest.raises(ValueError, match="drawn pictures are needed, .* got 'photos'"): INFORMATION['group_shape'](photos)


def test_local_takes_the_picture_away():
    model, plain = make(local=True).eval(), make().eval()
    x = drawn.image[:6] / 255.
    with torch.no_grad():
        h = model.patches(x)
        s = model.patch_scores(model, h)
        assert torch.allclose(s.mean(1), torch.zeros(6, 32), atol=1e-6) and torch.allclose(s, plain.patch_scores(plain, h) - plain.patch_scores(plain, h).mean(1, keepdim=True), atol=1e-6)
        given = batch(model)
        told, theirs = (m.teach(given[:2], *given[2:4]) for m in (model, plain))
    assert torch.allclose(told['patches'], theirs['patches'] - theirs['patches'].mean(1, keepdim=True), atol=1e-6), 'in the targets'
    assert torch.equal(told['cls'], theirs['cls']) and torch.equal(told['relevance'], theirs['relevance']), 'and nowhere else'
    assert torch.equal(model.in_groups(x)[:, 0], plain.in_groups(x)[:, 0]) and not torch.equal(model.in_groups(x)[:, 1:], plain.in_groups(x)[:, 1:])
