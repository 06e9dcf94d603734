"""Loaded back, and equal to 1e-4: timm, fastai's two learners, torchvision, ONNX, an exported Learner."""
import importlib.util
import pytest, timm, torch
import torchvision
from fastai.vision.all import DataLoaders as Loaders, Learner, TfmdDL, load_learner, unet_learner, vision_learner
from torch import nn
from mssl.data import image_dls
from mssl.edges import HighPass
from mssl.encoders import PreparedEncoder, create_encoder, load_encoder, save_encoder
from mssl.evaluation import feature_map
from mssl.gauges import KNNGauge, SpreadGauge
from mssl.recipes import recipe_learner
from mssl.siamese import siamese_learner
from mssl.takeaway import MapBody, as_arch, body_parts, export_onnx, timm_model, to_torchvision

MEAN, STD = [.3, .4, .5], [.1, .2, .3]

def trained(arch, filter=None, **kwargs):
    encoder = create_encoder(arch, **kwargs)
    with torch.no_grad():
        for p in encoder.parameters(): p.add_(.02 * torch.randn_like(p))
        norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
        for m in norms: m.momentum = 1. # statistics of this batch: activations stay in a range where 1e-4 means something
        encoder.train()(torch.rand(8, kwargs.get('in_chans', 3), 32, 32))
        for m in norms: m.momentum = .1
    return PreparedEncoder(encoder, MEAN, STD, filter, dict(size=[32, 32])).eval()

def saved(path, e): return save_encoder(e.encoder, path, MEAN, STD, filter=None if isinstance(e.filter, nn.Identity) else e.filter, size=[32, 32])

class Rows(list):
    "A data set that an exported Learner can leave behind"
    def new_empty(self): return Rows()

def loaders(mask=False):
    "Float pictures in [0,1] as fastai's transforms leave them, a class or a mask for each"
    rows = Rows((torch.rand(3, 32, 32), torch.randint(0, 2, (32, 32)) if mask else torch.tensor(i % 3)) for i in range(8))
    dls = Loaders(*(TfmdDL(rows, bs=4, num_workers=0) for _ in range(2)), device=torch.device('cpu'))
    dls.c = 3
    return dls

NETS = [('resnet10_tiny', {}), ('resnet18_small', {}), ('resnet50', {}), ('convnext_atto', {}), ('vit_tiny_small', {}), ('efficientnet_lite0', {})]

@pytest.mark.parametrize('arch, kwargs', [NETS[0], NETS[3], NETS[4]])
def test_timm(tmp_path, arch, kwargs):
    mine, x = trained(arch, **kwargs), torch.rand(3, 3, 32, 32)
    model = timm_model(saved(tmp_path, mine)).eval()
    with torch.no_grad(): assert (model(mine.prepare(x)) - mine(x)).abs().max() < 1e-4
    five = timm_model(mine, num_classes=5).eval()
    assert five(x).shape == (3, 5) and all(torch.equal(v, five.state_dict()[k]) for k, v in mine.encoder.state_dict().items())
    with pytest.raises(ValueError, match='do not fit'): timm_model(mine, num_classes=5, **({'depth': 5} if 'vit' in arch else {'channels': (32, 64, 128, 320)} if 'resnet' in arch else {'depths': (2, 2, 6, 3)}))

@pytest.mark.parametrize('arch, kwargs', NETS)
def test_vision_learner_starts_from_it(tmp_path, arch, kwargs):
    mine, dls = trained(arch, HighPass.for_size(32), **kwargs), loaders()
    learn = vision_learner(dls, as_arch(saved(tmp_path, mine)), n_out=3, loss_func=nn.CrossEntropyLoss())
    x, body = torch.rand(3, 3, 32, 32), learn.model[0].eval()
    with torch.no_grad():
        assert (body(x) - feature_map(mine, x)).abs().max() < 1e-4, 'normalised and filtered inside'
        if arch != 'efficientnet_lite0' and 'convnext' not in arch: assert (body(x).mean((2, 3)) - mine(x)).abs().max() < 1e-4, 'their mean over places is the feature'
    assert not any(p.requires_grad for m in body.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()), 'frozen, as vision_learner does'
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    learn.export(tmp_path / 'l.pkl')
    back = load_learner(tmp_path / 'l.pkl')
    weights = sum(o.numel() * o.element_size() for o in learn.model.state_dict().values())
    assert (tmp_path / 'l.pkl').stat().st_size < 1.05 * weights + 200_000, 'the weights once'
    with torch.no_grad(): assert (back.model.eval()(x) - learn.model.eval()(x)).abs().max() < 1e-4

@pytest.mark.parametrize('arch', ['resnet10_tiny', 'convnext_atto', 'vit_tiny_small'])
def test_unet_learner_starts_from_it(tmp_path, arch):
    mine = trained(arch, HighPass.for_size(32))
    learn = unet_learner(loaders(mask=True), as_arch(saved(tmp_path, mine)), n_out=2, loss_func=nn.CrossEntropyLoss())
    x, body = torch.rand(3, 3, 32, 32), learn.model[0].eval()
    with torch.no_grad(): assert (body(x) - feature_map(mine, x)).abs().max() < 1e-4
    first = [p.detach().clone() for p in learn.model[0].parameters()]
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    with torch.no_grad(): assert learn.model.eval()(x).shape == (3, 2, 32, 32)
    assert any(not torch.equal(a, b) for a, b in zip(first, learn.model[0].parameters()))

def test_a_chain_where_there_is_one():
    assert len(body_parts(create_encoder('resnet10_tiny'))) == 8 and len(body_parts(create_encoder('convnext_atto'))) >= 5
    (only,) = body_parts(create_encoder('vit_tiny_small'))
    assert isinstance(only, MapBody) and only(torch.rand(2, 3, 50, 60)).shape == (2, 96, 8, 8), 'another size is brought to its own'

def test_scratch_from_the_same_function(tmp_path):
    mine = trained('resnet10_tiny')
    a, b = (as_arch(mine)(pretrained=o) for o in (True, False))
    assert torch.equal(a[1].weight, mine.encoder.conv1.weight) and not torch.equal(b[1].weight, mine.encoder.conv1.weight) and torch.equal(a[0].mean, b[0].mean)
    with pytest.raises(ValueError, match='no timm model'): as_arch(PreparedEncoder(nn.Conv2d(3, 4, 3), MEAN, STD))(pretrained=False)

@pytest.mark.parametrize('arch', ['resnet18', 'resnet50', 'resnet18_small', 'wide_resnet50_2', 'resnext50_32x4d'])
def test_torchvision(tmp_path, arch):
    mine, x = trained(arch), torch.rand(2, 3, 64, 64)
    if 'wide' in arch or 'next' in arch:
        with pytest.raises(ValueError, match='other layers or widths'): to_torchvision(mine)
        return
    theirs = to_torchvision(saved(tmp_path, mine))
    assert type(theirs) is torchvision.models.ResNet
    with torch.no_grad(): assert (theirs(mine.prepare(x)) - mine(x)).abs().max() < 1e-4
    if arch in ('resnet18', 'resnet50'):
        plain = getattr(torchvision.models, arch)()
        assert plain.load_state_dict(theirs.state_dict(), strict=False).missing_keys == ['fc.weight', 'fc.bias']

@pytest.mark.parametrize('arch, words', [('vit_tiny_small', 'a timm ResNet is needed'), ('resnet10_tiny', 'other layers or widths'), ('resnet26d', 'other layers or widths|something else')])
def test_what_torchvision_does_not_have(arch, words):
    with pytest.raises(ValueError, match=words): to_torchvision(PreparedEncoder(create_encoder(arch), MEAN, STD))

def test_onnx_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='pip install onnx onnxscript'): export_onnx('scenes_convnet', tmp_path / 'm.onnx')

@pytest.mark.parametrize('name', ['scenes_convnet', 'scenes_high_pass', 'scenes_vit'])
def test_onnx(tmp_path, name):
    for o in ('onnx', 'onnxscript', 'onnxruntime'): pytest.importorskip(o, reason=f'{o} is not installed')
    import onnxruntime
    mine, path = load_encoder(name), export_onnx(name, tmp_path / 'm.onnx')
    assert [o.name for o in tmp_path.iterdir()] == ['m.onnx']
    for n in (1, 5):
        x = torch.rand(n, 3, *mine.info['size'])
        with torch.no_grad(): assert abs(torch.from_numpy(onnxruntime.InferenceSession(str(path)).run(None, {'pictures': x.numpy()})[0]) - mine(x)).max() < 1e-4

def sizes(learn, path):
    learn.export(path)
    return path.stat().st_size, sum(o.numel() * o.element_size() for o in {o.data_ptr(): o for o in learn.model.state_dict().values()}.values())

@pytest.mark.parametrize('method', ['info_nce', 'byol'])
def test_export_is_small_and_comes_back(tmp_path, method):
    "No picture, no optimizer state; a teacher stays in the model and is counted there"
    dls = image_dls('scenes', size=32, n=400, bs=50, device='cpu')
    learn = recipe_learner(method, dls, 'resnet10_tiny', size=32, cbs=[SpreadGauge(), KNNGauge()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    file, weights = sizes(learn, tmp_path / 'l.pkl')
    assert file < 1.1 * weights + 200_000 and dls.train_ds.image.numel() > 1_000_000, f'{file:,} bytes, weights {weights:,}'
    back, x = load_learner(tmp_path / 'l.pkl'), torch.rand(4, 3, 32, 32)
    with torch.no_grad(): assert (back.model.eval().encoder(x) - learn.model.eval().encoder(x)).abs().max() < 1e-4
    assert back.opt is None and len(back.dls.train_ds) == 0 and back.views.mean == learn.views.mean and back.views.image is None
    with learn.no_bar(), learn.no_logging(): learn.fit(1) # the Learner that was exported goes on
    back.save_encoder(tmp_path / 'e')
    assert (load_encoder(tmp_path / 'e')(x) - PreparedEncoder(back.model.encoder, back.views.mean, back.views.std).eval()(x)).abs().max() < 1e-4
