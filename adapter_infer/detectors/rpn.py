"""The region proposal network (RPN): a score and a box for every anchor, and the best of them as proposals.

Ren et al., Faster R-CNN, 2015. Module names are mmdet's RPNHead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.detectors.boxes import anchor_boxes, clip, decode, larger_than, take_boxes
from adapter_infer.detectors.detections import Detections, fill_slots
from adapter_infer.detectors.nms import grouped_nms
from adapter_infer.heads.layers import ConvModule


@dataclass(frozen=True)
class AnchorSettings:
    """Anchors of every map: sizes are `scales` times the map's stride, `ratios` are height over width."""

    strides: Sequence[int]
    scales: Sequence[float]
    ratios: Sequence[float]

    @property
    def per_cell(self) -> int:
        """Anchors of one cell."""
        return len(self.scales) * len(self.ratios)

    def of(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors (H_l*W_l*A, 4) of each map (N, C, H_l, W_l)."""
        return [
            anchor_boxes((x.shape[2], x.shape[3]), stride, self.scales, self.ratios, x.device)
            for x, stride in zip(maps, self.strides, strict=True)
        ]


@dataclass(frozen=True)
class ProposalSettings:
    """How proposals are chosen: the best `before` of every map, NMS, the best `after`; sides above `min_size`."""

    before: int = 1000
    after: int = 1000
    iou_threshold: float = 0.7
    min_size: float = 0.0


class RPNHead(nn.Module):
    """Maps -> objectness logits (N, A, H_l, W_l) and box deltas (N, 4*A, H_l, W_l) of each."""

    def __init__(
        self,
        in_channels: int,
        feat_channels: int,
        anchors: AnchorSettings,
        proposals: ProposalSettings,
        stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        num_convs: int = 1,
    ) -> None:
        super().__init__()
        self.anchors, self.settings, self.stds = anchors, proposals, list(stds)
        self.rpn_conv: nn.Module = nn.Conv2d(in_channels, feat_channels, 3, padding=1)
        if num_convs > 1:  # only then mmdet wraps them
            widths = [in_channels] + [feat_channels] * (num_convs - 1)
            self.rpn_conv = nn.Sequential(*(ConvModule(width, feat_channels, 3, norm=False) for width in widths))
        self.rpn_cls = nn.Conv2d(feat_channels, anchors.per_cell, 1)
        self.rpn_reg = nn.Conv2d(feat_channels, 4 * anchors.per_cell, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        features = [F.relu(self.rpn_conv(x)) for x in maps]
        return [self.rpn_cls(x) for x in features], [self.rpn_reg(x) for x in features]

    def propose(self, logits: Sequence[Tensor], deltas: Sequence[Tensor], image_size: Tensor) -> Detections:
        """Proposals of each picture with their objectness; all labels are 0. image_size (N, 2) is without padding."""
        settings, boxes, scores = self.settings, [], []
        for anchors, level_logits, level_deltas in zip(self.anchors.of(logits), logits, deltas, strict=True):
            # Channel a of the scores belongs to channels 4a to 4a+3 of the deltas.
            flat = level_logits.permute(0, 2, 3, 1).flatten(1).float()
            best, index = flat.topk(torch.sym_min(settings.before, flat.shape[1]), 1)
            moves = take_boxes(level_deltas.permute(0, 2, 3, 1).reshape(flat.shape[0], -1, 4), index)
            boxes.append(clip(decode(anchors[index], moves, self.stds), image_size))
            scores.append(torch.where(larger_than(boxes[-1], settings.min_size), best.sigmoid(), 0.0))
        levels = [torch.full_like(x, i, dtype=torch.int64) for i, x in enumerate(scores)]
        all_boxes, all_scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        index, count = grouped_nms(all_boxes, all_scores, torch.cat(levels, 1), settings.iou_threshold, settings.after)
        kept = all_scores.gather(1, index)
        return fill_slots(take_boxes(all_boxes, index), kept, torch.zeros_like(index), count, settings.after)
