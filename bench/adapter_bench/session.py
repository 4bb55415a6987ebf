"""One run of the benchmark: what was asked for, in an order in which nothing disturbs what is timed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_bench import report
from adapter_bench.measure import Ratio, Rules, Trial, measure
from adapter_bench.subject import Count, Prepare, Size, Subject
from adapter_infer.command_line import step
from adapter_infer.errors import EnvironmentMissing, UnsupportedModel

MEASUREMENTS = ("fps", "flops", "memory", "baseline")


@dataclass(frozen=True)
class Plan:
    """What was asked for, checked. `implied` are the measurements that nobody named: what cannot be had of them is left
    out with a remark instead of refused."""

    selected: frozenset[str]
    implied: frozenset[str]
    rules: Rules
    size: Size | None
    batches: list[int] | None
    provider: str
    threads: int | None
    cache: Path

    @property
    def timed(self) -> bool:
        return "fps" in self.selected


def run(subject: Subject, plan: Plan, remarks: list[str]) -> list[report.Data]:
    """One result per batch. `remarks` are told of every result.

    The model is loaded first: what cannot be loaded is refused before a baseline is exported for it. Memory comes last,
    in processes of its own, when nothing is loaded here any more. Errors: those of the subject's methods.
    """
    size, batches = subject.resolve(plan.size, plan.batches)
    subjects, remarks = [subject], list(remarks)
    with ExitStack() as loaded:
        prepared = [loaded.enter_context(subject.open())] if plan.timed else []
        baseline = _baseline(subject, plan, remarks)
        if baseline is not None:
            subjects.append(baseline)
            prepared.append(loaded.enter_context(baseline.open()))
        counts = {batch: [_count(one, batch, size, plan, remarks) for one in subjects] for batch in batches}
        trials, details = _time(subjects, prepared, size, batches, plan)
    peaks = {batch: [_memory(one, batch, size, plan, remarks) for one in subjects] for batch in batches}
    facts = [one.facts() for one in subjects]
    told = list(dict.fromkeys(remarks))
    results = []
    for batch in batches:
        columns = zip(facts, trials[batch], counts[batch], peaks[batch], strict=True)
        found = [report.result(known, batch, size, trial, count, peak, told) for known, trial, count, peak in columns]
        found = [result | more for result, more in zip(found, details[batch], strict=True)]
        pair = [trial for trial in trials[batch] if trial is not None]
        ratio = Ratio.of(*pair) if len(pair) == 2 else None
        results.append(report.with_baseline(found[0], found[1] if len(found) == 2 else None, ratio))
    return results


def _baseline(subject: Subject, plan: Plan, remarks: list[str]) -> Subject | None:
    if "baseline" not in plan.selected:
        return None
    try:
        with step("building the plain ViT (an exported one is kept for the next time)"):
            return subject.baseline(plan.cache)
    except UnsupportedModel as error:
        if "baseline" not in plan.implied:
            raise
        remarks.append(f"no baseline: {error}")
        return None


def _count(subject: Subject, batch: int, size: Size, plan: Plan, remarks: list[str]) -> Count | None:
    if "flops" not in plan.selected:
        return None
    try:
        with step(f"counting multiply-adds of {subject.name}"):
            return subject.count(batch, size)
    except UnsupportedModel as error:
        if "flops" not in plan.implied:
            raise
        remarks.append(str(error))
        return None


def _time(
    subjects: list[Subject], prepared: list[Prepare], size: Size, batches: list[int], plan: Plan
) -> tuple[dict[int, list[Trial | None]], dict[int, list[dict[str, Any]]]]:
    """Trials per batch in the order of `subjects`, and what else the first one measures. No progress is drawn
    meanwhile: drawing takes time from a core."""
    trials: dict[int, list[Trial | None]] = {batch: [None] * len(subjects) for batch in batches}
    details: dict[int, list[dict[str, Any]]] = {batch: [{} for _ in subjects] for batch in batches}
    for batch in batches if plan.timed else ():
        if sys.stderr.isatty():
            names = " and ".join(one.name for one in subjects)
            print(f"measuring {names}, batch {batch}: {plan.rules.describe()}", file=sys.stderr)
        runs = {str(i): (batch, prepare(batch, size)) for i, prepare in enumerate(prepared)}
        trials[batch] = list(measure(runs, plan.rules).values())
        details[batch][0] = subjects[0].details(batch, size, plan.rules)
    return trials, details


def _memory(subject: Subject, batch: int, size: Size, plan: Plan, remarks: list[str]) -> dict[str, Any] | None:
    if "memory" not in plan.selected:
        return None
    try:
        with step(f"measuring the memory of {subject.name}, batch {batch}"):
            return subject.peak_memory(batch, size)
    except EnvironmentMissing as error:
        if "memory" not in plan.implied:
            raise
        remarks.append(str(error))
        return None
