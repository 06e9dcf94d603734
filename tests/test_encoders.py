"""An encoder comes back as it was, with what belongs in front of it, and plain timm can load it too."""
import json, subprocess, sys
import pytest, timm, torch
from safetensors.torch import load_file, save_file
from torch import nn
import mssl
from mssl import encoders
from mssl.encoders import FILTERS, PreparedEncoder, create_encoder, feature_dim, load_encoder, pool_features, save_encoder, weights_source
from mssl.siamese import Siamese
from mssl.teacher import BYOL

MEAN, STD = [.3, .4, .5], [.1, .2, .3]
VIT = dict(img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=2)

class Shift(nn.Module):
    "A filter with settings, as a later chapter has one"
    def __init__(self, by=0.): super().__init__(); self.settings = dict(by=by)
    def forward(self, x): return x + self.settings['by']

def trained(arch, **kwargs):
    "An encoder whose weights and statistics are not those of the start"
    encoder = create_encoder(arch, **kwargs)
    with torch.no_grad():
        for p in encoder.parameters(): p.add_(.02 * torch.randn_like(p))
        encoder.train()(torch.rand(8, kwargs.get('in_chans', 3), 32, 32))
    return encoder.eval()

@pytest.mark.parametrize('arch, kwargs', [('resnet10_tiny', {}), ('resnet18_small', {}), ('resnet18', {}), ('vit_tiny_patch16_224', VIT), ('resnet10_tiny', dict(in_chans=1))])
def test_an_encoder_comes_back(tmp_path, arch, kwargs):
    encoder = trained(arch, **kwargs)
    channels = kwargs.get('in_chans', 3)
    assert save_encoder(encoder, tmp_path / 'e', MEAN[:channels], STD[:channels], size=[32, 32], data='mine') == tmp_path / 'e'
    back = mssl.load_encoder(tmp_path / 'e')
    x = torch.randint(0, 256, (5, channels, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(o[:channels]).view(-1, 1, 1) for o in (MEAN, STD))
    expected = pool_features(encoder((x / 255. - mean) / std))
    assert not back.training and (back(x) - expected).abs().max() < 1e-4 and (back(x / 255.) - expected).abs().max() < 1e-4
    assert expected.std(0).mean() > 1e-3, 'the comparison is not one of zeros'
    assert back.info['data'] == 'mine' and back.info['arch'] == arch and back.info['size'] == [32, 32] and feature_dim(back.encoder) == expected.shape[1]
    with pytest.raises(ValueError, match=f'{channels} channels are needed'): back(torch.rand(2, 4, 32, 32))

def test_plain_timm_loads_it_in_a_fresh_process(tmp_path):
    for arch, kwargs, line in (('resnet10_tiny', {}, 'import mssl.encoders'), ('vit_tiny_patch16_224', VIT, 'pass'), ('resnet18', {}, 'pass')):
        encoder = trained(arch, **kwargs)
        save_encoder(encoder, tmp_path / arch, MEAN, STD)
        torch.save((x := torch.rand(3, 3, 32, 32), encoder(x)), tmp_path / arch / 'expected.pth')
    code = f"""
import json, sys, timm, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for arch in ('vit_tiny_patch16_224', 'resnet18', 'resnet10_tiny'):
    folder = {str(tmp_path)!r} + '/' + arch
    if arch == 'resnet10_tiny':
        assert not timm.is_model(arch) and 'mssl' not in sys.modules
        import mssl.encoders
    bare = timm.create_model(arch, num_classes=0, **json.load(open(folder + '/encoder.json'))['kwargs'])
    bare.load_state_dict(load_file(folder + '/encoder.safetensors'))
    x, expected = torch.load(folder + '/expected.pth', weights_only=True)
    assert (bare.eval()(x) - expected).abs().max() < 1e-4, arch
"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

@pytest.mark.parametrize('name, width', [('resnet10_tiny', 256), ('resnet18_small', 512), ('resnet34_small', 512), ('resnet50_small', 2048)])
def test_small_stems_are_timm_models(name, width):
    encoder = create_encoder(name)
    assert timm.is_model(name) and type(timm.create_model(name)) is type(encoder) and feature_dim(encoder) == width
    assert encoder.conv1.kernel_size == (3, 3) and isinstance(encoder.maxpool, nn.Identity)
    stride = 2 if name == 'resnet10_tiny' else 1
    maps = [o.shape[-1] for o in encoder.eval().forward_intermediates(torch.rand(1, 3, 32, 32), intermediates_only=True)]
    assert maps == [32 // stride // r for r in (1, 1, 2, 4, 8)] == [32 // o['reduction'] for o in encoder.feature_info]
    with pytest.raises(ValueError, match='no published weights'): create_encoder(name, pretrained=True)

def test_a_small_stem_keeps_a_small_picture():
    x, plain, small = torch.rand(1, 3, 32, 32), timm.create_model('resnet18', num_classes=0).eval(), create_encoder('resnet18_small').eval()
    assert plain.forward_features(x).shape[-1] == 1 and small.forward_features(x).shape[-1] == 4
    assert plain.layer1.state_dict().keys() == small.layer1.state_dict().keys()

def test_an_unknown_name_comes_with_its_near_misses():
    with pytest.raises(ValueError, match="arch='resnet18_smal' is not known; did you mean 'resnet18_small'") as e: create_encoder('resnet18_smal')
    assert len(str(e.value)) < 1500

def test_a_module_is_taken_as_it_is(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 7, 3, 2), nn.BatchNorm2d(7))
    assert create_encoder(module) is module and feature_dim(module) == 7 and module.training and module[1].running_mean.abs().max() == 0
    assert feature_dim(nn.Sequential(nn.Conv2d(1, 5, 4, 4), nn.Flatten(2)), channels=1) > 0
    with pytest.raises(ValueError, match='img_size: arguments are for timm names'): create_encoder(module, img_size=32)
    save_encoder(module, tmp_path, MEAN, STD)
    with pytest.raises(ValueError, match='pass the bare module'): load_encoder(tmp_path)
    back = load_encoder(tmp_path, nn.Sequential(nn.Conv2d(3, 7, 3, 2), nn.BatchNorm2d(7)))
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(back(x), pool_features(module.eval()((x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))), atol=1e-5)

def test_features_are_pooled_to_one_vector():
    x = torch.rand(2, 5, 3, 4)
    assert torch.allclose(pool_features(x), x.flatten(2).mean(2)) and torch.equal(pool_features(x[..., 0]), x[..., 0].mean(1)) and pool_features(x[..., 0, 0]).shape == (2, 5)

def test_what_stood_in_front_leaves_with_it(tmp_path, monkeypatch):
    monkeypatch.setitem(FILTERS, 'shift', Shift)
    encoder, x = trained('resnet10_tiny'), torch.rand(4, 3, 32, 32)
    save_encoder(encoder, tmp_path / 'e', MEAN, STD, filter=Shift(.7))
    back = load_encoder(tmp_path / 'e')
    assert isinstance(back.filter, Shift) and json.loads((tmp_path / 'e' / 'encoder.json').read_text())['filter'] == dict(name='shift', by=.7)
    expected = encoder((x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1) + .7)
    assert (back(x) - expected).abs().max() < 1e-4 and (back(x) - PreparedEncoder(encoder, MEAN, STD).eval()(x)).abs().max() > 1e-3
    monkeypatch.delitem(FILTERS, 'shift')
    with pytest.raises(ValueError, match="filter='shift' is not known"): load_encoder(tmp_path / 'e')
    with pytest.raises(ValueError, match='filter=Shift: it must be registered'): save_encoder(encoder, tmp_path / 'f', MEAN, STD, filter=Shift())

def test_a_stopped_save_leaves_the_old_encoder_whole(tmp_path, monkeypatch):
    encoder = trained('resnet10_tiny')
    save_encoder(encoder, tmp_path, MEAN, STD, run=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def full(state, path):
        path.write_bytes(b'half')
        raise OSError('No space left on device')
    monkeypatch.setattr(encoders, 'save_file', full)
    with pytest.raises(OSError, match='No space'): save_encoder(trained('resnet10_tiny'), tmp_path, MEAN, STD, run=2)
    assert {k: v for k, v in before.items()} == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != '.part'}
    monkeypatch.undo()
    with pytest.raises(TypeError): save_encoder(encoder, tmp_path, MEAN, STD, run=object())
    assert load_encoder(tmp_path).info['run'] == 1

def test_no_such_encoder(tmp_path):
    with pytest.raises(ValueError, match='no encoder.json in such a folder'): load_encoder(tmp_path)
    with pytest.raises(ValueError, match="path_or_name='nothing'"): load_encoder('nothing')

def test_weights_are_stored_as_they_are(tmp_path):
    encoder = trained('resnet10_tiny').to(memory_format=torch.channels_last)
    save_encoder(encoder, tmp_path, MEAN, STD)
    stored = load_file(tmp_path / 'encoder.safetensors')
    assert stored.keys() == encoder.state_dict().keys() and all(torch.equal(stored[k], v) for k, v in encoder.state_dict().items())

# weights to start from

def same_weights(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())

def test_training_starts_from_a_stored_encoder(tmp_path):
    encoder = trained('resnet10_tiny', channels=(8, 16, 24, 32), stem_width=8)
    save_encoder(encoder, tmp_path / 'e', MEAN, STD)
    arch, kwargs = weights_source(tmp_path / 'e')
    assert (arch, kwargs) == ('resnet10_tiny', dict(channels=[8, 16, 24, 32], stem_width=8))
    again = create_encoder(arch, weights=tmp_path / 'e', **kwargs)
    assert same_weights(again, encoder) and again.mssl_source == dict(arch=arch, kwargs=kwargs), 'where it came from is not needed to make it again'
    for model in (Siamese(arch, weights=tmp_path / 'e', **kwargs), BYOL(arch, weights=str(tmp_path / 'e'), **kwargs)): assert same_weights(model.encoder, encoder)
    assert same_weights(BYOL(arch, weights=tmp_path / 'e', **kwargs).teacher.net.encoder, encoder), 'the teacher starts there too'
    assert same_weights(create_encoder('resnet10_tiny', weights='scenes_convnet', **weights_source('scenes_convnet')[1]), load_encoder('scenes_convnet').encoder)
    assert weights_source(None) == weights_source('timm') == weights_source('nobody') == (None, {})

@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(state_dict={f'module.{k}': v for k, v in s.items()}, epoch=3), lambda s: dict(model={f'encoder.{k}': v for k, v in s.items()} | {'projector.0.weight': torch.rand(3, 3)}),
                                  lambda s: {f'student.encoder.{k}': v for k, v in s.items()} | {f'teacher.net.encoder.{k}': 0 * v for k, v in s.items()}])
def test_training_starts_from_a_checkpoint_file(tmp_path, wrap):
    whole = timm.create_model('resnet18', num_classes=7)
    torch.save(wrap(whole.state_dict()), tmp_path / 'c.pth')
    mine = create_encoder('resnet18', weights=tmp_path / 'c.pth')
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in mine.state_dict().items()), 'the classifier stays behind'

def test_safetensors_and_positions_of_another_grid(tmp_path):
    whole = timm.create_model('vit_tiny_patch16_224', num_classes=7, **VIT)
    save_file(whole.state_dict(), tmp_path / 'w.safetensors')
    assert torch.equal(create_encoder('vit_tiny_patch16_224', weights=tmp_path / 'w.safetensors', **VIT).pos_embed, whole.pos_embed)
    wide = create_encoder('vit_tiny_patch16_224', weights=tmp_path / 'w.safetensors', **{**VIT, 'img_size': (32, 64)}).pos_embed
    assert wide.shape == (1, 1 + 4 * 8, 48) and torch.equal(wide[:, 0], whole.pos_embed[:, 0])
    assert torch.allclose(wide[:, 1:].mean(1), whole.pos_embed[:, 1:].mean(1), atol=.01)

@pytest.mark.parametrize('arch, kwargs, words', [
    ('resnet18_small', {}, r'1 have another shape: conv1.weight \(64 x 3 x 7 x 7, here 64 x 3 x 3 x 3\)\. The stems differ .*a small stem is another network'),
    ('resnet18', dict(in_chans=1), r'made for pictures of 3 channels, here in_chans=1'), ('resnet34', {}, r'of \d+ tensors are missing: layer1\.2'),
    ('vit_tiny_patch16_224', VIT, 'tensors are missing: cls_token')])
def test_weights_that_do_not_fit_are_refused(tmp_path, arch, kwargs, words):
    torch.save(timm.create_model('resnet18').state_dict(), tmp_path / 'c.pth')
    with pytest.raises(ValueError, match=f'they do not fit {arch}; .*{words}'): create_encoder(arch, weights=tmp_path / 'c.pth', **kwargs)

def test_weights_that_are_not_there(tmp_path, monkeypatch):
    (tmp_path / 'text.pth').write_text('no tensors')
    with pytest.raises(ValueError, match='not readable as a checkpoint'): create_encoder('resnet18', weights=tmp_path / 'text.pth')
    with pytest.raises(ValueError, match="weights='nobody': 'timm', a checkpoint file, or a stored encoder is needed .*scenes_convnet"): create_encoder('resnet18', weights='nobody')
    def offline(*args, **kwargs): raise OSError('no network')
    monkeypatch.setattr('timm.models._builder.load_pretrained', offline)
    for given in (dict(pretrained=True), dict(weights='timm')):
        with pytest.raises(ValueError, match="timm's weights for 'resnet18' could not be had .OSError: no network"): create_encoder('resnet18', **given)
    with pytest.raises(ValueError, match='no published weights'): Siamese('resnet18_small', weights='timm')

def test_published_weights_arrive(monkeypatch):
    "timm's own way of loading them, with a file of ours at the end of it"
    whole = timm.create_model('resnet18')
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', lambda *args, **kwargs: {k: v.clone() for k, v in whole.state_dict().items()})
    for model in (create_encoder('resnet18', weights='timm'), Siamese('resnet18', pretrained=True).encoder):
        assert all(torch.equal(v, whole.state_dict()[k]) for k, v in model.state_dict().items()) and model.mssl_source == dict(arch='resnet18', kwargs={})
