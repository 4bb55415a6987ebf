"""The models against the outputs of the official code: backbones, whole segmentors, sliding windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import golden
from adapter_infer.models import build_backbone, build_model
from adapter_infer.segmentor import Segmentor, labels, slide_inference
from adapter_infer.spec import ModelSpec

TOLERANCE = 1e-4  # two correct float32 programs differ by about 1e-5 here


def largest_difference(output: torch.Tensor, truth: np.ndarray) -> float:
    assert tuple(output.shape) == truth.shape
    return float(np.abs(output.numpy() - truth).max())


def official_weights(kind: str, name: str) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(golden.folder(kind, name) / "checkpoint.pth", weights_only=True)
    skipped = ("relative_position_index",)
    weights = checkpoint["state_dict"].items()
    return {key: value for key, value in weights if not key.endswith(skipped) and not key.startswith("auxiliary_head")}


def segmentor(name: str) -> Segmentor:
    config = golden.config("models", name)["model"]
    model = build_model(ModelSpec(config["backbone"], neck=config.get("neck"), decode_head=config["decode_head"]))
    model.load_state_dict(official_weights("models", name), strict=True)
    assert isinstance(model, Segmentor)
    return model


def cases(name: str, mode: str) -> list[dict[str, Any]]:
    return [case for case in golden.config("models", name)["cases"] if case["mode"] == mode]


@pytest.mark.parametrize("name", golden.names("backbones"))
@torch.inference_mode()
def test_backbone_equals_the_official_one(name: str) -> None:
    config = golden.config("backbones", name)
    model = build_backbone({"type": config["type"], **config["kwargs"]}, config["half"]).eval()
    weights = {key.removeprefix("backbone."): value for key, value in official_weights("backbones", name).items()}
    model.load_state_dict(weights, strict=True)
    for case in config["cases"]:
        outputs = model(torch.from_numpy(golden.array("backbones", name, case["input"])))
        for output, file in zip(outputs, case["outputs"], strict=True):
            assert largest_difference(output, golden.array("backbones", name, file)) < TOLERANCE


@pytest.mark.parametrize("name", golden.names("models", *golden.SEGMENTORS))
@torch.inference_mode()
def test_segmentor_equals_the_official_one_at_every_stage(name: str) -> None:
    model = segmentor(name)
    for case in cases(name, "whole"):
        image = torch.from_numpy(golden.array("models", name, case["input"]["file"]))
        maps = model.features(image)
        for feature_map, stored in zip(maps, case["backbone"] or [], strict=False):
            assert largest_difference(feature_map, golden.array("models", name, stored["file"])) < TOLERANCE
        necked = maps if model.neck is None else model.neck(maps)
        assert len(necked) == 4
        for key in [key for key in case if key.startswith("neck")]:
            truth = golden.array("models", name, case[key]["file"])
            assert largest_difference(necked[int(key.removeprefix("neck")) - 1], truth) < TOLERANCE
        head = golden.array("models", name, case["head_logits"]["file"])
        assert largest_difference(model.decode_head(necked), head) < TOLERANCE
        logits = model(image)
        if "logits" in case:
            truth = golden.array("models", name, case["logits"]["file"])
        else:
            logits, truth = logits[..., ::2, ::2], golden.array("models", name, case["logits_every_2nd_pixel"]["file"])
        assert largest_difference(logits, truth) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in golden.names("models", *golden.SEGMENTORS) if cases(name, "slide")])
@torch.inference_mode()
def test_sliding_windows_give_the_official_label_map(name: str) -> None:
    model = segmentor(name)
    for case in cases(name, "slide"):
        image = torch.from_numpy(golden.array("models", name, case["input"]["file"]))
        classes = golden.config("models", name)["num_classes"]
        logits = slide_inference(model, image, tuple(case["crop_size"]), tuple(case["stride"]), classes)
        truth = golden.array("models", name, case["logits_every_2nd_pixel"]["file"])
        assert largest_difference(logits[..., ::2, ::2], truth) < TOLERANCE
        found = labels(logits, tuple(case["ori_shape"]))[0].numpy()
        sure = golden.array("models", name, case["margin"]["file"]) > 1e-3
        assert np.array_equal(found[sure], golden.array("models", name, case["argmax"]["file"])[sure])


@pytest.mark.parametrize("name", ["semfpn_vit_adapter", "upernet_beit_adapter", "upernet_uniperceiver_adapter"])
@torch.inference_mode()
def test_a_wrong_layer_norm_eps_is_noticed(name: str) -> None:
    """The golden models with small tokens must tell 1e-6 from 1e-5, or the tests above prove less than they seem to."""
    model = segmentor(name)
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5 if module.eps == 1e-6 else 1e-6
    case = cases(name, "whole")[0]
    logits = model(torch.from_numpy(golden.array("models", name, case["input"]["file"])))
    step = 1 if "logits" in case else 2
    file = case["logits" if step == 1 else "logits_every_2nd_pixel"]["file"]
    assert largest_difference(logits[..., ::step, ::step], golden.array("models", name, file)) > 100 * TOLERANCE


def test_the_selection_that_travels_with_the_project_is_complete() -> None:
    assert len(golden.names("backbones")) >= 10
    assert len(golden.names("models", *golden.SEGMENTORS)) >= 6
