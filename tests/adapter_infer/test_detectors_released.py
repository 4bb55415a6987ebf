"""The table of released detectors equals the official models: names, shapes, parameter counts; the paper's columns."""

from __future__ import annotations

import sys
from functools import cache
from subprocess import run
from typing import Any

import pytest
import torch

import golden
from adapter_infer.detectors import DETECTORS, build_detector, released
from adapter_infer.detectors.detector import Detector
from adapter_infer.models import build_backbone, count_parameters


@cache
def official() -> dict[str, Any]:
    """Official figures of detectors by name."""
    return {name: figures for name, figures in golden.released().items() if figures["type"] in DETECTORS}


def detector(name: str) -> Detector:
    config = released.model(name)
    with torch.device("meta"):
        return build_detector(build_backbone(config["backbone"], "detection"), config)


def test_every_released_detector_is_there() -> None:
    assert {name for name in released.names() if not name.endswith("_paper")} == set(official())
    assert len(official()) == 35


@pytest.mark.parametrize("name", sorted(official()))
def test_keys_shapes_and_parameters_equal_the_official_detector(name: str) -> None:
    figures, model = official()[name], detector(name)
    uncounted = ("num_batches_tracked", "relative_position_index")
    keys = [
        f"{key} {'x'.join(map(str, tensor.shape))}"
        for key, tensor in model.state_dict().items()
        if not key.endswith(uncounted)
    ]
    assert sorted(keys) == sorted(figures["keys"])
    assert count_parameters(model) == figures["params"]
    config = released.model(name)
    assert (config["type"], config["backbone"]["type"]) == (figures["type"], figures["backbone"])


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # Mask R-CNN: ViT, ViTDet, ViT-Adapter
        ("mask_rcnn_deit_tiny_fpn_3x_coco", 26.1),
        ("mask_rcnn_deit_small_fpn_3x_coco", 43.7),  # the paper rounds 43.747 up
        ("mask_rcnn_deit_base_fpn_3x_coco", 113.6),
        ("mask_rcnn_augreg_large_fpn_3x_coco", 337.3),
        ("mask_rcnn_vitdet_tiny_paper", 26.6),
        ("mask_rcnn_vitdet_small_paper", 45.7),
        ("mask_rcnn_vitdet_base_paper", 121.3),
        ("mask_rcnn_vitdet_large_paper", 350.9),
        ("mask_rcnn_deit_adapter_tiny_fpn_3x_coco", 28.1),
        ("mask_rcnn_deit_adapter_small_fpn_3x_coco", 47.8),
        ("mask_rcnn_deit_adapter_base_fpn_3x_coco", 120.2),
        ("mask_rcnn_augreg_adapter_large_fpn_3x_coco", 347.9),
        # 1, 2 and 6 interactions
        ("mask_rcnn_vit_adapter_small_1_interactions_paper", 45.5),
        ("mask_rcnn_vit_adapter_small_2_interactions_paper", 46.2),
        ("mask_rcnn_vit_adapter_small_6_interactions_paper", 49.4),
        # other detectors
        ("cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco", 85.6),
        ("cascade_mask_rcnn_deit_adapter_base_fpn_3x_coco", 158.0),
        ("atss_deit_adapter_small_fpn_3x_coco", 35.7),
        ("gfl_deit_adapter_small_fpn_3x_coco", 35.8),
        ("htc++_beitv2_adapter_large_fpn_3x_coco", 400.7),
        ("sparse_rcnn_deit_adapter_small_fpn_3x_coco", 109.7),
    ],
)
def test_parameters_equal_the_papers_columns(name: str, millions: float) -> None:
    assert round(count_parameters(detector(name)) / 1e6, 1) == millions


def test_a_model_is_a_copy_that_may_be_changed() -> None:
    name = "atss_deit_adapter_small_fpn_3x_coco"
    released.model(name)["bbox_head"]["num_classes"] = 3
    assert released.model(name)["bbox_head"]["num_classes"] == 80


def test_the_table_is_read_without_torch() -> None:
    code = (
        "import sys; from adapter_infer.detectors import released; released.names(); sys.exit('torch' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0
