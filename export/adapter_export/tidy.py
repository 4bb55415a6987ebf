"""Makes a traced graph readable: nodes and weights named after their modules, nothing of the machine it was made on."""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir
from onnx_ir.passes import common

_SCOPES = "pkg.torch.onnx.name_scopes"
_ROOT = "model."  # the traced module holds the model under this name


def tidy(model: ir.Model) -> None:
    """Renames nodes and initializers, drops the exporter's annotations, and stores equal shapes once."""
    graph = model.graph
    scopes = {node: _scope(node) for node in graph}
    _rename_weights(graph, scopes)
    counts: Counter[str] = Counter()
    for node, scope in scopes.items():
        name = f"{scope}/{node.op_type}" if scope else node.op_type
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
    for holder in (model, graph, *graph, *graph.inputs, *graph.outputs, *_values(graph)):
        holder.metadata_props.clear()
    graph.doc_string = model.doc_string = None
    for node in graph:
        node.doc_string = None
    common.DeduplicateInitializersPass(size_limit=64)(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _scope(node: ir.Node) -> str:
    """The module that a node comes from, by its name in the model; empty where unknown."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    name = str(scopes[-2]) if len(scopes) > 1 else ""
    # What belongs to no module of the model (sizes of the image) carries the exporter's own words.
    return name.removeprefix(_ROOT) if name.startswith((_ROOT, "preprocess")) else ""


def _rename_weights(graph: ir.Graph, scopes: dict[ir.Node, str]) -> None:
    """Weights keep their state-dict names; a weight that the exporter transposed is called so."""
    taken = set(graph.initializers) | {value.name for value in _values(graph)}
    for value in list(graph.initializers.values()):
        assert value.name is not None
        name = value.name.removeprefix(_ROOT)
        users = value.uses()
        if value.name.startswith("val_") and len(users) == 1:
            node, position = next(iter(users))
            if node.op_type == "MatMul" and position == 1 and scopes[node]:
                name = f"{scopes[node]}.weight_transposed"
        if name != value.name and name not in taken:
            taken.add(name)
            value.name = name
