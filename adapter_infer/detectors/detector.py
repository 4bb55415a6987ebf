"""Whole detectors: backbone, neck and head; pictures and their sizes in, Detections out.

State-dict keys are the official checkpoints'. Everything has a fixed size, so that `torch.export` traces it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from adapter_infer.detectors.detections import Detections
from adapter_infer.detectors.roi_stages import RoIHead
from adapter_infer.detectors.rpn import RPNHead


class Detector(nn.Module, ABC):
    """image (N, 3, H, W) and image_size (N, 2) int64, each picture's height and width without padding -> Detections."""

    has_masks = False

    def __init__(self, backbone: nn.Module, neck: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    @property
    def size_divisor(self) -> int:
        """Image heights and widths must be multiples of this."""
        return int(self.backbone.size_divisor)  # type: ignore[arg-type]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs that are not None, in order."""
        return Detections._fields if self.has_masks else Detections._fields[:-1]

    def features(self, image: Tensor) -> list[Tensor]:
        """The maps that the head sees, finest first."""
        maps = self.backbone(image)
        return maps if self.neck is None else self.neck(maps)

    @abstractmethod
    def dense(self, maps: Sequence[Tensor]) -> Any:
        """What the head says of every cell of every map, before any selection."""

    @abstractmethod
    def detect(self, maps: Sequence[Tensor], image_size: Tensor) -> Detections:
        """Detections from the maps of `features`."""

    def forward(self, image: Tensor, image_size: Tensor) -> Detections:
        return self.detect(self.features(image), image_size)


class TwoStageDetector(Detector):
    """Mask R-CNN, Cascade Mask R-CNN, HTC++: proposals first, then a closer look at each."""

    def __init__(self, backbone: nn.Module, neck: nn.Module | None, rpn_head: RPNHead, roi_head: RoIHead) -> None:
        super().__init__(backbone, neck)
        self.rpn_head, self.roi_head = rpn_head, roi_head
        self.has_masks = bool(roi_head.mask_heads)

    def dense(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The RPN's logits (N, A, H_l, W_l) and box deltas (N, 4*A, H_l, W_l) of each map."""
        return self.rpn_head(maps)

    def detect(self, maps: Sequence[Tensor], image_size: Tensor) -> Detections:
        return self.roi_head(maps, self.rpn_head.propose(*self.dense(maps), image_size), image_size)
