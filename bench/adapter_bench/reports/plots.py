"""The page's charts as PNG and SVG files, for people who only want a picture. Needs matplotlib (extra "report")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapter_bench.reports import pick
from adapter_bench.reports.charts import XY, Axis, Bars, Chart, Stacks, Strips, groups
from adapter_bench.reports.data import Suite
from adapter_bench.reports.numbers import tick_text
from adapter_infer.errors import EnvironmentMissing
from adapter_infer.files import replacing

COLOURS = ("#0b6bb8", "#c8500a", "#0a8265", "#a63d86", "#8a6d00", "#4b5bb5", "#b0303d", "#55616e")
MARKS = ("o", "s", "^", "D", "v")
FORMATS = ("png", "svg")
NAME = 44  # letters of a row's name


def check() -> None:
    """Errors: EnvironmentMissing without matplotlib."""
    figure()


def figure(width: float = 8.0, height: float = 5.0) -> Any:
    """An empty figure that needs no screen. Errors: EnvironmentMissing without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentMissing(
            f'plots need matplotlib ({error}); pip install "adapter-infer[report]", or leave --plots out'
        ) from error
    # Text stays text; names are never read as formulas; and the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "adapter-bench", "text.parse_math": False})
    return Figure(figsize=(width, height), layout="constrained")


def write(suites: Sequence[Suite], folder: Path) -> list[Path]:
    """Every chart as SUITE-CHART.png and .svg in `folder`. Errors: EnvironmentMissing, AdapterError."""
    written: list[Path] = []
    taken: dict[str, int] = {}
    for suite in suites:
        for chart in pick.charts(suite):
            stem = re.sub(r"[^a-z0-9]+", "-", f"{suite.name}-{chart.key}".lower()).strip("-")[:100]
            taken[stem] = taken.get(stem, 0) + 1  # long names may end alike
            stem += f"-{taken[stem]}" if taken[stem] > 1 else ""
            written += save(draw(chart, suite.title), folder / stem)
    return written


def save(drawn: Any, stem: Path) -> list[Path]:
    """The figure in both formats."""
    files = []
    for form in FORMATS:
        path = stem.with_name(f"{stem.name}.{form}")
        with replacing(path) as stream:
            drawn.savefig(stream, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
        files.append(path)
    return files


def draw(chart: Chart, heading: str = "") -> Any:
    """One chart as a matplotlib figure."""
    rows = 0
    for kind, names in ((Bars, "bars"), (Strips, "strips"), (Stacks, "stacks")):
        rows = len(getattr(chart, names)) if isinstance(chart, kind) else rows
    drawn = figure(8.0, 5.0 if isinstance(chart, XY) else 1.6 + 0.34 * rows)
    axes = drawn.add_subplot()
    axes.set_title("\n".join(part for part in (heading[:90], chart.title[:90]) if part), loc="left", fontsize=11)
    axes.grid(True, axis="both" if isinstance(chart, XY) else "x", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if isinstance(chart, XY):
        _xy(axes, chart)
    elif isinstance(chart, Bars):
        _bars(axes, chart)
    elif isinstance(chart, Strips):
        _strips(axes, chart)
    elif isinstance(chart, Stacks):
        _stacks(axes, chart)
    return drawn


def _scale(axes: Any, axis: Axis, which: str) -> None:
    getattr(axes, f"set_{which}label")(axis.label)
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
    if axis.at:
        at = sorted(set(axis.at))
        getattr(axes, f"set_{which}ticks")(at, [tick_text(tick) for tick in at], fontsize=8)
        getattr(axes, f"set_{which}ticks")([], minor=True)


def _xy(axes: Any, chart: XY) -> None:
    for index, series in enumerate(chart.series):
        style = ("--" if series.dashed else "-") if series.line else ""
        axes.plot(
            [point.x for point in series.points],
            [point.y for point in series.points],
            linestyle=style,
            marker=MARKS[index % len(MARKS)] if series.dots else "",
            color=COLOURS[index % len(COLOURS)],
            label=series.name or "all",
        )
        for point in series.points if series.names else ():
            axes.annotate(point.name[:NAME], (point.x, point.y), (5, 4), textcoords="offset points", fontsize=7)
    _scale(axes, chart.x, "x")
    _scale(axes, chart.y, "y")
    if len(chart.series) > 1:
        axes.legend(fontsize=8, frameon=False)


def _names(axes: Any, names: list[str]) -> None:
    axes.set_yticks(
        range(len(names)), [name if len(name) <= NAME else name[: NAME - 1] + "…" for name in names], fontsize=8
    )
    axes.invert_yaxis()


def _legend(axes: Any, numbers: dict[str, int], *more: Any) -> None:
    from matplotlib.patches import Patch

    if len(numbers) > 1 or more:
        patches = [Patch(color=_colour(index), label=name or "other") for name, index in numbers.items()]
        axes.legend(handles=[*(patches if len(numbers) > 1 else []), *more], fontsize=8, frameon=False)


def _colour(index: int) -> tuple[str, float]:
    return COLOURS[index % len(COLOURS)], 1.0 if index < len(COLOURS) else 0.55


def _bars(axes: Any, chart: Bars) -> None:
    from matplotlib.lines import Line2D

    numbers = groups([bar.group for bar in chart.bars])
    colours = [_colour(numbers[bar.group]) for bar in chart.bars]
    axes.barh(range(len(chart.bars)), [bar.value for bar in chart.bars], 0.6, color=colours)
    marked = [(index, bar.mark) for index, bar in enumerate(chart.bars) if bar.mark is not None]
    for index, mark in marked:
        axes.plot([mark, mark], [index - 0.4, index + 0.4], color="black", linewidth=2)
    _names(axes, [bar.name for bar in chart.bars])
    _scale(axes, chart.axis, "x")
    _legend(axes, numbers, *([Line2D([], [], color="black", linewidth=2, label=chart.mark_name)] if marked else []))


def _strips(axes: Any, chart: Strips) -> None:
    numbers = groups([strip.group for strip in chart.strips])
    for index, strip in enumerate(chart.strips):
        colour = COLOURS[numbers[strip.group] % len(COLOURS)]
        rows = [index + (number * 7 % 11 - 5) * 0.04 for number in range(len(strip.samples))]
        axes.plot(strip.samples, rows, ".", color=colour, alpha=0.35, markersize=4)
        axes.boxplot(
            [strip.samples],
            positions=[index],
            widths=0.55,
            orientation="horizontal",
            whis=(0, 100),
            manage_ticks=False,
            boxprops={"color": colour},
            whiskerprops={"color": colour},
            medianprops={"color": colour, "linewidth": 2.5},
            showcaps=False,
        )
    _names(axes, [f"{strip.name[: NAME - 12]}, {strip.median}" for strip in chart.strips])
    _scale(axes, chart.axis, "x")
    _legend(axes, numbers)


def _stacks(axes: Any, chart: Stacks) -> None:
    numbers = groups([name for stack in chart.stacks for name, _ in stack.parts])
    for index, stack in enumerate(chart.stacks):
        at = 0.0
        for name, value in stack.parts:
            axes.barh(index, value, 0.6, left=at, color=_colour(numbers[name]), edgecolor="white", linewidth=0.5)
            at += value
    _names(axes, [stack.name for stack in chart.stacks])
    _scale(axes, chart.axis, "x")
    _legend(axes, numbers)
