"""Layers that the segmentation heads share: ConvModule, bilinear resizing, adaptive pooling that traces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.geometry import Shape


class ConvModule(nn.Module):
    """A convolution, BatchNorm where `norm` (the convolution then has no bias), ReLU where `act`; mmcv's key names."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: bool, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x)
        return F.relu(x) if self.act else x


def resize(x: Tensor, shape: Shape | Sequence[int], align_corners: bool) -> Tensor:
    """A (N, C, H, W) map resized bilinearly to `shape` = (height, width)."""
    return F.interpolate(x, size=tuple(shape), mode="bilinear", align_corners=align_corners)


def _pooling_matrix(size: int, bins: int, device: torch.device) -> Tensor:
    """(bins, size): row i averages cells floor(i*size/bins) to ceil((i+1)*size/bins), as adaptive pooling does."""
    i = torch.arange(bins, device=device)[:, None]
    cell = torch.arange(size, device=device)[None, :]
    first, end = (i * size) // bins, ((i + 1) * size + bins - 1) // bins
    inside = ((cell >= first) & (cell < end)).to(torch.float32)
    return inside / (end - first).to(torch.float32)


def adaptive_average_pool(x: Tensor, bins: int) -> Tensor:
    """AdaptiveAvgPool2d(bins) as two matrix products: exact, and no size is baked into a traced graph.

    (N, C, H, W) -> (N, C, bins, bins), also where H or W is not a multiple of `bins`, or smaller.
    """
    rows = _pooling_matrix(x.shape[2], bins, x.device).to(x.dtype)
    columns = _pooling_matrix(x.shape[3], bins, x.device).to(x.dtype)
    return rows @ (x @ columns.t())
