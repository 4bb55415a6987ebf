"""What an export came to: the figures that the command prints and `--json` writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapter_infer.metadata import InputForm


@dataclass(frozen=True)
class Difference:
    """How far one output of one run is from torch. `path` is "library", "body", "stand_in" or "plain".

    `largest` is the largest absolute difference (of labels: by how much the chosen class's logit is below the best),
    `limit` the tolerance.
    """

    path: str
    output: str
    input_shape: tuple[int, ...]
    largest: float
    limit: float

    @property
    def share(self) -> float:
        """Of the tolerance used up; above 1 fails."""
        return self.largest / self.limit


@dataclass(frozen=True)
class Parity:
    """All comparisons, and the runtime paths that could not be tried with the reason."""

    differences: tuple[Difference, ...] = ()
    unchecked: dict[str, str] = field(default_factory=dict)

    def worst(self, path: str | None = None) -> Difference | None:
        """The comparison that used up most of its tolerance, of one path or of all."""
        chosen = [difference for difference in self.differences if path in {None, difference.path}]
        return max(chosen, key=lambda difference: difference.share, default=None)

    def paths(self) -> list[str]:
        """The runtime paths tried, in order."""
        return list(dict.fromkeys(difference.path for difference in self.differences))

    def largest(self) -> dict[str, float]:
        """The largest difference by runtime path."""
        return {
            path: max(difference.largest for difference in self.differences if difference.path == path)
            for path in self.paths()
        }


@dataclass(frozen=True)
class ExportReport:
    """One finished export.

    `file_bytes` counts the second file too, `peak_bytes` is the largest memory of the process so far, `seconds` maps
    the steps to the time they took.
    """

    path: Path
    data_path: Path | None
    file_bytes: int
    name: str
    op: str
    opset: int
    output: str
    input: InputForm
    nodes: int
    msda_nodes: int
    params: int
    parity: Parity | None
    seconds: dict[str, float]
    peak_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        result = asdict(self)
        result["path"] = str(self.path)
        result["data_path"] = None if self.data_path is None else str(self.data_path)
        if self.parity is not None:
            result["parity"]["largest"] = self.parity.largest()
        return result
