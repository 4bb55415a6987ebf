"""Panoptic segmentation in adapter-run: COCO's PNG maps and their JSON, overlays with outlines, names and a legend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapter_engines import coco
from adapter_engines.engine import Engine
from adapter_engines.inputs import Task
from adapter_engines.outputs import write_json, write_picture
from adapter_engines.palette import palette
from adapter_engines.panoptic import PanopticResult, PanopticSegmenter
from adapter_engines.panoptic_drawing import draw as drawn
from adapter_engines.panoptic_drawing import indices
from adapter_engines.presenters.base import Choices, Outcome, Presenter, Shown

TOP_CLASSES = 3


class PanopticPresenter(Presenter):
    """Things and stuff."""

    kind, doing = "a panoptic model", "segmenting"
    takes = frozenset({"fit"})
    results = "panoptic.json"
    summary_title, count_title = "largest segments", "segments"

    def __init__(self, engine: Engine, asked: Choices) -> None:
        super().__init__(engine, asked)
        self.segmenter = PanopticSegmenter(engine, fit=asked.fit)
        self.feeding = self.segmenter.feeding
        self.names = self.segmenter.class_names
        model = self.feeding.metadata.model
        self.colours = palette(model.palette, len(self.names))
        self.categories = coco.category_ids(model.classes, len(self.names))

    def find(self, picture: np.ndarray) -> PanopticResult:
        return self.segmenter(picture)

    def show(self, task: Task, picture: np.ndarray, found: PanopticResult, draw: bool) -> Shown:
        index = indices(found)
        write_picture(task.panoptic, coco.panoptic_image(index, len(found.info)))
        if draw:
            write_picture(task.overlay, drawn(picture, found, self.colours, self.names))
        largest = sorted(found.info, key=lambda segment: -segment.area)
        facts = {
            "scale": [found.inside[0] / picture.shape[0], found.inside[1] / picture.shape[1]],
            "inside": found.inside,
            "segments": [
                {"index": each.label, "name": self.names[each.label], "is_thing": each.is_thing}
                | {"score": each.score, "area": each.area, "share": each.area / found.segments.size}
                for each in found.info
            ],
            "results": coco.panoptic_segments(found.info, index, self.categories),
        }
        summary = ", ".join(
            f"{self.names[each.label]} {each.area / found.segments.size:.0%}" for each in largest[:TOP_CLASSES]
        )
        return Shown(summary, len(found.info), facts, found.network_size, found.seconds)

    def files(self, task: Task, draw: bool) -> dict[str, str | None]:
        return {"panoptic": str(task.panoptic), "overlay": str(task.overlay) if draw else None}

    def finish(self, outcomes: Sequence[Outcome], out: Path) -> dict[str, str]:
        """Writes panoptic.json; the per-picture results leave the facts for it."""
        if all(outcome.error is not None for outcome in outcomes):
            return {}
        pictures = [
            {
                "image_id": number,
                "picture": outcome.task.picture,
                "size": outcome.size,
                "png": os.path.relpath(outcome.task.panoptic, out),
                "segments_info": outcome.shown.facts.pop("results"),
            }
            for number, outcome in zip(coco.image_ids([each.task for each in outcomes]), outcomes, strict=True)
            if outcome.error is None
        ]
        write_json(
            out / self.results,
            coco.panoptic_document(pictures, self.names, self.categories, self.segmenter.fusion.things),
        )
        return {"results": str(out / self.results)}

    @property
    def settings(self) -> dict[str, Any]:
        return {"fit": self.segmenter.fit, "fusion": vars(self.segmenter.fusion)}

    @property
    def title(self) -> str:
        return "panoptic" + (", fit" if self.segmenter.fit else "")
