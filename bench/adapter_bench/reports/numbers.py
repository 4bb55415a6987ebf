"""Figures as text: one scale and one number of decimals for a whole column, so that digits stand below each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

ABSENT = "\N{EN DASH}"
WIDE = 1e4  # ratio of largest to smallest above which each figure gets its own exponent
LARGEST = 1e60  # and its inverse: nothing that was measured lies beyond
THOUSANDS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
BINARY = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
COUNTS = frozenset({"", "MACs", "FLOPs", "parameters", "MACs/s", "FLOP/s"})  # large ones are shown in G or M
BYTES = frozenset({"B", "byte", "bytes"})


@dataclass(frozen=True)
class Scale:
    """How the figures of one column are shown: divided by `factor`, in `unit`, with `decimals` (None: significant
    digits, with an exponent where they need one)."""

    factor: float
    unit: str
    decimals: int | None

    @staticmethod
    def of(values: Iterable[float | None], unit: str) -> Scale:
        """The scale of figures in `unit`; missing ones do not count."""
        sizes = [abs(value) for value in values if is_number(value) and value != 0]
        largest = max(sizes, default=1.0)
        factor, shown = 1.0, unit
        if unit in BYTES:
            factor, shown = next((pair for pair in BINARY if largest >= pair[0]), (1.0, "B"))
        elif unit in COUNTS:
            factor, letter = next((pair for pair in THOUSANDS if largest >= pair[0]), (1.0, ""))
            shown = f"{letter} {unit}".strip() if letter else unit
        scaled = [size / factor for size in sizes]
        if max(scaled, default=1.0) / min(scaled, default=1.0) > WIDE:
            return Scale(factor, shown, None)
        if all(size == round(size) for size in scaled) and max(scaled, default=0.0) < 1e6:
            return Scale(factor, shown, 0)
        # Four digits of the middle one (three behind a point), and at least one of the smallest.
        middle, smallest = sorted(scaled)[len(scaled) // 2], min(scaled)
        digits = 3 if middle >= 1 else 2
        decimals = max(digits - math.floor(math.log10(middle)), -math.floor(math.log10(smallest)), 0)
        return Scale(factor, shown, decimals if decimals <= 4 else None)

    @staticmethod
    def of_column(values: Iterable[float | None], paper: Iterable[float | None], unit: str) -> Scale:
        """The scale of a table's column: that of what was measured, the paper's figures only where nothing was."""
        own = [value for value in values if is_number(value)]
        return Scale.of(own or paper, unit)

    def text(self, value: float | None) -> str:
        """The figure without its unit, ABSENT where there is none."""
        if not is_number(value):
            return ABSENT
        scaled = value / self.factor
        if self.decimals is None:
            return f"{scaled:.3g}"
        return f"{scaled:,.{self.decimals}f}"

    def as_printed(self, value: float) -> str:
        """A published figure with the digits that it was published with."""
        return f"{value / self.factor:,.10g}"

    def with_unit(self, value: float | None) -> str:
        return self.text(value) if not is_number(value) else f"{self.text(value)} {self.unit}".strip()


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number that can be drawn: what files say may be anything, infinite or beyond any axis."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return value == 0 or 1 / LARGEST <= abs(value) <= LARGEST


def ticks(low: float, high: float, log: bool, wanted: int = 5) -> list[float]:
    """Round positions of an axis from `low` to `high`."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1.0,) if math.log10(high / low) > 3 else (1.0, 2.0, 5.0)
        every = max(1, (last - first) // 6)
        found = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
        return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
    span = high - low or 1.0
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A position of an axis, short."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.10g}"
