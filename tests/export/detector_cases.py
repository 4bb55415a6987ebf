"""Detectors to export: small ones with every part of a released one, and the golden ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import golden
from adapter_infer import models, presets
from adapter_infer.detectors import build_detector
from adapter_infer.detectors.detector import Detector
from adapter_infer.models import random_weights
from adapter_infer.spec import ModelSpec, Preprocessing

WIDTH, CLASSES, SLOTS = 16, 4, 40
GOLDEN = golden.names("models", "mask_rcnn_", "cascade_", "htc_", "atss_", "gfl_", "sparse_rcnn_")

RELEASED = {
    "mask_rcnn": "mask_rcnn_deit_adapter_tiny_fpn_1x_coco",
    "cascade": "cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco",
    "htc": "htc++_beitv2_adapter_large_fpn_o365_coco",
    "atss": "atss_deit_adapter_small_fpn_3x_coco",
    "gfl": "gfl_deit_adapter_small_fpn_3x_coco",
    "sparse": "sparse_rcnn_deit_adapter_small_fpn_3x_coco",
}
SMALLER = {
    "out_channels": WIDTH,
    "feat_channels": WIDTH,
    "conv_out_channels": WIDTH,
    "proposal_feature_channel": WIDTH,
    "fc_out_channels": 24,
    "feedforward_channels": 24,
    "num_classes": CLASSES,
    "num_head": 2,
    "num_heads": 2,
    "num_groups": 4,
    "num_proposals": 20,
    "nms_pre": 40,
}


class Backbone(nn.Module):
    """Four maps at strides 4 to 32, without any of the depth of a real one."""

    size_divisor = 32

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, width, s + 1, s, padding=s // 2) for s in (4, 8, 16, 32))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [conv(image) for conv in self.convs]


def _small(config: Any, key: str = "") -> Any:
    if isinstance(config, dict):
        return {name: _small(value, name) for name, value in config.items()}
    if isinstance(config, list):
        return [WIDTH] * len(config) if key == "in_channels" else [_small(value, key) for value in config]
    return WIDTH if key == "in_channels" else SMALLER.get(key, config)


def small(kind: str, **rcnn: Any) -> tuple[Detector, ModelSpec]:
    """A released detector with every width made small, over `Backbone`; `rcnn` overrides its test configuration."""
    config = _small(presets.spec(RELEASED[kind]).detector)
    if "rpn" in config["test_cfg"]:
        if config["test_cfg"]["rpn"]:
            config["test_cfg"]["rpn"]["max_per_img"] = 60
        config["test_cfg"]["rcnn"] |= {"max_per_img": SLOTS} | rcnn
    else:
        config["test_cfg"] |= {"max_per_img": SLOTS} | rcnn
    if kind in {"atss", "gfl"}:
        config["bbox_head"]["norm_cfg"] = {"type": "GN", "num_groups": 4 if kind == "atss" else 8}
    return with_weights(Backbone(), config, kind)


def with_weights(backbone: nn.Module, config: dict[str, Any], name: str) -> tuple[Detector, ModelSpec]:
    """A detector with seeded weights whose boxes stay in proportion, and its spec."""
    model = build_detector(backbone, config)
    random_weights(model, seed=1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key == "rpn_head.init_proposal_bboxes.weight":
                parameter.uniform_(0.2, 0.8, generator=torch.Generator().manual_seed(2))
            elif name == "sparse" and ".fc_reg." in key:
                parameter.mul_(0.2)  # six free refinements would blow boxes, and rounding, out of all proportion
    preprocessing = Preprocessing(scale=(128, 96), pad=True)
    spec = ModelSpec({"type": "ViTAdapter"}, "detection", detector=config, preprocessing=preprocessing, name=name)
    return model.requires_grad_(False), spec


def from_golden(name: str) -> tuple[Detector, ModelSpec]:
    """A golden detector with its weights, and a spec made of its configuration."""
    detector = dict(golden.config("models", name)["model"])
    spec = ModelSpec(detector.pop("backbone"), "detection", detector=detector, name=name)
    spec = replace(spec, preprocessing=Preprocessing(scale=(224, 160), pad=True))
    model = models.build_model(spec)
    weights = torch.load(golden.folder("models", name) / "checkpoint.pth", weights_only=True)["state_dict"]
    kept = {key: value for key, value in weights.items() if not key.endswith("relative_position_index")}
    model.load_state_dict(kept, strict=True)
    assert isinstance(model, Detector)
    return model.requires_grad_(False), spec
