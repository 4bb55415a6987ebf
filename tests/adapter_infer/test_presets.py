"""The table of presets equals the official models: names, shapes and parameter counts."""

from __future__ import annotations

import sys
from functools import cache
from subprocess import run
from typing import Any

import pytest

import golden
from adapter_infer import models, presets
from adapter_infer.auxiliary import auxiliary_parameters
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.spec import Inference, ModelSpec, from_json, to_json

# Published configurations of which the list of official keys holds nothing.
WITHOUT_KEYS = {"mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic"}
OTHER_REPOSITORIES = ("dinov2_", "dinov3_")


@cache
def released() -> dict[str, Any]:
    """Official figures by preset name."""
    return golden.released()


def parameters(spec: ModelSpec) -> int:
    return models.count_parameters(models.build_model(spec, device="meta")) + auxiliary_parameters(spec)


def test_every_released_configuration_is_there() -> None:
    ours = {name for name, preset in presets.PRESETS.items() if preset.released}
    assert {name for name in ours if not name.startswith(OTHER_REPOSITORIES)} == set(released()) | WITHOUT_KEYS
    assert len(released()) == 76
    assert presets.names()[: len(ours)] == [name for name in presets.names() if name in ours]


@pytest.mark.parametrize("name", sorted(released()))
def test_keys_shapes_and_parameters_equal_the_official_model(name: str) -> None:
    official, spec = released()[name], presets.spec(name)
    model = models.build_model(spec, device="meta")
    uncounted = ("num_batches_tracked", "relative_position_index")
    keys = [
        f"{key} {'x'.join(map(str, tensor.shape))}"
        for key, tensor in model.state_dict().items()
        if not key.endswith(uncounted)
    ]
    assert sorted(keys) == sorted(official["keys"])
    assert (spec.backbone["type"], spec.half) == (official["backbone"], official["half"])
    assert spec.detector is None or spec.kind == official["type"]
    assert models.count_parameters(model) == official["params_without_auxiliary"]
    assert models.count_parameters(model) + auxiliary_parameters(spec) == official["params"]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # the paper's ADE20K columns, Semantic FPN and UperNet
        ("semfpn_vit_tiny_512_ade20k", 10.2),
        ("upernet_vit_tiny_512_ade20k", 34.1),
        ("semfpn_vit_adapter_tiny_512_ade20k", 12.2),
        ("upernet_deit_adapter_tiny_512_160k_ade20k", 36.1),
        ("semfpn_vit_small_512_ade20k", 27.8),
        ("upernet_vit_small_512_ade20k", 53.6),
        ("semfpn_vit_adapter_small_512_ade20k", 31.9),
        ("upernet_deit_adapter_small_512_160k_ade20k", 57.6),
        ("semfpn_vit_base_512_ade20k", 98.0),
        ("upernet_vit_base_512_ade20k", 127.3),
        ("semfpn_vit_adapter_base_512_ade20k", 104.6),
        ("upernet_augreg_adapter_base_512_160k_ade20k", 133.9),
        ("semfpn_vit_adapter_large_512_ade20k", 332.0),
        ("upernet_augreg_adapter_large_512_160k_ade20k", 363.8),
        # its table of speeds
        ("semfpn_vit_large_512_ade20k", 321.4),
        ("semfpn_vit_adapter_light_large_512_ade20k", 324.3),
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
    assert round(parameters(presets.spec(name)) / 1e6, 1) == millions


@pytest.mark.parametrize(("size", "count", "paper"), [("base", 96_895_064, 98.0), ("large", 316_888_664, 318.0)])
def test_setr_pup_keeps_its_known_residual_to_the_paper(size: str, count: int, paper: float) -> None:
    assert parameters(presets.spec(f"setr_pup_vit_{size}_512_ade20k")) == count
    assert paper - count / 1e6 == pytest.approx(1.1, abs=0.02)


@pytest.mark.parametrize("name", [name for name in presets.names() if not name.startswith(OTHER_REPOSITORIES)])
def test_test_settings_fit_the_model(name: str) -> None:
    spec, preset = presets.spec(name), presets.PRESETS[name]
    assert spec.num_classes is not None
    assert spec.classes is not None
    assert spec.palette is not None
    assert len(spec.classes) == len(spec.palette) == spec.num_classes
    assert spec.preprocessing is not None
    assert (spec.preprocessing.pad, spec.preprocessing.keep_ratio) == (spec.half == "detection", True)
    augreg = preset.backbone.get("pretrain_size") == 384 and "htc++" not in name
    assert spec.preprocessing.mean == ((127.5,) * 3 if augreg else (123.675, 116.28, 103.53))
    assert from_json(to_json(spec)) == spec
    if preset.crop is None:
        assert spec.inference == Inference("whole")
        assert (spec.task, spec.preprocessing.size_divisor) == ("panoptic" if "panoptic" in name else "detection", 32)
        larger = (2000, 1000) if "o365" in name else (1600, 1400)
        assert spec.preprocessing.scale == (larger if name.startswith("htc++") else (1333, 800))
        return
    assert spec.task == "semantic"
    assert preset.stride == (512 if preset.crop == 896 else preset.crop * 2 // 3)
    assert f"_{preset.crop}_" in name
    assert preset.scale is not None
    assert preset.crop <= preset.scale[1]


def test_classes_and_colours_of_coco_are_those_of_the_data_set() -> None:
    spec = presets.spec("mask_rcnn_deit_adapter_tiny_fpn_1x_coco")
    assert spec.classes is not None
    assert spec.palette is not None
    assert (spec.classes[0], spec.classes[79], spec.palette[0]) == ("person", "toothbrush", (220, 20, 60))
    panoptic = presets.spec("mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic")
    assert panoptic.classes is not None
    assert panoptic.palette is not None
    assert panoptic.classes[:80] == spec.classes
    assert (panoptic.classes[80], panoptic.classes[132]) == ("banner", "rug-merged")
    assert (panoptic.palette[:80], panoptic.palette[132]) == (spec.palette, (250, 141, 255))
    stuff = presets.spec("upernet_beit_adapter_large_512_80k_cocostuff10k_ss").classes
    assert stuff is not None
    assert (stuff[:80], stuff[80], stuff[170]) == (spec.classes, "banner", "wood")


@pytest.mark.parametrize(
    ("adapter", "plain"),
    [
        ("mask_rcnn_deit_adapter_tiny_fpn_3x_coco", "mask_rcnn_deit_tiny_fpn_3x_coco"),
        ("mask_rcnn_deit_adapter_small_fpn_3x_coco", "mask_rcnn_deit_small_fpn_3x_coco"),
        ("mask_rcnn_augreg_adapter_large_fpn_3x_coco", "mask_rcnn_augreg_large_fpn_3x_coco"),
        ("cascade_mask_rcnn_deit_adapter_base_fpn_3x_coco", "cascade_mask_rcnn_deit_base_fpn_3x_coco"),
    ],
)
def test_a_detectors_baseline_is_the_papers_plain_vit(adapter: str, plain: str) -> None:
    baseline, released = models.baseline_spec(presets.spec(adapter)), presets.spec(plain)
    assert (baseline.backbone, baseline.detector) == (released.backbone, released.detector)
    assert (baseline.half, baseline.task, baseline.preprocessing) == ("detection", "detection", released.preprocessing)


@pytest.mark.parametrize("name", ["htc++_beit_adapter_large_fpn_3x_coco", "sparse_rcnn_deit_adapter_small_fpn_3x_coco"])
def test_every_detector_has_a_baseline_that_can_be_built(name: str) -> None:
    spec = presets.spec(name)
    baseline = models.baseline_spec(spec)
    assert baseline.backbone["type"] == "ViTBaseline"
    assert 0 < parameters(spec) - parameters(baseline) < 0.2 * parameters(spec)


def test_specs_do_not_share_their_dictionaries() -> None:
    name = presets.names()[0]
    presets.spec(name).backbone["interaction_indexes"].clear()
    head = presets.spec(name).decode_head
    assert head is not None
    head["norm_cfg"].clear()
    assert presets.spec(name).backbone["interaction_indexes"] == [[0, 2], [3, 5], [6, 8], [9, 11]]
    assert (presets.spec(name).decode_head or {})["norm_cfg"]["type"] == "SyncBN"


def test_an_unknown_preset_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"did you mean .*upernet_deit_adapter_tiny_512_160k_ade20k"):
        presets.spec("upernet_deit_adapter_tiny_512")
    with pytest.raises(UsageError, match="there are upernet_deit"):
        presets.spec("zzz")


@pytest.mark.parametrize(
    ("file", "suggested"),
    [
        ("/x/upernet_deit_adapter_tiny_512_160k_ade20k.pth", ["upernet_deit_adapter_tiny_512_160k_ade20k"]),
        (
            "upernet_beit_adapter_large_640_160k_ade20k.pth.tar",
            ["upernet_beit_adapter_large_640_160k_ade20k_ss", "upernet_beit_adapter_large_640_160k_ade20k_ms"],
        ),
        ("upernet_beit_large_512_160k_ade20k_ss.zip", ["upernet_beit_large_512_160k_ade20k_ss"]),
        (
            "htc++_beitv2_adapter_large_fpn_o365_coco.pth.tar",
            ["htc++_beitv2_adapter_large_fpn_o365_coco", "htc++_beitv2_adapter_large_fpn_o365_coco_ms"],
        ),
        ("best.pth", []),
    ],
)
def test_file_names_suggest_presets(file: str, suggested: list[str]) -> None:
    assert presets.like(file) == suggested


def test_unknown_auxiliary_heads_are_not_counted_as_nothing() -> None:
    spec = presets.spec(presets.names()[0])
    odd = ModelSpec(spec.backbone, auxiliary_heads=({"type": "ASPPHead", "in_channels": 8, "channels": 8},))
    with pytest.raises(UnsupportedModel, match="ASPPHead"):
        auxiliary_parameters(odd)
    with pytest.raises(UnsupportedModel, match="not fully given"):
        auxiliary_parameters(ModelSpec(spec.backbone, auxiliary_heads=({"type": "FCNHead"},)))


def test_the_table_is_read_without_torch() -> None:
    code = "import sys; from adapter_infer import presets; presets.names(); sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
