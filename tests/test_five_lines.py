"""The five lines of the README: in anybody's Learner, over anybody's DataLoaders, with labels and without; an encoder comes out."""
import numpy as np, pytest, torch
from fastai.vision.all import DataBlock, ImageBlock, ImageDataLoaders, Learner, RandomSplitter, Resize, get_image_files
from fastai.callback.training import GradientAccumulation
from PIL import Image
from mssl import load_encoder
from mssl.scenes import scenes
from mssl.siamese import Siamese, vicreg
from mssl.views import Views

@pytest.fixture(scope='module')
def path(tmp_path_factory):
    folder, drawn = tmp_path_factory.mktemp('mine'), scenes(40, 40)
    for i, (x, y) in enumerate(zip(drawn.image, drawn.label.tolist())):
        (folder / f'class{y % 2}').mkdir(exist_ok=True)
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(folder / f'class{y % 2}' / f'{i}.jpg')
    return folder

def labelled(path): return ImageDataLoaders.from_folder(path, valid_pct=.25, seed=0, item_tfms=Resize(40, 'squish'), bs=8, num_workers=2, device=torch.device('cpu'))
def unlabelled(path): return DataBlock(ImageBlock, get_items=get_image_files, splitter=RandomSplitter(.25, seed=0), item_tfms=Resize(40, 'squish')).dataloaders(path, bs=8, num_workers=0, device=torch.device('cpu'))

@pytest.mark.parametrize('loaders', [labelled, unlabelled])
def test_the_five_lines(path, loaders, tmp_path):
    dls = loaders(path)
    learn = Learner(dls, Siamese('resnet10_tiny'), loss_func=vicreg, cbs=[Views(32)], path=tmp_path)
    start = {k: v.detach().clone() for k, v in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    assert not any(torch.equal(v, start[k]) for k, v in learn.model.named_parameters()), 'every weight moved'
    assert all(torch.isfinite(o) for o in learn.recorder.losses) and len(learn.recorder.losses) == 3
    assert torch.isfinite(torch.tensor(learn.recorder.values[-1])).all()
    learn.save_encoder(tmp_path / 'mine')
    encoder = load_encoder(tmp_path / 'mine')
    x = torch.stack([torch.from_numpy(np.array(dls.valid_ds[i][0].resize((32, 32)))) for i in range(4)]).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(o).view(-1, 1, 1) for o in (learn.views.mean, learn.views.std))
    expected = learn.model.encoder.eval()((x / 255 - mean) / std)
    assert (encoder(x) - expected).abs().max() < 1e-4 and expected.std(0).max() > 1e-3

def test_the_five_lines_in_other_company(path, tmp_path):
    "Channels last, gradient accumulation, three views, callbacks in another order"
    dls = unlabelled(path)
    learn = Learner(dls, Siamese('resnet10_tiny'), loss_func=vicreg, cbs=[GradientAccumulation(16), Views(32, n=3)], path=tmp_path).to_channelslast()
    start = learn.model.encoder.conv1.weight.detach().clone()
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert not torch.equal(start, learn.model.encoder.conv1.weight) and len(learn.views.box) == 3
