"""`--split`: DINOv3's frozen ViT as one file, and what reads its tokens, adapter and head, as another.

One backbone file then serves every head that was trained on it. The whole model is exported and checked as always; its
graph is cut where the ViT hands over, at the four outputs of its last norm, and the two files, run one after the other,
must give what the whole file gives.

OUT.backbone.onnx: image -> tokens_1 .. tokens_4, each (N, H/16*W/16, C): the patch tokens after the four blocks, row by
row, normalised, without class and storage tokens. OUT.onnx: image and these four -> the model's output.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from adapter_export import bodies, exporter, files, flavours, parity, pictures, rounding
from adapter_export.report import Difference, ExportReport
from adapter_export.tolerance import tolerance
from adapter_infer.command_line import step
from adapter_infer.dinov3.adapter import DINOv3Adapter
from adapter_infer.errors import UsageError
from adapter_infer.files import check_writable
from adapter_infer.metadata import IMAGE, PREFIX, TOKEN_NAMES
from adapter_infer.models import count_parameters
from adapter_infer.spec import ModelSpec, Preprocessing

BACKBONE = "backbone"  # the Metadata.output of the backbone's file

Array = NDArray[Any]
Data = dict[str, Any]


def backbone_path(path: Path) -> Path:
    """OUT.onnx -> OUT.backbone.onnx."""
    return path.with_name(f"{path.stem}.{BACKBONE}{path.suffix}")


def check(spec: ModelSpec) -> None:
    """Errors: UsageError where the ViT is no part of its own."""
    kind = spec.backbone.get("type")
    if kind != "DINOv3Adapter":
        raise UsageError(
            f"--split parts a frozen ViT from its adapter, which only DINOv3's is made for; in a {kind} the ViT needs "
            "the adapter or has none, so leave out --split"
        )


def export(model: nn.Module, spec: ModelSpec, path: Path | str, **options: Any) -> ExportReport:
    """As `exporter.export`, in two files: `path` takes the image and the tokens that `backbone_path(path)` gives.

    The report speaks of the whole model; its `file_bytes` are those of both files, the comparison "chain" is that of
    the two, one after the other, with the whole one. Errors: as `exporter.export`; UsageError for a model that cannot
    be split; ParityError where the chain gives something else.
    """
    check(spec)
    adapter = _adapter(model)
    target = Path(path)
    check_writable(backbone_path(target), "--split")
    with files.staging(target) as head, files.staging(backbone_path(target)) as backbone:
        whole = files.Staging(Path("whole.onnx"), head.model.parent)
        report = exporter.export(model, spec, whole.model, **options)
        counts = {BACKBONE: count_parameters(adapter.backbone)}
        counts["head"] = report.params - counts[BACKBONE]
        with step("cutting the graph"):
            described = {
                "tokens_after_block": dict(zip(TOKEN_NAMES, spec.backbone["interaction_indexes"], strict=True)),
                "tokens_shape": "N, H/16*W/16, C",
                "weights": digest(adapter.backbone),
            }
            places = {BACKBONE: backbone, "head": head}
            _write(whole.model, places, counts, described, options.get("external_data"))
        if report.parity is not None:
            with step("comparing the two files with the whole one"):
                found = _compare(whole, backbone, head, report, spec.preprocessing, int(options.get("seed", 0)))
            parity.judge(max(found, key=lambda difference: difference.share))
            report = replace(report, parity=replace(report.parity, differences=(*report.parity.differences, *found)))
        written = [file for place in (backbone, head) for file in (place.model, place.data) if file.exists()]
        file_bytes = sum(file.stat().st_size for file in written)
        data_path = target.with_name(head.data.name) if head.data.exists() else None
        backbone.publish()
        head.publish()
    return replace(report, path=target, data_path=data_path, file_bytes=file_bytes)


def _adapter(model: nn.Module) -> DINOv3Adapter:
    adapter: Any = getattr(model, "backbone", None) if hasattr(model, "segmentation_model") else model
    if not isinstance(adapter, DINOv3Adapter):
        raise UsageError(f"--split needs a model with a DINOv3Adapter; this is a {type(model).__name__}")
    return adapter


def digest(vit: nn.Module) -> str:
    """Of the ViT's weights as they were read: a head fed by any other ViT gives nonsense without a sign of it."""
    found = sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _write(
    file: Path, places: dict[str, files.Staging], counts: dict[str, int], described: Data, external: bool | None
) -> None:
    """The two parts of the whole file, each with what is `described` of both and its own part in it."""
    model = ir.load(file)
    tokens = [str(value.name) for value in _tokens(model.graph)]
    ends = {BACKBONE: tokens, "head": [str(value.name) for value in model.graph.outputs]}
    starts = {BACKBONE: [IMAGE], "head": [IMAGE, *tokens]}
    for kind, place in places.items():
        part = _part(model, starts[kind], ends[kind])
        for value in (*part.graph.inputs, *part.graph.outputs):
            if value.name in tokens:
                value.name = TOKEN_NAMES[tokens.index(value.name)]
        (partner,) = (other.target.name for name, other in places.items() if name != kind)
        props = {"split": json.dumps({"part": kind, "partner": partner} | described)}
        props["params"] = json.dumps(counts[kind])
        props |= {"output": BACKBONE, "msda_nodes": "0"} if kind == BACKBONE else {}
        part.metadata_props.update({PREFIX + key: value for key, value in props.items()})
        files.save(part, place, external)
        onnx.checker.check_model(str(place.model), full_check=True)


def _tokens(graph: ir.Graph) -> list[ir.Value]:
    """What the ViT's last norm gives, once a stage, in the order of the blocks."""
    found = []
    for node in graph:
        scale = node.inputs[1] if node.op_type == "LayerNormalization" else None
        if scale is not None and f".{scale.name}".endswith(".backbone.norm.weight"):
            found.append(node.outputs[0])
    if len(found) != len(TOKEN_NAMES):
        raise RuntimeError(f"the ViT's last norm stands {len(found)} times in the graph, not {len(TOKEN_NAMES)} times")
    return found


def _part(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The part of a model from some of its values to others, with the functions that it calls."""
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    domains = {node.domain for node in graph} | {""}
    graph.opset_imports.clear()
    graph.opset_imports.update({name: version for name, version in model.opset_imports.items() if name in domains})
    called = {node.op_identifier() for node in graph}
    part = ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=[function for identifier, function in model.functions.items() if identifier in called],
    )
    part.metadata_props.update(model.metadata_props)
    return part


def _compare(
    whole: files.Staging,
    backbone: files.Staging,
    head: files.Staging,
    report: ExportReport,
    preprocessing: Preprocessing | None,
    seed: int,
) -> list[Difference]:
    """The chain against the whole file, operator by operator as they stand: nothing but the cut may differ.

    Half types run as rounded stand-ins, as in the parity gate.
    """
    places = (whole, backbone, head)
    half = report.precision.coarsest != "fp32"
    whole_file, backbone_file, head_file = [rounding.copy(place) if half else place.model for place in places]
    custom_ops, flavour = None, flavours.FLAVOURS[report.op]
    if flavour.operator is not None and flavour.carries_body:
        custom_ops, _ = parity.library()  # without it the bodies run
    elif flavour.operator is not None:
        body = bodies.body(flavour.operator, report.opset)
        whole_file, head_file = (files.with_functions(file, [body]) for file in (whole_file, head_file))
    one = parity.Session(whole_file, "whole", custom_ops, optimise=False)
    first = parity.Session(backbone_file, "chain", None, optimise=False)
    second = parity.Session(head_file, "chain", custom_ops, optimise=False)
    outputs = [entry.name for entry in one.session.get_outputs()]
    found = []
    for image in _images(report, preprocessing or Preprocessing(), seed):
        wanted = one.run(outputs, {IMAGE: image})
        tokens = dict(zip(TOKEN_NAMES, first.run(TOKEN_NAMES, {IMAGE: image}), strict=True))
        got = second.run(outputs, {IMAGE: image} | tokens)
        for name, expected, array in zip(outputs, wanted, got, strict=True):
            largest = float(np.abs(array.astype(np.float64) - expected).max())
            limit = tolerance(expected)
            found.append(Difference("chain", name, image.shape, largest if np.isfinite(largest) else np.inf, limit))
    return found


def _images(report: ExportReport, preprocessing: Preprocessing, seed: int) -> list[Array]:
    """A picture as the parity gate takes them, at two sizes where the size is dynamic."""
    form = report.input
    size = None if form.height is None or form.width is None else (form.height, form.width)
    shapes = list(dict.fromkeys(parity.shapes(size, form.batch, form.size_divisor)))[:2]
    raw = [pictures.pixels(n, h, w, pictures.KINDS, seed) for n, h, w in shapes]
    return raw if form.embed_preprocess else [pictures.normalise(each, preprocessing) for each in raw]
