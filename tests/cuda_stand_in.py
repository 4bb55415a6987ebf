"""Builds the stand-in for the CUDA libraries: the same callers, with the CPU kernel behind the C interface."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "plugins"
SOURCES = [
    *sorted((PLUGINS / "ort").glob("*.cpp")),
    PLUGINS / "msda" / "check.cpp",
    PLUGINS / "msda" / "cpu_kernel.cpp",
    ROOT / "tests" / "plugins" / "cuda_stand_in.cpp",
]


def compiler() -> str:
    """A C++ compiler; skips the test where there is none."""
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if not found:
        pytest.skip("needs a C++ compiler")
    return found


def build(factory: pytest.TempPathFactory) -> Path:
    """One library with the C interface and the ONNX Runtime face; built once for all workers of a test run."""
    command = [compiler(), "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    command += ["-DMSDA_WITH_CUDA", "-DMSDA_KERNEL=msda_cpu_portable", *map(str, SOURCES), "-Wl,--no-undefined"]
    base = factory.getbasetemp()
    folder = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    library = folder / "libcuda_stand_in.so"
    with FileLock(folder / "cuda_stand_in.lock"):
        if not library.exists():
            made = library.with_suffix(".part")
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            made.rename(library)
    return library
