"""What a checkpoint's tensor names and shapes say about its model, and what they cannot say. Imports no torch.

Heads of a plain ViT, the split into interactions, windows, normalisation and test settings leave no trace in the
tensors: they are listed as missing, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from adapter_infer.spec import DETECTION_PARTS, ModelSpec

Shape = tuple[int, ...]

DETECTION_PREFIXES = tuple(f"{part}." for part in DETECTION_PARTS)


class HasShape(Protocol):
    """A tensor, or anything else with a shape."""

    @property
    def shape(self) -> Iterable[int]: ...


@dataclass(frozen=True)
class Findings:
    """The facts. None means that the tensors do not tell (or that the part is not there).

    `backbone` is the official class; `position_grid` the side of the stored position embedding in patches;
    `heads_times_points` the product of the MSDA's M and P; `window_sizes` are BEiT's, one a block.
    """

    backbone: str | None = None
    half: str | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    patch_size: int | None = None
    mlp_ratio: float | None = None
    layer_scale: bool | None = None
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
    decode_head: str | None = None
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
        missing = [] if self.num_heads else ["num_heads"]
        if self.backbone == "BEiTBaseline" or (self.backbone == "ViTBaseline" and self.half != "segmentation"):
            missing.append("out_indices")
        if self.backbone != "BEiTBaseline" and self.window_sizes is None and self.img_size is None:
            missing.append("window layout")
        if self.backbone.endswith("Adapter"):
            missing += ["interaction_indexes", "the split of heads and points", "add_vit_feature"]
        missing += ["the forward pass (segmentation or detection)"] if self.half is None else []
        missing += ["version (old or new)"] if (self.backbone, self.half) == ("BEiTAdapter", "detection") else []
        missing += ["mean and std"]
        missing += ["the head's numbers of attention heads and groups"] if self.decode_head == "Mask2FormerHead" else []
        return missing + (["align_corners, crop, stride and test size"] if self.decode_head else [])

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
        facts |= _backbone(backbone) | _head(shapes)
    except (IndexError, ZeroDivisionError):  # a familiar name on a tensor of the wrong rank
        facts["half"] = None
    if facts.get("half") is None and any(name.startswith(DETECTION_PREFIXES) for name in shapes):
        facts["half"] = "detection"
    return Findings(**facts)


def expected(spec: ModelSpec) -> dict[str, Any]:
    """The facts that the tensors of `spec` would show, for comparison with found ones."""
    arguments, head = spec.backbone, spec.decode_head
    width, kind = int(arguments.get("embed_dim", 768)), str(arguments["type"])
    facts: dict[str, Any] = {"backbone": kind, "embed_dim": width, "depth": int(arguments.get("depth", 12))}
    if not kind.startswith("BEiT"):
        facts["position_grid"] = int(arguments.get("img_size", 224)) // int(arguments.get("patch_size", 16))
    elif spec.half == "segmentation":
        facts["img_size"] = int(arguments.get("img_size", 224 if kind == "BEiTBaseline" else 512))
    if kind.endswith("Adapter"):
        facts |= {
            "interactions": len(arguments["interaction_indexes"]),
            "conv_inplane": int(arguments.get("conv_inplane", 64)),
            "with_cffn": bool(arguments.get("with_cffn", True)),
            "deform_ratio": float(arguments.get("deform_ratio", 1.0)),
            "use_extra_extractor": kind != "ViTAdapter" or bool(arguments.get("use_extra_extractor", True)),
            "heads_times_points": int(arguments.get("deform_num_heads", 6)) * int(arguments.get("n_points", 4)),
        }
    if head is not None:
        facts |= {"decode_head": head["type"], "num_classes": spec.num_classes}
        facts["head_channels"] = int(head["channels"] if "channels" in head else head["feat_channels"])
        if "num_queries" in head:
            facts["num_queries"] = int(head["num_queries"])
    return facts


def differences(found: Findings, facts: Mapping[str, Any]) -> list[str]:
    """Names of the facts on which tensors and expectation disagree; facts about a head count only if one was found."""
    head = {"decode_head", "num_classes", "head_channels", "num_queries"} if found.decode_head is None else set()
    return [name for name, value in facts.items() if name not in head and getattr(found, name) != value]


_BUFFERS = re.compile(r"(running_mean|running_var|num_batches_tracked|relative_position_index|^auxiliary_head\..*)$")


def _backbone(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    if "visual_embed.patch_embed.proj.weight" in shapes:
        family, blocks, patch, mlp = "UniPerceiver", "layers", "visual_embed.patch_embed.proj.weight", "linear1.weight"
    elif "blocks.0.attn.qkv.weight" in shapes and "patch_embed.proj.weight" in shapes:
        family = "ViT" if "blocks.0.attn.qkv.bias" in shapes else "BEiT"
        blocks, patch, mlp = "blocks", "patch_embed.proj.weight", "mlp.fc1.weight"
    else:
        return {}
    adapter = "spm.stem.0.weight" in shapes
    baseline = "norm4.weight" in shapes or "fpn1.0.weight" in shapes
    width, depth = shapes[patch][0], _length(shapes, rf"{blocks}\.(\d+)\.")
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
    facts["residual_indices"] = tuple(i for i in range(depth) if f"blocks.{i}.residual.conv1.weight" in shapes) or None
    facts |= _position(family, shapes, depth)
    return facts | (_adapter(shapes, width) if adapter else {})


def _position(family: str, shapes: Mapping[str, Shape], depth: int) -> dict[str, Any]:
    """Position embedding or bias tables: they tell the grid, and for BEiT the heads, windows and half as well."""
    if family == "ViT":
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


def _adapter(shapes: Mapping[str, Shape], width: int) -> dict[str, Any]:
    first = "interactions.0.extractor"
    ffn, value = shapes.get(f"{first}.ffn.fc1.weight"), shapes.get(f"{first}.attn.value_proj.weight")
    weights = shapes.get(f"{first}.attn.attention_weights.weight")
    return {
        "interactions": _length(shapes, r"interactions\.(\d+)\."),
        "conv_inplane": shapes["spm.stem.0.weight"][0],
        "with_cffn": ffn is not None,
        "cffn_ratio": None if ffn is None else ffn[0] / width,
        "use_extra_extractor": any(".extra_extractors." in name for name in shapes),
        "deform_ratio": None if value is None else value[0] / width,
        "heads_times_points": None if weights is None else weights[0],
    }


def _head(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    names = {name.removeprefix("decode_head.") for name in shapes if name.startswith("decode_head.")}
    if not names:
        return {}
    facts: dict[str, Any] = {"half": "segmentation", "decode_head": "unknown"}
    for kind, sign in _HEAD_SIGNS.items():
        if sign in names:
            facts["decode_head"] = kind
    classifier = shapes.get("decode_head.conv_seg.weight")
    if classifier is not None and len(classifier) == 4:
        facts |= {"num_classes": classifier[0], "head_channels": classifier[1]}
    queries, scores = shapes.get("decode_head.query_feat.weight"), shapes.get("decode_head.cls_embed.weight")
    if queries is not None and scores is not None and len(queries) == len(scores) == 2:
        facts |= {"num_classes": scores[0] - 1, "head_channels": scores[1], "num_queries": queries[0]}
    if "neck.lateral_convs.0.conv.weight" in shapes:
        facts["neck"] = "FPN"
    return facts


_HEAD_SIGNS = {
    "UPerHead": "psp_modules.0.1.conv.weight",
    "FPNHead": "scale_heads.0.0.conv.weight",
    "SETRUPHead": "up_convs.0.0.conv.weight",
    "Mask2FormerHead": "query_feat.weight",
}


def _length(names: Iterable[str], pattern: str) -> int:
    """How many numbered parts there are."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _root(area: int) -> int | None:
    side = round(max(area, 0) ** 0.5)
    return side if side * side == area else None


def _numel(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
