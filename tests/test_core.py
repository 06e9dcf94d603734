"""Checks name the argument, what came and what is allowed; random numbers can be kept."""
import random
from pathlib import Path
import numpy as np, pytest, torch
from mssl.core import (as_float, as_size, check_choice, check_images, check_number, check_range, keep_random, random_state,
                       set_random_state, side_generator, write_whole)


@pytest.mark.parametrize('value, kwargs', [(0, dict(low=1)), (5, dict(high=4)), (0, dict(low=0, open_low=True)), (1.5, dict(integer=True)),
    (True, dict(integer=True)), (True, {}), (float('nan'), {}), ('3', {}), (None, dict(low=0)), (torch.ones(2), {}), (1j, {})])
def test_a_number_out_of_range_is_refused(value, kwargs):
    with pytest.raises(ValueError, match='^ratio=') as e: check_number('ratio', value, **kwargs)
    assert 'number' in str(e.value) and '  ' not in str(e.value)

@pytest.mark.parametrize('value, kwargs', [(1, dict(low=1)), (4, dict(high=4)), (.001, dict(low=0, open_low=True)), (np.int64(3), dict(integer=True)),
    (np.float32(.5), dict(low=0, high=1)), (float('inf'), dict(low=0))])
def test_a_number_in_range_comes_back(value, kwargs): assert check_number('ratio', value, **kwargs) is value

def test_the_sentence_says_name_value_and_bounds():
    with pytest.raises(ValueError, match=r'^bs=0: a whole number at least 1 and at most 9 is needed$'): check_number('bs', 0, 1, 9, integer=True)
    with pytest.raises(ValueError, match=r'^t=0: a number above 0 is needed$'): check_number('t', 0, 0, open_low=True)

@pytest.mark.parametrize('value', [(1., .2), (.2,), .5, (.1, .2, .3), (0., .5), (.5, 1.5), ('a', 'b'), None])
def test_a_bad_range_is_refused(value):
    with pytest.raises(ValueError, match='scale'): check_range('scale', value, 0, 1, open_low=True)

def test_a_range_comes_back_as_a_tuple(): assert check_range('scale', [.2, 1.], 0, 1) == (.2, 1.) and check_range('scale', (.5, .5)) == (.5, .5)

def test_an_unknown_name_comes_with_its_near_misses():
    names = ['calm', 'small', 'several']
    assert check_choice('level', 'calm', names) == 'calm'
    with pytest.raises(ValueError, match=r"level='smal' is not known; did you mean 'small'.*Allowed: calm, small, several"): check_choice('level', 'smal', names)
    with pytest.raises(ValueError) as e: check_choice('level', 'xyzzy', names)
    assert 'did you mean' not in str(e.value) and 'calm' in str(e.value)
    with pytest.raises(ValueError, match='level=7'): check_choice('level', 7, names)
    with pytest.raises(ValueError, match=r"did you mean 'a99'.*\(1000 names\)") as e: check_choice('arch', 'a 99', [f'a{i}' for i in range(1000)])
    assert len(str(e.value)) < 400, 'a long list is not printed whole'

@pytest.mark.parametrize('value, pair', [(32, (32, 32)), ((16, 48), (16, 48)), ([16, 48], (16, 48)), (np.int64(8), (8, 8)), (torch.Size([4, 6]), (4, 6))])
def test_a_size_is_a_pair_of_ints(value, pair):
    assert as_size(value) == pair and all(type(o) is int for o in as_size(value))

@pytest.mark.parametrize('value', [0, -3, 2.5, (32,), (1, 2, 3), (0, 5), 'big', None, True])
def test_a_bad_size_is_refused(value):
    with pytest.raises(ValueError, match='^views'): as_size(value, 'views')

@pytest.mark.parametrize('bad', [torch.rand(3, 8, 8), torch.rand(2, 0, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.long), np.zeros((2, 3, 8, 8)), [1], torch.rand(2, 1, 8, 8)])
def test_what_is_no_batch_of_pictures_is_refused(bad):
    with pytest.raises(ValueError, match='^photo: '): check_images(bad, 'photo', channels=3)

@pytest.mark.parametrize('dtype', [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pictures_of_every_type_pass(dtype):
    x = torch.ones(2, 1, 4, 4, dtype=dtype)
    assert check_images(x) is x and check_images(x[:0]).shape[0] == 0
    assert as_float(x).is_floating_point() and as_float(x).max() == (torch.tensor(1 / 255) if dtype == torch.uint8 else 1)

def test_as_float_leaves_the_bytes_alone():
    x = torch.tensor([0, 128, 255], dtype=torch.uint8)
    assert torch.equal(as_float(x), torch.tensor([0., 128 / 255, 1.])) and x.tolist() == [0, 128, 255]


def draws(): return random.random(), float(np.random.rand()), float(torch.rand(()))

def test_the_random_state_comes_back_also_from_a_file(tmp_path):
    state = random_state()
    first = draws()
    torch.save(state, tmp_path / 's.pth')
    set_random_state(torch.load(tmp_path / 's.pth', weights_only=True))
    assert draws() == first

def test_outside_keep_random_nothing_happened():
    state = random_state()
    expected = draws()
    set_random_state(state)
    with keep_random(seed=2**40):
        inside = draws()
        with keep_random(): draws()
    assert draws() == expected and inside != expected
    with pytest.raises(RuntimeError):
        with keep_random(seed=2**40):
            assert draws() == inside, 'the same seed draws the same'
            raise RuntimeError
    set_random_state(state)
    with pytest.raises(RuntimeError):
        with keep_random(): raise RuntimeError
    assert draws() == expected, 'an error inside changes nothing either'

def test_a_bystander_draws_without_being_noticed():
    "The same numbers where the random state is the same, others after one draw, and nothing moves"
    torch.manual_seed(3)
    state = random_state()
    a, b = (torch.rand(50, generator=side_generator()) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(state['torch'], torch.get_rng_state())
    expected = torch.rand(50)
    assert not torch.equal(a, expected), 'nor are they those that come next'
    seen = [torch.rand(50, generator=side_generator())]
    for draw in (lambda: torch.rand(1), lambda: torch.randn(1), lambda: torch.randint(9, (1,))):
        draw()
        seen.append(torch.rand(50, generator=side_generator()))
    assert len(torch.stack([a, *seen]).unique(dim=0)) == 5
    set_random_state(state)
    assert torch.equal(a, torch.rand(50, generator=side_generator('cpu'))) and torch.equal(torch.rand(50), expected)
    assert side_generator().device == torch.device('cpu')

def test_bystanders_of_many_seeds_are_even():
    "The seeds are hashes: no two alike, and no pattern among first draws"
    first = []
    for seed in range(1000):
        torch.manual_seed(seed)
        first.append(torch.rand(1, generator=side_generator()))
    first = torch.cat(first)
    assert len(first.unique()) > 995 and abs(first.mean() - .5) < .03 and abs(first.std() - 12 ** -.5) < .015 and abs(torch.corrcoef(torch.stack([first[1:], first[:-1]]))[0, 1]) < .1

@pytest.mark.gpu
def test_a_bystander_on_a_gpu():
    state = random_state('cuda')
    a, b = (torch.rand(50, device='cuda', generator=side_generator('cuda')) for _ in range(2))
    torch.rand(1, device='cuda')
    c = torch.rand(50, device='cuda', generator=side_generator('cuda'))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(state['torch'], torch.get_rng_state())

def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'x.json'
    assert write_whole(path, lambda p: p.write_text('old')) == path
    def half(p):
        Path(p).write_text('ne')
        raise OSError('disk full')
    with pytest.raises(OSError, match='disk full'): write_whole(path, half)
    assert path.read_text() == 'old'
    write_whole(str(path), lambda p: p.write_text('new'))
    assert path.read_text() == 'new' and [p.name for p in tmp_path.iterdir()] == ['x.json']
