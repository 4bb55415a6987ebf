"""Writes a model as one ONNX file with one weight in memory at a time.

The usual way builds the whole message, then its bytes: twice the weights, on top of the model they come from. Here the
graph's message is written piece by piece, first all but the large weights, then each of them. In a protobuf message the
fields may stand in any order, so the file is like any other.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

_LARGE = 4096  # bytes; smaller tensors go with the graph
_LENGTH_DELIMITED = 2  # protobuf's wire type of messages and bytes


def write(model: ir.Model, path: Path) -> None:
    """Writes `model`, whose large weights are taken out of it on the way. It must take less than 2 GiB."""
    weights = _take_large_weights(model.graph)
    rest = ir.to_proto(model)
    graph = rest.graph.SerializeToString()
    rest.ClearField("graph")
    heads = {name: _head(name, tensor) for name, tensor in weights.items()}
    size = len(graph) + sum(len(head) + weights[name].nbytes for name, head in heads.items())
    with path.open("wb") as file:
        file.write(rest.SerializeToString())
        file.write(_key(onnx.ModelProto, "graph") + _varint(size))
        file.write(graph)
        for name, head in heads.items():
            file.write(head)
            file.write(weights.pop(name).tobytes())


def _take_large_weights(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _LARGE:
            weights[name] = value.const_value
            value.const_value = None
            del graph.initializers[name]
    return weights


def _head(name: str, tensor: ir.TensorProtocol) -> bytes:
    """All of a weight's record in the graph's message but the numbers, which follow."""
    described = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
    inner = described.SerializeToString() + _key(onnx.TensorProto, "raw_data") + _varint(tensor.nbytes)
    return _key(onnx.GraphProto, "initializer") + _varint(len(inner) + tensor.nbytes) + inner


def _key(message: type, field: str) -> bytes:
    """What stands before a field that is a message or bytes."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)  # type: ignore[attr-defined]


def _varint(number: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first, the top bit set on all but the last."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
