"""The paper's detection tables come out: parameters and multiply-adds to the printed digit, residuals stated."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest

from adapter_bench import macs_torch
from adapter_infer import presets
from adapter_infer.models import build_model, count_parameters
from adapter_infer.spec import ModelSpec

SIZE = (1280, 800)  # height and width of the official script


def spec(name: str, **backbone: Any) -> ModelSpec:
    found = presets.spec(name)
    return dataclasses.replace(found, backbone=found.backbone | backbone)


@cache
def millions(name: str) -> float:
    return count_parameters(build_model(spec(name), "meta")) / 1e6


# preset, printed parameters in millions
TABLES = {
    "Mask R-CNN, plain ViT": [
        ("mask_rcnn_deit_tiny_fpn_3x_coco", "26.1"),
        ("mask_rcnn_deit_small_fpn_3x_coco", "43.8"),
        ("mask_rcnn_deit_base_fpn_3x_coco", "113.6"),
        ("mask_rcnn_augreg_large_fpn_3x_coco", "337.3"),
    ],
    "Mask R-CNN, ViTDet": [
        ("mask_rcnn_vitdet_tiny_paper", "26.6"),
        ("mask_rcnn_vitdet_small_paper", "45.7"),
        ("mask_rcnn_vitdet_base_paper", "121.3"),
        ("mask_rcnn_vitdet_large_paper", "350.9"),
    ],
    "Mask R-CNN, ViT-Adapter": [
        ("mask_rcnn_deit_adapter_tiny_fpn_3x_coco", "28.1"),
        ("mask_rcnn_deit_adapter_small_fpn_3x_coco", "47.8"),
        ("mask_rcnn_deit_adapter_base_fpn_3x_coco", "120.2"),
        ("mask_rcnn_augreg_adapter_large_fpn_3x_coco", "347.9"),
    ],
    "other detectors": [
        ("cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco", "86"),
        ("cascade_mask_rcnn_deit_base_fpn_3x_coco", "151"),
        ("cascade_mask_rcnn_deit_adapter_base_fpn_3x_coco", "158"),
        ("atss_deit_adapter_small_fpn_3x_coco", "36"),
        ("gfl_deit_adapter_small_fpn_3x_coco", "36"),
        ("htc++_beitv2_adapter_large_fpn_3x_coco", "401"),
        ("sparse_rcnn_deit_adapter_small_fpn_3x_coco", "110"),
    ],
    "Mask2Former": [
        ("mask2former_beit_adapter_base_512_40k_cocostuff10k_ss", "120"),
        ("mask2former_beit_adapter_large_640_160k_ade20k_ss", "568"),
        ("mask2former_beitv2_adapter_large_896_80k_ade20k_ss", "571"),
    ],
    "interactions: 0, 1, 2, 4, 6": [
        ("mask_rcnn_deit_small_fpn_3x_coco", "43.8"),
        ("mask_rcnn_vit_adapter_small_1_interactions_paper", "45.5"),
        ("mask_rcnn_vit_adapter_small_2_interactions_paper", "46.2"),
        ("mask_rcnn_deit_adapter_small_fpn_3x_coco", "47.8"),
        ("mask_rcnn_vit_adapter_small_6_interactions_paper", "49.4"),
    ],
}
# The one row that is not exact: ours is rounded to 43.7, the paper prints 43.8.
RESIDUALS = {"mask_rcnn_deit_small_fpn_3x_coco": 0.053}


@pytest.mark.parametrize("table", TABLES)
def test_parameters_equal_the_printed_ones(table: str) -> None:
    for name, printed in TABLES[table]:
        decimals = len(printed.partition(".")[2])
        if name in RESIDUALS:
            assert f"{millions(name):.{decimals}f}" != printed
            assert round(float(printed) - millions(name), 3) == RESIDUALS[name]
        else:
            assert f"{millions(name):.{decimals}f}" == printed, name


# preset, multiply-adds in billions by the reference count, printed ones
@pytest.mark.parametrize(
    ("name", "reference", "printed"),
    [("mask_rcnn_deit_adapter_small_fpn_3x_coco", 402.78, 403), ("mask_rcnn_deit_small_fpn_3x_coco", 330.95, None)],
)
def test_multiply_adds_by_the_papers_rule(name: str, reference: float, printed: int | None) -> None:
    counted = macs_torch.count_paper(spec(name), SIZE)
    assert counted is not None
    assert round(counted / 1e9, 2) == reference
    assert printed is None or round(counted / 1e9) == printed


def test_what_the_papers_rule_counts_of_a_mask_rcnns_heads() -> None:
    """1000 proposals in the box head, 100 boxes in the mask head: a tenth of both is a tenth of their share."""
    full = spec("mask_rcnn_deit_adapter_small_fpn_3x_coco")
    tenth = spec("mask_rcnn_deit_adapter_small_fpn_3x_coco")
    assert tenth.detector is not None
    tenth.detector["test_cfg"]["rpn"]["max_per_img"] = 100
    tenth.detector["test_cfg"]["rcnn"]["max_per_img"] = 10
    size = (320, 320)
    full_macs, tenth_macs = macs_torch.count_paper(full, size), macs_torch.count_paper(tenth, size)
    assert full_macs is not None
    assert tenth_macs is not None
    box = 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320)) + 1000 * 2 * 1024  # the last term: ReLU
    convs = 4 * 14 * 14 * 256 * (256 * 9 + 1 + 1)  # bias and ReLU count one each
    upsampled = 14 * 14 * 256 * 256 * 4 + 28 * 28 * 256 * 2
    mask = 100 * (convs + upsampled + 28 * 28 * 80 * (256 + 1))
    assert full_macs - tenth_macs == (box + mask) * 9 // 10


def test_the_rule_says_nothing_of_later_backbones() -> None:
    later = [name for name in presets.names() if "dinov3" in name]
    if not later:
        pytest.skip("no preset of a later backbone")
    assert macs_torch.count_paper(presets.spec(later[0]), (256, 256)) is None
