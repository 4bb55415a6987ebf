"""Folds what the exporter left constant, within a bound, and keeps runtimes from folding what is beyond it.

Left are tensors too large for the exporter's own limits: the resized position embedding of a static export, and the
relative position bias of BEiT, which is a table's rows gathered by one index that all blocks share. Folded, the bias
of a BEiT-L at 896x896 takes 15 GB; a runtime that folds constants when it loads a file would do just that. So where it
exceeds the bound, its index is made to depend on the image, by adding a zero that no optimiser sees through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

FOLDED_BYTES = 64 * 2**20
"""How much larger folding may make a file, in total."""


def fold(model: ir.Model, bound: int | None = None) -> None:
    """Replaces constant subgraphs by their values, smallest first, while their sum stays within a bound.

    `bound` is in bytes, default FOLDED_BYTES. The graph's first input is the image.
    """
    folded, spared = _choose(_frontier(model.graph), FOLDED_BYTES if bound is None else bound)
    if folded:
        _replace(model, folded, _evaluate(model, folded))
    _depend_on_image(model.graph, spared)


def _constants(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on initializers alone."""
    constants = set(graph.initializers.values())
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if node.domain == "" and all(value in constants for value in inputs):
            constants.update(node.outputs)
    return constants


def _frontier(graph: ir.Graph) -> list[ir.Value]:
    """Constant values that a node makes and something that is not constant uses."""
    constants = _constants(graph)
    made = [value for node in graph for value in node.outputs if value in constants]
    return [value for value in made if any(user.outputs[0] not in constants for user, _ in value.uses())]


def _bytes(value: ir.Value) -> int | None:
    """The size of a value with a static shape."""
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return None
    return int(math.prod(value.shape.numpy()) * value.dtype.itemsize)


def _choose(values: Sequence[ir.Value], bound: int) -> tuple[list[ir.Value], list[ir.Value]]:
    """Values to fold, and values to leave. Values of one size share one fate: the blocks of a model stay alike."""
    by_size: dict[int, list[ir.Value]] = {}
    folded: list[ir.Value] = []
    spared: list[ir.Value] = []
    for value in values:
        size = _bytes(value)
        if size is None:
            spared.append(value)
        else:
            by_size.setdefault(size, []).append(value)
    left = bound
    for size, alike in sorted(by_size.items()):
        fits = size * len(alike) <= left
        left -= size * len(alike) if fits else 0
        (folded if fits else spared).extend(alike)
    return folded, spared


def _sources(values: Sequence[ir.Value]) -> set[ir.Node]:
    """Every node that `values` come from."""
    found: set[ir.Node] = set()
    waiting = list(values)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting += [value for value in node.inputs if value is not None]
    return found


def _evaluate(model: ir.Model, values: Sequence[ir.Value]) -> list[np.ndarray]:
    """The numbers behind constant values, computed by ONNX Runtime on a graph of their sources alone."""
    import onnxruntime as ort

    needed = _sources(values)
    nodes = [node for node in model.graph if node in needed]
    inputs = {value for node in nodes for value in node.inputs if value is not None and value.producer() is None}
    sources = ir.Model(
        ir.Graph([], [], nodes=[], opset_imports=dict(model.opset_imports), name="constants"),
        ir_version=model.ir_version,
    )
    proto = ir.to_proto(sources)
    for node in nodes:
        proto.graph.node.append(ir.to_proto(node))
    for value in inputs:
        assert value.const_value is not None
        tensor = ir.to_proto(value.const_value)
        tensor.name = str(value.name)
        proto.graph.initializer.append(tensor)
    for value in values:
        proto.graph.output.append(ir.to_proto(value))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([value.name for value in values], {})


def _replace(model: ir.Model, values: Sequence[ir.Value], arrays: Sequence[np.ndarray]) -> None:
    """Puts initializers of the same names in the place of computed values and drops the nodes nobody needs then."""
    for value, array in zip(values, arrays, strict=True):
        name = str(value.name)
        value.name = f"{name}_computed"
        constant = _initializer(model.graph, name, array)
        value.replace_all_uses_with(constant, replace_graph_outputs=True)
    ir.passes.common.RemoveUnusedNodesPass()(model)


def _depend_on_image(graph: ir.Graph, spared: Sequence[ir.Value]) -> None:
    """Adds a run-time zero to the index of every constant gather behind `spared`."""
    constants, sources = _constants(graph), _sources(spared)
    gathers = [node for node in graph if node in sources and node.op_type == "Gather"]
    users: dict[ir.Value, list[ir.Node]] = {}
    for node in gathers:
        table, index = node.inputs
        if table in constants and index in constants and index is not None and index.shape is not None and index.shape:
            users.setdefault(index, []).append(node)
    for index, nodes in users.items():
        shifted = _index_at_run_time(graph, index, before=nodes[0])
        for node in nodes:
            node.replace_input_with(1, shifted)


def _index_at_run_time(graph: ir.Graph, index: ir.Value, before: ir.Node) -> ir.Value:
    """index + 0, where 0 is whether one pixel is above 0 and also not above 0; it never is, NaN or not."""
    assert index.dtype is not None
    zero = _initializer(graph, f"{index.name}.zero", np.array(0.0, np.float32))
    first = _initializer(graph, f"{index.name}.first", np.zeros(4, np.int64))
    end = _initializer(graph, f"{index.name}.end", np.ones(4, np.int64))
    one = _initializer(graph, f"{index.name}.one", np.array([1], np.int64))

    def add(op: str, inputs: Sequence[ir.Value], attributes: dict[str, int] | None = None) -> ir.Value:
        node = ir.node(op, inputs, attributes or {})
        graph.insert_before(before, node)
        return node.outputs[0]

    pixel = add("Cast", [add("Slice", [graph.inputs[0], first, end])], {"to": int(ir.DataType.FLOAT)})
    never = add("And", [add("Greater", [pixel, zero]), add("LessOrEqual", [pixel, zero])])
    shifted = add("Add", [index, add("Cast", [add("Reshape", [never, one])], {"to": int(index.dtype)})])
    shifted.shape, shifted.dtype = index.shape, index.dtype
    return shifted


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value
