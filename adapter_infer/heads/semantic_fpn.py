"""Semantic FPN: the feature pyramid neck and the head that sums its levels at stride 4.

Kirillov et al., Panoptic Feature Pyramid Networks, 2019. Module names are mmseg's FPN and FPNHead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.errors import UnsupportedModel
from adapter_infer.heads.layers import ConvModule, resize


class FPN(nn.Module):
    """Four maps -> four maps of `out_channels`, coarse levels added to finer ones by nearest neighbour.

    `groups` takes GroupNorm where `norm`, instead of BatchNorm.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        norm: bool = False,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        if num_outs != len(in_channels):
            raise UnsupportedModel(
                f"an FPN neck with num_outs={num_outs} over {len(in_channels)} maps is not supported; "
                f"segmentation models have num_outs={len(in_channels)}"
            )
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, out_channels, 1, norm, act=False, groups=groups) for width in in_channels
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, norm, act=False, groups=groups) for _ in in_channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            finer = levels[i - 1]
            levels[i - 1] = finer + F.interpolate(levels[i], size=finer.shape[2:], mode="nearest")
        return [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)]  # detectors have more convs


class FPNHead(nn.Module):
    """Each level is convolved and doubled until it reaches the finest stride; their sum is classified.

    Maps at `feature_strides` -> logits (N, num_classes, H/4, W/4).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        feature_strides: Sequence[int] = (4, 8, 16, 32),
        in_index: Sequence[int] = (0, 1, 2, 3),
        align_corners: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_index, self.align_corners = list(in_index), align_corners
        self.scale_heads = nn.ModuleList()
        for width, stride in zip(in_channels, feature_strides, strict=True):
            doublings = (stride // feature_strides[0]).bit_length() - 1
            layers: list[nn.Module] = []
            for step in range(max(1, doublings)):
                layers.append(ConvModule(channels if step else width, channels, 3, norm))
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners))
            self.scale_heads.append(nn.Sequential(*layers))
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        chosen = [maps[index] for index in self.in_index]
        total = self.scale_heads[0](chosen[0])
        for head, x in zip(self.scale_heads[1:], chosen[1:], strict=True):
            level = head(x)
            if level.shape[2:] != total.shape[2:]:  # only where a map's size is odd
                level = resize(level, total.shape[2:], self.align_corners)
            total = total + level
        return self.conv_seg(total)
