"""RoIAlign: the features under a box as a fixed grid, from one map or from the map that suits the box's size.

He et al., Mask R-CNN, 2017. The operator equals mmcv's RoIAlign(aligned=True, average) and ONNX's RoiAlign of operator
set 16 with half_pixel coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FINEST_SCALE = 56  # boxes of less than twice this size (pixels) take the finest map


def _axis_weights(start: Tensor, length: Tensor, bins: int, cells: int, sampling_ratio: int) -> Tensor:
    """What each cell of one axis adds to each bin, (R, bins, cells) float32; start and length (R,) in cells.

    A bin averages evenly spaced samples, each linear between two cells; samples more than a cell outside add nothing.
    """
    per_bin = length / bins
    samples = torch.full_like(length, sampling_ratio) if sampling_ratio else per_bin.ceil()
    i = torch.arange(max(1, int(samples.max())), device=start.device)
    first = start[:, None] + torch.arange(bins, device=start.device) * per_bin[:, None]
    within = (i + 0.5) * per_bin[:, None] / samples.clamp(min=1)[:, None]
    position = first[:, :, None] + within[:, None, :]  # (R, bins, samples)
    counts = (i < samples[:, None])[:, None] & (position >= -1) & (position <= cells)
    position = position.clamp(min=0)
    low = position.long().clamp(0, cells - 1)
    high = (low + 1).clamp(max=cells - 1)
    share = torch.where(counts, 1 / samples.clamp(min=1)[:, None, None], 0.0)
    upper = torch.where(counts & (low < cells - 1), position - low, 0.0)
    weights = torch.zeros((len(start), bins, cells), device=start.device)
    return weights.scatter_add_(2, low, share * (1 - upper)).scatter_add_(2, high, share * upper)


def _extent(weights: Tensor) -> list[tuple[int, int]]:
    """First and one past the last cell that each row of (R, bins, cells) uses."""
    used = (weights != 0).any(1)
    cells = torch.arange(1, used.shape[1] + 1, device=used.device)
    last = torch.where(used, cells, 0).amax(1)
    first = torch.where(used, cells, used.shape[1] + 1).amin(1) - 1
    return list(zip(first.tolist(), last.tolist(), strict=True))


@torch.library.custom_op("adapter_infer::roi_align", mutates_args=())
def roi_align(
    feature_map: Tensor, boxes: Tensor, batch_index: Tensor, output_size: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """feature_map (N, C, H, W), boxes (R, 4) float32 in pixels, batch_index (R,) -> (R, C, P, P), P = output_size.

    Pixel x lies at cell x * spatial_scale - 0.5. sampling_ratio samples per bin and axis; 0 takes one per cell the bin
    covers, rounded up. Reference arithmetic in float32.
    """
    c, h, w = feature_map.shape[1:]
    output = feature_map.new_zeros((len(boxes), c, output_size, output_size))
    if not len(boxes):
        return output
    edges = boxes.float() * spatial_scale - 0.5
    x1, y1, x2, y2 = edges.unbind(1)
    rows = _axis_weights(y1, y2 - y1, output_size, h, sampling_ratio)
    columns = _axis_weights(x1, x2 - x1, output_size, w, sampling_ratio)
    places = zip(batch_index.tolist(), _extent(rows), _extent(columns), strict=True)
    for r, (n, (top, bottom), (left, right)) in enumerate(places):
        if bottom and right:
            cells = feature_map[n, :, top:bottom, left:right].float()
            output[r] = rows[r, :, top:bottom] @ cells @ columns[r, :, left:right].t()
    return output


@roi_align.register_fake
def _(
    feature_map: Tensor, boxes: Tensor, batch_index: Tensor, output_size: int, spatial_scale: float, sampling_ratio: int
) -> Tensor:
    return feature_map.new_empty((boxes.shape[0], feature_map.shape[1], output_size, output_size))


def map_of_box(boxes: Tensor, maps: int, finest_scale: int = FINEST_SCALE) -> Tensor:
    """Which of `maps` maps suits a box: (..., 4) -> (...) int64; each doubling of its size goes one map coarser."""
    size = (boxes[..., 2:] - boxes[..., :2]).prod(-1).sqrt()
    return (size / finest_scale + 1e-6).log2().floor().clamp(0, maps - 1).long()


class RoIExtractor(nn.Module):
    """RoIAlign on the map that suits each box; without parameters. `strides` are those of the first maps given."""

    def __init__(
        self, output_size: int, sampling_ratio: int, strides: Sequence[int], finest_scale: int = FINEST_SCALE
    ) -> None:
        super().__init__()
        self.output_size, self.sampling_ratio = output_size, sampling_ratio
        self.strides, self.finest_scale = list(strides), finest_scale

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """maps (N, C, H/s, W/s), boxes (N, K, 4) in pixels -> (N*K, C, P, P), P = output_size."""
        n, k, _ = boxes.shape
        batch_index = torch.arange(n, device=boxes.device)[:, None].expand(n, k).reshape(-1)
        flat = boxes.reshape(n * k, 4)
        if len(self.strides) == 1:
            return roi_align(maps[0], flat, batch_index, self.output_size, 1 / self.strides[0], self.sampling_ratio)
        suits = map_of_box(flat, len(self.strides), self.finest_scale)[:, None]
        output = None
        for level, stride in enumerate(self.strides):
            # All boxes visit every map, so that sizes stay fixed; the strangers shrink to nothing and cost little.
            own = suits == level
            size, ratio = self.output_size, self.sampling_ratio
            found = roi_align(maps[level], torch.where(own, flat, 0.0), batch_index, size, 1 / stride, ratio)
            output = found if output is None else torch.where(own[..., None, None], found, output)
        assert output is not None
        return output
