"""The exported graph and the PyTorch model have the same MACs, to the last one, in every family and flavour."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from adapter_bench import macs_onnx, macs_torch
from adapter_infer import presets
from adapter_infer.models import build_model, random_weights
from adapter_infer.spec import ModelSpec

Export = Callable[..., Path]

# model, options of the export, images to count at: batch, height, width; MSDA nodes in the graph
FORMS = [
    ("vit_adapter", {"size": (64, 96), "batch": 2}, [(2, 64, 96)], 10),
    ("vit_adapter_fpn", {"op": "standard", "size": (64, 96), "opset": 23}, [(1, 64, 96)], 6),
    ("beit_adapter", {"op": "tensorrt", "size": (64, 64)}, [(1, 64, 64)], 6),
    ("uniperceiver_adapter", {"op": "onnx", "size": (96, 64)}, [(1, 96, 64)], 0),
    ("setr", {"size": (64, 96)}, [(1, 64, 96)], 0),
    ("vitdet", {"size": (64, 64)}, [(1, 64, 64)], 0),
    ("one_block", {"batch": "dynamic", "dynamic_size": True}, [(1, 96, 48), (2, 64, 96), (3, 160, 128)], 0),
]


@pytest.mark.parametrize(("name", "options", "images", "msda_nodes"), FORMS, ids=[form[0] for form in FORMS])
def test_graph_and_model_have_the_same_macs(
    exported: Export, tiny: dict[str, ModelSpec], name: str, options: dict[str, Any], images: list, msda_nodes: int
) -> None:
    graph = macs_onnx.load(exported(name, **options))
    for batch, *size in images:
        counted = macs_onnx.count(graph, {"image": (batch, 3, *size)})
        assert counted.macs == sum(macs_torch.count(tiny[name], tuple(size), batch).values())
        assert counted.uncounted == {}
        assert counted.msda_nodes == msda_nodes


def test_mask2formers_graph_lacks_only_what_does_not_depend_on_the_picture(
    exported: Export, tiny: dict[str, ModelSpec]
) -> None:
    """What its learnt queries draw before the first layer, and ask in it, is a constant that the export folds."""
    batch, queries, dim = 2, 12, 32
    counted = macs_onnx.count(macs_onnx.load(exported("mask2former", size=(64, 96), batch=batch)), {})
    constant = batch * queries * dim * dim * (3 + 1)  # three layers of mask_embed, one projection
    assert counted.macs == sum(macs_torch.count(tiny["mask2former"], (64, 96), batch).values()) - constant
    assert (counted.uncounted, counted.msda_nodes) == ({}, 6 + 6)


def test_layers_whose_results_nothing_reads_are_in_neither_count(tiny: dict[str, ModelSpec]) -> None:
    """SETR-PUP on map 2 of 4 reads block 2 of 0..3: block 3 and the layers of the other maps are idle."""
    model = build_model(tiny["setr"], "meta")
    idle = macs_torch.idle_modules(model, torch.empty(1, 3, 64, 64, device="meta"))
    assert idle == [
        "backbone.blocks.3",
        "backbone.norm1",
        "backbone.norm2",
        "backbone.norm4",
        "backbone.up1",
        "backbone.up2",
    ]
    assert (
        macs_torch.idle_modules(build_model(tiny["vit_adapter"], "meta"), torch.empty(1, 3, 64, 64, device="meta"))
        == []
    )


def test_macs_grow_with_the_batch_and_nothing_else(tiny: dict[str, ModelSpec]) -> None:
    one = macs_torch.count(tiny["vit_adapter"], (64, 64))
    three = macs_torch.count(tiny["vit_adapter"], (64, 64), batch=3)
    assert three == {operator: 3 * macs for operator, macs in one.items()}


def paper(spec: ModelSpec, **backbone: Any) -> int:
    changed = dataclasses.replace(spec, backbone=spec.backbone | backbone)
    return macs_torch.count_paper(changed, (64, 96))


def test_paper_rule_adds_attention_by_class_name_and_window(tiny: dict[str, ModelSpec]) -> None:
    spec, tokens = tiny["vit_adapter_fpn"], 4 * 6
    windowed = paper(spec, window_attn=True, window_size=3)
    assert paper(spec) - windowed == 4 * 2 * tokens * (tokens - 9) * 32


def test_paper_rule_leaves_synchronised_batch_norm_out(tiny: dict[str, ModelSpec]) -> None:
    spec = tiny["vit_adapter_fpn"]
    head = spec.decode_head | {"norm_cfg": {"type": "BN"}}
    plain = dataclasses.replace(spec, decode_head=head)
    # ConvModules of the head run at: stride 4; 8; 16, 8; 32, 16, 8 (each before its doubling).
    positions = 16 * 24 + 8 * 12 + (4 * 6 + 8 * 12) + (2 * 3 + 4 * 6 + 8 * 12)
    counted = macs_torch.count_paper(plain, (64, 96)) - macs_torch.count_paper(spec, (64, 96))
    assert counted == 2 * 8 * positions


def test_paper_rule_does_not_see_beits_qkv_nor_its_attention(tiny: dict[str, ModelSpec]) -> None:
    """A block of BEiT has qkv, Q*K^T and weights*V of its 17 tokens in `macs` alone, and norms in the paper's alone."""
    one, two = (
        ModelSpec(backbone=tiny["beit_adapter"].backbone | {"depth": depth, "interaction_indexes": [[0, depth - 1]]})
        for depth in (1, 2)
    )
    tokens, width = 4 * 4 + 1, 32
    block = sum(macs_torch.count(two, (64, 64)).values()) - sum(macs_torch.count(one, (64, 64)).values())
    paper_block = macs_torch.count_paper(two, (64, 64)) - macs_torch.count_paper(one, (64, 64))
    norms = 2 * 2 * tokens * width
    assert block - (paper_block - norms) == tokens * width * 3 * width + 2 * tokens * tokens * width


@pytest.mark.slow
def test_a_released_size_agrees_at_512(tmp_path: Path) -> None:
    from adapter_export import export

    spec = presets.spec("semfpn_vit_adapter_tiny_512_ade20k")
    model = build_model(spec)
    random_weights(model)
    export(model, spec, tmp_path / "tiny.onnx", check=False)
    counted = macs_onnx.count(macs_onnx.load(tmp_path / "tiny.onnx"), {"image": (1, 3, 512, 512)})
    assert counted.macs == sum(macs_torch.count(spec, (512, 512)).values()) == 42_837_123_072
    assert counted.msda_nodes == 10
    onnx.checker.check_model(str(tmp_path / "tiny.onnx"))
