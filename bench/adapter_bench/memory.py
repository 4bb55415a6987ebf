"""Peak memory of a model, by the operating system's account of a process that does nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from adapter_bench import bare, child
from adapter_infer.errors import EnvironmentMissing

METHOD = "resident set of a child process that only loads and runs the model (VmRSS, VmHWM)"
RUNS = 3
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def measure(alone: dict[str, Any]) -> dict[str, Any]:
    """Memory of a model (what the subjects' `alone` gives), measured in a process of its own. Bytes.

    `peak_bytes`: highest resident set from the start of the process to the end of the last run; `load_peak_bytes` and
    `run_peak_bytes` its two parts. `runtime_bytes`: resident before loading (interpreter and runtime libraries).
    `loaded_bytes`: after loading, once the allocator has given back what it kept. `activations_bytes`: run_peak_bytes
    minus loaded_bytes. The last two parts are None where the system does not let the high-water mark be reset.
    Errors: EnvironmentMissing where the system keeps no high-water mark.
    """
    if unavailable := unusable():
        raise EnvironmentMissing(unavailable)
    return child.call(f"{__name__}:measure_here", alone=alone)


def unusable() -> str | None:
    """Why memory cannot be measured here, or None."""
    try:
        read_status()
    except (OSError, KeyError):
        return f"{_STATUS} names no VmHWM, so peak memory cannot be measured here; leave --memory out"
    return None


def measure_here(alone: dict[str, Any]) -> dict[str, Any]:
    """`measure` without the child process: the figures then include whatever this process has done before."""
    bare.import_libraries(alone["kind"])
    return record(lambda: bare.load(**alone))


def record(load: Callable[[], AbstractContextManager[Callable[[], object]]], runs: int = RUNS) -> dict[str, Any]:
    """Reads the resident set around `load()` and around `runs` calls of what it yields."""
    before = read_status()
    with load() as run:
        load_peak = read_status()["VmHWM"]
        _give_back()
        loaded = read_status()["VmRSS"]
        separate = _reset_high_water()
        for _ in range(runs):
            run()
        run_peak = read_status()["VmHWM"]
    return {
        "method": METHOD,
        "runs": runs,
        "peak_bytes": max(load_peak, run_peak),
        "load_peak_bytes": load_peak,
        "run_peak_bytes": run_peak if separate else None,
        "runtime_bytes": before["VmRSS"],
        "loaded_bytes": loaded,
        "activations_bytes": max(run_peak - loaded, 0) if separate else None,
    }


def read_status(path: Path = _STATUS) -> dict[str, int]:
    """VmRSS (resident now) and VmHWM (highest so far) of this process in bytes. Errors: OSError, KeyError."""
    entries = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return {name: int(entries[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def _give_back() -> None:
    """Has the C library return memory it keeps for later, or the runs would find room there and seem to need none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_high_water() -> bool:
    """Sets VmHWM back to VmRSS; False where the system does not allow it."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True
