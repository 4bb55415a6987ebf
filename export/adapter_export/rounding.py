"""A stand-in for hardware with half-type arithmetic: the graph in fp32, rounded to the half type after each operator.

ONNX Runtime's CPU has no arithmetic in bf16 and little in fp16: it casts to fp32 and drops the roundings in between, so
that a file would look better than it is, and never overflow. In the copy that is made here each value of a half type is
an fp32 value behind a pair of casts, to the half type and back. Our own operators get and give the half type itself.
Run it without ONNX Runtime's optimisations, which might remove pairs of casts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from adapter_export import single_file
from adapter_export.files import Staging
from adapter_export.operators import OPERATORS
from adapter_export.retype import FLOAT, TYPES

_HALVES = {TYPES["fp16"], TYPES["bf16"]}
# What only moves numbers leaves rounded ones rounded.
_MOVES = {"Reshape", "Transpose", "Slice", "Concat", "Split", "Squeeze", "Unsqueeze", "Gather", "Expand", "Flatten"}
_MOVES |= {"Identity", "Pad", "MaxPool", "Relu"}


def copy(place: Staging, probes: Sequence[str] = ()) -> Path:
    """The stand-in for a staged model, beside it (a second file with weights serves both).

    `probes` names inner values that become outputs of the stand-in.
    """
    model, path = ir.load(place.model), place.model.with_name(f"rounded-{place.model.name}")
    if probes:
        inner = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.extend(inner[name] for name in probes)
    emulate(model)
    if place.data.exists():
        ir.save(model, path)
    else:
        single_file.write(model, path)
    return path


def emulate(model: ir.Model) -> None:
    """Changes `model` in place into its stand-in, whose inputs and outputs are fp32; weights stay in the half type."""
    graph = model.graph
    nodes, names = list(graph), [value.name for value in graph.outputs]
    takes = {node: [value and value.dtype for value in node.inputs] for node in nodes if _is_ours(node)}
    for value in (*graph.inputs, *graph.initializers.values()):
        half = value.dtype
        if half in _HALVES:
            is_input = value in graph.inputs
            value.dtype = FLOAT if is_input else half
            _follow(graph, value, None, [half, FLOAT] if is_input else [FLOAT])
    for node in nodes:
        for value in node.outputs:
            half = value.dtype
            if half not in _HALVES:
                continue
            if node.op_type == "Cast" or node in takes:
                _follow(graph, value, node, [FLOAT])
                continue
            value.dtype = FLOAT
            if node.op_type not in _MOVES:
                _follow(graph, value, node, [half, FLOAT])
    for node, dtypes in takes.items():
        for position, dtype in enumerate(dtypes):
            given = node.inputs[position]
            if dtype in _HALVES and given is not None:
                cast = _cast(given, dtype)
                graph.insert_before(node, cast)
                node.replace_input_with(position, cast.outputs[0])
    for name, value in zip(names, graph.outputs, strict=True):
        value.name = name


def _is_ours(node: ir.Node) -> bool:
    return any((node.domain, node.op_type) == (operator.domain, operator.name) for operator in OPERATORS)


def _follow(graph: ir.Graph, value: ir.Value, behind: ir.Node | None, dtypes: list[ir.DataType]) -> None:
    """Puts casts to `dtypes` behind a value, one after the other, and its users behind them.

    `behind` is the node that the first one follows, None the graph's start.
    """
    users = list(value.uses())
    outputs = [position for position, output in enumerate(graph.outputs) if output is value]
    made = value
    for dtype in dtypes:
        cast = _cast(made, dtype)
        if behind is None:
            graph.insert_before(graph[0], cast)
        else:
            graph.insert_after(behind, cast)
        behind, made = cast, cast.outputs[0]
    for user, position in users:
        user.replace_input_with(position, made)
    for position in outputs:
        graph.outputs[position] = made
        value.name = f"{value.name}_unrounded"


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)})
    node.outputs[0].shape, node.outputs[0].dtype = value.shape, dtype
    return node
