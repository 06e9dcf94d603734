"Pictures and captions in one space, and masks that a caption chooses."
import itertools, math, os

import pytest, torch, torch.multiprocessing as mp, torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from hypothesis import given, settings, strategies as st

from mssl.captions import Captions
from mssl.data import Pictures, ResidentLoader
from mssl.mae import encode_visible
from mssl.scenes import named_boxes, scenes
from mssl.text import (RELEVANCES, MODES, RETRIEVAL, CrossAttention, ImageText, TextMasks, caption_key, contrast, hidden_shares, image_text_learner, image_text_loss, load_image_text,
                       named_cells, retrieval, save_image_text, share_of, standardised, text_guided_mask, text_masked_views, zero_shot)
from mssl.words import CLS, Words

SIZE, BS = 16, 8
DIMS = dict(dim=16, width=24, depth=1, heads=3)


@pytest.fixture(scope='module')
def drawn(): return scenes(64, SIZE, level='several')

@pytest.fixture(scope='module')
def words(drawn): return Words.fit(drawn.caption)

@pytest.fixture(scope='module')
def model(words):
    torch.manual_seed(5)
    return ImageText('vit_tiny_small', words, img_size=SIZE, **DIMS).eval()


def small_dls(drawn, caption=None, n=32):
    def part(a, b): return Pictures(drawn.image[a:b], drawn.label[a:b], drawn.classes, (caption or drawn.caption)[a:b], name='scenes:several', named_boxes=None if caption else named_boxes(drawn.objects)[a:b])
    return DataLoaders(ResidentLoader(part(0, n), BS, shuffle=True, drop_last=True), ResidentLoader(part(n, n + BS), BS), device=torch.device('cpu'))

def small_learner(drawn, caption=None, cbs=None, **kwargs):
    torch.manual_seed(1)
    return image_text_learner(small_dls(drawn, caption), size=SIZE, model_kwargs=DIMS, cbs=cbs, **kwargs)

def quiet_fit(learn, epochs=1, lr=1e-3, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, **kwargs)

def inputs(model, drawn, n=6):
    t = model.words(drawn.caption[:n])
    return (drawn.image[:n] / 255 - .5) / .25, t.ids, t.padding


# Masks from a relevance

@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 30), st.floats(0, 1), st.sampled_from(MODES), st.floats(.01, 10))
def test_every_row_hides_the_same_count(B, L, ratio, mode, temperature):
    m = text_guided_mask(torch.randn(B, L) * 5, ratio, mode, temperature)
    assert m.dtype == torch.bool and m.shape == (B, L) and (m.sum(1) == math.floor(ratio * L + 1e-9)).all()


@pytest.mark.parametrize('mode', MODES)
def test_nothing_and_everything(mode):
    r = torch.randn(3, 7)
    assert not text_guided_mask(r, 0., mode).any() and text_guided_mask(r, 1., mode).all() and text_guided_mask(r, 1, mode).all()


@pytest.mark.parametrize('n, L', [(3, 10), (7, 100), (29, 100), (57, 100), (1, 3)])
def test_a_ratio_that_is_a_fraction_is_met(n, L):
    assert text_guided_mask(torch.zeros(1, L), n / L).sum() == n


def exact_inclusion(weight, k):
    "Drawn one after another without putting back, in proportion to what is left: probability that each is among the first k"
    p = torch.zeros(len(weight), dtype=torch.float64)
    for order in itertools.permutations(range(len(weight)), k):
        chance, left = 1., weight.sum().item()
        for i in order: chance, left = chance * weight[i].item() / left, left - weight[i].item()
        for i in order: p[i] += chance
    return p


@pytest.mark.parametrize('L, k, temperature', [(4, 1, 1.), (5, 2, 1.), (6, 3, .5), (6, 4, 2.)])
def test_weighted_meets_theory(L, k, temperature):
    r, n = torch.linspace(-1, 1.2, L), 40_000
    theory = exact_inclusion((r.double() / temperature).exp(), k)
    got = text_guided_mask(r.expand(n, -1), k / L, 'weighted', temperature).double().mean(0)
    assert theory.sum().item() == pytest.approx(k)
    assert ((got - theory).abs() < 4.5 * (theory * (1 - theory) / n).sqrt() + 1e-9).all(), (got, theory)
    assert (theory.diff() > 0).all() and (theory - k / L).abs().max() > .05, 'the test can tell it from chance'


def test_units_and_offsets():
    "In proportion to exp(relevance / temperature): what is added to all changes nothing, a larger unit is a larger temperature"
    r, g = torch.randn(50, 12), lambda: torch.Generator().manual_seed(4)
    one = text_guided_mask(r, .4, 'weighted', .5, g())
    assert torch.equal(one, text_guided_mask(r + 300, .4, 'weighted', .5, g())) and torch.equal(one, text_guided_mask(r * 7, .4, 'weighted', 3.5, g()))


def test_temperature_from_most_to_random():
    r = torch.randn(1, 10).expand(20_000, -1)
    cold, hot = (text_guided_mask(r, .3, 'weighted', t) for t in (1e-4, 1e4))
    assert torch.equal(cold, text_guided_mask(r, .3, 'most'))
    assert (hot.double().mean(0) - .3).abs().max() < .02


@pytest.mark.parametrize('mode', MODES)
def test_flat_relevance_is_uniform(mode):
    n = 20_000
    m = text_guided_mask(torch.full((n, 6), 3.7), .5, mode)
    assert (m.double().mean(0) - .5).abs().max() < 4.5 * .5 / n ** .5
    assert len(m.unique(dim=0)) == 20, 'every choice of 3 of 6 occurs'


@pytest.mark.parametrize('mode', ['most', 'least'])
def test_ties_are_broken_fairly(mode):
    r = torch.tensor([9., 5, 5, 5, 5, 1]) if mode == 'most' else torch.tensor([1., 5, 5, 5, 5, 9])
    m = text_guided_mask(r.expand(20_000, -1), .5, mode).double().mean(0)
    assert m[0] == 1 and m[5] == 0 and (m[1:5] - .5).abs().max() < .02


def test_most_and_least_are_what_they_say():
    r = torch.randn(50, 20)
    most, least = text_guided_mask(r, .25, 'most'), text_guided_mask(r, .25, 'least')
    assert torch.equal(r[most].view(50, 5).sort().values, r.sort(1).values[:, -5:]) and torch.equal(r[least].view(50, 5).sort().values, r.sort(1).values[:, :5])
    assert torch.equal(text_guided_mask(r, .25, 'most'), ~text_guided_mask(r, .75, 'least')) and not (most & least).any()
    assert torch.equal(least, text_guided_mask(-r, .25, 'most'))


def test_random_ignores_relevance():
    a, b = (text_guided_mask(torch.randn(40, 9) * s, .5, 'random', generator=torch.Generator().manual_seed(1)) for s in (1, 100))
    assert torch.equal(a, b)


@pytest.mark.parametrize('mode', MODES)
def test_repeats(mode):
    r = torch.zeros(8, 12)
    one, other = (text_guided_mask(r, .5, mode, generator=torch.Generator().manual_seed(s)) for s in (3, 4))
    assert torch.equal(one, text_guided_mask(r, .5, mode, generator=torch.Generator().manual_seed(3))) and not torch.equal(one, other)
    state = torch.get_rng_state()
    text_guided_mask(r, .5, mode, generator=torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state()), 'with a generator the global numbers stay'
    torch.manual_seed(9); a = text_guided_mask(r, .5, mode)
    torch.manual_seed(9); assert torch.equal(a, text_guided_mask(r, .5, mode))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_other_numbers(dtype):
    r = torch.tensor([[3, 1, 2, 0], [0, 1, 2, 3]]).to(dtype)
    assert text_guided_mask(r, .5, 'most').tolist() == [[True, False, True, False], [False, False, True, True]]
    assert text_guided_mask((r * 1000 if dtype.is_floating_point else r), .5).sum(1).tolist() == [2, 2]


def test_no_gradient_and_no_change():
    r = torch.randn(2, 6, requires_grad=True)
    before = r.detach().clone()
    for mode in MODES: assert not text_guided_mask(r, .5, mode).requires_grad
    assert torch.equal(r.detach(), before)


@pytest.mark.parametrize('r, kwargs, said', [
    (torch.tensor([[1., math.nan]]), {}, 'relevance: finite'), (torch.tensor([[1., -math.inf]]), {}, 'relevance: finite'), (torch.zeros(3), {}, r'relevance: \[B,L\] is needed, got \[3\]'),
    (torch.zeros(2, 3, 4), {}, r'got \[2, 3, 4\]'), ([[1., 2.]], {}, 'got list'), (torch.zeros(1, 4), dict(ratio=1.1), 'ratio=1.1'), (torch.zeros(1, 4), dict(ratio=-.1), 'ratio=-0.1'),
    (torch.zeros(1, 4), dict(ratio=math.nan), 'ratio=nan'), (torch.zeros(1, 4), dict(mode='mots'), "mode='mots'.*did you mean 'most'"), (torch.zeros(1, 4), dict(temperature=0), 'temperature=0')])
def test_masks_refuse(r, kwargs, said):
    with pytest.raises(ValueError, match=said): text_guided_mask(r, **{'ratio': .5, **kwargs})


def test_standardised():
    r = torch.randn(4, 30) * 8 + 3
    z = standardised(torch.cat([r, torch.full((1, 30), 2.5)]))
    assert z[:4].mean(1).abs().max() < 1e-9 and (z[:4].std(1) - 1).abs().max() < 1e-9 and (z[4] == 0).all()


# Relevance

@pytest.mark.parametrize('by', RELEVANCES)
def test_padding_changes_nothing(model, drawn, by):
    x, ids, padding = inputs(model, drawn)
    short = ids[:, :-2].clone(), padding[:, :-2].clone()
    short[1][:, -4:], short[0][:, -4:] = True, 0 # a caption that ends before
    longer = F.pad(short[0], (0, 2)), F.pad(short[1], (0, 2), value=True)
    assert (model.relevance(x, *short, by) - model.relevance(x, *longer, by)).abs().max() < 1e-5
    junk = longer[0].masked_fill(longer[1], 9)
    assert (model.relevance(x, junk, longer[1], by) - model.relevance(x, *longer, by)).abs().max() < 1e-5


def test_relevance_is_the_mean_over_words(model, drawn):
    x, ids, padding = inputs(model, drawn)
    each = model.relevance(x, ids, padding, 'attention', words=True)
    assert each.shape == (*ids.shape, 16) and (each.sum(2) - 1).abs().max() < 1e-5, 'a word shares one glance among the patches'
    for b in range(len(x)):
        said = [each[b, k] for k in range(1, ids.shape[1]) if not padding[b, k]]
        assert (model.relevance(x, ids, padding, 'attention')[b] - torch.stack(said).mean(0)).abs().max() < 1e-6


def test_similarity_is_a_cosine(model, drawn):
    x, ids, padding = inputs(model, drawn)
    h, t = model.patches(x), model.text(ids, padding)
    want = F.cosine_similarity(model.to_image(h), model.to_text(t[:, :1]), dim=2)
    assert (model.relevance(x, ids, padding, 'similarity') - want).abs().max() < 1e-5
    assert model.relevance(x, ids, padding, 'similarity').abs().max() <= 1 + 1e-6


def test_left_out_is_what_the_likeness_loses(model, drawn):
    x, ids, padding = inputs(model, drawn)
    p, c = model.to_image(model.patches(x)), model.of_words(model.text(ids, padding))
    r = model.relevance(x, ids, padding, 'left_out')
    for i in range(p.shape[1]):
        rest = torch.cat([p[:, :i], p[:, i + 1:]], 1).mean(1)
        assert (r[:, i] - F.cosine_similarity(p.mean(1), c) + F.cosine_similarity(rest, c)).abs().max() < 1e-5
    assert torch.equal(r, model.relevance(x, ids, padding)), 'the default'


@pytest.mark.parametrize('by', RELEVANCES)
def test_a_caption_without_words_finds_all_patches_alike(model, drawn, by):
    x, ids, padding = inputs(model, drawn)
    ids, padding = ids.clone(), padding.clone()
    ids[0, 1:], padding[0, 1:] = 0, True
    r = model.relevance(x, ids, padding, by)
    assert (r[0] == 0).all() and (r[1] != 0).any()


def test_relevance_keeps_no_graph_and_knows_its_names(model, drawn):
    assert not model.relevance(*inputs(model, drawn)).requires_grad
    with pytest.raises(ValueError, match="by='atention'.*did you mean 'attention'"): model.relevance(*inputs(model, drawn), by='atention')


def test_attention_rows_sum_to_one():
    look = CrossAttention(12, 20, 3)
    t, a = look(torch.randn(2, 5, 12), torch.randn(2, 9, 20))
    assert t.shape == (2, 5, 12) and a.shape == (2, 3, 5, 9) and (a.sum(3) - 1).abs().max() < 1e-5
    with pytest.raises(ValueError, match='heads=5'): CrossAttention(12, 20, 5)


# The same masks, pixels and tokens

class Keep(Callback):
    "Remembers what the encoder was given"
    order = 7
    def before_fit(self): self.learn.kept = []
    def before_batch(self): self.learn.kept.append((self.learn.views.mask[0].clone(), float(getattr(self.learn, 'pct_train', 0)), self.training, self.xb[0].clone()))


def tokens_seen(learn):
    "How many tokens reach the first block"
    seen = []
    hook = learn.model.encoder.blocks[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].shape[1]))
    return seen, hook


def test_hidden_patches_leave(drawn):
    learn = small_learner(drawn, cbs=[text_masked_views(.25, 'most', warmup=0.), Keep()])
    seen, hook = tokens_seen(learn)
    quiet_fit(learn)
    hook.remove()
    prefix = learn.model.encoder.num_prefix_tokens
    assert set(seen) == {prefix + 16, prefix + 12} and seen.count(prefix + 12) == len(learn.kept), 'relevance looks at all patches, the training step at those that stay'
    assert all((m.float().mean((1, 2, 3)) == .25).all() for m, *_ in learn.kept)
    assert learn.model.patches(torch.zeros(1, 3, SIZE, SIZE)).shape[1] == 16, 'afterwards nothing is hidden'


def test_hidden_pixels_have_no_influence(drawn):
    class Scribble(Callback):
        order = 8
        def before_batch(self): self.learn.xb = (torch.where(self.learn.views.mask[0], 1e3, self.xb[0]), *self.xb[1:])
    ends = []
    for extra in ([], [Scribble()]):
        learn = small_learner(drawn, cbs=[text_masked_views(.5, 'weighted', warmup=0.), *extra])
        torch.manual_seed(2)
        learn.dls.train.rng.seed(0)
        quiet_fit(learn)
        ends.append([p.detach().clone() for p in learn.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends))


def test_a_hole_of_zeros(drawn):
    learn = small_learner(drawn, cbs=[text_masked_views(.25, 'most', warmup=0., fill='zero'), Keep()])
    seen, hook = tokens_seen(learn)
    quiet_fit(learn)
    hook.remove()
    assert set(seen) == {learn.model.encoder.num_prefix_tokens + 16}
    for m, _, _, x in learn.kept: assert (x[m.expand_as(x)] == 0).all() and (x[~m.expand_as(x)] != 0).any()


def test_mask_follows_the_caption(drawn):
    "'most' hides exactly what `relevance` ranks first, of this view and this caption"
    checked = []
    class Ask(Callback):
        order = 5.8 # captions are there, masks are not
        def before_batch(self):
            v = self.learn.views
            self.learn.ranks = self.model.relevance(v.view[0], v.tokens.ids, v.tokens.padding)
    class Check(Callback):
        order = 7
        def before_batch(self):
            r, m = self.learn.ranks, self.learn.views.mask[0][:, 0, ::4, ::4].flatten(1)
            checked.append(bool((r.masked_fill(~m, 9.).amin(1) >= r.masked_fill(m, -9.).amax(1)).all()) and bool((m.sum(1) == 4).all()))
    quiet_fit(small_learner(drawn, cbs=[text_masked_views(.25, 'most', warmup=0.), Ask(), Check()]))
    assert len(checked) == 5 and all(checked)


def test_warmup_is_random(drawn):
    class Ask(TextMasks):
        asked = []
        def __call__(self, views, k):
            model, was = views.learn.model, len(calls)
            out = super().__call__(views, k)
            self.asked.append((views.learn.training, float(views.learn.pct_train), len(calls) > was))
            return out
    calls, own = [], ImageText.relevance
    from mssl.mscn import MaskedViews
    learn = small_learner(drawn, cbs=[MaskedViews(filter=False, branch='both', fill='leave', masks=Ask(.25, 'most', warmup=.5))])
    learn.model.relevance = lambda *a, **k: (calls.append(1), own(learn.model, *a, **k))[1]
    quiet_fit(learn, 2)
    assert len(Ask.asked) == 10 and all(used == (not training or pct >= .5) for training, pct, used in Ask.asked)
    assert {u for t, _, u in Ask.asked if t} == {True, False}


def test_masks_need_captions(drawn):
    from mssl.siamese import siamese_learner
    from mssl.views import Views
    learn = image_text_learner(small_dls(drawn), size=SIZE, model_kwargs=DIMS)
    learn.views.view = [torch.zeros(2, 3, SIZE, SIZE)]
    with pytest.raises(ValueError, match='TextMasks: a model with captions'): TextMasks(.2)(learn.views, 0)
    for kwargs in (dict(ratio=2), dict(mode='x'), dict(temperature=0), dict(warmup=-1), dict(by='x')):
        with pytest.raises(ValueError, match=next(iter(kwargs))): TextMasks(**kwargs)


# The loss

def plain_loss(z, c, key):
    told = [i for i in range(len(z)) if key[i] >= 0]
    total = 0.
    for a, b in ((z, c), (c, z)):
        for i in told:
            s = torch.stack([a[i] @ b[j] for j in told])
            right = [n for n, j in enumerate(told) if key[j] == key[i]]
            total = total - s.log_softmax(0)[right].mean() / (2 * len(told))
    return total


@pytest.fixture
def pairs():
    z, c = (F.normalize(torch.randn(9, 6, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2))
    return z, c, torch.tensor([5, 8, 5, -1, 2, 5, -1, 8, 1])


def test_the_contrast_is_a_plain_loop(pairs):
    z, c, key = pairs
    assert (contrast(z, c / .1, key) - plain_loss(z, c / .1, key)).abs() < 1e-12
    assert (contrast(z, c / .1, torch.arange(9)) - (F.cross_entropy(z @ c.T / .1, torch.arange(9)) + F.cross_entropy(c @ z.T / .1, torch.arange(9))) / 2).abs() < 1e-12


def test_equal_captions_are_all_right():
    "Pictures of one caption that lie at the same place cost what a choice among equals costs, and no more"
    z = F.normalize(torch.tensor([[1., 0], [1, 0], [-1, 0]], dtype=torch.float64), dim=1)
    loss = contrast(z, z / .001, torch.tensor([4, 4, 7]))
    assert loss.item() == pytest.approx(2 / 3 * math.log(2), abs=1e-9)
    assert contrast(z, z / .001, torch.tensor([4, 5, 7])) == pytest.approx(2 / 3 * math.log(2), abs=1e-9)
    apart = F.normalize(torch.tensor([[1., 0], [0, 1], [-1, 0]], dtype=torch.float64), dim=1)
    assert contrast(apart, z / .05, torch.tensor([4, 4, 7])) > loss + 1


def test_rows_without_caption_are_left_out(pairs):
    z, c, key = pairs
    told = key >= 0
    all_rows = torch.autograd.grad(contrast(z, c, key), (z, c))
    some = torch.autograd.grad(contrast(z[told], c[told], key[told]), (z, c))
    for a, b in zip(all_rows, some): assert (a - b).abs().max() < 1e-12 and (a[~told] == 0).all() and (a[told] != 0).any(1).all()


def test_too_few_captions():
    z, c = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    for key in (torch.tensor([-1, -1, -1]), torch.tensor([-1, 3, -1])):
        loss = image_text_loss(z, c, key)
        assert loss == 0
        loss.backward()
        assert (z.grad == 0).all() and (c.grad == 0).all()


def test_hidden_words_are_a_mean_over_words(pairs):
    z, c, key = pairs
    scores, wanted = torch.randn(9, 5, 11, dtype=torch.float64), torch.full((9, 5), -100)
    wanted[0, 1], wanted[4, 3], wanted[4, 4] = 2, 10, 0
    asked = [-scores[b, t].log_softmax(0)[wanted[b, t]] for b, t in ((0, 1), (4, 3), (4, 4))]
    assert (image_text_loss(z, c, key, scores, wanted) - contrast(z, c, key) - sum(asked) / 3).abs() < 1e-12
    assert torch.equal(image_text_loss(z, c, key, scores, torch.full((9, 5), -100)), contrast(z, c, key)), 'nothing asked, nothing lost'


def test_half_precision_is_counted_in_full():
    z, c = (F.normalize(torch.randn(40, 8), dim=1) for _ in range(2))
    loss = image_text_loss(z.half(), (c / .001).half(), torch.arange(40))
    assert loss.dtype == torch.float32 and loss.isfinite()


def _loss_worker(rank, folder):
    from torch import distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    given = torch.load(f'{folder}/in')
    z, c, key, scores, wanted = (o[rank * 6:rank * 6 + 6].clone() for o in given)
    leaves = [o.requires_grad_() for o in (z, c, scores)]
    loss = image_text_loss(z, c, key, scores, wanted)
    loss.backward()
    torch.save((loss.detach(), *(o.grad for o in leaves)), f'{folder}/{rank}')
    dist.destroy_process_group()


@pytest.mark.skipif(os.name == 'nt', reason='gloo with a file rendezvous is tested on Linux and macOS')
def test_two_processes_equal_one(tmp_path):
    "Captions that are equal across processes, missing ones, and more words to guess on one side than on the other; DDP takes the mean over two"
    z, c, scores = torch.randn(12, 5).double(), torch.randn(12, 5).double(), torch.randn(12, 4, 7).double()
    key, wanted = torch.tensor([1, 2, -1, 3, 1, 4, 2, -1, -1, 5, 6, 1]), torch.full((12, 4), -100)
    wanted[:5, 2], wanted[9, 1] = 3, 6
    torch.save((z, c, key, scores, wanted), tmp_path / 'in')
    mp.start_processes(_loss_worker, args=(str(tmp_path),), nprocs=2, start_method='spawn')
    leaves = [o.clone().requires_grad_() for o in (z, c, scores)]
    loss = image_text_loss(leaves[0], leaves[1], key, leaves[2], wanted)
    loss.backward()
    both = [torch.load(tmp_path / str(r)) for r in (0, 1)]
    for got in both: assert (got[0] - loss).abs() < 1e-12
    for k, o in enumerate(leaves): assert (torch.cat([b[k + 1] for b in both]) / 2 - o.grad).abs().max() < 1e-12


# Captions as numbers

def test_key_tells_captions_apart():
    "50,000 different rows of few pieces: no two share a key"
    for V, T in ((6, 8), (30, 20), (4000, 32)):
        ids = torch.cat([torch.full((50_000, 1), CLS), torch.randint(3, V, (50_000, T))], 1)
        ids = ids.masked_fill(torch.arange(T + 1) > torch.randint(1, T + 1, (50_000, 1)), 0).unique(dim=0)
        assert len(caption_key(ids).unique()) == len(ids), (V, T)


def test_key_tells_apart_what_differs_evenly():
    "Steps of 1, -3, 3, -1 add up to nothing under any weights that grow like a square"
    ids = torch.tensor([[CLS, 5, 11, 5, 9], [CLS, 6, 8, 8, 8], [CLS, 7, 5, 11, 7]])
    assert len(caption_key(ids).unique()) == 3
    line = torch.randint(20, 900, (2000, 8))
    other = line + torch.tensor([0, 2, -6, 6, -2, 0, 0, 0])
    assert (caption_key(line) != caption_key(other)).all()


def test_key_knows_order_but_not_padding(words):
    a, b = words(['a red star', 'a star red']), words(['a red star', 'a red star, top left, on grey'])
    ka, kb = caption_key(a.ids), caption_key(b.ids)
    assert ka[0] == kb[0] != ka[1] and a.ids.shape != b.ids.shape and (ka >= 0).all()
    assert caption_key(words(['', 'a']).ids)[0] == -1 and caption_key(torch.tensor([[CLS]])).tolist() == [-1]


# The model

def test_temperature_is_clamped(model):
    was = model.log_temperature.data.clone()
    for value, want in ((-20., .001), (5., .5), (math.log(.1), .1)):
        model.log_temperature.data.fill_(value)
        assert model.temperature.item() == pytest.approx(want, rel=1e-5)
    model.log_temperature.data = was
    for t in (.0001, .6): pytest.raises(ValueError, ImageText, 'vit_tiny_small', model.words, temperature=t)


def test_what_the_model_returns(model, drawn):
    x, ids, padding = inputs(model, drawn)
    guess = torch.zeros_like(padding); guess[0, 2] = guess[3, 1] = True
    z, c, key, scores, wanted = model(x, ids, padding, guess)
    assert (z.norm(dim=1) - 1).abs().max() < 1e-5 and (c.norm(dim=1) * model.temperature - 1).abs().max() < 1e-4
    assert torch.equal(wanted >= 0, guess) and wanted[0, 2] == ids[0, 2] and torch.equal(key, caption_key(ids)) and scores.shape == (*ids.shape, len(model.words))
    other = ids.clone(); other[0, 2] = 7
    assert torch.equal(model(x, other, padding, guess)[3], scores), 'a hidden word is not to be read'
    assert (z - model.embed(x)).abs().max() < 1e-5 and len(model(x, ids, padding)) == 3
    h = encode_visible(model.encoder, x)[:, model.encoder.num_prefix_tokens:]
    assert (model.embed(x) - F.normalize(model.to_image(h.mean(1)), dim=1)).abs().max() < 1e-5


def test_saying_needs_words(model):
    assert (model.say(['a red star', 'ring']).norm(dim=1) - 1).abs().max() < 1e-5
    with pytest.raises(ValueError, match='captions: one of them is empty'): model.say(['a red star', ' '])
    with pytest.raises(ValueError, match='words: a Words is needed'): ImageText('vit_tiny_small', ['a'])


def test_learns_pairs(drawn):
    "Eight pictures, each with a caption of its own: after some steps the loss is well below a choice among eight"
    learn = small_learner(scenes(64, SIZE), cbs=[], augment='none')
    quiet_fit(learn, 12, 3e-3)
    first, last = learn.recorder.values[0], learn.recorder.values[-1]
    assert last[0] < .7 * first[0]


def test_captions_missing_for_some(drawn):
    "Rows without caption have no part in the step: other pictures in their place change no gradient"
    grads = []
    for other in (False, True):
        said = [c if i % 3 else '' for i, c in enumerate(drawn.caption)]
        learn = small_learner(drawn, said, augment='none')
        learn.model.train()
        ids = torch.arange(BS)
        t = learn.model.words([said[i] for i in ids])
        x = drawn.image[:BS] / 255 - .5
        if other: x = torch.where(torch.tensor([not said[i] for i in ids])[:, None, None, None], torch.randn_like(x), x)
        learn.model.eval()
        learn.loss_func(*learn.model(x, t.ids, t.padding)).backward()
        grads.append({k: p.grad.clone() for k, p in learn.model.named_parameters() if p.grad is not None})
    assert all((grads[0][k] - grads[1][k]).abs().max() < 1e-5 for k in grads[0]) and any(g.abs().max() > 1e-3 for g in grads[0].values())


# Retrieval and names

def slow_retrieval(z, c, captions, k):
    out = {}
    for name, a, b in (('caption', z, c), ('picture', c, z)):
        for n in k:
            hits = 0
            for i in range(len(a)):
                order = sorted(range(len(b)), key=lambda j: -float(a[i] @ b[j]))[:n]
                hits += any(captions[j] == captions[i] for j in order)
            out[f'{name}@{n}'] = hits / len(a)
    return out


def test_retrieval_is_a_slow_loop():
    z = F.normalize(torch.randn(40, 5, dtype=torch.float64), dim=1)
    c = F.normalize(z + .8 * torch.randn(40, 5, dtype=torch.float64), dim=1)
    for captions in ([f'c{i}' for i in range(40)], [f'c{i % 13}' for i in range(40)]):
        got, want = retrieval(z, c, captions), slow_retrieval(z, c, captions, (1, 5, 10))
        assert got.keys() == want.keys() and all(got[k] == pytest.approx(want[k]) for k in want)
    assert retrieval(z, c) == retrieval(z, c, [str(i) for i in range(40)])
    assert retrieval(z, c, [f'c{i % 13}' for i in range(40)])['caption@1'] > retrieval(z, c)['caption@1']


def test_retrieval_at_its_limits():
    z = F.normalize(torch.randn(6, 4), dim=1)
    assert set(retrieval(z, z).values()) == {1.}
    assert retrieval(z, z.roll(1, 0), k=(6, 50)) == {'caption@6': 1., 'caption@50': 1., 'picture@6': 1., 'picture@50': 1.}
    assert set(retrieval(z, z.roll(1, 0), ['same'] * 6).values()) == {1.}
    for bad in ((z, z[:3]), (z[0], z[0])): pytest.raises(ValueError, retrieval, *bad)
    with pytest.raises(ValueError, match='captions: 6 are needed, got 2'): retrieval(z, z, ['a', 'b'])


def test_zero_shot_picks_the_nearest(model):
    names = ['star', 'ring', 'cross']
    said = model.say([f'a photo of a {o}' for o in names])
    assert zero_shot(model, said[[2, 0, 1, 1]], names, 'a photo of a {}').tolist() == [2, 0, 1, 1]
    for template in ('a', '{} {}'):
        with pytest.raises(ValueError, match='template='): zero_shot(model, said, names, template)


def test_saved_and_loaded(drawn, tmp_path):
    learn = small_learner(drawn)
    quiet_fit(learn)
    save_image_text(learn, tmp_path / 'mine', note='a test')
    again, prepare = load_image_text(tmp_path / 'mine')
    here = learn.model.eval().state_dict()
    for k, v in again.state_dict().items(): assert (v - here[k]).abs().max() <= 1e-3 * (1 + here[k].abs().max()), k
    assert again.words.to_json() == learn.model.words.to_json() and again.words.context == learn.model.words.context and not again.training
    said, picture = drawn.caption[:5], drawn.image[:5]
    assert (again.say(said) - learn.model.say(said)).abs().max() < 1e-2
    with torch.no_grad(): assert (again.embed(prepare(picture)) - learn.model.embed(learn.views.whole(picture))).abs().max() < 1e-2
    (tmp_path / 'mine/text.json').unlink()
    with pytest.raises(ValueError, match='an encoder without its words'): load_image_text(tmp_path / 'mine')


# How much of a mask lies on what the caption names

def test_named_cells(drawn):
    cells = named_cells(drawn, (4, 4))
    named = (drawn.objects.mask & drawn.objects.named[..., None, None]).any(1)
    assert cells.shape == (64, 16) and (cells.mean(1) - named.float().mean((1, 2))).abs().max() < 1e-6
    assert cells[3, 6] == named[3, 4:8, 8:12].float().mean()


def test_shares_of_a_model_that_knows(model, drawn, monkeypatch):
    "Where the relevance is the truth, 'most' is all that the true mask would allow; where it is its opposite, 'least' is"
    cells, x = named_cells(drawn, (4, 4)), torch.zeros(64, 3, SIZE, SIZE)
    for sign, best, worst in ((1, 'most', 'least'), (-1, 'least', 'most')):
        monkeypatch.setattr(ImageText, 'relevance', lambda self, x, *a, **k: sign * cells)
        got = hidden_shares(model, x, drawn, .25)
        want = cells.sort(1, descending=True).values[:, :4].mean(1)
        assert (got['true'] - want).abs().max() < 1e-6 and (got[best] - want).abs().max() < 1e-6
        assert (got[worst] - cells.sort(1).values[:, :4].mean(1)).abs().max() < 1e-6
    monkeypatch.setattr(ImageText, 'relevance', lambda self, x, *a, **k: torch.zeros(64, 16))
    flat = torch.stack([torch.stack([hidden_shares(model, x, drawn, .25)[m].mean() for m in ('most', 'least', 'weighted', 'random')]) for _ in range(60)]).mean(0)
    assert (flat - cells.mean()).abs().max() < .02, 'knowing nothing hides what chance hides'


def test_measures_say_what_they_need(drawn):
    learn = small_learner(drawn)
    for name in ('caption1', 'picture5', 'zero_shot'):
        assert 0 <= RETRIEVAL[name](learn) <= 1, name
    learn.dls.train_ds.name = 'mine'
    with pytest.raises(ValueError, match='measure share: drawn pictures are needed'): share_of('most')(learn)
