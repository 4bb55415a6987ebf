"""The export itself, step by step: reference, trace, fold, name, write, check, compare, publish."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import torch
from torch import nn

from adapter_export import (
    bodies,
    files,
    flavours,
    folding,
    parity,
    prepare,
    retype,
    rounding,
    schema,
    sizes,
    tidy,
    trace,
)
from adapter_export.flavours import Flavour
from adapter_export.precision import Precision
from adapter_export.precision import choose as choose_precision
from adapter_export.report import Difference, ExportReport, Parity
from adapter_infer import __version__
from adapter_infer.command_line import step
from adapter_infer.errors import UsageError
from adapter_infer.metadata import FEATURE_NAMES, PREFIX, PRODUCER, InputForm, Metadata, to_props
from adapter_infer.models import count_parameters
from adapter_infer.msda import MSDeformAttn
from adapter_infer.spec import ModelSpec, Preprocessing


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

    `model` is a Segmentor or a backbone in eval mode and stays as it is. `size` is (height, width) in pixels, default
    the crop of `spec`. `op` is a flavour ("fused", "standard", "tensorrt", "onnx"), `output` "logits", "labels" or
    "features" (default: logits, or features of a backbone). `precision` is the type of weights and activations,
    `io_precision` that of float inputs and outputs ("fp32", "fp16", "bf16"); `attention_fp32` keeps the softmax of
    attention in fp32. `check` False skips the parity gate, nothing else.

    Errors: UsageError for what cannot be asked of this model, ParityError where the file does not compute what the
    model does, AdapterError where tracing or writing fails. After an error no file is left, and a file that stood at
    `path` before is untouched.
    """
    target = Path(path)
    types = choose_precision(precision, io_precision, attention_fp32)
    plan = _plan(model, spec, size, batch, dynamic_size, op, output, embed_preprocess, opset, types)
    if external_data is False:
        width = retype.TYPES[types.arithmetic].itemsize
        files.check_one_file(sum(parameter.numel() for parameter in model.parameters()) * int(width))
    timer = _Timer()
    with files.staging(target) as place:
        cases: list[parity.Case] = []
        if check:
            with timer.step("reference"):
                cases = _reference(model, plan, seed)
        with timer.step("trace"):
            graph = _trace(model, plan)
        with timer.step("fold"):
            folding.fold(graph)
            tidy.tidy(graph)
            retype.retype(graph, types)
            nodes, msda_nodes = _count(graph, model, plan.flavour)
            if plan.flavour.carries_body and msda_nodes:
                _attach(graph, plan.flavour, plan.opset)
            params = count_parameters(model)
            metadata = Metadata(
                spec,
                plan.form,
                op,
                plan.output,
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
                result = _parity(place, plan, cases, msda_nodes)
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
        opset=plan.opset,
        output=plan.output,
        precision=types,
        input=plan.form,
        nodes=nodes,
        msda_nodes=msda_nodes,
        params=params,
        parity=result,
        seconds=timer.seconds,
        peak_bytes=_peak_bytes(),
    )


@dataclass(frozen=True)
class _Plan:
    """What was asked, resolved and found possible. `outputs` names the graph's outputs."""

    form: InputForm
    flavour: Flavour
    opset: int
    output: str
    outputs: tuple[str, ...]
    preprocessing: Preprocessing | None
    precision: Precision

    @property
    def size(self) -> sizes.Size | None:
        """(height, width), None where dynamic."""
        return None if self.form.height is None or self.form.width is None else (self.form.height, self.form.width)


def _plan(
    model: nn.Module,
    spec: ModelSpec,
    size: sizes.Size | None,
    batch: int | Literal["dynamic"],
    dynamic_size: bool,
    op: str,
    output: str | None,
    embed_preprocess: bool,
    opset: int | None,
    precision: Precision,
) -> _Plan:
    if model.training:
        raise UsageError("the model is in training mode, where it computes something else; call model.eval() first")
    flavour, opset = flavours.choose(op, opset, precision.arithmetic)
    output = _check_output(spec, output)
    preprocessing = _check_preprocessing(spec, embed_preprocess)
    h, w = sizes.choose(model, spec, size, dynamic_size) or (None, None)
    form = InputForm(_check_batch(batch), h, w, sizes.rule(model).divisor, embed_preprocess)
    outputs = FEATURE_NAMES if output == "features" else (output,)
    return _Plan(form, flavour, opset, output, outputs, preprocessing, precision)


def _check_output(spec: ModelSpec, output: str | None) -> str:
    if output is None:
        return "features" if spec.decode_head is None else "logits"
    if output not in prepare.OUTPUTS:
        raise UsageError(f"output {output!r} is unknown; choose one of {', '.join(prepare.OUTPUTS)}")
    if spec.decode_head is None and output != "features":
        raise UsageError(f"output {output} needs a decode head, but this model is a backbone alone; ask for features")
    return output


def _check_preprocessing(spec: ModelSpec, embed: bool) -> Preprocessing | None:
    if embed and spec.preprocessing is None:
        raise UsageError(
            "the preprocessing cannot be embedded: the model's configuration does not say how pictures are normalised; "
            "pass --config with img_norm_cfg, or leave out --embed-preprocess"
        )
    return spec.preprocessing


def _check_batch(batch: int | Literal["dynamic"]) -> int | None:
    if batch == "dynamic":
        return None
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise UsageError(f"batch {batch!r} is neither a positive number nor 'dynamic'")
    return batch


def _reference(model: nn.Module, plan: _Plan, seed: int) -> list[parity.Case]:
    shapes = parity.shapes(plan.size, plan.form.batch, plan.form.size_divisor)
    # Without a normalisation of the model's own, pictures are brought to the usual range.
    preprocessing = plan.preprocessing or Preprocessing()
    return parity.reference(model, shapes, plan.output, preprocessing, plan.form.embed_preprocess, seed, plan.precision)


def _trace(model: nn.Module, plan: _Plan) -> ir.Model:
    form = plan.form
    embedded = plan.preprocessing if form.embed_preprocess else None
    module = prepare.traceable(model, plan.flavour.core, plan.output, embedded)
    # A dynamic axis is traced at a number with no meaning of its own: 1, or two equal sizes, would be specialised.
    n = form.batch or 2
    h, w = plan.size or tuple(units * form.size_divisor for units in sizes.TRACED)
    pixels = torch.zeros((n, h, w, 3), dtype=torch.uint8)
    example = pixels if form.embed_preprocess else torch.zeros((n, 3, h, w))
    dims = trace.image_dims(form.batch is None, form.height is None, form.size_divisor, form.embed_preprocess)
    return trace.trace(module, example, dims, plan.flavour, plan.opset, plan.outputs)


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


def _parity(place: files.Staging, plan: _Plan, cases: list[parity.Case], msda_nodes: int) -> Parity:
    """Compares the written file by every path it can take; sessions one after the other, so that memory holds one."""
    differences: list[Difference] = []
    unchecked: dict[str, str] = {}
    file, kind = place.model, plan.precision.coarsest
    if kind != "fp32":
        file = rounding.copy(place)
    compare = partial(parity.compare, cases=cases, outputs=plan.outputs, optimise=kind == "fp32")
    custom_ops: Path | None = None
    if not msda_nodes:
        differences += compare(file, "plain", None)
    elif plan.flavour.carries_body:
        custom_ops, missing = parity.library()
        if custom_ops is None:
            unchecked["library"] = missing
        else:
            differences += compare(file, "library", custom_ops)
        differences += compare(file, "body", None)
    else:
        # ONNX Runtime has no such operator: a copy of the file with a body for it is compared instead, which checks
        # all but the plugin's own arithmetic.
        assert plan.flavour.operator is not None
        stand_in = files.with_functions(file, [bodies.body(plan.flavour.operator, plan.opset)])
        differences += compare(stand_in, "stand_in", None)
        stand_in.unlink()
    if kind == "fp16" and (not msda_nodes or plan.flavour.carries_body):
        # ONNX Runtime computes what it has no fp16 kernel for in fp32; that flatters the file, but it must run.
        differences += parity.compare(place.model, "as_written", custom_ops, cases, plan.outputs)
    elif kind == "bf16":
        unchecked["as_written"] = "ONNX Runtime's CPU has no arithmetic in bf16"
    if file != place.model:
        file.unlink()
    result = Parity(tuple(differences), unchecked, None if kind == "fp32" else kind)
    parity.judge(result.worst())
    return result


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
