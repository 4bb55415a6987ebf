"""What the tensors of DINOv3's files show, by names and shapes: the ViT, the adapter with its head, or both.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_infer.findings_adapter import Shape, adapter_facts, numbered

SEGMENTOR = "segmentation_model."
ADAPTER, HEAD = f"{SEGMENTOR}0.", f"{SEGMENTOR}1."
VIT = f"{ADAPTER}backbone."  # the ViT inside a segmentor; its own file has the names that follow, bare

IN_FILE, ELSEWHERE = "in this file", "in a file of its own"
PLAIN = "DINOv3 (the frozen ViT alone)"
DEFAULTS = {"deform_num_heads": 16, "n_points": 4, "deform_ratio": 0.5}  # of the adapter, the official constants


def facts(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The facts by the names of `findings.Findings`; {} where these are not DINOv3's tensors.

    A head's file alone says nothing of the ViT's depth: `frozen_vit` then is ELSEWHERE. Errors: IndexError or
    ZeroDivisionError where a familiar name has a shape of another rank.
    """
    vit = vit_part(shapes)
    adapter = {name.removeprefix(ADAPTER): shape for name, shape in shapes.items() if name.startswith(ADAPTER)}
    if "level_embed" not in adapter or "spm.stem.0.weight" not in adapter:
        return {"backbone": PLAIN, "half": "dinov3", **_vit(vit)} if vit else {}
    width = adapter["level_embed"][1]
    found = {"backbone": "DINOv3Adapter", "half": "dinov3", "embed_dim": width, **adapter_facts(adapter, width)}
    found |= {**_vit(vit), **_head(shapes)}
    return found | {"frozen_vit": IN_FILE if vit else ELSEWHERE}


def vit_part(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The ViT's tensors by their bare names, of a file of its own or of a segmentor; {} where it is not there."""
    for prefix in (VIT, "", "backbone."):
        if f"{prefix}rope_embed.periods" in shapes and f"{prefix}cls_token" in shapes:
            return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    return {}


def expected(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that an adapter built from these arguments would show, less those that all adapters have."""
    ffn = str(arguments.get("ffn_layer", "mlp"))
    return {"half": "dinov3", "ffn_type": "swiglu" if ffn.startswith("swiglu") else ffn}


def _vit(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    if not shapes:
        return {}
    width, turning = shapes["cls_token"][-1], shapes["rope_embed.periods"][0]
    patch, swiglu = shapes.get("patch_embed.proj.weight"), shapes.get("blocks.0.mlp.w1.weight")
    mlp = shapes.get("blocks.0.mlp.fc1.weight")
    return {
        "embed_dim": width,
        "depth": numbered(shapes, r"blocks\.(\d+)\."),
        "num_heads": width // (4 * turning),
        "patch_size": None if patch is None else patch[-1],
        "mlp_ratio": None if mlp is None else mlp[0] / width,
        "layer_scale": "blocks.0.ls1.gamma" in shapes,
        "ffn_type": "mlp" if mlp else "swiglu" if swiglu else None,
    }


def _head(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    scores = shapes.get(f"{HEAD}predictor.class_embed.weight")
    queries = shapes.get(f"{HEAD}predictor.query_feat.weight")
    if scores is None or queries is None:
        return {"decode_head": "unknown"} if any(name.startswith(HEAD) for name in shapes) else {}
    return {
        "decode_head": "DINOv3Mask2FormerHead",
        "num_classes": scores[0] - 1,
        "head_channels": scores[1],
        "num_queries": queries[0],
    }
