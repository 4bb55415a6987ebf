"""SETR's progressive upsampling head (PUP): one map, convolved and enlarged step by step.

Zheng et al., Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, 2021.
Module names are mmseg's SETRUPHead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from adapter_infer.geometry import to_map, to_tokens
from adapter_infer.heads.layers import ConvModule

EPS = 1e-6  # unlike every other norm in the heads


class SETRUPHead(nn.Module):
    """The map at `in_index` (stride 16) -> logits (N, num_classes, H', W'), enlarged num_convs times by up_scale."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        in_index: int = -1,
        num_convs: int = 1,
        up_scale: int = 4,
        kernel_size: int = 3,
        align_corners: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_index, self.align_corners = in_index, align_corners
        self.norm = nn.LayerNorm(in_channels, EPS)
        self.up_convs = nn.ModuleList(
            nn.Sequential(
                ConvModule(channels if step else in_channels, channels, kernel_size, norm),
                nn.Upsample(scale_factor=up_scale, mode="bilinear", align_corners=align_corners),
            )
            for step in range(num_convs)
        )
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[self.in_index]
        h, w = x.shape[2:]
        x = to_map(self.norm(to_tokens(x)), (h, w))
        for up_conv in self.up_convs:
            x = up_conv(x)
        return self.conv_seg(x)
