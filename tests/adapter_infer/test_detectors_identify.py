"""Detector checkpoints: read with and without their configuration, recognised from tensors alone, or refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import golden
from adapter_infer import checkpoints, findings, models, presets
from adapter_infer.detectors.detector import Detector
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.findings import inspect_tensors

torch.set_num_threads(1)

NAMES = golden.names("models", "mask_rcnn_", "cascade_", "htc_", "atss_", "gfl_", "sparse_rcnn_")
NECKS = {"HybridTaskCascade": "ExtraAttention + FPN"}


@cache
def stored(name: str) -> dict[str, Any]:
    return torch.load(golden.folder("models", name) / "checkpoint.pth", weights_only=True)


def without_config(name: str, folder: Path, **changes: torch.Tensor) -> Path:
    content = stored(name)
    weights = content["state_dict"] | {key.replace("__", "."): value for key, value in changes.items()}
    torch.save({"state_dict": weights, "meta": {"CLASSES": content["meta"]["CLASSES"]}}, folder / "bare.pth")
    return folder / "bare.pth"


@pytest.mark.parametrize("name", NAMES)
def test_golden_detectors_load_from_their_own_configuration(name: str) -> None:
    official, meta = golden.config("models", name), stored(name)["meta"]
    model, spec, checkpoint = checkpoints.load_model(golden.folder("models", name) / "checkpoint.pth")
    assert isinstance(model, Detector)
    assert (spec.task, spec.half, spec.kind) == ("detection", "detection", official["model"]["type"])
    assert (spec.num_classes, spec.classes) == (official["num_classes"], tuple(meta["CLASSES"]))
    assert spec.source == checkpoints.META
    assert spec.inference.mode == "whole"
    assert spec.preprocessing is not None
    assert (spec.preprocessing.pad, spec.preprocessing.size_divisor, spec.preprocessing.keep_ratio) == (True, 32, True)
    assert list(spec.preprocessing.scale or ()) == official["test_pipeline"][1]["img_scale"]
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint.state_dict[key])
    assert models.count_parameters(model) == official["n_params"]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_backbone_is_read_where_features_are_asked(name: str) -> None:
    model, spec, _ = checkpoints.load_model(golden.folder("models", name) / "checkpoint.pth", features_only=True)
    assert (spec.half, spec.detector, spec.task, spec.num_classes) == ("detection", None, "features", None)
    backbone = {key.removeprefix("backbone."): value for key, value in stored(name)["state_dict"].items()}
    assert all(torch.equal(tensor, backbone[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_tensors_alone_tell_the_detector_and_what_they_cannot_tell(name: str, tmp_path: Path) -> None:
    official = golden.config("models", name)
    config, kind = official["model"], official["model"]["type"]
    found = inspect_tensors(stored(name)["state_dict"])
    assert (found.detector, found.half, found.num_classes) == (kind, "detection", official["num_classes"])
    assert found.parameters == official["n_params"]
    neck = config["neck"][-1] if isinstance(config["neck"], list) else config["neck"]
    assert (found.neck, found.neck_channels) == (NECKS.get(kind, "FPN"), neck["out_channels"])
    assert found.reg_max == (config["bbox_head"]["reg_max"] if kind == "GFL" else None)
    stages = config.get("roi_head", {}).get("num_stages")
    assert found.stages == stages
    if kind in {"MaskRCNN", "CascadeRCNN", "HybridTaskCascade"}:
        assert found.masks is True
        assert found.shared_boxes == (kind == "HybridTaskCascade")
    if kind == "HybridTaskCascade":
        assert found.semantic_classes == config["roi_head"]["semantic_head"]["num_classes"]
    if kind == "SparseRCNN":
        assert found.num_queries == config["rpn_head"]["num_proposals"]
    missing = ", ".join(found.missing())
    assert "the most detections of a picture" in missing
    assert ("anchors" in missing) == (kind != "SparseRCNN")
    assert "align_corners" not in missing
    with pytest.raises(UnsupportedModel, match=r"--config FILE, or --preset NAME") as refusal:
        checkpoints.identify(checkpoints.read(without_config(name, tmp_path)))
    assert f"detector {kind}" in str(refusal.value)
    assert "anchors" in str(refusal.value) or kind == "SparseRCNN"


@pytest.mark.parametrize(
    "name",
    [
        "atss_deit_adapter_small_fpn_3x_coco",
        "cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco",
        "gfl_deit_adapter_small_fpn_3x_coco",
        "htc++_beitv2_adapter_large_fpn_o365_coco",
        "mask_rcnn_deit_adapter_small_3x_coco",
        "mask_rcnn_deit_base_fpn_3x_coco",
        "mask_rcnn_mae_adapter_base_lsj_fpn_25ep_coco",
        "mask_rcnn_vitdet_tiny_paper",
        "sparse_rcnn_deit_adapter_small_fpn_3x_coco",
    ],
)
def test_a_preset_finds_itself_and_only_its_equals(name: str) -> None:
    tensors = models.build_model(presets.spec(name), device="meta").state_dict()
    fitting = checkpoints.candidates(inspect_tensors(tensors))
    assert name in fitting
    for other in fitting[:2]:
        equals = models.build_model(presets.spec(other), device="meta").state_dict()
        assert {key: value.shape for key, value in equals.items()} == {key: t.shape for key, t in tensors.items()}


def test_a_backbone_alone_fits_presets_of_both_halves_unless_its_tensors_tell() -> None:
    spec = presets.spec("mask_rcnn_deit_adapter_tiny_fpn_1x_coco")
    found = inspect_tensors(models.build_backbone(spec.backbone, "detection").state_dict())
    fitting = checkpoints.candidates(found)
    assert {"mask_rcnn_deit_adapter_tiny_fpn_1x_coco", "upernet_deit_adapter_tiny_512_160k_ade20k"} <= set(fitting)
    beit = presets.spec("htc++_beit_adapter_large_fpn_3x_coco")
    with torch.device("meta"):
        found = inspect_tensors(models.build_backbone(beit.backbone, "detection").state_dict())
    assert found.half == "detection"
    assert all(presets.spec(name).half == "detection" for name in checkpoints.candidates(found))


def test_a_panoptic_model_is_recognised() -> None:
    spec = presets.spec("mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic")
    found = inspect_tensors(models.build_model(spec, device="meta").state_dict())
    assert (found.detector, found.num_queries, found.num_classes, found.head_channels) == ("Mask2Former", 100, 133, 256)
    assert "how the classes divide into things and stuff" in found.missing()
    assert checkpoints.candidates(found) == [spec.name]


@pytest.mark.skipif("mask_rcnn_vitdet_baseline" not in NAMES, reason="no golden Mask R-CNN")
def test_a_preset_that_does_not_fit_is_refused_with_found_missing_and_the_way_out(tmp_path: Path) -> None:
    path = without_config("mask_rcnn_vitdet_baseline", tmp_path)
    with pytest.raises(UnsupportedModel, match=r"does not fit preset .*differ: .*the file shows: .*detector MaskRCNN"):
        checkpoints.load_model(path, preset="mask_rcnn_vitdet_tiny_paper")
    with pytest.raises(UnsupportedModel, match=r"tensors are missing: .*54 tensors are not part of it"):
        checkpoints.load_model(path, preset="atss_deit_adapter_small_fpn_3x_coco")
    whole = golden.folder("models", "mask_rcnn_vitdet_baseline") / "checkpoint.pth"
    with pytest.raises(UsageError, match=r"contradicts .*detector|contradicts .*embed_dim"):
        checkpoints.load_model(whole, preset="mask_rcnn_vitdet_tiny_paper")


@pytest.mark.skipif("mask_rcnn_vitdet_baseline" not in NAMES, reason="no golden Mask R-CNN")
def test_a_detector_that_is_not_supported_is_named_by_its_parts(tmp_path: Path) -> None:
    weights = {
        key.replace("roi_head.bbox_head", "roi_head.point_head"): value
        for key, value in stored("mask_rcnn_vitdet_baseline")["state_dict"].items()
    }
    torch.save({"state_dict": weights}, tmp_path / "other.pth")
    with pytest.raises(
        UnsupportedModel, match=r"\(roi_head, rpn_head\) is not supported, only MaskRCNN.*--output feat"
    ):
        checkpoints.identify(checkpoints.read(tmp_path / "other.pth"))


def test_familiar_names_on_tensors_of_the_wrong_rank_do_not_stop_the_inspection() -> None:
    broken = {
        "backbone.patch_embed.proj.weight": torch.zeros(4, 3, 16, 16),
        "roi_head.bbox_head.0.instance_interactive_conv.dynamic_layer.weight": torch.zeros(3),
        "neck.lateral_convs.0.conv.weight": torch.zeros(()),
    }
    assert inspect_tensors(broken).half == "detection"
    assert findings.differences(inspect_tensors(broken), {"half": "detection", "detector": None}) == []


@pytest.mark.skipif("gfl_vit_adapter" not in NAMES, reason="no golden GFL")
def test_gfls_distances_need_not_be_stored(tmp_path: Path) -> None:
    content = dict(stored("gfl_vit_adapter"))
    weights = {key: value for key, value in content["state_dict"].items() if key != "bbox_head.integral.project"}
    torch.save(content | {"state_dict": weights}, tmp_path / "a.pth")
    model, _, _ = checkpoints.load_model(tmp_path / "a.pth")
    expected = stored("gfl_vit_adapter")["state_dict"]["bbox_head.integral.project"]
    assert torch.equal(model.state_dict()["bbox_head.integral.project"], expected)
