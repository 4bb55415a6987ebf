"""From a detector's slots to the original picture: boxes rescaled, masks pasted. Post-processing, not traced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adapter_infer.detectors.detections import Detections
from adapter_infer.geometry import Shape


@dataclass(frozen=True)
class PictureDetections:
    """D detections of one picture: boxes (D, 4) in its pixels, scores and labels (D,), masks (D, H, W) bool or None."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None


def on_picture(
    found: Detections, n: int, size: Shape, scale: tuple[float, float], mask_threshold: float = 0.5
) -> PictureDetections:
    """Picture n of a batch: `size` its original (height, width), `scale` input pixels per original pixel, (x, y)."""
    count = int(found.count[n])
    boxes = found.boxes[n, :count] / found.boxes.new_tensor([*scale, *scale])
    masks = None if found.masks is None else paste_masks(found.masks[n, :count], boxes, size, mask_threshold)
    return PictureDetections(boxes, found.scores[n, :count], found.labels[n, :count], masks)


def paste_masks(masks: Tensor, boxes: Tensor, size: Shape, threshold: float = 0.5) -> Tensor:
    """Mask probabilities (D, P, P) stretched over boxes (D, 4) of a picture of size (H, W) -> (D, H, W) bool.

    Bilinear, each pixel taken at its centre, zero outside the box; True where at least `threshold`.
    """
    h, w = size
    pasted = torch.zeros((len(masks), h, w), dtype=torch.bool, device=masks.device)
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        # A cell beyond the box on each side is all that bilinear sampling can reach.
        reach = ((box[2:] - box[:2]) / mask.shape[-1]).tolist()
        edges = box.tolist()
        left, right = (_pixels(edges[k], sign * (reach[0] + 1), w) for k, sign in ((0, -1), (2, 1)))
        top, bottom = (_pixels(edges[k], sign * (reach[1] + 1), h) for k, sign in ((1, -1), (3, 1)))
        x = (torch.arange(left, right, device=masks.device) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(top, bottom, device=masks.device) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        if not len(x) or not len(y):
            continue
        grid = torch.stack((x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))), -1)
        grid = grid.nan_to_num(nan=-3.0, posinf=3.0, neginf=-3.0)  # an empty box has no inside
        stretched = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        pasted[i, top:bottom, left:right] = stretched >= threshold
    return pasted


def _pixels(edge: float, reach: float, size: int) -> int:
    return max(0, min(size, round(edge + reach)))
