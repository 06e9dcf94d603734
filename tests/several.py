"A script as somebody would write it for one process or several; test_distributed.py starts it:  several.py FOLDER HOW RECIPES..."
import contextlib, sys, warnings
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.optimizer import SGD
from mssl.contrastive_crop import ContrastiveCrop
from mssl.data import Pictures, ResidentLoader
from mssl.distributed import join_processes, together
from mssl.mae import HidePatches, patch_mask
from mssl.processes import process_rank, sync_batchnorm
from mssl.recipes import recipe_learner
from mssl.scenes import scenes
from mssl.views import Augment
import mssl.all

N, BS, SIZE = 96, 32, 16

def pictures(order=None, bs=BS):
    drawn = scenes(N + BS, SIZE)
    part = lambda a, b: Pictures(drawn.image[a:b], drawn.label[a:b], drawn.classes, None, drawn.box[a:b])
    dls = DataLoaders(ResidentLoader(part(0, N), bs, shuffle=True, drop_last=True), ResidentLoader(part(N, N + BS), bs), device=torch.device('cpu'))
    dls.train.rng.seed(0)
    if order: dls.train.get_idxs = lambda: list(order)
    return dls

class Known(Callback):
    "Crops that the number of a picture decides, not chance; what was trained on is written down"
    order = 8 # after Views (5) and ContrastiveCrop (7)
    def __init__(self, fixed=True):
        g = torch.Generator().manual_seed(3)
        near, far = torch.rand(2, N, 2, generator=g) * .4, 1 - torch.rand(2, N, 2, generator=g) * .4
        self.boxes, self.calls, self.ids, self.losses, self.fixed = torch.cat([near, far - near], 2), 0, [], [], fixed
    def before_fit(self):
        if self.fixed: self.learn.views.box_source = self.source
    def source(self, index):
        self.calls += 1
        return self.boxes[self.calls % self.learn.views.n, index % N]
    def before_batch(self):
        v = self.learn.views
        assert torch.equal(v.image, self.dls.train_ds.image[v.index] if self.training else self.dls.valid_ds.image[v.index]), 'an index names its own picture'
        if self.training: self.ids.append(v.index.tolist())
        if not self.fixed and self.training and self.epoch: self._check_crops(v)
        self.learn.xb = tuple(o.double() if o.is_floating_point() else o for o in self.xb)
    def _check_crops(self, v):
        table = self.learn.contrastive_crop.table.box[v.index].float()
        assert torch.allclose(table, self.dls.train_ds.box[v.index].float(), atol=1e-6), 'every process has the boxes of its pictures'
        for crop in v.box:
            low, high = ((o - crop[:, 2:] / 2).clamp_min(0).minimum(1 - crop[:, 2:]) for o in (table[:, :2], table[:, :2] + table[:, 2:]))
            assert (crop[:, :2] >= low - 1e-4).all() and (crop[:, :2] <= high + 1e-4).all(), 'a crop lies where its own picture has its box'
    def after_loss(self):
        if self.training: self.losses.append(self.loss_grad.item())
        self.learn.loss = self.loss.float() # for the table

def train(what, how, order=None):
    "One recipe, two epochs -> what must be the same"
    name, _, kind = what.partition(':')
    torch.manual_seed(0)
    one = Augment(flip=0., jitter_p=0., grey=0.)
    crops = [ContrastiveCrop(kind or 'model', threshold=.5, layer='layer3', check=False)] if name == 'contrastive_crop' else []
    cbs = [*crops, known := Known(kind != 'truth')]
    if name in ('mae', 'siamese_im'):
        masks = patch_mask(N, SIZE // 4, .5, generator=torch.Generator().manual_seed(4))
        cbs.append(HidePatches(masks=lambda views, grid: masks[views.index % N]))
        kwargs = dict(model_kwargs=dict(patch_size=4))
    else: kwargs = {}
    bs = BS // 2 if how == 'fastai' else BS
    learn = recipe_learner(name, pictures(order, bs), size=SIZE, augment=one, cbs=cbs, opt_func=SGD, **kwargs)
    learn.model.double() # rounding grows with every step
    if crops: learn.model.encoder.conv1.register_forward_pre_hook(lambda module, x: (x[0].double(),)) # boxes are looked for outside of the batch
    if how == 'fastai':
        from fastai.distributed import DistributedDL
        def broadcast(self, t, rank): # fastai's own goes through CUDA
            t = torch.tensor(t)
            torch.distributed.broadcast(t, rank)
            return t.tolist()
        DistributedDL._broadcast = broadcast
        learn.model = sync_batchnorm(learn.model)
        start = learn.distrib_ctx(sync_bn=False)
    else: start = together(learn) if how == 'together' else contextlib.nullcontext()
    with start, learn.no_bar(), learn.no_logging(): learn.fit(2, .05)
    return dict(state=learn.model.state_dict(), ids=known.ids, losses=known.losses, values=[list(map(float, o)) for o in learn.recorder.values])

if __name__ == '__main__':
    folder, how, *names = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    join_processes('cpu')
    for name in names: torch.save(train(name, how), f'{folder}/{name}.{process_rank()}')
