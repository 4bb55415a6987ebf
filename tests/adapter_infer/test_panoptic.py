"""The panoptic model and the queries of segmentors: the official arithmetic under the official names."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

import golden
from adapter_infer import models, presets
from adapter_infer.errors import UnsupportedModel
from adapter_infer.panoptic import PanopticModel
from adapter_infer.segmentor import Segmentor
from adapter_infer.spec import ModelSpec, from_json, to_json

torch.set_num_threads(1)

TOLERANCE = 5e-4  # as in the tests of the head
NAMES = golden.names("models", "mask2former_")
PRESET = "mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic"


def detector(head: dict[str, Any]) -> dict[str, Any]:
    """The semantic head as mmdet's panoptic detector has it."""
    classes = {key: head[key] for key in ("num_things_classes", "num_stuff_classes")}
    parts = {"panoptic_head": head | {"strides": [4, 8, 16, 32]}}
    parts |= {"panoptic_fusion_head": {"type": "MaskFormerFusionHead", "loss_panoptic": None} | classes}
    test = {"panoptic_on": True, "semantic_on": False, "instance_on": True, "max_per_image": 100, "iou_thr": 0.8}
    return {"type": "Mask2Former", "neck": None, "test_cfg": test | {"filter_low_score": True}} | parts


def changed(path: tuple[str, ...], value: Any) -> ModelSpec:
    spec = presets.spec(PRESET)
    inner: Any = spec.detector
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return spec


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_queries_equal_the_official_ones_in_both_kinds_of_model(name: str) -> None:
    config = golden.config("models", name)
    weights = torch.load(golden.folder("models", name) / "checkpoint.pth", weights_only=True)["state_dict"]
    weights = {key: value for key, value in weights.items() if not key.endswith("relative_position_index")}
    backbone, head = config["model"]["backbone"], config["model"]["decode_head"]
    semantic = models.build_model(ModelSpec(backbone, decode_head=head))
    panoptic = models.build_model(ModelSpec(backbone, detector=detector(head)))
    assert isinstance(semantic, Segmentor)
    assert isinstance(panoptic, PanopticModel)
    semantic.load_state_dict(weights)
    panoptic.load_state_dict({key.replace("decode_head.", "panoptic_head."): value for key, value in weights.items()})
    assert panoptic.size_divisor == semantic.size_divisor == 32
    for case in config["cases"]:
        if case["mode"] != "whole":
            continue
        image = torch.from_numpy(golden.array("models", name, case["input"]["file"]))
        for class_logits, mask_logits in (semantic.queries(image), panoptic.queries(image), panoptic(image)):
            for found, stored in ((class_logits, case["cls_logits"]), (mask_logits, case["mask_logits"])):
                truth = golden.array("models", name, stored["file"])
                assert tuple(found.shape) == truth.shape
                assert np.abs(found.numpy() - truth).max() < TOLERANCE
    assert tuple(panoptic.features(image)[0].shape[2:]) == tuple(mask_logits.shape[2:])


def test_the_published_panoptic_model_has_its_parts_and_no_others() -> None:
    spec = presets.spec(PRESET)
    model = models.build_model(spec, device="meta")
    assert isinstance(model, PanopticModel)
    assert (spec.task, spec.kind, spec.num_classes, spec.half) == ("panoptic", "Mask2Former", 133, "detection")
    keys = model.state_dict()
    assert {key.partition(".")[0] for key in keys} == {"backbone", "panoptic_head"}
    assert keys["panoptic_head.cls_embed.weight"].shape == (134, 256)
    assert keys["panoptic_head.query_feat.weight"].shape == (100, 256)
    assert models.count_parameters(model) == 347_974_534
    assert from_json(to_json(spec)) == spec
    baseline = models.baseline_spec(spec)
    assert (baseline.backbone["type"], baseline.task) == ("ViTBaseline", "panoptic")
    assert isinstance(models.build_model(baseline, device="meta"), PanopticModel)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("neck",), {"type": "FPN"}, r"neck=\{'type': 'FPN'\}; supported: None"),
        (("panoptic_head", "strides"), [8, 16, 32, 64], r"strides=\[8, 16, 32, 64\]"),
        (("panoptic_head", "type"), "MaskFormerHead", "type 'MaskFormerHead' is not supported"),
        (("panoptic_fusion_head", "type"), "EFPNHead", "type='EFPNHead'; supported: MaskFormerFusionHead"),
        (("panoptic_fusion_head", "num_stuff_classes"), 52, "num_stuff_classes=52; supported: 53"),
        (("test_cfg", "iou_thr"), -1, "iou_thr=-1; supported: numbers"),
        (("test_cfg", "object_mask_thr"), "high", "object_mask_thr='high'"),
        (("test_cfg", "panoptic_on"), 3, "panoptic_on=3"),
        (("mask_head",), {}, "unsupported settings: mask_head"),
    ],
)
def test_another_panoptic_model_is_refused_by_the_name_of_its_setting(
    path: tuple[str, ...], value: Any, said: str
) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        models.build_model(changed(path, value), device="meta")


def test_heads_without_queries_say_so() -> None:
    spec = presets.spec("semfpn_vit_tiny_512_ade20k")
    model = models.build_model(deepcopy(spec), device="meta")
    with pytest.raises(UnsupportedModel, match="FPNHead has no queries"):
        model.queries(torch.zeros(1, 3, 64, 64, device="meta"))  # type: ignore[operator]
