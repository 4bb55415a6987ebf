"""The DLPack protocol (https://dmlc.github.io/dlpack, version 0.x capsules named "dltensor") through ctypes."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapter_infer.errors import UsageError

NAME, USED = b"dltensor", b"used_dltensor"
CUDA, MANAGED = 2, 13  # device types: memory of cudaMalloc, of cudaMallocManaged
TYPES = {  # dtype -> (type code, bits)
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
    "bool": (6, 8),
} | {f"{kind}{bits}": (code, bits) for code, kind in enumerate(("int", "uint")) for bits in (8, 16, 32, 64)}
NAMES = {form: name for name, form in TYPES.items()}


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("ordinal", ctypes.c_int))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", _Deleter))


_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
# The capsule as an address: inside its destructor a py_object would bring it back to life.
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))

_given: dict[int, tuple[_Managed, Any]] = {}  # what consumers hold, by the address of its DLManagedTensor


@dataclass(frozen=True)
class Taken:
    """A tensor of another library: its address, its strides in elements (None: row by row), and how to give it back."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: tuple[int, int]
    give_back: Callable[[], None]


def give(pointer: int, shape: tuple[int, ...], dtype: str, ordinal: int, owner: Any) -> Any:
    """A capsule over row-major CUDA memory; `owner` is kept until the consumer has let it go."""
    code, bits = TYPES[dtype]
    ndim = len(shape)
    sizes = (ctypes.c_int64 * max(ndim, 1))(*shape)
    steps = (ctypes.c_int64 * max(ndim, 1))(*(math.prod(shape[axis + 1 :]) for axis in range(ndim)))
    tensor = _Tensor(pointer, _Device(CUDA, ordinal), ndim, _Type(code, bits, 1), sizes, steps, 0)
    managed = _Managed(tensor, None, _delete)
    address = ctypes.addressof(managed)
    _given[address] = (managed, (owner, sizes, steps))
    return _new(address, NAME, _destroy)


def take(capsule: Any) -> Taken:
    """What a capsule holds; the capsule is used up. `give_back` must be called once, when no work reads it any more.

    Errors: UsageError if it is no fresh DLPack capsule, or of a type that has no name here.
    """
    if not _valid(id(capsule), NAME):
        raise UsageError("its __dlpack__ gave no fresh capsule named dltensor; hand the array itself over")
    address = _pointer(id(capsule), NAME)
    managed = _Managed.from_address(address)
    _rename(capsule, USED)
    tensor = managed.tensor

    def give_back() -> None:
        if managed.deleter:
            managed.deleter(address)

    form = (tensor.dtype.code, tensor.dtype.bits)
    if form not in NAMES or tensor.dtype.lanes != 1:
        give_back()
        raise UsageError(f"it holds DLPack type {form} x {tensor.dtype.lanes}, which no input takes")
    return Taken(
        int(tensor.data or 0) + tensor.byte_offset,
        tuple(tensor.shape[: tensor.ndim]),
        tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None,
        NAMES[form],
        (tensor.device.type, tensor.device.ordinal),
        give_back,
    )


@_Deleter
def _delete(address: int) -> None:
    _given.pop(address, None)


@_Destructor
def _destroy(capsule: int) -> None:
    if _valid(capsule, NAME):  # nobody took it
        _given.pop(_pointer(capsule, NAME), None)
