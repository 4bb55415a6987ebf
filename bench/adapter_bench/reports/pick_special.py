"""Charts of results that are not a suite's table: the op's roofline, and the frequencies of feature maps."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapter_bench.reports.charts import XY, Axis, Chart, Point, Series, groups
from adapter_bench.reports.data import Suite, figures_of
from adapter_bench.reports.numbers import is_number


def roofline(suite: Suite) -> Iterator[Chart]:
    """Arithmetic per second over arithmetic per byte, below what this machine can move and compute at most."""
    roof = suite.more.get("roof") or {}
    series, reached = [], []
    for group in group_names(suite):
        points = []
        for row in suite.rows:
            work = row.facts.get("work") or {}
            milliseconds = (
                row.values.get("latency_ms") or figures_of(row.results[0] if row.results else {})["latency_ms"]
            )
            if row.group == group and is_number(work.get("flops")) and is_number(work.get("bytes")) and milliseconds:
                points.append(Point(work["flops"] / work["bytes"], work["flops"] / milliseconds / 1e6, row.name))
        if points:
            series.append(Series(group, points))
            reached += points
    if not reached:
        return
    note = "A point below the line could go faster on this machine; the slope is memory, the flat part arithmetic."
    for name, one in sorted(roof.items()):
        bandwidth, peak = one.get("bytes_per_s"), one.get("flops_per_s")
        if is_number(bandwidth) and is_number(peak) and bandwidth > 0:
            ridge, low = peak / bandwidth, min(p.x for p in reached) / 2
            far = max(ridge * 3, max(p.x for p in reached) * 2)
            line = [Point(low, low * bandwidth / 1e9), Point(ridge, peak / 1e9), Point(far, peak / 1e9)]
            series.append(Series(f"roof, {name}", line, line=True, dots=False, dashed=True))
    if not roof:
        note = "The machine's own limits were not measured, so no roof is drawn."
    note += " Bytes are those of the inputs and the output, each once."
    yield XY(
        "roofline",
        "Roofline of the op",
        Axis("arithmetic intensity", "FLOP/byte", True),
        Axis("arithmetic per second", "GFLOP/s", True),
        series,
        note=note,
    )


def frequencies(suite: Suite) -> Iterator[Chart]:
    models = suite.more["models"]
    for stride in sorted({one["stride"] for model in models for one in model["maps"]}):
        series = [
            Series(str(model["name"]), _curve(one["frequency"], one["relative_log_amplitude"]), line=True)
            for model in models
            for one in model["maps"]
            if one["stride"] == stride
        ]
        note = "Relative to frequency zero, averaged over channels and pictures: higher at the right keeps more detail."
        axis = Axis("change of log amplitude", "ln")
        yield XY(
            f"stride-{stride}", f"Frequencies at stride {stride}", Axis("frequency", "of pi"), axis, series, note=note
        )


def frequency_difference(suite: Suite) -> Iterator[Chart]:
    for difference in suite.more.get("differences") or ():
        series = [
            Series(f"stride {one['stride']}", _curve(one["frequency"], one["log_amplitude_difference"]), line=True)
            for one in difference["maps"]
        ]
        title = f"{difference['model']} minus {difference['reference']}"
        axis = Axis("difference of log amplitude", "ln")
        yield XY(f"difference-{slug(difference['model'])}", title, Axis("frequency", "of pi"), axis, series)


def _curve(x: list[float], y: list[float]) -> list[Point]:
    return [Point(a, b) for a, b in zip(x, y, strict=True) if is_number(a) and is_number(b)]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "chart"


def group_names(suite: Suite) -> list[str]:
    return list(groups([row.group for row in suite.rows]))
