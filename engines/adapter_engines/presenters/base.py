"""What adapter-run needs of a kind of model: to find something in a picture, to write it, and to tell of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapter_engines.engine import Engine
from adapter_engines.feeding import Feeding
from adapter_engines.inputs import Task
from adapter_engines.preprocessing import Size
from adapter_infer.errors import UsageError


@dataclass(frozen=True)
class Choices:
    """What was asked of a run; None (or False) where nothing was said. Each kind of model has some of them."""

    mode: str | None = None
    crop: Size | None = None
    stride: Size | None = None
    batch: int | None = None
    stretch: bool = False
    fit: bool = False
    score_threshold: float | None = None


@dataclass(frozen=True)
class Shown:
    """What was found in one picture, to be told: `summary` in a few words, `count` for the table's column, `facts` for
    the JSON document, `network_size` (height, width); `seconds` by stage: preprocess, network, postprocess."""

    summary: str
    count: int
    facts: dict[str, Any]
    network_size: Size
    seconds: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What became of one picture: `error` says why nothing was written, and is None where all went well.

    `size` (height, width) in pixels; `seconds` by stage, as in `runs.STAGES`.
    """

    task: Task
    error: str | None = None
    size: Size = (0, 0)
    shown: Shown = field(default_factory=lambda: Shown("", 0, {}, (0, 0), {}))
    seconds: dict[str, float] = field(default_factory=dict)


class Presenter(ABC):
    """One kind of model in adapter-run.

    `kind` and `doing` name it in messages; `takes` are the Choices that it has a use for; `summary_title` and
    `count_title` head the table's columns; `results` is the file that `finish` writes, None where it writes none.
    """

    kind: str
    doing: str
    takes: frozenset[str]
    summary_title: str
    count_title: str
    results: str | None = None

    engine: Engine
    feeding: Feeding

    def __init__(self, engine: Engine, asked: Choices) -> None:
        """Errors: UsageError on what cannot be done with the file, UnsupportedModel if it does not say enough."""
        self.engine = engine

    @abstractmethod
    def find(self, picture: np.ndarray) -> Any:
        """What is in `picture` (H, W, 3) uint8 RGB. Errors: AdapterError."""

    @abstractmethod
    def show(self, task: Task, picture: np.ndarray, found: Any, draw: bool) -> Shown:
        """Writes what `find` gave under the task's names, with a picture of it if `draw`. Errors: AdapterError."""

    @abstractmethod
    def files(self, task: Task, draw: bool) -> dict[str, str | None]:
        """The files that `show` writes, by their names in the JSON document."""

    def finish(self, outcomes: Sequence[Outcome], out: Path) -> dict[str, str]:
        """Writes into the folder `out` what is of all pictures; such files by their names in the JSON document."""
        return {}

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """How pictures are run, for the JSON document."""

    @property
    @abstractmethod
    def title(self) -> str:
        """How pictures are run, in a few words."""

    @property
    def note(self) -> str:
        """What the table's reader must know besides, "" if nothing."""
        return ""


def check_choices(presenter: type[Presenter], path: Path, asked: Choices) -> None:
    """Errors: UsageError on what was asked and a kind of model has no use for."""
    for name, value in vars(asked).items():
        if value is not None and value is not False and name not in presenter.takes:
            option = "--" + name.replace("_", "-")
            ways = {"stretch": "fit", "fit": "stretch"}
            other = ways.get(name)
            instead = f"; there is --{other} for it" if other in presenter.takes else ""
            raise UsageError(f"{option} does not apply to {path}, which is {presenter.kind}; leave it out{instead}")
