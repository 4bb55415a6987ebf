"""What each step does. Functions take a Context and return JSON data."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_bench import machine, smi
from adapter_bench.gpu_check import build, tools
from adapter_bench.gpu_check.steps import Context, Data, Skip
from adapter_bench.gpu_check.workloads import WORKLOADS, P, Workload

if TYPE_CHECKING:
    from adapter_bench.gpu_check.native import Library

CHECKS = ("memcheck", "racecheck", "initcheck")
# Launches of ours that ncu skips before it looks at one, and the calls that the driver makes.
SKIPPED_LAUNCHES, LAUNCHES = 2, 3


def say(text: str) -> None:
    print(f"      {text}", flush=True)


def circumstances(context: Context) -> Data:
    """Where and with what the figures were taken. The first thing in every report."""
    import torch

    data: Data = {
        "nvidia_smi": smi.query(),
        "machine": machine.describe(),
        "python": platform.python_version(),
        "versions": machine.versions() | {"torch": torch.__version__},
        "cuda_of_torch": torch.version.cuda,
        "nvcc": _nvcc_version(),
        "git": git_state(),
        "device": None,
    }
    if context.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        data["device"] = {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    return data


def _nvcc_version() -> str | None:
    try:
        done = subprocess.run([build.nvcc(), "--version"], capture_output=True, text=True, check=False)
    except Exception as error:
        return str(error)
    lines = [line for line in done.stdout.splitlines() if "release" in line]
    return lines[0].strip() if lines else None


def git_state() -> Data:
    """Commit, and how many files differ from it; None where this is no git checkout."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain")
    return {
        "commit": commit,
        "changed_files": None if commit is None or changed is None else len(changed.splitlines()),
    }


def _git(*arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(build.CHECKOUT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def build_library(context: Context) -> Data:
    if context.device == "cpu":
        return {"library": None}  # a rehearsal takes PyTorch's arithmetic instead
    return build.library(Path(context.folder), _capability(context))


def correctness(context: Context) -> Data:
    from adapter_bench.gpu_check import correctness as check
    from adapter_bench.gpu_check import rivals

    library = _library(context)
    if library is None:
        data = check.over_the_table(check.by_reference, context.device, places=("host",))
        found, _ = rivals.available(None)
        data |= check.at_real_sizes(found[rivals.FALLBACK], context.device, _tiny(), batches=(1, 2))
    else:
        data = check.over_the_table(check.by_library(library), context.device)
        say(f"{data['calls']} small calls, {data['wrong_count']} of them wrong")
        found, _ = rivals.available(library)
        data |= check.at_real_sizes(found[rivals.OURS], context.device)
    problems = [*data["wrong"][:3], *data["sizes_wrong"][:3]]
    if problems:
        data["failed"] = f"{data['wrong_count'] + len(data['sizes_wrong'])} wrong, among them {'; '.join(problems)}"
    return data


def sanitizer(context: Context) -> Data:
    program = _tool(context, "compute-sanitizer")
    driver = _driver(context)
    checks: dict[str, Any] = {}
    for name in CHECKS[: 1 if context.quick else None]:
        say(name)
        command = [program, "--tool", name, "--error-exitcode", "9", str(driver), "small"]
        text, code = _watched(command, 0.9 * context.limit_s / len(CHECKS))
        errors = tools.sanitizer_errors(text)
        found: Data = {"errors": errors, "exit_code": code, "says": tools.refusal(text), "tail": text[-600:]}
        checks[name] = found
    data: Data = {"checks": checks}
    if refused := next((one["says"] for one in checks.values() if one["errors"] is None and one["says"]), None):
        data["failed"] = f"compute-sanitizer cannot work here: {refused}"
    elif bad := [name for name, one in checks.items() if one["errors"] != 0 or one["exit_code"] != 0]:
        data["failed"] = f"{', '.join(bad)} found errors, or did not end well"
    return data


def bandwidth(context: Context) -> Data:
    if context.device == "cpu":
        raise Skip("there is no GPU to measure")
    program = build.program(build.PROBE, Path(context.folder) / build.PROBE_PROGRAM, _capability(context))
    text, code = _watched([str(program)], context.limit_s)
    if code:
        return {"failed": f"the probe ended with code {code}: {text.strip()[-300:]}"}
    data: Data = json.loads(text)
    return data


def timing(context: Context) -> Data:
    import torch

    from adapter_bench.gpu_check import rivals
    from adapter_bench.gpu_check import timing as call

    found, missing = rivals.available(_library(context))
    limit, before = 0.8 * context.limit_s, smi.query()
    if context.device == "cpu":
        settings = call.Settings("cpu", 1, rounds=2, turn_ms=0.0, limit_s=limit)
        timings = call.measure(found, _tiny(), settings, say)
    else:
        settings = call.Settings("cuda", int(torch.cuda.get_device_properties(0).L2_cache_size), limit_s=limit)
        if context.quick:
            settings = replace(settings, dtypes=("fp16",), rounds=3, turn_ms=8.0)
        timings = call.measure(found, WORKLOADS, settings, say)
    data: Data = {"rows": timings.rows, "left_out": missing | timings.left_out, "versions": rivals.versions()}
    return data | {"before": before, "after": smi.query()}


def counters(context: Context) -> Data:
    program = _tool(context, "ncu")
    driver = _driver(context)
    rows: list[Data] = []
    metrics = ",".join(tools.METRICS)
    for work in WORKLOADS[: 2 if context.quick else None]:
        say(work.name)
        # Clocks are left as they are: the machine may be shared.
        command = [program, "--csv", "--print-units", "base", "--clock-control", "none", "--metrics", metrics]
        command += ["--launch-skip", str(SKIPPED_LAUNCHES), "--launch-count", "1", str(driver), *driver_arguments(work)]
        text, code = _watched(command, 0.9 * context.limit_s / len(WORKLOADS))
        launches = tools.ncu_rows(text)
        if not launches and (refused := tools.refusal(text)):
            return {"rows": rows, "failed": f"ncu may not read counters here: {refused[:300]}"}
        if code or not launches:
            return {"rows": rows, "failed": f"ncu ended with code {code}: {text.strip()[-300:]}"}
        rows += [{"workload": work.name, "dtype": "fp16", **launch} for launch in launches]
    return {"rows": rows}


def driver_arguments(work: Workload, dtype: str = "fp16") -> list[str]:
    """The driver's command line for one workload."""
    levels, grids = (",".join(f"{h}x{w}" for h, w in shapes) for shapes in (work.shapes, work.grids))
    return ["run", dtype, str(work.m), str(work.d), str(P), levels, grids, str(LAUNCHES)]


def whole_models(context: Context) -> Data:
    import torch

    from adapter_bench.gpu_check import models

    pairs = models.PAIRS[: 1 if context.quick else None]
    if context.device == "cpu":
        pairs = models.REHEARSAL
        settings = models.Settings("cpu", torch.float32, 64, (1,), rounds=1, turn_ms=0.0)
    else:
        models.use_library(Path(context.folder) / build.LIBRARY)
        settings = models.Settings("cuda", torch.float16)
        if context.quick:
            settings = replace(settings, batches=(1,), rounds=3, turn_ms=60.0)
    before = smi.query()
    data = models.measure(pairs, settings, say, context.limit_s)
    if context.device != "cpu" and data["warnings"]:
        data["failed"] = f"the kernel did not run: {'; '.join(data['warnings'])[:300]}"
    return data | {"before": before, "after": smi.query()}


def runtimes(context: Context) -> Data:
    from adapter_bench.gpu_check import engines

    if context.device == "cpu":
        raise Skip("there is no GPU to run on")
    data = engines.measure(Path(context.folder), say, context.limit_s / 3)
    if not data["ran"]:
        raise Skip("; ".join(f"{name}: {why}" for name, why in data["left_out"].items()))
    return data


# --- what several steps need ---


def _capability(context: Context) -> str:
    return str(context.earlier["circumstances"]["device"]["compute_capability"])


def _library(context: Context) -> Library | None:
    """The library that the step "build" made; None in a rehearsal. Raises AdapterError where it cannot run here."""
    if context.device == "cpu":
        return None
    from adapter_bench.gpu_check.native import Library
    from adapter_infer.errors import AdapterError

    library = Library(Path(context.folder) / build.LIBRARY)
    if why := library.usable():
        raise AdapterError(why)
    return library


def _tool(context: Context, name: str) -> str:
    if context.device == "cpu":
        raise Skip("there is no GPU to watch")
    beside = Path(build.nvcc()).resolve().parent / name
    found = shutil.which(name) or (str(beside) if beside.is_file() else None)
    if found is None:
        raise Skip(f"{name} is not installed")
    return found


def _driver(context: Context) -> Path:
    folder = Path(context.folder)
    out = folder / build.DRIVER_PROGRAM
    return out if out.is_file() else build.program(build.DRIVER, out, _capability(context), [folder / build.LIBRARY])


def _watched(command: list[str], limit_s: float) -> tuple[str, int]:
    """All that a program printed, and its exit code; 124 where it took too long."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{Path(command[0]).name} was not done after {limit_s:.0f} seconds", 124
    return done.stdout, done.returncode


def _tiny() -> tuple[Workload, ...]:
    """Of the sizes of a picture of 64x64: for rehearsals."""
    from adapter_bench.gpu_check.workloads import ADAPTER_B, adapter

    return adapter(ADAPTER_B, 64, 768, 12)
