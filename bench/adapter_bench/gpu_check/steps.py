"""The steps of the check, and how they are run: each in a process of its own, one after the other, none stopped by
another's failure."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Data = dict[str, Any]
OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class Context:
    """What a step is told. `folder` is for what it builds, `earlier` holds the data of the steps before it, by name."""

    device: str
    quick: bool
    folder: str
    earlier: Data
    limit_s: float


@dataclass(frozen=True)
class Step:
    """`body` is "module:function" of this package; it takes a Context and returns data, with the key "failed" where
    something was wrong. `needs` are steps that must have gone well before; with less than `least_s` seconds left it is
    not begun."""

    name: str
    what: str
    body: str
    limit_s: float
    needs: tuple[str, ...] = ()
    least_s: float = 10.0


STEPS = (
    Step(
        "circumstances", "the GPU, its driver and clocks, versions, the state of the checkout", "work:circumstances", 60
    ),
    Step("build", "the CUDA library with nvcc, for this GPU", "work:build_library", 240),
    Step("correctness", "the kernels against exact arithmetic", "work:correctness", 120, ("build",)),
    Step("sanitizer", "compute-sanitizer: memcheck, racecheck, initcheck", "work:sanitizer", 180, ("build",)),
    Step("bandwidth", "what copies, L2 and L1 can move", "work:bandwidth", 60),
    Step("timing", "the kernel beside its rivals", "work:timing", 150, ("build",)),
    Step("counters", "ncu: hit rates, traffic, registers", "work:counters", 90, ("build",)),
    Step("models", "whole models beside the plain ViT", "work:whole_models", 150, ("build",)),
    Step("engines", "ONNX Runtime CUDA and TensorRT", "work:runtimes", 240, least_s=120),
)
NAMES = tuple(step.name for step in STEPS)


def with_needs(names: tuple[str, ...]) -> list[Step]:
    """The steps named, what they need, and the circumstances, in the order of STEPS."""
    wanted = {"circumstances", *names}
    if "timing" in wanted:
        wanted.add("bandwidth")  # its floors
    for step in reversed(STEPS):
        if step.name in wanted:
            wanted.update(step.needs)
    return [step for step in STEPS if step.name in wanted]


def run_all(
    chosen: list[Step],
    context: Context,
    execute: Callable[[Step, Context], Data],
    say: Callable[[str], None],
    budget_s: float,
    now: Callable[[], float] = time.monotonic,
) -> dict[str, Data]:
    """Results by step: status, reason, seconds, data. A step that no longer fits into `budget_s` is skipped."""
    results: dict[str, Data] = {}
    begin = now()
    for number, step in enumerate(chosen, 1):
        say(f"[{number}/{len(chosen)}] {step.name}: {step.what}")
        left, started = budget_s - (now() - begin), now()
        broken = [need for need in step.needs if results.get(need, {}).get("status") != OK]
        if broken:
            result: Data = {"status": SKIPPED, "reason": f"needs {broken[0]}, which did not go well", "data": {}}
        elif left < min(step.least_s, step.limit_s):
            result = {
                "status": SKIPPED,
                "reason": f"too little is left of the {budget_s:.0f} seconds; run it with --only {step.name}",
            }
            result["data"] = {}
        else:
            earlier = {name: done["data"] for name, done in results.items()}
            told = Context(context.device, context.quick, context.folder, earlier, min(step.limit_s, left))
            result = execute(step, told)
        result["seconds"] = round(now() - started, 2)
        results[step.name] = result
        reason = f": {result['reason']}" if result["reason"] else ""
        say(f"      {result['status']} after {result['seconds']:.1f} s{reason}")
    return results


def in_child(step: Step, context: Context) -> Data:
    """Runs a step in a fresh process, so that an error which the GPU's context does not survive ends one step only."""
    folder = Path(context.folder)
    asked, answer = folder / f"{step.name}.asked.json", folder / f"{step.name}.json"
    answer.unlink(missing_ok=True)
    asked.write_text(json.dumps(asdict(context)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", f"{__package__}.child", step.name, str(asked), str(answer)]
    log = folder / f"{step.name}.log"
    with (
        log.open("w") as stream,
        subprocess.Popen(command, stderr=stream, env=environment, start_new_session=True) as process,
    ):
        try:
            code = process.wait(context.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started too
            return _failed(f"not done after {context.limit_s:.0f} seconds, and was ended")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if answer.is_file():
        result: Data = json.loads(answer.read_text())
        return result
    lines = log.read_text().strip().splitlines() or ["it said nothing"]
    return _failed(f"the process ended with code {code}: {lines[-1][:300]}")


def here(step: Step, context: Context) -> Data:
    """Runs a step in this process; whatever goes wrong becomes its result."""
    module, function = step.body.split(":")
    try:
        from importlib import import_module

        body = getattr(import_module(f"{__package__}.{module}"), function)
        data: Data = body(context)
    except Skip as reason:
        return {"status": SKIPPED, "reason": str(reason), "data": {}}
    except Exception as error:
        return _failed(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    failed = data.pop("failed", None)
    return {"status": FAILED if failed else OK, "reason": failed, "data": data}


class Skip(Exception):
    """Raised by a step that cannot be done here; the message says why."""


def _failed(reason: str) -> Data:
    return {"status": FAILED, "reason": reason, "data": {}}


def finite(data: Any) -> Any:
    """`data` with None for every number that JSON cannot hold."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
