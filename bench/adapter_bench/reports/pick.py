"""Which charts a suite's figures are worth: chosen by what was measured, so that a new suite needs no code here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from statistics import median

from adapter_bench.reports import pick_special as special
from adapter_bench.reports.charts import XY, Axis, Bar, Bars, Chart, Point, Series, Stack, Stacks, Strip, Strips, groups
from adapter_bench.reports.data import Column, Row, Suite
from adapter_bench.reports.numbers import Scale, is_number
from adapter_bench.reports.pick_special import group_names, slug

MOST_ROWS = 40  # of one chart; the table has them all

# What a figure is, by its column's key; the first pattern that fits decides, in the order of the suite's columns.
ROLES = {
    "fps": r"fps|images_per_s(econd)?|throughput",
    "latency": r"latency(_ms)?(_median)?|median(_ms)?",
    "macs": r"g?macs(_g|_per_image)?",
    "macs_paper": r"g?macs_paper(_g)?",
    "parity": r"(parity|max_abs|difference|error)\w*",
    "memory": r"(peak|memory)\w*",
    "activations": r"activations(_bytes)?",
    "size": r"(size|side|input|image_size|height|pixels)",
    "batch": r"batch(_size)?",
    "share": r"(share|percent|fraction)\w*",
    "time": r"(time|self|own|total)?_?ms|time\w*",
}


def charts(suite: Suite) -> list[Chart]:
    """The charts of a suite, in the order in which they are read."""
    makers: dict[str, tuple[Callable[[Suite], Iterator[Chart]], ...]] = {
        "fourier": (special.frequencies, special.frequency_difference),
        "op": (special.roofline, _latencies),
    }
    found = makers.get(suite.kind)
    if found is None:
        found = (_speed, _parts, _scaling, _against_macs, _against_parity, special.roofline, _latencies)
    return [chart for make in found for chart in make(suite)]


def role(suite: Suite, name: str) -> Column | None:
    """The column that holds such a figure, if any row has one."""
    pattern = re.compile(ROLES[name])
    fitting = [column.key for column in suite.columns if pattern.fullmatch(column.key.lower())]
    return suite.column(*fitting)


def _measured(suite: Suite, column: Column | None) -> list[tuple[Row, float]]:
    if column is None:
        return []
    rows = ((row, row.values.get(column.key)) for row in suite.rows if row.status == "ok")
    return [(row, float(value)) for row, value in rows if value is not None and is_number(value)]


def _axis(column: Column, values: list[float], log: bool = False) -> tuple[Axis, float]:
    """The axis of a column, and by what its figures are divided."""
    scale = Scale.of(values, column.unit)
    return Axis(column.title, scale.unit, log and min(values) > 0), scale.factor


def _spread(values: list[float], times: float = 8.0) -> bool:
    """Whether positive figures differ so much that only ratios show them all."""
    return min(values) > 0 and max(values) / min(values) > times


def _left_out(suite: Suite, shown: int) -> str:
    missing = len(suite.rows) - shown
    return f"Not shown: {missing} of {len(suite.rows)} rows, for which nothing was measured." if missing > 0 else ""


def _failures(suite: Suite) -> str:
    missing = [row.name for row in suite.rows if row.status != "ok"]
    return (
        f"Not shown, since they failed or cannot be had: {len(missing)} of {len(suite.rows)} rows." if missing else ""
    )


def _speed(suite: Suite) -> Iterator[Chart]:
    column = role(suite, "fps") or role(suite, "latency")
    found = _measured(suite, column)
    if column is None or not 1 < len(found) <= MOST_ROWS or _swept(suite) is not None:
        return
    axis, factor = _axis(column, [value for _, value in found])
    bars = [Bar(row.name, row.group, value / factor) for row, value in found]
    yield Bars("speed", _sentence(column.title), axis, bars, note=_left_out(suite, len(bars)))
    for ratio in suite.columns:
        if re.fullmatch(f"{ROLES['fps']}|{ROLES['latency']}|{ROLES['memory']}", ratio.key):
            continue  # of other hardware: nothing to hold ours against
        pairs = [(row, value) for row, value in _measured(suite, ratio) if ratio.key in row.paper]
        if len(pairs) < 2:
            continue
        axis, factor = _axis(ratio, [value for _, value in pairs])
        bars = [Bar(row.name, row.group, value / factor, row.paper[ratio.key] / factor) for row, value in pairs]
        note = "The bar is what was measured here, the upright line what the paper prints."
        yield Bars(f"paper-{slug(ratio.key)}", f"Beside the paper: {ratio.title}", axis, bars, note=note)


def _latencies(suite: Suite) -> Iterator[Chart]:
    found: list[tuple[str, str, list[float], float]] = []
    for row in suite.rows:
        for result in row.results:
            samples = [
                float(s) for s in (result.get("latency_ms") or {}).get("samples") or () if is_number(s) and s > 0
            ]
            if samples:
                more = f", batch {result['batch']}" if len(row.results) > 1 and "batch" in result else ""
                found.append((row.name + more, row.group, samples, median(samples)))
    if not found:
        return
    scale = Scale.of([middle for *_, middle in found], "ms")
    # Rows of different speed: each beside its own median, or nothing would be seen of how its runs differ.
    relative = _spread([middle for *_, middle in found], 1.15)
    strips = [
        Strip(
            name,
            group,
            [100 * (sample / middle - 1) for sample in samples] if relative else samples,
            scale.with_unit(middle),
        )
        for name, group, samples, middle in found[:MOST_ROWS]
    ]
    note = (
        "Every run is a dot; the box holds the middle half, the upright line is the median, which stands at the right."
    )
    if len(found) > MOST_ROWS:
        note += f" The first {MOST_ROWS} of {len(found)}."
    axis = Axis("difference from the row's own median", "%") if relative else Axis("latency of one run", "ms")
    yield Strips("latency", "Latency of every run", axis, strips, note=note)


def _scatter(suite: Suite, key: str, title: str, across: Column, note: str) -> Iterator[Chart]:
    up = role(suite, "fps") or role(suite, "latency")
    if up is None:
        return
    pairs = [(row, row.values.get(across.key), row.values.get(up.key)) for row in suite.rows if row.status == "ok"]
    found = [(row, float(x), float(y)) for row, x, y in pairs if is_number(x) and is_number(y)]
    note = f"{note} {_left_out(suite, len(found))}".strip()
    zeros = [row.name for row, x, _ in found if x == 0]
    if zeros and _spread([x for _, x, _ in found if x > 0] or [1.0]):  # which ratios cannot show
        note += f" Not shown, since it is 0: {', '.join(zeros[:6])}."
        found = [one for one in found if one[1] != 0]
    if len(found) < 2:
        return
    x_axis, x_factor = _axis(across, [x for _, x, _ in found], _spread([x for _, x, _ in found]))
    y_axis, y_factor = _axis(up, [y for *_, y in found], _spread([y for *_, y in found]))
    series = [
        Series(
            group,
            [Point(x / x_factor, y / y_factor, row.name) for row, x, y in found if row.group == group],
            names=True,
        )
        for group in groups([row.group for row, *_ in found])
    ]
    yield XY(key, title, x_axis, y_axis, series, note=note)


def _against_macs(suite: Suite) -> Iterator[Chart]:
    across = role(suite, "macs") or role(suite, "macs_paper")
    if across is not None and _swept(suite) is None:
        note = "Above and to the left of its neighbours, a model does more with its arithmetic."
        yield from _scatter(suite, "speed-macs", "Speed against multiply-adds", across, note)


def _against_parity(suite: Suite) -> Iterator[Chart]:
    across = role(suite, "parity")
    if across is not None:
        note = "Parity is the difference from the reference: further left is closer to it."
        yield from _scatter(suite, "speed-parity", "Speed against accuracy of parity", across, note)


# --- scaling: one line per group over what grows ---


def _swept(suite: Suite) -> Column | None:
    """The column that a suite sweeps: at least three different sizes or batches, one row each in some group."""
    for name in ("size", "batch"):
        column = role(suite, name)
        counts = [len({value for row, value in _measured(suite, column) if row.group == g}) for g in group_names(suite)]
        if column is not None and max(counts, default=0) >= 3:
            return column
    return None


def _scaling(suite: Suite) -> Iterator[Chart]:
    for name in ("size", "batch"):
        across = role(suite, name)
        if across is None:
            continue
        other = role(suite, "batch" if name == "size" else "size")
        for what in ("latency", "memory", "activations", "fps"):
            up = role(suite, what)
            if up is not None:
                yield from _growth(suite, across, up, other)


def _growth(suite: Suite, across: Column, up: Column, other: Column | None) -> Iterator[Chart]:
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for row, x in _measured(suite, across):
        y = row.values.get(up.key)
        if not is_number(y) or x <= 0 or y <= 0:
            continue
        held = row.values.get(other.key) if other is not None else None
        more = f"{other.title} {held:g}" if other is not None and is_number(held) else ""
        line = ", ".join(part for part in (row.group or suite.name, more) if part)
        lines.setdefault(line, []).append((x, float(y), row.name))
    lines = {name: sorted(points) for name, points in lines.items() if len({x for x, *_ in points}) >= 3}
    if not lines:
        return
    every = [y for points in lines.values() for _, y, _ in points]
    axis, factor = _axis(up, every, True)
    series = [
        Series(name, [Point(x, y / factor, told) for x, y, told in points], line=True) for name, points in lines.items()
    ]
    yield XY(
        f"{slug(up.key)}-over-{slug(across.key)}",
        f"{_sentence(up.title)} over {across.title}",
        Axis(across.title, across.unit, True, tuple(x for points in lines.values() for x, *_ in points)),
        axis,
        series,
        note=f"Both axes by ratios: a straight line is a power. {_failures(suite)}".strip(),
    )


# --- where the time goes ---


def _parts(suite: Suite) -> Iterator[Chart]:
    """A suite of parts: one bar per row made of its columns, or per group made of its rows."""
    shares = [column for column in suite.columns if column.key.startswith("share_")]
    if shares:
        yield from _shares(suite, shares)
        return
    column = role(suite, "time") if role(suite, "share") is not None else None
    column = column or role(suite, "share")
    if column is None or role(suite, "fps") is not None:
        return
    found = _measured(suite, column)
    stacks = []
    for group in groups([row.group for row, _ in found]):
        own = [(row.name, value) for row, value in found if row.group == group and value > 0]
        stacks.append(Stack(group or suite.title, own))
    stacks = [stack for stack in stacks if len(stack.parts) > 1]
    if stacks:
        yield Stacks("parts", "Where the time goes", Axis(column.title, column.unit), stacks)


def _shares(suite: Suite, columns: list[Column]) -> Iterator[Chart]:
    """Rows whose columns are parts of their time in percent; in milliseconds where the whole is known."""
    whole = suite.column("wall_ms")
    stacks = []
    for row in suite.rows:
        total = 100.0 if whole is None else row.values.get(whole.key)
        pairs = [(column.title, row.values.get(column.key)) for column in columns]
        parts = [(title, share * total / 100) for title, share in pairs if share and total]
        stacks += [Stack(row.name, parts)] if parts and row.status == "ok" else []
    axis = Axis("share of the time", "%") if whole is None else Axis(whole.title, whole.unit)
    if stacks:
        yield Stacks("parts", "Where the time goes", axis, stacks, note=_failures(suite))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
