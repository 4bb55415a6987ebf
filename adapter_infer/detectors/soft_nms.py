"""Linear soft-NMS: overlapping boxes of a class lose score instead of being dropped.

Bodla et al., Soft-NMS: Improving Object Detection With One Line of Code, 2017. It is an operator of its own because no
standard ONNX operator does it: a model with soft-NMS runs in PyTorch, but does not export past this point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapter_infer.detectors.boxes import overlap, take_boxes
from adapter_infer.detectors.detections import Detections, fill_slots

MIN_SCORE = 1e-3  # a box whose score decays below this is dropped (the official default)


@torch.library.custom_op("adapter_infer::soft_nms", mutates_args=())
def soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, min_score: float, max_output: int
) -> tuple[Tensor, Tensor, Tensor]:
    """boxes (N, B, 4), scores and groups (N, B) -> index (N, K) int64, scores (N, K), count (N,) int64, K = max_output.

    The best box is kept with the score it has by then; every other of its group that overlaps it by at least
    `iou_threshold` has its score multiplied by 1 - overlap; and so on with the rest. Scores of 0 or less are padding.
    """
    n = scores.shape[0]
    index = scores.new_zeros((n, max_output), dtype=torch.int64)
    final = scores.new_zeros((n, max_output))
    count = scores.new_zeros((n,), dtype=torch.int64)
    for row in range(n):
        left = scores[row].clone()
        for slot in range(min(max_output, len(left))):
            score, best = left.max(0)
            if score <= 0:
                break
            index[row, slot], final[row, slot], count[row] = best, score, slot + 1
            shared = overlap(boxes[row, best], boxes[row])
            decays = (shared >= iou_threshold) & (groups[row] == groups[row, best])
            left = torch.where(decays, left * (1 - shared), left)
            left = torch.where(left < min_score, 0.0, left)
            left[best] = 0.0
    return index, final, count


@soft_nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, min_score: float, max_output: int
) -> tuple[Tensor, Tensor, Tensor]:
    n = scores.shape[0]
    index, count = scores.new_empty((n, max_output), dtype=torch.int64), scores.new_empty((n,), dtype=torch.int64)
    return index, scores.new_empty((n, max_output)), count


def class_soft_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_output: int, min_score: float = MIN_SCORE
) -> Detections:
    """Soft-NMS within each class and the best of all classes: boxes (N, B, C or 1, 4), scores (N, B, C)."""
    n, b, c = scores.shape
    pairs = boxes.expand(n, b, c, 4).reshape(n, b * c, 4)
    classes = torch.arange(c, device=scores.device).expand(n, b, c).reshape(n, b * c)
    index, final, count = soft_nms(pairs, scores.reshape(n, b * c), classes, iou_threshold, min_score, max_output)
    return fill_slots(take_boxes(pairs, index), final, classes.gather(1, index), count, max_output)
