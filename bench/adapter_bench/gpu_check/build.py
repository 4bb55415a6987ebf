"""Builds the CUDA library and the check's own programs with nvcc alone, for the GPU at hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from adapter_infer.errors import AdapterError, EnvironmentMissing

CHECKOUT = Path(__file__).resolve().parents[3]
KERNELS = CHECKOUT / "plugins" / "msda"
PROBE = Path(__file__).with_name("probe.cu")
DRIVER = Path(__file__).with_name("driver.cu")
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-lineinfo")
LIBRARY, PROBE_PROGRAM, DRIVER_PROGRAM = "libmsda_cuda.so", "probe", "driver"


def sources() -> list[Path]:
    """What the library is made of, as plugins/msda/cuda.cmake lists it, and the naive kernel, which no release has."""
    listed = KERNELS / "cuda.cmake"
    found = re.search(r"set\(MSDA_CUDA_SOURCES ([^)]+)\)", listed.read_text()) if listed.is_file() else None
    if found is None:
        raise EnvironmentMissing(f"{listed} lists no CUDA source; gpu-check runs from a whole checkout")
    return [*(KERNELS / name for name in found[1].split()), *sorted(KERNELS.glob("*naive*.cu"))]


def nvcc() -> str:
    """Errors: EnvironmentMissing."""
    beside = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    found = shutil.which("nvcc") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise EnvironmentMissing("nvcc was not found; install the CUDA toolkit 13, or put its bin folder on PATH")
    return found


def target(compute_capability: str) -> list[str]:
    """ "9.0" -> the options that build machine code for that GPU and nothing else."""
    digits = compute_capability.replace(".", "")
    if not re.fullmatch(r"\d{2,3}", digits):
        raise AdapterError(f"compute capability {compute_capability!r} is not of the form 9.0")
    return ["-gencode", f"arch=compute_{digits},code=sm_{digits}"]


def library(folder: Path, compute_capability: str) -> dict[str, Any]:
    """Builds libmsda_cuda.so in `folder`, its files at the same time. Errors: AdapterError with nvcc's own words."""
    begin, compiler = time.monotonic(), nvcc()
    common = [compiler, *FLAGS, *target(compute_capability), "-Xcompiler", "-fPIC", "-Xptxas", "-v", f"-I{KERNELS}"]
    common.append(f'-DMSDA_CUDA_ARCHITECTURES="{compute_capability.replace(".", "")}"')
    parts = [(path, folder / f"{path.name}.o") for path in sources()]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        logs = list(pool.map(lambda part: _run([*common, "-c", str(part[0]), "-o", str(part[1])]), parts))
    out = folder / LIBRARY
    _run([compiler, "-shared", "-cudart", "static", *(str(made) for _, made in parts), "-o", str(out)])
    return {
        "library": out.name,
        "sources": [str(path.relative_to(CHECKOUT)) for path, _ in parts],
        "bytes": out.stat().st_size,
        "seconds": time.monotonic() - begin,
        **resources("\n".join(logs)),
    }


def program(source: Path, out: Path, compute_capability: str, link: Sequence[Path] = ()) -> Path:
    """Builds one of the check's own programs. Errors: AdapterError with nvcc's own words."""
    linked = [option for path in link for option in (str(path), "-Xlinker", f"-rpath={path.parent}")]
    options = [*FLAGS, *target(compute_capability), "-cudart", "static", f"-I{KERNELS}"]
    _run([nvcc(), *options, str(source), *linked, "-o", str(out)])
    return out


def resources(log: str) -> dict[str, Any]:
    """Of ptxas -v: kernels, the most registers one takes, bytes spilled by all together."""
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", log)]
    spilled = [int(number) for number in re.findall(r"(\d+) bytes spill stores", log)]
    return {"kernels": len(registers), "most_registers": max(registers, default=None), "spilled_bytes": sum(spilled)}


def _run(command: list[str]) -> str:
    """What the command printed. Errors: AdapterError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in text.splitlines() if "error" in line.lower()] or text.splitlines()
        raise AdapterError(f"{Path(command[0]).name} failed: {' | '.join(lines[:3])[:600]}")
    return text
