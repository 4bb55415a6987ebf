"""Finds the shared libraries that this folder builds, and says why one is not there."""

from __future__ import annotations

import ctypes
import json
from importlib.resources import files
from pathlib import Path

from adapter_infer.errors import EnvironmentMissing

ORT_CPU = "msda_ort_cpu"

#: Every library there can be, and what it serves.
LIBRARIES = {
    ORT_CPU: "ONNX Runtime, CPU execution provider",
    "msda_ort_cuda": "ONNX Runtime, CUDA execution provider",
    "msda_trt": "TensorRT",
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
