"""The report as Markdown: verdicts first, then the figures behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from adapter_bench import smi
from adapter_bench.gpu_check import goals
from adapter_bench.gpu_check.workloads import FORWARDS, WORKLOADS, Floors

Data = dict[str, Any]
MARKS = {True: "met", False: "MISSED", None: "open"}
STATES = (("cold", "L2 cold: inputs rotate"), ("warm", "L2 warm: one set of inputs"))


def name(document: Data) -> str:
    """Of the report's files: the GPU and the day."""
    device = (document["steps"].get("circumstances", {}).get("data", {}).get("device") or {}).get(
        "name", "cpu rehearsal"
    )
    return f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{document['started'][:10]}"


def markdown(document: Data) -> str:
    steps, verdicts = document["steps"], goals.verdicts(document["steps"])
    counts = [f"{sum(v.met is met for v in verdicts)} {mark.lower()}" for met, mark in MARKS.items()]
    parts = [
        f"# GPU check: {_device(steps)}, {document['started'][:10]}",
        _rehearsal(document),
        "## Verdicts",
        f"{', '.join(counts)} (not measured). A missed goal is a finding and no error.",
        table(
            ["goal", "wanted", "found", ""],
            [[v.goal, v.wanted, v.found, MARKS[v.met]] for v in verdicts],
        ),
        "## Steps",
        table(
            ["step", "result", "seconds", "reason"],
            [[step, done["status"], f"{done['seconds']:.1f}", done["reason"] or ""] for step, done in steps.items()],
        ),
        *_correctness(steps),
        *_bandwidth(steps),
        *_timing(steps),
        *_counters(steps),
        *_models(steps),
        *_runtimes(steps),
        "## Circumstances",
        _circumstances(document),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(heads), ["---"] * len(heads), *([*row] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _device(steps: Data) -> str:
    return str((steps.get("circumstances", {}).get("data", {}).get("device") or {}).get("name", "no GPU"))


def _rehearsal(document: Data) -> str:
    if document["device"] == "cuda":
        return ""
    return "**A rehearsal without a GPU: it shows that the code runs, and no figure in it says anything about one.**"


def _correctness(steps: Data) -> list[str]:
    data = steps.get("correctness", {}).get("data", {})
    if not data:
        return []
    worst = ", ".join(
        f"{dtype} {share:.1e}" for dtype, share in data["worst_share_of_value"].items() if share is not None
    )
    lines = [f"Largest difference from exact arithmetic over the cases, as a share of the largest value: {worst}."]
    if wrong := [*data["wrong"], *data["sizes_wrong"]]:
        lines.append("\n".join(f"- {one}" for one in wrong))
    return ["## Correctness", *lines]


def _bandwidth(steps: Data) -> list[str]:
    step = steps.get("bandwidth", {})
    if step.get("status") != "ok":
        return []
    data = step["data"]
    rows = [
        ["device copy, bytes read and written", f"{data['copy_bytes_per_s'] / 1e12:.2f} TB/s"],
        [f"reads from L2 ({data['l2_buffer_bytes'] / 2**20:.1f} MiB)", f"{data['l2_bytes_per_s'] / 1e12:.2f} TB/s"],
        ["reads from L1", f"{data['l1_bytes_per_s'] / 1e12:.2f} TB/s"],
        [
            f"L1 by 128 bytes a clock at {data['sm_clock_hz'] / 1e9:.2f} GHz",
            f"{data['l1_peak_bytes_per_s'] / 1e12:.2f} TB/s",
        ],
        ["from one empty kernel of a CUDA graph to the next", f"{data['graph_node_us']:.2f} us"],
    ]
    return ["## Measured ceilings", table(["", ""], rows)]


def _timing(steps: Data) -> list[str]:
    rows = steps.get("timing", {}).get("data", {}).get("rows", [])
    if not rows:
        return []
    parts = [
        "## The op",
        "Microseconds of one call as median (least to most), and in how many times the floor that is. The floor is the "
        "larger of two: value, samples and output once through the measured copy bandwidth, four corners of every "
        "sample through the measured L1 bandwidth. Rivals include what they need to get from offsets and logits to "
        "their own inputs. Times are a call's share of a CUDA graph's replay, what lies between two kernels included. "
        "The third column is what the gathers take if none of them hits the L1.",
    ]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        for l2, title in STATES:
            found = [row for row in rows if (row["dtype"], row["l2"]) == (dtype, l2)]
            if found:
                parts += [f"### {dtype}, {title}", _calls(steps, found, dtype)]
    if forwards := _forwards(steps):
        parts += ["### All calls of a forward pass, fp16, L2 cold, microseconds", forwards]
    notes = {f"- {row['rival']}: {row['why']}" for row in rows if row["form"] != "CUDA graph" and row["why"]}
    notes |= {f"- {what}: {why}" for what, why in steps["timing"]["data"].get("left_out", {}).items()}
    variation = [row for row in rows if (row["ms"]["variation"] or 0) > 0.025]
    if variation:
        notes.add(f"- {len(variation)} of {len(rows)} timings varied by more than 2.5 % (std / mean)")
    return [*parts, "\n".join(sorted(notes))]


def _calls(steps: Data, rows: list[Data], dtype: str) -> str:
    rivals = list(dict.fromkeys(row["rival"] for row in rows))
    measured = goals.rates(steps)
    floors = {work.name: Floors.of(work, dtype, measured) for work in WORKLOADS} if measured else {}
    lines = []
    for workload in dict.fromkeys(row["workload"] for row in rows):
        floor = floors.get(workload)
        bound = "-" if floor is None else f"{floor.bound:.2f} ({'L1' if floor.l1 >= floor.dram else 'DRAM'})"
        of = {row["rival"]: row["ms"] for row in rows if row["workload"] == workload}
        from_l2 = "-" if floor is None else _three(floor.l2)
        lines.append([workload, bound, from_l2, *(_call(of.get(rival), floor) for rival in rivals)])
    return table(["call", "floor", "all from L2", *rivals], lines)


def _call(ms: Data | None, floor: Floors | None) -> str:
    if ms is None:
        return "-"
    middle, least, most = (1e3 * ms[key] for key in ("median", "min", "max"))
    text = f"{_three(middle)} ({_three(least)} to {_three(most)})"
    return text if floor is None else f"{text}, {middle / floor.bound:.1f}x"


def _three(value: float) -> str:
    """At least three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _forwards(steps: Data) -> str:
    rivals = list(dict.fromkeys(row["rival"] for row in steps["timing"]["data"]["rows"]))
    lines = []
    for forward in FORWARDS:
        ours = goals.forward_microseconds(steps, forward)
        cells = []
        for rival in rivals:
            took = goals.forward_microseconds(steps, forward, rival)
            cells.append(
                "-"
                if took is None
                else _three(took) + (f", {took / ours:.1f}x ours" if ours and rival != goals.OURS else "")
            )
        if any(cell != "-" for cell in cells):
            lines.append([forward.name, *cells])
    return table(["forward pass", *rivals], lines) if lines else ""


def _counters(steps: Data) -> list[str]:
    rows = steps.get("counters", {}).get("data", {}).get("rows", [])
    if not rows:
        return []
    columns = (
        ("duration_us", "time, us", "{:.2f}"),
        ("l1_hit_percent", "L1 hits, %", "{:.1f}"),
        ("l2_hit_percent", "L2 hits, %", "{:.1f}"),
        ("l1_throughput_percent", "L1 load, %", "{:.1f}"),
        ("l2_throughput_percent", "L2 load, %", "{:.1f}"),
        ("sm_throughput_percent", "SM load, %", "{:.1f}"),
        ("occupancy_percent", "active warps, %", "{:.1f}"),
        ("dram_bytes", "DRAM bytes", "{:,.0f}"),
        ("registers", "registers", "{:.0f}"),
    )
    lines = [
        [row["workload"], *("-" if row.get(key) is None else form.format(row[key]) for key, _, form in columns)]
        for row in rows
    ]
    return ["## Counters of the kernel (ncu, fp16)", table(["call", *(head for _, head, _ in columns)], lines)]


def _models(steps: Data) -> list[str]:
    data = steps.get("models", {}).get("data", {})
    rows = data.get("rows", [])
    if not rows:
        return []
    lines = []
    for row in rows:
        plain = next(
            other for other in rows
            if (other["model"], other["batch"], other["variant"]) == (row["model"], row["batch"], goals.PLAIN)
        )  # fmt: skip
        ms = row["ms"]
        lines.append(
            [
                f"{row['model']}, batch {row['batch']}",
                row["variant"],
                f"{ms['median']:.3f} ({ms['min']:.3f} to {ms['max']:.3f})",
                f"{row['fps']:.1f}",
                f"{row['fps'] / plain['fps']:.3f}",
                _mebibytes(row["weights_bytes"]),
                _mebibytes(row["peak_bytes"]),
                row["form"],
            ]
        )
    heads = [
        "model",
        "variant",
        "ms, median (least to most)",
        "images/s",
        "of plain ViT",
        "weights",
        "peak besides",
        "run as",
    ]
    gaps = {
        f"- {row['model']}, batch {row['batch']}: with and without the kernel outputs differ by {gap:.1e} (relative)"
        for row in rows
        if (gap := row["kernel_against_torch"]) is not None
    }
    gaps |= {f"- {row['variant']}: {row['why']}" for row in rows if row["why"]}
    gaps |= {f"- {what}: {why}" for what, why in data.get("left_out", {}).items()}
    gaps |= {f"- {warning}" for warning in data.get("warnings", ())}
    title = f"## Whole models: UperNet, PyTorch {data['dtype']}, {data['size']}x{data['size']}, random weights"
    kept = "Made once, as in an export of fixed size: level sizes, reference points, the resized position embedding."
    return [title, kept, table(heads, lines), "\n".join(sorted(gaps))]


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f} MiB"


def _runtimes(steps: Data) -> list[str]:
    data = steps.get("engines", {}).get("data", {})
    if not data.get("ran"):
        return []
    lines = []
    for runtime, found in data["ran"].items():
        latency = found["latency_ms"]
        lines.append(
            [
                f"{runtime} {found['runtime']['version']}",
                found["precision"],
                f"{latency['median']:.3f}",
                f"{found['fps']:.1f}",
                f"{found['ratio_fps']:.3f}" if found.get("ratio_fps") else "-",
                "CUDA graph" if (found.get("cuda_graph") or {}).get("in_use") else "one by one",
            ]
        )
    left = "\n".join(f"- {runtime}: {why}" for runtime, why in data.get("left_out", {}).items())
    return [
        "## Runtimes: ViT-Adapter-B UperNet, batch 1",
        table(["runtime", "precision", "ms", "images/s", "of plain ViT", "run as"], lines),
        left,
    ]


def _circumstances(document: Data) -> str:
    data = document["steps"].get("circumstances", {}).get("data", {})
    reading = data.get("nvidia_smi", smi.ABSENT)
    machine, git = data.get("machine", {}), data.get("git", {})
    versions = ", ".join(f"{package} {version}" for package, version in data.get("versions", {}).items())
    lines = [
        f"- `{document['command']}`, {document['tool']}, {document['started']} to {document['finished']}",
        f"- GPU at the start: {smi.sentence(reading)}",
        *_clocks(document["steps"]),
        f"- driver {reading.get('driver') if isinstance(reading, dict) else 'unknown'}; nvcc: {data.get('nvcc')}; "
        f"CUDA of torch {data.get('cuda_of_torch')}",
        f"- {machine.get('cpu')}, {machine.get('usable_cores')} cores, {machine.get('system')}, "
        f"Python {data.get('python')}, {versions}",
        f"- commit {git.get('commit') or 'unknown'}, {git.get('changed_files')} files changed since",
    ]
    return "\n".join(lines)


def _clocks(steps: Data) -> Iterable[str]:
    for step in ("timing", "models"):
        data = steps.get(step, {}).get("data", {})
        if "before" in data:
            yield f"- GPU around {step}: {smi.sentence(data['before'])}; then {smi.sentence(data['after'])}"
