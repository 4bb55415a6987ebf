"""The report as tables: for a terminal, and in Markdown to paste."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from adapter_bench import smi

if TYPE_CHECKING:
    from rich.console import RenderableType

Data = dict[str, Any]
ABSENT = "-"
MODEL, BASELINE, OTHER_PLAN = "model", "plain ViT", "other plan"
LAYERS = 15  # the slowest ones that a table shows; JSON has them all


def amount(value: float | None, unit: str = "") -> str:
    """182557409280 -> "182.56 G"; three digits of thousand-steps, two decimals."""
    if value is None:
        return ABSENT
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.2f} {letter}{unit}"
    return f"{value:g} {unit}".strip()


def mebibytes(value: int | None) -> str:
    return ABSENT if value is None else f"{value / 2**20:,.0f} MiB"


def milliseconds(value: float | None) -> str:
    """Four significant digits, at most three decimals."""
    if value is None:
        return ABSENT
    decimals = 1 if value >= 100 else 2 if value >= 10 else 3
    return f"{value:.{decimals}f} ms"


def _latency(name: str, clock: str = "latency_ms") -> Callable[[Data], str]:
    return lambda result: milliseconds(result[clock][name])


def _memory(name: str) -> Callable[[Data], str]:
    return lambda result: mebibytes(result["memory"].get(name))


# title, what must have been measured for it, text of a result, value whose ratio to the baseline's is shown
Row = tuple[str, str, Callable[[Data], str], Callable[[Data], "float | None"] | None]
ROWS: list[Row] = [
    ("parameters", "params", lambda r: amount(r["params"]), lambda r: r["params"]),
    ("weights", "params", lambda r: mebibytes(r["weights_bytes"]), lambda r: r["weights_bytes"]),
    ("MSDA nodes", "params", lambda r: str(r["msda_nodes"]), None),
    ("MACs per image, MSDA included", "macs", lambda r: amount(r["macs"]), lambda r: r["macs"]),
    ("MACs per image, paper's rule", "macs", lambda r: amount(r["macs_paper"]), lambda r: r["macs_paper"]),
    ("latency, median", "latency_ms", _latency("median"), lambda r: r["latency_ms"]["median"]),
    ("latency, mean", "latency_ms", _latency("mean"), None),
    ("latency, min", "latency_ms", _latency("min"), None),
    ("latency, max", "latency_ms", _latency("max"), None),
    ("latency, p90", "latency_ms", _latency("p90"), None),
    ("latency, p95", "latency_ms", _latency("p95"), None),
    ("latency, p99", "latency_ms", _latency("p99"), None),
    ("latency, standard deviation", "latency_ms", _latency("std"), None),
    ("measured runs", "latency_ms", lambda r: str(r["latency_ms"]["count"]), None),
    ("GPU time, median", "gpu_ms", _latency("median", "gpu_ms"), lambda r: r["gpu_ms"]["median"]),
    ("GPU time, min", "gpu_ms", _latency("min", "gpu_ms"), None),
    ("GPU time, p90", "gpu_ms", _latency("p90", "gpu_ms"), None),
    ("GPU time, p99", "gpu_ms", _latency("p99", "gpu_ms"), None),
    ("enqueue time of the host, median", "enqueue_ms", _latency("median", "enqueue_ms"), None),
    ("enqueue time of the host, p99", "enqueue_ms", _latency("p99", "enqueue_ms"), None),
    ("images per second", "fps", lambda r: f"{r['fps']:.3f}", lambda r: r["fps"]),
    ("peak memory", "memory", _memory("peak_bytes"), lambda r: r["memory"]["peak_bytes"]),
    ("peak memory while running", "memory", _memory("run_peak_bytes"), lambda r: r["memory"]["run_peak_bytes"]),
    ("activations", "memory", _memory("activations_bytes"), lambda r: r["memory"]["activations_bytes"]),
    ("driver, kernels and runtime", "memory.driver_bytes", _memory("driver_bytes"), None),
]


def rows(result: Data) -> Iterator[tuple[str, str, str, str]]:
    """Title, model, baseline, ratio of what was measured; the last two are empty without a baseline."""
    baseline = result.get("baseline")
    for title, needed, text, value in ROWS:
        if _at(result, needed) is None:
            continue
        if baseline is None:
            yield title, text(result), "", ""
            continue
        known = _at(baseline, needed) is not None
        yield title, text(result), text(baseline) if known else ABSENT, _ratio(result, baseline, value) if known else ""


def _at(result: Data, place: str) -> Any:
    """The entry at "a" or "a.b", None where there is none."""
    found: Any = result
    for key in place.split("."):
        found = None if found is None else found.get(key)
    return found


def _ratio(result: Data, baseline: Data, value: Callable[[Data], float | None] | None) -> str:
    if value is None:
        return ""
    ours, theirs = value(result), value(baseline)
    if not ours or not theirs:
        return ""
    text = f"{ours / theirs:.3f}"
    spread = (result["ratio"] or {}).get("spread") if ours == result["fps"] else None
    return f"{text} ({spread['min']:.3f} to {spread['max']:.3f} by turns)" if spread else text


def circumstances(report: Data, result: Data) -> str:
    """The line without which no number of the table may travel."""
    runtime = result["runtime"]
    parts = [
        result["device"],
        f"{runtime['name']} {runtime['version']}, provider {runtime['provider']}",
        ABSENT if result["threads"] is None else f"{result['threads']} threads",
        result["precision"],
    ]
    if runtime["custom_op_library"]:
        parts.append(f"custom-op library {runtime['custom_op_library']['path'].rpartition('/')[2]}")
    if report["rules"] is not None:
        parts.append(report["rules"]["text"])
        if result["baseline"] is not None:
            parts.append("model and baseline in turns in one process")
        if load := report["machine"]["load_average"]:
            parts.append(f"load average {load[0]:g} at the start")
    if state := result.get("gpu_state"):
        parts += [f"GPU {when}: {smi.sentence(reading)}" for when, reading in state.items()]
    if result["memory"] is not None:
        parts.append(f"memory: {result['memory']['method']}")
    return "; ".join([*(part for part in parts if part != ABSENT), f"{report['tool']}, {report['finished'][:10]}"])


def remarks(result: Data) -> list[str]:
    """What else a reader must know; remarks on both model and baseline are given once."""
    own = result["remarks"]
    others = [] if result["baseline"] is None else result["baseline"]["remarks"]
    shared = [remark for remark in own if remark in others]
    return [
        *shared,
        *(f"{MODEL}: {remark}" if result["baseline"] else remark for remark in own if remark not in shared),
        *(f"{_baseline(result)}: {remark}" for remark in others if remark not in shared),
    ]


def _baseline(result: Data) -> str:
    """What the second column holds; of a plan's comparison nothing more is known than that it is another plan."""
    return OTHER_PLAN if result["runtime"]["provider"] == "tensorrt" else BASELINE


def title(result: Data) -> str:
    return f"{result['engine']['model']}, {result['height']}x{result['width']}, batch {result['batch']}"


def more(result: Data) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of the tables that a TensorRT plan's result has besides."""
    if ways := result.get("ways"):
        heads = ["run", "latency, median", "GPU time, median", "enqueue, median", "copy in", "copy out", "images/s"]
        yield "ways of running", heads, [_way(way) for way in ways]
    if layers := result.get("layers"):
        total = sum(layer["ms"] for layer in layers) or 1.0
        slowest = sorted(layers, key=lambda layer: -layer["ms"])[:LAYERS]
        rows = [[layer["name"], milliseconds(layer["ms"]), f"{layer['ms'] / total:.1%}"] for layer in slowest]
        yield f"{len(slowest)} slowest of {len(layers)} layers, measured one by one", ["layer", "time", "share"], rows


def _way(way: Data) -> list[str]:
    clocks = [way["latency_ms"], way["gpu_ms"], way["enqueue_ms"], way["copy_in_ms"], way["copy_out_ms"]]
    name = f"{way['name']} (refused: {way['refusal']})" if way["refusal"] else way["name"]
    return [
        name,
        *(ABSENT if clock is None else milliseconds(clock["median"]) for clock in clocks),
        f"{way['fps']:.3f}",
    ]


def _headings(result: Data) -> list[str]:
    return ["", MODEL, *([_baseline(result), "ratio"] if result["baseline"] else [])]


def terminal(report: Data) -> list[RenderableType]:
    """One table per batch, with its circumstances and remarks below it."""
    from rich.table import Table
    from rich.text import Text

    shown: list[RenderableType] = []
    for result in report["results"]:
        headings = _headings(result)
        tables = [(title(result), headings, [list(row[: len(headings)]) for row in rows(result)]), *more(result)]
        for heading, columns, lines in tables:
            table = Table(title=Text(heading), title_justify="left")
            for number, column in enumerate(columns):
                table.add_column(column, justify="right" if number else "left", overflow="fold")
            for line in lines:
                table.add_row(*(Text(cell) for cell in line))
            shown.append(table)
        shown += [Text(circumstances(report, result)), *(Text(f"- {remark}") for remark in remarks(result))]
    return shown


def markdown(report: Data) -> str:
    """The same tables as Markdown."""
    parts = []
    for result in report["results"]:
        headings = _headings(result)
        table = _markdown_table(headings, [row[: len(headings)] for row in rows(result)])
        others = (f"\n\n{heading}\n\n{_markdown_table(columns, lines)}" for heading, columns, lines in more(result))
        table = "".join([table, *others])
        notes = "".join(f"\n- {remark}" for remark in remarks(result))
        parts.append(f"{title(result)}\n\n{table}\n\n{circumstances(report, result)}.\n{notes}".rstrip() + "\n")
    return "\n".join(parts)


def _markdown_table(headings: list[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
