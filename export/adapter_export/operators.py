"""The operators that one call of multi-scale deformable attention becomes, as plain data. Imports no onnx."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_infer.metadata import FUSED_OP, OP_DOMAIN, STANDARD_OP


@dataclass(frozen=True)
class Operator:
    """One operator: inputs by name, which of them holds Q at axis 1, and the attributes on every node.

    `per_head` says that the output is (N, Q, M, D) instead of (N, Q, M*D).
    """

    domain: str
    name: str
    inputs: tuple[str, ...]
    queries_from: str
    attributes: dict[str, str]
    integers: str = "tensor(int64)"
    per_head: bool = False


_STANDARD_INPUTS = ("value", "spatial_shapes", "level_start_index", "sampling_locations", "attention_weights")
# TensorRT's parser prefers a registered plugin over a function body only where it finds `plugin_namespace`.
_OURS = {"plugin_namespace": OP_DOMAIN, "plugin_version": "1"}

FUSED = Operator(OP_DOMAIN, FUSED_OP, ("value", "spatial_shapes", "reference_points", "samples"), "samples", _OURS)
STANDARD = Operator(OP_DOMAIN, STANDARD_OP, _STANDARD_INPUTS, "sampling_locations", _OURS)
# TensorRT's own plugin. Its parser goes by the node's type and attributes alone; the domain is the one under which ONNX
# Runtime's TensorRT provider registers TensorRT's plugins, and keeps onnx.checker from looking for a standard operator.
TENSORRT = Operator(
    "trt.plugins",
    "MultiscaleDeformableAttnPlugin_TRT",
    _STANDARD_INPUTS,
    "sampling_locations",
    {"plugin_namespace": "", "plugin_version": "2"},
    integers="tensor(int32)",
    per_head=True,
)
OPERATORS = (FUSED, STANDARD, TENSORRT)
OP_VERSION = 1
