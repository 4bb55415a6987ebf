"""DINOv2's one released model with an adapter: ViT-g/14 with Mask2Former on ADE20K.

Widths, heads of the MSDA, queries and layers are as facebookresearch/dinov2 prints the released model
(notebooks/semantic_segmentation.ipynb at b8931f7): the head is 1536 wide, with 32 heads of 48 channels in its pixel
decoder. The print does not show the decoder's heads (taken to be 32 as well), the positions' grid (518 pixels, that of
the released ViT-g/14), the split of 40 blocks into four groups (equal ones) and the test settings; the configuration
that is published beside the weights does, and `--config` takes it.
"""

from __future__ import annotations

from adapter_infer.presets.parts import Module, Preset, mask2former, split

WIDTH, DEPTH, PRETRAIN, HEADS = 1536, 40, 518, 32


def _backbone() -> Module:
    plain: Module = {"type": "DINOv2Adapter", "img_size": PRETRAIN, "pretrain_size": PRETRAIN, "patch_size": 14}
    plain |= {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 24, "mlp_ratio": 4, "ffn_type": "swiglu"}
    adapter = {"conv_inplane": 64, "n_points": 4, "deform_num_heads": 24, "cffn_ratio": 0.25, "deform_ratio": 0.5}
    return plain | adapter | {"use_cls": True, "interaction_indexes": split(DEPTH)}


def _head() -> Module:
    """ViT-Adapter's head for pictures of 896 pixels, 1536 wide where that is 1024, with as many heads."""
    head = mask2former(WIDTH, WIDTH, 100, "ade20k", (4 * WIDTH, 4 * WIDTH))
    for layers in (head["pixel_decoder"]["encoder"], head["transformer_decoder"]):
        layers["transformerlayers"]["attn_cfgs"]["num_heads"] = HEADS
    return head


PRESETS: dict[str, Preset] = {
    "dinov2_vitg14_ade20k_m2f": Preset(_backbone(), _head(), crop=896, stride=596, scale=(3584, 896)),
}
