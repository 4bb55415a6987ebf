"""Builds the CUDA kernels for the CPU (tests/plugins/cuda/cuda_shim.h) and calls them with numpy arrays."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapter_infer.msda_cuda import MESSAGE_SIZE, CDeviceLevels, CProblem, CTensor

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "plugins" / "msda"
SHIM = ROOT / "tests" / "plugins" / "cuda"
UNITS = ("cuda_run", "cuda_fp32", "cuda_fp16", "cuda_bf16", "cuda_naive")
TYPES = {"fp32": 0, "fp16": 1, "bf16": 2, "int64": 3, "int32": 4}


class Refused(Exception):
    """What the library answered."""


def compiler() -> str:
    """A C++ compiler, or a skip that says so."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not found:
        pytest.skip("needs a C++ compiler on PATH")
    return found


def nvcc() -> Path | None:
    """The real nvcc, behind links and one-line wrappers."""
    found = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if not found:
        return None
    listed = subprocess.run([found, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
    for line in listed.splitlines():
        if line.startswith("#$ _HERE_="):
            return Path(line.split("=", 1)[1]) / "nvcc"
    return Path(found).resolve()


@functools.cache
def headers() -> Path:
    """A folder with cuda_fp16.h, of a toolkit or of NVIDIA's wheels, or a skip that says what is missing."""
    folders = [tool.parent.parent / "include"] if (tool := nvcc()) else []
    if home := os.environ.get("CUDA_HOME"):
        folders.append(Path(home) / "include")
    for entry in map(Path, sys.path):
        folders += sorted(entry.glob("nvidia/*/include"))
    for folder in folders:
        if (folder / "cuda_fp16.h").is_file() and (folder / "cuda_runtime_api.h").is_file():
            return folder
    pytest.skip("needs CUDA's headers: a toolkit with nvcc on PATH, CUDA_HOME, or the wheel nvidia-cuda-runtime")


def run(*command: object) -> str:
    """What the command printed; its complaints as the failure of the test."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def start_compiling(source: Path, to: Path, kernels: Path, options: tuple[str, ...]) -> subprocess.Popen[str]:
    """A compiler at work on one file, with the shim before it."""
    command = [compiler(), "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += ["-Wno-psabi", *options, "-isystem", str(headers()), "-I", str(kernels)]
    command += ["-DMSDA_MAX_ENTRIES=2", "-include", str(SHIM / "cuda_shim.h"), '-DMSDA_CUDA_ARCHITECTURES="none"']
    command += ["-x", "c++", "-c", str(source), "-o", str(to)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE)


def compile_units(
    folder: Path, kernels: Path = KERNELS, units: tuple[str, ...] = UNITS, options: tuple[str, ...] = ("-O1",)
) -> list[Path]:
    """Object files of the kernels as CPU code, with the pretended CUDA runtime and the checks."""
    sources = [kernels / f"{unit}.cu" for unit in units] + [SHIM / "emulated_runtime.cpp", kernels / "check.cpp"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    for first in range(0, len(sources), 2):  # two at a time
        pairs = list(zip(sources, objects, strict=True))[first : first + 2]
        for process in [start_compiling(source, to, kernels, options) for source, to in pairs]:
            _, complaints = process.communicate()
            assert process.returncode == 0, complaints[-4000:]
    return objects


def build(folder: Path, kernels: Path = KERNELS, options: tuple[str, ...] = ("-O1",)) -> Path:
    """The kernels as a shared library for the CPU."""
    library = folder / "libmsda_cuda_emulated.so"
    run(compiler(), "-shared", *options, *compile_units(folder, kernels, options=options), "-o", library)
    return library


class Emulated:
    """The library of `build`. `order` 1 or -1 runs the lanes up or down; `processors` is that of the pretended GPU."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.shim_launched.restype = ctypes.c_char_p
        self.library.msda_cuda_architectures.restype = ctypes.c_char_p
        self.library.msda_set_levels.argtypes = [ctypes.c_void_p] * 4
        self.set()

    def set(self, order: int = 1, processors: int = 4) -> None:
        """Settings of the following calls; forgets the launches so far."""
        self.library.shim_set(order, processors)

    def launched(self) -> list[str]:
        """Kernels since `set`, as they are written in the source."""
        return self.library.shim_launched().decode().split("\n")[:-1]

    def __call__(
        self,
        inputs: dict[str, np.ndarray],
        types: dict[str, str],
        device: str | None = None,
        off: int = 0,
        function: str = "msda_cuda_run",
    ) -> np.ndarray:
        """The output of the op with these inputs, NaN beforehand. `types`: of inputs that are bit patterns (bf16).


        `device`: level sizes on the device in this type, "int32", "int64", or either with "+starts"; None: on the host.
        `off`: bytes by which the output misses the alignment of device memory.
        """
        problem, keep = self.describe(inputs, types, "int64" if device is None else device.removesuffix("+starts"))
        value = inputs["value"]
        nothing = np.nan if value.dtype.kind == "f" else 0xFFFF
        output = aligned_like(np.full((problem.n, problem.q, problem.m * problem.d), nothing, value.dtype), off=off)
        problem.output = output.ctypes.data
        kind = np.dtype("int64" if device is None else device.removesuffix("+starts"))
        shapes = np.ascontiguousarray(inputs["spatial_shapes"], kind)
        starts = inputs.get("level_start_index")
        if device is not None and device.endswith("+starts") and starts is None:
            cells = inputs["spatial_shapes"].prod(1)
            starts = np.cumsum(cells) - cells
        if starts is not None:
            starts = np.ascontiguousarray(starts, kind)
        at = None if starts is None else starts.ctypes.data
        levels = None
        if device is None:
            self.check(self.library.msda_set_levels, ctypes.byref(problem), shapes.ctypes.data, at)
        else:
            levels = CDeviceLevels(shapes.ctypes.data, at, TYPES[kind.name])
            ctypes.memset(problem.level, 0x5A, ctypes.sizeof(problem.level))  # not to be used
        self.check(getattr(self.library, function), ctypes.byref(problem), levels and ctypes.byref(levels), None)
        del keep
        return output

    def describe(self, inputs: dict[str, np.ndarray], types: dict[str, str], sizes: str) -> tuple[CProblem, list]:
        """A checked problem and what must outlive it."""
        keep: list = []

        def tensor(name: str, type_name: str) -> CTensor:
            array = inputs[name] if inputs[name].nbytes > 1 << 30 else aligned_like(inputs[name])
            dims = (ctypes.c_int64 * array.ndim)(*array.shape)
            keep.extend([array, dims])
            return CTensor(array.ctypes.data, dims, array.ndim, TYPES[type_name])

        def of(name: str) -> str:
            return types.get(name) or {"float32": "fp32", "float16": "fp16"}[inputs[name].dtype.name]

        problem = CProblem()
        value, shapes = tensor("value", of("value")), tensor("spatial_shapes", sizes)
        if "samples" in inputs:
            others = [tensor("reference_points", "fp32"), tensor("samples", of("samples"))]
            describe = self.library.msda_describe_fused
        else:
            others = [tensor("level_start_index", sizes), tensor("sampling_locations", of("sampling_locations"))]
            others.append(tensor("attention_weights", of("attention_weights")))
            describe = self.library.msda_describe_standard
        tensors = [value, shapes, *others]
        self.check(describe, *map(ctypes.byref, tensors), ctypes.byref(problem))
        return problem, keep

    @staticmethod
    def check(function: ctypes._NamedFuncPointer, *arguments: object) -> None:
        """Calls it with a message, which becomes Refused where it answers -1."""
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        if function(*arguments, message):
            raise Refused(message.value.decode())


def aligned_like(array: np.ndarray, to: int = 256, off: int = 0) -> np.ndarray:
    """A copy whose first byte lies `off` bytes after a multiple of `to`, as device memory does with off = 0."""
    room = np.empty(array.nbytes + to + off, np.uint8)
    first = -room.ctypes.data % to + off
    copy = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
