"""What a model is, as plain numbers: enough to build it without its checkpoint. Imports no torch.

The same record travels from the reader of checkpoints (`checkpoints`, `config`, `presets`) to the builder (`models`),
and from the exporter to the runtime as the metadata of the ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from adapter_infer.errors import UnsupportedModel

# Official class names that are supported.
BACKBONES = (
    *("ViTAdapter", "BEiTAdapter", "UniPerceiverAdapter", "ViTBaseline", "BEiTBaseline"),
    *("DINOv2Adapter", "DINOv2Baseline", "DINOv3Adapter"),
)
HEADS = ("UPerHead", "FPNHead", "SETRUPHead", "Mask2FormerHead", "DINOv3Mask2FormerHead")

# What injectors and extractors can attend by: the official way, and those of the paper's ablation.
ATTENTION = ("deformable", "global", "cswin", "pale")
ABLATED = frozenset({"ViTAdapter", "BEiTAdapter", "UniPerceiverAdapter", "DINOv2Adapter"})  # the backbones that take it

# Parts of a model, and prefixes of its tensors, that only detectors have.
DETECTION_PARTS = ("rpn_head", "roi_head", "bbox_head", "mask_head", "panoptic_head", "query_head")

# Arguments of the official classes that change neither a trained model's forward pass nor its keys.
NO_EFFECT = frozenset(
    {"pretrained", "init_cfg", "with_cp", "use_checkpoint", "drop_rate", "attn_drop_rate", "drop_path_rate"}
    | {"dropout_ratio", "loss_decode", "sampler", "ignore_index", "frozen_stages", "norm_eval"}
    | {"loss_cls", "loss_mask", "loss_dice"}
    | {"freeze_vit", "memeff"}  # of DINOv2: what is trained, and a faster attention of the same values
)

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to the network's input, as the test pipelines of mmseg and mmdet do it.

    `mean` and `std` are in 0..255 units in the network's channel order (RGB where `to_rgb`).
    `scale` is mmcv's img_scale, (long edge, short edge); None leaves the picture's size.
    `pad` False resizes to a multiple of `size_divisor` before normalising (mmseg's ResizeToMultiple); True pads the
    normalised picture with zeros at the right and the bottom up to one (mmdet's Pad).
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    to_rgb: bool = True
    scale: tuple[int, int] | None = None
    keep_ratio: bool = True
    size_divisor: int = 32
    pad: bool = False


@dataclass(frozen=True)
class Inference:
    """How the official test configuration runs the network over a picture: "whole", or "slide" with crop and stride.

    `crop` and `stride` are (height, width) in pixels of the network's input.
    """

    mode: str = "whole"
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One model. The dictionaries hold mmcv-style constructor arguments with `type` naming the official class.

    `half` says which of the two official code bases the backbone class belongs to ("segmentation" or "detection"):
    the classes share their names but not their forward pass. `source` says where the knowledge came from, for messages.
    `preprocessing` is None where nothing says how pictures were normalised.
    `detector` is mmdet's model dictionary without its backbone; a model has a decode head or a detector, or neither.
    """

    backbone: dict[str, Any]
    half: str = "segmentation"
    neck: dict[str, Any] | None = None
    decode_head: dict[str, Any] | None = None
    detector: dict[str, Any] | None = None
    auxiliary_heads: tuple[dict[str, Any], ...] = ()
    preprocessing: Preprocessing | None = None
    inference: Inference = field(default_factory=Inference)
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    name: str = ""
    source: str = ""

    @property
    def head(self) -> dict[str, Any] | None:
        """What names the classes: the decode head, or the detector's last box head or panoptic head."""
        return self.decode_head if self.detector is None else detection_head(self.detector)

    @property
    def num_classes(self) -> int | None:
        """Classes that the model tells apart, None for a backbone alone."""
        return None if self.head is None else class_count(self.head)

    @property
    def padded_size(self) -> tuple[int, int] | None:
        """(height, width) of a wide picture in a test pipeline that pads, resized and padded; None for others."""
        settings = self.preprocessing
        if settings is None or not settings.pad or settings.scale is None:
            return None
        divisor = max(settings.size_divisor, 1)
        height, width = (-(-side // divisor) * divisor for side in sorted(settings.scale))
        return height, width

    @property
    def task(self) -> str:
        """What the model answers: "features", "semantic", "detection" (boxes, with masks or without) or "panoptic"."""
        if self.detector is not None:
            return "panoptic" if "panoptic_head" in self.detector else "detection"
        return "features" if self.decode_head is None else "semantic"

    @property
    def kind(self) -> str | None:
        """The class of the detector, else of the decode head; None for a backbone alone."""
        part = self.detector or self.decode_head
        return None if part is None else str(part.get("type"))

    def summary(self) -> dict[str, Any]:
        """The model in a few words, for people and JSON."""
        summary = {"name": self.name, "source": self.source, "task": self.task, "kind": self.kind}
        return summary | {"num_classes": self.num_classes}


def detection_head(detector: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a detector that names the classes. Errors: KeyError or TypeError if the detector is broken."""
    if "panoptic_head" in detector:
        return dict(detector["panoptic_head"])
    head = detector["bbox_head"] if "bbox_head" in detector else detector["roi_head"]["bbox_head"]
    return dict(head[-1] if isinstance(head, (list, tuple)) else head)


def class_count(head: Mapping[str, Any]) -> int:
    """Classes of a head; Mask2Former's are given as things and stuff. Errors: KeyError if they are not given."""
    if "num_things_classes" in head:
        return int(head["num_things_classes"]) + int(head["num_stuff_classes"])
    return int(head["num_classes"])


def with_attention(spec: ModelSpec, kind: str) -> ModelSpec:
    """`spec` with injectors and extractors of another kind of ATTENTION. Errors: UnsupportedModel where it has none."""
    name = spec.backbone.get("type")
    if name not in ABLATED:
        raise UnsupportedModel(
            f"{name} has no injectors whose attention could be {kind}; those that have are {', '.join(sorted(ABLATED))}"
        )
    backbone = spec.backbone | {"attention": kind}
    return replace(
        spec, backbone=backbone, name=f"{spec.name} {kind}".strip(), source=f"{spec.source}, {kind} attention"
    )


def to_json(spec: ModelSpec) -> str:
    """`spec` as JSON text, the inverse of `from_json`."""
    return json.dumps(asdict(spec), sort_keys=True)


def from_json(text: str) -> ModelSpec:
    """The ModelSpec that `to_json` wrote. Errors: ValueError or KeyError on other text."""
    fields: dict[str, Any] = json.loads(text)
    if fields.get("preprocessing") is not None:
        fields["preprocessing"] = Preprocessing(**_tuples(fields["preprocessing"]))
    fields["inference"] = Inference(**_tuples(fields["inference"]))
    fields["auxiliary_heads"] = tuple(fields["auxiliary_heads"])
    for name in ("classes", "palette"):
        if fields[name] is not None:
            fields[name] = tuple(tuple(item) if isinstance(item, list) else item for item in fields[name])
    return ModelSpec(**fields)


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
