"""Non-maximum suppression (NMS) with fixed sizes: the operator, and its use within groups and within classes.

A box whose score is 0 or less is padding: it is never selected. ONNX's NonMaxSuppression with score_threshold 0 follows
the same rules, so that an exported graph can use it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapter_infer.detectors.boxes import overlap, take_boxes
from adapter_infer.detectors.detections import Detections, fill_slots, in_use


@torch.library.custom_op("adapter_infer::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_output: int) -> tuple[Tensor, Tensor]:
    """Greedy NMS of each row: boxes (N, B, 4), scores (N, B) -> index (N, max_output), count (N,), both int64.

    The best box is kept, those that overlap it by more than `iou_threshold` are dropped, and so on with the rest. Row n
    of `index` holds count[n] positions, best score first (the earlier box where equal), then zeros.
    """
    index = scores.new_zeros((scores.shape[0], max_output), dtype=torch.int64)
    count = scores.new_zeros((scores.shape[0],), dtype=torch.int64)
    for row, (row_boxes, row_scores) in enumerate(zip(boxes, scores, strict=True)):
        rest = row_scores.argsort(descending=True, stable=True)
        rest = rest[: int((row_scores > 0).sum())]
        kept: list[Tensor] = []
        while len(rest) and len(kept) < max_output:
            best, rest = rest[0], rest[1:]
            kept.append(best)
            rest = rest[~(overlap(row_boxes[best], row_boxes[rest]) > iou_threshold)]
        if kept:
            index[row, : len(kept)] = torch.stack(kept)
        count[row] = len(kept)
    return index, count


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, max_output: int) -> tuple[Tensor, Tensor]:
    n = scores.shape[0]
    return scores.new_empty((n, max_output), dtype=torch.int64), scores.new_empty((n,), dtype=torch.int64)


def grouped_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_output: int
) -> tuple[Tensor, Tensor]:
    """NMS among the boxes of the same group only: groups (N, B) int64 from 0 on; otherwise as `nms`.

    Each group is moved to a place of its own, as in the official batched_nms.
    """
    used = torch.where(scores[..., None] > 0, boxes, 0.0)
    step = used.amax((1, 2), keepdim=True) + 1
    return nms(used + groups[..., None].to(boxes.dtype) * step, scores, iou_threshold, max_output)


def class_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_output: int) -> Detections:
    """NMS within each class, then the best max_output of all: boxes (N, B, C or 1, 4), scores (N, B, C).

    Every class is a row of its own, so no box is moved and no precision is lost.
    """
    n, b, c = scores.shape
    k = min(b, max_output)  # more of one class could never be among the best
    rows = scores.transpose(1, 2).reshape(n * c, b)
    row_boxes = boxes.expand(n, b, c, 4).transpose(1, 2).reshape(n * c, b, 4)
    index, count = nms(row_boxes, rows, iou_threshold, k)
    kept = torch.where(in_use(count, k), rows.gather(1, index), 0.0).reshape(n, c * k)
    kept_boxes = take_boxes(row_boxes, index).reshape(n, c * k, 4)
    best, position = kept.topk(min(c * k, max_output), 1)
    labels = torch.div(position, k, rounding_mode="floor")
    return fill_slots(take_boxes(kept_boxes, position), best, labels, (best > 0).sum(1), max_output)
