"""From proposals to detections: one or several box heads in a cascade, NMS, and masks of what is left.

He et al., Mask R-CNN, 2017; Cai and Vasconcelos, Cascade R-CNN, 2018. One stage is mmdet's StandardRoIHead, several are
its CascadeRoIHead; module names are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adapter_infer.detectors.boxes import clip, decode
from adapter_infer.detectors.detections import Detections, in_use
from adapter_infer.detectors.nms import class_nms
from adapter_infer.detectors.roi_align import RoIExtractor
from adapter_infer.detectors.roi_heads import BBoxHead, FCNMaskHead
from adapter_infer.detectors.soft_nms import class_soft_nms


@dataclass(frozen=True)
class SelectionSettings:
    """How detections are chosen: scores above `score_threshold`, NMS within each class, the best `slots` of all."""

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    slots: int = 100
    soft: bool = False
    mask_threshold: float = 0.5


class Stage(NamedTuple):
    """One box head's work: boxes (N, K, 4), logits (N, K, classes + 1), deltas (N, K, 4 or 4 * classes)."""

    boxes: Tensor
    logits: Tensor
    deltas: Tensor


class RoIHead(nn.Module):
    """Maps and proposals -> Detections; masks where there are mask heads.

    A cascade hands its boxes from stage to stage; class logits are averaged over the stages, masks as probabilities.
    """

    def __init__(
        self,
        bbox_extractor: RoIExtractor,
        bbox_heads: Sequence[BBoxHead],
        mask_extractor: RoIExtractor | None,
        mask_heads: Sequence[FCNMaskHead],
        selection: SelectionSettings,
        cascade: bool,
    ) -> None:
        super().__init__()
        self.selection = selection
        self.bbox_roi_extractor = bbox_extractor
        self.mask_roi_extractor = mask_extractor
        self.bbox_head: nn.Module = nn.ModuleList(bbox_heads) if cascade else bbox_heads[0]
        if mask_heads:
            self.mask_head: nn.Module = nn.ModuleList(mask_heads) if cascade else mask_heads[0]

    @property
    def bbox_heads(self) -> list[BBoxHead]:
        """The box heads in order, one or several."""
        return _listed(self.bbox_head)

    @property
    def mask_heads(self) -> list[FCNMaskHead]:
        """The mask heads in order; empty for a detector without masks."""
        return _listed(self.mask_head) if self.mask_roi_extractor is not None else []

    def context(self, maps: Sequence[Tensor]) -> Tensor | None:
        """What all boxes of a picture share beside the maps; nothing here."""
        return None

    def box_features(self, maps: Sequence[Tensor], context: Tensor | None, boxes: Tensor) -> Tensor:
        """What a box head sees of boxes (N, K, 4): (N*K, C, P, P)."""
        return self.bbox_roi_extractor(maps, boxes)

    def mask_features(self, maps: Sequence[Tensor], context: Tensor | None, boxes: Tensor) -> Tensor:
        """What a mask head sees of boxes (N, K, 4): (N*K, C, P, P)."""
        assert self.mask_roi_extractor is not None
        return self.mask_roi_extractor(maps, boxes)

    def box_stages(
        self, maps: Sequence[Tensor], boxes: Tensor, image_size: Tensor, context: Tensor | None = None
    ) -> list[Stage]:
        """Every box head's outputs, each stage on the boxes that the one before it refined."""
        n, k, _ = boxes.shape
        stages: list[Stage] = []
        for i, head in enumerate(self.bbox_heads):
            if i:
                boxes = refine(stages[-1], self.bbox_heads[i - 1].stds, image_size)
            logits, deltas = head(self.box_features(maps, context, boxes))
            stages.append(Stage(boxes, logits.reshape(n, k, -1), deltas.reshape(n, k, -1)))
        return stages

    def candidates(self, stages: Sequence[Stage], image_size: Tensor) -> tuple[Tensor, Tensor]:
        """Before any selection: boxes (N, K, classes or 1, 4) and scores (N, K, classes)."""
        mean = torch.stack([stage.logits.float() for stage in stages]).mean(0)
        last = stages[-1]
        n, k, _ = last.boxes.shape
        boxes = decode(last.boxes[:, :, None], last.deltas.reshape(n, k, -1, 4), self.bbox_heads[-1].stds)
        clipped = clip(boxes.reshape(n, -1, 4), image_size).reshape(boxes.shape)
        return clipped, mean.softmax(-1)[..., :-1]

    def select(self, boxes: Tensor, scores: Tensor, count: Tensor) -> Detections:
        """Detections without masks; `count` (N,) of the K candidates of each picture hold."""
        chosen = self.selection
        holds = (scores > chosen.score_threshold) & in_use(count, scores.shape[1])[..., None]
        choose = class_soft_nms if chosen.soft else class_nms
        return choose(boxes, torch.where(holds, scores, 0.0), chosen.iou_threshold, chosen.slots)

    def mask_logits(self, maps: Sequence[Tensor], boxes: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Each mask head's logits of boxes (N, K, 4): (N*K, classes or 1, 2P, 2P)."""
        features = self.mask_features(maps, context, boxes)
        return [head(features) for head in self.mask_heads]

    def masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor, context: Tensor | None = None) -> Tensor:
        """Probabilities (N, K, 2P, 2P) of the labels' classes over boxes (N, K, 4), the mean of all mask heads."""
        n, k = labels.shape
        logits = torch.stack(self.mask_logits(maps, boxes, context))  # (heads, N*K, classes or 1, 2P, 2P)
        channel = labels.clamp(0, logits.shape[2] - 1).reshape(1, n * k, 1, 1, 1)
        own = logits.gather(2, channel.expand(*logits.shape[:2], 1, *logits.shape[3:]))
        return own.float().sigmoid().mean(0).reshape(n, k, *logits.shape[3:])

    def forward(self, maps: Sequence[Tensor], proposals: Detections, image_size: Tensor) -> Detections:
        context = self.context(maps)
        stages = self.box_stages(maps, proposals.boxes, image_size, context)
        found = self.select(*self.candidates(stages, image_size), proposals.count)
        if not self.mask_heads:
            return found
        masks = self.masks(maps, found.boxes, found.labels, context)
        holds = in_use(found.count, found.scores.shape[1])[..., None, None]
        return found._replace(masks=torch.where(holds, masks, 0.0))


def refine(stage: Stage, stds: Sequence[float], image_size: Tensor) -> Tensor:
    """The boxes (N, K, 4) a stage moves its boxes to, by the deltas of each one's best class."""
    n, k, _ = stage.boxes.shape
    deltas = stage.deltas.reshape(n, k, -1, 4)
    if deltas.shape[2] > 1:
        label = stage.logits[..., :-1].argmax(-1)
        deltas = deltas.gather(2, label[..., None, None].expand(n, k, 1, 4))
    return clip(decode(stage.boxes, deltas[:, :, 0], stds), image_size)


def _listed(module: nn.Module) -> list:
    return list(module) if isinstance(module, nn.ModuleList) else [module]
