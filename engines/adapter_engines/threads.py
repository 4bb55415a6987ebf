"""How many threads a computation may use here: physical cores, this process's CPU set, the container's CPU quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

from adapter_infer.errors import UsageError

MOST = 1024


def chosen(threads: int | None) -> int:
    """`threads` if it is sensible, what the machine allows if it is None. Errors: UsageError."""
    if threads is None:
        return available()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST:
        raise UsageError(f"threads is {threads!r}; give a whole number from 1 to {MOST}, or none for all cores")
    return threads


def available(system: Path = Path("/sys")) -> int:
    """Physical cores this process may run on (hyper-threads slow matrix products down), at most its CPU quota.

    `system` is where the kernel shows its topology and control groups; what cannot be read there is not a limit.
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores = {
        _text(system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or f"cpu {cpu}" for cpu in cpus
    }
    quota = _quota(system / "fs/cgroup")
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def _quota(groups: Path) -> float | None:
    """CPUs the control group grants, None without a limit. Version 2 of the interface first, then version 1."""
    quota, _, period = _text(groups / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(groups / "cpu/cpu.cfs_quota_us"), _text(groups / "cpu/cpu.cfs_period_us")
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max", or not there
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
