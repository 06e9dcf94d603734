"""Pictures, and a slider that needs no kernel: facts about what is drawn, not that something is drawn."""
import io, re, warnings
import numpy as np, pytest, torch, torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from mssl.explore import as_picture, encode_picture, picture_and_note
from mssl.show import (Explorer, explore, figure_html, paste_view, show_curves, show_grid, show_heat, show_masks, show_neighbours,
                       show_views, to_picture)

MEAN, STD = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)
KINDS = {'uint8': lambda x: (x * 255).round().byte(), 'float': lambda x: x, 'half': lambda x: x.half(), 'double': lambda x: x.double()}

def smooth(b=4, size=48, seed=0):
    "Pictures without sharp edges, so that resizing loses little"
    coarse = torch.rand(b, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode='bicubic', align_corners=True).clamp(0, 1)

def pixels(fig): return as_picture(fig).astype(int)
def texts(fig): return [t.get_text() for t in fig.axes[0].texts if t.get_text()]


# any picture as bytes

@pytest.mark.parametrize('kind', KINDS)
def test_every_type_gives_the_same_bytes(kind):
    x = smooth(2)
    assert np.abs(to_picture(KINDS[kind](x)).astype(int) - to_picture(x).astype(int)).max() <= 1
    assert to_picture(KINDS[kind](x)).shape == (2, 48, 48, 3)

def test_uint8_goes_through_unchanged():
    x = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    assert (to_picture(x) == x.permute(1, 2, 0).numpy()).all()
    assert (to_picture(x.permute(1, 2, 0).numpy()) == x.permute(1, 2, 0).numpy()).all()
    assert (to_picture(Image.fromarray(x.permute(1, 2, 0).numpy())) == x.permute(1, 2, 0).numpy()).all()

def test_mean_and_std_undo_the_normalisation():
    x = smooth()
    assert (to_picture((x - MEAN) / STD, MEAN, STD) == to_picture(x)).mean() > .999
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        to_picture((x - MEAN) / STD, [.485, .456, .406], [.229, .224, .225])

def test_a_stretch_is_said_and_an_outlier_does_not_darken_the_rest():
    x = (smooth() - MEAN) / STD
    with pytest.warns(UserWarning, match='stretched'): plain = to_picture(x)
    x[0, 0, 0, 0] = 1000.
    with pytest.warns(UserWarning, match='stretched'): outlier = to_picture(x)
    assert np.abs(plain.astype(int) - outlier.astype(int))[1:].mean() < 3

def test_grey_transparent_and_broken_pictures():
    grey = to_picture(torch.full((1, 4, 4), .5))
    assert grey.shape == (4, 4, 3) and (grey == 128).all()
    clear = torch.zeros(4, 4, 4); clear[3, :2] = 1
    assert (to_picture(clear)[:2] == 0).all() and (to_picture(clear)[2:] == 255).all()
    broken, note = picture_and_note(torch.tensor([float('nan'), 0., 1.]).view(1, 1, 3))
    assert note and broken[0, 0, 0] == 0
    assert (picture_and_note(torch.full((3, 4, 4), 7.))[0] == 128).all()

@pytest.mark.parametrize('bad', [torch.rand(2, 4, 4), torch.rand(4), torch.zeros(3, 4, 4, dtype=torch.long), np.zeros((3, 5, 5)), 'cat.png', torch.rand(3, 0, 4)])
def test_no_picture(bad):
    with pytest.raises(ValueError, match='x: '): to_picture(bad)

def test_the_smaller_of_two_encodings_is_kept():
    photo, plot = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64, 3), np.uint8)
    assert encode_picture(photo)[0] == 'image/png' and encode_picture(photo, quality=80)[0] == 'image/webp'
    assert encode_picture(photo, quality=80, lossy='jpeg')[0] == 'image/jpeg'
    assert all(len(encode_picture(p, quality=80)[1]) <= len(encode_picture(p)[1]) for p in (photo, plot))
    assert (np.asarray(Image.open(io.BytesIO(encode_picture(photo)[1]))) == photo).all()

def test_figure_html_holds_everything_and_escapes_its_alt_text():
    sheet = show_grid(smooth())
    for made in (figure_html(sheet, 'a "cat" <b>'), figure_html(sheet, 'a "cat" <b>', quality=80), figure_html(sheet, 'a "cat" <b>', kind='svg')):
        assert re.fullmatch(r'<img alt="a &quot;cat&quot; &lt;b&gt;" [^<>]* src="data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+">', made)
    assert f'alt="{sheet.alt}"' in figure_html(sheet)
    assert figure_html(sheet, kind='svg') == figure_html(sheet, kind='svg')
    with pytest.raises(ValueError, match='alt'): figure_html(smooth()[0])
    with pytest.raises(ValueError, match='kind'): figure_html(sheet, 'x', kind='gif')


# views drawn back

@pytest.mark.parametrize('flipped', [False, True])
@pytest.mark.parametrize('size', [20, 48, 100])
def test_a_view_pastes_back_onto_its_place(flipped, size):
    "Cut on pixel borders and resized to `size`: inside the box the picture comes back, outside nothing changes"
    image, (t, l, h, w) = smooth(), (6, 12, 24, 30)
    view = F.interpolate(image[:, :, t:t+h, l:l+w], (size, size), mode='bilinear', antialias=True)
    box, flip = torch.tensor([[t, l, h, w]]).repeat(4, 1) / 48, torch.full((4,), flipped)
    view = view.flip(-1) if flipped else view
    back = paste_view(image * 0, view, box, flip)
    assert (back - image)[:, :, t:t+h, l:l+w].abs().mean() < .01
    outside = torch.ones(48, 48, dtype=torch.bool); outside[t:t+h, l:l+w] = False
    assert back[:, :, outside].abs().max() < 1e-6
    wrong = paste_view(image * 0, view, box, ~flip)
    assert (wrong - image)[:, :, t:t+h, l:l+w].abs().mean() > .05

def test_each_view_of_a_batch_goes_to_its_own_box():
    image = torch.zeros(2, 3, 8, 8)
    box = torch.tensor([[0, 0, .5, .5], [.5, .25, .5, .75]])
    back = paste_view(image, torch.ones(2, 3, 5, 5), box, torch.tensor([True, False]))
    assert back[0, 0].sum() == 16 and back[0, 0, :4, :4].min() == 1
    assert back[1, 0].sum() == 24 and back[1, 0, 4:, 2:].min() == 1

def test_a_box_between_pixels_covers_its_area():
    back = paste_view(torch.zeros(1, 1, 10, 10), torch.ones(1, 1, 4, 4), torch.tensor([[.123, .2, .51, .333]]), torch.tensor([False]))
    assert abs(back.mean().item() - .51 * .333) < 1e-5

def test_paste_view_refuses_what_does_not_fit():
    image, view, box, flip = smooth(2), smooth(2), torch.tensor([[0, 0, 1., 1.]] * 2), torch.zeros(2, dtype=torch.bool)
    for name, arguments in dict(view=(image, view[:1], box, flip), box=(image, view, box[:1], flip), flip=(image, view, box, flip[:1])).items():
        with pytest.raises(ValueError, match=f'{name}: shape'): paste_view(*arguments)
    with pytest.raises(ValueError, match='above 0'): paste_view(image, view, box * 0, flip)

@pytest.mark.parametrize('count', [1, 2, 5])
def test_show_views_has_every_view_on_the_sheet(count):
    image, box = smooth(3), torch.tensor([[.1, .2, .5, .4]]).repeat(3, 1)
    flip = torch.tensor([True, False, True])
    sheet = show_views(image, [image] * count, [box] * count, [flip] * count, n=2)
    assert len(sheet.axes[0].images) == 2 * (count + 2)
    assert sum('flipped' in o for o in texts(sheet)) == count and texts(sheet).count('drawn back') == 2
    with pytest.raises(ValueError, match='views, boxes, flips'): show_views(image, [image], [box, box], [flip])

def test_show_views_undoes_flip_in_the_last_column():
    "A black picture with one white half, cut whole and flipped: drawn back, white is where it was"
    image = torch.zeros(1, 3, 40, 40); image[..., :20] = 1
    sheet = show_views(image, [image.flip(-1)], [torch.tensor([[0., 0, 1, 1]])], [torch.tensor([True])])
    source, view, back = (o.get_array() for o in sheet.axes[0].images)
    assert source[20, 5].min() == 255 and view[20, 5].max() == 0 and back[20, 5].min() == 255 and back[20, 35].max() == 0


# masks, heat, neighbours, grids, curves

def test_a_hidden_cell_hides_and_a_visible_one_shows():
    image, mask = torch.ones(1, 3, 30, 30), torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, 3, 2] = True
    drawn = show_masks(image, mask).axes[0].images[0].get_array().astype(int)
    k, i = drawn.shape[0] // 30, torch.arange(30) * 7 // 30
    hidden = np.kron((i[:, None] == 3).numpy() & (i[None] == 2).numpy(), np.ones((k, k))).astype(bool)
    assert (drawn[~hidden] == 255).all() and drawn[hidden].min(-1).max() < 128

def test_masks_of_pixels_and_of_cells_agree_and_the_share_is_counted():
    image, cells = smooth(2), torch.zeros(2, 1, 4, 4, dtype=torch.bool); cells[:, :, :2] = True
    a, b = show_masks(image, cells), show_masks(image, cells.repeat_interleave(12, -1).repeat_interleave(12, -2))
    assert (pixels(a) == pixels(b)).all() and texts(a) == ['50% hidden'] * 2

def test_a_hidden_channel_is_drawn_in_its_colour():
    image, mask = torch.full((1, 3, 40, 40), .5), torch.zeros(1, 3, 40, 40, dtype=torch.bool)
    mask[:, 1] = True
    drawn = show_masks(image, mask).axes[0].images[0].get_array().astype(int)
    changed = drawn[(drawn != 128).any(-1)]
    assert len(changed) and (changed.argmax(-1) == 1).all()
    mask[:] = True
    every = show_masks(image, mask).axes[0].images[0].get_array()
    assert (every == show_masks(image, mask[:, :1]).axes[0].images[0].get_array()).all()

@pytest.mark.parametrize('bad', [torch.rand(2, 4, 4), torch.zeros(2, 99, 99, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(2, 2, 4, 4, dtype=torch.bool)])
def test_no_mask(bad):
    with pytest.raises(ValueError, match='mask'): show_masks(smooth(2), bad)

def test_heat_is_brightest_where_it_is_highest():
    heat = torch.zeros(2, 5, 5); heat[0, 1, 3] = 1; heat[1, 4, 0] = .5
    sheet = show_heat(torch.full((2, 3, 50, 50), .5), heat, box=torch.tensor([[0, 0, .5, .5]] * 2), label='heat')
    first, second = (o.get_array().astype(int).sum(-1) for o in sheet.axes[0].images[:2])
    assert np.unravel_index(first.argmax(), first.shape)[0] // 10 == 1 and np.unravel_index(first.argmax(), first.shape)[1] // 10 == 3
    assert first.max() > second.max(), 'all pictures share one colour bar'
    assert {'0', '1', 'heat'} <= set(texts(sheet)) and len(sheet.axes[0].patches) == 2
    with pytest.raises(ValueError, match='finite'): show_heat(smooth(2), heat / 0)
    with pytest.raises(ValueError, match='heat: '): show_heat(smooth(2), heat[:1])

def test_neighbours_are_framed_by_agreement_and_not_by_colour_alone():
    q, found, same = smooth(2), smooth(6).view(2, 3, 3, 48, 48), torch.tensor([[1, 0, 0], [1, 1, 0]]).bool()
    styles = [o.get_linestyle() for o in show_neighbours(q, found, same).axes[0].patches]
    assert len(styles) == 2 + 6 and sum(o not in ('-', 'solid') for o in styles) == 3
    plain = show_neighbours(q, found)
    assert len(plain.axes[0].patches) == 2 and 'label' not in ' '.join(texts(plain))
    with pytest.raises(ValueError, match='same'): show_neighbours(q, found, same[:, :2])
    with pytest.raises(ValueError, match='neighbour_images'): show_neighbours(q, found[:1])

def test_grids_take_lists_of_any_size_and_say_what_they_leave_out():
    sheet = show_grid([torch.rand(3, 20, 30), torch.zeros(40, 10, dtype=torch.uint8), np.zeros((8, 8, 3), np.uint8)], ['a', 'b', 'c'])
    assert len(sheet.axes[0].images) == 3 and texts(sheet) == ['a', 'b', 'c']
    extents = [o.get_extent() for o in sheet.axes[0].images]
    assert [round((e[1] - e[0]) / (e[2] - e[3]), 2) for e in extents] == [1.5, .25, 1.], 'pictures keep their shape'
    assert 'the first 5 of 9' in texts(show_grid(smooth(9), most=5))
    with pytest.raises(ValueError, match='titles'): show_grid(smooth(3), ['one'])
    with pytest.raises(ValueError): show_grid([])

def test_a_sheet_opens_no_window_and_fits_a_phone():
    import matplotlib.pyplot as plt
    for fig in (show_grid(smooth(9), ['a long title that would never fit on one line of a phone'] * 9), show_curves({'loss': [3, 2, 1]})):
        assert isinstance(fig, Figure) and fig.get_size_inches()[0] <= 5.2
        fonts = [t.get_fontsize() for t in fig.findobj(lambda o: hasattr(o, 'get_fontsize')) if t.get_text()]
        assert min(fonts) >= 9
    assert plt.get_fignums() == []

def test_curves_name_their_points_and_references():
    sheet = show_curves({'loss': [3., 2., 1.], 'other': (torch.tensor([0., 5.]), torch.tensor([1., 2.]))}, references={'untrained': 2.5}, title='a title')
    lines = {o.get_label(): o for o in sheet.axes[0].lines}
    assert lines['loss'].get_xdata().tolist() == [1, 2, 3] and lines['other'].get_xdata().tolist() == [0, 5]
    assert set(lines['untrained'].get_ydata()) == {2.5} and 'untrained 2.5' in sheet.alt
    for bad in ({}, {'loss': []}, {'loss': ([1, 2], [1, 2, 3])}):
        with pytest.raises(ValueError, match='curves'): show_curves(bad)


# the slider

def field(level, tint='red'): return torch.tensor([level, 0., float(tint == 'blue')]).view(3, 1, 1).expand(3, 16, 24)

def test_one_frame_per_combination_the_last_parameter_fastest():
    calls = []
    def draw(**values): calls.append(tuple(values.values())); return field(values['level'], values['tint'])
    made = explore(draw, level=[0., .5, 1.], tint=['red', 'blue'])
    assert len(made.frames) == 3 * 2 == len(set(made.frames))
    assert calls == [(l, t) for l in (0., .5, 1.) for t in ('red', 'blue')]

def test_the_page_is_complete_in_itself_and_repeats():
    make = lambda: explore(field, level=np.linspace(0, 1, 5), tint=['red', 'blue'], alt='a "field" </script>')
    made = make(); page = made._repr_html_()
    assert page == make()._repr_html_() and not re.search(r'https?:|//[a-z]|@import|url\(', re.sub(r'data:[^"]*"', '', page))
    assert page.count('<script>') == page.count('</script>') == 1, 'words of the caller cannot end the script'
    assert f'src="{made.frames[0]}"' in page and '<noscript>' in page
    assert '<input' not in page.split('<script>')[0], 'no dead slider where no script runs'
    assert '10 pictures' in repr(made) and isinstance(made, Explorer)
    assert page.count(made.frames[3]) == 1, 'a frame is in the page once'

def test_numbers_slide_words_are_pressed_and_ordered_words_slide():
    page = lambda **o: explore(lambda **_: field(1.), **o)._repr_html_().replace('\\"', '"')
    assert page(a=[1, 2]).count('type="range"') == 1 and page(a=['x', 'y']).count('type="radio"') == 2
    assert page(a=['few', 'many'], ordered='a').count('type="range"') == 1
    assert page(a=[True, False]).count('type="radio"') == 2 and page(a=list('abcdefgh')).count('<option') == 8
    assert page(a=[3]).count('type="range"') == 0, 'nothing to move where there is one value'
    with pytest.raises(ValueError, match='ordered'): page(a=[1], ordered='b')

def test_a_dict_names_what_has_no_short_name():
    made = explore(lambda f: field(f(1.)), f={'half': lambda x: x / 2, 'whole': lambda x: x})
    assert made.labels == {'f': ['half', 'whole']} and made.frames == explore(field, level=[.5, 1.]).frames

@pytest.mark.parametrize('kind', ['figure', 'pyplot', 'pil', 'array', 'tensor'])
def test_everything_that_can_be_drawn(kind):
    import matplotlib.pyplot as plt
    def draw(level):
        if kind == 'figure': fig = Figure(figsize=(1, 1)); fig.patch.set_facecolor((level, 0, 0)); return fig
        if kind == 'pyplot': fig = plt.figure(figsize=(1, 1)); fig.patch.set_facecolor((level, 0, 0)); return fig
        if kind == 'pil': return Image.fromarray(to_picture(field(level)))
        return to_picture(field(level)) if kind == 'array' else field(level)
    assert len(set(explore(draw, level=[0., 1.]).frames)) == 2
    assert plt.get_fignums() == [], 'a pyplot figure is closed, or it would show a second time'

def test_wrong_use_is_a_sentence():
    for match, arguments in [('level=\\[\\]', dict(level=[])), ("tint='red': a list", dict(level=[1.], tint='red')), ('values: at least one', {}),
                             ('20 level x 20 tint = 400 pictures', dict(level=range(20), tint=range(20)))]:
        with pytest.raises(ValueError, match=match): explore(field, **arguments)
    with pytest.raises(ValueError, match=r'draw\(level=1\) returned None'): explore(lambda level: None, level=[1])
    with pytest.raises(ValueError, match=r'draw\(level=1\): x: '): explore(lambda level: torch.rand(7, 7, 7), level=[1])
    with pytest.raises(ValueError, match='batch'): explore(lambda level: torch.rand(2, 3, 7, 7), level=[1])
    with pytest.raises(ValueError, match='callable|function'): explore('cat', level=[1])
    with pytest.raises(ValueError, match='quality'): explore(field, level=[1], quality=0)

def test_a_heavy_page_is_refused_before_all_is_drawn():
    drawn = []
    def draw(seed): drawn.append(seed); return torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(ValueError, match='max_bytes=100000'): explore(draw, seed=range(100), max_bytes=100_000)
    assert len(drawn) < 30
    assert len(explore(draw, seed=range(3), max_bytes=100_000)._repr_html_()) <= 100_000

def test_lossless_frames_keep_every_value():
    import base64
    x = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8)
    frame = explore(lambda a: x, a=[1], quality=None).frames[0]
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(frame.split(',')[1])))) == to_picture(x)).all()

def test_live_draws_only_when_asked():
    calls = []
    def draw(level, tint): calls.append(level); return field(level, tint)
    made = explore(draw, live=True, level=[0., .5, 1.], tint=['red', 'blue'])
    made.children[0].index = 2
    assert made.children[0].value == 1. and len(calls) < 6
