"""What was to be reached, and whether it was: verdicts from the results of the steps. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapter_bench.gpu_check.workloads import (
    FORWARDS,
    GOALS_STATED_FOR,
    WORKLOADS,
    Floors,
    Forward,
    Rates,
    Workload,
    allowed_ratio,
)

OURS, NAIVE, DEFORMOPS = "this kernel", "thread per channel", "deformops"
PLAIN, ADAPTER = "plain ViT", "ViT-Adapter, kernel"
FASTER_THAN = {NAIVE: 3.0, DEFORMOPS: 1.3}
L1_HIT_PERCENT, L2_THROUGHPUT_PERCENT = 70.0, 80.0
Results = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """`met` None: it was not measured, and `found` says why."""

    goal: str
    wanted: str
    found: str
    met: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """All goals, in the order in which they are worth reading."""
    return [
        _went_well(results, "correctness", "the kernels give exact arithmetic's results", _calls),
        _went_well(results, "sanitizer", "compute-sanitizer finds nothing", _checks),
        *_ratios_to_floor(results),
        *_forwards(results),
        *_against_rivals(results),
        *_counters(results),
        *_models(results),
    ]


def rates(results: Results) -> Rates | None:
    """What the probe measured, if it did."""
    step = results.get("bandwidth", {})
    return Rates.of(step["data"]) if step.get("status") == "ok" else None


def microseconds(
    results: Results, work: Workload, rival: str = OURS, dtype: str = "fp16", l2: str = "cold"
) -> float | None:
    """Median time of one call."""
    for row in results.get("timing", {}).get("data", {}).get("rows", ()):
        if (row["workload"], row["rival"], row["dtype"], row["l2"]) == (work.name, rival, dtype, l2):
            return 1e3 * float(row["ms"]["median"])
    return None


def forward_microseconds(results: Results, forward: Forward, rival: str = OURS) -> float | None:
    """All calls of a forward pass, fp16; None unless all of them were timed."""
    times = [microseconds(results, part, rival) for part in forward.parts]
    known = [part.calls * took for part, took in zip(forward.parts, times, strict=True) if took is not None]
    return sum(known) if len(known) == len(times) else None


def _went_well(results: Results, name: str, goal: str, wanted: Any) -> Verdict:
    step = results.get(name)
    if step is None or step["status"] == "skipped":
        return Verdict(goal, "no error", _why(results, name), None)
    return Verdict(goal, "no error", step["reason"] or wanted(step["data"]), step["status"] == "ok")


def _calls(data: dict[str, Any]) -> str:
    return f"{data['calls']} small calls and {len(data['sizes'])} of models' sizes"


def _checks(data: dict[str, Any]) -> str:
    return ", ".join(data["checks"])


def _ratios_to_floor(results: Results) -> Iterator[Verdict]:
    measured = rates(results)
    for work in WORKLOADS:
        limit = allowed_ratio(work)
        goal, wanted = f"{work.name}, one call, fp16, cold L2", f"at most {limit:g}x its floor"
        took = microseconds(results, work)
        if took is None or measured is None:
            yield Verdict(goal, wanted, _why(results, "timing" if took is None else "bandwidth"), None)
            continue
        floor = Floors.of(work, "fp16", measured).bound
        yield Verdict(goal, wanted, f"{took:.2f} us, {took / floor:.2f}x of {floor:.2f} us", took <= limit * floor)


def _forwards(results: Results) -> Iterator[Verdict]:
    name = str((results.get("circumstances", {}).get("data", {}).get("device") or {}).get("name", ""))
    elsewhere = "" if GOALS_STATED_FOR in name else f" (stated for the {GOALS_STATED_FOR})"
    for forward in FORWARDS:
        calls = sum(part.calls for part in forward.parts)
        took = forward_microseconds(results, forward)
        yield Verdict(
            f"{forward.name}, all {calls} calls of a forward pass, fp16",
            f"at most {forward.goal_us:g} us{elsewhere}",
            _why(results, "timing") if took is None else f"{took:.1f} us",
            None if took is None else took <= forward.goal_us,
        )


def _against_rivals(results: Results) -> Iterator[Verdict]:
    for rival, factor in FASTER_THAN.items():
        for forward in FORWARDS:
            ours, theirs = (forward_microseconds(results, forward, name) for name in (OURS, rival))
            goal, wanted = f"{forward.name}, against {rival}, fp16", f"at least {factor:g}x faster"
            if not ours or not theirs:
                yield Verdict(goal, wanted, _why_not(results, rival), None)
            elif not _in_graphs(results, forward, rival):
                found = f"{theirs / ours:.2f}x, but no CUDA graph holds it: what its launches cost the host is in"
                yield Verdict(goal, wanted, found, None)
            else:
                yield Verdict(goal, wanted, f"{theirs / ours:.2f}x", theirs >= factor * ours)


def _in_graphs(results: Results, forward: Forward, rival: str) -> bool:
    """Whether all calls of both sides were replayed as CUDA graphs, so that only the GPU's time was measured."""
    names = {part.name for part in forward.parts}
    rows = [row for row in results["timing"]["data"]["rows"] if row["workload"] in names]
    rows = [row for row in rows if (row["dtype"], row["l2"]) == ("fp16", "cold") and row["rival"] in {OURS, rival}]
    return all(row["form"] == "CUDA graph" for row in rows)


def _counters(results: Results) -> Iterator[Verdict]:
    rows = {row["workload"]: row for row in results.get("counters", {}).get("data", {}).get("rows", ())}
    wanted = f"L1 hits at least {L1_HIT_PERCENT:g} %, L2 at most {L2_THROUGHPUT_PERCENT:g} % of its peak"
    for work in WORKLOADS:
        row = rows.get(work.name, {})
        hits, load = row.get("l1_hit_percent"), row.get("l2_throughput_percent")
        if hits is None or load is None:
            yield Verdict(f"{work.name}, locality", wanted, _why(results, "counters"), None)
            continue
        met = hits >= L1_HIT_PERCENT and load <= L2_THROUGHPUT_PERCENT
        yield Verdict(f"{work.name}, locality", wanted, f"{hits:.1f} %, {load:.1f} %", met)


def _models(results: Results) -> Iterator[Verdict]:
    rows = results.get("models", {}).get("data", {}).get("rows", ())
    pairs = sorted({(row["model"], row["batch"]) for row in rows if row["batch"] == 1})
    if not pairs:
        yield Verdict("ViT-Adapter beside its plain ViT", "the paper's share of its FPS", _why(results, "models"), None)
    for model, batch in pairs:
        of = {row["variant"]: row for row in rows if (row["model"], row["batch"]) == (model, batch)}
        paper = of[ADAPTER]["paper_ratio"]
        share = of[ADAPTER]["fps"] / of[PLAIN]["fps"]
        yield Verdict(
            f"ViT-Adapter-{model} UperNet beside its plain ViT, batch {batch}",
            "-" if paper is None else f"at least {paper:.3f} of its FPS (the paper's, with Semantic FPN)",
            f"{share:.3f}",
            None if paper is None else share >= paper,
        )


def _why(results: Results, name: str) -> str:
    step = results.get(name)
    if step is None:
        return f"not measured: step {name} was not asked for"
    return f"not measured: {step['reason'] or 'left out'}"


def _why_not(results: Results, rival: str) -> str:
    why = results.get("timing", {}).get("data", {}).get("left_out", {}).get(rival)
    return f"not measured: {why}" if why else _why(results, "timing")
