"""Times one MSDA call of every workload by every rival, in turns: with inputs rotated, and with a warm L2."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from adapter_bench.gpu_check import clock, rivals
from adapter_bench.gpu_check.workloads import Workload, sets_needed

WARM_CALLS = 10
COLD, WARM = "cold", "warm"


@dataclass(frozen=True)
class Settings:
    """`l2_bytes` of the device say how many sets of inputs are rotated; a turn is `turn_ms` long and there are `rounds`
    of them. The warm L2 is measured for the first of `dtypes` alone. Nothing is begun after `limit_s` seconds."""

    device: str
    l2_bytes: int
    dtypes: tuple[str, ...] = ("fp16", "bf16", "fp32")
    rounds: int = 5
    turn_ms: float = 15.0
    limit_s: float = 120.0


@dataclass
class Timings:
    """`rows` one for each workload, type, state of the L2 and rival; `left_out` what was not timed, and why."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def measure(
    found: Mapping[str, rivals.Bind], workloads: tuple[Workload, ...], settings: Settings, say: Callable[[str], None]
) -> Timings:
    """Milliseconds of a call."""
    timings, deadline = Timings(), time.monotonic() + settings.limit_s
    for dtype in settings.dtypes:
        for work in workloads:
            if time.monotonic() > deadline:
                timings.left_out[f"{work.name} {dtype}"] = "the step's time was spent"
                continue
            say(f"{work.name}, {dtype}")
            with torch.inference_mode():
                _one(found, work, dtype, settings, timings)
            if settings.device == "cuda":
                torch.cuda.empty_cache()
    return timings


def _one(found: Mapping[str, rivals.Bind], work: Workload, dtype: str, settings: Settings, timings: Timings) -> None:
    count = sets_needed(work, dtype, settings.l2_bytes)
    sets = [rivals.inputs(work, dtype, settings.device, seed) for seed in range(count)]
    truth, largest = rivals.exact(sets[0]), sets[0].value.abs().max()
    replays: dict[str, dict[str, clock.Replay]] = {COLD: {}, WARM: {}}
    differences: dict[str, float] = {}
    for name, bind in found.items():
        try:
            calls = [bind(one) for one in sets]
            gap = (calls[0]() - truth).abs().max() / largest
            cold = clock.replay(calls, settings.device)
            warm = clock.replay(calls[:1] * WARM_CALLS, settings.device) if dtype == settings.dtypes[0] else None
        except Exception as error:  # of a rival, however it fails; the others go on
            timings.left_out[f"{name}, {work.name} {dtype}"] = f"{type(error).__name__}: {error}"[:200]
            continue
        differences[name] = float(gap.item())
        replays[COLD][name] = cold
        if warm is not None:
            replays[WARM][name] = warm
    for state, ready in replays.items():
        watch = clock.stopwatch(settings.device)
        for name, timing in clock.take_turns(ready, watch, settings.rounds, settings.turn_ms, least=2).items():
            timings.rows.append(
                {
                    "workload": work.name,
                    "dtype": dtype,
                    "l2": state,
                    "rival": name,
                    "ms": timing.figures(),
                    "form": ready[name].form,
                    "why": ready[name].why,
                    "calls": len(ready[name].calls),
                    "difference_of_value": differences[name],
                }
            )
