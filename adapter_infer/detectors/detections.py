"""What a detector returns: a fixed number of slots per picture, of which the first `count` hold detections."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NO_LABEL = -1


class Detections(NamedTuple):
    """N pictures, K slots each, best score first; slots from `count` on hold zeros and the label -1.

    boxes (N, K, 4) float32 in pixels of the network's input, scores (N, K) float32, labels (N, K) int64, count (N,)
    int64, masks (N, K, 28, 28) float32 probabilities over each box, None where the detector has none.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    masks: Tensor | None = None


def in_use(count: Tensor, slots: int) -> Tensor:
    """count (...) -> (..., slots) bool: the first `count` are True."""
    return torch.arange(slots, device=count.device) < count[..., None]


def fill_slots(boxes: Tensor, scores: Tensor, labels: Tensor, count: Tensor, slots: int) -> Detections:
    """Boxes (N, B, 4), scores and labels (N, B), B <= slots, of which `count` hold -> Detections with `slots` slots."""
    valid = in_use(count, scores.shape[1])
    boxes = torch.where(valid[..., None], boxes, 0.0)
    scores, labels = torch.where(valid, scores, 0.0), torch.where(valid, labels, NO_LABEL)
    missing = slots - scores.shape[1]
    if missing:
        boxes, scores = F.pad(boxes, (0, 0, 0, missing)), F.pad(scores, (0, missing))
        labels = F.pad(labels, (0, missing), value=NO_LABEL)
    return Detections(boxes, scores, labels, count)
