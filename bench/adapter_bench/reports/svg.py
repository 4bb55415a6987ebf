"""Charts as SVG text for the page: no script needed, colours and type from the page's style sheet.

Every chart is drawn twice, for a screen and for a phone, and the style sheet shows one of them: text keeps its size.
"""

from __future__ import annotations

from html import escape

from adapter_bench.reports.charts import COLOURS, XY, Bars, Chart, Series, Stacks, Strips, groups
from adapter_bench.reports.numbers import tick_text
from adapter_bench.reports.svg_parts import LETTER, NARROW, WIDE, Place, fit, label, spoken, symbol, tip
from adapter_bench.reports.svg_rows import draw_bars, draw_stacks, draw_strips


def draw(chart: Chart) -> str:
    """The chart for both widths."""
    return "".join(
        f'<svg class="chart {name}" viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(chart.title)}">'
        f"{body}</svg>"
        for name, width in (("wide", WIDE), ("narrow", NARROW))
        for height, body in [_body(chart, width)]
    )


def legend(chart: Chart) -> str:
    """Names of colours and marks, as HTML; empty where there is nothing to tell apart."""
    if isinstance(chart, XY):
        entries = [
            (one.name, index, "line" if one.line and not one.dots else "dot") for index, one in enumerate(chart.series)
        ]
    elif isinstance(chart, Stacks):
        parts = [name for stack in chart.stacks for name, _ in stack.parts]
        entries = [(name, index, "box") for name, index in groups(parts).items()]
    elif isinstance(chart, (Bars, Strips)):
        rows = chart.bars if isinstance(chart, Bars) else chart.strips
        entries = [(name, index, "box") for name, index in groups([row.group for row in rows]).items()]
    else:
        return ""
    mark = chart.mark_name if isinstance(chart, Bars) and any(bar.mark is not None for bar in chart.bars) else ""
    if len(entries) < 2 and not mark:
        return ""
    items = [f"<li>{_key(index, shape)}{escape(name or 'other')}</li>" for name, index, shape in entries]
    items += [f"<li>{_KEY_MARK}{escape(mark)}</li>"] if mark else []
    return f'<ul class="legend">{"".join(items)}</ul>'


_KEY_MARK = '<svg viewBox="0 0 14 14"><path class="paper" d="M7 1V13"/></svg>'


def _key(index: int, shape: str) -> str:
    inner = {
        "line": f'<path class="line s{index % COLOURS}" d="M1 7H13"/>',
        "dot": symbol(7, 7, index),
        "box": f'<rect class="fill s{index % COLOURS}" x="2" y="2" width="10" height="10" rx="2"/>',
    }[shape]
    return f'<svg viewBox="0 0 14 14">{inner}</svg>'


def _body(chart: Chart, width: int) -> tuple[float, str]:
    if isinstance(chart, XY):
        return _xy(chart, width)
    if isinstance(chart, Bars):
        return draw_bars(chart, width)
    if isinstance(chart, Strips):
        return draw_strips(chart, width)
    assert isinstance(chart, Stacks)
    return draw_stacks(chart, width)


def _xy(chart: XY, width: int) -> tuple[float, str]:
    height = 360.0 if width == WIDE else 320.0
    points = [point for series in chart.series for point in series.points]
    right = 20.0
    left, bottom, top = 58.0, height - 46, 26.0
    x = Place([point.x for point in points], chart.x.log, left, width - right)
    y = Place([point.y for point in points], chart.y.log, bottom, top)
    parts = [label(left - 50, 12, chart.y.label, "axis")]
    for tick in y.ticks(6, chart.y):
        parts.append(f'<path class="grid" d="M{left:g} {y(tick):g}H{width - right:g}"/>')
        parts.append(label(left - 7, y(tick) + 4, tick_text(tick), "tick", "end"))
    for tick in x.ticks(7 if width == WIDE else 4, chart.x):
        parts.append(f'<path class="grid" d="M{x(tick):g} {top:g}V{bottom:g}"/>')
        parts.append(label(x(tick), bottom + 17, tick_text(tick), "tick", "middle"))
    parts.append(label((left + width - right) / 2, height - 8, chart.x.label, "axis", "middle"))
    taken: list[tuple[float, float, float, float]] = []
    for series in chart.series:
        taken += [(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in series.points if series.dots]
    for index, series in enumerate(chart.series):
        parts.append(_series(chart, series, index, x, y))
    for series in chart.series:
        if series.names:
            parts += [_beside(x(p.x), y(p.y), p.name, width, top, taken) for p in series.points]
    return height, "".join(parts)


def _series(chart: XY, series: Series, index: int, x: Place, y: Place) -> str:
    parts = []
    if series.line and len(series.points) > 1:
        path = "L".join(f"{x(p.x):g} {y(p.y):g}" for p in series.points)
        shape = f'<path class="line s{index % COLOURS}{" dashed" if series.dashed else ""}" d="M{path}"/>'
        parts.append(shape if series.dots else tip(shape, series.name))
    if series.dots:
        for p in series.points:
            told = ": ".join(dict.fromkeys(part for part in (series.name, p.name) if part))
            text = f"{told}; {spoken(chart.x, p.x)}; {spoken(chart.y, p.y)}"
            parts.append(tip(symbol(x(p.x), y(p.y), index), text))
    return "".join(parts)


def _beside(
    x: float, y: float, name: str, width: int, top: float, taken: list[tuple[float, float, float, float]]
) -> str:
    """The name beside its point, where nothing else stands; left out where there is no room (the tip has it)."""
    text = fit(name, 170 if width == WIDE else 110)
    long = len(text) * LETTER
    for anchor, dx, dy in (
        ("start", 9, 4),
        ("end", -9, 4),
        ("start", 5, -9),
        ("end", -5, -9),
        ("start", 5, 17),
        ("end", -5, 17),
    ):
        x0 = x + dx if anchor == "start" else x + dx - long
        box = (x0, y + dy - 10, x0 + long, y + dy + 3)
        if box[0] < 58 or box[2] > width - 2 or box[1] < top - 12:
            continue
        if all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in taken):
            taken.append(box)
            return label(x + dx, y + dy, text, "name", anchor)
    return ""
