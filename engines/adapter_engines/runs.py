"""Runs a model over pictures one by one and writes what was found; a broken one is reported, and the rest go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter

from adapter_engines.inputs import Task
from adapter_engines.pictures import read_picture
from adapter_engines.presenters.base import Outcome, Presenter
from adapter_infer.errors import AdapterError

STAGES = ("read", "preprocess", "network", "postprocess", "write")


def run(tasks: Iterable[Task], presenter: Presenter, *, draw: bool = True) -> Iterator[Outcome]:
    """The outcome of each task; `draw` says whether overlays are written too."""
    for task in tasks:
        try:
            began = perf_counter()
            picture = read_picture(task.picture)
            was_read = perf_counter()
            shown = presenter.show(task, picture, presenter.find(picture), draw)
            written = perf_counter()
        except AdapterError as error:
            yield Outcome(task, error=" ".join(str(error).split()))
        except MemoryError:
            yield Outcome(task, error="there is not enough memory for a picture of this size; scale it down")
        else:
            seconds = {"read": was_read - began, **shown.seconds}
            seconds["write"] = written - began - sum(seconds.values())
            yield Outcome(task, size=picture.shape[:2], shown=shown, seconds=seconds)
