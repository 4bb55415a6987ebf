"""A copy of an ONNX file whose fp16 and bf16 are fp32: the same weights, run by ONNX Runtime's CPU in exact arithmetic.

ONNX Runtime's CPU has no bf16 convolutions, and rounds fp16 in places of its own; a plan is compared with what its
weights mean, not with another rounding of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer.metadata import PREFIX

if TYPE_CHECKING:
    import onnx

LARGEST_FILE = 2**31 - 2**20  # of a protobuf message; weights beyond it go into a second file


def widened(path: Path, folder: Path) -> Path:
    """The path of the widened copy of `path`, in `folder`; `path` itself where the file has no 16-bit float."""
    import onnx

    model = onnx.load(path)
    if not _widen(model):
        return path
    for entry in model.metadata_props:
        if entry.key in (PREFIX + "precision", PREFIX + "io_precision"):
            entry.value = "fp32"
    copy = folder / f"fp32-{path.name}"
    external = model.ByteSize() > LARGEST_FILE
    onnx.save(model, copy, save_as_external_data=external, location=f"{copy.name}.data" if external else None)
    return copy


def _widen(model: onnx.ModelProto) -> bool:
    """Widens in place; whether there was anything to widen."""
    graph = model.graph
    changed = _graph(graph)
    for function in model.functions:
        changed |= _nodes(function.node)
        changed |= _values(function.value_info)
    return changed


def _graph(graph: Any) -> bool:
    changed = _values([*graph.input, *graph.output, *graph.value_info])
    for tensor in graph.initializer:
        changed |= _tensor(tensor)
    return _nodes(graph.node) or changed


def _nodes(nodes: Iterable[Any]) -> bool:
    """Constants, casts and subgraphs of all nodes."""
    from onnx import AttributeProto, TensorProto

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    changed = False
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                changed |= _tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                changed |= _graph(attribute.g)
            elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in halves:
                attribute.i = TensorProto.FLOAT
                changed = True
    return changed


def _values(values: Iterable[Any]) -> bool:
    from onnx import TensorProto

    changed = False
    for value in values:
        kind = value.type.tensor_type
        if kind.elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            kind.elem_type = TensorProto.FLOAT
            changed = True
    return changed


def _tensor(tensor: Any) -> bool:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if tensor.data_type not in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return False
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return True
