"The table of methods: names, near misses, and how views are made when nobody says"
import subprocess, sys

import pytest
from mssl.data import image_dls
from mssl.recipes import RECIPES, add_recipe, find_recipe, recipe_learner, usual_augment
from mssl.siamese import siamese_learner
from mssl.views import AUGMENTS

@pytest.fixture(scope='module')
def dls(): return image_dls('scenes:small', 16, n=32, bs=16, device='cpu')

@pytest.mark.parametrize('name', RECIPES)
def test_drawn_pictures_get_views_of_their_own(dls, name):
    assert usual_augment(RECIPES[name], dls) == ('scenes' if RECIPES[name].augment == 'small' else RECIPES[name].augment)
    assert recipe_learner(name, dls, size=16, augment='weak').views.augments == AUGMENTS['weak'], 'who asks for another recipe gets it'

def test_other_pictures_get_the_recipes_own(dls, tmp_path):
    from PIL import Image
    for i in range(12): Image.fromarray(dls.train_ds.image[i].permute(1, 2, 0).numpy()).save(tmp_path / f'{i}.png')
    mine = image_dls(tmp_path, bs=4, device='cpu')
    assert usual_augment(RECIPES['info_nce'], mine) == 'small' and recipe_learner('info_nce', mine, size=16).views.augments == AUGMENTS['small']

def test_names(dls):
    with pytest.raises(ValueError, match='info_nec.*info_nce'): recipe_learner('info_nec', dls)
    with pytest.raises(ValueError, match="name='byol'"): add_recipe('byol', siamese_learner, 'another text', 'nowhere')
    before = dict(RECIPES)
    try:
        new = add_recipe('mine', lambda dls, arch, **kw: siamese_learner(dls, arch, **{k: v for k, v in kw.items() if k != 'model_kwargs'}), 'mine', 'a test', augment='weak')
        assert recipe_learner('mine', dls, size=16).views.augments == AUGMENTS['weak'] and new is RECIPES['mine']
    finally: RECIPES.pop('mine', None)
    assert RECIPES == before

def test_a_recipe_is_found_whatever_was_imported():
    said = "from mssl.recipes import RECIPES, find_recipe; assert 'semmim' not in RECIPES; print(find_recipe('semmim').name)"
    assert subprocess.run([sys.executable, '-c', said], capture_output=True, text=True, check=True).stdout.strip() == 'semmim'
    with pytest.raises(ValueError, match="arm 'x': recipe='semimm' .*did you mean 'semmim'"): find_recipe('semimm', "arm 'x': recipe")
