"""One-stage heads: every cell of every map predicts classes and a box (ATSS, GFL).

Zhang et al., Adaptive Training Sample Selection, 2020; Li et al., Generalized Focal Loss, 2020. Module names are
mmdet's ATSSHead and GFLHead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapter_infer.detectors.boxes import clip, decode, larger_than, take_boxes
from adapter_infer.detectors.detections import Detections, fill_slots
from adapter_infer.detectors.detector import Detector
from adapter_infer.detectors.nms import grouped_nms
from adapter_infer.detectors.rpn import AnchorSettings
from adapter_infer.heads.layers import ConvModule


@dataclass(frozen=True)
class DenseSettings:
    """The best `before` pairs of cell and class of every map whose score is above the threshold, NMS within each class,
    the best `slots` of all; sides above `min_size` pixels."""

    score_threshold: float = 0.05
    before: int = 1000
    iou_threshold: float = 0.6
    slots: int = 100
    min_size: float = 0.0


class Scale(nn.Module):
    """Multiplication by one learnt number, a map's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class DenseHead(nn.Module, ABC):
    """Two towers of convolutions, shared by all maps: one for classes, one for boxes."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int,
        stacked_convs: int,
        anchors: AnchorSettings,
        selection: DenseSettings,
        groups: int | None,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes, self.anchors, self.selection = num_classes, anchors, selection

        def tower() -> nn.ModuleList:
            widths = [in_channels] + [feat_channels] * (stacked_convs - 1)
            return nn.ModuleList(ConvModule(width, feat_channels, 3, norm, groups=groups) for width in widths)

        self.cls_convs, self.reg_convs = tower(), tower()
        self.scales = nn.ModuleList(Scale() for _ in anchors.strides)

    def towers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class features and box features of one map."""
        classes, boxes = x, x
        for conv in self.cls_convs:
            classes = conv(classes)
        for conv in self.reg_convs:
            boxes = conv(boxes)
        return classes, boxes

    @abstractmethod
    def boxes(self, anchors: Tensor, prediction: Tensor, stride: int) -> Tensor:
        """Boxes (N, B, 4) of anchors (N, B, 4) from their raw predictions (N, B, channels)."""

    def select(
        self, logits: Sequence[Tensor], predictions: Sequence[Tensor], factors: Sequence[Tensor] | None, size: Tensor
    ) -> Detections:
        """Detections from each map's class logits, box predictions and, where given, logits of a factor of the score.

        The factor comes after the threshold and the choice of pairs, so that it can still move a score below it.
        """
        chosen, boxes, scores, labels = self.selection, [], [], []
        n, classes = logits[0].shape[0], self.num_classes
        for i, (anchors, stride) in enumerate(zip(self.anchors.of(logits), self.anchors.strides, strict=True)):
            pairs = logits[i].permute(0, 2, 3, 1).flatten(1).float().sigmoid()
            pairs = torch.where(pairs > chosen.score_threshold, pairs, 0.0)
            best, position = pairs.topk(torch.sym_min(chosen.before, pairs.shape[1]), 1)
            cell = torch.div(position, classes, rounding_mode="floor")
            labels.append(position - cell * classes)
            raw = predictions[i].permute(0, 2, 3, 1).flatten(1, 2)
            raw = raw.gather(1, cell[..., None].expand(-1, -1, raw.shape[2])).float()
            boxes.append(clip(self.boxes(anchors[cell], raw, stride), size))
            if factors is not None:
                best = best * factors[i].reshape(n, -1).float().sigmoid().gather(1, cell)
            scores.append(torch.where(larger_than(boxes[-1], chosen.min_size), best, 0.0))
        all_boxes, all_scores, all_labels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(labels, 1)
        index, count = grouped_nms(all_boxes, all_scores, all_labels, chosen.iou_threshold, chosen.slots)
        kept, kept_labels = all_scores.gather(1, index), all_labels.gather(1, index)
        return fill_slots(take_boxes(all_boxes, index), kept, kept_labels, count, chosen.slots)


class ATSSHead(DenseHead):
    """Maps -> class logits, box deltas of one square anchor per cell, centerness logits."""

    def __init__(self, feat_channels: int, stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2), **settings: object) -> None:
        super().__init__(feat_channels=feat_channels, **settings)  # type: ignore[arg-type]
        self.stds = list(stds)
        self.atss_cls = nn.Conv2d(feat_channels, self.num_classes, 3, padding=1)
        self.atss_reg = nn.Conv2d(feat_channels, 4, 3, padding=1)
        self.atss_centerness = nn.Conv2d(feat_channels, 1, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        features = [self.towers(x) for x in maps]
        return (
            [self.atss_cls(classes) for classes, _ in features],
            [scale(self.atss_reg(boxes)) for scale, (_, boxes) in zip(self.scales, features, strict=True)],
            [self.atss_centerness(boxes) for _, boxes in features],
        )

    def boxes(self, anchors: Tensor, prediction: Tensor, stride: int) -> Tensor:
        return decode(anchors, prediction, self.stds)


class Integral(nn.Module):
    """The mean of a distribution over the distances 0 to reg_max."""

    project: Tensor

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (..., 4 * (reg_max + 1)) -> (..., 4)."""
        return x.unflatten(-1, (4, -1)).softmax(-1) @ self.project.float()


class GFLHead(DenseHead):
    """Maps -> class logits and distributions over the distances to the four sides, in strides."""

    def __init__(self, feat_channels: int, reg_max: int = 16, **settings: object) -> None:
        super().__init__(feat_channels=feat_channels, **settings)  # type: ignore[arg-type]
        self.gfl_cls = nn.Conv2d(feat_channels, self.num_classes, 3, padding=1)
        self.gfl_reg = nn.Conv2d(feat_channels, 4 * (reg_max + 1), 3, padding=1)
        self.integral = Integral(reg_max)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        features = [self.towers(x) for x in maps]
        return (
            [self.gfl_cls(classes) for classes, _ in features],
            [scale(self.gfl_reg(boxes)) for scale, (_, boxes) in zip(self.scales, features, strict=True)],
        )

    def boxes(self, anchors: Tensor, prediction: Tensor, stride: int) -> Tensor:
        centre = (anchors[..., :2] + anchors[..., 2:]) * 0.5
        left_top, right_bottom = (self.integral(prediction) * stride).split(2, -1)
        return torch.cat((centre - left_top, centre + right_bottom), -1)


class DenseDetector(Detector):
    """ATSS, GFL: the head's predictions, chosen from directly."""

    def __init__(self, backbone: nn.Module, neck: nn.Module | None, bbox_head: DenseHead) -> None:
        super().__init__(backbone, neck)
        self.bbox_head = bbox_head

    def dense(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits (N, classes, H_l, W_l) and box predictions of each map; for ATSS centerness logits too."""
        return self.bbox_head(maps)

    def detect(self, maps: Sequence[Tensor], image_size: Tensor) -> Detections:
        logits, predictions, *factors = self.dense(maps)
        return self.bbox_head.select(logits, predictions, factors[0] if factors else None, image_size)
