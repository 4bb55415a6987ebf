"""Arrays on the GPU without copies: results for other libraries, and other libraries' arrays as inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from adapter_engines.device import cuda, dlpack
from adapter_engines.device.memory import HostBuffer, copy_out
from adapter_engines.device.stream import Stream
from adapter_infer.errors import EnvironmentMissing, UsageError

ALIGNMENT = 256  # bytes, of every address TensorRT is given (NvInferRuntime.h, setTensorAddress); kept for all engines
LEGACY_STREAM, NO_STREAM = 1, -1


def numpy_dtype(name: str) -> np.dtype:
    """numpy's type of that name; bfloat16, which numpy has not, is ml_dtypes.bfloat16. Errors: EnvironmentMissing."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise EnvironmentMissing("numpy has no bfloat16; pip install ml_dtypes, which gives it one") from error
    return np.dtype(ml_dtypes.bfloat16)


class _Shaped:
    """What has a `shape` and the name of a `dtype`."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * dlpack.TYPES[self.dtype][1] // 8


class DeviceArray(_Shaped):
    """A row-major array on the GPU: `shape`, `dtype` (a name), `pointer`, `device` (ordinal).

    torch.from_dlpack, cupy.asarray and pycuda take it without a copy, and keep its memory as long as they use it. An
    array with a `stream` may still be being computed there; the protocols make the consumer's stream wait for it.
    `numpy()` copies it to the host. bfloat16 goes through DLPack only: the array interface has no name for it.
    """

    def __init__(
        self, pointer: int, shape: tuple[int, ...], dtype: str, device: int, owner: object, stream: Stream | None = None
    ) -> None:
        self.pointer, self.shape, self.dtype, self.device = pointer, shape, dtype, device
        self._owner = owner
        self._stream = stream

    @property
    def stream(self) -> Stream | None:
        """The stream that computes it, None once nothing is pending there."""
        return None if self._stream is None or self._stream.closed else self._stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype == "bfloat16":  # an AttributeError, so that hasattr says no and consumers try DLPack
            raise AttributeError("__cuda_array_interface__ has no bfloat16; use DLPack")
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.pointer if math.prod(self.shape) else 0, False),
            "version": 3,
            "strides": None,
            "stream": None if self.stream is None else self.stream.handle,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for a consumer on `stream` (1 legacy, 2 per-thread default, None the legacy one, -1: no waiting).

        Errors: BufferError for another device or a copy, as the protocol asks; ValueError for stream 0.
        """
        if dl_device not in (None, self.__dlpack_device__()) or copy:
            raise BufferError("this array stays where it is and is shared; copy it in the library that takes it")
        if stream == 0:
            raise ValueError("stream 0 is ambiguous in DLPack: 1 is the legacy default stream, 2 the thread's own")
        pending = self.stream
        consumer = LEGACY_STREAM if stream is None else stream
        if pending is not None and consumer != NO_STREAM:
            pending.hold_back(consumer)
        return dlpack.give(self.pointer, self.shape, self.dtype, self.device, self._owner)

    def numpy(self) -> np.ndarray:
        """A copy on the host, once it is computed. Errors: CudaError."""
        dtype = numpy_dtype(self.dtype)
        with cuda.Device(self.device).current(), Stream() as stream, HostBuffer(self.nbytes) as host:
            if self.stream is not None:
                stream.wait_for(self.stream.handle)
            copy_out(host, self.pointer, self.nbytes, stream)
            stream.synchronize()
            return host.array(dtype, self.shape).copy()

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype} {self.shape} on device {self.device})"


class Adopted(_Shaped):
    """Another library's array as an input: `pointer`, `shape`, `dtype`. `let_go` when no work reads it any more."""

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: str, let_go: Callable[[], None]) -> None:
        self.pointer, self.shape, self.dtype = pointer, shape, dtype
        self._let_go: Callable[[], None] | None = let_go

    def let_go(self) -> None:
        """Tells the other library that its memory is no longer read here; further calls do nothing."""
        done, self._let_go = self._let_go, None
        if done is not None:
            done()


def is_device_array(value: Any) -> bool:
    """Whether `value` says that it lies on an NVIDIA GPU, by DLPack or by __cuda_array_interface__."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) in (dlpack.CUDA, dlpack.MANAGED)
    return hasattr(value, "__cuda_array_interface__")


def adopt(name: str, value: Any, stream: Stream, device: int) -> Adopted:
    """`value`, an array of `is_device_array`, for work on `stream`, which waits for what the producer has pending.

    Errors: UsageError if it lies on another device than `device`, is not row-major, or at an address that is not
    aligned; `name` is what the messages call it.
    """
    try:
        if hasattr(value, "__dlpack__"):
            taken = _from_dlpack(name, value, stream, device)
        else:
            taken = _from_interface(name, value, stream)
    except UsageError as error:
        raise error if str(error).startswith(name) else UsageError(f"{name} cannot be read: {error}") from error
    try:
        _check(name, taken)
    except UsageError:
        taken.give_back()
        raise
    return Adopted(taken.pointer, taken.shape, taken.dtype, taken.give_back)


def _from_dlpack(name: str, value: Any, stream: Stream, device: int) -> dlpack.Taken:
    ordinal = int(value.__dlpack_device__()[1])
    if ordinal != device:
        raise UsageError(f"{name} lies on device {ordinal}, but the engine is on device {device}; move it there")
    try:
        capsule = value.__dlpack__(stream=stream.handle)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:  # the producer's refusal, e.g. of a gradient
        raise UsageError(f"{name} cannot be shared through DLPack: {' '.join(str(error).split())}") from error
    return dlpack.take(capsule)


def _from_interface(name: str, value: Any, stream: Stream) -> dlpack.Taken:
    interface = value.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise UsageError(f"{name} has a mask, which no input takes; hand over a plain array")
    dtype = np.dtype(interface["typestr"])
    if not dtype.isnative or dtype.name not in dlpack.TYPES:
        raise UsageError(f"{name} is {interface['typestr']}, which no input takes")
    steps = interface.get("strides")
    if interface["version"] < 3:  # says nothing of streams: wait for the default stream and all that it waits for
        stream.wait_for(LEGACY_STREAM)
    elif interface.get("stream") is not None:
        if interface["stream"] == 0:
            raise UsageError(f"{name} names stream 0, which the protocol forbids; 1 is the legacy default stream")
        stream.wait_for(interface["stream"])
    keep = [value]  # the interface has no counter: the array itself is held
    return dlpack.Taken(
        int(interface["data"][0] or 0),
        tuple(interface["shape"]),
        None if steps is None else tuple(step // dtype.itemsize for step in steps),
        dtype.name,
        (dlpack.CUDA, -1),
        keep.clear,
    )


def _check(name: str, taken: dlpack.Taken) -> None:
    expected = [math.prod(taken.shape[axis + 1 :]) for axis in range(len(taken.shape))]
    rows = zip(taken.shape, taken.strides or expected, expected, strict=True)
    if math.prod(taken.shape) and any(size > 1 and step != wanted for size, step, wanted in rows):
        raise UsageError(
            f"{name} {taken.shape} lies in memory with strides {taken.strides}, not row by row; make it contiguous"
        )
    if taken.pointer % ALIGNMENT:
        raise UsageError(
            f"{name} begins {taken.pointer % ALIGNMENT} bytes behind a multiple of {ALIGNMENT}, which is "
            "required of addresses; copy it (a slice of a larger array rarely begins where it may)"
        )
