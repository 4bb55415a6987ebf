"""What a run of adapter-bench found, as JSON data. A number never walks alone: the circumstances stand beside it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from adapter_bench import machine
from adapter_bench.measure import Ratio, Rules, Trial
from adapter_bench.subject import Count, Size
from adapter_bench.summary import STEADY_CV, Summary
from adapter_infer import __version__

SCHEMA = 1

Data = dict[str, Any]


def document(command: Sequence[str], rules: Rules | None, before: Data, results: Sequence[Data]) -> Data:
    """The whole report. `results` has one entry per batch; of a single one the keys stand at the top as well.

    `before` is `machine.describe()` from before the measurement, `rules` None where nothing was timed.
    """
    top: Data = {
        "schema": SCHEMA,
        "tool": f"adapter-bench {__version__}",
        "command": shlex.join(command),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": before | {"load_average_after": machine.load_average()},
        "versions": machine.versions(),
        "rules": None if rules is None else asdict(rules) | {"text": rules.describe()},
    }
    return top | (results[0] if len(results) == 1 else {}) | {"results": list(results)}


def result(
    facts: Data,
    batch: int,
    size: Size,
    trial: Trial | None,
    count: Count | None,
    memory: Data | None,
    remarks: Sequence[str] = (),
) -> Data:
    """One model at one batch and size: what `facts` says of it, and what was measured (None: it was not asked for).

    MACs and FLOPs are per image, latency is that of one batch in milliseconds, memory in bytes.
    """
    told = [*remarks, *facts.get("remarks", ())]
    told += [] if trial is None else trial.summary().remarks()
    told += [] if trial is None else _unsteady_device(trial)
    told += [] if count is None else count.remarks
    measured = {
        "batch": batch,
        "height": size[0],
        "width": size[1],
        "latency_ms": None if trial is None else latency(trial),
        **_on_device(trial),
        "fps": None if trial is None else trial.fps,
        "macs": None if count is None else _each(count.macs, batch),
        "flops": None if count is None else 2 * _each(count.macs, batch),
        "macs_paper": None if count is None else count.paper,
        "macs_by_operator": None if count is None else {op: _each(n, batch) for op, n in count.by_operator.items()},
        "macs_uncounted": None if count is None else count.uncounted,
        "memory": None if memory is None else memory | {"weights_bytes": facts["weights_bytes"]},
    }
    return facts | measured | {"remarks": told}


def with_baseline(model: Data, baseline: Data | None, ratio: Ratio | None) -> Data:
    """A result with its baseline's beside it, and the ratio of the two from the same run."""
    spread = None if ratio is None else {"min": min(ratio.blocks), "max": max(ratio.blocks)}
    return model | {
        "baseline": baseline,
        "ratio_fps": None if ratio is None else ratio.fps,
        "ratio": None if ratio is None else asdict(ratio) | {"spread": spread},
    }


def latency(trial: Trial) -> Data:
    """Figures and raw samples in milliseconds, in the order in which they were taken."""
    samples = [1e3 * sample for sample in trial.samples]
    return figures(samples) | {
        "runs_per_turn": [len(block) for block in trial.blocks],
        "warmup_runs": trial.warmup_runs,
    }


def figures(samples: Sequence[float]) -> Data:
    """What `Summary` has of samples, and they themselves."""
    summary = Summary.of(samples)
    return {
        "median": summary.median,
        "mean": summary.mean,
        "min": summary.min,
        "max": summary.max,
        **{f"p{p}": value for p, value in summary.percentiles.items()},
        "std": summary.std,
        "variation": summary.variation,
        "count": summary.count,
        "samples": list(samples),
    }


def _on_device(trial: Trial | None) -> Data:
    """Of runs on a GPU whose events were read: the GPU's time of a run, and the host's to enqueue it."""
    if trial is None or not trial.on_device:
        return {"gpu_ms": None, "enqueue_ms": None}
    return {
        "gpu_ms": figures([run.gpu_ms for run in trial.on_device]),
        "enqueue_ms": figures([run.enqueue_ms for run in trial.on_device]),
    }


def _unsteady_device(trial: Trial) -> list[str]:
    """A remark where the GPU's own times vary too much; on percentiles the latency's remarks say enough."""
    if not trial.on_device:
        return []
    variation = Summary.of([run.gpu_ms for run in trial.on_device]).variation
    if variation is None or variation <= STEADY_CV:
        return []
    return [f"coefficient of variation of the GPU's own time {variation:.1%} is above {STEADY_CV:.1%}"]


def _each(total: int, batch: int) -> int | float:
    """Per image; a whole number wherever the total is a multiple of the batch, which it is unless a graph is odd."""
    return total // batch if total % batch == 0 else total / batch
