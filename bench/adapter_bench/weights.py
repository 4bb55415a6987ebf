"""What the weights of an ONNX graph amount to: numbers, bytes, element type; external data counts too."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

PRECISIONS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
    TensorProto.FLOAT8E4M3FN: "fp8",
}
_BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4}


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All constant tensors of the main graph: initializers and Constant nodes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("t"):
                yield attribute.t


def size_in_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constant tensors."""
    return sum(_bits(tensor) * math.prod(tensor.dims) // 8 for tensor in tensors(model))


def numbers(model: onnx.ModelProto) -> int:
    """Elements of the tensors that can be weights (element types of `PRECISIONS`)."""
    return sum(math.prod(tensor.dims) for tensor in tensors(model) if tensor.data_type in PRECISIONS)


def precision(model: onnx.ModelProto) -> str:
    """The element type that most weights have, as found in the file; "none" without weights."""
    found: Counter[str] = Counter()
    for tensor in tensors(model):
        if tensor.data_type in PRECISIONS:
            found[PRECISIONS[tensor.data_type]] += math.prod(tensor.dims)
    return found.most_common(1)[0][0] if found else "none"


def _bits(tensor: TensorProto) -> int:
    return _BITS.get(tensor.data_type) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
