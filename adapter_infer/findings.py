"""What a checkpoint's tensor names and shapes say about its model, and what they cannot say. Imports no torch.

Heads of a plain ViT, the split into interactions, windows, normalisation and test settings leave no trace in the
tensors: they are listed as missing, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from adapter_infer.dinov3 import tensors as dinov3
from adapter_infer.findings_adapter import adapter_facts, numbered
from adapter_infer.findings_heads import (
    DETECTION_PREFIXES,
    DETECTOR_FACTS,
    SEGMENTATION_FACTS,
    Shape,
    expected_head,
    head_facts,
    head_missing,
)
from adapter_infer.spec import ModelSpec


class HasShape(Protocol):
    """A tensor, or anything else with a shape."""

    @property
    def shape(self) -> Iterable[int]: ...


@dataclass(frozen=True)
class Findings:
    """The facts. None means that the tensors do not tell (or that the part is not there).

    `backbone` is the official class; `position_grid` the side of the stored position embedding in patches;
    `heads_times_points` the product of the MSDA's M and P; `window_sizes` are BEiT's, one a block; `ffn_type` and
    `class_token` DINOv2's; `frozen_vit` says where DINOv3's ViT is, which has a file of its own.
    """

    backbone: str | None = None
    half: str | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    patch_size: int | None = None
    mlp_ratio: float | None = None
    layer_scale: bool | None = None
    ffn_type: str | None = None
    class_token: bool | None = None
    frozen_vit: str | None = None
    position_grid: int | None = None
    img_size: int | None = None
    window_sizes: tuple[int, ...] | None = None
    residual_indices: tuple[int, ...] | None = None
    interactions: int | None = None
    conv_inplane: int | None = None
    with_cffn: bool | None = None
    cffn_ratio: float | None = None
    use_extra_extractor: bool | None = None
    deform_ratio: float | None = None
    heads_times_points: int | None = None
    neck: str | None = None
    neck_channels: int | None = None
    neck_norm: str | None = None
    decode_head: str | None = None
    detector: str | None = None
    stages: int | None = None
    box_convs: int | None = None
    shared_boxes: bool | None = None
    masks: bool | None = None
    semantic_classes: int | None = None
    reg_max: int | None = None
    head_channels: int | None = None
    num_queries: int | None = None
    num_classes: int | None = None
    other_parts: tuple[str, ...] = ()
    parameters: int = 0

    def known(self) -> dict[str, Any]:
        """The facts that were found, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, ())}

    def missing(self) -> list[str]:
        """What the model needs and its tensors do not hold."""
        if self.backbone is None:
            return ["everything"]
        if self.half == "dinov3":
            return self._missing_of_dinov3()
        missing = [] if self.num_heads else ["num_heads"]
        if self.backbone == "BEiTBaseline" or (self.backbone == "ViTBaseline" and self.half != "segmentation"):
            missing.append("out_indices")
        windowed = self.backbone != "BEiTBaseline" and not self.class_token
        if windowed and self.window_sizes is None and self.img_size is None:
            missing.append("window layout")
        if self.backbone.endswith("Adapter"):
            missing += ["interaction_indexes", "the split of heads and points", "add_vit_feature"]
        missing += ["the forward pass (segmentation or detection)"] if self.half is None else []
        missing += ["version (old or new)"] if (self.backbone, self.half) == ("BEiTAdapter", "detection") else []
        missing += ["mean and std"]
        return missing + head_missing(self.decode_head, self.detector)

    def _missing_of_dinov3(self) -> list[str]:
        if self.backbone == dinov3.PLAIN:
            return ["the adapter and its head"]
        elsewhere = self.frozen_vit == dinov3.ELSEWHERE
        missing = ["the frozen ViT (--backbone-checkpoint)"] if elsewhere else []
        missing += ["interaction_indexes", "the split of heads and points", "mean and std"]
        head = ["the head's number of attention heads", "crop, stride and test size"]
        return missing + (head if self.decode_head else [])

    def text(self) -> str:
        """The facts in one line."""
        return ", ".join(f"{name} {_word(value)}" for name, value in self.known().items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) if len(set(value)) > 1 else f"{len(value)} x {value[0]}"
    return str(value)


def inspect_tensors(state_dict: Mapping[str, HasShape]) -> Findings:
    """The facts that a state dict's names and shapes hold; names may start with `backbone.` or not (backbone files)."""
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    prefix = "backbone." if any(name.startswith("backbone.") for name in shapes) else ""
    backbone = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    others = sorted({name.partition(".")[0] for name in shapes if not name.startswith("backbone.")}) if prefix else []
    counted = (shape for name, shape in shapes.items() if not _BUFFERS.search(name))
    facts: dict[str, Any] = {"other_parts": tuple(others), "parameters": sum(map(_numel, counted))}
    try:
        facts |= dinov3.facts(shapes) or _backbone(backbone) | head_facts(shapes)
    except (LookupError, ZeroDivisionError):  # a familiar name on a tensor of the wrong rank
        facts["half"] = None
    if facts.get("half") is None and any(name.startswith(DETECTION_PREFIXES) for name in shapes):
        facts["half"] = "detection"
    return Findings(**facts)


def expected(spec: ModelSpec) -> dict[str, Any]:
    """The facts that the tensors of `spec` would show, for comparison with found ones."""
    arguments = spec.backbone
    if arguments["type"] == "DINOv3Adapter":
        arguments = dinov3.DEFAULTS | arguments
    width, kind = int(arguments.get("embed_dim", 768)), str(arguments["type"])
    facts: dict[str, Any] = {"backbone": kind, "embed_dim": width, "depth": int(arguments.get("depth", 12))}
    facts["half"] = spec.half
    if kind == "DINOv3Adapter":
        facts |= dinov3.expected(arguments)
    elif not kind.startswith("BEiT"):
        facts["position_grid"] = int(arguments.get("img_size", 224)) // int(arguments.get("patch_size", 16))
    elif spec.half == "segmentation":
        facts["img_size"] = int(arguments.get("img_size", 224 if kind == "BEiTBaseline" else 512))
    if kind.endswith("Adapter"):
        facts |= {
            "interactions": len(arguments["interaction_indexes"]),
            "conv_inplane": int(arguments.get("conv_inplane", 64)),
            "with_cffn": bool(arguments.get("with_cffn", True)),
            "deform_ratio": float(arguments.get("deform_ratio", 1.0)),
            "use_extra_extractor": kind not in {"ViTAdapter", "DINOv2Adapter", "DINOv3Adapter"}
            or bool(arguments.get("use_extra_extractor", True)),
            "heads_times_points": int(arguments.get("deform_num_heads", 6)) * int(arguments.get("n_points", 4)),
        }
    if kind.startswith("DINOv2"):
        facts |= {"patch_size": int(arguments.get("patch_size", 16)), "ffn_type": arguments.get("ffn_type", "mlp")}
        facts["class_token"] = bool(arguments.get("use_cls", True))
    if isinstance(arguments.get("window_size"), list) and kind == "BEiTAdapter" and spec.half == "detection":
        facts["window_sizes"] = tuple(arguments["window_size"])
    facts["residual_indices"] = tuple(arguments.get("residual_indices") or ()) or None
    return facts | expected_head(spec)


def differences(found: Findings, facts: Mapping[str, Any]) -> list[str]:
    """Names of the facts on which tensors and expectation disagree; facts about a head count only if one was found."""
    unseen = SEGMENTATION_FACTS | DETECTOR_FACTS if found.decode_head is found.detector is None else frozenset()
    unseen |= {"half"} if found.half is None else set()
    unseen |= {"depth", "ffn_type"} if found.frozen_vit == dinov3.ELSEWHERE else set()
    return [name for name, value in facts.items() if name not in unseen and getattr(found, name) != value]


_BUFFERS = re.compile(
    r"((running_mean|running_var|num_batches_tracked|relative_position_index|integral\.project|rope_embed\.periods|bias_mask)$)"
    r"|^auxiliary_head\."
)


def _backbone(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    if "visual_embed.patch_embed.proj.weight" in shapes:
        family, blocks, patch, mlp = "UniPerceiver", "layers", "visual_embed.patch_embed.proj.weight", "linear1.weight"
    elif "blocks.0.attn.qkv.weight" in shapes and "patch_embed.proj.weight" in shapes:
        family = "ViT" if "blocks.0.attn.qkv.bias" in shapes else "BEiT"
        blocks, patch, mlp = "blocks", "patch_embed.proj.weight", "mlp.fc1.weight"
        family = "DINOv2" if _is_dinov2(shapes) else family
    else:
        return {}
    adapter = "spm.stem.0.weight" in shapes
    baseline = "norm4.weight" in shapes or "fpn1.0.weight" in shapes
    width, depth = shapes[patch][0], numbered(shapes, rf"{blocks}\.(\d+)\.")
    facts: dict[str, Any] = {
        "backbone": f"{family}Adapter"
        if adapter
        else f"{family}Baseline"
        if baseline
        else f"{family} (plain, no levels)",
        "embed_dim": width,
        "depth": depth,
        "patch_size": shapes[patch][-1],
        "layer_scale": f"{blocks}.0.gamma1" in shapes or f"{blocks}.0.gamma_1" in shapes,
    }
    if f"{blocks}.0.{mlp}" in shapes:
        facts["mlp_ratio"] = shapes[f"{blocks}.0.{mlp}"][0] / width
    if family == "DINOv2":
        facts |= _dinov2(shapes, width, adapter)
    facts["residual_indices"] = tuple(i for i in range(depth) if f"blocks.{i}.residual.conv1.weight" in shapes) or None
    facts |= _position(family, shapes, depth)
    return facts | (adapter_facts(shapes, width) if adapter else {})


def _is_dinov2(shapes: Mapping[str, Shape]) -> bool:
    """What ViT-Adapter's own ViT never has: other patches than 16 pixels, SwiGLU, or a class token in its adapter."""
    if "blocks.0.attn.qkv.bias" not in shapes:
        return False
    cls = "cls_token" in shapes and "spm.stem.0.weight" in shapes
    return shapes["patch_embed.proj.weight"][-1] != 16 or "blocks.0.mlp.w1.weight" in shapes or cls


def _dinov2(shapes: Mapping[str, Shape], width: int, adapter: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"ffn_type": "mlp", "class_token": "cls_token" in shapes}
    if "blocks.0.mlp.w1.weight" in shapes:  # two thirds of what mlp_ratio says, up to the next multiple of 8
        facts |= {"ffn_type": "swiglu", "mlp_ratio": shapes["blocks.0.mlp.w1.weight"][0] * 3 / 2 / width}
    return facts | ({"half": "segmentation"} if adapter else {})


def _position(family: str, shapes: Mapping[str, Shape], depth: int) -> dict[str, Any]:
    """Position embedding or bias tables: they tell the grid, and for BEiT the heads, windows and half as well."""
    if family in {"ViT", "DINOv2"}:
        return {"position_grid": _root(shapes["pos_embed"][1] - 1)} if "pos_embed" in shapes else {}
    if family == "UniPerceiver":
        table = shapes.get("visual_embed.patch_embed.spatial_pos_embed.weight")
        return {} if table is None else {"position_grid": _root(table[0])}
    tables = [shapes.get(f"blocks.{i}.attn.relative_position_bias_table") for i in range(depth)]
    rows = [table[0] for table in tables if table is not None and len(table) == 2]
    if not rows or tables[0] is None:
        return {}
    facts: dict[str, Any] = {
        "num_heads": tables[0][1],
        "half": "segmentation" if "cls_token" in shapes else "detection",
    }
    spans = [_root(count - (3 if "cls_token" in shapes else 0)) for count in rows]
    sizes = tuple((span + 1) // 2 for span in spans if span is not None and span % 2)
    if len(sizes) == depth:
        if "cls_token" in shapes:
            facts["img_size"] = 16 * sizes[0]
        else:
            facts["window_sizes"] = sizes
    return facts


def _root(area: int) -> int | None:
    side = round(max(area, 0) ** 0.5)
    return side if side * side == area else None


def _numel(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
