"""Divides pictures into things and stuff with an exported panoptic Mask2Former.

The fusion is that of mmdet's MaskFormerFusionHead: every pixel goes to the query with the largest class score times
mask probability; a query that loses most of its mask to others is dropped; things stay apart, stuff of a class merges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from adapter_engines.engine import Engine
from adapter_engines.feeding import Feeding
from adapter_engines.interpolation import along_columns, along_rows, matrix, reach
from adapter_engines.preprocessing import Size
from adapter_engines.queries import sigmoid, softmax
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.metadata import QUERY_NAMES
from adapter_infer.spec import class_count

INSTANCE_OFFSET = 1000  # a thing's id is its class plus this times its number, which begins at 1
BLOCK_ELEMENTS = 1 << 20  # of all queries' rows at a time, so that the memory does not grow with the picture


@dataclass(frozen=True)
class Segment:
    """One thing, or all stuff of one class: its `id` in the map, class index, score in 0..1 and area in pixels."""

    id: int
    label: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True)
class PanopticResult:
    """`segments` (H, W) int32 ids at the picture's own size, `void` where there is nothing; `info` one Segment per id.

    An id is the class for stuff, and class + 1000 * number for things; `void` is the number of classes.
    `network_size` (height, width) of the padded image, `inside` of the picture in it, `seconds` by stage.
    """

    segments: np.ndarray
    info: list[Segment]
    void: int
    network_size: Size
    inside: Size
    seconds: dict[str, float]


@dataclass(frozen=True)
class Fusion:
    """mmdet's settings: classes below `things` are things, the others of `classes` stuff."""

    things: int
    classes: int
    object_mask_thr: float = 0.8
    iou_thr: float = 0.8
    filter_low_score: bool = False

    @classmethod
    def of(cls, detector: Mapping[str, Any]) -> Fusion:
        """From mmdet's model dictionary. Errors: UnsupportedModel if it does not say the classes."""
        test = detector.get("test_cfg") or {}
        given = {name: test[name] for name in ("object_mask_thr", "iou_thr", "filter_low_score") if name in test}
        head = detector.get("panoptic_head") or {}
        try:
            things, classes = int(head["num_things_classes"]), class_count(head)
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"the panoptic head does not say its classes ({error}); export it again") from error
        if classes >= INSTANCE_OFFSET:
            raise UnsupportedModel(f"{classes} classes are more than the ids of mmdet tell apart ({INSTANCE_OFFSET})")
        return cls(things, classes, **given)


def panoptic(engine: Engine, picture: np.ndarray, **options: Any) -> PanopticResult:
    """The segments of `picture` (H, W, 3) uint8 RGB; `options` and errors as for `PanopticSegmenter`."""
    return PanopticSegmenter(engine, **options)(picture)


class PanopticSegmenter:
    """How one engine is run over pictures, one at a time.

    `fit` scales pictures down into a file of fixed size where they do not fit in it.
    Errors: UnsupportedModel if the file does not say how to be fed or is not panoptic, UsageError if what is asked
    cannot be done with it; and for a picture of unfit size AdapterError.
    """

    def __init__(self, engine: Engine, *, fit: bool = False) -> None:
        metadata = engine.metadata
        if metadata is not None and (metadata.model.task != "panoptic" or metadata.output != "queries"):
            what = "; export it with --output queries" if metadata.model.task == "panoptic" else ""
            raise UnsupportedModel(f"{engine.path} gives {metadata.output}, not the queries of a panoptic model{what}")
        self.engine, self.fit = engine, fit
        self.feeding = Feeding.of(engine)
        if fit and self.feeding.size is None:
            raise UsageError(f"fit is for a file of fixed size, and {engine.path} takes any; leave it out")
        self.fusion = Fusion.of(self.feeding.metadata.model.detector or {})

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, things first; "class 7" where the file gives none."""
        return self.feeding.class_names(self.fusion.classes)

    def __call__(self, picture: np.ndarray) -> PanopticResult:
        """The segments of `picture` (H, W, 3) uint8 RGB. Errors: UsageError on other arrays, AdapterError on an unfit
        size or an answer that is none."""
        began = perf_counter()
        image = self.feeding.padded(picture, self.fit)
        prepared = perf_counter()
        outputs = self.feeding.run(image.image[None])
        answered = perf_counter()
        class_logits, mask_logits = (outputs[name][0] for name in QUERY_NAMES)
        segments, info = fuse(class_logits, mask_logits, self.fusion, image.size, image.inside, picture.shape[:2])
        seconds = {
            "preprocess": prepared - began,
            "network": answered - prepared,
            "postprocess": perf_counter() - answered,
        }
        return PanopticResult(segments, info, self.fusion.classes, image.size, image.inside, seconds)


def fuse(
    class_logits: np.ndarray, mask_logits: np.ndarray, settings: Fusion, network_size: Size, inside: Size, size: Size
) -> tuple[np.ndarray, list[Segment]]:
    """class_logits (Q, C + 1), mask_logits (Q, h, w) -> ids (H, W) int32 for a picture of `size`, and their segments.

    Masks are resized (bilinear) to `network_size`, cut to `inside`, and resized to `size`, as mmdet does; all three are
    (height, width). Errors: AdapterError if a logit is not a number, or the classes are not those of the settings.
    """
    if class_logits.shape[1] != settings.classes + 1:
        raise AdapterError(
            f"the network tells {class_logits.shape[1] - 1} classes apart, but its metadata {settings.classes}; export "
            "it again"
        )
    probabilities = softmax(class_logits)
    labels, scores = probabilities.argmax(1), probabilities.max(1)
    kept = np.flatnonzero((labels != settings.classes) & (scores > settings.object_mask_thr))
    labels, scores = labels[kept], scores[kept]
    segments = np.full(size, settings.classes, np.int32)
    if not len(kept):
        return segments, []
    winner, sure, original_areas = _winners(mask_logits[kept], scores, network_size, inside, size)
    areas = np.bincount(winner.ravel(), minlength=len(kept))

    ids = np.full(len(kept), settings.classes, np.int32)
    best: dict[int, float] = {}
    instances = 0
    for k, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        if not areas[k] or not original_areas[k] or areas[k] / original_areas[k] < settings.iou_thr:
            continue
        ids[k] = label
        if label < settings.things:
            instances += 1
            ids[k] += INSTANCE_OFFSET * instances
        best[int(ids[k])] = max(score, best.get(int(ids[k]), 0.0))
    segments[:] = ids[winner]
    if settings.filter_low_score:
        segments[~sure] = settings.classes
    found = {id_: int(np.count_nonzero(segments == id_)) for id_ in best}
    return segments, [
        Segment(id_, label := id_ % INSTANCE_OFFSET, label < settings.things, score, found[id_])
        for id_, score in best.items()
        if found[id_]
    ]


def _winners(
    mask_logits: np.ndarray, scores: np.ndarray, network_size: Size, inside: Size, size: Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over K queries: the winner of each pixel (H, W), whether its own probability is at least 1/2 (H, W), and the area
    of each query's own mask (K,), of the pixels where its probability is at least 1/2. Errors: AdapterError."""
    if not np.isfinite(mask_logits).all():
        raise AdapterError("the network's mask logits are not numbers (NaN or infinite); run it in fp32")
    down, across = (
        matrix(kept, new) @ matrix(old, padded)[:kept]  # both resizes and the cut between them, along one edge
        for old, padded, kept, new in zip(mask_logits.shape[1:], network_size, inside, size, strict=True)
    )
    winner, sure = np.empty(size, np.int32), np.empty(size, bool)
    areas = np.zeros(len(scores), np.int64)
    step = max(1, BLOCK_ELEMENTS // (len(scores) * size[1]))
    for start in range(0, size[0], step):
        rows = slice(start, start + step)
        cells = reach(down[rows])
        masks = sigmoid(along_columns(down[rows, cells], along_rows(across, mask_logits[:, cells])))
        set_ = masks >= 0.5
        areas += set_.sum(axis=(1, 2))
        winner[rows] = (masks * scores[:, None, None]).argmax(0)
        sure[rows] = np.take_along_axis(set_, winner[None, rows], 0)[0]
    return winner, sure, areas
