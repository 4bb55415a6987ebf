"""DINOv3's segmentor: adapter and Mask2Former under the official names `segmentation_model.0` and `.1`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from adapter_infer.dinov3.adapter import DINOv3Adapter
from adapter_infer.dinov3.mask2former import DINOv3Mask2FormerHead
from adapter_infer.heads.layers import resize
from adapter_infer.heads.mask2former import semantic_scores
from adapter_infer.segmentor import Segmentor

PREFIX = "segmentation_model."
ADAPTER, HEAD = f"{PREFIX}0.", f"{PREFIX}1."
VIT = f"{ADAPTER}backbone."


class DINOv3Segmentor(Segmentor):
    """(N, 3, H, W) -> class scores (N, num_classes, H, W).

    Unlike mmseg's Mask2Former the official code enlarges each query's mask before its sigmoid, then lets the queries
    vote at full size.
    """

    neck = None
    backbone: Any = property(lambda self: self.segmentation_model[0])
    decode_head: Any = property(lambda self: self.segmentation_model[1])

    def __init__(self, adapter: DINOv3Adapter, decode_head: DINOv3Mask2FormerHead) -> None:
        nn.Module.__init__(self)
        self.segmentation_model = nn.ModuleList([adapter, decode_head])

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(self.features(image), image)

    def scores(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Class scores (N, num_classes, H, W) from the backbone's maps, at the image's size."""
        class_logits, mask_logits = self.decode_head.predict(maps)
        return semantic_scores(class_logits, resize(mask_logits, image.shape[2:], align_corners=False))
