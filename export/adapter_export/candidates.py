"""What a detector may choose from, computed with its own parts from the raw predictions of an exported graph.

Ties at the edge of a choice are kept, and marked: which of equal scores comes first is nobody's to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adapter_export.replay import OF_SCORE, Candidates, Rule
from adapter_infer.detectors.boxes import clip, decode, larger_than, take_boxes
from adapter_infer.detectors.dense_heads import DenseHead
from adapter_infer.detectors.roi_stages import RoIHead, Stage
from adapter_infer.detectors.rpn import RPNHead
from adapter_infer.detectors.soft_nms import MIN_SCORE
from adapter_infer.detectors.sparse_rcnn import SparseRoIHead

EDGE = 1e-5  # share of a score; what sigmoids of the same logit differ by is 100 times less


def proposals(
    head: RPNHead, logits: Sequence[Tensor], deltas: Sequence[Tensor], image_size: Tensor
) -> tuple[list[Candidates], Rule]:
    """Of each picture, what its proposals are chosen from; groups are the maps."""
    settings, parts = head.settings, []
    for level, (anchors, scores, moves) in enumerate(zip(head.anchors.of(logits), logits, deltas, strict=True)):
        flat = scores.permute(0, 2, 3, 1).flatten(1)
        best, index, surely = _best(flat, settings.before, 0.0)
        chosen = take_boxes(moves.permute(0, 2, 3, 1).reshape(flat.shape[0], -1, 4), index)
        boxes = clip(decode(anchors[index], chosen, head.stds), image_size)
        large = larger_than(boxes, settings.min_size)
        parts.append((boxes, best.sigmoid() * large, torch.full_like(index, level), surely))
    rule = Rule(settings.after, settings.iou_threshold, shifted=True)
    return _pictures(*(torch.cat(part, 1) for part in zip(*parts, strict=True))), rule


def dense(
    head: DenseHead,
    logits: Sequence[Tensor],
    predictions: Sequence[Tensor],
    factors: Sequence[Tensor] | None,
    image_size: Tensor,
) -> tuple[list[Candidates], Rule]:
    """Of each picture, what the detections of a detector of one stage are chosen from; groups are the labels."""
    chosen, parts = head.selection, []
    for i, (anchors, stride) in enumerate(zip(head.anchors.of(logits), head.anchors.strides, strict=True)):
        pairs = logits[i].permute(0, 2, 3, 1).flatten(1).sigmoid()
        allowed = pairs > chosen.score_threshold * (1 - EDGE)
        best, position, surely = _best(torch.where(allowed, pairs, 0.0), chosen.before, EDGE)
        surely = surely & (best > chosen.score_threshold * (1 + EDGE))
        cell = position // head.num_classes
        raw = predictions[i].permute(0, 2, 3, 1).flatten(1, 2)
        raw = raw.gather(1, cell[..., None].expand(-1, -1, raw.shape[2]))
        boxes = clip(head.boxes(anchors[cell], raw, stride), image_size)
        if factors is not None:
            best = best * factors[i].flatten(1).sigmoid().gather(1, cell)
        parts.append((boxes, best * larger_than(boxes, chosen.min_size), position % head.num_classes, surely))
    rule = Rule(chosen.slots, chosen.iou_threshold, shifted=True)
    return _pictures(*(torch.cat(part, 1) for part in zip(*parts, strict=True))), rule


def stages(head: RoIHead, found: Sequence[Stage], holds: Tensor, image_size: Tensor) -> tuple[list[Candidates], Rule]:
    """Of each picture, what the detections of a cascade are chosen from; `holds` (N, K) says which boxes are real."""
    chosen = head.selection
    boxes, scores = head.candidates(found, image_size)
    n, k, classes = scores.shape
    scores = torch.where(holds[..., None] & (scores > chosen.score_threshold * (1 - OF_SCORE)), scores, 0.0)
    surely = scores > chosen.score_threshold * (1 + OF_SCORE)
    labels = torch.arange(classes).expand(n, k, classes)
    flat = (boxes.expand(n, k, classes, 4).flatten(1, 2), scores.flatten(1), labels.flatten(1), surely.flatten(1))
    rule = Rule(chosen.slots, chosen.iou_threshold, chosen.soft, MIN_SCORE if chosen.soft else 0.0)
    return _pictures(*flat), rule


def sparse(head: SparseRoIHead, boxes: Tensor, logits: Tensor, deltas: Tensor) -> tuple[list[Candidates], Rule]:
    """Of each picture, every pair of proposal and class of Sparse R-CNN's last stage."""
    final = decode(boxes, deltas, head.stds[-1])
    scores = logits.sigmoid()
    n, q, classes = scores.shape
    labels = torch.arange(classes).expand(n, q, classes)
    pairs = final[:, :, None].expand(n, q, classes, 4)
    flat = (pairs.flatten(1, 2), scores.flatten(1), labels.flatten(1), torch.ones_like(labels).flatten(1) > 0)
    return _pictures(*flat), Rule(head.slots, None)


def _best(scores: Tensor, before: int, edge: float) -> tuple[Tensor, Tensor, Tensor]:
    """The `before` best of each row (N, B) and those that tie with the last: scores, index, which are sure of it."""
    if scores.shape[1] <= before:
        index = torch.arange(scores.shape[1]).expand_as(scores)
        return scores, index, torch.ones_like(index) > 0
    ordered, index = scores.sort(dim=1, descending=True, stable=True)
    last, next_one = ordered[:, before - 1 : before], ordered[:, before : before + 1]
    slack = edge * last.abs()
    width = int((ordered >= last - slack).sum(1).max())
    cut_through = next_one >= last - slack
    allowed = ordered >= last - slack
    surely = torch.where(cut_through, ordered > last + slack, allowed)[:, :width]
    # A row that needs fewer columns than another leaves the rest out by a score of nothing.
    lowest = torch.where(allowed, ordered, -torch.inf)[:, :width]
    return lowest, index[:, :width], surely


def _pictures(boxes: Tensor, scores: Tensor, groups: Tensor, surely: Tensor) -> list[Candidates]:
    """Tensors of a batch to Candidates of each picture, without those that score nothing."""
    pictures = []
    for parts in zip(boxes.numpy(), scores.numpy(), groups.numpy(), surely.numpy(), strict=True):
        every = Candidates(*parts)
        pictures.append(every.kept(np.asarray(every.scores > 0)))
    return pictures
