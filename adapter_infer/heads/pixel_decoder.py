"""Mask2Former's pixel decoder: MSDA over three maps, then one feature pyramid step down to stride 4.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, 2022; Zhu et al., Deformable DETR,
2020. Module names are mmdet's MSDeformAttnPixelDecoder. Levels run from low to high resolution everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import Levels, Shape, reference_points, to_map, to_tokens
from adapter_infer.heads.layers import ConvModule, resize
from adapter_infer.msda import MSDeformAttn

LEVELS = 3


def require(config: Mapping[str, Any], where: str, **supported: Any) -> None:
    """Errors: UnsupportedModel where an entry is there and differs from the one value that is supported."""
    for key, value in supported.items():
        if key in config and config[key] != value:
            raise UnsupportedModel(f"{where} has {key}={config[key]!r}; only {value!r} is supported")


def sine_encoding(shape: Shape, features: int, device: torch.device) -> Tensor:
    """(1, H*W, 2*features) float32: y then x, each as `features` interleaved sines and cosines.

    Positions count from 1 (the first row is 1, not 1/2) and are scaled so that the last is 2*pi; the official code's
    normalised SinePositionalEncoding.
    """
    channel = torch.arange(features, dtype=torch.float32, device=device)
    period = 10000.0 ** (2 * torch.div(channel, 2, rounding_mode="floor") / features)

    def axis(size: int) -> Tensor:
        position = torch.arange(1, size + 1, dtype=torch.float32, device=device) / (size + 1e-6) * (2 * math.pi)
        angle = position[:, None] / period
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), 2).flatten(1)  # (size, features)

    h, w = shape
    y = axis(h)[:, None].expand(h, w, features)
    x = axis(w)[None].expand(h, w, features)
    return torch.cat((y, x), 2).reshape(1, h * w, 2 * features)


class FFN(nn.Module):
    """x + Linear(ReLU(Linear(x))), under mmcv's key names."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden)), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers[1](F.relu(self.layers[0](x)))


class EncoderLayer(nn.Module):
    """MSDA over the tokens themselves, then an FFN; each followed by its LayerNorm."""

    def __init__(self, dim: int, hidden: int, heads: int, points: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MSDeformAttn(dim, heads, LEVELS, points)])
        self.ffns = nn.ModuleList([FFN(dim, hidden)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])

    def forward(self, x: Tensor, position: Tensor, points: Tensor, levels: Levels) -> Tensor:
        # Positions steer where to look; what is fetched there does not contain them.
        x = self.norms[0](x + self.attentions[0](x + position, points, x, levels))
        return self.norms[1](self.ffns[0](x))


class Encoder(nn.Module):
    """The encoder's layers under their official name."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class PixelDecoder(nn.Module):
    """Maps at strides 4, 8, 16, 32 -> mask features at stride 4 and memories at strides 32, 16, 8.

    `in_channels` belongs to the four maps, fine to coarse; `dim` is the width inside, `out_channels` that of the mask
    features.
    """

    def __init__(self, in_channels: Sequence[int], dim: int, out_channels: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        require(config, "pixel_decoder", type="MSDeformAttnPixelDecoder", num_outs=LEVELS)
        require(config.get("act_cfg") or {}, "pixel_decoder's act_cfg", type="ReLU")
        norm = config.get("norm_cfg") or {}
        require(norm, "pixel_decoder's norm_cfg", type="GN")
        groups = int(norm.get("num_groups", 32))
        encoder = config["encoder"]
        layer = encoder["transformerlayers"]
        require(layer, "the pixel decoder's layer", operation_order=["self_attn", "norm", "ffn", "norm"])
        attention, ffn = layer["attn_cfgs"], layer["ffn_cfgs"]
        require(attention, "the pixel decoder's attention", embed_dims=dim, num_levels=LEVELS)
        require(ffn, "the pixel decoder's FFN", embed_dims=dim, num_fcs=2)
        require(config["positional_encoding"], "positional_encoding", num_feats=dim // 2, normalize=True)
        self.dim = dim
        coarse_first = list(reversed(in_channels[1:]))
        self.input_convs = nn.ModuleList(
            ConvModule(width, dim, 1, norm=True, act=False, groups=groups, bias=True) for width in coarse_first
        )
        hidden, heads = int(ffn["feedforward_channels"]), int(attention["num_heads"])
        points = int(attention.get("num_points", 4))
        self.encoder = Encoder([EncoderLayer(dim, hidden, heads, points) for _ in range(int(encoder["num_layers"]))])
        self.level_encoding = nn.Embedding(LEVELS, dim)
        self.lateral_convs = nn.ModuleList([ConvModule(in_channels[0], dim, 1, norm=True, act=False, groups=groups)])
        self.output_convs = nn.ModuleList([ConvModule(dim, dim, 3, norm=True, groups=groups)])
        self.mask_feature = nn.Conv2d(dim, out_channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mask features (N, out_channels, H/4, W/4), and memories (N, dim, H/s, W/s) for s = 32, 16, 8."""
        projected = [conv(x) for conv, x in zip(self.input_convs, reversed(maps[1:]), strict=True)]
        shapes: list[Shape] = [(x.shape[2], x.shape[3]) for x in projected]
        device = maps[0].device
        levels, points = Levels.of(shapes, device), reference_points(shapes, device)
        tokens = torch.cat([to_tokens(x) for x in projected], 1)
        encoding = self.level_encoding.weight
        position = torch.cat(
            [
                sine_encoding(shape, self.dim // 2, device).to(tokens.dtype) + encoding[i]
                for i, shape in enumerate(shapes)
            ],
            1,
        )
        for layer in self.encoder.layers:
            tokens = layer(tokens, position, points, levels)
        split = tokens.split([h * w for h, w in shapes], 1)
        memories = [to_map(part, shape) for part, shape in zip(split, shapes, strict=True)]
        fine = self.lateral_convs[0](maps[0])
        fine = fine + resize(memories[-1], fine.shape[2:], align_corners=False)
        return self.mask_feature(self.output_convs[0](fine)), memories
