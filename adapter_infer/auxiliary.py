"""Parameters of the auxiliary heads, which inference never builds but published counts include. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import ModelSpec


def auxiliary_parameters(spec: ModelSpec) -> int:
    """Parameters of the spec's auxiliary heads together, 0 without any. Errors: UnsupportedModel on an unknown head."""
    try:
        return sum(map(_parameters, spec.auxiliary_heads))
    except (KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"an auxiliary head of {spec.source} is not fully given ({error!r})") from error


def _parameters(head: Mapping[str, Any]) -> int:
    """One head: 3x3 convolutions with batch norm, then a 1x1 classifier with bias."""
    kind, width, channels = head.get("type"), int(head["in_channels"]), int(head["channels"])
    if kind not in {"FCNHead", "SETRUPHead"}:
        raise UnsupportedModel(f"parameters of an auxiliary {kind} are not known; counted are FCNHead and SETRUPHead")
    count, area = int(head.get("num_convs", 2 if kind == "FCNHead" else 1)), int(head.get("kernel_size", 3)) ** 2
    per_conv = 2 * channels if head.get("norm_cfg") is not None else channels  # batch norm, or a bias without it
    convs = [width if step == 0 else channels for step in range(count)]
    if kind == "FCNHead" and head.get("concat_input", True):
        convs.append(width + channels)
    total = sum(incoming * channels * area + per_conv for incoming in convs)
    norm = 2 * width if kind == "SETRUPHead" else 0
    return norm + total + (channels + 1) * int(head["num_classes"])
