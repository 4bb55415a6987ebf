"""What a chart shows, without saying how it is drawn: `svg` draws it for the page, `plots` with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

COLOURS = 8  # series beyond these share colours, and are told apart by their marks


@dataclass(frozen=True)
class Axis:
    """A title with its unit, whether equal distances are equal ratios (`log`), and which positions to name (`at`)."""

    title: str
    unit: str = ""
    log: bool = False
    at: Sequence[float] = ()

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    name: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour. `line` joins them, `dots` marks them, `names` writes each point's name beside it."""

    name: str
    points: Sequence[Point]
    line: bool = False
    dots: bool = True
    dashed: bool = False
    names: bool = False


@dataclass(frozen=True)
class Chart:
    """`key` names the chart's file; `note` says how to read it and what is missing."""

    key: str
    title: str
    note: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class XY(Chart):
    """Points or lines over two axes."""

    x: Axis
    y: Axis
    series: Sequence[Series]


@dataclass(frozen=True)
class Bar:
    """One length; `mark` is another figure for the same row (the paper's)."""

    name: str
    group: str
    value: float
    mark: float | None = None


@dataclass(frozen=True)
class Bars(Chart):
    axis: Axis
    bars: Sequence[Bar]
    mark_name: str = "paper"


@dataclass(frozen=True)
class Strip:
    """Every sample of one row; `median` says their middle in words, with its unit."""

    name: str
    group: str
    samples: Sequence[float]
    median: str = ""


@dataclass(frozen=True)
class Strips(Chart):
    """Distributions below each other over one axis."""

    axis: Axis
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Stack:
    """One bar made of parts, in order."""

    name: str
    parts: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Stacks(Chart):
    axis: Axis
    stacks: Sequence[Stack]


def groups(names: Sequence[str]) -> dict[str, int]:
    """A number for each different name, in order of first appearance."""
    return {name: index for index, name in enumerate(dict.fromkeys(names))}
