"""The detectors as presets: every released configuration, and the paper's that were never released.

A preset's detector is mmdet's model dictionary without backbone; train settings and losses leave no trace in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapter_infer.presets.parts import (
    BATCH_NORM,
    SIZES,
    Module,
    Preset,
    adapter,
    beit,
    mask2former,
    normalised,
    split,
    vit,
)

CLASSES = 80
STRIDES = [4, 8, 16, 32]
CASCADE_STDS = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])


# --- backbones ---


def _windowed_vit(size: str, pretrain: int = 224) -> Module:
    """A plain ViT whose blocks see windows of 14 cells, but for the last of each of four groups."""
    plain = vit(size, pretrain)
    last = [group[1] for group in split(plain["depth"])]
    windowed = [i not in last for i in range(plain["depth"])]
    windows = {"window_attn": windowed, "window_size": [14 if window else None for window in windowed]}
    return plain | windows | {"out_indices": last}


def _vitdet(size: str) -> Module:
    """ViTDet's variant: the four maps come from the last block, and residual convolutions end each group."""
    plain = _windowed_vit(size, 384 if size == "large" else 224)  # these grids give the paper's parameter counts
    return plain | {"out_indices": plain["out_indices"][-1:], "residual_indices": plain["out_indices"]}


def _vit_adapter(size: str, pretrain: int = 224, **changes: Any) -> Module:
    plain = {key: value for key, value in _windowed_vit(size, pretrain).items() if key != "out_indices"}
    return plain | {"type": "ViTAdapter"} | adapter(size, **changes)


def _uniperceiver(size: str) -> Module:
    return _vit_adapter(size) | {"type": "UniPerceiverAdapter"}


def _beit(**changes: Any) -> Module:
    """BEiT-L with windows of 14 cells, and of 56 in every sixth block."""
    windows = {"window_attn": [True] * 24, "window_size": ([14] * 5 + [56]) * 4}
    return {"type": "BEiTAdapter"} | beit(224) | windows | adapter("large") | changes


# --- necks and heads ---


def _fpn(width: int, **changes: Any) -> Module:
    return {"type": "FPN", "in_channels": [width] * 4, "out_channels": 256, "num_outs": 5} | changes


def _coder(stds: Sequence[float]) -> Module:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0, 0.0, 0.0, 0.0], "target_stds": list(stds)}


def _rpn(num_convs: int = 1) -> Module:
    anchors = {"type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0, 2.0], "strides": [*STRIDES, 64]}
    head = {"type": "RPNHead", "in_channels": 256, "feat_channels": 256, "anchor_generator": anchors}
    return head | {"num_convs": num_convs, "bbox_coder": _coder([1.0] * 4)}


def _extractor(size: int, strides: Sequence[int] = STRIDES, sampling_ratio: int = 0) -> Module:
    layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": sampling_ratio}
    return {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": 256, "featmap_strides": list(strides)}


def _bbox_head(kind: str = "Shared2FCBBoxHead", stds: Sequence[float] = CASCADE_STDS[0], **changes: Any) -> Module:
    head = {"type": kind, "in_channels": 256, "fc_out_channels": 1024, "roi_feat_size": 7, "num_classes": CLASSES}
    return head | {"bbox_coder": _coder(stds), "reg_class_agnostic": False} | changes


def _mask_head(**changes: Any) -> Module:
    head = {"type": "FCNMaskHead", "num_convs": 4, "in_channels": 256, "conv_out_channels": 256}
    return head | {"num_classes": CLASSES} | changes


# --- detectors ---


def _preset(backbone: Module, detector: Module, **settings: Any) -> Preset:
    """Whole pictures of COCO, at most 1333 by 800 and zero-padded unless `settings` say otherwise."""
    fixed: dict[str, Any] = {"half": "detection", "dataset": "coco", "crop": None, "pad": True}
    settings = fixed | {"scale": (1333, 800)} | settings
    pretrain = settings.pop("pretrain", backbone.get("pretrain_size", 224))
    return normalised(pretrain, backbone=backbone, detector=detector, **settings)


def _two_stage(kind: str, neck: Any, roi_head: Module, rpn: Module, **rcnn: Any) -> Module:
    rpn_test = {"nms_pre": 1000, "max_per_img": 1000, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    rcnn_test = {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}
    rcnn_test |= {"mask_thr_binary": 0.5} | rcnn
    extractors = {"bbox_roi_extractor": _extractor(7), "mask_roi_extractor": _extractor(14)}
    parts: Module = {"neck": neck, "rpn_head": rpn, "roi_head": roi_head | extractors}
    return {"type": kind} | parts | {"test_cfg": {"rpn": rpn_test, "rcnn": rcnn_test}}


def _mask_rcnn(backbone: Module, neck: Module | None = None, **settings: Any) -> Preset:
    roi_head = {"type": "StandardRoIHead", "bbox_head": _bbox_head(), "mask_head": _mask_head()}
    fpn = _fpn(backbone["embed_dim"]) | (neck or {})
    return _preset(backbone, _two_stage("MaskRCNN", fpn, roi_head, _rpn()), **settings)


def _upgraded_mask_rcnn() -> Preset:
    """Batch norms in neck and heads, a second convolution in the RPN, four in the box head; an MAE backbone."""
    norm: Module = {"norm_cfg": {"type": "MMSyncBN", "requires_grad": True}}
    backbone = _vit_adapter("base", use_extra_extractor=False, layer_scale=False)
    roi_head: Module = {"type": "StandardRoIHead", "bbox_head": _bbox_head("Shared4Conv1FCBBoxHead", **norm)}
    roi_head |= {"mask_head": _mask_head(**norm)}
    return _preset(backbone, _two_stage("MaskRCNN", _fpn(768, **norm), roi_head, _rpn(num_convs=2)))


def _cascade(backbone: Module) -> Preset:
    layers = {"num_shared_convs": 4, "num_shared_fcs": 1, "conv_out_channels": 256, "norm_cfg": BATCH_NORM}
    heads = [_bbox_head("ConvFCBBoxHead", stds, **layers) for stds in CASCADE_STDS]
    roi_head = {"type": "CascadeRoIHead", "num_stages": 3, "bbox_head": heads, "mask_head": _mask_head()}
    return _preset(backbone, _two_stage("CascadeRCNN", _fpn(backbone["embed_dim"]), roi_head, _rpn()))


def _htc(backbone: Module, objects365: bool = False, aug: bool = False, slots: int = 100) -> Preset:
    """HTC++; the models pre-trained on Objects365 have norms in neck and box heads, and see other sizes.

    Its weights after AugReg's were trained with ImageNet's mean and std, unlike those of Mask R-CNN. `aug` is the
    multi-scale test (_ms) of the same weights; a preset is one run, at the size of the single-scale test.
    """
    width = backbone["embed_dim"]
    attention = {"type": "ExtraAttention", "in_channels": [width] * 4, "num_head": 32, "ffn_ratio": 4.0}
    fpn = _fpn(width, norm_cfg={"type": "GN", "num_groups": 32}) if objects365 else _fpn(width)
    layers: Module = {"conv_out_channels": 256, "reg_class_agnostic": True}
    layers |= {"norm_cfg": BATCH_NORM} if objects365 else {}
    semantic = {"type": "FusedSemanticHead", "num_ins": 5, "fusion_level": 1, "num_convs": 4, "in_channels": 256}
    roi_head = {
        "type": "HybridTaskCascadeRoIHead",
        "num_stages": 3,
        "mask_info_flow": True,
        "bbox_head": [_bbox_head("Shared4Conv1FCBBoxHead", stds, **layers) for stds in CASCADE_STDS],
        "mask_head": [_mask_head(type="HTCMaskHead", with_conv_res=i > 0) for i in range(3)],
        "semantic_head": semantic | {"conv_out_channels": 256, "num_classes": 183},
        "semantic_roi_extractor": _extractor(14, [8]),
    }
    kind = "HybridTaskCascadeAug" if aug else "HybridTaskCascade"
    limits = {"score_thr": 0.001, "nms": {"type": "soft_nms", "iou_threshold": 0.5}, "max_per_img": slots}
    detector = _two_stage(kind, [attention, fpn], roi_head, _rpn(), **limits)
    return _preset(backbone, detector, scale=(2000, 1000) if objects365 else (1600, 1400), pretrain=224)


def _one_stage(kind: str) -> Preset:
    """ATSS or GFL over ViT-Adapter-S."""
    anchors = {"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1}
    head: Module = {"type": f"{kind}Head", "num_classes": CLASSES, "in_channels": 256, "stacked_convs": 4}
    head |= {"feat_channels": 256, "anchor_generator": anchors | {"strides": [8, 16, 32, 64, 128]}}
    head |= {"bbox_coder": _coder(CASCADE_STDS[0])} if kind == "ATSS" else {"reg_max": 16}
    neck = _fpn(384, start_level=1, add_extra_convs="on_output")
    test: Module = {"nms_pre": 1000, "min_bbox_size": 0, "score_thr": 0.05, "max_per_img": 100}
    test |= {"nms": {"type": "nms", "iou_threshold": 0.6}}
    return _preset(_vit_adapter("small"), {"type": kind, "neck": neck, "bbox_head": head, "test_cfg": test})


def _sparse_rcnn() -> Preset:
    """Sparse R-CNN over ViT-Adapter-S."""
    relu = {"type": "ReLU", "inplace": True}
    dynamic = {"type": "DynamicConv", "in_channels": 256, "feat_channels": 64, "out_channels": 256}
    dynamic |= {"input_feat_shape": 7, "act_cfg": relu, "norm_cfg": {"type": "LN"}}
    head: Module = {"type": "DIIHead", "num_classes": CLASSES, "num_heads": 8, "num_cls_fcs": 1, "num_reg_fcs": 3}
    head |= {"num_ffn_fcs": 2, "feedforward_channels": 2048, "in_channels": 256, "ffn_act_cfg": relu}
    head |= {"dynamic_conv_cfg": dynamic, "bbox_coder": _coder([0.5, 0.5, 1.0, 1.0]) | {"clip_border": False}}
    roi_head = {"type": "SparseRoIHead", "num_stages": 6, "proposal_feature_channel": 256, "bbox_head": [head] * 6}
    detector = {
        "type": "SparseRCNN",
        "neck": _fpn(384, num_outs=4, start_level=0, add_extra_convs="on_output"),
        "rpn_head": {"type": "EmbeddingRPNHead", "num_proposals": 300, "proposal_feature_channel": 256},
        "roi_head": roi_head | {"bbox_roi_extractor": _extractor(7, sampling_ratio=2)},
        "test_cfg": {"rpn": None, "rcnn": {"max_per_img": 300}},
    }
    return _preset(_vit_adapter("small"), detector)


def _panoptic() -> Preset:
    """Mask2Former over BEiTv2-L, things and stuff in one picture."""
    head = mask2former(1024, 256, 100, "coco-panoptic", (1024, 2048))
    classes = {key: head[key] for key in ("num_things_classes", "num_stuff_classes")}
    test: Module = {"panoptic_on": True, "semantic_on": False, "instance_on": True, "max_per_image": 100}
    detector = {
        "type": "Mask2Former",
        "panoptic_head": head,
        "panoptic_fusion_head": {"type": "MaskFormerFusionHead"} | classes,
        "test_cfg": test | {"iou_thr": 0.8, "filter_low_score": True},
    }
    return _preset(_beit(), detector, dataset="coco-panoptic")


# --- the table ---


def _released() -> dict[str, Preset]:
    table = {
        "atss_deit_adapter_small_fpn_3x_coco": _one_stage("ATSS"),
        "gfl_deit_adapter_small_fpn_3x_coco": _one_stage("GFL"),
        "sparse_rcnn_deit_adapter_small_fpn_3x_coco": _sparse_rcnn(),
        "mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic": _panoptic(),
        "cascade_mask_rcnn_deit_base_fpn_3x_coco": _cascade(_windowed_vit("base")),
        "cascade_mask_rcnn_deit_adapter_small_fpn_3x_coco": _cascade(_vit_adapter("small")),
        "cascade_mask_rcnn_deit_adapter_base_fpn_3x_coco": _cascade(_vit_adapter("base")),
        "mask_rcnn_augreg_large_fpn_3x_coco": _mask_rcnn(_windowed_vit("large", 384)),
        "mask_rcnn_uniperceiver_adapter_base_fpn_3x_coco": _mask_rcnn(_uniperceiver("base")),
        # Without a pyramid: each map on its own.
        "mask_rcnn_deit_adapter_small_3x_coco": _mask_rcnn(_vit_adapter("small"), {"type": "ChannelMapperWithPooling"}),
    }
    for size in ("tiny", "small", "base"):
        table[f"mask_rcnn_deit_{size}_fpn_3x_coco"] = _mask_rcnn(_windowed_vit(size))
    for schedule in ("1x", "3x"):
        for size in ("tiny", "small", "base"):
            table[f"mask_rcnn_deit_adapter_{size}_fpn_{schedule}_coco"] = _mask_rcnn(_vit_adapter(size))
        table[f"mask_rcnn_augreg_adapter_large_fpn_{schedule}_coco"] = _mask_rcnn(_vit_adapter("large", 384))
    for size in ("small", "base", "large"):
        # The large one was trained on pictures in -1..1, but its test configuration, which made its published figures,
        # normalises with ImageNet's mean and std.
        table[f"mask_rcnn_dinov2_adapter_{size}_fpn_3x_coco"] = _mask_rcnn(_vit_adapter(size, 592))
    for epochs in (25, 50):
        table[f"mask_rcnn_mae_adapter_base_lsj_fpn_{epochs}ep_coco"] = _upgraded_mask_rcnn()
    table["htc++_beit_adapter_large_fpn_3x_coco_old"] = _htc(_beit(version="old"))
    table["htc++_uniperceiver_adapter_large_fpn_3x_coco"] = _htc(_uniperceiver("large"))
    for aug in (False, True):
        test = "_ms" if aug else ""
        slots = 100 if aug else 300  # only this one differs
        table[f"htc++_augreg_adapter_large_fpn_3x_coco{test}"] = _htc(_vit_adapter("large", 384), aug=aug, slots=slots)
        for family in ("beit", "beitv2"):
            table[f"htc++_{family}_adapter_large_fpn_3x_coco{test}"] = _htc(_beit(), aug=aug)
        table[f"htc++_beitv2_adapter_large_fpn_o365_coco{test}"] = _htc(_beit(), objects365=True, aug=aug)
    return dict(sorted(table.items()))


def _paper() -> dict[str, Preset]:
    """ViTDet, and Mask R-CNN over ViT-Adapter-S with other numbers of interactions."""
    table = {f"mask_rcnn_vitdet_{size}_paper": _mask_rcnn(_vitdet(size), released=False) for size in SIZES}
    for count in (1, 2, 6):
        backbone = _vit_adapter("small", interaction_indexes=split(12, count))
        table[f"mask_rcnn_vit_adapter_small_{count}_interactions_paper"] = _mask_rcnn(backbone, released=False)
    return table


PRESETS: dict[str, Preset] = _released() | _paper()
