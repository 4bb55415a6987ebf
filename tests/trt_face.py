"""Builds the TensorRT face from this checkout, with the CPU kernel behind it: no nvcc, no GPU, no TensorRT needed.

What such a library parses, builds and serialises is what the real one does; its enqueue runs on host memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
TRT, MSDA, TESTS = ROOT / "plugins" / "trt", ROOT / "plugins" / "msda", ROOT / "tests" / "plugins"
FACE = [TRT / f"{name}.cpp" for name in ("messages", "tensors", "msda_plugin", "creators")]
KERNEL = [MSDA / "check.cpp", MSDA / "cpu_kernel.cpp", TESTS / "cuda_stand_in.cpp"]
SANITIZED = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SUPPORTED = (10, 11)


def compiler() -> str | None:
    """A C++ compiler, or None."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))), None)


@lru_cache
def headers() -> dict[int, Path]:
    """TensorRT's include folders on this machine by major: those of ADAPTER_TENSORRT_INCLUDE, then a wheel's."""
    folders = [Path(part) for part in re.split("[:;]", os.environ.get("ADAPTER_TENSORRT_INCLUDE", "")) if part]
    folders.append(Path(sysconfig.get_path("purelib")) / "kernel_lens" / "include" / "tensorrt")
    found: dict[int, Path] = {}
    for folder in folders:
        version = folder / "NvInferVersion.h"
        text = version.read_text() if version.is_file() else ""
        if match := re.search(r"#define (?:NV_TENSORRT|TRT)_MAJOR(?:_ENTERPRISE)? +(\d+)", text):
            found.setdefault(int(match[1]), folder)
    return found


#: The majors that the face can be built for here; 10, to be skipped with the reason, where there is none.
MAJORS = tuple(sorted(set(headers()) & set(SUPPORTED))) or (10,)


def why_not(major: int) -> str | None:
    """Why the face for TensorRT `major` cannot be built here, or None."""
    if major not in headers():
        return (
            f"needs the headers of TensorRT {major}: set ADAPTER_TENSORRT_INCLUDE to the folder of NvInferRuntime.h"
            + (" (the wheel kernel-lens has those of 10)" if major == 10 else "")
        )
    return None if compiler() else "needs a C++ compiler"


def require(major: int) -> None:
    """Skips the test where the face for TensorRT `major` cannot be built."""
    if why := why_not(major):
        pytest.skip(why)


def library(major: int, self_registering: bool = False) -> Path:
    """The plugin library for TensorRT `major`, plain or self-registering."""
    require(major)
    door = "self_register" if self_registering else "exports"
    name = f"libmsda_trt{major}{'_static' * self_registering}.so"
    options = [f"-Wl,--version-script={TRT / door}.map", "-Wl,--no-undefined", "-static-libstdc++", "-static-libgcc"]
    options += ["-shared", f"-Wl,-soname,{name}", *["-Wl,-z,nodelete"] * self_registering]
    return compiled(name, [*FACE, TRT / f"{door}.cpp", *KERNEL], [*includes(major), *options])


def program(name: str, major: int) -> Path:
    """`tests/plugins/trt/NAME.cpp` with the face linked in, under AddressSanitizer and UndefinedBehaviorSanitizer."""
    require(major)
    sources = [*FACE, TRT / "exports.cpp", *KERNEL, TESTS / "trt" / f"{name}.cpp"]
    return compiled(name, sources, [*includes(major), *SANITIZED])


def includes(major: int) -> list[str]:
    """Compiler options for the headers of TensorRT `major`, of the face and of the kernels' contract."""
    system = [
        option for folder in (headers()[major], TESTS / "trt" / "include") for option in ("-isystem", str(folder))
    ]
    return [*system, f"-I{MSDA}", f"-I{TRT}", "-DMSDA_KERNEL=msda_cpu_portable"]


def compiled(name: str, sources: Sequence[Path], options: Sequence[str]) -> Path:
    """`sources` compiled, once for this user and every state of the native sources and tests."""
    made, errors = _compiled(name, tuple(sources), tuple(options))
    assert not errors, errors
    return made


@lru_cache
def _compiled(name: str, sources: tuple[Path, ...], options: tuple[str, ...]) -> tuple[Path, str]:
    """The file, and what the compiler said where it failed; asked once in a process either way."""
    program = compiler()
    if not program:
        pytest.skip("needs a C++ compiler")
    command = [
        program,
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-psabi",
        "-fPIC",
        "-fvisibility=hidden",
    ]
    digest = hashlib.sha256(repr((command, sources, options)).encode())
    for path in sorted(path for folder in (TRT, MSDA, TESTS) for path in folder.rglob("*")):
        if path.suffix in {".h", ".cpp", ".map"}:
            digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"adapter-infer-tests-{os.getuid()}" / digest.hexdigest()[:16]
    made = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):  # the other workers of a test run want the same
        if not made.exists():
            half = folder / f"{name}.part"
            parts = [*command, *map(str, sources), "-o", str(half), *options, "-ldl", "-lpthread"]
            done = subprocess.run(parts, capture_output=True, text=True, check=False)
            if done.returncode:
                return made, done.stderr[-4000:]
            half.replace(made)
    return made, ""
