"""What can be measured: the protocol that an exported engine and a PyTorch model both answer to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adapter_bench.measure import Rules
from adapter_infer.spec import ModelSpec

Size = tuple[int, int]  # height, width in pixels
# Makes the input of one batch at one size and returns what runs the model on it once.
Prepare = Callable[[int, Size], Callable[[], object]]


@dataclass(frozen=True)
class Count:
    """MACs of one run over a whole batch. `paper` is per image, None where the model is not known.

    `uncounted` names operators that may multiply and that no rule covers; `macs` is a lower bound then.
    """

    macs: int
    by_operator: dict[str, int]
    paper: int | None
    uncounted: dict[str, int]
    remarks: tuple[str, ...] = ()


def content_remarks(count: Any, slots: int) -> list[str]:
    """What a reader must know of a detector's speed; `count` (N,) of its `slots` detections were found in the last run
    of each picture."""
    found = " and ".join(str(number) for number in sorted({int(number) for number in count}))
    return [
        "NMS and RoIAlign have as much work as the pictures give them: these were drawn, the same in every run and as "
        f"large as the input, and the model found {found} of at most {slots} detections in each (random weights tend "
        "to fill all slots)"
    ]


def default_size(spec: ModelSpec | None) -> Size | None:
    """The size at which a model is measured: its crop; a detector's scale, padded, the long side across; else None."""
    return None if spec is None else spec.inference.crop or spec.padded_size


class Subject(Protocol):
    """One model on one runtime."""

    name: str

    @property
    def spec(self) -> ModelSpec | None:
        """What the model is; None for a file of another maker."""

    def resolve(self, size: Size | None, batches: list[int] | None) -> tuple[Size, list[int]]:
        """The sizes to measure, defaults filled in. Errors: UsageError where the model does not take what was asked."""

    def open(self) -> AbstractContextManager[Prepare]:
        """Loads the model, and frees it at the end."""

    def facts(self) -> dict[str, Any]:
        """What does not depend on batch and size, as JSON data: engine, runtime, device, threads, precision, params."""

    def details(self, batch: int, size: Size, rules: Rules) -> dict[str, Any]:
        """What else there is to measure while the model is open, as JSON data that joins the result; {} for most."""

    def peak_memory(self, batch: int, size: Size) -> dict[str, Any]:
        """Bytes by what they are for, measured in a process of its own. Errors: EnvironmentMissing."""

    def baseline(self, cache: Path) -> Subject:
        """The plain ViT of this model on the same runtime; `cache` keeps what is exported for it.

        Errors: UnsupportedModel where there is none.
        """

    def count(self, batch: int, size: Size) -> Count:
        """MACs at one size. Errors: UnsupportedModel where they cannot be counted."""
