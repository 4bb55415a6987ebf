"""What a model is, as plain numbers: enough to build it without its checkpoint. Imports no torch.

The same record travels from the reader of checkpoints (`checkpoints`, `config`, `presets`) to the builder (`models`),
and from the exporter to the runtime as the metadata of the ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Official class names that are supported.
BACKBONES = ("ViTAdapter", "BEiTAdapter", "UniPerceiverAdapter", "ViTBaseline", "BEiTBaseline")
HEADS = ("UPerHead", "FPNHead", "SETRUPHead", "Mask2FormerHead")

# Parts of a model, and prefixes of its tensors, that only detectors have.
DETECTION_PARTS = ("rpn_head", "roi_head", "bbox_head", "mask_head", "panoptic_head", "query_head")

# Arguments of the official classes that change neither a trained model's forward pass nor its keys.
NO_EFFECT = frozenset(
    {"pretrained", "init_cfg", "with_cp", "use_checkpoint", "drop_rate", "attn_drop_rate", "drop_path_rate"}
    | {"dropout_ratio", "loss_decode", "sampler", "ignore_index", "frozen_stages", "norm_eval"}
    | {"loss_cls", "loss_mask", "loss_dice"}
)

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to the network's input: resize, resize to a multiple, normalise (mmseg's test pipeline).

    `mean` and `std` are in 0..255 units in the network's channel order (RGB where `to_rgb`).
    `scale` is mmcv's img_scale, (long edge, short edge); None leaves the picture's size.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    to_rgb: bool = True
    scale: tuple[int, int] | None = None
    keep_ratio: bool = True
    size_divisor: int = 32


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
    """

    backbone: dict[str, Any]
    half: str = "segmentation"
    neck: dict[str, Any] | None = None
    decode_head: dict[str, Any] | None = None
    auxiliary_heads: tuple[dict[str, Any], ...] = ()
    preprocessing: Preprocessing | None = None
    inference: Inference = field(default_factory=Inference)
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    name: str = ""
    source: str = ""

    @property
    def num_classes(self) -> int | None:
        """Classes of the decode head, None for a backbone alone."""
        return None if self.decode_head is None else class_count(self.decode_head)


def class_count(head: Mapping[str, Any]) -> int:
    """Classes of a decode head; Mask2Former's are given as things and stuff. Errors: KeyError if they are not given."""
    if head.get("type") == "Mask2FormerHead":
        return int(head["num_things_classes"]) + int(head["num_stuff_classes"])
    return int(head["num_classes"])


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
