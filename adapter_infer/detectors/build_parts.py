"""Necks, proposal networks and the small settings that all detectors share, from their mmcv-style configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from adapter_infer.detectors.necks import FPN, ChannelMapperWithPooling, ExtraAttention
from adapter_infer.detectors.roi_align import FINEST_SCALE, RoIExtractor
from adapter_infer.detectors.rpn import AnchorSettings, ProposalSettings, RPNHead
from adapter_infer.detectors.settings import Settings
from adapter_infer.errors import UnsupportedModel

NECKS = ("FPN", "ExtraAttention", "ChannelMapperWithPooling")


def build_neck(config: Any) -> nn.Module | None:
    """A neck, or several in a row where the configuration has a list."""
    if config is None:
        return None
    if isinstance(config, (list, tuple)):
        return nn.Sequential(*(_neck(part, f"neck[{i}]") for i, part in enumerate(config)))
    return _neck(config, "neck")


def _neck(config: Mapping[str, Any], where: str) -> nn.Module:
    with Settings(config, where) as s:
        kind, widths = s.kind(*NECKS), s.integers("in_channels")
        if kind == "ExtraAttention":
            ratio = s.number("ffn_ratio", 4.0) if s.flag("with_ffn", True) else None
            heads = s.integer("num_head")
            if widths[-1] % heads:
                raise UnsupportedModel(f"{s.name} has num_head={heads}; supported: divisors of {widths[-1]} channels")
            return ExtraAttention(widths[-1], heads, ratio)
        channels, (norm, groups) = s.integer("out_channels"), s.norm()
        s.only("conv_cfg", None)
        if kind == "ChannelMapperWithPooling":
            s.integer("num_outs", len(widths) + 1)
            s.only("num_outs", len(widths) + 1)
            s.only("act_cfg", {"type": "ReLU"}, {"type": "ReLU", "inplace": True})
            s.only("kernel_size", 1, 3)
            if groups is not None:
                raise UnsupportedModel(f"{s.name} has norm_cfg type='GN'; supported: no norm or batch normalisation")
            return ChannelMapperWithPooling(widths, channels, int(s.take("kernel_size", 1)), norm)
        start, outs = s.integer("start_level", 0, smallest=0), s.integer("num_outs")
        s.only("act_cfg", None)
        s.only("end_level", -1, len(widths) - 1)
        s.only("add_extra_convs", False, "on_output")
        s.only("relu_before_extra_convs", False)
        s.only("no_norm_on_lateral", False)
        s.only("upsample_cfg", {"mode": "nearest"})
        if start >= len(widths) or outs < len(widths) - start:
            raise UnsupportedModel(
                f"{s.name} has start_level={start}, num_outs={outs}; supported: at least one output a map"
            )
        if groups is not None and channels % groups:
            raise UnsupportedModel(f"{s.name} has num_groups={groups}; supported: divisors of {channels} channels")
        extra = bool(s.take("add_extra_convs", False))
        return FPN(widths, channels, outs, start, extra, norm, groups)


def anchors(config: Settings) -> AnchorSettings:
    """An AnchorGenerator."""
    with config as s:
        s.kind("AnchorGenerator")
        strides, ratios = s.integers("strides"), s.numbers("ratios")
        s.only("center_offset", 0.0)
        s.only("centers", None)
        s.only("scale_major", True)
        s.only("base_sizes", None, strides)
        if s.has("octave_base_scale"):
            base, count = s.number("octave_base_scale"), s.integer("scales_per_octave")
            return AnchorSettings(strides, [base * 2 ** (i / count) for i in range(count)], ratios)
        return AnchorSettings(strides, s.numbers("scales"), ratios)


def box_stds(config: Settings, clip_border: bool = True) -> list[float]:
    """The units of a DeltaXYWHBBoxCoder."""
    with config as s:
        s.kind("DeltaXYWHBBoxCoder")
        s.only("target_means", (0.0, 0.0, 0.0, 0.0), [0.0, 0.0, 0.0, 0.0])
        s.only("clip_border", clip_border)
        s.only("add_ctr_clamp", False)
        s.take("ctr_clamp", 32)
        return s.numbers("target_stds", [1.0, 1.0, 1.0, 1.0], length=4)


def extractor(config: Settings) -> RoIExtractor:
    """A SingleRoIExtractor."""
    with config as s:
        s.kind("SingleRoIExtractor")
        strides, finest = s.integers("featmap_strides"), s.integer("finest_scale", FINEST_SCALE)
        s.integer("out_channels")
        with s.part("roi_layer") as layer:
            layer.kind("RoIAlign")
            layer.only("aligned", True)
            layer.only("pool_mode", "avg")
            layer.only("use_torchvision", False)
            return RoIExtractor(
                layer.integer("output_size"), layer.integer("sampling_ratio", 0, smallest=0), strides, finest
            )


def nms_threshold(config: Settings, *kinds: str) -> tuple[str, float]:
    """An nms setting as its kind and its threshold; `kinds` are the supported ones."""
    with config as s:
        kind = s.kind(*kinds)
        s.only("class_agnostic", False)
        s.only("method", "linear")
        s.only("min_score", 1e-3)
        s.take("split_thr", None)  # above so many boxes the official code does the same in another way
        return kind, s.number("iou_threshold")


def sigmoid_loss(s: Settings, sigmoid: bool) -> None:
    """Refuses a classification loss that makes other outputs of the head than `sigmoid` says."""
    loss = s.take("loss_cls", {})
    used = loss.get("use_sigmoid", sigmoid) if isinstance(loss, Mapping) else loss
    if used != sigmoid:
        raise UnsupportedModel(f"{s.name} has loss_cls use_sigmoid={used!r}; supported: {sigmoid}")


def build_rpn(config: Any, test: Settings) -> RPNHead:
    """An RPNHead with its test configuration."""
    with test as t:
        _, threshold = nms_threshold(t.part("nms"), "nms")
        proposals = ProposalSettings(
            t.integer("nms_pre"), t.integer("max_per_img"), threshold, t.number("min_bbox_size", 0)
        )
    with Settings(config, "rpn_head") as s:
        s.kind("RPNHead")
        s.only("num_classes", 1)
        sigmoid_loss(s, True)
        stds = box_stds(s.part("bbox_coder"))
        inputs, features = s.integer("in_channels"), s.integer("feat_channels", 256)
        return RPNHead(
            inputs, features, anchors(s.part("anchor_generator")), proposals, stds, s.integer("num_convs", 1)
        )


def check_strides(where: str, strides: Sequence[int], neck: nn.Module | None) -> None:
    """Refuses a head for another number of maps than the neck gives."""
    last = neck[-1] if isinstance(neck, nn.Sequential) else neck
    outs = 4
    if isinstance(last, FPN):
        outs = len(last.lateral_convs) + last.extra
    elif isinstance(last, ChannelMapperWithPooling):
        outs = len(last.convs) + 1
    if len(strides) != outs:
        raise UnsupportedModel(
            f"{where} has anchors for {len(strides)} maps; supported: {outs}, as many as the neck gives"
        )
