import threading, warnings
import pytest, torch
from mssl import scenes as room
from mssl.scenes import (CLASSES, COLOURS, GROUNDS, LEVELS, PLACES, SIZES, caption_of, mask_box, place_word, scenes, size_word)
from mssl.shapes import SHAPES, TEXTURES, uniform

FIELDS = ('mask', 'label', 'texture', 'colour', 'named', 'box')
def same(a, b): return torch.equal(a.image, b.image) and all(torch.equal(getattr(a.objects, f), getattr(b.objects, f)) for f in FIELDS) and a.caption == b.caption

@pytest.fixture(scope='module')
def sets(): return {level: scenes(600, 48, seed=3, level=level, cache=False) for level in LEVELS}

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('MSSL_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'


def test_numbers_depend_on_their_address_only():
    i = torch.arange(1000)
    u = uniform('a', i, 6)
    assert torch.equal(u[[7, 3]], uniform('a', torch.tensor([7, 3]), 6))
    assert torch.equal(u[:, :4], uniform('a', i, 4))
    assert not torch.equal(u, uniform('b', i, 6))

def test_numbers_are_uniform_and_unrelated():
    u = uniform('c', torch.arange(200_000), 4)
    assert u.min() >= 0 and u.max() < 1
    assert (u.mean(0) - .5).abs().max() < .003 and (u.var(0) - 1/12).abs().max() < .001
    both = torch.cat([u[:-1], u[1:]], 1) # neighbours in the picture's number and in the position
    assert (torch.corrcoef(both.T) - torch.eye(8)).abs().max() < .01

@pytest.mark.parametrize('level', LEVELS)
def test_a_picture_does_not_depend_on_how_many_are_drawn(level):
    some = scenes(20, 32, 5, level, cache=False)
    assert same(some[4:9], scenes(5, 32, 5, level, start=4, cache=False))
    assert same(some, scenes(270, 32, 5, level, cache=False)[:20]) # over the edge of a batch

def test_a_picture_does_not_depend_on_the_threads():
    before, one = torch.get_num_threads(), None
    try:
        torch.set_num_threads(1); one = scenes(300, 32, level='several', cache=False)
        torch.set_num_threads(2); assert same(one, scenes(300, 32, level='several', cache=False))
    finally: torch.set_num_threads(before)

def test_torchs_random_numbers_are_left_alone():
    torch.manual_seed(0); a = torch.rand(3)
    torch.manual_seed(0); scenes(4, 32, cache=False)
    assert torch.equal(a, torch.rand(3))

def test_seed_and_level_make_other_pictures():
    a = scenes(8, 32, cache=False)
    assert not torch.equal(a.image, scenes(8, 32, seed=1, cache=False).image)
    assert not torch.equal(a.label, scenes(8, 32, level='small', cache=False).label)

def test_another_size_is_the_same_scene():
    a, b = scenes(50, 32, cache=False), scenes(50, 96, cache=False)
    assert torch.equal(a.label, b.label) and torch.equal(a.objects.colour, b.objects.colour)
    assert (a.box - b.box).abs().max() <= 2/32

@pytest.mark.parametrize('level', LEVELS)
def test_shapes_and_types(sets, level):
    s, k = sets[level], LEVELS[level].count[1]
    assert s.image.shape == (600, 3, 48, 48) and s.image.dtype == torch.uint8
    assert s.mask.shape == (600, 48, 48) and s.mask.dtype == torch.bool
    assert s.box.shape == (600, 4) and s.box.is_floating_point() and s.label.shape == (600,) and s.label.dtype == torch.int64
    o = s.objects
    assert o.mask.shape == (600, k, 48, 48) and o.box.shape == (600, k, 4)
    assert o.label.shape == o.texture.shape == o.colour.shape == o.named.shape == (600, k)
    assert len(s) == len(s.caption) == 600 and len(s.classes) == 10

@pytest.mark.parametrize('level', LEVELS)
def test_every_object_is_seen_and_absent_ones_are_empty(sets, level):
    o = sets[level].objects
    there = o.label >= 0
    assert (o.mask.flatten(2).any(2) == there).all()
    assert (o.box[~there] == 0).all() and (o.colour[~there] == -1).all() and not o.named[~there].any()
    assert o.named.any(1).all()
    count = there.sum(1)
    assert count.min() == LEVELS[level].count[0] and count.max() == LEVELS[level].count[1]

def test_even_at_the_smallest_size_every_object_has_pixels():
    for level in LEVELS:
        o = scenes(1000, 16, level=level, cache=False).objects
        assert (o.mask.flatten(2).any(2) == (o.label >= 0)).all()

@pytest.mark.parametrize('level', LEVELS)
def test_boxes_are_tight_and_half_open(sets, level):
    mask, box = sets[level].objects.mask.flatten(0, 1), sets[level].objects.box.flatten(0, 1)
    t, l, h, w = (box*48).round().long().unbind(1)
    for i in range(0, len(mask), 7):
        if h[i] == 0: continue
        inside = mask[i, t[i]:t[i] + h[i], l[i]:l[i] + w[i]]
        assert inside.sum() == mask[i].sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()

def test_a_box_by_hand():
    m = torch.zeros(2, 8, 8, dtype=torch.bool)
    m[0, 2:5, 1:8] = True
    assert mask_box(m).tolist() == [[.25, .125, .375, .875], [0, 0, 0, 0]]

def test_masks_lie_on_the_object_and_do_not_overlap(sets):
    assert sets['several'].objects.mask.sum(1).max() == 1
    s = sets['calm'] # outside, pixels are the ground's colour and its slow changes; inside they are not
    ground = torch.tensor(list(GROUNDS.values()))[s.ground][..., None, None]
    off = (s.image/255 - ground).abs().amax(1)
    assert off[~s.mask].mean() < .07 and off[s.mask].mean() > .3

def test_colours_and_grounds_are_equally_bright():
    "Grey views then hide the colour: what is left of it is less than what the jitter changes"
    from mssl.colour import GREY
    for table, width in ((COLOURS, .09), (GROUNDS, .03)):
        bright = torch.tensor(list(table.values())) @ torch.tensor(GREY)
        assert bright.max() - bright.min() < width, (table.keys(), bright)

def test_several_objects_hide_little_of_each_other():
    o = scenes(1500, 48, level='several', cache=False).objects
    pixels, (t, l, h, w) = o.mask.sum((2, 3)), o.box.unbind(-1)
    a, b = torch.triu_indices(4, 4, 1)
    high = (torch.minimum((t + h)[:, a], (t + h)[:, b]) - torch.maximum(t[:, a], t[:, b])).clamp(min=0)
    wide = (torch.minimum((l + w)[:, a], (l + w)[:, b]) - torch.maximum(l[:, a], l[:, b])).clamp(min=0)
    shared, smaller = high*wide, torch.minimum((h*w)[:, a], (h*w)[:, b])
    both = (o.label[:, a] >= 0) & (o.label[:, b] >= 0)
    assert (shared/smaller.clamp(min=1e-6))[both].mean() < .12
    assert pixels[o.label >= 0].min() >= 10

@pytest.mark.parametrize('level', LEVELS)
def test_class_texture_and_shape(sets, level):
    o = sets[level].objects
    there = o.label >= 0
    assert torch.equal(o.shape, o.label)
    assert (o.texture[there] != o.label[there]).all() if level == 'conflict' else torch.equal(o.texture, o.label)
    assert CLASSES == [f'{t} {s}' for t, s in zip(TEXTURES, SHAPES)]

def test_in_one_picture_every_class_occurs_once(sets):
    label = sets['several'].objects.label
    for row in label.tolist():
        there = [k for k in row if k >= 0]
        assert len(set(there)) == len(there)

def test_the_caption_names_one_or_all(sets):
    o = scenes(3000, 16, level='several', cache=False).objects
    named, there = o.named.sum(1), (o.label >= 0).sum(1)
    assert ((named == 1) | (named == there)).all()
    assert abs((named == there).float().mean() - 1/3) < .04
    which = o.named[(named == 1) & (there == 4)].float().mean(0)
    assert (which - .25).abs().max() < .06

@pytest.mark.parametrize('level', LEVELS)
def test_captions_are_true(sets, level):
    s = sets[level]
    o = s.objects
    for i in range(0, len(s), 9):
        text, ground = s.caption[i].rsplit(', on ', 1)
        assert ground == list(GROUNDS)[s.ground[i]]
        told = text.split(', and ')
        assert len(told) == o.named[i].sum()
        for phrase, j in zip(told, o.named[i].nonzero()[:, 0].tolist()):
            what, place = phrase.split(', ')
            size, texture, colour, shape = what.split(' ')[1:]
            assert (size, place) == (size_word(o.box[i, j]), place_word(o.box[i, j]))
            assert (texture, colour, shape) == (o.textures[o.texture[i, j]], o.colours[o.colour[i, j]], o.shapes[o.label[i, j]])

def test_the_named_object_is_the_one_that_mask_box_and_label_tell(sets):
    s = sets['several']
    for i in range(0, len(s), 20):
        j = s.objects.named[i].nonzero()[0, 0]
        assert torch.equal(s.mask[i], s.objects.mask[i, j]) and torch.equal(s.box[i], s.objects.box[i, j]) and s.label[i] == s.objects.label[i, j]

def test_words_at_their_borders():
    box = torch.tensor([[0, 0, .2, .2], [.4, .4, .2, .2], [.8, .1, .2, .8], [0, .7, .34, .3], [0, 0, 1, 1.]])
    assert place_word(box) == ['top left', 'centre', 'bottom', 'top right', 'centre']
    assert size_word(box) == ['small', 'small', 'large', 'small', 'large']
    assert place_word(box[1]) == 'centre' and size_word(torch.tensor([0, 0, .4, .1])) == 'medium' and size_word(torch.tensor([0, 0, .1, .5])) == 'large'
    assert set(place_word(torch.rand(500, 4)*torch.tensor([1, 1, 0, 0.]))) == set(PLACES) and len(SIZES) == 3

def test_captions_of_crops():
    s = scenes(3, 32, cache=False)
    crop = torch.tensor([[[0, 0, .3, .3]], [[.7, .7, .3, .3]], [[0, 0, 0, 0.]]])
    a, b, c = caption_of(s.objects, s.ground, crop)
    assert ' small ' in a and ', top left, on ' in a and ', bottom right, on ' in b and c.startswith('nothing, on ')
    assert caption_of(s.objects[:1], parts=('shape',)) == [f'a {s.objects.shapes[s.label[0]]}']
    with pytest.raises(ValueError, match="parts='colour '.*colour"): caption_of(s.objects, parts=('colour ',))

def chi_square(a, b, rows, columns):
    table = torch.zeros(rows, columns).index_put_((a, b), torch.ones(len(a)), accumulate=True)
    expected = table.sum(1, keepdim=True)*table.sum(0)/table.sum()
    return ((table - expected).square()/expected.clamp(min=1)).sum().item(), (rows - 1)*(columns - 1)

@pytest.mark.parametrize('level', LEVELS)
def test_nothing_but_the_object_tells_the_class(level):
    s = scenes(4000, 24, seed=1, level=level, cache=False)
    counts = s.label.bincount(minlength=10).float()
    assert (counts - 400).abs().max() < 4.5*(4000*.09)**.5
    facts = dict(colour=(s.objects.colour[torch.arange(4000), s.objects.named.int().argmax(1)], len(COLOURS)))
    if len(s.ground.unique()) > 1: facts['ground'] = (s.ground, len(GROUNDS))
    for name, (what, kinds) in facts.items():
        chi, freedom = chi_square(s.label, what, 10, kinds)
        assert chi < freedom + 4.5*(2*freedom)**.5, name
    layout = room.lay_out(level, torch.arange(20_000), 1) # place, size and turn, before the shape takes its pixels
    for name in ('centre', 'diameter', 'angle', 'stretch'):
        x = getattr(layout, name)[:, 0].view(20_000, -1)
        mean = torch.stack([x[layout.label[:, 0] == k].mean(0) for k in range(10)])
        assert ((mean - x.mean(0))/(x.std(0)/2000**.5)).abs().max() < 4.5, name

def test_the_background_is_the_same_whatever_stands_on_it():
    "Drawn from the index alone: a layout of other classes gives the same ground"
    index = torch.arange(20)
    for level in LEVELS:
        layout = room.lay_out(level, index, 0)
        one = room.draw_ground(layout, level, index, 0, 24)
        layout.label, layout.texture = (layout.label + 1) % 10, (layout.texture + 3) % 10
        assert torch.equal(one, room.draw_ground(layout, level, index, 0, 24))

def test_small_objects_are_missed_by_more_crops_than_calm_ones():
    from mssl.views import random_boxes
    torch.manual_seed(0)
    share = {}
    for level in ('calm', 'small'):
        box = scenes(10_000, 32, level=level, cache=False).box
        def held(crop):
            (t, l, h, w), (T, L, H, W) = box.unbind(1), crop.unbind(1)
            high, wide = torch.minimum(t + h, T + H) - torch.maximum(t, T), torch.minimum(l + w, L + W) - torch.maximum(l, L)
            return high.clamp(min=0)*wide.clamp(min=0)/(h*w)
        missed = torch.minimum(held(random_boxes(10_000)), held(random_boxes(10_000))) < .25
        share[level] = missed.float().mean()
    assert .10 <= share['small'] < .5 and share['calm'] < share['small'] - .01, share

def test_indexing():
    s = scenes(10, 32, level='several', cache=False)
    for index, wanted in ((slice(2, 5), [2, 3, 4]), ([7, 1], [7, 1]), (torch.tensor([0, 9]), [0, 9]), (s.label == s.label[3], None), (-1, [9])):
        part = s[index]
        if wanted is None: wanted = (s.label == s.label[3]).nonzero()[:, 0].tolist()
        assert torch.equal(part.image, s.image[wanted]) and part.caption == [s.caption[i] for i in wanted]
        assert torch.equal(part.objects.box, s.objects.box[wanted]) and len(part) == len(wanted)

def test_the_cache_gives_back_what_was_drawn(folder):
    a = scenes(1100, 32, level='several')
    assert [p.suffix for p in folder.iterdir()] == ['.safetensors'] # and no .part left behind
    b, c = scenes(1100, 32, level='several'), scenes(1100, 32, level='several', cache=False)
    assert same(a, b) and same(b, c)

def test_small_sets_are_not_kept(folder):
    scenes(20, 32)
    assert not folder.exists()

@pytest.mark.parametrize('damage', ['cut', 'empty', 'rubbish'])
def test_a_broken_cache_file_is_drawn_again(folder, damage):
    a = scenes(1100, 32)
    file, = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(dict(cut=whole[:len(whole)//2], empty=b'', rubbish=b'x'*len(whole))[damage])
    assert same(a, scenes(1100, 32)) and file.read_bytes() == whole

def test_another_drawing_routine_does_not_read_the_old_file(folder, monkeypatch):
    a = scenes(1100, 32)
    monkeypatch.setattr(room, 'TONES', [.5]*10)
    room._fingerprint.cache_clear()
    try: assert not torch.equal(a.image, scenes(1100, 32).image) and len(list(folder.iterdir())) == 2
    finally: monkeypatch.undo(); room._fingerprint.cache_clear()

def test_a_folder_that_cannot_be_written_warns_once(tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('MSSL_CACHE', str(tmp_path/'file'))
    with pytest.warns(UserWarning, match='MSSL_CACHE'): a = scenes(1100, 32)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert same(a, scenes(1100, 32))

def test_many_writers_leave_one_whole_file(folder):
    got = []
    threads = [threading.Thread(target=lambda: got.append(scenes(1100, 32))) for _ in range(3)]
    [t.start() for t in threads]; [t.join() for t in threads]
    assert len(got) == 3 and same(got[0], got[2]) and len(list(folder.iterdir())) == 1

@pytest.mark.parametrize('bad, message', [
    (dict(n=0), 'n=0: .*at least 1'), (dict(n=-3), 'n=-3'), (dict(n=2.5), 'n=2.5: a whole number'), (dict(size=15), 'size=15: .*at least 16'),
    (dict(size=(32, 48)), r'size=\(32, 48\)'), (dict(start=-1), 'start=-1'), (dict(level='clam'), "level='clam'.*did you mean 'calm'"), (dict(seed='a'), "seed='a'")])
def test_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=message): scenes(**{**dict(n=4), **bad})
