"""The export itself, step by step: reference, trace, fold, name, write, check, compare, publish."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import torch
from torch import nn

from adapter_export import (
    bodies,
    detector_checks,
    files,
    folding,
    gate,
    parity,
    prepare,
    probes,
    retype,
    schema,
    sizes,
    tidy,
    trace,
)
from adapter_export.flavours import Flavour
from adapter_export.plan import Plan, plan
from adapter_export.precision import choose as choose_precision
from adapter_export.report import ExportReport, Parity
from adapter_infer import __version__
from adapter_infer.command_line import step
from adapter_infer.detectors.detector import Detector
from adapter_infer.metadata import IMAGE, IMAGE_SIZE, PREFIX, PRODUCER, Metadata, to_props
from adapter_infer.models import count_parameters
from adapter_infer.msda import MSDeformAttn
from adapter_infer.spec import ModelSpec


def export(
    model: nn.Module,
    spec: ModelSpec,
    path: Path | str,
    *,
    size: tuple[int, int] | None = None,
    batch: int | Literal["dynamic"] = 1,
    dynamic_size: bool = False,
    op: str = "fused",
    output: str | None = None,
    embed_preprocess: bool = False,
    opset: int | None = None,
    external_data: bool | None = None,
    precision: str = "fp32",
    io_precision: str = "fp32",
    attention_fp32: bool = False,
    check: bool = True,
    checkpoint_sha256: str | None = None,
    seed: int = 0,
) -> ExportReport:
    """Writes `model` as a checked ONNX file at `path`, with its weights in `path`.data above 2 GB or on request.

    `model` is what `build_model(spec)` gives, in eval mode, and stays as it is. `size` is (height, width) in pixels,
    default the crop of `spec`, or of a detector what its pictures are padded to. `op` is a flavour ("fused",
    "standard", "tensorrt", "onnx"), `output` one of `plan.OUTPUTS` for the model's task, by default the first:
    "features", "logits", "detections" or "queries". `precision` is the type of weights and activations,
    `io_precision` that of float inputs and outputs ("fp32", "fp16", "bf16"); `attention_fp32` keeps the softmax of
    attention in fp32. `check` False skips the parity gate, nothing else.

    Errors: UsageError for what cannot be asked of this model, ParityError where the file does not compute what the
    model does, AdapterError where tracing or writing fails. After an error no file is left, and a file that stood at
    `path` before is untouched.
    """
    target = Path(path)
    types = choose_precision(precision, io_precision, attention_fp32)
    asked = plan(model, spec, size, batch, dynamic_size, op, output, embed_preprocess, opset, types)
    if external_data is False:
        width = retype.TYPES[types.arithmetic].itemsize
        files.check_one_file(sum(parameter.numel() for parameter in model.parameters()) * int(width))
    timer = _Timer()
    with files.staging(target) as place:
        cases: list[parity.Case] = []
        if check:
            with timer.step("reference"):
                cases = gate.reference(model, asked, seed)
        with timer.step("trace"):
            graph = _trace(model, asked)
        with timer.step("fold"):
            folding.fold(graph)
            tidy.tidy(graph)
            probes.hide(graph.graph, len(asked.outputs))
            chooser = _chooser(graph, model) if check and asked.probes else None
            retype.retype(graph, types, asked.half_ends)
            nodes, msda_nodes = _count(graph, model, asked.flavour)
            if asked.flavour.carries_body and msda_nodes:
                _attach(graph, asked.flavour, asked.opset)
            params = count_parameters(model)
            metadata = Metadata(
                spec,
                asked.form,
                op,
                asked.output,
                params,
                msda_nodes,
                __version__,
                checkpoint_sha256,
                types.arithmetic,
                types.io,
                types.attention_fp32,
            )
            _describe(graph, metadata, parity_follows=check)
        with timer.step("write"):
            files.save(graph, place, external_data)
            gc.collect()
        with timer.step("check"):
            onnx.checker.check_model(str(place.model), full_check=True)
        result = None
        if check:
            with timer.step("parity"):
                result = gate.run(place, asked, model, cases, msda_nodes, chooser)
            files.append_metadata(place.model, _parity_entries(metadata, result))
        file_bytes = sum(file.stat().st_size for file in (place.model, place.data) if file.exists())
        data_path = target.with_name(place.data.name) if place.data.exists() else None
        place.publish()

    return ExportReport(
        path=target,
        data_path=data_path,
        file_bytes=file_bytes,
        name=spec.name,
        op=op,
        opset=asked.opset,
        output=asked.output,
        precision=types,
        input=asked.form,
        nodes=nodes,
        msda_nodes=msda_nodes,
        params=params,
        parity=result,
        seconds=timer.seconds,
        peak_bytes=_peak_bytes(),
    )


def _trace(model: nn.Module, plan: Plan) -> ir.Model:
    form = plan.form
    embedded = plan.preprocessing if form.embed_preprocess else None
    module = prepare.traceable(model, plan.flavour.core, plan.output, embedded)
    # A dynamic axis is traced at a number with no meaning of its own: 1, or two equal sizes, would be specialised.
    n = form.batch or 2
    traced = sizes.TRACED_DETECTOR if isinstance(model, Detector) else sizes.TRACED
    h, w = plan.size or tuple(units * form.size_divisor for units in traced)
    pixels = torch.zeros((n, h, w, 3), dtype=torch.uint8)
    examples = {
        IMAGE: pixels if form.embed_preprocess else torch.zeros((n, 3, h, w)),
        IMAGE_SIZE: torch.tensor([[h, w]]).expand(n, 2).contiguous(),
    }
    dims = trace.image_dims(form.batch is None, form.height is None, form.size_divisor, form.embed_preprocess)
    return trace.trace(
        module,
        {name: examples[name] for name in plan.inputs},
        {IMAGE: dims, IMAGE_SIZE: {axis: dim for axis, dim in dims.items() if axis == 0}},
        plan.flavour,
        plan.opset,
        plan.outputs + plan.probes,
    )


def _chooser(graph: ir.Model, model: nn.Module) -> bytes | None:
    """The part of a detector's graph that chooses, where it has a threshold."""
    if not isinstance(model, Detector) or not detector_checks.has_threshold(model):
        return None
    starts, inner = detector_checks.drawn_names(model)
    outputs = [name for name in (*model.output_names, *inner) if name != "masks"]
    return probes.cut(graph, (IMAGE, IMAGE_SIZE, *starts), outputs)


def _count(graph: ir.Model, model: nn.Module, flavour: Flavour) -> tuple[int, int]:
    """Nodes, and MSDA nodes: as many as the model has MSDeformAttn modules, unless they are spelt out."""
    names = {operator.name for operator in schema.OPERATORS}
    msda_nodes = sum(node.op_type in names for node in graph.graph)
    modules = sum(isinstance(module, MSDeformAttn) for module in model.modules())
    if flavour.operator is not None and msda_nodes != modules:
        raise RuntimeError(f"{modules} MSDeformAttn modules became {msda_nodes} nodes")
    return len(list(graph.graph)), msda_nodes


def _attach(graph: ir.Model, flavour: Flavour, opset: int) -> None:
    assert flavour.operator is not None
    function = ir.serde.deserialize_function(bodies.body(flavour.operator, opset))
    graph.functions[function.identifier()] = function


def _describe(graph: ir.Model, metadata: Metadata, parity_follows: bool) -> None:
    """Producer and metadata; parity figures exist only once the written file has been compared, and are added then."""
    graph.producer_name, graph.producer_version = PRODUCER, __version__
    graph.graph.name = metadata.model.name or "model"
    props = to_props(metadata)
    if parity_follows:
        for key in _CHECKED:
            del props[PREFIX + key]
    graph.metadata_props.update(props)


_CHECKED = ("parity", "tolerance")


def _parity_entries(metadata: Metadata, result: Parity) -> dict[str, str]:
    props = to_props(replace(metadata, parity=result.largest(), tolerance=result.tolerance()))
    return {PREFIX + key: props[PREFIX + key] for key in _CHECKED}


class _Timer:
    """Seconds of each step; the step is shown while it runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with step(_STEPS[name]):
            yield
        self.seconds[name] = time.perf_counter() - start


_STEPS = {
    "reference": "running the model in PyTorch",
    "trace": "tracing the model",
    "fold": "folding constants",
    "write": "writing the file",
    "check": "checking the file",
    "parity": "comparing with ONNX Runtime",
}


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
