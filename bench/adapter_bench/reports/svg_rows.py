"""SVG charts of rows below each other: bars, distributions, and bars made of parts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from adapter_bench.reports.charts import COLOURS, Axis, Bars, Stacks, Strips, groups
from adapter_bench.reports.numbers import Scale, tick_text
from adapter_bench.reports.svg_parts import DOTS, LETTER, LINE, SMALL_LINE, WIDE, Place, fit, label, spoken, tip


class Rows:
    """What bars, strips and stacks share: names at the left of a wide chart, above the bars of a narrow one."""

    def __init__(
        self, names: Sequence[str], width: int, values: Sequence[float], axis: Axis, zero: bool, told: Sequence[str]
    ) -> None:
        self.wide = width == WIDE
        self.line = LINE if self.wide else SMALL_LINE
        longest = max(map(len, names), default=0) * LETTER
        self.left = min(max(longest + 14, 60.0), 236.0) if self.wide else 4.0
        self.right = width - 16 - max(map(len, told), default=0) * LETTER  # where the figures stand
        self.top, self.names = 8.0, names
        self.bottom = self.top + self.line * len(names)
        self.height = self.bottom + 42
        self.x = Place(values, axis.log, self.left, self.right, zero)
        self.axis, self.width = axis, width

    def middle(self, index: int) -> float:
        return self.top + self.line * index + (self.line / 2 if self.wide else 27)

    def frame(self) -> str:
        parts = []
        for tick in self.x.ticks(6 if self.wide else 4, self.axis):
            parts.append(f'<path class="grid" d="M{self.x(tick):g} {self.top:g}V{self.bottom:g}"/>')
            parts.append(label(self.x(tick), self.bottom + 16, tick_text(tick), "tick", "middle"))
        for index, name in enumerate(self.names):
            if self.wide:
                cut = fit(name, self.left - 10)
                parts.append(label(self.left - 9, self.middle(index) + 4, cut, "row", "end"))
            else:
                parts.append(label(self.left, self.middle(index) - 12, fit(name, self.width - 8), "row"))
        parts.append(label((self.left + self.right) / 2, self.height - 6, self.axis.label, "axis", "middle"))
        return "".join(parts)


def draw_bars(chart: Bars, width: int) -> tuple[float, str]:
    marks = [bar.mark for bar in chart.bars if bar.mark is not None]
    scale = Scale.of([bar.value for bar in chart.bars], chart.axis.unit or "1")
    told = [scale.text(bar.value) for bar in chart.bars]
    rows = Rows(
        [bar.name for bar in chart.bars],
        width,
        [*(b.value for b in chart.bars), *marks],
        chart.axis,
        not chart.axis.log,
        told,
    )
    numbers = groups([bar.group for bar in chart.bars])
    zero = rows.left if rows.x.log else rows.x(0.0)
    parts = [rows.frame()]
    for index, bar in enumerate(chart.bars):
        middle, end = rows.middle(index), rows.x(bar.value)
        thick = 14 if rows.wide else 11
        shape = (
            f'<rect class="fill s{numbers[bar.group] % COLOURS}" x="{min(zero, end):g}" y="{middle - thick / 2:g}" '
            f'width="{max(abs(end - zero), 1):g}" height="{thick}" rx="2"/>'
        )
        said = f"{bar.name}: {spoken(chart.axis, bar.value)}"
        beside = end
        if bar.mark is not None:
            at = rows.x(bar.mark)
            shape += f'<path class="paper" d="M{at:g} {middle - 9:g}V{middle + 9:g}"/>'
            said += f"; {chart.mark_name} {bar.mark:.4g}"
            beside = max(end, at)
        shape += label(beside + 6, middle + 4, told[index], "value")
        parts.append(tip(shape, said))
    return rows.height, "".join(parts)


def draw_strips(chart: Strips, width: int) -> tuple[float, str]:
    values = [sample for strip in chart.strips for sample in strip.samples]
    rows = Rows(
        [strip.name for strip in chart.strips], width, values, chart.axis, False, [one.median for one in chart.strips]
    )
    numbers = groups([strip.group for strip in chart.strips])
    parts = [rows.frame()]
    for index, strip in enumerate(chart.strips):
        middle, ordered = rows.middle(index), sorted(strip.samples)
        colour = f"s{numbers[strip.group] % COLOURS}"
        low, first, half, third, high = _quantiles(ordered)
        x0, x1, x2, x3, x4 = (rows.x(value) for value in (low, first, half, third, high))
        every = max(1, -(-len(ordered) // DOTS))
        dots = "".join(
            f"M{rows.x(sample):g} {middle + (number * 7 % 11 - 5):g}h.01"
            for number, sample in enumerate(ordered[::every])
        )
        shape = (
            f'<path class="dots {colour}" d="{dots}"/>'
            f'<path class="whisker {colour}" d="M{x0:g} {middle:g}H{x1:g}M{x3:g} {middle:g}H{x4:g}"/>'
            f'<rect class="box {colour}" x="{x1:g}" y="{middle - 7:g}" width="{max(x3 - x1, 0.5):g}" height="14"/>'
            f'<path class="median {colour}" d="M{x2:g} {middle - 9:g}V{middle + 9:g}"/>'
        )
        ends = f"half of {len(ordered)} runs within {first:.4g} to {third:.4g} {chart.axis.unit}"
        said = f"{strip.name}: median {strip.median}; {ends}, all within {low:.4g} to {high:.4g}"
        parts += [tip(shape, said), label(rows.right + 6, middle + 4, strip.median, "value")]
    return rows.height, "".join(parts)


def _quantiles(ordered: Sequence[float]) -> tuple[float, float, float, float, float]:
    if len(ordered) < 2:
        return (ordered[0],) * 5
    first, half, third = statistics.quantiles(ordered, n=4, method="inclusive")
    return ordered[0], first, half, third, ordered[-1]


def draw_stacks(chart: Stacks, width: int) -> tuple[float, str]:
    totals = [sum(value for _, value in stack.parts) for stack in chart.stacks]
    scale = Scale.of(totals, chart.axis.unit or "1")
    told = [scale.text(total) for total in totals]
    rows = Rows([stack.name for stack in chart.stacks], width, totals, chart.axis, True, told)
    numbers = groups([name for stack in chart.stacks for name, _ in stack.parts])
    parts = [rows.frame()]
    for index, (stack, total) in enumerate(zip(chart.stacks, totals, strict=True)):
        at, middle = 0.0, rows.middle(index)
        for name, value in stack.parts:
            begin, end = rows.x(at), rows.x(at + value)
            second = " second" if numbers[name] >= COLOURS else ""
            shape = (
                f'<rect class="part s{numbers[name] % COLOURS}{second}" x="{begin:g}" '
                f'y="{middle - 9:g}" width="{max(end - begin, 0.3):g}" height="18"/>'
            )
            share = value / total if total else 0.0
            if end - begin > 34:
                shape += label((begin + end) / 2, middle + 4, f"{share:.0%}", "inside", "middle")
            parts.append(tip(shape, f"{stack.name}: {name}, {value:.4g} {chart.axis.unit}, {share:.1%}"))
            at += value
        parts.append(label(rows.x(at) + 6, middle + 4, told[index], "value"))
    return rows.height, "".join(parts)
