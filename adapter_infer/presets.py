"""The released models whose head is supported, and the paper's models that were never released, as one table.

A preset's name is the stem of its official configuration file. Imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapter_infer import datasets
from adapter_infer.errors import UsageError
from adapter_infer.spec import IMAGENET_MEAN, IMAGENET_STD, Inference, ModelSpec, Preprocessing

Module = dict[str, Any]  # mmcv-style constructor arguments with `type`

HALF_MEAN = HALF_STD = (127.5, 127.5, 127.5)  # pictures to -1..1, as the AugReg weights were trained
BATCH_NORM = {"type": "SyncBN", "requires_grad": True}

# size: ViT width, depth, heads; MSDA heads, ratio of the MSDA's value width to the ViT's
SIZES = {
    "tiny": (192, 12, 3, 6, 1.0),
    "small": (384, 12, 6, 6, 1.0),
    "base": (768, 12, 12, 12, 0.5),
    "large": (1024, 24, 16, 16, 0.5),
}
# data set: its mmseg class and class count
DATASETS = {
    "ade20k": ("ADE20KDataset", 150),
    "coco-stuff": ("COCOStuffDataset", 171),
    "pascal-context": ("PascalContextDataset59", 59),
    "cityscapes": ("CityscapesDataset", 19),
    "chase-db1": ("ChaseDB1Dataset", 2),
    "potsdam": ("PotsdamDataset", 6),
}
# data set: how Mask2Former's configuration divides its classes into things and stuff
THINGS = {"ade20k": 100, "coco-stuff": 80, "pascal-context": 29, "cityscapes": 8, "chase-db1": 0, "potsdam": 1}


@dataclass(frozen=True)
class Preset:
    """One model. `crop` and `stride` are pixels of a square; `scale` is mmcv's img_scale (long edge, short edge);
    pictures are resized to multiples of `divisor`.

    `released` says whether the authors published weights or a configuration for it.
    """

    backbone: Module
    decode_head: Module
    neck: Module | None = None
    auxiliary_heads: tuple[Module, ...] = ()
    dataset: str = "ade20k"
    crop: int = 512
    stride: int = 341
    scale: tuple[int, int] = (2048, 512)
    divisor: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    released: bool = True


def names() -> list[str]:
    """All presets, the released ones first."""
    return list(PRESETS)


def spec(name: str) -> ModelSpec:
    """The ModelSpec of a preset. Errors: UsageError on an unknown name, with the nearest ones."""
    preset = PRESETS.get(name)
    if preset is None:
        close = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(PRESETS)}"
        raise UsageError(f"there is no preset {name!r}; {hint}")
    classes, palette = datasets.of_type(*DATASETS[preset.dataset])
    return ModelSpec(
        backbone=deepcopy(preset.backbone),
        neck=deepcopy(preset.neck),
        decode_head=deepcopy(preset.decode_head),
        auxiliary_heads=deepcopy(preset.auxiliary_heads),
        preprocessing=Preprocessing(preset.mean, preset.std, scale=preset.scale, size_divisor=preset.divisor),
        inference=Inference("slide", (preset.crop, preset.crop), (preset.stride, preset.stride)),
        classes=classes,
        palette=palette,
        name=name,
        source=f"preset {name}",
    )


def stem(file: str | Path) -> str:
    """A checkpoint's file name without what archives and formats append."""
    name = Path(file).name
    while Path(name).suffix in {".pth", ".pt", ".ckpt", ".bin", ".tar", ".zip", ".safetensors"}:
        name = Path(name).stem
    return name


def like(file: str | Path) -> list[str]:
    """Presets that a file's name suggests; released weights carry their configuration's stem, less `_ss` or `_ms`."""
    name = stem(file)
    return [preset for preset in PRESETS if preset in {name, f"{name}_ss", f"{name}_ms"}]


# --- backbones ---


def _split(depth: int, parts: int = 4) -> list[list[int]]:
    """Blocks in equal groups, each as its first and last block."""
    size = depth // parts
    return [[first, first + size - 1] for first in range(0, depth, size)]


def _vit(size: str, pretrain: int = 224) -> Module:
    width, depth, heads, _, _ = SIZES[size]
    plain = {"type": "ViTBaseline", "patch_size": 16, "embed_dim": width, "depth": depth, "num_heads": heads}
    plain |= {"mlp_ratio": 4, "window_attn": [False] * depth, "window_size": [None] * depth}
    return plain if pretrain == 224 else plain | {"img_size": pretrain, "pretrain_size": pretrain}


def _adapter(size: str, **changes: Any) -> Module:
    _, depth, _, heads, ratio = SIZES[size]
    adapter = {"conv_inplane": 64, "n_points": 4, "deform_num_heads": heads, "cffn_ratio": 0.25, "deform_ratio": ratio}
    return adapter | {"interaction_indexes": _split(depth)} | changes


def _vit_adapter(size: str, pretrain: int = 224, **changes: Any) -> Module:
    return _vit(size, pretrain) | {"type": "ViTAdapter"} | _adapter(size, **changes)


def _beit(img_size: int, size: str = "large") -> Module:
    width, depth, heads, _, _ = SIZES[size]
    plain = {"img_size": img_size, "patch_size": 16, "embed_dim": width, "depth": depth, "num_heads": heads}
    return plain | {
        "mlp_ratio": 4,
        "qkv_bias": True,
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": True,
        "init_values": 1e-6,
    }


# --- heads ---


def _upernet(width: int, channels: int = 512, num_classes: int = 150) -> dict[str, Any]:
    """UPerHead and its auxiliary FCNHead, as fields of a Preset."""
    common = {"num_classes": num_classes, "norm_cfg": BATCH_NORM, "align_corners": False}
    head = {"type": "UPerHead", "in_channels": [width] * 4, "in_index": [0, 1, 2, 3], "pool_scales": [1, 2, 3, 6]}
    auxiliary = {"type": "FCNHead", "in_channels": width, "in_index": 2, "channels": 256, "num_convs": 1}
    return {
        "decode_head": head | {"channels": channels} | common,
        "auxiliary_heads": (auxiliary | {"concat_input": False} | common,),
    }


def _semantic_fpn(width: int) -> dict[str, Any]:
    head = {"type": "FPNHead", "in_channels": [256] * 4, "in_index": [0, 1, 2, 3], "feature_strides": [4, 8, 16, 32]}
    return {
        "neck": {"type": "FPN", "in_channels": [width] * 4, "out_channels": 256, "num_outs": 4},
        "decode_head": head | {"channels": 128, "num_classes": 150, "norm_cfg": BATCH_NORM, "align_corners": False},
    }


def _setr_pup(width: int) -> dict[str, Any]:
    """SETR-PUP on the last of four stride-16 maps, auxiliary heads on the others (their num_convs fits best at 2)."""
    common = {"type": "SETRUPHead", "in_channels": width, "channels": 256, "num_classes": 150, "kernel_size": 3}
    common |= {"norm_cfg": BATCH_NORM, "align_corners": False}
    return {
        "decode_head": common | {"in_index": 3, "num_convs": 4, "up_scale": 2},
        "auxiliary_heads": tuple(common | {"in_index": i, "num_convs": 2, "up_scale": 4} for i in range(3)),
    }


def _mask2former(width: int, dim: int, queries: int, dataset: str, hidden: tuple[int, int]) -> dict[str, Any]:
    """Six layers of MSDA in the pixel decoder, nine of masked attention; `hidden` are the two FFNs' widths."""
    heads, things = dim // 32, THINGS[dataset]
    sine = {"type": "SinePositionalEncoding", "num_feats": dim // 2, "normalize": True}
    sampling = {"type": "MultiScaleDeformableAttention", "embed_dims": dim, "num_heads": heads}
    encoder_layer = {
        "type": "BaseTransformerLayer",
        "attn_cfgs": sampling | {"num_levels": 3, "num_points": 4},
        "ffn_cfgs": {"type": "FFN", "embed_dims": dim, "feedforward_channels": hidden[0], "num_fcs": 2},
        "operation_order": ["self_attn", "norm", "ffn", "norm"],
    }
    decoder_layer = {
        "type": "DetrTransformerDecoderLayer",
        "attn_cfgs": {"type": "MultiheadAttention", "embed_dims": dim, "num_heads": heads},
        "ffn_cfgs": {"embed_dims": dim, "feedforward_channels": hidden[1], "num_fcs": 2},
        "operation_order": ["cross_attn", "norm", "self_attn", "norm", "ffn", "norm"],
    }
    pixel_decoder = {
        "type": "MSDeformAttnPixelDecoder",
        "num_outs": 3,
        "norm_cfg": {"type": "GN", "num_groups": 32},
        "act_cfg": {"type": "ReLU"},
        "encoder": {"type": "DetrTransformerEncoder", "num_layers": 6, "transformerlayers": encoder_layer},
        "positional_encoding": sine,
    }
    decoder = {"type": "DetrTransformerDecoder", "num_layers": 9, "transformerlayers": decoder_layer}
    head = {"type": "Mask2FormerHead", "in_channels": [width] * 4, "feat_channels": dim, "out_channels": dim}
    head |= {"num_things_classes": things, "num_stuff_classes": DATASETS[dataset][1] - things, "num_queries": queries}
    return head | {"pixel_decoder": pixel_decoder, "positional_encoding": sine, "transformer_decoder": decoder}


# --- the table ---


def _released_vit(size: str, pretrain: int = 224, **changes: Any) -> Preset:
    return _normalised(pretrain, backbone=_vit_adapter(size, pretrain, **changes), **_upernet(SIZES[size][0]))


def _normalised(pretrain: int, **settings: Any) -> Preset:
    """AugReg weights at 384 pixels go with pictures in -1..1, the others with ImageNet's mean and std."""
    mean, std = (HALF_MEAN, HALF_STD) if pretrain == 384 else (IMAGENET_MEAN, IMAGENET_STD)
    return Preset(**settings, mean=mean, std=std)


def _released_beit(crop: int, stride: int, dataset: str, scale: tuple[int, int], adapter: bool = True) -> Preset:
    backbone = _beit(crop) | {"type": "BEiTBaseline", "out_indices": [7, 11, 15, 23]}
    if adapter:
        backbone = _beit(crop) | {"type": "BEiTAdapter"} | _adapter("large")
    head = _upernet(1024, 1024, DATASETS[dataset][1])
    return Preset(backbone, **head, dataset=dataset, crop=crop, stride=stride, scale=scale)


def _released_mask2former(
    crop: int,
    dataset: str,
    scale: tuple[int, int],
    size: str = "large",
    dim: int = 1024,
    queries: int = 100,
    hidden: tuple[int, int] = (4096, 4096),
    **settings: Any,
) -> Preset:
    backbone = _beit(crop, size) | {"type": "BEiTAdapter"} | _adapter(size)
    head = _mask2former(SIZES[size][0], dim, queries, dataset, hidden)
    stride = 512 if crop == 896 else crop * 2 // 3
    return Preset(backbone, head, dataset=dataset, crop=crop, stride=stride, scale=scale, **settings)


def _mask2formers() -> dict[str, Preset]:
    """By the stem of their configurations without `_ss` or `_ms`. BEiTv2 and other schedules are other weights only."""
    base: dict[str, Any] = {"size": "base", "dim": 256, "hidden": (1024, 2048)}
    small: dict[str, Any] = {"dim": 256, "hidden": (2048, 2048)}
    ade_896 = _released_mask2former(896, "ade20k", (3584, 896), queries=200)
    stuff_896 = _released_mask2former(896, "coco-stuff", (3584, 896), queries=200)
    cityscapes = _released_mask2former(896, "cityscapes", (2048, 1024), divisor=1)
    table = {
        "mask2former_beit_adapter_large_640_160k_ade20k": _released_mask2former(640, "ade20k", (2048, 640)),
        "mask2former_beit_adapter_large_896_80k_ade20k": ade_896,
        "mask2former_beitv2_adapter_large_896_80k_ade20k": ade_896,
        "mask2former_beit_adapter_large_896_80k_cityscapes": cityscapes,
        "mask2former_beit_adapter_base_512_40k_cocostuff10k": _released_mask2former(
            512, "coco-stuff", (2048, 512), **base
        ),
        "mask2former_beit_adapter_large_512_40k_cocostuff10k": _released_mask2former(512, "coco-stuff", (2048, 512)),
        "mask2former_beit_adapter_large_896_80k_cocostuff164k": stuff_896,
        "mask2former_beit_adapter_base_480_40k_pascal_context_59": _released_mask2former(
            480, "pascal-context", (4096, 520), **base
        ),
        "mask2former_beit_adapter_large_480_40k_pascal_context_59": _released_mask2former(
            480, "pascal-context", (4096, 520)
        ),
    }
    single_scale_only = {
        "mask2former_beitv2_adapter_large_896_160k_ade20k_ss": ade_896,
        # Mapillary's pictures with its labels mapped to the classes of Cityscapes.
        "mask2former_beit_adapter_large_896_80k_mapillary_ss": replace(cityscapes, divisor=32),
        "mask2former_beitv2_adapter_large_896_80k_cocostuff164k_ss": stuff_896,
        "mask2former_beit_adapter_large_128_40k_chase_db1_ss": _released_mask2former(
            128, "chase-db1", (960, 999), **small
        ),
        "mask2former_beit_adapter_large_512_80k_potsdam_ss": _released_mask2former(
            512, "potsdam", (2048, 512), **small
        ),
    }
    return {f"{stem}_{test}": preset for stem, preset in table.items() for test in ("ss", "ms")} | single_scale_only


def _released() -> dict[str, Preset]:
    light: Module = {"interaction_indexes": [[0, 11]], "with_cffn": False, "use_extra_extractor": False}
    uni_perceiver = _vit("large") | {"type": "UniPerceiverAdapter"} | _adapter("large")
    table = {
        "upernet_deit_adapter_tiny_512_160k_ade20k": _released_vit("tiny"),
        "upernet_augreg_adapter_tiny_512_160k_ade20k": _released_vit("tiny"),
        "upernet_deit_adapter_small_512_160k_ade20k": _released_vit("small"),
        "upernet_deit_adapter_base_512_160k_ade20k": _released_vit("base"),
        "upernet_deit_adapter_light_base_512_160k_ade20k": _released_vit("base", **light, add_vit_feature=False),
        "upernet_augreg_adapter_base_512_160k_ade20k": _released_vit("base", 384),
        "upernet_augreg_adapter_large_512_160k_ade20k": _released_vit("large", 384),
        "upernet_uniperceiver_adapter_large_512_160k_ade20k": Preset(uni_perceiver, **_upernet(1024)),
    }
    # The multi-scale test (_ms) runs the same weights several times; a preset is one run, the single-scale one (_ss).
    beit = {
        "upernet_beit_adapter_large_640_160k_ade20k": _released_beit(640, 426, "ade20k", (2048, 640)),
        "upernet_beit_large_512_160k_ade20k": _released_beit(512, 341, "ade20k", (2048, 512), adapter=False),
        "upernet_beit_adapter_large_512_80k_cocostuff10k": _released_beit(512, 341, "coco-stuff", (2048, 512)),
        "upernet_beit_adapter_large_640_80k_cocostuff164k": _released_beit(640, 426, "coco-stuff", (2560, 640)),
        "upernet_beit_adapter_large_480_80k_pascal_context_59": _released_beit(480, 320, "pascal-context", (4096, 520)),
    }
    return (
        table | {f"{stem}_{test}": preset for stem, preset in beit.items() for test in ("ss", "ms")} | _mask2formers()
    )


def _paper() -> dict[str, Preset]:
    """The paper's ADE20K models without a released file; its B and L rows count a 384-pixel position embedding.

    The "light" L recipe is not published: four interactions, no extra extractors and deform_ratio 0.25 fit both its
    parameters (324M) and its multiply-adds (445G). SETR-PUP's ViT has no upsampling layers.
    """
    table: dict[str, Preset] = {}
    for size, (width, *_) in SIZES.items():
        pretrain = 384 if size in {"base", "large"} else 224
        plain, adapter = _vit(size, pretrain), _vit_adapter(size, pretrain)
        unreleased = {"pretrain": pretrain, "released": False}
        table[f"semfpn_vit_{size}_512_ade20k"] = _normalised(backbone=plain, **_semantic_fpn(width), **unreleased)
        table[f"semfpn_vit_adapter_{size}_512_ade20k"] = _normalised(
            backbone=adapter, **_semantic_fpn(width), **unreleased
        )
        table[f"upernet_vit_{size}_512_ade20k"] = _normalised(backbone=plain, **_upernet(width), **unreleased)
        if pretrain == 384:
            table[f"setr_pup_vit_{size}_512_ade20k"] = _normalised(
                backbone=plain | {"upsample": False}, **_setr_pup(width), **unreleased
            )
    light = _vit_adapter("large", 384, use_extra_extractor=False, deform_ratio=0.25)
    table["semfpn_vit_adapter_light_large_512_ade20k"] = _normalised(
        384, backbone=light, **_semantic_fpn(1024), released=False
    )
    return dict(sorted(table.items(), key=lambda row: _order(row[0])))


def _order(name: str) -> tuple[str, int]:
    size = next(size for size in SIZES if f"_{size}_" in name)
    return name.replace(size, ""), Sequence.index(list(SIZES), size)


PRESETS: dict[str, Preset] = _released() | _paper()
