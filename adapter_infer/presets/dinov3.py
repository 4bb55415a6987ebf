"""DINOv3's segmentors: the released 7B on ADE20K, and the same recipe on the smaller released ViTs (no released heads).

Pictures are normalised by ImageNet's mean and deviation and resized to a short edge of 896 pixels; windows of 896 are
moved by 596, the official ADE20K evaluation. (The program's plain defaults, windows of 512 by 341 and a whole mode that
squeezes every picture to 512x512, are not what the released weights were scored with. That score also averages five
scales and their mirror images, which a preset, one run, does not.) Two things are this project's own: the long edge
becomes a multiple of 32, so that a picture can also be run whole; and resizing is bilinear without the smoothing that
Pillow adds, in the official code, where pictures get smaller.
"""

from __future__ import annotations

from typing import Any

from adapter_infer.presets.parts import Module, Preset

# ViT: width, depth, heads, the four blocks whose output is taken, Mask2Former's width, and what differs from the rest
VITS: dict[str, tuple[int, int, int, list[int], int, dict[str, Any]]] = {
    "vits16": (384, 12, 6, [2, 5, 8, 11], 384, {}),
    "vitb16": (768, 12, 12, [2, 5, 8, 11], 768, {}),
    "vitl16": (1024, 24, 16, [4, 11, 17, 23], 2048, {}),
    "vit7b16": (
        *(4096, 40, 32, [9, 19, 29, 39], 2048),
        {"ffn_ratio": 3, "ffn_layer": "swiglu64", "qkv_bias": False, "untie_global_and_local_cls_norm": True},
    ),
}
RELEASED = {"vit7b16"}


def backbone(vit: str) -> Module:
    """The adapter with its ViT inside, as arguments of the two official classes together."""
    width, depth, heads, indexes, _, changes = VITS[vit]
    plain = {"embed_dim": width, "depth": depth, "num_heads": heads, "ffn_ratio": 4, "ffn_layer": "mlp"}
    plain |= {"qkv_bias": True, "mask_k_bias": True, "n_storage_tokens": 4, "norm_layer": "layernormbf16"}
    adapter = {"conv_inplane": 64, "n_points": 4, "deform_num_heads": 16, "deform_ratio": 0.5, "cffn_ratio": 0.25}
    return {"type": "DINOv3Adapter", "interaction_indexes": indexes} | adapter | plain | changes


def _segmentor(vit: str) -> Preset:
    width, hidden = VITS[vit][0], VITS[vit][4]
    head = {"type": "DINOv3Mask2FormerHead", "in_channels": [width] * 4, "hidden_dim": hidden, "num_classes": 150}
    head |= {"num_queries": 100, "nheads": 16, "dim_feedforward": 4096, "enc_layers": 6, "dec_layers": 9}
    return Preset(
        backbone(vit),
        head,
        half="dinov3",
        crop=896,
        stride=596,
        scale=(3584, 896),
        released=vit in RELEASED,
    )


PRESETS: dict[str, Preset] = {f"dinov3_{vit}_ade20k_m2f": _segmentor(vit) for vit in VITS}
