"""Multiply-adds (MACs) of an ONNX graph at one input size, the MSDA nodes included.

Convention `macs`: what torch.utils.flop_counter counts, halved, plus the MSDA core. That is every convolution, matrix
product and attention product, one MAC for each multiplication that is summed; biases, normalisations, activations,
softmax, pooling, interpolation and other element-wise work count nothing. Nor does what a detector selects with:
RoiAlign interpolates, and NonMaxSuppression, TopK and the like compare and move numbers. The same operators at the same
sizes are counted on the PyTorch model by `macs_torch.count`, and the two agree to the last digit.

MSDA core: N*Q*M*L*P*D*5, four for the bilinear corners and one for the attention weight, whichever of the operators
holds it; a GridSample, which is how the `onnx` flavour spells the core, counts five per output element to match.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from adapter_bench import shapes as graph_shapes
from adapter_bench import weights
from adapter_bench.shapes import Shape, Shapes, msda_inputs, msda_kind
from adapter_infer.errors import UnsupportedModel
from adapter_infer.metadata import FUSED_OP, OP_DOMAIN, STANDARD_OP

Rule = Callable[[onnx.NodeProto, Shapes], "int | None"]  # None: not a case that the rule knows

# These multiply, and no rule here counts them: their presence is reported. So is that of loops and branches (which run
# who knows how often) whose bodies hold any of them, or of what a rule counts.
_UNCOUNTED = {"DeformConv", "DFT", "GRU", "LSTM", "RNN", "STFT"}


@dataclass(frozen=True)
class NodeCount:
    """One node's MACs. `name` is the node's, or its first output's where it has none."""

    name: str
    op_type: str
    macs: int


@dataclass(frozen=True)
class GraphCount:
    """MACs of one run of a graph (of the whole batch), node by node.

    `uncounted` maps operators that may multiply and that no rule covers to how often they occur: the total then is a
    lower bound.
    """

    nodes: tuple[NodeCount, ...]
    msda_nodes: int
    uncounted: dict[str, int]

    @property
    def macs(self) -> int:
        return sum(node.macs for node in self.nodes)

    @property
    def by_op(self) -> dict[str, int]:
        """MACs by operator, the largest first."""
        totals: Counter[str] = Counter()
        for node in self.nodes:
            totals[node.op_type] += node.macs
        return dict(totals.most_common())


def load(path: Path | str) -> onnx.ModelProto:
    """The graph at `path`, ready to count; external data is not read and the contents of weights are dropped.

    Errors: UnsupportedModel where it cannot be read as ONNX.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise UnsupportedModel(
            f"{path} is not an ONNX file, or is damaged ({error}); export or copy it again"
        ) from error
    for tensor in weights.tensors(model):
        if math.prod(tensor.dims) > graph_shapes.SMALL:
            tensor.ClearField("raw_data")
    light = onnx.ModelProto()  # a message gives memory back only as a whole
    light.CopyFrom(model)
    del model
    return inlined(light)


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with its local functions in place, MSDA excepted: its node counts as the operator, not as its body."""
    kept = [(OP_DOMAIN, FUSED_OP), (OP_DOMAIN, STANDARD_OP)]
    if all((function.domain, function.name) in kept for function in model.functions):
        return model
    return inliner.inline_selected_functions(model, kept, exclude=True)


def count(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> GraphCount:
    """MACs of `model` (from `load`) when its inputs have these shapes by name.

    Errors: ValueError for an input that contradicts the graph; UnsupportedModel, naming the node, where a size that
    is needed cannot be found.
    """
    shapes = graph_shapes.infer(model, inputs)
    counted, uncounted, msda_nodes = [], Counter[str](), 0
    for node in model.graph.node:
        standard, is_msda = node.domain in {"", "ai.onnx"}, msda_kind(node) is not None
        msda_nodes += is_msda
        rule = _msda if is_msda else _RULES.get(node.op_type) if standard else None
        macs = None if rule is None else _apply(rule, node, shapes)
        if macs is not None:
            counted.append(NodeCount(_name(node), node.op_type, macs))
        elif rule is not None or _multiplies(node):
            uncounted[node.op_type if standard else f"{node.domain}::{node.op_type}"] += 1
    return GraphCount(tuple(counted), msda_nodes, dict(uncounted))


def _multiplies(node: onnx.NodeProto) -> bool:
    """Whether a node, or one inside it, may sum products."""
    standard = node.domain in {"", "ai.onnx"}
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inside = any(_multiplies(inner) or inner.op_type in _RULES for body in bodies for inner in body.node)
    return inside or not standard or node.op_type in _UNCOUNTED


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


class _UnknownShape(Exception):
    """A size that a rule needs is not known; the text is the tensor's name."""


def _apply(rule: Rule, node: onnx.NodeProto, shapes: Shapes) -> int | None:
    try:
        return rule(node, shapes)
    except _UnknownShape as unknown:
        raise UnsupportedModel(
            f"MACs cannot be counted: the shape of {unknown} at {node.op_type} node {_name(node)} is not known; "
            "give the input size with --size and --batch, or leave --flops out"
        ) from None


def _shape(shapes: Shapes, name: str) -> Shape:
    shape = shapes.of(name)
    if shape is None:
        raise _UnknownShape(name)
    return shape


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _conv(node: onnx.NodeProto, shapes: Shapes, weight: int = 1) -> int:
    """Every output element is a sum over C_in/groups and the kernel."""
    return math.prod(_shape(shapes, node.output[0])) * math.prod(_shape(shapes, node.input[weight])[1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every input element is spread over C_out/groups and the kernel."""
    return math.prod(_shape(shapes, node.input[0])) * math.prod(_shape(shapes, node.input[1])[1:])


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(_shape(shapes, node.output[0])) * _shape(shapes, node.input[0])[-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    inner = _shape(shapes, node.input[0])[0 if _attributes(node).get("transA") else 1]
    return math.prod(_shape(shapes, node.output[0])) * inner


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """The product over all indices; nothing where no index is summed over (an outer or element-wise product)."""
    equation = _attributes(node)["equation"].decode().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if "." in equation or not arrow or len(node.input) != 2:
        return None
    sizes: dict[str, int] = {}
    for term, name in zip(terms.split(","), node.input, strict=True):
        sizes |= dict(zip(term, _shape(shapes, name), strict=True))
    return math.prod(sizes.values()) if set(sizes) - set(result) else 0


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Q*K^T and weights*V of ONNX's Attention; inputs (N, heads, tokens, width) or (N, tokens, heads*width)."""
    if any(node.input[4:6]):  # past keys and values
        return None
    q, k, v = (_shape(shapes, name) for name in node.input[:3])
    if len(q) == 4:
        n, heads, queries, width = q
        return n * heads * queries * k[2] * (width + v[3])
    n, queries, total_width = q
    heads, kv_heads = (_attributes(node)[f"{side}_num_heads"] for side in ("q", "kv"))
    return n * queries * k[1] * (total_width + heads * v[2] // kv_heads)


def _grid_sample(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 5 * math.prod(_shape(shapes, node.output[0]))


def _msda(node: onnx.NodeProto, shapes: Shapes) -> int:
    """N*Q*M*L*P*D*5. Input 3 holds 3 numbers per sample (fused) or 2 (locations of the standard and TensorRT ops)."""
    value, sampling = msda_inputs(node, shapes)
    if len(value) != 4 or not sampling:
        raise _UnknownShape("value or of the samples")
    return 5 * math.prod(sampling) // (3 if msda_kind(node) == FUSED_OP else 2) * value[3]


def _qlinear_conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    return _conv(node, shapes, weight=3)


_RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Attention": _attention,
    "GridSample": _grid_sample,
}
