"""HTC++: a cascade whose boxes and masks also see a semantic map, and whose mask heads hand their features on.

Chen et al., Hybrid Task Cascade for Instance Segmentation, 2019. Module names are mmdet's HybridTaskCascadeRoIHead and
FusedSemanticHead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.detectors.roi_align import RoIExtractor
from adapter_infer.detectors.roi_stages import RoIHead
from adapter_infer.heads.layers import ConvModule, resize


class FusedSemanticHead(nn.Module):
    """All maps, resized to map `fusion_level` and summed -> semantic features (N, C, H, W) and logits of that size.

    Detection uses the features; the logits served training only.
    """

    def __init__(
        self,
        num_ins: int,
        fusion_level: int,
        num_convs: int,
        in_channels: int,
        conv_out_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.fusion_level = fusion_level
        self.lateral_convs = nn.ModuleList(ConvModule(in_channels, in_channels, 1, norm=False) for _ in range(num_ins))
        widths = [in_channels] + [conv_out_channels] * (num_convs - 1)
        self.convs = nn.ModuleList(ConvModule(width, conv_out_channels, 3, norm=False) for width in widths)
        self.conv_embedding = ConvModule(conv_out_channels, conv_out_channels, 1, norm=False)
        self.conv_logits = nn.Conv2d(conv_out_channels, num_classes, 1)

    def _fused(self, maps: Sequence[Tensor]) -> Tensor:
        own = maps[self.fusion_level]
        x = self.lateral_convs[self.fusion_level](own)
        for i, (lateral, level) in enumerate(zip(self.lateral_convs, maps, strict=True)):
            if i != self.fusion_level:
                x = x + lateral(resize(level, own.shape[2:], align_corners=True))
        for conv in self.convs:
            x = conv(x)
        return x

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.conv_embedding(self._fused(maps))

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Class logits of the semantic map, (N, num_classes, H, W)."""
        return self.conv_logits(self._fused(maps))


class HTCRoIHead(RoIHead):
    """A cascade with a semantic branch; `mask_flow` says whether mask heads hand their features on."""

    def __init__(
        self, semantic_head: FusedSemanticHead, semantic_extractor: RoIExtractor, mask_flow: bool, **settings: Any
    ) -> None:
        super().__init__(cascade=True, **settings)
        self.semantic_head, self.semantic_roi_extractor = semantic_head, semantic_extractor
        self.mask_flow = mask_flow

    def context(self, maps: Sequence[Tensor]) -> Tensor | None:
        return self.semantic_head(maps)

    def _with_semantics(self, features: Tensor, context: Tensor | None, boxes: Tensor) -> Tensor:
        assert context is not None
        semantic = self.semantic_roi_extractor([context], boxes)
        factor = semantic.shape[2] // features.shape[2]  # 14 against 7 for boxes, 14 against 14 for masks
        return features + (F.avg_pool2d(semantic, factor) if factor > 1 else semantic)

    def box_features(self, maps: Sequence[Tensor], context: Tensor | None, boxes: Tensor) -> Tensor:
        return self._with_semantics(super().box_features(maps, context, boxes), context, boxes)

    def mask_features(self, maps: Sequence[Tensor], context: Tensor | None, boxes: Tensor) -> Tensor:
        return self._with_semantics(super().mask_features(maps, context, boxes), context, boxes)

    def mask_logits(self, maps: Sequence[Tensor], boxes: Tensor, context: Tensor | None = None) -> list[Tensor]:
        features = self.mask_features(maps, context, boxes)
        logits, before = [], None
        for head in self.mask_heads:
            own = head.features(features, before)
            before = own if self.mask_flow else None
            logits.append(head.logits(own))
        return logits
