"""Detectors over any backbone that gives four maps: Mask R-CNN, Cascade, HTC++, ATSS, GFL, Sparse R-CNN.

Importing this package alone does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from adapter_infer.detectors.detector import Detector

# mmdet's detector classes that are supported: the class of its RoI head, or None without one.
DETECTORS: dict[str, str | None] = {
    "MaskRCNN": "StandardRoIHead",
    "CascadeRCNN": "CascadeRoIHead",
    "HybridTaskCascade": "HybridTaskCascadeRoIHead",
    "HybridTaskCascadeAug": "HybridTaskCascadeRoIHead",
    "ATSS": None,
    "GFL": None,
    "SparseRCNN": "SparseRoIHead",
}


def build_detector(backbone: nn.Module, model_config: Mapping[str, Any]) -> Detector:
    """The detector in eval mode; `model_config` is mmdet's `model` dictionary, whose backbone entry is not read.

    `backbone` maps (N, 3, H, W) to four maps at strides 4 to 32. HybridTaskCascadeAug is built as HybridTaskCascade:
    its test-time augmentation runs the same network several times. Errors: UnsupportedModel naming the key, its value
    and what is supported.
    """
    from adapter_infer.detectors.build import build

    return build(backbone, model_config)
