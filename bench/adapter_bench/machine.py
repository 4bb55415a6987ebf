"""The machine a measurement was taken on: what the operating system says of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib import metadata, util
from pathlib import Path
from typing import Any

from adapter_bench import smi

# Instruction sets that change how fast a network runs; the full list of flags is noise.
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve")
STEADY_GOVERNOR = "performance"
SCARCE = 0.1  # share of the memory below which the system may swap
BUSY = 0.1  # share of the usable cores that other programs may take before it is worth a remark
GLANCE = 0.25  # seconds
_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_STAT = Path("/proc/stat")
_PACKAGES = (
    *("adapter-infer", "onnxruntime", "onnxruntime-gpu", "onnx", "onnxscript", "torch", "numpy"),
    *("openvino", "tensorrt", "tensorrt_rtx_cu13_bindings", "transformers"),
)


def describe(timed: bool = True) -> dict[str, Any]:
    """CPU, cores, clock, memory, kernel, Python, load, the code's git state and the first GPU, as JSON data.

    What cannot be read is None. `other_cores` is how many cores other programs keep busy now, seen in GLANCE seconds
    where something is to be `timed`; `load_average` is of the last minutes, what was measured just before included.
    `quota_cores` is what a container may use of the cores on average, `gpu` what nvidia-smi says, or one sentence that
    says why it says nothing.
    """
    cpu = _entries(Path("/proc/cpuinfo"))
    return {
        "cpu": _cpu(cpu),
        "isa": [flag for flag in _TELLING_FLAGS if flag in (cpu.get("flags") or cpu.get("Features") or "").split()],
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "quota_cores": quota_cores(),
        "governor": governor(),
        "mhz": _number(cpu.get("cpu MHz")),
        "memory_bytes": _memory_bytes(),
        "memory_available_bytes": available_memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": load_average(),
        "other_cores": _glance() if timed else None,
        "git": git_state(),
        "gpu": smi.query(),
    }


def doubts(described: dict[str, Any]) -> list[str]:
    """Remarks on what makes figures taken on this machine (as `describe` gives it) hard to repeat."""
    found = []
    if (remark := disturbance(described)) is not None:
        found.append(remark)
    if (policy := described["governor"]) is not None and policy != STEADY_GOVERNOR:
        found.append(f"the CPU's frequency governor is {policy}: its clock follows the load; set it to performance")
    cores, quota = described["usable_cores"], described["quota_cores"]
    if quota is not None and quota < cores:
        found.append(f"the container may use {quota:g} of {cores} cores on average: runs are held back now and then")
    memory, free = described["memory_bytes"], described["memory_available_bytes"]
    if memory and free is not None and free < SCARCE * memory:
        found.append(f"{free / 2**20:,.0f} of {memory / 2**20:,.0f} MiB of memory were free: the system may swap")
    return found


def disturbance(described: dict[str, Any]) -> str | None:
    """A remark where other programs took more than BUSY of the cores, before or, where that was watched, meanwhile."""
    cores = described.get("usable_cores")
    for key, when in (("other_cores_meanwhile", "meanwhile"), ("other_cores", "before the start")):
        other = described.get(key)
        if other is not None and cores and other > BUSY * cores:
            return f"other programs, or the host, kept {other:.1f} of {cores} cores busy {when}"
    return None


class OtherPrograms:
    """How many cores other programs kept busy since this was made, and in a virtual machine its host for others.

    The processes that this one started belong to it once they have ended. None where the system does not tell.
    """

    def __init__(self) -> None:
        self._start = self._used()

    def cores(self) -> float | None:
        end = self._used()
        if self._start is None or end is None or end[0] <= self._start[0]:
            return None
        return round(max(0.0, (end[1] - self._start[1]) / (end[0] - self._start[0])), 2)

    @staticmethod
    def _used() -> tuple[float, float] | None:
        """Wall clock, and processor seconds of everything but this process and its children."""
        try:
            ticks = [int(number) for number in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
            user, nice, system, _idle, _wait, irq, softirq, steal = ticks
        except (OSError, ValueError):
            return None
        own = os.times()
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy - own.user - own.system - own.children_user - own.children_system


def _glance() -> float | None:
    others = OtherPrograms()
    time.sleep(GLANCE)
    return others.cores()


def device() -> str:
    """The CPU's model."""
    return _cpu(_entries(Path("/proc/cpuinfo")))


def governor(cpus: Path = _CPUS) -> str | None:
    """The cores' frequency governor, several joined by "+"; None where the system has none, as in most containers."""
    found = set()
    for path in cpus.glob("cpu*/cpufreq/scaling_governor"):
        try:
            found.add(path.read_text().strip())
        except OSError:
            continue
    return "+".join(sorted(found)) or None


def quota_cores(cgroup: Path = _CGROUP) -> float | None:
    """Cores' worth of time that the process's control group gets, None where it is not limited."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    limit, over = _number(quota), _number(period)
    return limit / over if limit and over and limit > 0 else None


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping."""
    kibibytes = _number(_entries(meminfo).get("MemAvailable", "").removesuffix(" kB"))
    return None if kibibytes is None else int(kibibytes) * 1024


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that the code runs from, and how many tracked files differ from it; None elsewhere."""
    origin = util.find_spec("adapter_infer")
    if shutil.which("git") is None or origin is None or origin.origin is None:
        return None
    source = Path(origin.origin)
    commit = _git(source.parent, "rev-parse", "HEAD")
    if commit is None or not _git(source.parent, "ls-files", source.name):  # installed below somebody's repository
        return None
    changed = _git(source.parent.parent, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed_files": None if changed is None else len(changed.splitlines())}


def _git(folder: Path, *words: str) -> str | None:
    try:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> list[float] | None:
    """Mean number of running processes over the last 1, 5 and 15 minutes."""
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except OSError:
        return None


def versions() -> dict[str, str]:
    """Versions of the installed packages that a figure depends on."""
    result = {}
    for package in _PACKAGES:
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return result


def _entries(path: Path) -> dict[str, str]:
    """The "key : value" lines of a file of the kernel's, up to its first empty line; {} where it cannot be read."""
    try:
        first = path.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _cpu(entries: dict[str, str]) -> str:
    return entries.get("model name") or platform.processor() or platform.machine()


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
