"""Calls of libmsda_cuda.so bound once and enqueued often, on torch tensors: the kernel, and the naive one beside it.

`adapter_infer.msda_cuda` has the structures and the face for models. This adds what a check needs: an output that stays
where it is, level sizes on the host or on the device in both integer types, and msda_cuda_run_naive.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_infer.errors import AdapterError
from adapter_infer.msda_cuda import MESSAGE_SIZE, TYPES, CDeviceLevels, CProblem, CTensor

if TYPE_CHECKING:
    from torch import Tensor


class Call:
    """One checked call, its output allocated: calling it enqueues the kernel on torch's current stream."""

    def __init__(
        self, library: Library, problem: CProblem, levels: CDeviceLevels | None, output: Tensor, kept: list[Tensor]
    ) -> None:
        self.output = output
        self._library, self._problem, self._levels = library, problem, levels
        self._kept = kept  # the problem holds bare pointers

    def __call__(self) -> Tensor:
        self._library.enqueue("msda_cuda_run", self._problem, self._levels, _stream(self.output))
        return self.output

    def naive(self) -> Tensor:
        """The same by the thread-per-channel kernel; for the standard op alone."""
        self._library.enqueue("msda_cuda_run_naive", self._problem, self._levels, _stream(self.output))
        return self.output


class Library:
    """Errors: OSError where the file cannot be loaded."""

    def __init__(self, path: Path) -> None:
        self._c = ctypes.CDLL(str(path))
        self._c.msda_cuda_architectures.restype = ctypes.c_char_p

    @property
    def architectures(self) -> str:
        return str(self._c.msda_cuda_architectures().decode())

    @property
    def has_naive(self) -> bool:
        return hasattr(self._c, "msda_cuda_run_naive")

    def usable(self) -> str | None:
        """None, or why the current device cannot run it."""
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        return None if self._c.msda_cuda_usable(message) == 0 else message.value.decode()

    def fused(
        self, value: Tensor, shapes: Tensor, reference_points: Tensor, samples: Tensor, on_host: bool = True
    ) -> Call:
        """The fused op; `shapes` lie on the host, or on the device, and are read there where `on_host` is False.

        Errors: AdapterError with the library's sentence, here and in the calls.
        """
        return self._bind("msda_describe_fused", [value, shapes, reference_points, samples], None, on_host)

    def standard(
        self, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, on_host: bool = True
    ) -> Call:
        """The standard op, as `fused`."""
        return self._bind("msda_describe_standard", [value, shapes, starts, locations, weights], starts, on_host)

    def enqueue(self, function: str, problem: CProblem, levels: CDeviceLevels | None, stream: int) -> None:
        self._ask(function, byref(problem), None if levels is None else byref(levels), c_void_p(stream))

    def _bind(self, describe: str, tensors: list[Tensor], starts: Tensor | None, on_host: bool) -> Call:
        problem, shapes = CProblem(), tensors[1]
        self._ask(describe, *(byref(_described(tensor)) for tensor in tensors), byref(problem))
        output = tensors[0].new_empty((problem.n, problem.q, problem.m * problem.d))
        problem.output = output.data_ptr()
        if on_host:
            self._ask(
                "msda_set_levels", byref(problem), _integers(shapes), None if starts is None else _integers(starts)
            )
            return Call(self, problem, None, output, tensors)
        where = None if starts is None else starts.data_ptr()
        return Call(self, problem, CDeviceLevels(shapes.data_ptr(), where, TYPES[shapes.dtype]), output, tensors)

    def _ask(self, function: str, *arguments: object) -> None:
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        if getattr(self._c, function)(*arguments, message):
            raise AdapterError(f"{function}: {message.value.decode()}")


def _described(tensor: Tensor) -> CTensor:
    if not tensor.is_contiguous():
        raise AdapterError(f"a tensor of shape {list(tensor.shape)} is not contiguous")
    return CTensor(tensor.data_ptr(), (c_int64 * tensor.dim())(*tensor.shape), tensor.dim(), TYPES[tensor.dtype])


def _integers(tensor: Tensor) -> ctypes.Array[c_int64]:
    numbers = [int(number) for number in tensor.flatten().tolist()]
    return (c_int64 * len(numbers))(*numbers)


def _stream(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return 0
    import torch

    return int(torch.cuda.current_stream().cuda_stream)
