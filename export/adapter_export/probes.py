"""Inner values of a graph that the parity gate looks at: outputs while it is traced, plain values in the file.

A copy of the file with the probes as outputs again is what the gate runs; and of the part behind some of them, which
holds no weights, a small model of its own is cut out.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from adapter_export import files


def hide(graph: ir.Graph, count: int) -> None:
    """Leaves the first `count` outputs; what was behind them keeps its name inside the graph."""
    while len(graph.outputs) > count:
        value = graph.outputs.pop()
        if not value.uses():
            raise RuntimeError(f"probe {value.name} is not part of what the graph computes")


def show(model: Path, names: Sequence[str]) -> Path:
    """A copy of a staged model with these values as outputs too, beside it (the second file serves both)."""
    entries = {value.name: value for value in onnx.load(model, load_external_data=False).graph.value_info}
    copy = model.with_name(f"probed-{model.name}")
    shutil.copyfile(model, copy)
    addition = onnx.ModelProto()
    addition.graph.output.extend(entries[name] for name in names)
    files.append(copy, addition)
    return copy


def cut(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The part of `model` from some of its values to others, as a model of its own."""
    part = ir.convenience.extract(model.graph, inputs, outputs)
    part.opset_imports.update(model.opset_imports)
    return ir.to_proto(ir.Model(part, ir_version=model.ir_version)).SerializeToString()
