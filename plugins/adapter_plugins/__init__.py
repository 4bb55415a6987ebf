"""Finds the shared libraries that this folder builds, and says why one is not there."""

from __future__ import annotations

import ctypes
import json
from importlib.resources import files
from pathlib import Path

from adapter_infer.errors import EnvironmentMissing

ORT_CPU = "msda_ort_cpu"
ORT_CUDA = "msda_ort_cuda"
CUDA = "msda_cuda"
TENSORRT_MAJORS = (10, 11)

#: Every library there can be, and what it serves.
LIBRARIES = {
    ORT_CPU: "ONNX Runtime, CPU execution provider",
    ORT_CUDA: "ONNX Runtime, CUDA and CPU execution providers",
    CUDA: "PyTorch on NVIDIA GPUs, and C programs",
} | {
    f"msda_trt{major}{form}": f"TensorRT {major}, {how}"
    for major in TENSORRT_MAJORS
    for form, how in {"": "loaded by its plugin registry", "_static": "registers itself when opened"}.items()
}


def _folder() -> Path:
    return Path(str(files("adapter_plugins") / "lib"))


def library(name: str) -> Path:
    """Path of the shared library `name` of LIBRARIES; EnvironmentMissing that says why where it was not built."""
    path = _folder() / f"lib{name}.so"
    if path.is_file():
        return path
    why = build_info().get(
        name, "plugins/ was not built (ADAPTER_PLUGINS=none, or no pip install of this checkout yet)"
    )
    raise EnvironmentMissing(f"{path.name} is not part of this installation: {why}")


def tensorrt_plugin(major: int, self_registering: bool = False) -> Path:
    """The plugin library for TensorRT `major`: for `load_library`, or one that registers itself when it is opened.

    Never open both in one process: TensorRT takes a plugin once. Errors: EnvironmentMissing if there is none.
    """
    if major not in TENSORRT_MAJORS:
        known = " and ".join(map(str, TENSORRT_MAJORS))
        raise EnvironmentMissing(f"there is no plugin for TensorRT {major}; it is written for TensorRT {known}")
    return library(f"msda_trt{major}{'_static' if self_registering else ''}")


def build_info() -> dict[str, str]:
    """What the last build made of each library, and why it skipped the others; empty where nothing was built."""
    record = _folder() / "build_info.json"
    return json.loads(record.read_text()) if record.is_file() else {}


def instruction_set() -> str:
    """The code path ("avx512", "avx2", "sse2", "portable") that the CPU library takes on this processor.

    ADAPTER_MSDA_ISA forces one; EnvironmentMissing where the processor lacks it or the name is unknown.
    """
    ask = ctypes.CDLL(str(library(ORT_CPU))).adapter_msda_isa
    ask.restype = ctypes.c_char_p
    answer: str = ask().decode()
    if answer.startswith("!"):
        raise EnvironmentMissing(f"ADAPTER_MSDA_ISA: {answer[1:]}")
    return answer


def cuda_architectures() -> str:
    """The GPUs that the CUDA libraries were built for, "80,86,89,90,100,120+ptx"; EnvironmentMissing if there are none.

    Compute capabilities without the dot; "+ptx": the driver compiles the last one for GPUs that came later.
    """
    ask = ctypes.CDLL(str(library(CUDA))).msda_cuda_architectures
    ask.restype = ctypes.c_char_p
    answer: str = ask().decode()
    return answer


def cuda_unusable() -> str | None:
    """Why the CUDA libraries cannot run on this process's current GPU, None where they can."""
    message = ctypes.create_string_buffer(256)
    try:
        path = library(CUDA)
    except EnvironmentMissing as error:
        return str(error)
    return message.value.decode() if ctypes.CDLL(str(path)).msda_cuda_usable(message) else None
