"""Writes a finished fp32 graph in another type: every value typed, and fp32 kept where a half type would lose.

The types stand in the graph (TensorRT 11 takes no precision flags and runs a graph as it is typed). Working on the
finished graph, norms are already folded into convolutions, and constants already computed, in fp32; a weight is
rounded once, when it is written.

Kept in fp32:
- what does not depend on the picture's pixels (reference points, the resized position embedding, pooling weights): it
  is cast where it meets them;
- what turns the projection of the queries into locations and weights, where the graph spells it out: locations in fp16
  cost 1e-2; and all of the sampling where it is spelt out too, as torch does;
- of a detector, all that makes boxes and scores of what its heads say: the coordinates of a picture of 1333 pixels do
  not fit a half type. RoIAlign reads its map in fp32 too, since one type serves both its inputs;
- the operators of `_STATISTICS`; TensorRT's own plugin, which computes coordinates in the type of its values; the
  embedded normalisation of pixels; and in bf16 transposed convolutions, which TensorRT does not build in that type;
- the softmax of attention on request. LayerNormalization computes its statistics in fp32 by itself (stash_type).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx import defs

from adapter_export.operators import OPERATORS, STANDARD, TENSORRT
from adapter_export.precision import Precision
from adapter_infer.errors import UsageError

TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
FLOAT = ir.DataType.FLOAT
_NAMES = {dtype: name for name, dtype in TYPES.items()}
_LARGEST = {TYPES["fp16"]: 65504.0, TYPES["bf16"]: 3.38953139e38}

_STATISTICS = {"InstanceNormalization", "BatchNormalization", "GridSample"}
_PROJECTIONS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
_FLOAT_ONLY = "tensor(float)"
_AS_IT_COMES = "TS"  # the type of our operators' positions: of the value's type, or fp32
_OURS = {(operator.domain, operator.name) for operator in OPERATORS}


def retype(model: ir.Model, precision: Precision, half_ends: Collection[str] = ()) -> None:
    """Changes `model` in place; nothing changes for fp32 inside and out. Weights are rounded when they are written.

    `half_ends` names the values of a detector that its boxes and scores are computed from.

    Errors: UsageError where a weight is beyond the type's largest number.
    """
    if precision.coarsest == "fp32":
        return
    half, io = TYPES[precision.arithmetic], TYPES[precision.io]
    kept = set(model.graph) if half == FLOAT else _fp32_nodes(model.graph, precision, half_ends)
    _Writer(model.graph, half, io).write(kept)
    for node in model.graph:
        if precision.attention_fp32 and node.op_type == "Attention":  # of opset 23; its softmax is inside
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(FLOAT))


# --- Which nodes keep fp32 ---


def _fp32_nodes(graph: ir.Graph, precision: Precision, half_ends: Collection[str]) -> set[ir.Node]:
    varying = _varying(graph)
    kept = {node for node in graph if not varying.intersection(node.outputs)}
    kept |= _sampling(graph, varying) | _boxes(graph, half_ends)
    for node in graph:
        if (
            node.op_type in _STATISTICS
            or node.op_type == TENSORRT.name
            or str(node.name).startswith("preprocess/")
            or (node.op_type == "ConvTranspose" and precision.arithmetic == "bf16")
        ):
            kept.add(node)
        if precision.attention_fp32 and node.op_type == "Softmax":
            kept.add(node)
            producer = node.inputs[0].producer() if node.inputs[0] is not None else None
            if producer is not None and producer.op_type == "Add":  # the relative position bias
                kept.add(producer)
    return kept


def _varying(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on the pixels of the picture, the first input; its sizes alone do not count."""
    varying = {graph.inputs[0]}
    for node in graph:
        if node.op_type != "Shape" and varying.intersection(node.inputs):
            varying.update(node.outputs)
    return varying


def _sampling(graph: ir.Graph, varying: set[ir.Value]) -> set[ir.Node]:
    """The nodes between the projections of deformable attention, where the graph spells them out."""
    waiting: list[ir.Node | None] = [node for node in graph if node.op_type == "GridSample"]
    for node in graph:
        if node.op_type in {STANDARD.name, TENSORRT.name}:
            waiting += [value.producer() for value in node.inputs[3:] if value is not None]
    found: set[ir.Node] = set()
    while waiting:
        reached = waiting.pop()
        if reached is None or reached in found or _ends_sampling(reached):
            continue
        found.add(reached)
        # Along the features only: by the picture's sizes everything hangs together.
        waiting += [value.producer() for value in reached.inputs if value in varying]
        waiting += [user for value in reached.outputs if value in varying for user, _ in value.uses()]
    return found


def _boxes(graph: ir.Graph, half_ends: Collection[str]) -> set[ir.Node]:
    """The nodes behind a detector's raw predictions, but for what a box head makes of the features under its boxes."""
    behind = {value for node in graph for value in node.outputs if value.name in half_ends}
    aligned: set[ir.Value] = set()
    found: set[ir.Node] = set()
    for node in graph:
        features = node.op_type == "RoiAlign" or bool(aligned.intersection(node.inputs))
        if features and node.op_type in _PROJECTIONS:  # a head begins
            continue
        if node.op_type == "RoiAlign" or behind.intersection(node.inputs):
            found.add(node)
            behind.update(node.outputs)
            if features:
                aligned.update(node.outputs)
    return found


def _ends_sampling(node: ir.Node) -> bool:
    if node.op_type in _PROJECTIONS or (node.domain, node.op_type) in _OURS:
        return True
    makers = [value.producer() for value in node.inputs if value is not None]
    return node.op_type == "Add" and any(maker is not None and maker.op_type in _PROJECTIONS for maker in makers)


# --- Typing nodes, values and weights ---


class _Writer:
    """Walks the graph in its order, so that every input already has its final type."""

    def __init__(self, graph: ir.Graph, half: ir.DataType, io: ir.DataType) -> None:
        self.graph, self.half, self.io = graph, half, io
        self.weights = {value for value in graph.initializers.values() if value.dtype == FLOAT}
        self.typed: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def write(self, kept: set[ir.Node]) -> None:
        """All but the `kept` nodes get the half type; the body of a loop keeps the fp32 of what it stands in."""
        for node in self.graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    taken = {value for inner in attribute.as_graph() for value in inner.inputs if value is not None}
                    self.typed |= {(value, FLOAT): value for value in taken & self.weights}
        for value in self.graph.inputs:
            if value.dtype == FLOAT:
                value.dtype = self.io
        for node in list(self.graph):
            self._type_node(node, FLOAT if node in kept else self.half)
        for position, value in enumerate(self.graph.outputs):
            if value.dtype in TYPES.values() and value.dtype != self.io:
                self._type_output(position, value)
        for (weight, dtype), value in self.typed.items():
            if weight in self.weights and dtype != FLOAT:
                _round(value)

    def _type_node(self, node: ir.Node, to: ir.DataType) -> None:
        if node.op_type != "Cast":  # which takes any type
            for position, value in enumerate(node.inputs):
                if value is not None and value.dtype in TYPES.values():
                    formal = _formal_type(node, position)
                    if formal != _AS_IT_COMES:
                        node.replace_input_with(position, self._as(value, FLOAT if formal == _FLOAT_ONLY else to))
        for value in node.outputs:
            if value.dtype == FLOAT:
                value.dtype = to
        if node.op_type == "Cast" and node.attributes["to"].value == FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(to))
        elif node.op_type in {"Constant", "ConstantOfShape"} and to != FLOAT:
            raise RuntimeError(f"{node.name}: a constant of a half type was not foreseen")

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in this type: a weight as a weight, anything else by a Cast right behind its node."""
        if (value, dtype) not in self.typed:
            if value in self.weights:
                self.typed[value, dtype] = self._weight(value, dtype)
            else:
                self.typed[value, dtype] = value if value.dtype == dtype else self._cast(value, dtype)
        return self.typed[value, dtype]

    def _weight(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The weight itself for the first type that is asked for, a second one for another."""
        if not any((value, other) in self.typed for other in TYPES.values()):
            value.dtype = dtype
            return value
        return _initializer(self.graph, value, dtype)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        producer = value.producer()
        node = ir.node("Cast", [value], {"to": int(dtype)})
        made = node.outputs[0]
        node.name = f"{value.name}/Cast_{_NAMES[dtype]}"
        made.name, made.shape, made.dtype = f"{value.name}_{_NAMES[dtype]}", value.shape, dtype
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return made

    def _type_output(self, position: int, value: ir.Value) -> None:
        name = value.name
        value.name = f"{name}_exact"
        made = self._cast(value, self.io)
        made.name = name
        self.graph.outputs[position] = made


def _formal_type(node: ir.Node, position: int) -> str:
    """The type of an input in the operator's own schema: a type, or the name of a type parameter."""
    assert node.graph is not None
    version = node.graph.opset_imports[node.domain]
    inputs = defs.get_schema(node.op_type, version, node.domain).inputs
    return inputs[min(position, len(inputs) - 1)].type_str


def _initializer(graph: ir.Graph, source: ir.Value, dtype: ir.DataType) -> ir.Value:
    name = f"{source.name}_{_NAMES[dtype]}"
    value = ir.Value(name=name, shape=source.shape, type=ir.TensorType(dtype), const_value=source.const_value)
    graph.register_initializer(value)
    return value


def _round(value: ir.Value) -> None:
    """Lets a weight be rounded when it is written, one at a time. Errors: UsageError if it would become infinite."""
    tensor, dtype = value.const_value, value.dtype
    assert tensor is not None and dtype is not None
    _check_range(str(value.name), tensor.numpy(), dtype)

    def rounded() -> ir.Tensor:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy()).astype(dtype.numpy()), name=value.name)

    value.const_value = ir.LazyTensor(rounded, dtype, ir.Shape(tensor.shape.numpy()), name=value.name)


def _check_range(name: str, numbers: np.ndarray, dtype: ir.DataType) -> None:
    """Errors: UsageError where a finite number would be rounded to infinity."""
    for extreme in (numbers.max(initial=0.0), numbers.min(initial=0.0)):
        if np.isinf(extreme):  # infinite on purpose, but maybe not alone
            _check_range(name, numbers[np.isfinite(numbers)], dtype)
            return
        with np.errstate(over="ignore"):
            rounded = np.asarray(extreme).astype(dtype.numpy())
        if np.isinf(rounded.astype(np.float32)):
            way_out = "export with precision bf16, or fp32" if dtype == TYPES["fp16"] else "export with precision fp32"
            raise UsageError(
                f"weight {name} holds {extreme:.6g}, but {_NAMES[dtype]} ends at {_LARGEST[dtype]:.6g}; {way_out}"
            )
