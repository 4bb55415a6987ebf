"""Both operators on CUDA tensors, through the C interface of libmsda_cuda.so: no part of it is compiled against torch.

The structures mirror plugins/msda/msda.h and msda_cuda.h. A call enqueues one kernel on the current stream and waits
for nothing: level sizes that lie on the GPU are read there, so calls can be captured in a CUDA graph.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adapter_infer.errors import EnvironmentMissing

MAX_LEVELS, MESSAGE_SIZE = 16, 256
FLOATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
TYPES = FLOATS | {torch.int64: 3, torch.int32: 4}
ALIGNMENT = 16  # bytes that the kernels load at once

LOG = logging.getLogger("adapter_infer")


class CTensor(ctypes.Structure):
    """msda_tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_size_t),
        ("type", ctypes.c_int),
    )


class CLevel(ctypes.Structure):
    """msda_level."""

    _fields_ = (("height", ctypes.c_int32), ("width", ctypes.c_int32), ("start", ctypes.c_int32))


class CProblem(ctypes.Structure):
    """msda_problem; the library fills all of it but `output`."""

    _fields_ = (
        *((size, ctypes.c_int64) for size in ("n", "s", "m", "d", "q", "l", "p")),
        ("value_type", ctypes.c_int),
        ("value", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("reference_points", ctypes.c_void_p),
        ("reference_n", ctypes.c_int64),
        ("reference_l", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("position_type", ctypes.c_int),
        ("position_stride", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("weight_type", ctypes.c_int),
        ("weight_stride", ctypes.c_int64),
        ("level", CLevel * MAX_LEVELS),
    )


class CDeviceLevels(ctypes.Structure):
    """msda_device_levels."""

    _fields_ = (("spatial_shapes", ctypes.c_void_p), ("level_start_index", ctypes.c_void_p), ("type", ctypes.c_int))


class Refused(Exception):
    """The library does not take this call; the message is its own sentence."""


def _described(tensor: Tensor) -> CTensor:
    """`tensor` as the library is told of it; it must be dense and outlive the call."""
    dims = (ctypes.c_int64 * tensor.dim())(*tensor.shape)
    return CTensor(tensor.data_ptr(), dims, tensor.dim(), TYPES[tensor.dtype])


def _dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` row after row in `dtype`, from an address that wide loads can start at; copied only where it must be."""
    tensor = tensor.to(dtype).contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


class Kernels:
    """The library at `path`. Calls are safe from several threads."""

    def __init__(self, path: Path) -> None:
        self._c = ctypes.CDLL(str(path))
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        self._c.msda_describe_fused.argtypes = [ctypes.POINTER(CTensor)] * 4 + [ctypes.POINTER(CProblem), text]
        self._c.msda_describe_standard.argtypes = [ctypes.POINTER(CTensor)] * 5 + [ctypes.POINTER(CProblem), text]
        self._c.msda_set_levels.argtypes = [ctypes.POINTER(CProblem), pointer, pointer, text]
        self._c.msda_cuda_run.argtypes = [ctypes.POINTER(CProblem), ctypes.POINTER(CDeviceLevels), pointer, text]
        self._c.msda_cuda_usable.argtypes = [text]

    def unusable(self) -> str | None:
        """Why the current device cannot run the kernels, None where it can."""
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        return message.value.decode() if self._c.msda_cuda_usable(message) else None

    def fused(
        self,
        value: Tensor,
        spatial_shapes: Tensor,
        reference_points: Tensor,
        samples: Tensor,
        stream: int,
        levels_on_device: bool = True,
    ) -> Tensor:
        """The fused operator on the current device; shapes as in `adapter_infer.msda.ms_deform_attn`.

        Enqueued on `stream` (a cudaStream_t as a number). spatial_shapes lies where the rest does, or in host memory
        where `levels_on_device` is false. Errors: Refused.
        """
        value = _value(value)
        floats = [_dense(reference_points, torch.float32), _dense(samples, _like(value, samples))]
        return self._run(self._c.msda_describe_fused, value, [spatial_shapes], floats, stream, levels_on_device)

    def standard(
        self,
        value: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        stream: int,
        levels_on_device: bool = True,
    ) -> Tensor:
        """The standard operator, shapes as in `adapter_infer.msda.multi_scale_deformable_attention`; as `fused`.

        Weights of another type than value's are rounded to it. level_start_index lies where spatial_shapes does.
        """
        value = _value(value)
        floats = [
            _dense(sampling_locations, _like(value, sampling_locations)),
            _dense(attention_weights, value.dtype),
        ]
        integers = [spatial_shapes, level_start_index]
        return self._run(self._c.msda_describe_standard, value, integers, floats, stream, levels_on_device)

    def _run(
        self,
        describe: Callable[..., int],
        value: Tensor,
        integers: Sequence[Tensor],
        floats: Sequence[Tensor],
        stream: int,
        levels_on_device: bool,
    ) -> Tensor:
        narrow = levels_on_device and all(tensor.dtype == torch.int32 for tensor in integers)
        dtype = torch.int32 if narrow else torch.int64
        integers = [tensor.to(dtype).contiguous() for tensor in integers]
        problem, message = CProblem(), ctypes.create_string_buffer(MESSAGE_SIZE)
        described = [ctypes.byref(_described(tensor)) for tensor in (value, *integers, *floats)]
        _check(describe(*described, ctypes.byref(problem), message), message)

        shapes, starts = (*(tensor.data_ptr() for tensor in integers), None)[:2]
        levels = None
        if levels_on_device:
            levels = ctypes.byref(CDeviceLevels(shapes, starts, TYPES[dtype]))
        else:
            _check(self._c.msda_set_levels(ctypes.byref(problem), shapes, starts, message), message)
        output = value.new_empty((problem.n, problem.q, problem.m * problem.d))
        problem.output = output.data_ptr()
        if output.numel():
            _check(self._c.msda_cuda_run(ctypes.byref(problem), levels, stream, message), message)
        return output


def _value(value: Tensor) -> Tensor:
    if value.dtype not in FLOATS:
        raise Refused(f"value is {value.dtype}; the kernels take float32, float16 and bfloat16")
    return _dense(value, value.dtype)


def _like(value: Tensor, samples: Tensor) -> torch.dtype:
    """The type in which the kernels take `samples`: value's own, or float32."""
    return value.dtype if samples.dtype == value.dtype else torch.float32


def _check(code: int, message: ctypes.Array[ctypes.c_char]) -> None:
    if code:
        raise Refused(message.value.decode())


@functools.cache
def _kernels() -> Kernels | str:
    """The library of this installation, or why there is none. Looked for when it is first needed."""
    try:
        from adapter_plugins import CUDA, library

        return Kernels(library(CUDA))
    except (EnvironmentMissing, ImportError, OSError) as error:
        return str(error)


@functools.cache
def _unusable(device: int) -> str | None:
    """Why the kernels cannot run on this GPU, None where they can."""
    kernels = _kernels()
    if isinstance(kernels, str):
        return kernels
    with torch.cuda.device(device):
        return kernels.unusable()


@functools.cache
def _say_once(reason: str) -> None:
    LOG.warning("MSDA runs on the GPU through plain torch operators, which is slower: %s", reason)


def _call(
    operator: Callable[..., Tensor], value: Tensor, integers: Sequence[Tensor], floats: Sequence[Tensor]
) -> Tensor:
    if any(tensor.device != value.device for tensor in floats):
        raise Refused(f"value is on {value.device} and other inputs are not; move them there")
    on_device = all(tensor.device == value.device for tensor in integers)
    if not on_device:
        integers = [tensor.cpu() for tensor in integers]
    with torch.cuda.device(value.device):
        stream = torch.cuda.current_stream().cuda_stream
        return operator(value, *integers, *floats, stream, levels_on_device=on_device)


def run(operator: str, value: Tensor, integers: Sequence[Tensor], floats: Sequence[Tensor]) -> Tensor | None:
    """`Kernels.<operator>` on the GPU of `value`, or None where the caller must use the reference; that is logged.

    Unlike the reference it does not wait to look at level sizes on the GPU: where they do not fit S the output is NaN.
    """
    reason = _unusable(value.device.index)
    if reason is None:
        try:
            return _call(getattr(_kernels(), operator), value, integers, floats)
        except Refused as error:
            reason = str(error)
    _say_once(reason)
    return None
