"""Builds a detector over a backbone from an mmcv-style model configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from adapter_infer.detectors import DETECTORS
from adapter_infer.detectors.build_parts import (
    anchors,
    box_stds,
    build_neck,
    build_rpn,
    check_strides,
    extractor,
    nms_threshold,
    sigmoid_loss,
)
from adapter_infer.detectors.dense_heads import ATSSHead, DenseDetector, DenseHead, DenseSettings, GFLHead
from adapter_infer.detectors.detector import Detector, TwoStageDetector
from adapter_infer.detectors.htc import FusedSemanticHead, HTCRoIHead
from adapter_infer.detectors.roi_heads import BBoxHead, FCNMaskHead
from adapter_infer.detectors.roi_stages import RoIHead, SelectionSettings
from adapter_infer.detectors.settings import Settings
from adapter_infer.detectors.sparse_rcnn import DIIHead, EmbeddingRPNHead, SparseRCNN, SparseRoIHead
from adapter_infer.errors import UnsupportedModel

SHARED_LAYERS = {"Shared2FCBBoxHead": (0, 2), "Shared4Conv1FCBBoxHead": (4, 1)}  # convolutions, fully connected layers


def build(backbone: nn.Module, model_config: Mapping[str, Any]) -> Detector:
    """`adapter_infer.detectors.build_detector`, which says what it does."""
    with Settings(model_config, "model") as s:
        kind = s.kind(*DETECTORS)
        s.take("backbone", None)
        neck = build_neck(s.take("neck", None))
        if kind in {"ATSS", "GFL"}:
            head = _dense_head(s.take("bbox_head"), kind, s.part("test_cfg"))
            check_strides("bbox_head", head.anchors.strides, neck)
            return DenseDetector(backbone, neck, head).eval()
        with s.part("test_cfg") as test:
            if kind == "SparseRCNN":
                return _sparse_rcnn(backbone, neck, s, test).eval()
            if kind == "HybridTaskCascadeAug":
                test.take("aug", None)
            rpn = build_rpn(s.take("rpn_head"), test.part("rpn"))
            check_strides("rpn_head", rpn.anchors.strides, neck)
            roi = _roi_head(s.take("roi_head"), str(DETECTORS[kind]), _selection(test.part("rcnn")))
        return TwoStageDetector(backbone, neck, rpn, roi).eval()


# --- two stages ---


def _selection(config: Settings) -> SelectionSettings:
    with config as s:
        kind, threshold = nms_threshold(s.part("nms"), "nms", "soft_nms")
        return SelectionSettings(
            s.number("score_thr"),
            threshold,
            s.integer("max_per_img"),
            kind == "soft_nms",
            s.number("mask_thr_binary", 0.5),
        )


def _roi_head(config: Any, kind: str, selection: SelectionSettings) -> RoIHead:
    with Settings(config, "roi_head") as s:
        s.kind(kind)
        cascade = kind != "StandardRoIHead"
        count = s.integer("num_stages") if cascade else 1
        s.only("shared_head", None)
        settings: dict[str, Any] = {
            "bbox_extractor": extractor(s.part("bbox_roi_extractor")),
            "bbox_heads": [_bbox_head(part) for part in s.parts("bbox_head", count)],
            "mask_extractor": None,
            "mask_heads": [],
            "selection": selection,
        }
        if s.has("mask_head"):
            settings["mask_extractor"] = extractor(s.part("mask_roi_extractor"))
            settings["mask_heads"] = [_mask_head(part) for part in s.parts("mask_head", count)]
        if kind != "HybridTaskCascadeRoIHead":
            return RoIHead(cascade=cascade, **settings)
        s.only("semantic_fusion", ("bbox", "mask"), ["bbox", "mask"])
        if not settings["mask_heads"]:
            raise UnsupportedModel(f"{s.name} has mask_head=None; supported: three mask heads")
        semantic, pooled = _semantic_head(s.part("semantic_head")), extractor(s.part("semantic_roi_extractor"))
        for part in ("bbox_extractor", "mask_extractor"):
            if len(pooled.strides) != 1 or pooled.output_size % settings[part].output_size:
                raise UnsupportedModel(
                    f"{s.name} has a semantic_roi_extractor of output_size={pooled.output_size} at strides "
                    f"{pooled.strides}; supported: one stride, and a multiple of {settings[part].output_size}"
                )
        return HTCRoIHead(semantic, pooled, s.flag("mask_info_flow", True), **settings)


def _bbox_head(config: Settings) -> BBoxHead:
    with config as s:
        kind = s.kind(*SHARED_LAYERS, "ConvFCBBoxHead")
        if kind in SHARED_LAYERS:
            convs, fcs = SHARED_LAYERS[kind]
        else:
            convs, fcs = (s.integer(key, 0, smallest=0) for key in ("num_shared_convs", "num_shared_fcs"))
        for key in ("num_cls_convs", "num_cls_fcs", "num_reg_convs", "num_reg_fcs"):
            s.only(key, 0)
        s.only("with_avg_pool", False)
        s.only("conv_cfg", None)
        sigmoid_loss(s, False)
        norm, groups = s.norm()
        return BBoxHead(
            s.integer("in_channels", 256),
            s.integer("num_classes", 80),
            convs,
            fcs,
            s.integer("conv_out_channels", 256),
            s.integer("fc_out_channels", 1024),
            s.integer("roi_feat_size", 7),
            s.flag("reg_class_agnostic", False),
            norm,
            groups,
            box_stds(s.part("bbox_coder")),
        )


def _mask_head(config: Settings) -> FCNMaskHead:
    with config as s:
        conv_res = s.kind("FCNMaskHead", "HTCMaskHead") == "HTCMaskHead" and s.flag("with_conv_res", True)
        s.only("conv_kernel_size", 3)
        s.only("upsample_cfg", {"type": "deconv", "scale_factor": 2})
        s.only("conv_cfg", None)
        s.integer("roi_feat_size", 14)
        norm, groups = s.norm()
        return FCNMaskHead(
            s.integer("in_channels", 256),
            s.integer("num_classes", 80),
            s.integer("num_convs", 4),
            s.integer("conv_out_channels", 256),
            s.flag("class_agnostic", False),
            norm,
            groups,
            conv_res,
        )


def _semantic_head(config: Settings) -> FusedSemanticHead:
    with config as s:
        s.kind("FusedSemanticHead")
        s.only("conv_cfg", None)
        s.only("norm_cfg", None)
        maps, fusion = s.integer("num_ins"), s.integer("fusion_level", smallest=0)
        if fusion >= maps:
            raise UnsupportedModel(f"{s.name} has fusion_level={fusion}; supported: less than num_ins={maps}")
        widths = s.integer("in_channels", 256), s.integer("conv_out_channels", 256)
        return FusedSemanticHead(maps, fusion, s.integer("num_convs", 4), *widths, s.integer("num_classes", 183))


# --- one stage ---


def _dense_head(config: Any, kind: str, test: Settings) -> DenseHead:
    with test as t:
        _, threshold = nms_threshold(t.part("nms"), "nms")
        limits = t.number("score_thr"), t.integer("nms_pre"), threshold, t.integer("max_per_img")
        selection = DenseSettings(*limits, t.number("min_bbox_size", 0))
    with Settings(config, "bbox_head") as s:
        s.kind(f"{kind}Head")
        s.only("conv_cfg", None)
        s.only("pred_kernel_size", 3)
        sigmoid_loss(s, True)
        norm, groups = s.norm() if "norm_cfg" in s.config else (True, 32)
        settings: dict[str, Any] = {
            "num_classes": s.integer("num_classes"),
            "in_channels": s.integer("in_channels"),
            "feat_channels": s.integer("feat_channels", 256),
            "stacked_convs": s.integer("stacked_convs", 4),
            "anchors": anchors(s.part("anchor_generator")),
            "selection": selection,
            "groups": groups,
            "norm": norm,
        }
        if settings["anchors"].per_cell != 1:
            count = settings["anchors"].per_cell
            raise UnsupportedModel(f"{s.name} has {count} anchors in a cell; supported: one ratio and one scale")
        if groups is not None and settings["feat_channels"] % groups:
            channels = settings["feat_channels"]
            raise UnsupportedModel(f"{s.name} has num_groups={groups}; supported: divisors of {channels} channels")
        if kind == "ATSS":
            return ATSSHead(stds=box_stds(s.part("bbox_coder")), **settings)
        s.take("bbox_coder", None)  # GFL decodes distances, whatever stands here
        return GFLHead(reg_max=s.integer("reg_max", 16), **settings)


# --- Sparse R-CNN ---


def _sparse_rcnn(backbone: nn.Module, neck: nn.Module | None, s: Settings, test: Settings) -> SparseRCNN:
    test.only("rpn", None)
    with test.part("rcnn") as rcnn:
        slots = rcnn.integer("max_per_img")
    with s.part("rpn_head") as rpn:
        rpn.kind("EmbeddingRPNHead")
        queries, channels = rpn.integer("num_proposals", 100), rpn.integer("proposal_feature_channel", 256)
    with s.part("roi_head") as roi:
        roi.kind("SparseRoIHead")
        roi.only("proposal_feature_channel", channels)
        roi.only("mask_head", None)
        stages = roi.integer("num_stages", 6)
        heads = [_dii_head(part, channels) for part in roi.parts("bbox_head", stages)]
        head = SparseRoIHead(extractor(roi.part("bbox_roi_extractor")), heads, slots)
    return SparseRCNN(backbone, neck, EmbeddingRPNHead(queries, channels), head)


def _dii_head(config: Settings, channels: int) -> DIIHead:
    relu = ({"type": "ReLU", "inplace": True}, {"type": "ReLU"})
    with config as s:
        s.kind("DIIHead")
        s.only("in_channels", channels)
        s.only("num_ffn_fcs", 2)
        s.only("ffn_act_cfg", *relu)
        sigmoid_loss(s, True)
        heads = s.integer("num_heads", 8)
        if channels % heads:
            raise UnsupportedModel(f"{s.name} has num_heads={heads}; supported: divisors of {channels} channels")
        with s.part("dynamic_conv_cfg") as dynamic:
            dynamic.kind("DynamicConv")
            dynamic.only("in_channels", channels)
            dynamic.only("out_channels", channels)
            dynamic.only("with_proj", True)
            dynamic.only("act_cfg", *relu)
            dynamic.only("norm_cfg", {"type": "LN"})
            sizes = dynamic.integer("feat_channels", 64), dynamic.integer("input_feat_shape", 7)
        return DIIHead(
            s.integer("num_classes", 80),
            channels,
            heads,
            s.integer("feedforward_channels", 2048),
            *sizes,
            s.integer("num_cls_fcs", 1),
            s.integer("num_reg_fcs", 3),
            box_stds(s.part("bbox_coder"), clip_border=False),
        )
