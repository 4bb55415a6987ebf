"""Boxes (x1, y1, x2, y2) in pixels of the network's input: anchors, coding, clipping, overlap.

All of it is plain arithmetic over fixed sizes, so that it traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from adapter_infer.geometry import Shape

MAX_LOG_SCALE = abs(math.log(16 / 1000))  # a decoded box is at most 62.5 times larger or smaller than its anchor


def anchor_boxes(
    shape: Shape, stride: int, scales: Sequence[float], ratios: Sequence[float], device: torch.device
) -> Tensor:
    """Anchors of one map, (H*W*A, 4) float32, A = len(ratios) * len(scales): row by row, all A of a cell together.

    Cell (row, column) is centred at (column*stride, row*stride), its corner and not its middle. An anchor of scale s
    and ratio r (height over width) covers (s*stride)^2 pixels.
    """
    h, w = shape
    halves = []
    for ratio in ratios:
        for scale in scales:
            half = 0.5 * scale * stride
            halves.append((half / math.sqrt(ratio), half * math.sqrt(ratio)))
    corners = [(-x, -y, x, y) for x, y in halves]
    base = torch.tensor([value for corner in corners for value in corner], dtype=torch.float32, device=device)
    y = torch.arange(h, dtype=torch.float32, device=device) * stride
    x = torch.arange(w, dtype=torch.float32, device=device) * stride
    grid_y, grid_x = y[:, None].expand(h, w), x[None, :].expand(h, w)
    centres = torch.stack((grid_x, grid_y, grid_x, grid_y), -1)
    return (centres.reshape(h * w, 1, 4) + base.reshape(1, len(corners), 4)).reshape(-1, 4)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Boxes (..., 4) moved and scaled by predicted deltas (..., 4) in units of `stds` -> (..., 4) float32.

    The centre moves by a share of the size, the logarithm of the size grows by at most MAX_LOG_SCALE. Inputs broadcast.
    """
    deltas = deltas.float() * torch.tensor(list(stds), dtype=torch.float32, device=deltas.device)
    shift, log_scale = deltas[..., :2], deltas[..., 2:].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)
    centre, size = (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
    centre, half = centre + size * shift, size * log_scale.exp() * 0.5
    return torch.cat((centre - half, centre + half), -1)


def corners(image_size: Tensor) -> Tensor:
    """image_size (N, 2) int64, height first -> (N, 1, 4) float32: width, height, width, height."""
    return image_size.flip(-1).repeat(1, 2).to(torch.float32)[:, None]


def clip(boxes: Tensor, image_size: Tensor) -> Tensor:
    """Boxes (N, B, 4) cut off at the border of their picture; image_size (N, 2) is its size without padding."""
    return torch.minimum(boxes.clamp(min=0.0), corners(image_size))


def larger_than(boxes: Tensor, size: float) -> Tensor:
    """(..., 4) -> (...) bool: both sides are longer than `size` pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) > size).all(-1)


def overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of one box (4,) with boxes (B, 4) -> (B,); NaN where both are empty."""
    shared = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    shared_area = shared.clamp(min=0.0).prod(-1)
    area, areas = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return shared_area / (area + areas - shared_area)


def take_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """Boxes (N, B, 4) at index (N, K) -> (N, K, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))
