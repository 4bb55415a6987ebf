"""Building models: refusals that say what is wrong, fixed sizes, windows, baselines, repeatable weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from adapter_infer import models, windows
from adapter_infer import spec as spec_module
from adapter_infer.beit import relative_position_index
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.geometry import AdapterGeometry, check_image_size
from adapter_infer.heads.layers import adaptive_average_pool
from adapter_infer.models import baseline_spec, build_backbone, build_model, count_parameters, random_weights
from adapter_infer.segmentor import windows as slide_windows
from adapter_infer.spec import ModelSpec, Preprocessing, from_json, to_json

SMALL: dict[str, Any] = {
    "type": "ViTAdapter",
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "img_size": 64,
    "pretrain_size": 64,
    "conv_inplane": 8,
    "deform_num_heads": 2,
    "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
}
BEIT = {**SMALL, "type": "BEiTAdapter", "qkv_bias": True, "init_values": 1e-6}
HEAD = {"type": "UPerHead", "in_channels": [32] * 4, "channels": 8, "num_classes": 3, "norm_cfg": {"type": "SyncBN"}}


def small(backbone: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    return ModelSpec(backbone={**(backbone or SMALL), **changes}, decode_head=HEAD, name="small")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "SwinTransformer"}, "backbone type 'SwinTransformer' is not supported; supported: ViTAdapter"),
        ({"patch_size": 14}, "patch_size=14; only 16"),
        ({"depht": 4}, "unsupported settings: depht"),
        ({"interaction_indexes": None}, "interaction_indexes are missing"),
        ({"interaction_indexes": [[0, 4]], "add_vit_feature": False}, "do not name blocks"),
        ({"interaction_indexes": [[0, 3]]}, "needs exactly 4 interactions"),
        ({"deform_num_heads": 3, "deform_ratio": 0.5}, "not a multiple of deform_num_heads=3"),
        ({"img_size": 96}, "another grid than pretrain_size=64"),
        ({"window_size": [14, 14]}, "2 entries"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        build_model(small(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "DAHead"}, "decode_head type 'DAHead' is not supported; supported: UPerHead, FPNHead, SETRUPHead"),
        ({"norm_cfg": {"type": "GN"}}, "norm_cfg type 'GN'"),
        ({"channel": 9}, "unsupported settings: channel"),
        ({"act_cfg": {"type": "GELU"}}, "act_cfg type 'GELU'"),
        ({"input_transform": "resize_concat"}, "input_transform='resize_concat'"),
    ],
)
def test_a_head_that_cannot_be_built_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        build_model(replace(small(), decode_head={**HEAD, **changes}))


def test_a_plain_vit_too_shallow_for_four_maps_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="depth 3 has no four blocks"):
        build_backbone({"type": "ViTBaseline", "embed_dim": 32, "depth": 3, "num_heads": 2}, "segmentation")


def test_every_head_that_a_configuration_may_name_can_be_built() -> None:
    assert tuple(models.HEADS) == spec_module.HEADS


def test_a_head_without_its_channels_is_refused() -> None:
    head = {key: value for key, value in HEAD.items() if key != "channels"}
    with pytest.raises(UnsupportedModel, match="channels"):
        build_model(replace(small(), decode_head=head))


@torch.inference_mode()
def test_an_image_size_that_does_not_fit_names_one_that_does() -> None:
    with pytest.raises(UsageError, match=r"500x300 is not a multiple of 32.*512x320"):
        check_image_size(500, 300, 32)
    with pytest.raises(UsageError, match="64x80"):
        build_model(small())(torch.zeros(1, 3, 64, 80))
    with pytest.raises(UsageError, match="trained at 64x64"):
        build_model(small(BEIT))(torch.zeros(1, 3, 96, 96))


def test_windows_come_back_in_place_and_padding_is_cut_off() -> None:
    tokens = torch.randn(2, 5 * 7, 3)
    cut = windows.partition(tokens, (5, 7), 3)
    assert cut.shape == (2 * 2 * 3, 9, 3)
    assert torch.equal(cut[2, :, 0].reshape(3, 3)[:, 1:], torch.zeros(3, 2))  # columns 7 and 8 do not exist
    assert torch.equal(windows.merge(cut, (5, 7), 3), tokens)


def test_padded_keys_take_part_in_the_softmax_of_a_windowed_vit() -> None:
    torch.manual_seed(0)
    block = build_backbone({**SMALL, "window_attn": True, "window_size": 3}, "segmentation").blocks[0].attn
    x = torch.randn(1, 4 * 4, 32)
    q, k, v = F.pad(block.qkv(x).reshape(1, 4, 4, 96), (0, 0, 0, 2, 0, 2))[:, 3:, 3:].reshape(9, 3, 2, 16).unbind(1)
    weights = torch.einsum("qhd,khd->hqk", q, k).div(4).softmax(-1)
    corner = block.proj(torch.einsum("hqk,khd->qhd", weights, v).reshape(9, 32))[0]
    assert torch.allclose(block(x, (4, 4))[0, -1], corner, atol=1e-6)


def test_relative_position_index_counts_rows_of_the_table() -> None:
    index = relative_position_index(2, class_token=True, device="cpu")
    assert index.tolist() == [[11, 9, 9, 9, 9], [10, 4, 3, 1, 0], [10, 5, 4, 2, 1], [10, 7, 6, 4, 3], [10, 8, 7, 5, 4]]
    assert torch.equal(relative_position_index(2, class_token=False, device="cpu"), index[1:, 1:])


@pytest.mark.parametrize(("h", "w"), [(2, 3), (4, 4), (7, 6), (13, 16)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_pooling_by_matrices_equals_torch(h: int, w: int, bins: int) -> None:
    x = torch.randn(2, 3, h, w)
    assert torch.allclose(adaptive_average_pool(x, bins), F.adaptive_avg_pool2d(x, bins), atol=1e-6)


def test_geometry_of_an_image() -> None:
    geometry = AdapterGeometry.of(64, 96, "cpu")
    assert geometry.pyramid.shapes == ((8, 12), (4, 6), (2, 3))
    assert geometry.pyramid.spatial_shapes.tolist() == [[8, 12], [4, 6], [2, 3]]
    assert geometry.pyramid.level_start_index.tolist() == [0, 96, 120]
    assert geometry.vit_points.shape == (1, 24, 1, 2)
    assert geometry.pyramid_points[0, 97, 0].tolist() == pytest.approx([1.5 / 6, 0.5 / 4])


def test_slide_windows_cover_the_picture_and_end_at_its_border() -> None:
    assert list(slide_windows(96, 160, (64, 64), (43, 43)))[:3] == [(0, 64, 0, 64), (0, 64, 43, 107), (0, 64, 86, 150)]
    assert list(slide_windows(96, 160, (64, 64), (43, 43)))[-1] == (32, 96, 96, 160)
    assert list(slide_windows(40, 64, (64, 64), (43, 43))) == [(0, 40, 0, 64)]


@pytest.mark.parametrize(
    ("backbone", "half", "plain"),
    [
        (SMALL, "segmentation", "ViTBaseline"),
        (SMALL, "detection", "ViTBaseline"),
        (BEIT, "segmentation", "BEiTBaseline"),
        ({**BEIT, "window_attn": True, "window_size": 3}, "detection", "ViTBaseline"),
        ({**SMALL, "type": "UniPerceiverAdapter"}, "segmentation", "ViTBaseline"),
    ],
)
@torch.inference_mode()
def test_the_baseline_is_the_plain_vit_of_the_same_size(backbone: dict[str, Any], half: str, plain: str) -> None:
    if backbone["type"] == "UniPerceiverAdapter":
        backbone = {key: value for key, value in backbone.items() if key != "pretrain_size"}
    spec = replace(small(backbone), half=half)
    base = baseline_spec(spec)
    assert base.backbone["type"] == plain
    assert {key: base.backbone[key] for key in ("embed_dim", "depth", "num_heads")} == {
        "embed_dim": 32,
        "depth": 4,
        "num_heads": 2,
    }
    assert build_model(base)(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    with pytest.raises(UnsupportedModel, match="plain ViT already"):
        baseline_spec(base)


@torch.inference_mode()
def test_random_weights_are_the_same_each_time_and_leave_no_branch_dead() -> None:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    outputs = []
    for _ in range(2):
        model = build_model(small())
        random_weights(model, seed=3)
        outputs.append(model(image))
    assert torch.equal(*outputs)
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "gamma1", "level_embed", "sampling_offsets.weight", "dwconv.weight")):
            kept = parameter.clone()
            parameter.zero_()
            assert (model(image) - outputs[0]).abs().max() > 1e-4, name
            parameter.copy_(kept)


def test_random_weights_keep_a_wide_layers_signal_at_its_size() -> None:
    """Attention whose logits grow with its width picks one key each, and rounding changes which."""
    model = torch.nn.ModuleList([torch.nn.MultiheadAttention(512, 8), torch.nn.Linear(512, 64)])
    random_weights(model)
    for name in ("0.in_proj_weight", "0.out_proj.weight", "1.weight"):
        assert model.get_parameter(name).std().item() == pytest.approx(512**-0.5, rel=0.02), name


def test_a_model_on_the_meta_device_takes_no_memory_and_counts_the_same() -> None:
    assert count_parameters(build_model(small(), device="meta")) == count_parameters(build_model(small()))
    assert {parameter.device.type for parameter in build_model(small(), device="meta").parameters()} == {"meta"}


def test_a_spec_survives_the_way_through_json() -> None:
    spec = replace(small(), preprocessing=Preprocessing(scale=(2048, 512)), classes=("a", "b"), palette=((1, 2, 3),))
    assert from_json(to_json(spec)) == spec
