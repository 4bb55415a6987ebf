"""The table of presets equals the official models: names, shapes and parameter counts."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import golden
from adapter_infer import models, presets
from adapter_infer.auxiliary import auxiliary_parameters
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.spec import ModelSpec, from_json, to_json


@cache
def released() -> dict[str, Any]:
    """Official figures of the segmentors by preset name."""
    return {name: figures for name, figures in golden.released().items() if figures["half"] == "segmentation"}


def parameters(spec: ModelSpec) -> int:
    return models.count_parameters(models.build_model(spec, device="meta")) + auxiliary_parameters(spec)


def test_every_released_configuration_with_a_supported_head_is_there() -> None:
    assert {name for name, preset in presets.PRESETS.items() if preset.released} == set(released())
    assert len(released()) == 41


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
    assert spec.backbone["type"] == official["backbone"]
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
    ],
)
def test_parameters_equal_the_papers_columns(name: str, millions: float) -> None:
    assert round(parameters(presets.spec(name)) / 1e6, 1) == millions


@pytest.mark.parametrize(("size", "count", "paper"), [("base", 96_895_064, 98.0), ("large", 316_888_664, 318.0)])
def test_setr_pup_keeps_its_known_residual_to_the_paper(size: str, count: int, paper: float) -> None:
    assert parameters(presets.spec(f"setr_pup_vit_{size}_512_ade20k")) == count
    assert paper - count / 1e6 == pytest.approx(1.1, abs=0.02)


@pytest.mark.parametrize("name", presets.names())
def test_test_settings_fit_the_model(name: str) -> None:
    spec, preset = presets.spec(name), presets.PRESETS[name]
    assert spec.num_classes is not None
    assert spec.classes is not None
    assert spec.palette is not None
    assert len(spec.classes) == len(spec.palette) == spec.num_classes
    assert preset.stride == (512 if preset.crop == 896 else preset.crop * 2 // 3)
    assert f"_{preset.crop}_" in name
    assert preset.crop <= preset.scale[1]
    assert spec.preprocessing is not None
    assert spec.preprocessing.mean == ((127.5,) * 3 if preset.backbone.get("pretrain_size") == 384 else
                                       (123.675, 116.28, 103.53))  # fmt: skip
    assert from_json(to_json(spec)) == spec


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
