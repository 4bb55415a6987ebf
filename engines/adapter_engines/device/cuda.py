"""Calls of the CUDA runtime that fail in CUDA's own words, and the device they go to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from adapter_infer.errors import AdapterError, EnvironmentMissing

PACKAGE = "cuda-bindings"


class CudaError(AdapterError):
    """A CUDA call failed; the message holds the call, CUDA's name of the error and CUDA's text."""


@dataclass(frozen=True)
class DeviceInfo:
    """`compute_capability` as "9.0"; memory in bytes; `driver` and `runtime` are CUDA versions as "13.0"."""

    ordinal: int
    name: str
    compute_capability: str
    total_memory: int
    free_memory: int
    driver: str
    runtime: str


def runtime() -> Any:
    """The module cuda.bindings.runtime. Errors: EnvironmentMissing."""
    try:
        from cuda.bindings import runtime as module
    except ImportError as error:
        raise EnvironmentMissing(f"{PACKAGE} is not usable here ({error}); pip install {PACKAGE}") from error
    return module


def call(name: str, *arguments: Any) -> Any:
    """What the CUDA runtime's function `name` returns beside its status: nothing, one value or a tuple.

    Errors: CudaError.
    """
    module = runtime()
    status, *results = getattr(module, name)(*arguments)
    if status != module.cudaError_t.cudaSuccess:
        module.cudaGetLastError()  # reported here; it must not turn up again behind the next call
        raise CudaError(f"{name} failed: {explained(status)}")
    return results[0] if len(results) == 1 else tuple(results) or None


def explained(status: Any) -> str:
    """CUDA's name and text of an error, as "cudaErrorMemoryAllocation (out of memory)"."""
    module = runtime()
    words = [module.cudaGetErrorName(status)[1], module.cudaGetErrorString(status)[1]]
    name, text = (word.decode() if isinstance(word, bytes) else str(word) for word in words)
    return f"{name} ({text})"


def unusable() -> str | None:
    """Why no CUDA device can be used here, in one sentence; None if one can. Touches no library but cuda-bindings."""
    try:
        module = runtime()
        status, count = module.cudaGetDeviceCount()
    except EnvironmentMissing as error:
        return str(error)
    except RuntimeError as error:  # the driver's library is there but cannot be loaded
        return f"the NVIDIA driver cannot be loaded ({error}); install a driver for the GPU"
    if status != module.cudaError_t.cudaSuccess:
        return f"no CUDA device can be used: {explained(status)}; run it where an NVIDIA GPU and its driver are"
    return None if count else "this machine shows no CUDA device; run it where an NVIDIA GPU is visible"


class Device:
    """One GPU by its ordinal; None takes the calling thread's current one. Errors: EnvironmentMissing without one."""

    def __init__(self, ordinal: int | None = None) -> None:
        reason = unusable()
        if reason is not None:
            raise EnvironmentMissing(reason)
        self.ordinal: int = call("cudaGetDevice") if ordinal is None else ordinal

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes it the calling thread's device for the block: CUDA keeps one per thread, and new threads start at 0."""
        before = call("cudaGetDevice")
        if before == self.ordinal:
            yield
            return
        call("cudaSetDevice", self.ordinal)
        try:
            yield
        finally:
            call("cudaSetDevice", before)

    def info(self) -> DeviceInfo:
        """Name, compute capability, memory and versions, as CUDA tells them now. Errors: CudaError."""
        with self.current():
            properties = call("cudaGetDeviceProperties", self.ordinal)
            free, total = call("cudaMemGetInfo")
            versions = [call(name) for name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion")]
        driver, built = (f"{version // 1000}.{version % 1000 // 10}" for version in versions)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        capability = f"{properties.major}.{properties.minor}"
        return DeviceInfo(self.ordinal, name.rstrip("\0"), capability, int(total), int(free), driver, built)
