"""Every step of an exported detector against the same step in torch, fed with what the graph itself gave before it.

Detections cannot be compared as a list: between picture and list stand choices (the best anchors, NMS, the best boxes)
which turn on the last bit of a score, and one of them changes all that follow. So the way is cut at those choices:

- what the networks compute, the neck, the heads of every cell, every box head, the masks, is compared number by number
  like any other output, the box heads on the boxes that the graph chose;
- every choice is replayed (see `replay`) on candidates which torch computes from the raw predictions the graph chose
  from. These steps are fp32 in every precision: boxes may differ by 1e-5 of their size and place (0.01 pixels at 1000),
  scores by 1e-4 of themselves, and nothing else may;
- since pictures without objects, or weights without training, may have no score above the threshold, the part of the
  graph that chooses is run a second time with drawn class logits, among which many are (see `drawn`).

Each step starts from what the graph gave, so that a difference shows where it is made; and all steps together are the
whole graph. How many of torch's own detections the graph finds end to end is reported beside that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from adapter_export import candidates, detector_steps
from adapter_export.precision import Precision
from adapter_export.replay import Candidates, Rule, boxes_gap, check, unused
from adapter_export.tolerance import Array, Gap, gap, noises
from adapter_infer.detectors.boxes import decode
from adapter_infer.detectors.dense_heads import DenseDetector
from adapter_infer.detectors.detections import NO_LABEL
from adapter_infer.detectors.detector import Detector, TwoStageDetector
from adapter_infer.detectors.roi_stages import Stage, refine
from adapter_infer.detectors.sparse_rcnn import SparseRCNN

Found = dict[str, Array]
Gaps = Iterator[tuple[str, Gap]]


class Graph:
    """What one run of the graph gave, by name, beside the model it should equal; image_size (N, 2)."""

    def __init__(self, model: Detector, found: Found, image_size: Array, precision: Precision) -> None:
        self.model, self.found, self.precision = model, found, precision
        self.image_size = torch.from_numpy(image_size)

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.found[name].astype(np.float32, copy=False))

    def levels(self, kind: str) -> list[Tensor]:
        return [self.tensor(f"{kind}_{i}") for i in range(sum(name.startswith(f"{kind}_") for name in self.found))]

    def compared(self, names: Sequence[str], call: Callable[..., Sequence[Tensor]], given: Sequence[Tensor]) -> Gaps:
        """What a part of the model makes of `given`, number by number; a name that was not probed is passed over."""
        expected = [each.numpy() for each in call(*given)]
        moves = noises(self.model, call, given, expected, self.precision) or (None,) * len(expected)
        for name, right, moved in zip(names, expected, moves, strict=True):
            if name in self.found:
                yield name, gap(self.found[name].astype(np.float32, copy=False), right, moved)


@torch.no_grad()
def networks(graph: Graph) -> Gaps:
    """Box heads and mask heads, on the maps and boxes of the graph."""
    model, maps = graph.model, graph.levels("neck")
    if isinstance(model, SparseRCNN):
        yield from _sparse_heads(graph, model, maps)
    if not isinstance(model, TwoStageDetector):
        return
    head = model.roi_head
    for k, box_head in enumerate(head.bbox_heads):
        boxes = graph.tensor(f"stage_boxes_{k}")

        def box_stage(*maps: Tensor, box_head: torch.nn.Module = box_head, boxes: Tensor = boxes) -> Sequence[Tensor]:
            return box_head(head.box_features(maps, head.context(maps), boxes))

        yield from graph.compared((f"stage_logits_{k}", f"stage_deltas_{k}"), box_stage, maps)
    if model.has_masks:
        boxes, labels = graph.tensor("boxes"), torch.from_numpy(graph.found["labels"])

        def masks(*maps: Tensor) -> Sequence[Tensor]:
            drawn = head.masks(maps, boxes, labels, head.context(maps))
            return (torch.where((labels >= 0)[..., None, None], drawn, 0.0),)

        yield from graph.compared(("masks",), masks, maps)


def _sparse_heads(graph: Graph, model: SparseRCNN, maps: list[Tensor]) -> Gaps:
    start, vectors = model.rpn_head(graph.image_size)
    yield "stage_boxes_0", boxes_gap(graph.found["stage_boxes_0"], start.numpy())
    for k, head in enumerate(model.roi_head.bbox_head):
        boxes = graph.tensor(f"stage_boxes_{k}")

        def stage(
            vectors: Tensor, *maps: Tensor, head: torch.nn.Module = head, boxes: Tensor = boxes
        ) -> Sequence[Tensor]:
            return head(model.roi_head.bbox_roi_extractor(maps, boxes), vectors)

        names = [f"stage_{part}_{k}" for part in ("logits", "deltas", "vectors")]
        yield from graph.compared(names, stage, (vectors, *maps))
        vectors = graph.tensor(f"stage_vectors_{k}")


@torch.no_grad()
def choices(graph: Graph) -> Gaps:
    """Every choice and every decoding of boxes, on the raw predictions of the graph."""
    model = graph.model
    if isinstance(model, DenseDetector):
        factors = graph.levels("centerness") or None
        raw = graph.levels("class_logits"), graph.levels("box_deltas")
        yield from _detections(graph, *candidates.dense(model.bbox_head, *raw, factors, graph.image_size))
    elif isinstance(model, SparseRCNN):
        deltas = graph.levels("stage_deltas")
        for k in range(1, len(deltas)):
            moved = decode(graph.tensor(f"stage_boxes_{k - 1}"), deltas[k - 1], model.roi_head.stds[k - 1])
            yield f"stage_boxes_{k}", boxes_gap(graph.found[f"stage_boxes_{k}"], moved.numpy())
        last = len(deltas) - 1
        boxes, logits = graph.tensor(f"stage_boxes_{last}"), graph.tensor(f"stage_logits_{last}")
        yield from _detections(graph, *candidates.sparse(model.roi_head, boxes, logits, deltas[last]))
    elif isinstance(model, TwoStageDetector):
        raw = graph.levels("rpn_scores"), graph.levels("rpn_deltas")
        chosen = candidates.proposals(model.rpn_head, *raw, graph.image_size)
        yield from _proposals(graph, *chosen)
        stages: list[Stage] = []
        for k in range(len(model.roi_head.bbox_heads)):
            boxes = graph.tensor(f"stage_boxes_{k}")
            if k:
                moved = refine(stages[-1], model.roi_head.bbox_heads[k - 1].stds, graph.image_size)
                yield f"stage_boxes_{k}", boxes_gap(boxes.numpy(), moved.numpy())
            said = (graph.tensor(f"stage_{part}_{k}").reshape(*boxes.shape[:2], -1) for part in ("logits", "deltas"))
            stages.append(Stage(boxes, *said))
        holds = (stages[0].boxes != 0).any(-1)
        yield from _detections(graph, *candidates.stages(model.roi_head, stages, holds, graph.image_size))


def _proposals(graph: Graph, pictures: list[Candidates], rule: Rule) -> Gaps:
    for boxes, every in zip(graph.found["stage_boxes_0"], pictures, strict=True):
        count = int((boxes != 0).any(1).sum())
        found, _ = check(boxes[:count], every, rule)
        if wrong := unused(count, {"stage_boxes_0": boxes}, {}):
            found = found._replace(largest=np.inf, reason=wrong)
        yield "stage_boxes_0", found


def _detections(graph: Graph, pictures: list[Candidates], rule: Rule) -> Gaps:
    found = graph.found
    names = [name for name in graph.model.output_names if name in found and name != "count"]
    if not all(len(found[name]) == len(pictures) and found[name].shape[1] == rule.slots for name in names):
        yield "boxes", Gap(np.inf, 1.0, reason="the outputs do not have the sizes that they should")
        return
    for n, every in enumerate(pictures):
        count = int(found["count"][n])
        used = slice(0, max(count, 0))
        gaps = check(found["boxes"][n, used], every, rule, found["scores"][n, used], found["labels"][n, used])
        wrong = unused(max(count, 0), {name: found[name][n] for name in names}, {"labels": NO_LABEL})
        for name, each in zip(("boxes", "scores"), gaps, strict=True):
            reason = each.reason or wrong
            yield name, each._replace(largest=np.inf if reason else each.largest, reason=reason)


def has_threshold(model: Detector) -> bool:
    """Whether only scores above some threshold become detections."""
    return isinstance(model, (DenseDetector, TwoStageDetector))


def drawn(model: Detector, found: Found, seed: int = 0) -> Found:
    """`found` with drawn class logits that put many scores above the threshold."""
    rng = np.random.default_rng(seed)
    made = dict(found)
    if isinstance(model, DenseDetector):
        threshold = model.bbox_head.selection.score_threshold
        edge = np.log(threshold / (1 - threshold)) if 0 < threshold < 1 else 0.0
        for name in found:
            if name.startswith("class_logits_"):  # one in fifty pairs
                made[name] = rng.normal(edge - 4, 2, found[name].shape).astype(np.float32)
        return made
    assert isinstance(model, TwoStageDetector)
    for k in range(len(model.roi_head.bbox_heads)):
        shape = found[f"stage_logits_{k}"].shape
        shared = np.random.default_rng((seed, 1)).normal(0, 4, shape)  # or averages over stages would flatten them
        made[f"stage_logits_{k}"] = (shared + rng.normal(0, 1, shape)).astype(np.float32)
    return made


def drawn_names(model: Detector) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where the part of the graph that chooses begins, and the boxes inside that it makes."""
    return detector_steps.half_ends(model), tuple(
        name for name in detector_steps.stage_names(model) if name.startswith("stage_boxes_")
    )
