"""The segmentors as presets: every released configuration, and the paper's ADE20K models that were never released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adapter_infer.presets.parts import (
    BATCH_NORM,
    DATASETS,
    SIZES,
    Module,
    Preset,
    adapter,
    beit,
    mask2former,
    normalised,
    vit,
)


def _vit_adapter(size: str, pretrain: int = 224, **changes: Any) -> Module:
    return vit(size, pretrain) | {"type": "ViTAdapter"} | adapter(size, **changes)


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


# --- the table ---


def _released_vit(size: str, pretrain: int = 224, **changes: Any) -> Preset:
    return normalised(pretrain, backbone=_vit_adapter(size, pretrain, **changes), **_upernet(SIZES[size][0]))


def _released_beit(crop: int, stride: int, dataset: str, scale: tuple[int, int], adapted: bool = True) -> Preset:
    backbone = beit(crop) | {"type": "BEiTBaseline", "out_indices": [7, 11, 15, 23]}
    if adapted:
        backbone = beit(crop) | {"type": "BEiTAdapter"} | adapter("large")
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
    backbone = beit(crop, size) | {"type": "BEiTAdapter"} | adapter(size)
    head = mask2former(SIZES[size][0], dim, queries, dataset, hidden)
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
    uni_perceiver = vit("large") | {"type": "UniPerceiverAdapter"} | adapter("large")
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
        "upernet_beit_large_512_160k_ade20k": _released_beit(512, 341, "ade20k", (2048, 512), adapted=False),
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
        plain, adapter = vit(size, pretrain), _vit_adapter(size, pretrain)
        unreleased = {"pretrain": pretrain, "released": False}
        table[f"semfpn_vit_{size}_512_ade20k"] = normalised(backbone=plain, **_semantic_fpn(width), **unreleased)
        table[f"semfpn_vit_adapter_{size}_512_ade20k"] = normalised(
            backbone=adapter, **_semantic_fpn(width), **unreleased
        )
        table[f"upernet_vit_{size}_512_ade20k"] = normalised(backbone=plain, **_upernet(width), **unreleased)
        if pretrain == 384:
            table[f"setr_pup_vit_{size}_512_ade20k"] = normalised(
                backbone=plain | {"upsample": False}, **_setr_pup(width), **unreleased
            )
    light = _vit_adapter("large", 384, use_extra_extractor=False, deform_ratio=0.25)
    table["semfpn_vit_adapter_light_large_512_ade20k"] = normalised(
        384, backbone=light, **_semantic_fpn(1024), released=False
    )
    return dict(sorted(table.items(), key=lambda row: _order(row[0])))


def _order(name: str) -> tuple[str, int]:
    size = next(size for size in SIZES if f"_{size}_" in name)
    return name.replace(size, ""), Sequence.index(list(SIZES), size)


PRESETS: dict[str, Preset] = _released() | _paper()
