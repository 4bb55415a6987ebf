"""DINOv3's golden models: the official code's small segmentors, built here with their weights."""

from __future__ import annotations

import torch
from torch import Tensor

import golden
from adapter_infer.dinov3.segmentor import DINOv3Segmentor
from adapter_infer.models import build_model
from adapter_infer.spec import ModelSpec

KIND = "dinov3"
NAMES = golden.names(KIND)


def spec(name: str) -> ModelSpec:
    model = golden.config(KIND, name)["model"]
    return ModelSpec(model["backbone"], half="dinov3", decode_head=model["decode_head"], name=name)


def weights(name: str) -> dict[str, Tensor]:
    """Stored as float16 without loss, but for counters and rope_embed.periods."""
    stored = torch.load(golden.folder(KIND, name) / "checkpoint.pth", weights_only=True)
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in stored.items()}


def load(name: str) -> DINOv3Segmentor:
    model = build_model(spec(name))
    assert isinstance(model, DINOv3Segmentor)
    model.load_state_dict(weights(name), strict=True)
    return model.requires_grad_(False)


def case(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The input, and the official outputs: tokens1..4, f1..4, pred_logits, pred_masks, semantic (every 2nd pixel)."""
    (stored,) = golden.config(KIND, name)["cases"]
    outputs = {
        key.removesuffix("_").removesuffix("_every_2nd_pixel"): torch.from_numpy(
            golden.array(KIND, name, entry["file"])
        )
        for key, entry in stored["outputs"].items()
    }
    return torch.from_numpy(golden.array(KIND, name, stored["input"]["file"])), outputs
