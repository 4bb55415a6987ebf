"""Panoptic segmentation: a backbone under Mask2Former's head, as mmdet's detector of the same name has it.

Fusing the queries into one picture of things and stuff is left to whoever has the picture's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adapter_infer.detectors.settings import Settings
from adapter_infer.heads.mask2former import Mask2FormerHead

# mmdet's switches of its test run: what it shows and from which score on, not what the network computes.
TEST_SWITCHES = ("panoptic_on", "semantic_on", "instance_on", "filter_low_score")


class PanopticModel(nn.Module):
    """(N, 3, H, W) -> class_logits (N, Q, num_classes + 1), the last one "no object", and mask_logits (N, Q, H/4, W/4).

    State-dict keys are the official checkpoints'.
    """

    def __init__(self, backbone: nn.Module, panoptic_head: Mask2FormerHead) -> None:
        super().__init__()
        self.backbone, self.panoptic_head = backbone, panoptic_head

    @property
    def size_divisor(self) -> int:
        """Image heights and widths must be multiples of this."""
        return int(self.backbone.size_divisor)  # type: ignore[arg-type]

    def features(self, image: Tensor) -> list[Tensor]:
        """The backbone's four maps (N, C, H/s, W/s), s = 4, 8, 16, 32."""
        return self.backbone(image)

    def queries(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, under the name that segmentors have for it."""
        return self.panoptic_head.predict(self.features(image))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.queries(image)


def head_config(detector: Mapping[str, Any]) -> dict[str, Any]:
    """The head's own arguments in an mmdet Mask2Former without backbone.

    Errors: UnsupportedModel on settings that this project does not know, with the key, its value and what is supported.
    """
    with Settings(detector, "model") as s:
        s.kind("Mask2Former")
        s.only("neck", None)
        with s.part("test_cfg") as test:
            for switch in TEST_SWITCHES:
                test.flag(switch, False)
            test.integer("max_per_image", 100)
            for threshold in ("object_mask_thr", "iou_thr"):
                test.number(threshold, 0.8)
        head = s.part("panoptic_head")
        head.only("strides", [4, 8, 16, 32], (4, 8, 16, 32))
        with s.part("panoptic_fusion_head") as fusion:
            fusion.kind("MaskFormerFusionHead")
            for kind in ("num_things_classes", "num_stuff_classes"):
                fusion.only(kind, head.take(kind))
            fusion.only("loss_panoptic", None)
            fusion.take("test_cfg", None)
    return {key: value for key, value in head.config.items() if key != "strides"}
