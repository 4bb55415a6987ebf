"""Sparse R-CNN: a fixed set of learnt boxes, each refined six times by a head of its own; no anchors, no NMS.

Sun et al., Sparse R-CNN: End-to-End Object Detection with Learnable Proposals, 2021. Module names are mmdet's
EmbeddingRPNHead, SparseRoIHead, DIIHead and DynamicConv.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.detectors.boxes import corners, decode, take_boxes
from adapter_infer.detectors.detections import Detections, fill_slots
from adapter_infer.detectors.detector import Detector
from adapter_infer.detectors.roi_align import RoIExtractor
from adapter_infer.heads.mask2former import Attention
from adapter_infer.heads.pixel_decoder import FFN


class EmbeddingRPNHead(nn.Module):
    """The learnt proposals: boxes as centre and size in shares of the picture, and a feature vector of each."""

    def __init__(self, num_proposals: int, channels: int) -> None:
        super().__init__()
        self.init_proposal_bboxes = nn.Embedding(num_proposals, 4)
        self.init_proposal_features = nn.Embedding(num_proposals, channels)

    def forward(self, image_size: Tensor) -> tuple[Tensor, Tensor]:
        """image_size (N, 2) -> boxes (N, Q, 4) in pixels, features (N, Q, C)."""
        centre, size = self.init_proposal_bboxes.weight.float().split(2, -1)
        shares = torch.cat((centre - 0.5 * size, centre + 0.5 * size), -1)
        features = self.init_proposal_features.weight
        return shares[None] * corners(image_size), features[None].expand(image_size.shape[0], -1, -1)


class DynamicConv(nn.Module):
    """Two products of a box's features with matrices that its proposal's vector generates."""

    def __init__(self, channels: int, feat_channels: int, roi_feat_size: int) -> None:
        super().__init__()
        self.channels, self.feat_channels = channels, feat_channels
        self.dynamic_layer = nn.Linear(channels, 2 * channels * feat_channels)
        self.norm_in, self.norm_out = nn.LayerNorm(feat_channels), nn.LayerNorm(channels)
        self.fc_layer = nn.Linear(channels * roi_feat_size**2, channels)
        self.fc_norm = nn.LayerNorm(channels)

    def forward(self, vectors: Tensor, features: Tensor) -> Tensor:
        """vectors (R, C), features (R, C, P, P) -> (R, C)."""
        into, out = self.dynamic_layer(vectors).chunk(2, -1)
        x = features.flatten(2).transpose(1, 2)  # (R, P*P, C)
        x = F.relu(self.norm_in(x @ into.reshape(-1, self.channels, self.feat_channels)))
        x = F.relu(self.norm_out(x @ out.reshape(-1, self.feat_channels, self.channels)))
        return F.relu(self.fc_norm(self.fc_layer(x.flatten(1))))


class DIIHead(nn.Module):
    """Dynamic instance interaction: proposals look at each other, then at their boxes, then classify and refine."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        heads: int = 8,
        hidden: int = 2048,
        dynamic_channels: int = 64,
        roi_feat_size: int = 7,
        num_cls_fcs: int = 1,
        num_reg_fcs: int = 3,
        stds: Sequence[float] = (0.5, 0.5, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.stds = list(stds)
        self.attention, self.attention_norm = Attention(channels, heads), nn.LayerNorm(channels)
        self.instance_interactive_conv = DynamicConv(channels, dynamic_channels, roi_feat_size)
        self.instance_interactive_conv_norm = nn.LayerNorm(channels)
        self.ffn, self.ffn_norm = FFN(channels, hidden), nn.LayerNorm(channels)
        self.cls_fcs, self.reg_fcs = _mlp(channels, num_cls_fcs), _mlp(channels, num_reg_fcs)
        self.fc_cls, self.fc_reg = nn.Linear(channels, num_classes), nn.Linear(channels, 4)

    def forward(self, roi_features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """roi_features (N*Q, C, P, P), vectors (N, Q, C) -> logits (N, Q, classes), deltas (N, Q, 4), new vectors."""
        x = self.attention_norm(vectors + self.attention(vectors, vectors, vectors))
        interaction = self.instance_interactive_conv(x.flatten(0, 1), roi_features)
        x = self.instance_interactive_conv_norm(x + interaction.reshape(x.shape))
        x = self.ffn_norm(self.ffn(x))
        return self.fc_cls(self.cls_fcs(x)), self.fc_reg(self.reg_fcs(x)), x


def _mlp(channels: int, layers: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU()]
    return nn.Sequential(*modules)


class SparseStage(NamedTuple):
    """One stage's work on Q proposals: boxes (N, Q, 4) it saw, logits (N, Q, classes), deltas (N, Q, 4)."""

    boxes: Tensor
    logits: Tensor
    deltas: Tensor


class SparseRoIHead(nn.Module):
    """The stages in order; boxes are never clipped to the picture."""

    def __init__(self, bbox_extractor: RoIExtractor, bbox_heads: Sequence[DIIHead], slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.bbox_roi_extractor = bbox_extractor
        self.bbox_head = nn.ModuleList(bbox_heads)
        self.stds = [head.stds for head in bbox_heads]

    def stages(self, maps: Sequence[Tensor], boxes: Tensor, vectors: Tensor) -> list[SparseStage]:
        """Every stage on boxes (N, Q, 4) and vectors (N, Q, C) as the one before it left them."""
        stages: list[SparseStage] = []
        for head, stds in zip(self.bbox_head, self.stds, strict=True):
            logits, deltas, vectors = head(self.bbox_roi_extractor(maps, boxes), vectors)
            stages.append(SparseStage(boxes, logits, deltas))
            boxes = decode(boxes, deltas, stds)
        return stages

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, vectors: Tensor) -> Detections:
        """The best pairs of proposal and class of the last stage, without threshold or NMS."""
        last = self.stages(maps, boxes, vectors)[-1]
        final = decode(last.boxes, last.deltas, self.stds[-1])
        _, q, classes = last.logits.shape
        best, position = last.logits.float().sigmoid().flatten(1).topk(min(self.slots, q * classes), 1)
        proposal = torch.div(position, classes, rounding_mode="floor")
        count = (best > 0).sum(1)  # all of them, but for a probability too small for its type
        return fill_slots(take_boxes(final, proposal), best, position - proposal * classes, count, self.slots)


class SparseRCNN(Detector):
    """Sparse R-CNN."""

    def __init__(
        self, backbone: nn.Module, neck: nn.Module | None, rpn_head: EmbeddingRPNHead, roi_head: SparseRoIHead
    ) -> None:
        super().__init__(backbone, neck)
        self.rpn_head, self.roi_head = rpn_head, roi_head

    def dense(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps themselves: every prediction of this detector depends on its boxes."""
        return list(maps)

    def detect(self, maps: Sequence[Tensor], image_size: Tensor) -> Detections:
        return self.roi_head(maps, *self.rpn_head(image_size))
