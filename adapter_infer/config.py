"""From an mmcv-style configuration to a ModelSpec, without executing the configuration. Imports no torch.

`read_config` (files) and `parse_config` (the text in a checkpoint) give a dictionary; `spec_from_config` reads the
model, its test configuration and its test pipeline out of it, by the names of mmsegmentation 0.x and 1.x and of
mmdetection 2.x and, as far as they are the same, 3.x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapter_infer import config_detection
from adapter_infer.config_file import parse_config, read_config
from adapter_infer.config_parts import Config, is_count, mapping, module, pair, part, plain
from adapter_infer.config_pictures import labels, preprocessing
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import BACKBONES, DETECTION_PARTS, HEADS, Inference, ModelSpec, class_count, detection_head

__all__ = ["parse_config", "read_config", "spec_from_config"]

SEGMENTORS = ("EncoderDecoder", "EncoderDecoderMask2Former", "EncoderDecoderMask2FormerAug")
_COUNTS = {"embed_dim", "depth", "num_heads", "img_size", "pretrain_size", "patch_size"} | {
    "conv_inplane",
    "n_points",
    "deform_num_heads",
}


def spec_from_config(config: Config, source: str, name: str = "", *, features_only: bool = False) -> ModelSpec:
    """The model that a configuration describes; `source` says where it comes from, in messages and in the spec.

    `features_only` gives the backbone alone, whatever the head is. Errors: UnsupportedModel where the model is not one
    of this project's, where something needed is missing, or where its value is not spelled out.
    """
    model = part(config, "model", source)
    backbone = module(model, "backbone", source)
    if backbone["type"] == "ViTAdapter" and _is_dinov2(part(model, "backbone", source)):
        backbone["type"] = "DINOv2Adapter"
    if backbone["type"] not in BACKBONES:
        raise UnsupportedModel(
            f"backbone type {backbone['type']!r} of {source} is not supported; supported: {', '.join(BACKBONES)}"
        )
    common: dict[str, Any] = {"name": name, "source": source, "half": _half(model, source)}
    detection = common["half"] == "detection"
    common["backbone"] = _checked(backbone, source)
    common["preprocessing"] = preprocessing(config, model, pad=detection)
    if features_only:
        return ModelSpec(inference=_inference(config, model, source, required=False), **common)
    if detection:
        detector = config_detection.detector(config, model, source)
        classes, palette = labels(config, class_count(detection_head(detector)))
        return ModelSpec(detector=detector, classes=classes, palette=palette, **common)
    head = _decode_head(model, source)
    classes, palette = labels(config, class_count(head))
    return ModelSpec(
        decode_head=head,
        neck=None if model.get("neck") is None else module(model, "neck", source),
        auxiliary_heads=tuple(_auxiliary(model, source)),
        inference=_inference(config, model, source, required=True),
        classes=classes,
        palette=palette,
        **common,
    )


# --- the model's parts ---


def _is_dinov2(backbone: Config) -> bool:
    """DINOv2's adapter has ViT-Adapter's class name; its own arguments, or patches of 14 pixels, tell them apart."""
    patch = backbone.get("patch_size", 16)
    own = {"ffn_type", "use_cls", "pre_norm", "memeff", "freeze_vit"}
    return bool(own & set(backbone)) or patch not in (16, [16, 16], (16, 16))


def _half(model: Config, source: str) -> str:
    """Which of the two official code bases the model belongs to; their backbones share names only. Or DINOv3's."""
    if mapping(model.get("backbone")).get("type") == "DINOv3Adapter":
        return "dinov3"
    if "decode_head" in model or "EncoderDecoder" in str(model.get("type")):
        return "segmentation"
    if set(DETECTION_PARTS) & set(model):
        return "detection"
    raise UnsupportedModel(
        f"{source} has neither a decode_head nor a detection head, so it cannot be told whether its backbone is the "
        "segmentation or the detection one; keep the head in the configuration, also for --output features"
    )


def _decode_head(model: Config, source: str) -> dict[str, Any]:
    kind = plain(model.get("type"), "model.type")
    supported = f"supported: {SEGMENTORS[0]} with {', '.join(HEADS[:-1])} or {HEADS[-1]}"
    way_out = "its backbone alone is exported with --output features"
    if kind not in SEGMENTORS:
        raise UnsupportedModel(f"model type {kind!r} of {source} is not supported ({supported}); {way_out}")
    if isinstance(model.get("decode_head"), (list, tuple)):
        raise UnsupportedModel(f"{source} has a list of decode heads, which is not supported ({supported}); {way_out}")
    head = module(model, "decode_head", source)
    if head["type"] not in HEADS:
        raise UnsupportedModel(f"decode head {head['type']!r} of {source} is not supported ({supported}); {way_out}")
    _check_classes(head, source)
    norm = head.pop("norm_layer", None)
    if norm is not None and (mapping(norm).get("type"), mapping(norm).get("eps")) != ("LN", 1e-6):
        raise UnsupportedModel(f"decode_head.norm_layer of {source} is {norm!r:.80}; supported is LN with eps 1e-6")
    return head


def _check_classes(head: Config, source: str) -> None:
    """Mask2Former's classes are things and stuff, either of which may be none; others have one number."""
    names: tuple[str, ...] = ("num_classes",)
    if head["type"] == "Mask2FormerHead":
        names = ("num_things_classes", "num_stuff_classes")
    for name in names:
        if not is_count(head.get(name)) and (len(names) == 1 or type(head.get(name)) is not int or head[name] != 0):
            raise UnsupportedModel(f"decode_head.{name} of {source} is {head.get(name)!r}, not a class count")
    if not class_count(head):
        raise UnsupportedModel(f"decode_head of {source} has neither things nor stuff to tell apart")


def _auxiliary(model: Config, source: str) -> Iterator[dict[str, Any]]:
    """The auxiliary heads: never built, but counted where parameters are compared with published figures."""
    given = model.get("auxiliary_head")
    heads = [given] if isinstance(given, Mapping) else given
    if isinstance(heads, (list, tuple)):
        for head in heads:
            yield module({"auxiliary_head": head}, "auxiliary_head", source)


def _checked(backbone: dict[str, Any], source: str) -> dict[str, Any]:
    """The backbone's numbers, sizes given as a pair made one; what tensors could not contradict is checked here."""
    for key in _COUNTS & backbone.keys():
        value = backbone[key]
        if (
            isinstance(value, list)
            and len(set(map(str, value))) == 1
            and key in {"img_size", "pretrain_size", "patch_size"}
        ):
            value = value[0]
        if not is_count(value):
            raise UnsupportedModel(f"model.backbone.{key} of {source} is {value!r:.80}, not one positive whole number")
        backbone[key] = value
    width, heads = backbone.get("embed_dim", 768), backbone.get("num_heads", 12)
    if width % heads:
        raise UnsupportedModel(f"model.backbone of {source}: embed_dim {width} is not a multiple of num_heads {heads}")
    flags, sizes = backbone.get("window_attn", False), backbone.get("window_size", 14)
    for flag, size in _pairs(flags, sizes):
        if flag and not is_count(size):
            raise UnsupportedModel(f"model.backbone of {source}: a windowed block has window_size {size!r:.80}")
    return backbone


def _pairs(flags: Any, sizes: Any) -> Iterator[tuple[Any, Any]]:
    """Per-block settings side by side; either may be given once for all blocks."""
    count = max(len(value) if isinstance(value, list) else 1 for value in (flags, sizes))
    yield from zip(*(value if isinstance(value, list) else [value] * count for value in (flags, sizes)), strict=False)


def _inference(config: Config, model: Config, source: str, *, required: bool) -> Inference:
    test = mapping(model.get("test_cfg")) or mapping(config.get("test_cfg"))
    mode = plain(test.get("mode"), "model.test_cfg.mode")
    if mode not in {"whole", "slide"}:
        if not required:
            return Inference()
        raise UnsupportedModel(f"model.test_cfg.mode of {source} is {mode!r}; it must be 'whole' or 'slide'")
    if mode == "whole":
        return Inference()
    crop = pair(test.get("crop_size"), "model.test_cfg.crop_size")
    stride = pair(test.get("stride"), "model.test_cfg.stride")
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise UnsupportedModel(f"model.test_cfg of {source}: stride {stride} leaves gaps between crops of {crop}")
    return Inference("slide", crop, stride)
