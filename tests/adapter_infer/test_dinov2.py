"""DINOv2's adapter: the official tensors, its own grid of patches, how it is recognised, and its plain ViT."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

import golden
from adapter_infer import checkpoints, config, models, presets
from adapter_infer.dinov2 import DINOv2Adapter, DINOv2Baseline, SwiGLU
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.findings import inspect_tensors
from adapter_infer.geometry import AdapterGeometry
from adapter_infer.msda import MSDeformAttn
from adapter_infer.spec import ModelSpec, Preprocessing, from_json, to_json

torch.set_num_threads(1)

PRESET = "dinov2_vitg14_ade20k_m2f"
# Of the lines "name HxW" of facebookresearch/dinov2's own ViTAdapter (b8931f7), built with the preset's arguments.
OFFICIAL_KEYS = "07bd730bd1a309fafd033a6b2c6560b835086d1db2d97d7dee3add27989e5f32"
SWIGLU, NO_CLS, BARE = "dinov2_adapter_swiglu", "dinov2_adapter_mlp_no_cls", "dinov2_adapter_mlp_bare"
SMALL: dict[str, Any] = {
    "type": "DINOv2Adapter",
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "img_size": 56,
    "pretrain_size": 56,
    "patch_size": 14,
    "ffn_type": "swiglu",
    "conv_inplane": 8,
    "deform_num_heads": 2,
    "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
}
OWN = "patch_size=14, ffn_type='swiglu', memeff=True, freeze_vit=True"
CONFIG = """
model = dict(
    type='EncoderDecoderMask2Former',
    pretrained='vitg14.pth',
    backbone=dict(
        type='ViTAdapter', img_size=56, pretrain_size=56, embed_dim=32, depth=4, num_heads=2, mlp_ratio=4, OWN,
        drop_path_rate=0.4, with_cp=True,
        conv_inplane=8, n_points=4, deform_num_heads=2, cffn_ratio=0.25, deform_ratio=0.5,
        interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]]),
    decode_head=HEAD,
    train_cfg=dict(), test_cfg=dict(mode='slide', crop_size=(896, 896), stride=(512, 512)))
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(3584, 896), transforms=[
    dict(type='Resize', keep_ratio=True), dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)])]
data = dict(test=dict(type='ADE20KDataset', pipeline=test_pipeline))
"""


def official(name: str) -> DINOv2Adapter:
    """A golden model with its weights."""
    settings = golden.config("backbones", name)
    model = models.build_backbone({"type": settings["type"], **settings["kwargs"]}, settings["half"]).eval()
    state = torch.load(golden.folder("backbones", name) / "checkpoint.pth", weights_only=True)["state_dict"]
    model.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items()})
    assert isinstance(model, DINOv2Adapter)
    return model


def difference(model: torch.nn.Module, name: str, case: int = 0) -> float:
    """The largest distance of any of the four maps to the official one."""
    outputs = model(torch.from_numpy(golden.array("backbones", name, f"input{case}.npy")))
    truths = [golden.array("backbones", name, f"out{case}_f{level}.npy") for level in (1, 2, 3, 4)]
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(outputs, truths, strict=True))


def spec_of(own_arguments: str = OWN) -> ModelSpec:
    head = golden.config("models", "mask2former_vit_adapter")["model"]["decode_head"]
    text = CONFIG.replace("HEAD", repr(head)).replace("OWN", own_arguments)
    return config.spec_from_config(config.parse_config(text, "c.py"), "c.py", "c")


# --- the released model ---


def test_the_released_backbone_has_the_official_tensors() -> None:
    spec = presets.spec(PRESET)
    model = models.build_model(spec, device="meta")
    tensors = model.backbone.state_dict()  # type: ignore[union-attr, operator]
    lines = sorted(f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in tensors.items())
    assert len(lines) == 883
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == OFFICIAL_KEYS
    assert models.count_parameters(model.backbone) == 1_186_837_120  # type: ignore[arg-type]
    assert from_json(to_json(spec)) == spec


def test_the_released_model_is_as_wide_as_its_authors_print_it() -> None:
    model = models.build_model(presets.spec(PRESET), device="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["backbone.blocks.39.mlp.w1.weight"] == (4096, 1536)
    assert shapes["backbone.interactions.0.injector.attn.sampling_offsets.weight"] == (576, 1536)
    assert shapes["backbone.interactions.3.extra_extractors.1.attn.value_proj.weight"] == (768, 1536)
    pixels = "decode_head.pixel_decoder.encoder.layers.5"
    assert shapes[f"{pixels}.attentions.0.sampling_offsets.weight"] == (768, 1536)
    assert shapes[f"{pixels}.ffns.0.layers.0.0.weight"] == (6144, 1536)
    assert shapes["decode_head.transformer_decoder.layers.8.ffns.0.layers.0.0.weight"] == (6144, 1536)
    assert shapes["decode_head.query_feat.weight"] == (100, 1536)
    assert shapes["decode_head.cls_embed.weight"] == (151, 1536)
    heads = [module.num_heads for module in model.modules() if isinstance(module, MSDeformAttn)]
    assert heads == [24] * 10 + [32] * 6


def test_the_released_weights_are_recognised_without_a_configuration() -> None:
    state = models.build_model(presets.spec(PRESET), device="meta").state_dict()
    found = inspect_tensors(state)
    assert found.backbone == "DINOv2Adapter"
    assert (found.half, found.ffn_type, found.class_token, found.mlp_ratio) == ("segmentation", "swiglu", True, 4.0)
    assert (found.patch_size, found.position_grid, found.embed_dim, found.depth) == (14, 37, 1536, 40)
    assert checkpoints.candidates(found) == [PRESET]
    assert "interaction_indexes" in found.missing()
    assert "window layout" not in found.missing()


# --- against the official code ---


@torch.inference_mode()
def test_the_class_token_takes_part_in_every_group_of_blocks() -> None:
    """Starting it anew for each group, or leaving it out, is another model."""
    model = official(SWIGLU)
    assert difference(model, SWIGLU) < 1e-4
    start = model.start

    def forgetful(image: torch.Tensor, shape: tuple[int, int]) -> Any:
        def run(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
            return start(image, shape)[1](x, first, last)

        return start(image, shape)[0], run

    model.start = forgetful  # type: ignore[method-assign]
    assert difference(model, SWIGLU) > 0.02


@torch.inference_mode()
def test_a_wrong_layer_norm_eps_is_noticed() -> None:
    model = official(BARE)
    assert difference(model, BARE) < 1e-4
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    assert difference(model, BARE) > 0.1


@torch.inference_mode()
def test_queries_lie_on_the_grid_of_the_patches_and_not_on_the_stride_16_map() -> None:
    geometry = AdapterGeometry.of(224, 448, "cpu", 14)
    assert geometry.vit.shapes == ((16, 32),)
    assert geometry.pyramid.shapes == ((28, 56), (14, 28), (7, 14))
    assert geometry.vit_points.shape == (1, 512, 1, 2)
    assert geometry.vit_points[0, -1, 0].tolist() == pytest.approx([31.5 / 32, 15.5 / 16])
    assert AdapterGeometry.of(512, 512, "cpu", 14).vit.shapes == ((36, 36),)  # 504 pixels hold whole patches


def test_swiglu_is_two_thirds_as_wide_rounded_up_to_eight() -> None:
    assert [SwiGLU(8, hidden).w1.out_features for hidden in (96, 100, 12, 6144)] == [64, 72, 8, 4096]


# --- configurations and checkpoints ---


def test_a_configuration_of_dinov2_is_not_taken_for_vit_adapters_own() -> None:
    spec = spec_of()
    assert spec.backbone["type"] == "DINOv2Adapter"
    assert spec.half == "segmentation"
    assert {"memeff", "freeze_vit", "drop_path_rate", "with_cp"}.isdisjoint(spec.backbone)
    assert spec.inference.crop == (896, 896)
    assert spec.preprocessing == Preprocessing(scale=(3584, 896))
    model = models.build_model(spec)
    assert isinstance(model.backbone, DINOv2Adapter)
    assert model.backbone.cls_token is not None
    assert isinstance(model.backbone.blocks[0].mlp, SwiGLU)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ("patch_size=16", "ViTAdapter"),
        ("patch_size=(16, 16)", "ViTAdapter"),
        ("qkv_bias=True", "ViTAdapter"),
        ("patch_size=14", "DINOv2Adapter"),
        ("patch_size=(14, 14)", "DINOv2Adapter"),
        ("use_cls=False", "DINOv2Adapter"),
        ("ffn_type='mlp'", "DINOv2Adapter"),
        ("freeze_vit=False", "DINOv2Adapter"),
    ],
)
def test_one_argument_of_its_own_tells_dinov2(arguments: str, kind: str) -> None:
    assert spec_of(arguments).backbone["type"] == kind


@pytest.mark.parametrize("name", [SWIGLU, NO_CLS, BARE])
def test_a_bare_checkpoint_is_found_to_be_dinov2_and_refused_with_what_is_missing(name: str) -> None:
    kwargs = golden.config("backbones", name)["kwargs"]
    found = inspect_tensors(checkpoints.read(golden.folder("backbones", name) / "checkpoint.pth").state_dict)
    assert (found.backbone, found.half) == ("DINOv2Adapter", "segmentation")
    assert (found.ffn_type, found.class_token) == (kwargs["ffn_type"], kwargs.get("use_cls", True))
    assert (found.patch_size, found.position_grid) == (14, kwargs["img_size"] // 14)
    assert found.heads_times_points == 2 * kwargs["n_points"]
    assert ("window layout" in found.missing()) == (name == NO_CLS)


def test_a_class_token_alone_tells_dinov2_from_vit_adapters_own_weights() -> None:
    """The two classes share a name, and with patches of 16 pixels and a plain MLP all their other tensors."""
    arguments = SMALL | {"patch_size": 16, "img_size": 64, "pretrain_size": 64, "ffn_type": "mlp"}
    tensors = models.build_backbone(arguments, "segmentation").state_dict()
    state = {f"backbone.{key}": value for key, value in tensors.items()}
    assert inspect_tensors(state).backbone == "DINOv2Adapter"
    del state["backbone.cls_token"]
    assert inspect_tensors(state).backbone == "ViTAdapter"


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn_type": "swiglufused"}, "ffn_type='swiglufused' is not supported; supported: mlp, swiglu"),
        ({"img_size": 518}, r"another grid than pretrain_size=56 \(4x4\)"),
        ({"window_attn": True}, "window_attn does not go with a class token"),
        ({"interaction_indexes": None}, "interaction_indexes are missing"),
        ({"in_chans": 4}, "in_chans=4; only 3"),
        ({"num_register_tokens": 4}, "unsupported settings: num_register_tokens"),
    ],
)
def test_a_dinov2_that_cannot_be_built_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        models.build_backbone(SMALL | changes, "segmentation")


@torch.inference_mode()
def test_a_multiple_of_14_that_is_none_of_32_is_refused() -> None:
    for backbone in (SMALL, models.baseline_spec(ModelSpec(SMALL)).backbone):
        with pytest.raises(UsageError, match=r"518x518 is not a multiple of 32.*544x544"):
            models.build_backbone(backbone, "segmentation")(torch.zeros(1, 3, 518, 518))


# --- the plain ViT ---


@torch.inference_mode()
def test_the_baseline_is_what_the_adapter_takes_from_an_undisturbed_vit() -> None:
    adapter = official(SWIGLU)
    for interaction in adapter.interactions:
        interaction.injector.gamma.zero_()
    taken: list[torch.Tensor] = []
    vit_map = adapter.vit_map

    def kept(tokens: torch.Tensor, shape: tuple[int, int], size: Any, level: int) -> torch.Tensor:
        taken.append(vit_map(tokens, shape, size, level))
        return taken[-1]

    adapter.vit_map = kept  # type: ignore[method-assign]
    image = torch.from_numpy(golden.array("backbones", SWIGLU, "input1.npy"))
    adapter(image)

    settings = {"type": "DINOv2Adapter", **golden.config("backbones", SWIGLU)["kwargs"]}
    spec = models.baseline_spec(ModelSpec(settings, name="m"))
    assert (spec.backbone["type"], spec.name) == ("DINOv2Baseline", "m baseline")
    plain = models.build_backbone(spec.backbone, spec.half).eval()
    assert isinstance(plain, DINOv2Baseline)
    assert plain.out_indices == [0, 1, 2, 3]
    lost = plain.load_state_dict(adapter.state_dict(), strict=False)
    assert [name for name in lost.missing_keys if not name.startswith("norm")] == []
    for level in (1, 2, 3, 4):
        setattr(plain, f"norm{level}", torch.nn.Identity())
    maps = plain(image)
    assert [tuple(feature.shape) for feature in maps] == [(2, 24, 8 >> i, 16 >> i) for i in range(4)]
    for mine, theirs in zip(maps, taken, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    with pytest.raises(UnsupportedModel, match="plain ViT already"):
        models.baseline_spec(spec)


def test_the_released_models_baseline_keeps_the_whole_vit_and_nothing_else() -> None:
    spec = models.baseline_spec(presets.spec(PRESET))
    backbone: Any = models.build_model(spec, device="meta").backbone
    assert backbone.out_indices == [9, 19, 29, 39]
    hub = 1_136_480_768  # of the released ViT-g/14, whose mask token and last norm no segmentor has
    assert models.count_parameters(backbone) == hub - (1 + 2) * 1536 + 4 * 2 * 1536


@torch.inference_mode()
def test_a_plain_block_is_attention_and_a_network_each_scaled_by_its_gamma() -> None:
    block = official(SWIGLU).blocks[0]
    x = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0))
    q, k, v = block.attn.qkv(block.norm1(x)).reshape(5, 3, 2, 12).unbind(1)
    weights = (torch.einsum("qhd,khd->hqk", q, k) / 12**0.5).softmax(-1)
    y = x + block.gamma1 * block.attn.proj(torch.einsum("hqk,khd->qhd", weights, v).reshape(1, 5, 24))
    z = block.norm2(y)
    gate = block.mlp.w1(z)
    y = y + block.gamma2 * block.mlp.w3(gate * gate.sigmoid() * block.mlp.w2(z))
    assert torch.allclose(block(x, (2, 2)), y, atol=1e-6)
