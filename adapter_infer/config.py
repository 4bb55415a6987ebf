"""From an mmcv-style configuration to a ModelSpec, without executing the configuration. Imports no torch.

`read_config` (files) and `parse_config` (the text in a checkpoint) give a dictionary; `spec_from_config` reads the
model, its test configuration and its test pipeline out of it, by the names of mmsegmentation 0.x and 1.x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapter_infer import datasets
from adapter_infer.config_file import parse_config, read_config
from adapter_infer.config_values import Unknown
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import (
    BACKBONES,
    DETECTION_PARTS,
    HEADS,
    NO_EFFECT,
    Inference,
    ModelSpec,
    Preprocessing,
    class_count,
)

__all__ = ["parse_config", "read_config", "spec_from_config"]

SEGMENTORS = ("EncoderDecoder", "EncoderDecoderMask2Former", "EncoderDecoderMask2FormerAug")
MAX_SIZE = 2**16  # of any width, count or pixel size in a model; beyond it a configuration is broken or hostile
MAX_COUNT = 512  # of blocks, convolutions and list entries
_COUNTS = {"embed_dim", "depth", "num_heads", "img_size", "pretrain_size", "patch_size"} | {
    "conv_inplane",
    "n_points",
    "deform_num_heads",
}

Config = Mapping[str, Any]


def spec_from_config(config: Config, source: str, name: str = "", *, features_only: bool = False) -> ModelSpec:
    """The model that a configuration describes; `source` says where it comes from, in messages and in the spec.

    `features_only` gives the backbone alone, whatever the head is. Errors: UnsupportedModel where the model is not one
    of this project's, where something needed is missing, or where its value is not spelled out.
    """
    model = _part(config, "model", source)
    backbone = _module(model, "backbone", source)
    if backbone["type"] not in BACKBONES:
        raise UnsupportedModel(
            f"backbone type {backbone['type']!r} of {source} is not supported; supported: {', '.join(BACKBONES)}"
        )
    common: dict[str, Any] = {"name": name, "source": source, "half": _half(model, source)}
    common["backbone"], common["preprocessing"] = _checked(backbone, source), _preprocessing(config, model)
    if features_only:
        return ModelSpec(inference=_inference(config, model, source, required=False), **common)
    head = _decode_head(model, source)
    classes, palette = _labels(config, class_count(head))
    return ModelSpec(
        decode_head=head,
        neck=None if model.get("neck") is None else _module(model, "neck", source),
        auxiliary_heads=tuple(_auxiliary(model, source)),
        inference=_inference(config, model, source, required=True),
        classes=classes,
        palette=palette,
        **common,
    )


# --- the model's parts ---


def _half(model: Config, source: str) -> str:
    """Which of the two official code bases the model belongs to; their backbones share names only."""
    if "decode_head" in model or "EncoderDecoder" in str(model.get("type")):
        return "segmentation"
    if set(DETECTION_PARTS) & set(model):
        return "detection"
    raise UnsupportedModel(
        f"{source} has neither a decode_head nor a detection head, so it cannot be told whether its backbone is the "
        "segmentation or the detection one; keep the head in the configuration, also for --output features"
    )


def _decode_head(model: Config, source: str) -> dict[str, Any]:
    kind = _plain(model.get("type"), "model.type")
    supported = f"supported: {SEGMENTORS[0]} with {', '.join(HEADS[:-1])} or {HEADS[-1]}"
    way_out = "its backbone alone is exported with --output features"
    if kind not in SEGMENTORS:
        raise UnsupportedModel(f"model type {kind!r} of {source} is not supported ({supported}); {way_out}")
    if isinstance(model.get("decode_head"), (list, tuple)):
        raise UnsupportedModel(f"{source} has a list of decode heads, which is not supported ({supported}); {way_out}")
    head = _module(model, "decode_head", source)
    if head["type"] not in HEADS:
        raise UnsupportedModel(f"decode head {head['type']!r} of {source} is not supported ({supported}); {way_out}")
    _check_classes(head, source)
    norm = head.pop("norm_layer", None)
    if norm is not None and (_mapping(norm).get("type"), _mapping(norm).get("eps")) != ("LN", 1e-6):
        raise UnsupportedModel(f"decode_head.norm_layer of {source} is {norm!r:.80}; supported is LN with eps 1e-6")
    return head


def _check_classes(head: Config, source: str) -> None:
    """Mask2Former's classes are things and stuff, either of which may be none; others have one number."""
    names: tuple[str, ...] = ("num_classes",)
    if head["type"] == "Mask2FormerHead":
        names = ("num_things_classes", "num_stuff_classes")
    for name in names:
        if not _is_count(head.get(name)) and (len(names) == 1 or type(head.get(name)) is not int or head[name] != 0):
            raise UnsupportedModel(f"decode_head.{name} of {source} is {head.get(name)!r}, not a class count")
    if not class_count(head):
        raise UnsupportedModel(f"decode_head of {source} has neither things nor stuff to tell apart")


def _auxiliary(model: Config, source: str) -> Iterator[dict[str, Any]]:
    """The auxiliary heads: never built, but counted where parameters are compared with published figures."""
    given = model.get("auxiliary_head")
    heads = [given] if isinstance(given, Mapping) else given
    if isinstance(heads, (list, tuple)):
        for head in heads:
            yield _module({"auxiliary_head": head}, "auxiliary_head", source)


def _module(model: Config, key: str, source: str) -> dict[str, Any]:
    """One module's arguments, less those without effect on inference; tuples as lists, as JSON has them."""
    module = {name: value for name, value in _part(model, key, source).items() if name not in NO_EFFECT}
    plain = {str(name): _plain(value, f"model.{key}.{name}") for name, value in module.items()}
    if not isinstance(plain.get("type"), str):
        raise UnsupportedModel(f"model.{key} of {source} has no type")
    for layer in ("norm_cfg", "act_cfg"):
        if not isinstance(plain.get(layer), (dict, type(None))):
            raise UnsupportedModel(f"model.{key}.{layer} of {source} is {plain[layer]!r:.80}, not a dict with a type")
    if (eps := _mapping(plain.get("norm_cfg")).get("eps", 1e-5)) != 1e-5:
        raise UnsupportedModel(f"model.{key}.norm_cfg of {source} has eps {eps!r:.80}; only 1e-5 is supported")
    for name, number in _numbers(plain, f"model.{key}"):
        limit = MAX_COUNT if name.endswith((".depth", ".num_convs", ".num_outs", ".length")) else MAX_SIZE
        if not -limit <= number <= limit:
            raise UnsupportedModel(f"{name} of {source} is {number!r:.20}, beyond any model ({limit})")
    return plain


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
        if not _is_count(value):
            raise UnsupportedModel(f"model.backbone.{key} of {source} is {value!r:.80}, not one positive whole number")
        backbone[key] = value
    width, heads = backbone.get("embed_dim", 768), backbone.get("num_heads", 12)
    if width % heads:
        raise UnsupportedModel(f"model.backbone of {source}: embed_dim {width} is not a multiple of num_heads {heads}")
    flags, sizes = backbone.get("window_attn", False), backbone.get("window_size", 14)
    for flag, size in _pairs(flags, sizes):
        if flag and not _is_count(size):
            raise UnsupportedModel(f"model.backbone of {source}: a windowed block has window_size {size!r:.80}")
    return backbone


def _pairs(flags: Any, sizes: Any) -> Iterator[tuple[Any, Any]]:
    """Per-block settings side by side; either may be given once for all blocks."""
    count = max(len(value) if isinstance(value, list) else 1 for value in (flags, sizes))
    yield from zip(*(value if isinstance(value, list) else [value] * count for value in (flags, sizes)), strict=False)


def _inference(config: Config, model: Config, source: str, *, required: bool) -> Inference:
    test = _mapping(model.get("test_cfg")) or _mapping(config.get("test_cfg"))
    mode = _plain(test.get("mode"), "model.test_cfg.mode")
    if mode not in {"whole", "slide"}:
        if not required:
            return Inference()
        raise UnsupportedModel(f"model.test_cfg.mode of {source} is {mode!r}; it must be 'whole' or 'slide'")
    if mode == "whole":
        return Inference()
    crop = _pair(test.get("crop_size"), "model.test_cfg.crop_size")
    stride = _pair(test.get("stride"), "model.test_cfg.stride")
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise UnsupportedModel(f"model.test_cfg of {source}: stride {stride} leaves gaps between crops of {crop}")
    return Inference("slide", crop, stride)


# --- pictures ---


def _preprocessing(config: Config, model: Config) -> Preprocessing | None:
    """The test pipeline as numbers, None where it does not say how pictures are normalised.

    Of several test scales the first counts. SETR_Resize stands in the multi-scale (`_ms`) configurations only; with
    one scale it is the plain resize of the single-scale (`_ss`) configuration of the same weights.
    """
    steps = list(_transforms(_test_pipeline(config)))
    found = {step.get("type"): step for step in reversed(steps)}
    resize = found.get("Resize") or found.get("SETR_Resize") or {}
    several = found.get("MultiScaleFlipAug") or found.get("TestTimeAug") or {}
    scale = several.get("img_scale") or resize.get("img_scale") or resize.get("scale")
    if isinstance(scale, (list, tuple)) and scale and isinstance(scale[0], (list, tuple)):
        scale = scale[0]
    divisor = 32 if "SETR_Resize" in found else 1
    for kind in ("ResizeToMultiple", "Pad"):
        divisor = found.get(kind, {}).get("size_divisor") or divisor
    normal = found.get("Normalize") or _mapping(model.get("data_preprocessor") or config.get("data_preprocessor"))
    if normal.get("mean") is None or normal.get("std") is None:
        return None
    return Preprocessing(
        mean=_triple(normal["mean"], "Normalize.mean"),
        std=_triple(normal["std"], "Normalize.std"),
        to_rgb=bool(_plain(normal.get("to_rgb", normal.get("bgr_to_rgb", True)), "Normalize.to_rgb")),
        scale=None if scale is None else _pair(scale, "img_scale of the test pipeline"),
        keep_ratio=bool(_plain(resize.get("keep_ratio", True), "Resize.keep_ratio")),
        size_divisor=_pair(divisor, "size_divisor of the test pipeline")[0],
    )


def _test_data(config: Config) -> Config:
    """The test data set's configuration, whichever generation of mmseg wrote it."""
    data: Any = config.get("data")
    data = data.get("test") if isinstance(data, Mapping) else config.get("test_dataloader")
    while isinstance(data, Mapping) and "pipeline" not in data and isinstance(data.get("dataset"), Mapping):
        data = data["dataset"]
    if isinstance(data, (list, tuple)) and data:
        data = data[0]
    return _mapping(data)


def _test_pipeline(config: Config) -> Any:
    pipeline = _test_data(config).get("pipeline")
    return config.get("test_pipeline") if pipeline is None else pipeline


def _transforms(pipeline: Any) -> Iterator[Config]:
    if isinstance(pipeline, Unknown):
        raise pipeline.refusal("the test pipeline")
    for step in pipeline if isinstance(pipeline, (list, tuple)) else ():
        if isinstance(step, Mapping):
            yield step
            yield from _transforms(step.get("transforms"))


def _labels(config: Config, num_classes: int) -> datasets.Labels:
    """Class names and palette: the configuration's own list, or those of the data set that it names."""
    data = _test_data(config)
    info = _mapping(data.get("metainfo"))
    named = data.get("classes") or info.get("classes")
    colours = data.get("palette") or info.get("palette")
    kind = data.get("type") or config.get("dataset_type")
    known = datasets.of_type(kind, num_classes) if isinstance(kind, str) else (None, None)
    classes, palette = datasets.checked(named, colours, num_classes)
    if classes is None and named is None:
        classes = known[0]
    return classes, palette or (known[1] if classes == known[0] else None)


# --- values ---


def _part(config: Config, key: str, source: str) -> Config:
    part = config.get(key)
    if isinstance(part, Unknown):
        raise part.refusal(key)
    if not isinstance(part, Mapping):
        raise UnsupportedModel(f"{source} has no {key}" if part is None else f"{key} of {source} is not a dict")
    return part


def _mapping(value: Any) -> Config:
    return value if isinstance(value, Mapping) else {}


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """All numbers in a plain value and the lengths of its lists, with the dotted name of where they stand."""
    if isinstance(value, (int, float)):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{name}")
    elif isinstance(value, list):
        yield f"{key}.length", len(value)
        for item in value:
            yield from _numbers(item, key)


def _plain(value: Any, key: str) -> Any:
    """A value without tuples. Errors: UnsupportedModel if any part of it is not spelled out."""
    if isinstance(value, Unknown):
        raise value.refusal(key)
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}") for name, item in value.items()}
    return [_plain(item, key) for item in value] if isinstance(value, (list, tuple)) else value


def _pair(value: Any, key: str) -> tuple[int, int]:
    """Two positive whole numbers; one stands for both."""
    value = _plain(value, key)
    pair = [value, value] if not isinstance(value, Sequence) else value
    if len(pair) != 2 or not all(_is_count(number) for number in pair):
        raise UnsupportedModel(f"{key} is {value!r:.80}, not two positive whole numbers")
    return int(pair[0]), int(pair[1])


def _triple(value: Any, key: str) -> tuple[float, float, float]:
    value = _plain(value, key)
    if not isinstance(value, list) or len(value) != 3 or not all(type(number) in {int, float} for number in value):
        raise UnsupportedModel(f"{key} of the test pipeline is {value!r:.80}, not three numbers")
    return float(value[0]), float(value[1]), float(value[2])


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0
