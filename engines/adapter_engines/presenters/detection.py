"""Detection in adapter-run: boxes and masks drawn over the pictures, all results in one file of COCO's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from adapter_engines import coco
from adapter_engines.detection import DetectionResult, Detector
from adapter_engines.detection_drawing import draw as drawn
from adapter_engines.engine import Engine
from adapter_engines.inputs import Task
from adapter_engines.outputs import write_json, write_picture
from adapter_engines.palette import palette
from adapter_engines.presenters.base import Choices, Outcome, Presenter, Shown

DRAWN_SCORE = 0.3  # test configurations keep scores down to 0.05 or 0.001, too many to look at
TOP_CLASSES = 3


class DetectionPresenter(Presenter):
    """Boxes, and masks where the model has them."""

    kind, doing = "a detector", "detecting"
    takes = frozenset({"fit", "score_threshold"})
    results = "detections.json"
    summary_title, count_title = "best of the top classes", "objects"

    def __init__(self, engine: Engine, asked: Choices) -> None:
        super().__init__(engine, asked)
        self.detector = Detector(engine, asked.score_threshold, fit=asked.fit)
        self.feeding = self.detector.feeding
        self.names = self.detector.class_names
        model = self.feeding.metadata.model
        self.colours = palette(model.palette, len(self.names))
        self.categories = coco.category_ids(model.classes, len(self.names))
        self.drawn_score = DRAWN_SCORE if asked.score_threshold is None else asked.score_threshold

    def find(self, picture: np.ndarray) -> DetectionResult:
        return self.detector(picture)

    def show(self, task: Task, picture: np.ndarray, found: DetectionResult, draw: bool) -> Shown:
        began = perf_counter()
        results = coco.detections(found, self.categories)
        pasted = perf_counter() - began
        if draw:
            write_picture(task.overlay, drawn(picture, found, self.colours, self.names, self.drawn_score))
        best: dict[int, float] = {}
        for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True):
            best[label] = max(score, best.get(label, 0.0))
        top = sorted(best.items(), key=lambda entry: -entry[1])[:TOP_CLASSES]
        facts = {
            "scale": [found.inside[0] / picture.shape[0], found.inside[1] / picture.shape[1]],
            "inside": found.inside,
            "detections": [
                {"index": label, "name": self.names[label], "score": score, "box": box}
                for label, score, box in zip(
                    found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
                )
            ],
            "results": results,
        }
        summary = ", ".join(f"{self.names[label]} {score:.2f}" for label, score in top)
        seconds = found.seconds | {"postprocess": found.seconds["postprocess"] + pasted}
        return Shown(summary, len(found), facts, found.network_size, seconds)

    def files(self, task: Task, draw: bool) -> dict[str, str | None]:
        return {"overlay": str(task.overlay) if draw else None}

    def finish(self, outcomes: Sequence[Outcome], out: Path) -> dict[str, str]:
        """Writes detections.json; the per-picture results leave the facts for it."""
        if all(outcome.error is not None for outcome in outcomes):
            return {}
        numbers = coco.image_ids([outcome.task for outcome in outcomes])
        results = [
            {"image_id": number, "file_name": outcome.task.picture.name, **entry}
            for number, outcome in zip(numbers, outcomes, strict=True)
            for entry in outcome.shown.facts.pop("results", ())
        ]
        write_json(out / self.results, results, indent=None)
        return {"results": str(out / self.results)}

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "fit": self.detector.fit,
            "score_threshold": self.detector.score_threshold,
            "drawn_score": self.drawn_score,
            "categories": [{"id": i, "name": n} for i, n in zip(self.categories, self.names, strict=True)],
        }

    @property
    def title(self) -> str:
        least = self.detector.score_threshold
        return (
            "detection" + ("" if least is None else f", scores from {least:g}") + (", fit" if self.detector.fit else "")
        )

    @property
    def note(self) -> str:
        return "" if self.detector.score_threshold is not None else f"drawn from score {self.drawn_score:g}"
