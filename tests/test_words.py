"Captions to numbers and back, the same everywhere; what is too long or unknown is said once; padding has no say."
import copy, json, pickle, subprocess, sys, warnings
from pathlib import Path

import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from mssl.scenes import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, TEXTURES, scenes
from mssl.words import CLS, MASK, PAD, SPECIAL, UNK, TextEncoder, Tokens, Words

SAID = ['a red star, top left', 'a blue ring', ['two cats', 'cats on a sofa'], '', 'the left-hand side of a T-shirt']


@pytest.fixture(scope='module')
def words(): return Words.fit(scenes(300, 32, level='several').caption)


def tokens_of(words, caption): return words([caption]).ids[0].tolist()


def test_special_tokens_come_first(words):
    assert [words.tokenizer.token_to_id(o) for o in SPECIAL] == [PAD, CLS, MASK, UNK] == [0, 1, 2, 3]
    assert (words(['a red star', 'two', '']).ids[:, 0] == CLS).all()


def test_round_trip(words):
    for caption in scenes(50, 32, seed=5, level='several').caption:
        ids = tokens_of(words, caption)
        assert words.tokenizer.decode(ids).split() == caption.replace(',', ' ,').split()


def test_words_of_the_scenes_are_one_piece_each(words):
    for word in ' '.join([*COLOURS, *GROUNDS, *PLACES, *SIZES, *SHAPES, *TEXTURES]).split(): assert len(tokens_of(words, word)) == 2, word


def test_case_and_form_do_not_matter(words):
    assert tokens_of(words, 'A Red STAR') == tokens_of(words, 'a red star') == tokens_of(words, '  a red\tstar ')
    assert tokens_of(words, 'ﬁsh') == tokens_of(words, 'fish'), 'NFKC: a ligature is its letters'


def test_the_same_captions_give_the_same_pieces():
    assert Words.fit(SAID).to_json() == Words.fit(SAID).to_json() == Words.fit([o for c in SAID for o in ([c] if isinstance(c, str) else c)]).to_json()


def test_another_process_makes_the_same_pieces(tmp_path):
    said = scenes(200, 32, level='several').caption + ['caffè, naïve Ünïcode 雪']
    (tmp_path / 'said.json').write_text(json.dumps(said))
    code = f"import json\nfrom mssl.words import Words\nw = Words.fit(json.load(open({str(tmp_path / 'said.json')!r})))\nprint(json.dumps([w.to_json(), w.context]))"
    root = str(Path(__file__).resolve().parent.parent)
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=root, check=True).stdout
    here = Words.fit(said)
    assert json.loads(out) == [here.to_json(), here.context]


def test_json_brings_it_back(words):
    for again in (Words(words.to_json(), words.context), copy.deepcopy(words), pickle.loads(pickle.dumps(words))):
        a, b = words(['a red star, top', 'ring']), again(['a red star, top', 'ring'])
        assert all(torch.equal(p, q) for p, q in zip(tuple(a), tuple(b))) and again.context == words.context and len(again) == len(words)


def test_padding_is_where_the_caption_is_over(words):
    t = words(['a red star', '', 'a ring, top left'])
    assert torch.equal(t.padding, t.ids == PAD) and t.padding.sum(1).tolist() == [2, 5, 0]
    assert (t.word[t.padding] == -1).all() and (t.word[:, 0] == -1).all() and (t.word[:, 1:][~t.padding[:, 1:]] >= 0).all()


def test_rows_of_tokens(words):
    t = words(['a red star', '', 'a ring'])
    assert torch.equal(t[1:].ids, t.ids[1:]) and t[0] is t.ids and torch.equal(t[torch.tensor([2, 0])].word, t.word[[2, 0]])
    assert isinstance(t.to('cpu'), Tokens)


@settings(max_examples=40)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_any_text_is_read(captions):
    "Whatever is written: one row each, one [CLS], nothing behind the first padding, the same alone and in company"
    words = _any_words()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        t = words(captions)
        assert t.ids.shape == t.padding.shape == t.word.shape and len(t.ids) == len(captions) and t.ids.shape[1] <= words.context and t.ids.max() < len(words)
        assert (t.padding.int().diff(dim=1) >= 0).all()
        for caption, row in zip(captions, t.ids):
            alone = words([caption]).ids[0]
            assert torch.equal(row[:len(alone)], alone) and (row[len(alone):] == PAD).all()

_kept = []
def _any_words():
    if not _kept: _kept.append(Words.fit(scenes(50, 32).caption))
    return _kept[0]


def test_a_pad_that_is_written_out_is_no_end():
    "Someone's caption may hold the word [PAD]"
    words = Words.fit(['a sign says [PAD] in red', 'a red star'])
    t = words(['a sign says [PAD] in red'])
    assert not t.padding.any() and not copy.deepcopy(words)(['a sign says [PAD] in red']).padding.any(), 'what follows is still read'
    assert (words(['[MASK] [CLS] [UNK] star']).ids[:, 1:] > UNK).sum() >= 4


def test_too_long_is_cut_and_said_once(words):
    words = Words(words.to_json(), 6)
    with pytest.warns(UserWarning, match='1 of 2 captions are longer than 6 tokens and cut, the longest has 12'): t = words(['a red star, top left, on grey, a', 'ring'])
    assert t.ids.shape == (2, 6) and t.ids[0].tolist() == tokens_of(Words(words.to_json(), 30), 'a red star, top left')[:6]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        words(['a red star, top left, on grey, a'])
    words2 = Words(words.to_json(), 7)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        words2(['a red star, top left']) # exactly as long as allowed


def test_context_fits_the_longest():
    for n in (3, 20, 200):
        w = Words.fit(['red'] * 5 + ['red ' * n])
        assert w.context == min(64, max(8, n + 1))
    assert Words.fit(['red'], context=12).context == 12


def test_letters_never_seen(words):
    with pytest.warns(UserWarning, match="no letter of '雪雪 ж'"): t = words(['雪雪 ж', 'a red star'])
    assert set(t.ids[0].tolist()) <= {CLS, UNK, PAD} and UNK not in t.ids[1]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        words(['雪'])
        assert UNK not in words(['a starred ringlet']).ids, 'an unknown word of known letters is spelled'


def test_a_half_known_caption_is_not_blamed(words):
    fresh = Words(words.to_json(), words.context)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert UNK in fresh(['a red 雪']).ids


def test_spans(words):
    caption = 'A Red starlet, top'
    found = words.spans(caption)
    assert [w for w, _ in found] == ['A', 'Red', 'starlet', 'top']
    ids, place = tokens_of(words, caption), [k for _, ks in found for k in ks]
    assert place == [k for k, i in enumerate(ids) if k and words.tokenizer.id_to_token(i) != ','], 'every token but [CLS] and the comma, once'
    t = words([caption])
    for _, ks in found: assert len(set(t.word[0, ks].tolist())) == 1
    assert words.spans('') == []


def test_size_is_a_limit():
    said = scenes(100, 32).caption
    assert len(Words.fit(said, size=40)) <= 60 < len(Words.fit(said)) <= 4000


@pytest.mark.parametrize('make, said', [
    (lambda: Words.fit([]), 'captions: at least one'), (lambda: Words.fit(['', '  ', []]), 'captions: at least one'), (lambda: Words.fit(None), 'captions: at least one'),
    (lambda: Words.fit(['a'], size=3), 'size=3'), (lambda: Words.fit(['a'], context=1), 'context=1'), (lambda: Words.fit(['a'])('a'), 'captions: a list of strings'),
    (lambda: Words.fit(['a'])(['a', 3]), 'captions: a list of strings'), (lambda: Words.fit(['a'])([None]), 'captions: a list of strings'),
    (lambda: TextEncoder(10, 8, 30, heads=4), 'heads=4: the width 30'), (lambda: TextEncoder(0, 8), 'vocab=0')])
def test_refusals(make, said):
    with pytest.raises(ValueError, match=said): make()


# The encoder

@pytest.fixture(scope='module')
def text(words):
    torch.manual_seed(3)
    return TextEncoder(len(words), words.context, 24, 2, 3).eval()


def pad(t, n): return F.pad(t.ids, (0, n)), F.pad(t.padding, (0, n), value=True)


@pytest.mark.parametrize('training', [False, True])
def test_padding_changes_nothing(words, text, training):
    text.train(training)
    t = words(['a red star, top left', '', 'ring'])
    h, longer = text(t.ids, t.padding), text(*pad(t, 5))[:, :t.ids.shape[1]]
    assert (h - longer)[~t.padding].abs().max() < 1e-5
    junk = t.ids.masked_fill(t.padding, 7) # what stands behind the end is never read
    assert (h - text(junk, t.padding))[~t.padding].abs().max() < 1e-5
    text.eval()


def test_order_matters(words, text):
    a, b = (text(*tuple(words([c]))[:2])[:, 0] for c in ('a star, a ring', 'a ring, a star'))
    assert (a - b).abs().max() > 1e-3


def test_every_weight_learns(words):
    text = TextEncoder(len(words), words.context, 24, 1, 3)
    t = words(scenes(40, 32, level='several').caption)
    text(t.ids, t.padding)[:, 0].square().sum().backward()
    assert all(p.grad is not None for p in text.parameters())
    used = torch.zeros(len(words), dtype=torch.bool).index_fill(0, t.ids[~t.padding].unique(), True)
    moved = text.embed.weight.grad.abs().sum(1) > 0
    assert torch.equal(moved, used), 'words that occur move, others stay'
