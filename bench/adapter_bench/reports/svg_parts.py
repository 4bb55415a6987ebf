"""What every SVG chart is made of: places on an axis, labels, marks that tell what they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from adapter_bench.reports.charts import COLOURS, Axis
from adapter_bench.reports.numbers import tick_text, ticks

WIDE, NARROW = 580, 340
LINE = 26  # height of one row of a bar chart
SMALL_LINE = 40  # the same where the name stands above the bar
DOTS = 120  # samples drawn of one strip; figures use all of them
LETTER = 6.7  # mean width of a letter at the charts' size, of a wide typeface


class Place:
    """From a figure to a position; the axis ends a little beyond the data, and begins at zero where `zero` asks."""

    def __init__(self, values: Sequence[float], log: bool, start: float, end: float, zero: bool = False) -> None:
        low, high = min(values), max(values)
        self.log = log and low > 0
        if self.log:
            room = max(math.log10(high / low) * 0.06, 0.05)
            low, high = low / 10**room, high * 10**room
        else:
            low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
            room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
            low, high = (low if low == 0 and zero else low - room), high + room
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, wanted: int, axis: Axis) -> list[float]:
        """Positions to name: those that the axis asks for, where they stand apart enough."""
        if axis.at:
            found: list[float] = []
            for tick in sorted(set(axis.at)):
                if not found or abs(self(tick) - self(found[-1])) > 8 + LETTER * len(tick_text(tick)):
                    found.append(tick)
            return found
        found = ticks(self.low, self.high, self.log, wanted)
        while len(found) > wanted + 2:
            found = found[::2]
        return found


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def tip(shape: str, text: str) -> str:
    """A shape that tells what it stands for: to a browser without script, to the page's script, to a screen reader."""
    return f'<g class="tip" tabindex="0" data-tip="{escape(text)}"><title>{escape(text)}</title>{shape}</g>'


def fit(text: str, width: float) -> str:
    letters = max(int(width / LETTER), 4)
    return text if len(text) <= letters else text[: letters - 1].rstrip(" ,") + "…"


_SHAPES: tuple[Callable[[float, float], str], ...] = (
    lambda x, y: f'<circle class="fill %s" cx="{x:g}" cy="{y:g}" r="4.5"/>',
    lambda x, y: f'<rect class="fill %s" x="{x - 4:g}" y="{y - 4:g}" width="8" height="8"/>',
    lambda x, y: f'<path class="fill %s" d="M{x:g} {y - 5.5:g}L{x + 5.2:g} {y + 4:g}H{x - 5.2:g}Z"/>',
    lambda x, y: f'<path class="fill %s" d="M{x:g} {y - 6:g}L{x + 6:g} {y:g}L{x:g} {y + 6:g}L{x - 6:g} {y:g}Z"/>',
    lambda x, y: f'<path class="fill %s" d="M{x:g} {y + 5.5:g}L{x + 5.2:g} {y - 4:g}H{x - 5.2:g}Z"/>',
)


def symbol(x: float, y: float, index: int) -> str:
    """Colour and shape change together: neither is needed to tell two series apart."""
    return _SHAPES[index % len(_SHAPES)](x, y) % f"s{index % COLOURS}"


def spoken(axis: Axis, value: float) -> str:
    text = f"{value:.4g}" if abs(value) < 1e6 else f"{value:.3e}"
    return f"{axis.title} {text} {axis.unit}".strip()
