"""What an export came to: the figures that the command prints and `--json` writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapter_export.precision import Precision
from adapter_infer.metadata import InputForm


@dataclass(frozen=True)
class Difference:
    """How far one output, or one step of a detector, is from torch in one run.

    `path` is "library", "body", "stand_in", "plain", "as_written", or "drawn" for what a detector chooses from drawn
    predictions. `largest` is the largest absolute difference (of labels: by how much the chosen class's logit is below
    the best; of boxes: in pixels), `limit` the tolerance. `rms` is the root of the mean squared difference, held to
    `rms_limit` where that is given. Where a choice is wrong, `reason` says how, and `largest` is infinite.
    """

    path: str
    output: str
    input_shape: tuple[int, ...]
    largest: float
    limit: float
    rms: float = 0.0
    rms_limit: float | None = None
    reason: str = ""

    @property
    def share(self) -> float:
        """Of the tolerance used up; above 1 fails."""
        of_rms = 0.0 if self.rms_limit is None else self.rms / self.rms_limit
        return max(self.largest / self.limit, of_rms)


@dataclass(frozen=True)
class Match:
    """How far the detections of one run agree with torch's, end to end: pairs of one label whose boxes overlap by 0.9.

    `unmatched` counts those of both sides that have no partner; `worst_iou` and `worst_score` are the smallest overlap
    and the largest difference of scores in a pair, None without pairs.
    """

    path: str
    input_shape: tuple[int, ...]
    matched: int
    unmatched: int
    worst_iou: float | None
    worst_score: float | None


@dataclass(frozen=True)
class Parity:
    """All comparisons, and the runtime paths that could not be tried with the reason.

    `rounded` says how a half type was compared: an fp32 stand-in for the file, rounded to that type after each
    operator; but the path "as_written" is the file itself. None where the file has no half type. `matches` has one
    entry a case and path for a detector; they are no part of the judgement, which goes by its steps.
    """

    differences: tuple[Difference, ...] = ()
    unchecked: dict[str, str] = field(default_factory=dict)
    rounded: str | None = None
    matches: tuple[Match, ...] = ()

    def worst(self, path: str | None = None) -> Difference | None:
        """The comparison that used up most of its tolerance, of one path or of all."""
        chosen = [difference for difference in self.differences if path in {None, difference.path}]
        return max(chosen, key=lambda difference: difference.share, default=None)

    def paths(self) -> list[str]:
        """The runtime paths tried, in order."""
        return list(dict.fromkeys(difference.path for difference in self.differences))

    def tolerance(self) -> dict[str, Any]:
        """What the worst comparison was held to: output, largest difference, and of half types the root mean square."""
        worst = self.worst()
        if worst is None:
            return {}
        rms = {} if worst.rms_limit is None else {"rms": worst.rms_limit}
        return {"output": worst.output, "largest": worst.limit} | rms

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
    precision: Precision
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
            result["parity"] |= {"largest": self.parity.largest(), "tolerance": self.parity.tolerance()}
        return result
