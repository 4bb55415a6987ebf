"""Finds objects in pictures with an exported detector, as mmdet's test pipeline does it.

`detect(engine, picture)` is all a service needs; `Detector` keeps the choices for many pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from adapter_engines.engine import Engine
from adapter_engines.feeding import Feeding
from adapter_engines.masks import InstanceMasks
from adapter_engines.preprocessing import Size
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.spec import detection_head

MASK_THRESHOLD = 0.5  # where the test configuration gives none


@dataclass(frozen=True)
class DetectionResult:
    """D objects of one picture, the best score first.

    `boxes` (D, 4) float32 (x0, y0, x1, y1) in the picture's own pixels, `scores` (D,) float32, `labels` (D,) int64
    class indices; `masks` are pasted when they are looked at, None where the model has none. Boxes end at the picture's
    borders, but not those of a model that does not clip its own (Sparse R-CNN).
    `network_size` (height, width) of the padded image the network saw, `inside` of the picture in it, `seconds` spent
    by stage: preprocess, network, postprocess.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: InstanceMasks | None
    network_size: Size
    inside: Size
    seconds: dict[str, float]

    def __len__(self) -> int:
        return len(self.scores)


def detect(engine: Engine, picture: np.ndarray, **options: Any) -> DetectionResult:
    """The objects in `picture` (H, W, 3) uint8 RGB; `options` and errors as for `Detector`."""
    return Detector(engine, **options)(picture)


class Detector:
    """How one engine is run over pictures, one at a time.

    `score_threshold` in 0..1 leaves out objects with a lower score; None keeps all that the file gives, which are those
    of its test configuration. `fit` scales pictures down into a file of fixed size where they do not fit in it.

    Errors: UnsupportedModel if the file does not say how to be fed or is no detector, UsageError if what is asked
    cannot be done with it; and for a picture of unfit size AdapterError.
    """

    def __init__(self, engine: Engine, score_threshold: float | None = None, *, fit: bool = False) -> None:
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise UsageError(f"the score threshold is {score_threshold}; scores are from 0 to 1, give one of them")
        metadata = engine.metadata
        if metadata is not None and metadata.output != "detections":
            what = "; export it with --output detections" if metadata.model.task == "detection" else ""
            raise UnsupportedModel(f"{engine.path} gives {metadata.output}, not detections{what}")
        self.engine, self.score_threshold, self.fit = engine, score_threshold, fit
        self.feeding = Feeding.of(engine)
        if fit and self.feeding.size is None:
            raise UsageError(f"fit is for a file of fixed size, and {engine.path} takes any; leave it out")
        detector = self.feeding.metadata.model.detector or {}
        self.mask_threshold = _mask_threshold(detector)
        self.clips = _clips(detector)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class; "class 7" where the file gives none."""
        return self.feeding.class_names(self.feeding.num_classes)

    def __call__(self, picture: np.ndarray) -> DetectionResult:
        """The objects in `picture` (H, W, 3) uint8 RGB. Errors: UsageError on other arrays, AdapterError on an unfit
        size or an answer that is none."""
        began = perf_counter()
        image = self.feeding.padded(picture, self.fit)
        prepared = perf_counter()
        outputs = self.feeding.run(image.image[None], [image.inside])
        answered = perf_counter()
        boxes, scores, labels, masks = self._kept(outputs)
        height, width = picture.shape[:2]
        scale = np.array([image.inside[1] / width, image.inside[0] / height] * 2, np.float32)
        boxes = boxes / scale
        if self.clips:
            boxes = boxes.clip(0, np.array([width, height] * 2, np.float32))
        pasted = None if masks is None else InstanceMasks(masks, boxes, (height, width), self.mask_threshold)
        seconds = {
            "preprocess": prepared - began,
            "network": answered - prepared,
            "postprocess": perf_counter() - answered,
        }
        return DetectionResult(boxes, scores, labels, pasted, image.size, image.inside, seconds)

    def _kept(self, outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Boxes, scores, labels and masks of the slots in use. Errors: AdapterError if they make no sense."""
        boxes, scores, labels, count = (outputs[name][0] for name in ("boxes", "scores", "labels", "count"))
        masks = outputs["masks"][0] if "masks" in outputs else None
        if not 0 <= count <= len(scores):
            raise AdapterError(f"the network counts {count} objects in {len(scores)} slots; export the file again")
        keep = np.arange(len(scores)) < count
        if self.score_threshold is not None:
            keep &= scores >= self.score_threshold
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        masks = None if masks is None else masks[keep]
        for name, values in (("boxes", boxes), ("scores", scores), ("masks", masks)):
            if values is not None and not np.isfinite(values).all():
                raise AdapterError(f"the network's {name} are not numbers (NaN or infinite); run it in fp32")
        classes = self.feeding.num_classes
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise AdapterError(
                f"the network answered with labels from {labels.min()} to {labels.max()}, but there are {classes} "
                "classes; export the file again"
            )
        return boxes, scores, labels, masks


def _mask_threshold(detector: dict[str, Any]) -> float:
    """mmdet's mask_thr_binary. Errors: UnsupportedModel below 0, by which mmdet asks for masks of grey values."""
    rcnn = (detector.get("test_cfg") or {}).get("rcnn") or {}
    threshold = float(rcnn.get("mask_thr_binary", MASK_THRESHOLD))
    if not 0 <= threshold <= 1:
        raise UnsupportedModel(
            f"the test configuration's mask_thr_binary is {threshold}; masks are cut at a probability from 0 to 1"
        )
    return threshold


def _clips(detector: dict[str, Any]) -> bool:
    """Whether the model clips its boxes to the picture."""
    try:
        coder = detection_head(detector).get("bbox_coder") or {}
    except (KeyError, TypeError, IndexError):
        return True
    return bool(coder.get("clip_border", True))
