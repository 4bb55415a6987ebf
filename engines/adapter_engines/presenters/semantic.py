"""Semantic segmentation in adapter-run: label maps as PNG, overlays with a legend."""

from __future__ import annotations

from typing import Any

import numpy as np

from adapter_engines.engine import Engine
from adapter_engines.inputs import Task
from adapter_engines.outputs import write_labels, write_picture
from adapter_engines.overlay import overlay, shares
from adapter_engines.palette import palette
from adapter_engines.presenters.base import Choices, Presenter, Shown
from adapter_engines.segmentation import Segmentation, Segmenter

TOP_CLASSES = 3


class SemanticPresenter(Presenter):
    """Label maps."""

    kind, doing = "a semantic segmentation", "segmenting"
    takes = frozenset({"mode", "crop", "stride", "batch", "stretch"})
    summary_title, count_title = "largest classes", "windows"

    def __init__(self, engine: Engine, asked: Choices) -> None:
        super().__init__(engine, asked)
        self.segmenter = Segmenter(
            engine,
            mode=asked.mode or "auto",
            crop=asked.crop,
            stride=asked.stride,
            batch=asked.batch,
            stretch=asked.stretch,
        )
        self.feeding = self.segmenter.feeding
        self.names = self.segmenter.class_names
        self.colours = palette(self.feeding.metadata.model.palette, len(self.names))

    def find(self, picture: np.ndarray) -> Segmentation:
        return self.segmenter(picture)

    def show(self, task: Task, picture: np.ndarray, found: Segmentation, draw: bool) -> Shown:
        write_labels(task.labels, found.labels, self.colours)
        if draw:
            write_picture(task.overlay, overlay(picture, found.labels, self.colours, self.names))
        listed = shares(found.labels, len(self.names))
        short = [(self.names[index].partition(",")[0], share) for index, share in listed[:TOP_CLASSES]]  # of synonyms
        facts = {
            "windows": found.windows,
            "classes": [{"index": index, "name": self.names[index], "share": share} for index, share in listed],
        }
        summary = ", ".join(f"{name} {share:.0%}" for name, share in short)
        return Shown(summary, found.windows, facts, found.network_size, found.seconds)

    def files(self, task: Task, draw: bool) -> dict[str, str | None]:
        return {"labels": str(task.labels), "overlay": str(task.overlay) if draw else None}

    @property
    def settings(self) -> dict[str, Any]:
        run = self.segmenter
        resize = "nearest" if self.feeding.metadata.output == "labels" else None
        return {"mode": run.mode, "crop": run.crop, "stride": run.stride, "batch": run.batch, "label_resize": resize}

    @property
    def title(self) -> str:
        crop = self.segmenter.crop
        return self.segmenter.mode + (f", {crop[0]}x{crop[1]} windows" if crop else "")

    @property
    def note(self) -> str:
        resized = "label maps resized to the pictures by nearest neighbour"
        return resized if self.feeding.metadata.output == "labels" else ""
