"""A made-up ONNX Runtime in Python: the entries of its function table that the op libraries call; it records them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

P, INT, S = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
OUT, DIMS = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64)
TASK = ctypes.CFUNCTYPE(None, P, S)
ELEMENT_TYPES = {"float32": 1, "int64": 7, "float16": 10, "uint16": 16}  # uint16 stands for bf16

# Place in the table, result, arguments.
SLOTS = {
    "CreateStatus": (0, P, INT, ctypes.c_char_p),
    "CreateCustomOpDomain": (26, P, ctypes.c_char_p, OUT),
    "CustomOpDomain_Add": (27, P, P, P),
    "AddCustomOpDomain": (28, P, P, P),
    "GetTensorMutableData": (51, P, P, OUT),
    "GetTensorElementType": (60, P, P, ctypes.POINTER(INT)),
    "GetDimensionsCount": (61, P, P, ctypes.POINTER(S)),
    "GetDimensions": (62, P, P, DIMS, S),
    "GetTensorTypeAndShape": (65, P, P, OUT),
    "KernelContext_GetInput": (90, P, P, S, OUT),
    "KernelContext_GetOutput": (91, P, P, S, DIMS, S, OUT),
    "ReleaseTensorTypeAndShapeInfo": (99, None, P),
    "KernelContext_GetGPUComputeStream": (193, P, P, OUT),
    "KernelContext_ParallelFor": (274, P, P, TASK, S, S, P),
}


class CustomOp(ctypes.Structure):
    """OrtCustomOp, up to the entries that the ops fill."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("CreateKernel", P),
        ("GetName", ctypes.CFUNCTYPE(ctypes.c_char_p, P)),
        ("GetExecutionProviderType", ctypes.CFUNCTYPE(ctypes.c_char_p, P)),
        ("GetInputType", ctypes.CFUNCTYPE(INT, P, S)),
        ("GetInputTypeCount", ctypes.CFUNCTYPE(S, P)),
        ("GetOutputType", ctypes.CFUNCTYPE(INT, P, S)),
        ("GetOutputTypeCount", ctypes.CFUNCTYPE(S, P)),
        ("KernelCompute", P),
        ("KernelDestroy", ctypes.CFUNCTYPE(None, P)),
        ("GetInputCharacteristic", ctypes.CFUNCTYPE(INT, P, S)),
        ("GetOutputCharacteristic", ctypes.CFUNCTYPE(INT, P, S)),
        ("GetInputMemoryType", ctypes.CFUNCTYPE(INT, P, S)),
        ("variadic", P * 4),
        ("CreateKernelV2", ctypes.CFUNCTYPE(P, P, P, P, OUT)),
        ("KernelComputeV2", ctypes.CFUNCTYPE(P, P, P)),
    )


class Op:
    """One op as ONNX Runtime sees it."""

    def __init__(self, address: int) -> None:
        self.address, self.table = address, CustomOp.from_address(address)
        self.name = self.table.GetName(address).decode()
        self.provider = self.table.GetExecutionProviderType(address).decode()
        count = range(self.table.GetInputTypeCount(address))
        self.inputs = tuple(self.table.GetInputType(address, i) for i in count)
        self.memory = tuple(self.table.GetInputMemoryType(address, i) for i in count)
        self.output = self.table.GetOutputType(address, 0)


class FakeRuntime:
    """Loads an op library, holds its ops, and runs one with numpy arrays as its tensors.

    `stream` is what the context answers, `stream_error` a status that it answers instead. Of the last `run`:
    `output`, `statuses` (every message made), `open_records` (type-and-shape records not given back).
    """

    CONTEXT, STATUS, TENSOR, OUTPUT = 7, 4000, 1000, 1999

    def __init__(self, library: Path) -> None:
        self.ops: list[Op] = []
        self.domains: list[str] = []
        self.statuses: list[tuple[int, str]] = []
        self.inputs: list[np.ndarray] = []
        self.output: np.ndarray | None = None
        self.open_records = 0
        self.stream, self.stream_error = 0, 0
        self._keep = []
        table = (P * 275)()
        for name, (place, result, *arguments) in SLOTS.items():
            entry = ctypes.CFUNCTYPE(result, *arguments)(getattr(self, name))
            self._keep.append(entry)
            table[place] = ctypes.cast(entry, P)
        get_api = ctypes.CFUNCTYPE(P, ctypes.c_uint32)(lambda version: ctypes.addressof(table))
        base = (P * 2)(ctypes.cast(get_api, P), None)
        self._keep += [table, get_api, base]
        self.library = ctypes.CDLL(str(library))
        self.library.RegisterCustomOps.restype = P
        assert not self.library.RegisterCustomOps(None, base)
        self.table = table

    def create(self, op: Op) -> tuple[int | None, str | None]:
        """A kernel of `op`, or why there is none."""
        kernel = P()
        status = op.table.CreateKernelV2(op.address, ctypes.addressof(self.table), None, ctypes.byref(kernel))
        return kernel.value, self.statuses[status - self.STATUS][1] if status else None

    def run(self, op: Op, inputs: list[np.ndarray]) -> tuple[np.ndarray | None, tuple[int, str] | None]:
        """The output of one call, or the code and sentence of its status."""
        kernel, reason = self.create(op)
        assert kernel is not None, reason
        self.inputs, self.output = inputs, None
        status = op.table.KernelComputeV2(kernel, self.CONTEXT)
        op.table.KernelDestroy(kernel)
        if status:
            return None, self.statuses[status - self.STATUS]
        return self.output, None

    def _tensor(self, handle: int) -> np.ndarray:
        found = self.output if handle == self.OUTPUT else self.inputs[handle - self.TENSOR]
        assert found is not None
        return found

    # --- the table ---

    def CreateStatus(self, code, message):
        self.statuses.append((code, message.decode()))
        return self.STATUS + len(self.statuses) - 1

    def CreateCustomOpDomain(self, name, out):
        self.domains.append(name.decode())
        out[0] = 55

    def CustomOpDomain_Add(self, domain, op):
        assert domain == 55
        self.ops.append(Op(op))

    def AddCustomOpDomain(self, options, domain):
        assert domain == 55

    def GetTensorMutableData(self, value, out):
        out[0] = self._tensor(value).ctypes.data

    def GetTensorElementType(self, info, out):
        out[0] = ELEMENT_TYPES[self._tensor(info).dtype.name]

    def GetDimensionsCount(self, info, out):
        out[0] = self._tensor(info).ndim

    def GetDimensions(self, info, dims, count):
        for index, size in enumerate(self._tensor(info).shape[:count]):
            dims[index] = size

    def GetTensorTypeAndShape(self, value, out):
        self.open_records += 1
        out[0] = value

    def ReleaseTensorTypeAndShapeInfo(self, info):
        self.open_records -= 1

    def KernelContext_GetInput(self, context, index, out):
        assert context == self.CONTEXT
        out[0] = self.TENSOR + index

    def KernelContext_GetOutput(self, context, index, dims, count, out):
        assert index == 0
        self.output = np.full(dims[:count], 99, self.inputs[0].dtype)
        out[0] = self.OUTPUT

    def KernelContext_GetGPUComputeStream(self, context, out):
        if self.stream_error:
            return self.stream_error
        out[0] = self.stream
        return None

    def KernelContext_ParallelFor(self, context, body, total, batches, data):
        for index in range(total):
            body(data, index)
