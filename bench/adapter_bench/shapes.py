"""Every tensor shape of an ONNX graph at one input size, sizes that the graph computes for itself included.

ONNX's own inference stops where a dynamic export computes a size with Div, Mod or Range. Here one walk over the nodes
uses the operators' inference functions and also evaluates what is small and constant at the given input size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from adapter_infer.errors import UnsupportedModel
from adapter_infer.metadata import FUSED_OP, OP_DOMAIN, STANDARD_OP

Shape = tuple[int, ...]

TENSORRT_OP = "MultiscaleDeformableAttnPlugin_TRT"
SMALL = 4096  # elements up to which a constant is worth evaluating: shapes and indices, never weights

# Operators with which exporters compute sizes.
# fmt: off
_SIZE_ARITHMETIC = {
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod",
    "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round",
    "Shape", "Sign", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
}
# fmt: on


def msda_kind(node: onnx.NodeProto) -> str | None:
    """FUSED_OP, STANDARD_OP or TENSORRT_OP where the node is multi-scale deformable attention, otherwise None."""
    if node.domain == OP_DOMAIN and node.op_type in {FUSED_OP, STANDARD_OP}:
        return node.op_type
    return TENSORRT_OP if node.op_type == TENSORRT_OP else None


@dataclass
class Shapes:
    """What is known of the tensors of one graph: types with shapes, and the values of small constants."""

    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, name: str) -> Shape | None:
        """The shape of a tensor, None where a dimension is not known."""
        tensor = self.types[name].tensor_type if name in self.types else None
        if tensor is None or not tensor.HasField("shape"):
            return None
        if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            return None
        return tuple(dim.dim_value for dim in tensor.shape.dim)

    def set(self, name: str, dtype: int, shape: Sequence[int]) -> None:
        self.types[name] = helper.make_tensor_type_proto(dtype, list(shape))

    def set_value(self, name: str, value: np.ndarray) -> None:
        self.set(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        if value.size <= SMALL:
            self.values[name] = value


def infer(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> Shapes:
    """The shapes of `model`'s tensors when its inputs have the shapes given here by name.

    Weights need not be loaded (external data is not read). What cannot be known stays unknown: sizes that depend on the
    picture, and outputs of loops, branches and operators without a schema, unless the file states them as numbers.
    Errors: ValueError for an input that contradicts the graph, UnsupportedModel for a graph that contradicts itself at
    this size.
    """
    shapes = Shapes()
    for tensor in model.graph.initializer:
        shapes.set(tensor.name, tensor.data_type, tensor.dims)
        if math.prod(tensor.dims) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            try:
                shapes.values[tensor.name] = numpy_helper.to_array(tensor)
            except ValueError as error:
                raise UnsupportedModel(f"the graph's constant {tensor.name} is damaged: {error}") from error
    for graph_input in model.graph.input:
        if graph_input.name in shapes.types:  # old models list their initializers as inputs
            continue
        shapes.types[graph_input.name] = graph_input.type
        if graph_input.name in inputs:
            _check_input(graph_input, inputs[graph_input.name])
            shapes.set(graph_input.name, graph_input.type.tensor_type.elem_type, inputs[graph_input.name])
    opsets = {opset.domain or "": opset.version for opset in model.opset_import}
    stated = {info.name: info.type for info in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        _visit(node, shapes, opsets, model)
        for name in node.output:  # behind a loop or a branch only the file itself knows
            if name in stated and shapes.of(name) is None and _is_fixed(stated[name]):
                shapes.types[name] = stated[name]
    return shapes


def _is_fixed(kind: onnx.TypeProto) -> bool:
    """Whether a type states every dimension as a number, which then holds at any input size."""
    tensor = kind.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _check_input(graph_input: onnx.ValueInfoProto, shape: Shape) -> None:
    dims = graph_input.type.tensor_type.shape.dim
    agrees = len(dims) == len(shape) and all(
        not dim.HasField("dim_value") or dim.dim_value == size for dim, size in zip(dims, shape, strict=True)
    )
    if not agrees:
        form = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
        raise ValueError(f"input {graph_input.name} is {form} in the graph, not {list(shape)}")


def _visit(node: onnx.NodeProto, shapes: Shapes, opsets: dict[str, int], model: onnx.ModelProto) -> None:
    if msda_kind(node):
        _visit_msda(node, shapes)
        return
    domain = "" if node.domain == "ai.onnx" else node.domain
    if any(attribute.HasField("g") for attribute in node.attribute) or domain not in opsets:
        return  # control flow, or an operator of nobody we know
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[domain], domain)
    except onnx.defs.SchemaError:
        return
    names = {name for name in node.input if name}
    if not names <= shapes.types.keys():
        return
    types = {name: shapes.types[name] for name in names}
    data = {name: numpy_helper.from_array(shapes.values[name], name) for name in names & shapes.values.keys()}
    try:
        shapes.types |= shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=list(model.opset_import), ir_version=model.ir_version
        )
    except shape_inference.InferenceError as error:
        raise UnsupportedModel(
            f"the graph contradicts itself at this input size, at {node.op_type} node {node.name or node.output[0]} "
            f"({str(error).strip()}); it would fail or compute nonsense there"
        ) from error
    if domain == "" and node.op_type in _SIZE_ARITHMETIC:
        _evaluate(node, shapes, opsets[""])


def _evaluate(node: onnx.NodeProto, shapes: Shapes, opset: int) -> None:
    """Works a node out where it depends on nothing but small constants (or, for Shape and Size, on known sizes)."""
    feeds = {name: shapes.values[name] for name in node.input if name in shapes.values}
    if node.op_type in {"Shape", "Size"}:
        shape = shapes.of(node.input[0])
        if shape is None:
            return
        # The shape is all that the operator reads: a view of one element stands for the tensor.
        feeds = {node.input[0]: np.broadcast_to(np.float32(0), shape)}
    outputs = [shapes.of(name) for name in node.output if name]
    if set(feeds) != {name for name in node.input if name} or any(o and math.prod(o) > SMALL for o in outputs):
        return
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_value_info(name, shapes.types[name]) for name in feeds],
        [helper.make_value_info(name, shapes.types[name]) for name in node.output if name],
    )
    one_node = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    for name, value in zip((n for n in node.output if n), ReferenceEvaluator(one_node).run(None, feeds), strict=True):
        shapes.set_value(name, np.asarray(value))


def _visit_msda(node: onnx.NodeProto, shapes: Shapes) -> None:
    """MSDA's output: (N, Q, M*D) of our two operators, (N, Q, M, D) of TensorRT's plugin."""
    value, sampling = msda_inputs(node, shapes)
    if len(value) == 4 and len(sampling) >= 4:
        n, _, m, d = value
        output = (n, sampling[1], m, d) if msda_kind(node) == TENSORRT_OP else (n, sampling[1], m * d)
        shapes.set(node.output[0], shapes.types[node.input[0]].tensor_type.elem_type, output)


def msda_inputs(node: onnx.NodeProto, shapes: Shapes) -> tuple[Shape, Shape]:
    """Shapes of value and of input 3, which is samples (fused) or sampling_locations; () for one that is not known."""
    if len(node.input) < 4:
        return (), ()
    return shapes.of(node.input[0]) or (), shapes.of(node.input[3]) or ()
