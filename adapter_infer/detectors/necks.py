"""What stands between a backbone's four maps and a detection head: feature pyramids and attention on the coarsest map.

Lin et al., Feature Pyramid Networks for Object Detection, 2017. Module names are mmdet's FPN and the official code's
ExtraAttention and ChannelMapperWithPooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.geometry import to_map, to_tokens
from adapter_infer.heads import semantic_fpn
from adapter_infer.heads.layers import ConvModule

EPS = 1e-5  # of ExtraAttention's norms, unlike the backbone's


class FPN(semantic_fpn.FPN):
    """Maps from `start_level` on -> num_outs maps of `out_channels`, each half the size of the one before.

    What the backbone has no map for is every second cell of the last output, or where `extra_convs` a convolution of
    stride 2 on it. `groups` takes GroupNorm where `norm`, instead of BatchNorm.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        extra_convs: bool = False,
        norm: bool = False,
        groups: int | None = None,
    ) -> None:
        widths = in_channels[start_level:]
        super().__init__(widths, out_channels, len(widths), norm, groups)
        self.start_level, self.extra = start_level, num_outs - len(widths)
        if extra_convs:
            for _ in range(self.extra):
                conv = ConvModule(out_channels, out_channels, 3, norm, act=False, groups=groups)
                conv.conv.stride = (2, 2)
                self.fpn_convs.append(conv)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        outs = super().forward(maps[self.start_level :])
        for i in range(self.extra):
            convs = self.fpn_convs[len(self.lateral_convs) :]
            outs.append(convs[i](outs[-1]) if convs else F.max_pool2d(outs[-1], 1, stride=2))
        return outs


class ChannelMapperWithPooling(nn.Module):
    """Every map brought to `out_channels` by itself, and one more by pooling the last."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, kernel: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(width, out_channels, kernel, norm) for width in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        outs = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return [*outs, F.max_pool2d(outs[-1], 2)]


class _Attention(nn.Module):
    """Attention of every token to every token."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _FFN(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class ExtraAttention(nn.Module):
    """One more transformer block over the coarsest map; the others pass through unchanged."""

    def __init__(self, dim: int, heads: int, ffn_ratio: float | None = 4.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, EPS), _Attention(dim, heads)
        self.norm2 = None if ffn_ratio is None else nn.LayerNorm(dim, EPS)
        self.ffn = None if ffn_ratio is None else _FFN(dim, int(dim * ffn_ratio))
        self.final_norm = nn.LayerNorm(dim, EPS)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        h, w = maps[-1].shape[2:]
        x = to_tokens(maps[-1])
        x = x + self.attn(self.norm1(x))
        if self.ffn is not None and self.norm2 is not None:
            x = x + self.ffn(self.norm2(x))
        return [*maps[:-1], to_map(self.final_norm(x), (h, w))]
