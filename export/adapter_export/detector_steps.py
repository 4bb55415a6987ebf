"""What a detector computes on its way to detections, by name: outputs of a "dense" export, probes of the parity gate.

neck_<i> are the maps that the head sees, finest first; rpn_scores_<i> and rpn_deltas_<i>, or class_logits_<i>,
box_deltas_<i> and centerness_<i>, what the head says of every cell of map i. stage_boxes_<k>, stage_logits_<k> and
stage_deltas_<k> are what box head k gets and gives; of Sparse R-CNN there are stage_vectors_<k> too. All i and k count
from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from adapter_infer.detectors.dense_heads import ATSSHead, DenseDetector
from adapter_infer.detectors.detector import Detector, TwoStageDetector
from adapter_infer.detectors.sparse_rcnn import SparseRCNN

Steps = dict[str, Tensor]


def dense_names(model: Detector) -> tuple[str, ...]:
    """Outputs of a "dense" export, in order."""
    levels = range(_levels(model))
    return tuple(f"{kind}_{i}" for kind in ("neck", *_dense_kinds(model)) for i in levels)


def stage_names(model: Detector) -> tuple[str, ...]:
    """What the box heads get and give, stage by stage; empty for a detector of one stage."""
    last = len(box_heads(model)) - 1
    # Of Sparse R-CNN's stages only the last one's classes count.
    return tuple(
        f"{kind}_{k}"
        for k in range(last + 1)
        for kind in _stage_kinds(model)
        if kind != "stage_logits" or k == last or not isinstance(model, SparseRCNN)
    )


def names(model: Detector) -> tuple[str, ...]:
    """All steps before the detections."""
    return dense_names(model) + stage_names(model)


def half_ends(model: Detector) -> tuple[str, ...]:
    """The steps behind which a half type ends: what boxes and scores are computed from."""
    kinds = (*_dense_kinds(model), "stage_logits", "stage_deltas")
    return tuple(name for name in names(model) if name.rpartition("_")[0] in kinds)


def box_heads(model: Detector) -> list[nn.Module]:
    """The box heads in order, none for a detector of one stage."""
    if isinstance(model, TwoStageDetector):
        return list(model.roi_head.bbox_heads)
    return list(model.roi_head.bbox_head) if isinstance(model, SparseRCNN) else []


def _levels(model: Detector) -> int:
    if isinstance(model, TwoStageDetector):
        return len(model.rpn_head.anchors.strides)
    if isinstance(model, DenseDetector):
        return len(model.bbox_head.anchors.strides)
    assert isinstance(model, SparseRCNN)
    return len(model.roi_head.bbox_roi_extractor.strides)


def _dense_kinds(model: Detector) -> tuple[str, ...]:
    if isinstance(model, TwoStageDetector):
        return ("rpn_scores", "rpn_deltas")
    if isinstance(model, DenseDetector):
        factor = ("centerness",) if isinstance(model.bbox_head, ATSSHead) else ()
        return ("class_logits", "box_deltas", *factor)
    return ()


def _stage_kinds(model: Detector) -> tuple[str, ...]:
    kinds = ("stage_boxes", "stage_logits", "stage_deltas")
    return (*kinds, "stage_vectors") if isinstance(model, SparseRCNN) else kinds


def dense(model: Detector, image: Tensor) -> Steps:
    """The steps of a "dense" export."""
    maps = model.features(image)
    kinds = _dense_kinds(model)
    said: Sequence[Sequence[Tensor]] = model.dense(maps) if kinds else ()
    return _named(("neck", *kinds), (maps, *said))


def detect(model: Detector, image: Tensor, image_size: Tensor) -> Steps:
    """The detections by name and, behind them, every step that led to them."""
    maps = model.features(image)
    with _recorded(model) as steps:
        found = model.detect(maps, image_size)
    steps |= _named(("neck",), (maps,))
    detections = {name: getattr(found, name) for name in model.output_names}
    return detections | {name: steps[name] for name in names(model)}


@contextmanager
def _recorded(model: Detector) -> Iterator[Steps]:
    """What the heads get and give inside the block."""
    steps: Steps = {}
    hooks = []

    def dense_hook(_module: nn.Module, _given: Any, said: Any) -> None:
        steps.update(_named(_dense_kinds(model), said))

    def boxes_hook(_module: nn.Module, given: Any) -> None:
        steps[f"stage_boxes_{_count(steps, 'stage_boxes')}"] = given[1]

    def stage_hook(_module: nn.Module, _given: Any, said: Any) -> None:
        k = _count(steps, "stage_logits")
        for kind, value in zip(_stage_kinds(model)[1:], said, strict=True):
            steps[f"{kind}_{k}"] = value

    if isinstance(model, TwoStageDetector):
        hooks.append(model.rpn_head.register_forward_hook(dense_hook))
    elif isinstance(model, DenseDetector):
        hooks.append(model.bbox_head.register_forward_hook(dense_hook))
    if heads := box_heads(model):
        roi_head: Any = model.roi_head
        hooks.append(roi_head.bbox_roi_extractor.register_forward_pre_hook(boxes_hook))
        hooks += [head.register_forward_hook(stage_hook) for head in heads]
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()


def _count(steps: Steps, kind: str) -> int:
    return sum(name.rpartition("_")[0] == kind for name in steps)


def _named(kinds: Sequence[str], values: Sequence[Sequence[Tensor]]) -> Steps:
    return {f"{kind}_{i}": value for kind, levels in zip(kinds, values, strict=True) for i, value in enumerate(levels)}
