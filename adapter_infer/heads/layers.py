"""Layers that the segmentation heads share: ConvModule, bilinear resizing, adaptive pooling that traces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.geometry import Shape


class ConvModule(nn.Module):
    """A convolution, a norm where `norm`, ReLU where `act`; mmcv's key names.

    The norm is GroupNorm where `groups` is given, otherwise BatchNorm. A convolution before a norm has no bias, unless
    `bias` says so.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        norm: bool,
        act: bool = True,
        groups: int | None = None,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm if bias is None else bias)
        self.bn = nn.BatchNorm2d(outputs) if norm and groups is None else None
        self.gn = nn.GroupNorm(groups, outputs) if norm and groups is not None else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for norm in (self.bn, self.gn):
            x = x if norm is None else norm(x)
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
    if bins == 1:  # a mean; TensorRT-RTX 1.7 cannot build the matrix of a single bin at a dynamic size
        return x.mean(dim=(2, 3), keepdim=True)
    rows = _pooling_matrix(x.shape[2], bins, x.device).to(x.dtype)
    columns = _pooling_matrix(x.shape[3], bins, x.device).to(x.dtype)
    return rows @ (x @ columns.t())
