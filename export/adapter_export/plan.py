"""What is asked of an export, resolved and found possible, before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from adapter_export import detector_steps, flavours, query_steps, sizes
from adapter_export.flavours import Flavour
from adapter_export.precision import Precision
from adapter_infer.detectors.dense_heads import DenseDetector
from adapter_infer.detectors.detector import Detector
from adapter_infer.errors import UsageError
from adapter_infer.metadata import FEATURE_NAMES, IMAGE, IMAGE_SIZE, QUERY_NAMES, InputForm
from adapter_infer.spec import ModelSpec, Preprocessing

OUTPUTS = {
    "features": ("features",),
    "semantic": ("logits", "labels", "queries", "features"),
    "detection": ("detections", "dense", "features"),
    "panoptic": ("queries", "features"),
}
"""What the models of each task give; the first is the default."""

ROI_ALIGN_22 = 22
"""The opset whose RoiAlign takes bf16; ONNX Runtime has none of it."""


@dataclass(frozen=True)
class Plan:
    """One export. `outputs` names the graph's outputs, `probes` what the parity gate looks at behind them."""

    form: InputForm
    flavour: Flavour
    opset: int
    output: str
    outputs: tuple[str, ...]
    preprocessing: Preprocessing | None
    precision: Precision
    probes: tuple[str, ...] = ()
    half_ends: tuple[str, ...] = ()

    @property
    def size(self) -> sizes.Size | None:
        """(height, width), None where dynamic."""
        return None if self.form.height is None or self.form.width is None else (self.form.height, self.form.width)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The graph's inputs."""
        return (IMAGE, IMAGE_SIZE) if self.output == "detections" else (IMAGE,)


def plan(
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
) -> Plan:
    """The Plan for these arguments of `export`. Errors: UsageError for what cannot be asked of this model."""
    if model.training:
        raise UsageError("the model is in training mode, where it computes something else; call model.eval() first")
    flavour, opset = flavours.choose(op, opset, precision.arithmetic)
    output = _check_output(model, spec, output)
    if output == "detections" and precision.io != "fp32":
        raise UsageError(
            f"detections in {precision.io} would place boxes to within a pixel at best; leave out --io-precision "
            "(the graph inside may still be in a half type), or ask for output dense"
        )
    if output == "detections" and opset >= ROI_ALIGN_22 and not isinstance(model, DenseDetector):
        asked = "bf16 needs" if precision.arithmetic == "bf16" else f"opset {opset} has"
        raise UsageError(
            f"{asked} the RoiAlign of opset {ROI_ALIGN_22}, which ONNX Runtime does not run, so that the file could "
            f"not be checked; choose {'precision fp16' if 'bf16' in asked else f'opset 18 to {ROI_ALIGN_22 - 1}'}, "
            "or output dense"
        )
    preprocessing = _check_preprocessing(spec, embed_preprocess, output)
    h, w = sizes.choose(model, spec, size, dynamic_size) or (None, None)
    form = InputForm(_check_batch(batch), h, w, sizes.rule(model).divisor, embed_preprocess)
    probes: tuple[str, ...] = ()
    half_ends: tuple[str, ...] = ()
    if output not in {"features", "detections"}:
        probes = query_steps.names(model)
    if output == "detections":
        assert isinstance(model, Detector)
        probes, half_ends = detector_steps.names(model), detector_steps.half_ends(model)
    return Plan(form, flavour, opset, output, _names(model, output), preprocessing, precision, probes, half_ends)


def _names(model: nn.Module, output: str) -> tuple[str, ...]:
    if isinstance(model, Detector) and output in {"detections", "dense"}:
        return model.output_names if output == "detections" else detector_steps.dense_names(model)
    return {"features": FEATURE_NAMES, "queries": QUERY_NAMES}.get(output, (output,))


def _check_output(model: nn.Module, spec: ModelSpec, output: str | None) -> str:
    possible = OUTPUTS[spec.task]
    if output is None:
        return possible[0]
    known = dict.fromkeys(name for names in OUTPUTS.values() for name in names)
    if output not in known:
        raise UsageError(f"output {output!r} is unknown; choose one of {', '.join(known)}")
    if spec.task == "features" and output != "features":
        raise UsageError(f"output {output} needs a head, but this model is a backbone alone; ask for features")
    if output not in possible:
        what = {"detection": "detector", "panoptic": "panoptic model", "semantic": "segmentor"}[spec.task]
        raise UsageError(f"output {output} is not what a {what} gives; choose one of {', '.join(possible)}")
    head: Any = getattr(model, "decode_head", None)
    if output == "queries" and spec.task == "semantic" and not hasattr(head, "predict"):
        raise UsageError(
            f"output queries needs Mask2Former's head, but this is a {type(head).__name__}; ask for logits"
        )
    return output


def _check_preprocessing(spec: ModelSpec, embed: bool, output: str) -> Preprocessing | None:
    if embed and spec.preprocessing is None:
        raise UsageError(
            "the preprocessing cannot be embedded: the model's configuration does not say how pictures are normalised; "
            "pass --config with img_norm_cfg, or leave out --embed-preprocess"
        )
    if embed and output != "detections" and spec.preprocessing is not None and spec.preprocessing.pad:
        raise UsageError(
            f"the preprocessing cannot be embedded with output {output}: pictures of this model are padded after they "
            "are normalised, and without the input image_size the graph cannot tell padding from picture; "
            + ("ask for detections, or " if spec.task == "detection" else "")
            + "leave out --embed-preprocess"
        )
    return spec.preprocessing


def _check_batch(batch: int | Literal["dynamic"]) -> int | None:
    if batch == "dynamic":
        return None
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise UsageError(f"batch {batch!r} is neither a positive number nor 'dynamic'")
    return batch
