"""The kernels and the checks of sizes, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside) if beside.is_file() else None)


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("native build")
def test_random_and_hostile_inputs_are_read_within_bounds(tmp_path):
    """Every code path over random problems in buffers of exactly their size, and a hundred thousand malformed calls.

    Warnings are errors in this build.
    """
    compiler = os.environ.get("CXX") or tool("c++") or tool("g++")
    cmake = tool("cmake")
    if not compiler or not cmake:
        pytest.skip(f"needs a C++ compiler and cmake; found {compiler} and {cmake}")
    options = ["-DADAPTER_SANITIZE=ON", "-DADAPTER_WERROR=ON", f"-DCMAKE_CXX_COMPILER={compiler}"]
    if ninja := tool("ninja"):
        options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    run(cmake, "-S", ROOT / "plugins", "-B", tmp_path, *options)
    run(cmake, "--build", tmp_path, "--parallel", "2")
    said = run(tmp_path / "hostile_driver", 300)
    assert "300 problems on every code path, 150000 malformed calls" in said
