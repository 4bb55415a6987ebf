"""The machine a measurement was taken on: what the operating system says of it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

# Instruction sets that change how fast a network runs; the full list of flags is noise.
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve")
_PACKAGES = ("adapter-infer", "onnxruntime", "onnxruntime-gpu", "onnx", "onnxscript", "torch", "numpy")


def describe() -> dict[str, Any]:
    """CPU, cores, memory, kernel, Python and load average, as JSON data. What cannot be read is None."""
    cpu = _entries(Path("/proc/cpuinfo"))
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "isa": [flag for flag in _TELLING_FLAGS if flag in (cpu.get("flags") or cpu.get("Features") or "").split()],
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": load_average(),
    }


def device(provider: str) -> str:
    """The device's name: the CPU's model, or the first NVIDIA GPU's as its driver shows it."""
    if provider == "cpu":
        return describe()["cpu"]
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        return _entries(path).get("Model", provider)
    return provider


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


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
