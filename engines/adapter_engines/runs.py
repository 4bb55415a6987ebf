"""Segments pictures one after the other and writes what was found; a broken one is reported and the rest go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter

from adapter_engines.inputs import Task
from adapter_engines.outputs import write_labels, write_overlay
from adapter_engines.overlay import overlay, shares
from adapter_engines.palette import palette
from adapter_engines.pictures import read_picture
from adapter_engines.segmentation import Segmenter, Size
from adapter_infer.errors import AdapterError

STAGES = ("read", "preprocess", "network", "postprocess", "write")


@dataclass(frozen=True)
class Outcome:
    """What became of one picture: `error` says why nothing was written, and is None where all went well.

    `size` and `network_size` are (height, width); `shares` (class, share of the pixels), the largest first; `seconds`
    by stage, as in STAGES.
    """

    task: Task
    error: str | None = None
    size: Size = (0, 0)
    network_size: Size = (0, 0)
    windows: int = 0
    shares: list[tuple[int, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run(tasks: Iterable[Task], segmenter: Segmenter, *, draw: bool = True) -> Iterator[Outcome]:
    """The outcome of each task; `draw` says whether overlays are written too."""
    names = segmenter.class_names
    colours = palette(segmenter.metadata.model.palette, len(names))
    for task in tasks:
        try:
            began = perf_counter()
            picture = read_picture(task.picture)
            was_read = perf_counter()
            found = segmenter(picture)
            segmented = perf_counter()
            write_labels(task.labels, found.labels, colours)
            if draw:
                write_overlay(task.overlay, overlay(picture, found.labels, colours, names))
            written = perf_counter()
        except AdapterError as error:
            yield Outcome(task, error=" ".join(str(error).split()))
        except MemoryError:
            yield Outcome(task, error="there is not enough memory for a picture of this size; scale it down")
        else:
            yield Outcome(
                task,
                size=picture.shape[:2],
                network_size=found.network_size,
                windows=found.windows,
                shares=shares(found.labels, len(names)),
                seconds={"read": was_read - began, **found.seconds, "write": written - segmented},
            )
