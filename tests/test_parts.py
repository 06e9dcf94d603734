"Callbacks by name, as a command writes them: words, ranges, several at once, and what is refused"
import importlib, re
import pytest
import mssl.mscn, mssl.recipes
from mssl.mscn import MaskedViews, masked_views
from mssl.recipes import CALLBACKS, add_part, make_parts
from mssl.train import Settings

@pytest.fixture
def told(monkeypatch):
    "A part that keeps what it was given"
    def make(first=None, second=None): return dict(first=first, second=second)
    monkeypatch.setitem(CALLBACKS, 'told', make)
    return lambda text: make_parts(text)[0]['first']

@pytest.mark.parametrize('text, value', [('3', 3), ('-3', -3), ('.25', .25), ('-.5', -.5), ('1e-3', 1e-3), ('2.', 2.), ('zero', 'zero'), ('true', True), ('False', False), ('.1-.3', (.1, .3)), ('0.1-0.35', (.1, .35)), ('2-14', (2., 14.)),
    ('a-b', 'a-b'), ('3px', '3px'), ('high_pass', 'high_pass')])
def test_values(told, text, value):
    got = told(f'told/first:{text}')
    assert got == value and type(got) is type(value)

def test_none_and_one_and_several(told):
    assert make_parts(None) == make_parts('') == []
    a, b, c = make_parts('told+masks/rung:naive+told/second:.1-.2/first:x')
    assert a == dict(first=None, second=None) and c == dict(first='x', second=(.1, .2)) and isinstance(b, MaskedViews) and b.branch == 'both'
    assert make_parts('masks')[0] is not make_parts('masks')[0], 'callbacks of their own for each Learner'

def test_the_masks_of_chapter_06():
    m, = make_parts('masks/rung:several/fill:mix/ratio:.1-.3/grid:4/p_focal:0/filter_first:false/keep:.5/std:1/branch:key')
    assert (m.copies, m.fill, m.filter_first, m.std, m.branch) == (3, 'mix', False, 1, 'key') and m.mixture == dict(grid=4, ratio=(.1, .3), p_focal=0, p_channel=.56, keep=.5)
    assert make_parts('masks')[0].mixture == masked_views().mixture and make_parts('masks/filter:false')[0].filter is False

@pytest.mark.parametrize('text, word', [('msks', "parts='msks' is not known; did you mean 'masks'"), ('told/frist:3', "parts 'told/frist:3': argument='frist' is not known; did you mean 'first'"), ('told/first', "parts 'told/first': first needs a value, as in first:..."),
    ('masks/rung:nois', "rung='nois' is not known; did you mean 'noise'"), ('masks/colour:3', "argument='colour' is not known"), ('masks/ratio:.3-1.2', 'ratio[1]=1.2'), ('masks/fill:', "fill=''"), ('told+masks/n:0', 'n=0'), ('masks/grid:2-14', 'grid'),
    ('masks/p_focal:.7', 'p_focal=0.7, p_channel=0.56'), ('told/', "argument=''"), ('told/:3', "argument=''")])
def test_what_is_refused_by_name(told, text, word):
    with pytest.raises(ValueError, match=re.escape(word)): make_parts(text)

def test_settings_refuse_them_too():
    assert Settings(parts='masks/fill:zero').parts == 'masks/fill:zero' and Settings().parts is None
    with pytest.raises(ValueError, match="fill='zeor' is not known; did you mean 'zero'"): Settings(parts='masks/fill:zeor')

def test_an_empty_table_is_filled_once_by_the_rooms_that_have_parts(monkeypatch):
    monkeypatch.setattr(mssl.recipes, "CALLBACKS", mine := {})
    asked = []
    monkeypatch.setattr(importlib, 'import_module', lambda name: (asked.append(name), mine.update(late=lambda: 'made')))
    assert make_parts(None) == [] and asked == [], 'nothing is imported for nothing'
    assert make_parts('late+late') == ['made', 'made'] and asked == ['mssl.all']

def test_a_part_can_be_added(monkeypatch):
    monkeypatch.setattr(mssl.recipes, "CALLBACKS", mine := {})
    add_part('mine', lambda deep=1: ('mine', deep))
    assert make_parts('mine/deep:2') == [('mine', 2)] and list(mine) == ['mine']

def test_a_part_of_a_room_that_is_not_imported_yet(monkeypatch):
    monkeypatch.setattr(mssl.recipes, "CALLBACKS", mine := dict(first=lambda: 'first'))
    monkeypatch.setattr(importlib, 'import_module', lambda name: mine.update(late=lambda: 'late'))
    assert make_parts('late') == ['late']

def test_an_unknown_argument_of_the_masks_has_near_misses():
    with pytest.raises(ValueError, match="did you mean 'branch'"): make_parts('masks/brnach:key')
