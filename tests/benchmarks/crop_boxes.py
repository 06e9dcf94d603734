"""Boxes from feature maps, a batch at once against one picture after another as the official code does; by hand, on a quiet machine.

    python tests/benchmarks/crop_boxes.py [threads]

Interleaved, the minimum of seven each. Exits with 1 below five times as many pictures a second (issue 5)."""
import sys, time
import torch
from mssl.heatmaps import coarse_heatmap, coarse_heatmap_box

def one_by_one(features, size=56, threshold=.5):
    "The official loop: map, enlarge, rows and columns above the threshold, for each picture"
    boxes = []
    for h in features:
        s = h.sum(0)
        m = (s - s.min()) / (s - s.min()).max()
        m = torch.nn.functional.interpolate(m[None, None], size=(size, size), mode='bilinear')[0, 0]
        rows, cols = (m.amax(1) > threshold).nonzero(), (m.amax(0) > threshold).nonzero()
        boxes.append([rows[0].item() / size, cols[0].item() / size, (rows[-1].item() + 1 - rows[0].item()) / size, (cols[-1].item() + 1 - cols[0].item()) / size])
    return torch.tensor(boxes)

def together(features, size=56, threshold=.5): return coarse_heatmap_box(coarse_heatmap(features), size, threshold)

def main(threads=2):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    worst = float('inf')
    for channels, cells, size in ((512, 4, 32), (512, 7, 56), (512, 7, 224)):
        features, times = torch.rand(256, channels, cells, cells), dict(loop=[], batch=[])
        assert torch.allclose(one_by_one(features, size), together(features, size), atol=1e-6)
        for _ in range(7):
            for name, f in (('loop', one_by_one), ('batch', together)): t = time.perf_counter(); f(features, size); times[name].append(time.perf_counter() - t)
        loop, batch = (256 / min(times[k]) for k in ('loop', 'batch'))
        print(f'{channels} x {cells} x {cells} to {size} px: {loop:,.0f} pictures a second one by one, {batch:,.0f} together, {batch / loop:.1f} times')
        worst = min(worst, batch / loop)
    return 0 if worst >= 5 else 1

if __name__ == '__main__': sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
