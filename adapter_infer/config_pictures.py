"""What a configuration says of pictures: the test pipeline as numbers, class names and colours of the data set.

By the names of mmsegmentation 0.x and 1.x, and of mmdetection 2.x and 3.x. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapter_infer import datasets
from adapter_infer.config_limits import Unknown
from adapter_infer.config_parts import Config, mapping, pair, plain, triple
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import Preprocessing


def preprocessing(config: Config, model: Config, *, pad: bool) -> Preprocessing | None:
    """The test pipeline as numbers, None where it does not say how pictures are normalised.

    Of several test scales the first counts. SETR_Resize stands in the multi-scale (`_ms`) configurations only; with
    one scale it is the plain resize of the single-scale (`_ss`) configuration of the same weights. `pad` says that the
    size is reached by zero-padding, as detectors do it; without a divisor they get the 32 that the network needs.
    """
    steps = list(_transforms(_test_pipeline(config)))
    found = {str(step.get("type")): step for step in reversed(steps)}
    newer = mapping(model.get("data_preprocessor") or config.get("data_preprocessor"))
    resize = found.get("Resize") or found.get("SETR_Resize") or {}
    several = found.get("MultiScaleFlipAug") or found.get("TestTimeAug") or {}
    scale = several.get("img_scale") or resize.get("img_scale") or resize.get("scale")
    if isinstance(scale, (list, tuple)) and scale and isinstance(scale[0], (list, tuple)):
        scale = scale[0]
    if pad:
        divisor = _padding(steps, newer)
    else:
        divisor = 32 if "SETR_Resize" in found else 1
        for kind in ("ResizeToMultiple", "Pad"):
            divisor = found.get(kind, {}).get("size_divisor") or divisor
    normal = found.get("Normalize") or newer
    if normal.get("mean") is None or normal.get("std") is None:
        return None
    mean, std = triple(normal["mean"], "Normalize.mean"), triple(normal["std"], "Normalize.std")
    if min(std) <= 0:
        raise UnsupportedModel(f"Normalize.std of the test pipeline is {std}, by which nothing can be divided")
    return Preprocessing(
        mean=mean,
        std=std,
        to_rgb=bool(plain(normal.get("to_rgb", normal.get("bgr_to_rgb", True)), "Normalize.to_rgb")),
        scale=None if scale is None else pair(scale, "img_scale of the test pipeline"),
        keep_ratio=bool(plain(resize.get("keep_ratio", True), "Resize.keep_ratio")),
        size_divisor=pair(divisor, "size_divisor of the test pipeline")[0],
        pad=pad,
    )


def _padding(steps: list[Config], newer: Config) -> Any:
    """The divisor of mmdet's Pad, or of 3.x's data_preprocessor; only zeros around the normalised picture will do."""
    kinds = [step.get("type") for step in steps]
    pads = steps[kinds.index("Pad")] if "Pad" in kinds else {}
    if pads and "Normalize" in kinds and kinds.index("Pad") < kinds.index("Normalize"):
        raise UnsupportedModel("the test pipeline pads before it normalises; supported: Pad after Normalize")
    if pads.get("size") is not None or pads.get("pad_to_square"):
        raise UnsupportedModel("Pad of the test pipeline pads to a fixed size or a square; supported: size_divisor")
    value = plain([pads.get("pad_val", 0), newer.get("pad_value", 0)], "pad_val of the test pipeline")
    values = [item.get("img", 0) if isinstance(item, dict) else item for item in value]
    if other := [item for item in values if item not in (0, [0, 0, 0])]:
        raise UnsupportedModel(f"the test pipeline pads with {other[0]!r:.80}; supported: 0")
    return pads.get("size_divisor") or newer.get("pad_size_divisor") or 32


def labels(config: Config, num_classes: int) -> datasets.Labels:
    """Class names and palette: the configuration's own list, or those of the data set that it names."""
    data = _test_data(config)
    info = mapping(data.get("metainfo"))
    named = data.get("classes") or info.get("classes")
    colours = data.get("palette") or info.get("palette")
    kind = data.get("type") or config.get("dataset_type")
    known = datasets.of_type(kind, num_classes) if isinstance(kind, str) else (None, None)
    classes, palette = datasets.checked(named, colours, num_classes)
    if classes is None and named is None:
        classes = known[0]
    return classes, palette or (known[1] if classes == known[0] else None)


def _test_data(config: Config) -> Config:
    """The test data set's configuration, whichever generation wrote it."""
    data: Any = config.get("data")
    data = data.get("test") if isinstance(data, Mapping) else config.get("test_dataloader")
    while isinstance(data, Mapping) and "pipeline" not in data and isinstance(data.get("dataset"), Mapping):
        data = data["dataset"]
    if isinstance(data, (list, tuple)) and data:
        data = data[0]
    return mapping(data)


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
