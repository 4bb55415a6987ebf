"""DINOv3's Mask2Former: the arithmetic of `adapter_infer.heads`, under Detectron2's module names.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, 2022. The classes here only hold the
weights under their official names and show them to the inherited forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import Levels
from adapter_infer.heads.mask2former import Attention, AttentionMask, Mask2FormerHead
from adapter_infer.heads.pixel_decoder import LEVELS, PixelDecoder
from adapter_infer.msda import MSDeformAttn

GROUPS = 32  # of every GroupNorm
POINTS = 4


class NormedConv(nn.Conv2d):
    """A convolution without bias, GroupNorm as its child `norm`, ReLU where `act`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, act: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(super().forward(x))
        return F.relu(x) if self.act else x


class EncoderLayer(nn.Module):
    """MSDA over the tokens themselves, then an FFN; each followed by its LayerNorm."""

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(dim, heads, LEVELS, POINTS)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, points: Tensor, levels: Levels) -> Tensor:
        x = self.norm1(x + self.self_attn(x + position, points, x, levels))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Encoder(nn.Module):
    """`level_encoding` (3, C) and, one level deeper, the layers."""

    def __init__(self, dim: int, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.level_encoding = nn.Parameter(torch.zeros(LEVELS, dim))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(layers)

    layers: Any = property(attrgetter("encoder.layers"))


class DINOv3PixelDecoder(PixelDecoder):
    """PixelDecoder whose modules bear Detectron2's names."""

    level_encoding: Any = property(lambda self: SimpleNamespace(weight=self.encoder.level_encoding))

    def __init__(self, in_channels: Sequence[int], dim: int, hidden: int, heads: int, layers: int) -> None:
        nn.Module.__init__(self)
        self.dim = dim
        self.input_convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(GROUPS, dim)) for width in reversed(in_channels[1:])
        )
        self.encoder = Encoder(dim, [EncoderLayer(dim, hidden, heads) for _ in range(layers)])  # type: ignore[assignment]
        self.mask_feature = nn.Conv2d(dim, dim, 1)
        self.lateral_convs = nn.ModuleList([NormedConv(in_channels[0], dim, 1, act=False)])
        self.output_convs = nn.ModuleList([NormedConv(dim, dim, 3, act=True)])


class CrossAttentionLayer(Attention):
    """Attention to a memory, and the norm after it."""

    attn: Any = property(attrgetter("multihead_attn"))

    def __init__(self, dim: int, heads: int) -> None:
        nn.Module.__init__(self)
        self.heads = heads
        self.multihead_attn, self.norm = nn.MultiheadAttention(dim, heads), nn.LayerNorm(dim)


class SelfAttentionLayer(Attention):
    """Attention among the queries, and the norm after it."""

    attn: Any = property(attrgetter("self_attn"))

    def __init__(self, dim: int, heads: int) -> None:
        nn.Module.__init__(self)
        self.heads = heads
        self.self_attn, self.norm = nn.MultiheadAttention(dim, heads), nn.LayerNorm(dim)


class FFNLayer(nn.Module):
    """Linear, ReLU, Linear, and the norm after their residual."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class MaskEmbedding(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        return third(F.relu(second(F.relu(first(x)))))


class Predictor(nn.Module):
    """The transformer decoder and the prediction heads."""

    def __init__(self, dim: int, hidden: int, heads: int, layers: int, num_queries: int, num_classes: int) -> None:
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttentionLayer(dim, heads) for _ in range(layers))
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttentionLayer(dim, heads) for _ in range(layers))
        self.transformer_ffn_layers = nn.ModuleList(FFNLayer(dim, hidden) for _ in range(layers))
        self.post_norm = nn.LayerNorm(dim)
        self.query_feat, self.query_embed = nn.Embedding(num_queries, dim), nn.Embedding(num_queries, dim)
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)  # the last one: no object
        self.mask_embed = MaskEmbedding(dim)

    @property
    def layers(self) -> list[Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]]:
        """Each layer's three parts as one function, as the inherited decoder calls it."""
        parts = (self.transformer_cross_attention_layers, self.transformer_self_attention_layers)
        return [_layer(*modules) for modules in zip(*parts, self.transformer_ffn_layers, strict=True)]


def _layer(
    cross: nn.Module, own: nn.Module, ffn: nn.Module
) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    def run(x: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        x = cross.norm(x + cross(x + position, key, value, allowed))  # type: ignore[operator]
        placed = x + position
        x = own.norm(x + own(placed, placed, x))  # type: ignore[operator]
        return ffn(x)

    return run


class DINOv3Mask2FormerHead(Mask2FormerHead):
    """Mask2FormerHead whose modules bear Detectron2's names; the defaults are the official constants."""

    transformer_decoder: Any = property(attrgetter("predictor"))
    query_feat: Any = property(attrgetter("predictor.query_feat"))
    query_embed: Any = property(attrgetter("predictor.query_embed"))
    level_embed: Any = property(attrgetter("predictor.level_embed"))
    cls_embed: Any = property(attrgetter("predictor.class_embed"))
    mask_embed: Any = property(attrgetter("predictor.mask_embed"))
    decoder_input_projs: Any = property(lambda self: [nn.Identity()] * LEVELS)

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden_dim: int = 2048,
        num_classes: int = 150,
        num_queries: int = 100,
        nheads: int = 16,
        dim_feedforward: int = 4096,
        enc_layers: int = 6,
        dec_layers: int = 9,
    ) -> None:
        nn.Module.__init__(self)
        if hidden_dim % GROUPS or hidden_dim % nheads:
            raise UnsupportedModel(
                f"hidden_dim {hidden_dim} must be a multiple of {GROUPS} (groups of its norms) and of nheads={nheads}"
            )
        self.in_index, self.dim = [0, 1, 2, 3], hidden_dim
        self.attention_mask = AttentionMask()
        self.pixel_decoder = DINOv3PixelDecoder(in_channels, hidden_dim, dim_feedforward, nheads, enc_layers)
        self.predictor = Predictor(hidden_dim, dim_feedforward, nheads, dec_layers, num_queries, num_classes)
