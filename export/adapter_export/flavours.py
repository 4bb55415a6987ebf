"""The flavours of `--op`: how one call of multi-scale deformable attention is written into the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapter_export.operators import FUSED, STANDARD, TENSORRT, Operator
from adapter_infer.errors import UsageError

FIRST_OPSET, LAST_OPSET = 18, 24  # the exporter writes nothing older than 18
DEFAULT_OPSET = 18
FIRST_BF16_OPSET = 22  # the first whose convolutions and poolings take bf16
LAST_GRID_SAMPLE_16 = 19  # opset 20 renamed GridSample's modes, and runtimes read the new names wrongly


@dataclass(frozen=True)
class Flavour:
    """One flavour: the core that MSDeformAttn traces, the operator it becomes, and what the file carries.

    `operator` None: standard operators only. `carries_body` says whether the file holds the operator's body; without
    it the parity check attaches one to a copy.
    """

    name: str
    core: str
    operator: Operator | None
    carries_body: bool
    last_opset: int = LAST_OPSET


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("fused", "fused", FUSED, carries_body=True),
        Flavour("standard", "standard", STANDARD, carries_body=True),
        # TensorRT 10.1 prefers a body even to its own plugin, so this file has none.
        Flavour("tensorrt", "standard", TENSORRT, carries_body=False),
        Flavour("onnx", "onnx", None, carries_body=False, last_opset=LAST_GRID_SAMPLE_16),
    )
}


def choose(name: str, opset: int | None, precision: str = "fp32") -> tuple[Flavour, int]:
    """The flavour and its opset. Errors: UsageError on an unknown name or an opset outside its range."""
    if name not in FLAVOURS:
        raise UsageError(f"op flavour {name!r} is unknown; choose one of {', '.join(FLAVOURS)}")
    first = FIRST_BF16_OPSET if precision == "bf16" else DEFAULT_OPSET
    flavour, opset = FLAVOURS[name], first if opset is None else opset
    if precision == "bf16" and min(opset, flavour.last_opset) < FIRST_BF16_OPSET:
        raise UsageError(
            f"opset {opset} with op flavour {name} has no bf16 convolutions, they come with opset {FIRST_BF16_OPSET}; "
            + ("choose op flavour fused" if flavour.last_opset < FIRST_BF16_OPSET else "leave out the opset")
            + ", or precision fp16"
        )
    if not FIRST_OPSET <= opset <= flavour.last_opset:
        reason = "; later opsets spell GridSample in a way that runtimes misread" if name == "onnx" else ""
        allowed = f"{FIRST_OPSET} to {flavour.last_opset}"
        raise UsageError(f"opset {opset} is not supported with op flavour {name}; choose {allowed}{reason}")
    return flavour, opset


def translations(flavour: Flavour) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The exporter's custom_translation_table for a flavour: our torch operators to ONNX nodes."""
    import torch
    from onnx import TensorProto
    from onnxscript import opset18 as op
    from onnxscript.values import Opset

    from adapter_infer import msda  # noqa: F401  registers the torch operators

    ours = torch.ops.adapter_infer
    if flavour.operator is None:
        return {}
    opset = Opset(flavour.operator.domain, 1)
    attributes = flavour.operator.attributes

    def fused(value: Any, spatial_shapes: Any, reference_points: Any, samples: Any) -> Any:
        return opset.MSDeformAttn(value, spatial_shapes, reference_points, samples, **attributes)

    def standard(value: Any, spatial_shapes: Any, starts: Any, locations: Any, weights: Any) -> Any:
        return opset.MultiScaleDeformableAttention(value, spatial_shapes, starts, locations, weights, **attributes)

    def tensorrt(value: Any, spatial_shapes: Any, starts: Any, locations: Any, weights: Any) -> Any:
        shapes_32 = op.Cast(spatial_shapes, to=TensorProto.INT32)
        starts_32 = op.Cast(starts, to=TensorProto.INT32)
        heads = opset.MultiscaleDeformableAttnPlugin_TRT(value, shapes_32, starts_32, locations, weights, **attributes)
        merged: Any = op.Constant(value_ints=[0, 0, -1])
        return op.Reshape(heads, merged)  # (N, Q, M, D) to (N, Q, M*D)

    if flavour.operator is FUSED:
        return {ours.ms_deform_attn.default: fused}
    return {ours.multi_scale_deformable_attention.default: standard if flavour.operator is STANDARD else tensorrt}
