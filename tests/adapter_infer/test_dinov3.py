"""DINOv3's ViT, adapter and Mask2Former against the official code; its presets' names, shapes and parameters."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dinov3_golden
import golden
from adapter_infer import presets
from adapter_infer.dinov3.adapter import DINOv3Adapter
from adapter_infer.dinov3.segmentor import DINOv3Segmentor
from adapter_infer.dinov3.vit import MaskedBiasLinear, RotaryEmbedding, turn
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.models import baseline_spec, build_model, count_parameters
from adapter_infer.msda import MSDeformAttn
from adapter_infer.segmentor import labels
from adapter_infer.spec import ModelSpec, from_json, to_json

BACKBONE, HEAD = 1e-4, 5e-4  # a mask logit near zero decides what the next layer sees
OFFICIAL = json.loads(gzip.decompress((golden.HERE / "data" / "dinov3_keys.json.gz").read_bytes()))["models"]
VITS = ("vits16", "vitb16", "vitl16", "vit7b16")


def largest(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


# --- arithmetic ---


@pytest.mark.parametrize("name", dinov3_golden.NAMES)
@torch.inference_mode()
def test_every_stage_equals_the_official_one(name: str) -> None:
    model = dinov3_golden.load(name)
    image, wanted = dinov3_golden.case(name)
    tokens, maps = model.backbone.tokens(image), model.features(image)
    for i in range(4):
        assert largest(tokens[i], wanted[f"tokens{i + 1}"]) < BACKBONE
        assert largest(maps[i], wanted[f"f{i + 1}"]) < BACKBONE
    class_logits, mask_logits = model.queries(image)
    assert largest(class_logits, wanted["pred_logits"]) < HEAD
    assert largest(mask_logits, wanted["pred_masks"]) < HEAD
    assert largest(model(image)[..., ::2, ::2], wanted["semantic"]) < HEAD


def test_both_feed_forward_kinds_are_among_the_golden_models() -> None:
    kinds = {dinov3_golden.spec(name).backbone["ffn_layer"] for name in dinov3_golden.NAMES}
    assert kinds == {"mlp", "swiglu64"}


@torch.inference_mode()
def test_a_batch_gives_what_each_picture_gives_and_other_sizes_run() -> None:
    model = dinov3_golden.load("mlp_d12")
    image, _ = dinov3_golden.case("mlp_d12")
    pair = torch.cat([image, image.flip(3)])
    alone = torch.cat([model(picture[None]) for picture in pair])
    assert largest(model(pair), alone) < BACKBONE
    scores = model(torch.zeros(1, 3, 32, 160))
    assert scores.shape == (1, 5, 32, 160)
    assert labels(scores, (16, 80)).shape == (1, 16, 80)


@torch.inference_mode()
def test_masks_are_enlarged_before_their_sigmoid() -> None:
    model = dinov3_golden.load("mlp_d12")
    image, wanted = dinov3_golden.case("mlp_d12")
    late = nn.functional.interpolate(model.decode_head(model.features(image)), size=image.shape[2:], mode="bilinear")
    assert largest(late[..., ::2, ::2], wanted["semantic"]) > 0.05  # mmseg's order, which is not the official one here


def test_turning_keeps_lengths_and_leaves_tokens_without_a_place_alone() -> None:
    rotary = RotaryEmbedding(head_dim=8, base=100.0)
    assert rotary.periods.tolist() == pytest.approx([1.0, 10.0])
    sin, cos = rotary((2, 3), unturned=5)
    x = torch.randn(1, 2, 11, 8, generator=torch.Generator().manual_seed(0))
    turned = turn(x, (sin, cos))
    assert torch.equal(turned[:, :, :5], x[:, :, :5])
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    # The second row's place is +1/2, the last column's +2/3: angle = 2 pi place / period.
    assert float(sin[-1, 0]) == pytest.approx(0.0, abs=1e-5)
    assert float(sin[-1, 3]) == pytest.approx(float(torch.tensor(2 * torch.pi * 2 / 3 / 10).sin()), abs=1e-5)


def test_the_bias_of_the_keys_is_masked() -> None:
    layer = MaskedBiasLinear(4, 12)
    x = torch.zeros(1, 4)
    with torch.no_grad():
        layer.bias.fill_(1.0)
    assert layer(x)[0].tolist() == [1.0] * 4 + [0.0] * 4 + [1.0] * 4


def test_the_adapter_does_not_reach_into_the_vit() -> None:
    model = dinov3_golden.load("mlp_d12")
    image, _ = dinov3_golden.case("mlp_d12")
    adapter: DINOv3Adapter = model.backbone
    with torch.inference_mode():
        before = adapter.tokens(image)
        for parameter in (*adapter.spm.parameters(), *adapter.interactions.parameters()):
            parameter.mul_(2)
        assert all(torch.equal(a, b) for a, b in zip(before, adapter.tokens(image), strict=True))
        assert torch.equal(adapter.maps(image, before)[0], adapter(image)[0])


# --- presets ---


def preset(vit: str) -> ModelSpec:
    return presets.spec(f"dinov3_{vit}_ade20k_m2f")


@pytest.mark.parametrize("vit", VITS)
def test_preset_has_the_official_names_shapes_and_parameters(vit: str) -> None:
    official = OFFICIAL[f"dinov3_{vit}"]
    model = build_model(preset(vit), device="meta")
    assert isinstance(model, DINOv3Segmentor)
    state = model.state_dict()
    found = [f"{k} {'x'.join(map(str, v.shape))}" for k, v in state.items() if not k.endswith("num_batches_tracked")]
    assert sorted(found) == official["keys"]
    assert count_parameters(model) == official["params"]
    assert model.backbone.interaction_indexes == official["interaction_indexes"]


@pytest.mark.parametrize(
    ("vit", "millions", "widths"),
    [
        ("vits16", ("21.6", "3.7", "63.7"), {12, 24}),
        ("vitb16", ("85.7", "10.2", "157.1"), {24, 48}),
        ("vitl16", ("303.2", "16.7", "675.2"), {32, 128}),
        ("vit7b16", ("6716.0", "227.1", "700.3"), {128}),
    ],
)
def test_parts_have_their_known_sizes(vit: str, millions: tuple[str, str, str], widths: set[int]) -> None:
    model: Any = build_model(preset(vit), device="meta")
    whole, plain = count_parameters(model.backbone), count_parameters(model.backbone.backbone)
    parts = (plain, whole - plain, count_parameters(model.decode_head))
    assert tuple(f"{part / 1e6:.1f}" for part in parts) == millions
    attention = [module for module in model.modules() if isinstance(module, MSDeformAttn)]
    assert len(attention) == 12
    assert {module.value_dim // module.num_heads for module in attention} == widths


def test_preset_runs_as_the_official_evaluation_on_ade20k() -> None:
    spec = preset("vit7b16")
    assert (spec.inference.mode, spec.inference.crop, spec.inference.stride) == ("slide", (896, 896), (596, 596))
    assert spec.preprocessing is not None
    assert spec.preprocessing.mean == (123.675, 116.28, 103.53)
    assert (spec.num_classes, spec.task, spec.half) == (150, "semantic", "dinov3")
    assert spec.classes is not None and spec.classes[0] == "wall"
    assert from_json(to_json(spec)) == spec
    assert presets.PRESETS["dinov3_vit7b16_ade20k_m2f"].released
    assert not presets.PRESETS["dinov3_vitl16_ade20k_m2f"].released


# --- refusals ---


def changed(**changes: Any) -> ModelSpec:
    spec = dinov3_golden.spec("mlp_d12")
    return ModelSpec(spec.backbone | changes, half="dinov3", decode_head=spec.decode_head)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]]}, "flat list"),
        ({"interaction_indexes": [0, 1, 2]}, "do not name four blocks"),
        ({"interaction_indexes": [0, 1, 2, 4]}, "depth 4"),
        ({"interaction_indexes": [0, 2, 1, 3]}, "in order"),
        ({"interaction_indexes": []}, "interaction_indexes are missing"),
        ({"deform_num_heads": 5}, "24.*not a multiple of deform_num_heads=5"),
        ({"ffn_layer": "moe"}, "ffn_layer 'moe'"),
        ({"norm_layer": "rmsnorm"}, "norm_layer 'rmsnorm'"),
        ({"num_heads": 8}, "heads of 6 channels"),
        ({"num_heads": 5}, "not a multiple of num_heads=5"),
        ({"pos_embed_rope_normalize_coords": "max"}, "pos_embed_rope_normalize_coords='max'"),
        ({"patch_size": 14}, "patch_size=14"),
        ({"window_attn": True}, "unsupported settings: window_attn"),
    ],
)
def test_another_architecture_is_refused_by_the_name_of_its_setting(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        build_model(changed(**changes), device="meta")


def test_only_the_official_pairing_of_backbone_and_head_is_built() -> None:
    spec = dinov3_golden.spec("mlp_d12")
    fpn = {"type": "FPNHead", "in_channels": [48] * 4, "feature_strides": [4, 8, 16, 32], "channels": 8}
    fpn |= {"num_classes": 5, "in_index": [0, 1, 2, 3]}
    with pytest.raises(UnsupportedModel, match="DINOv3Adapter with FPNHead"):
        build_model(ModelSpec(spec.backbone, half="dinov3", decode_head=fpn), device="meta")
    with pytest.raises(UnsupportedModel, match="hidden_dim 40"):
        head = {**(spec.decode_head or {}), "hidden_dim": 40}
        build_model(ModelSpec(spec.backbone, half="dinov3", decode_head=head), device="meta")


def test_sizes_that_are_no_multiple_of_32_are_refused_and_there_is_no_baseline() -> None:
    model = dinov3_golden.load("mlp_d12")
    assert model.size_divisor == 32
    with pytest.raises(UsageError, match="48x64 is not a multiple of 32"):
        model(torch.zeros(1, 3, 48, 64))
    with pytest.raises(UnsupportedModel, match="no separate baseline"):
        baseline_spec(dinov3_golden.spec("mlp_d12"))
