"""Models of every family made tiny, and exports of them that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import golden
import small_detectors
from adapter_infer.models import build_model, random_weights
from adapter_infer.spec import Inference, ModelSpec, Preprocessing

WIDTH, CLASSES = 32, 5
PLAIN = {"embed_dim": WIDTH, "depth": 4, "num_heads": 2, "mlp_ratio": 2}
ADAPTER = {"conv_inplane": 8, "n_points": 4, "deform_num_heads": 2, "deform_ratio": 0.5, "cffn_ratio": 0.25}
FOUR = ADAPTER | {"interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]]}
TWO = ADAPTER | {"depth": 2, "interaction_indexes": [[0, 0], [1, 1]], "add_vit_feature": False}
VIT = PLAIN | {"img_size": 64, "pretrain_size": 64}
WINDOWS = {"window_attn": [True, False, True, False], "window_size": [3, None, 3, None]}
COMMON = {"num_classes": CLASSES, "align_corners": False, "norm_cfg": {"type": "SyncBN"}}
UPERNET = {"type": "UPerHead", "in_channels": [WIDTH] * 4, "channels": 16, "pool_scales": [1, 2, 3, 6], **COMMON}
FPN = {"type": "FPN", "in_channels": [WIDTH] * 4, "out_channels": 16, "num_outs": 4}
FPN_HEAD = {"type": "FPNHead", "in_channels": [16] * 4, "feature_strides": [4, 8, 16, 32], "channels": 8, **COMMON}
SETR = {
    "type": "SETRUPHead",
    "in_channels": WIDTH,
    "channels": 8,
    "in_index": 2,
    "num_convs": 4,
    "up_scale": 2,
    **COMMON,
}


def _spec(name: str, backbone: dict[str, Any], **parts: Any) -> ModelSpec:
    return ModelSpec(
        backbone=backbone,
        name=name,
        preprocessing=Preprocessing(),
        inference=Inference("slide", (64, 64), (42, 42)),
        **parts,
    )


def _detector(kind: str) -> ModelSpec:
    """30 proposals and 9 detections at most, of pictures of 96x64 pixels."""
    detector = small_detectors.dictionary(kind, slots=9, proposals=30, backbone_width=WIDTH, width=32)
    return ModelSpec(
        backbone={"type": "ViTAdapter", **VIT, **WINDOWS, **TWO, "depth": 4, "interaction_indexes": [[0, 1], [2, 3]]},
        half="detection",
        detector=detector,
        name=kind,
        preprocessing=Preprocessing(scale=(96, 64), pad=True),
    )


SPECS = {
    spec.name: spec
    for spec in (
        _spec("vit_adapter", {"type": "ViTAdapter", **VIT, **WINDOWS, **FOUR}, decode_head=UPERNET),
        _spec(
            "vit_adapter_fpn",
            {"type": "ViTAdapter", **VIT, **ADAPTER, "interaction_indexes": [[0, 1], [2, 3]], "add_vit_feature": False},
            neck=FPN,
            decode_head=FPN_HEAD,
        ),
        _spec(
            "beit_adapter",
            {"type": "BEiTAdapter", **PLAIN, **TWO, "img_size": 64, "qkv_bias": True, "init_values": 1e-6},
            decode_head=UPERNET,
        ),
        _spec(
            "uniperceiver_adapter", {"type": "UniPerceiverAdapter", **PLAIN, **TWO, "img_size": 64}, decode_head=UPERNET
        ),
        _spec(
            "mask2former",
            {"type": "ViTAdapter", **VIT, **TWO},
            decode_head=golden.config("models", "mask2former_vit_adapter")["model"]["decode_head"],
        ),
        _spec("setr", {"type": "ViTBaseline", **VIT}, decode_head=SETR),
        _spec(
            "vitdet",
            {"type": "ViTBaseline", **VIT, **WINDOWS, "out_indices": [3], "residual_indices": [1, 3]},
            half="detection",
        ),
        _spec(
            "one_block",
            {"type": "ViTBaseline", **VIT, "depth": 1, "out_indices": [0]},
            half="detection",
        ),
        *(_detector(kind) for kind in ("mask_rcnn", "cascade", "htc", "atss", "gfl", "sparse")),
    )
}

Export = Callable[..., Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`exported(name, **options)`: the tiny model of that name as an ONNX file, each form exported once, unchecked."""
    made: dict[tuple[Any, ...], Path] = {}

    def export(name: str, **options: Any) -> Path:
        form = (name, *sorted(options.items()))
        if form not in made:
            from adapter_export import export as write

            torch.set_num_threads(1)
            model = build_model(SPECS[name])
            random_weights(model)
            path = tmp_path_factory.mktemp("exported") / f"{name}.onnx"
            write(model, SPECS[name], path, check=False, **options)
            made[form] = path
        return made[form]

    return export


@pytest.fixture
def tiny() -> dict[str, ModelSpec]:
    """The tiny models' specs by name."""
    return SPECS
