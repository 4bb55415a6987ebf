"""The released detectors with every width made small: every part of a real one, in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adapter_infer import presets
from adapter_infer.detectors import build_detector
from adapter_infer.detectors.detector import Detector
from adapter_infer.models import random_weights

WIDTH, CLASSES = 16, 4
RELEASED = {
    "mask_rcnn": "mask_rcnn_deit_adapter_tiny_fpn_1x_coco",
    "upgraded": "mask_rcnn_mae_adapter_base_lsj_fpn_25ep_coco",
    "no_fpn": "mask_rcnn_deit_adapter_small_3x_coco",
    "cascade": "cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco",
    "htc": "htc++_beitv2_adapter_large_fpn_o365_coco",
    "atss": "atss_deit_adapter_small_fpn_3x_coco",
    "gfl": "gfl_deit_adapter_small_fpn_3x_coco",
    "sparse": "sparse_rcnn_deit_adapter_small_fpn_3x_coco",
}


class Backbone(nn.Module):
    """Four maps at strides 4 to 32, without any of the depth of a real one."""

    size_divisor = 32

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, width, s + 1, s, padding=s // 2) for s in (4, 8, 16, 32))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [conv(image) for conv in self.convs]


def dictionary(
    kind: str,
    slots: int,
    proposals: int,
    queries: int = 12,
    backbone_width: int = WIDTH,
    width: int = WIDTH,
    **rcnn: Any,
) -> dict[str, Any]:
    """mmdet's dictionary of a detector of `RELEASED` over maps of `backbone_width`, everything in it `width` wide.

    `slots` detections and `proposals` of the RPN at the most, `queries` of Sparse R-CNN; `rcnn` overrides the test
    configuration.
    """
    widths = ("in_channels", "out_channels", "feat_channels", "conv_out_channels", "proposal_feature_channel")
    smaller = dict.fromkeys(widths, width) | {"fc_out_channels": 24, "feedforward_channels": 24}
    smaller |= {"num_head": 2, "num_heads": 2, "num_groups": 4}
    smaller |= {"num_classes": CLASSES, "num_proposals": queries, "nms_pre": 40}

    def small(config: Any, key: str = "") -> Any:
        if isinstance(config, dict):
            return {name: small(value, name) for name, value in config.items()}
        if isinstance(config, list):
            return [backbone_width] * len(config) if key == "in_channels" else [small(value, key) for value in config]
        return smaller.get(key, config)

    config: dict[str, Any] = small(presets.spec(RELEASED[kind]).detector)
    test = config["test_cfg"]
    if test.get("rpn"):
        test["rpn"]["max_per_img"] = proposals
    test = test.get("rcnn", test)
    test |= {"max_per_img": slots} | rcnn
    if kind in {"atss", "gfl"}:
        config["bbox_head"]["norm_cfg"] = {"type": "GN", "num_groups": 4 if kind == "atss" else 8}
    return config


def with_weights(config: dict[str, Any], backbone: nn.Module | None = None) -> Detector:
    """The detector with seeded weights whose boxes stay in proportion."""
    model = build_detector(backbone or Backbone(), config)
    random_weights(model, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "rpn_head.init_proposal_bboxes.weight":
                parameter.uniform_(0.2, 0.8, generator=torch.Generator().manual_seed(2))
            elif config["type"] == "SparseRCNN" and ".fc_reg." in name:
                parameter.mul_(0.2)  # six free refinements would blow boxes, and rounding, out of all proportion
    return model
