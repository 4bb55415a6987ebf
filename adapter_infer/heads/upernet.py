"""UperNet's decode head: pyramid pooling on the coarsest map, a top-down pyramid, one classifier.

Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018. Module names are mmseg's UPerHead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adapter_infer.heads.layers import ConvModule, adaptive_average_pool, resize


class UPerHead(nn.Module):
    """Four maps at strides 4, 8, 16, 32 -> logits (N, num_classes, H/4, W/4)."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        in_index: Sequence[int] = (0, 1, 2, 3),
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_index, self.pool_scales, self.align_corners = list(in_index), list(pool_scales), align_corners
        coarsest = in_channels[-1]
        # mmseg keeps the pooling at index 0 of each pair; it has no parameters.
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.Identity(), ConvModule(coarsest, channels, 1, norm)) for _ in pool_scales
        )
        self.bottleneck = ConvModule(coarsest + len(pool_scales) * channels, channels, 3, norm)
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1, norm) for width in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3, norm) for _ in in_channels[:-1])
        self.fpn_bottleneck = ConvModule(len(in_channels) * channels, channels, 3, norm)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def _pyramid_pooling(self, x: Tensor) -> Tensor:
        pooled = [
            resize(branch(adaptive_average_pool(x, bins)), x.shape[2:], self.align_corners)
            for bins, branch in zip(self.pool_scales, self.psp_modules, strict=True)
        ]
        return self.bottleneck(torch.cat([x, *pooled], 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        chosen = [maps[index] for index in self.in_index]
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, chosen[:-1], strict=True)]
        levels.append(self._pyramid_pooling(chosen[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[2:], self.align_corners)
        outs = [conv(level) for conv, level in zip(self.fpn_convs, levels[:-1], strict=True)] + levels[-1:]
        finest = outs[0].shape[2:]
        outs = outs[:1] + [resize(out, finest, self.align_corners) for out in outs[1:]]
        return self.conv_seg(self.fpn_bottleneck(torch.cat(outs, 1)))
