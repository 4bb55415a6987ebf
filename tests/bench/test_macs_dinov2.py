"""DINOv2's adapter and its plain ViT: graph and model have the same MACs, and the patches' grid decides them."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_bench import macs_onnx, macs_torch
from adapter_export import export
from adapter_infer.models import baseline_spec, build_model, random_weights
from adapter_infer.spec import ModelSpec

WIDTH, HIDDEN, DEPTH = 24, 64, 4  # SwiGLU: two thirds of four times the width
SPEC = ModelSpec(
    {
        "type": "DINOv2Adapter",
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": 2,
        "img_size": 56,
        "pretrain_size": 56,
        "patch_size": 14,
        "ffn_type": "swiglu",
        "conv_inplane": 4,
        "deform_num_heads": 2,
        "deform_ratio": 0.5,
        "interaction_indexes": [[0, 1], [2, 3]],
        "add_vit_feature": False,
    },
    name="dinov2",
)


@pytest.mark.parametrize(("plain", "msda_nodes"), [(False, 6), (True, 0)], ids=["adapter", "baseline"])
def test_graph_and_model_have_the_same_macs(tmp_path: Path, plain: bool, msda_nodes: int) -> None:
    spec = baseline_spec(SPEC) if plain else SPEC
    model = build_model(spec).requires_grad_(False)
    random_weights(model, 0)
    path = export(model, spec, tmp_path / "m.onnx", check=False, size=(64, 160), batch=2).path
    counted = macs_onnx.count(macs_onnx.load(path), {"image": (2, 3, 64, 160)})
    assert counted.macs == sum(macs_torch.count(spec, (64, 160), 2).values())
    assert (counted.uncounted, counted.msda_nodes) == ({}, msda_nodes)


def test_the_plain_vit_has_the_macs_of_its_layers() -> None:
    """At 64x160: 4x11 patches and a class token; the resizing to four maps multiplies nothing that counts."""
    patches, image = 4 * 11, 3 * 14 * 14
    tokens = patches + 1
    block = tokens * WIDTH * (4 * WIDTH + 3 * HIDDEN) + 2 * tokens * tokens * WIDTH
    counted = macs_torch.count(baseline_spec(SPEC), (64, 160))
    assert sum(counted.values()) == patches * image * WIDTH + DEPTH * block
