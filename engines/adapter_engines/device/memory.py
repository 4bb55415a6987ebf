"""Memory with an owner: DeviceBuffer on the GPU, HostBuffer pinned on the host, and copies between the two."""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_engines.closing import Closing
from adapter_engines.device import cuda
from adapter_infer.errors import UsageError

if TYPE_CHECKING:
    from adapter_engines.device.stream import Stream

LOG = logging.getLogger(__name__)
_thread = threading.local()


class Memory:
    """One allocation, freed when the last reference to it goes, so that an array handed out can outlive its buffer."""

    def __init__(self, pointer: int, nbytes: int, free: str) -> None:
        self.pointer = pointer
        self.nbytes = nbytes
        self.free = weakref.finalize(self, _free, free, pointer)


class _Buffer(Closing):
    """Owns `nbytes` of memory until `close`. Arrays that share its memory keep it; nobody else may use it after."""

    allocate = ""
    release = ""
    arguments: tuple[Any, ...] = ()

    def __init__(self, nbytes: int) -> None:
        size = max(int(nbytes), 1)  # an empty tensor needs an address too
        self.nbytes = size
        self._memory: Memory | None = Memory(int(cuda.call(self.allocate, size, *self.arguments)), size, self.release)

    @property
    def memory(self) -> Memory:
        """The allocation itself, for an array that shares it. Errors: UsageError after `close`."""
        if self._memory is None:
            raise UsageError(f"this {type(self).__name__} of {self.nbytes} bytes is closed")
        return self._memory

    @property
    def pointer(self) -> int:
        """Its address. Errors: UsageError after `close`."""
        return self.memory.pointer

    def close(self) -> None:
        """Gives the memory back, or leaves it to the arrays that share it. Further calls do nothing."""
        self._memory = None


class DeviceBuffer(_Buffer):
    """`nbytes` on the thread's current GPU, aligned to 256 bytes. Errors: CudaError where there is not as much.

    cudaMalloc and cudaFree on purpose: cudaFree waits for the whole device, so that memory shared with another
    library is never reused while that library's kernels, on streams unknown here, still read it.
    """

    allocate, release = "cudaMalloc", "cudaFree"


class HostBuffer(_Buffer):
    """`nbytes` of pinned host memory, which copies to and from the GPU can use without a detour. Errors: CudaError."""

    allocate, release = "cudaMallocHost", "cudaFreeHost"

    def array(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """The first bytes as an array, without a copy; the array keeps the memory alive."""
        count = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if count > self.nbytes:
            raise UsageError(f"{dtype} {shape} needs {count} bytes, but the buffer has {self.nbytes}")
        raw: Any = (ctypes.c_byte * count).from_address(self.pointer)
        raw.owner = self.memory
        return np.frombuffer(raw, np.uint8).view(dtype).reshape(shape)


def copy_in(destination: int, source: HostBuffer, nbytes: int, stream: Stream) -> None:
    """Enqueues a copy of `nbytes` from pinned memory to the device address `destination`. Errors: CudaError."""
    kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
    cuda.call("cudaMemcpyAsync", destination, source.pointer, nbytes, kind, stream.raw)


def copy_out(destination: HostBuffer, source: int, nbytes: int, stream: Stream) -> None:
    """Enqueues a copy of `nbytes` from the device address `source` to pinned memory. Errors: CudaError."""
    kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
    cuda.call("cudaMemcpyAsync", destination.pointer, source, nbytes, kind, stream.raw)


def copy_within(destination: int, source: int, nbytes: int, stream: Stream) -> None:
    """Enqueues a copy of `nbytes` from one device address to another. Errors: CudaError."""
    kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice
    cuda.call("cudaMemcpyAsync", destination, source, nbytes, kind, stream.raw)


@contextmanager
def frees_put_off() -> Iterator[None]:
    """A thread that captures a graph may not free: what the garbage collector lets go waits until the block ends."""
    waiting: list[tuple[str, int]] = []
    _thread.waiting = waiting
    try:
        yield
    finally:
        del _thread.waiting
        for name, pointer in waiting:
            _free(name, pointer)


def _free(name: str, pointer: int) -> None:
    waiting = getattr(_thread, "waiting", None)
    if waiting is not None:
        waiting.append((name, pointer))
        return
    try:
        cuda.call(name, pointer)
    except cuda.CudaError as error:  # there is no one to raise it to; the error is CUDA's of an earlier kernel
        LOG.warning("%s", error)
