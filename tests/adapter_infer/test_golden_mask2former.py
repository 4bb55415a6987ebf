"""Mask2Former against the official code, stage by stage; what its masks do where they are empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import golden
from adapter_infer.errors import UnsupportedModel
from adapter_infer.heads.layers import resize
from adapter_infer.heads.mask2former import AttentionMask, Mask2FormerHead, semantic_scores
from adapter_infer.heads.pixel_decoder import sine_encoding
from adapter_infer.models import build_model
from adapter_infer.segmentor import Segmentor, labels, slide_inference
from adapter_infer.spec import ModelSpec

TOLERANCE = 5e-4  # a mask logit near zero decides what the next layer sees; the recorded inputs stay 2e-4 away from it
NAMES = golden.names("models", "mask2former_")


def load(name: str) -> tuple[Segmentor, Mask2FormerHead]:
    config = golden.config("models", name)["model"]
    model = build_model(ModelSpec(config["backbone"], decode_head=config["decode_head"]))
    checkpoint = torch.load(golden.folder("models", name) / "checkpoint.pth", weights_only=True)
    weights = {k: v for k, v in checkpoint["state_dict"].items() if not k.endswith("relative_position_index")}
    model.load_state_dict(weights, strict=True)
    assert isinstance(model, Segmentor)
    assert isinstance(model.decode_head, Mask2FormerHead)
    return model, model.decode_head


def difference(output: torch.Tensor, name: str, stored: dict[str, Any]) -> float:
    truth = golden.array("models", name, stored["file"])
    assert tuple(output.shape) == truth.shape
    return float(np.abs(output.numpy() - truth).max())


def cases(name: str, mode: str) -> list[dict[str, Any]]:
    return [case for case in golden.config("models", name)["cases"] if case["mode"] == mode]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_mask2former_equals_the_official_one_at_every_stage(name: str) -> None:
    model, head = load(name)
    for case in cases(name, "whole"):
        image = torch.from_numpy(golden.array("models", name, case["input"]["file"]))
        maps = model.features(image)
        mask_features, memories = head.pixel_decoder(maps)
        assert difference(mask_features, name, case["mask_feature"]) < TOLERANCE
        for i, memory in enumerate(memories):
            assert difference(memory, name, case[f"memory{i}"]) < TOLERANCE
        first = head.transformer_decoder.post_norm(head.query_feat.weight[None])
        for suffix, class_logits, mask_logits in (
            ("_first", head.cls_embed(first), head.mask_logits(first, mask_features)),
            ("", *head.predict(maps)),
        ):
            assert difference(class_logits, name, case[f"cls_logits{suffix}"]) < TOLERANCE
            assert difference(mask_logits, name, case[f"mask_logits{suffix}"]) < TOLERANCE
        assert difference(model(image), name, case["logits"]) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in NAMES if cases(name, "slide")])
@torch.inference_mode()
def test_mask2former_windows_give_the_official_label_map(name: str) -> None:
    model, _ = load(name)
    for case in cases(name, "slide"):
        image = torch.from_numpy(golden.array("models", name, case["input"]["file"]))
        classes = golden.config("models", name)["num_classes"]
        scores = slide_inference(model, image, tuple(case["crop_size"]), tuple(case["stride"]), classes)
        assert difference(scores[..., ::2, ::2], name, case["logits_every_2nd_pixel"]) < TOLERANCE
        found = labels(scores, tuple(case["ori_shape"]))[0].numpy()
        sure = golden.array("models", name, case["margin"]["file"]) > 1e-3
        assert np.array_equal(found[sure], golden.array("models", name, case["argmax"]["file"])[sure])


@pytest.mark.parametrize("name", NAMES[:1])
@torch.inference_mode()
def test_a_batch_gives_what_each_picture_gives(name: str) -> None:
    model, _ = load(name)
    image = torch.from_numpy(golden.array("models", name, cases(name, "whole")[0]["input"]["file"]))
    pair = torch.cat([image, image.flip(3)])
    alone = torch.cat([model(picture[None]) for picture in pair])
    assert float((model(pair) - alone).abs().max()) < 1e-4


def test_a_query_without_any_mask_looks_everywhere() -> None:
    masks = torch.full((1, 3, 4, 4), -1.0)
    masks[0, 1, :2, :2] = 1.0
    masks[0, 2] = float("nan")  # a comparison with NaN holds nowhere
    allowed = AttentionMask()(resize(masks, (2, 2), align_corners=False))
    assert allowed.tolist() == [[[True] * 4, [True, False, False, False], [True] * 4]]


def test_class_scores_leave_out_no_object_and_stay_between_zero_and_the_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(2, 5, 4, generator=generator) * 3
    masks = torch.randn(2, 5, 6, 7, generator=generator) * 3
    scores = semantic_scores(classes, masks)
    assert scores.shape == (2, 3, 6, 7)
    assert float(scores.min()) >= 0.0
    one = sum(torch.softmax(classes[1, q], 0)[2] * torch.sigmoid(masks[1, q, 4, 5]) for q in range(5))
    assert float(scores[1, 2, 4, 5]) == pytest.approx(float(one), abs=1e-5)


def test_sine_positions_count_from_one_and_end_at_two_pi() -> None:
    encoding = sine_encoding((3, 2), 4, torch.device("cpu"))[0].reshape(3, 2, 8)
    rows = torch.tensor([1.0, 2.0, 3.0]) / 3 * 2 * torch.pi
    assert torch.allclose(encoding[:, 0, 0], rows.sin(), atol=1e-5)  # y first
    assert torch.allclose(encoding[:, 0, 3], (rows / 100).cos(), atol=1e-5)
    assert float(encoding[0, 0, 4]) == pytest.approx(0.0, abs=1e-5)  # x of the first of two columns: sin(pi)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("num_transformer_feat_level",), 4),
        (("pixel_decoder", "type"), "PixelDecoder"),
        (("pixel_decoder", "norm_cfg"), {"type": "BN"}),
        (("pixel_decoder", "encoder", "transformerlayers", "attn_cfgs", "num_levels"), 4),
        (("pixel_decoder", "encoder", "transformerlayers", "operation_order"), ["norm", "self_attn", "norm", "ffn"]),
        (("transformer_decoder", "transformerlayers", "attn_cfgs", "embed_dims"), 64),
        (("transformer_decoder", "transformerlayers", "ffn_cfgs", "num_fcs"), 3),
        (("positional_encoding", "normalize"), False),
    ],
)
def test_another_architecture_is_refused_by_the_name_of_its_setting(path: tuple[str, ...], value: object) -> None:
    config = golden.config("models", NAMES[-1])["model"]
    changed = config["decode_head"]
    for key in path[:-1]:
        changed = changed[key]
    changed[path[-1]] = value
    name, shown = path[-1], value
    if isinstance(value, dict):
        name, shown = "type", value["type"]
    with pytest.raises(UnsupportedModel, match=rf"{name}={str([shown])[1:-1]}; only".replace("[", r"\[")):
        build_model(ModelSpec(config["backbone"], decode_head=config["decode_head"]), device="meta")
