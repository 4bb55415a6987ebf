"""Mask2Former: queries that classify and draw one mask each, attending only to where their last mask was.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, 2022. Module names are mmdet's
Mask2FormerHead, arithmetic that of the official segmentation code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.geometry import to_tokens
from adapter_infer.heads.layers import resize
from adapter_infer.heads.pixel_decoder import FFN, LEVELS, PixelDecoder, require, sine_encoding

ORDER = ["cross_attn", "norm", "self_attn", "norm", "ffn", "norm"]


class Attention(nn.Module):
    """Multi-head attention under mmcv's key names, without its residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn = nn.MultiheadAttention(dim, heads)  # holds the weights

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """query (N, Q, C), key and value (N, K, C), allowed (N, Q, K) bool -> (N, Q, C)."""
        weights = self.attn.in_proj_weight.chunk(3)
        biases = self.attn.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None
        if allowed is not None:  # added, and -inf in any type: a large finite number would not fit a half type
            mask = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, -torch.inf)[:, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.attn.out_proj(mixed.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked attention to a memory, attention among the queries, an FFN; each followed by its LayerNorm."""

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(dim, heads), Attention(dim, heads)])
        self.ffns = nn.ModuleList([FFN(dim, hidden)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(3)])

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        x = self.norms[0](x + self.attentions[0](x + position, key, value, allowed))
        placed = x + position
        x = self.norms[1](x + self.attentions[1](placed, placed, x))
        return self.norms[2](self.ffns[0](x))


class Decoder(nn.Module):
    """The decoder's layers and the norm of the prediction heads, under their official names."""

    def __init__(self, dim: int, hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, hidden, heads) for _ in range(layers))
        self.post_norm = nn.LayerNorm(dim)


class AttentionMask(nn.Module):
    """Where each query may look next, (N, Q, H, W) -> (N, Q, H*W) bool: cells its mask holds more likely than not.

    A query whose mask is empty looks everywhere; that is decided here, because a softmax over nothing is NaN. A module
    of its own, so that what it decides on can be seen, and replaced, from outside.
    """

    def forward(self, mask_logits: Tensor) -> Tensor:
        inside = mask_logits.flatten(2) >= 0  # sigmoid >= 1/2
        return inside | ~inside.any(-1, keepdim=True)


class Mask2FormerHead(nn.Module):
    """Maps at strides 4 to 32 -> class scores (N, num_classes, H/4, W/4), num_classes = things + stuff.

    The scores are sums over queries of class probability times mask probability: not logits, but never negative.
    """

    align_corners = False

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        num_things_classes: int,
        num_stuff_classes: int,
        num_queries: int,
        pixel_decoder: Mapping[str, Any],
        transformer_decoder: Mapping[str, Any],
        positional_encoding: Mapping[str, Any] | None = None,
        num_transformer_feat_level: int = LEVELS,
        enforce_decoder_input_project: bool = False,
        in_index: Sequence[int] = (0, 1, 2, 3),
    ) -> None:
        super().__init__()
        dim = feat_channels
        require(
            {"num_transformer_feat_level": num_transformer_feat_level}, "decode_head", num_transformer_feat_level=LEVELS
        )
        require(positional_encoding or {}, "positional_encoding", num_feats=dim // 2, normalize=True)
        layer = transformer_decoder["transformerlayers"]
        require(layer, "transformer_decoder's layer", operation_order=ORDER)
        attention, ffn = layer["attn_cfgs"], layer["ffn_cfgs"]
        require(attention, "transformer_decoder's attention", type="MultiheadAttention", embed_dims=dim)
        require(ffn, "transformer_decoder's FFN", embed_dims=dim, num_fcs=2)
        hidden = int(ffn.get("feedforward_channels") or layer["feedforward_channels"])
        self.in_index, self.dim = list(in_index), dim
        self.attention_mask = AttentionMask()
        self.pixel_decoder = PixelDecoder(in_channels, dim, out_channels, pixel_decoder)
        layers = int(transformer_decoder["num_layers"])
        self.transformer_decoder = Decoder(dim, hidden, int(attention["num_heads"]), layers)
        self.decoder_input_projs = nn.ModuleList(
            nn.Conv2d(dim, dim, 1) if enforce_decoder_input_project else nn.Identity() for _ in range(LEVELS)
        )
        self.query_embed = nn.Embedding(num_queries, dim)
        self.query_feat = nn.Embedding(num_queries, dim)
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.cls_embed = nn.Linear(dim, num_things_classes + num_stuff_classes + 1)  # the last one: no object
        self.mask_embed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out_channels)
        )

    def mask_logits(self, normed: Tensor, mask_features: Tensor) -> Tensor:
        """(N, Q, H/4, W/4): what each query draws, from the queries after their norm (N, Q, C)."""
        return (self.mask_embed(normed) @ mask_features.flatten(2)).unflatten(2, mask_features.shape[2:])

    def predict(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """class_logits (N, Q, num_classes + 1) and mask_logits (N, Q, H/4, W/4) of the last layer's queries."""
        mask_features, memories = self.pixel_decoder([maps[index] for index in self.in_index])
        keys, values = [], []
        for memory, project, level in zip(memories, self.decoder_input_projs, self.level_embed.weight, strict=True):
            value = to_tokens(project(memory)) + level
            values.append(value)
            position = sine_encoding((memory.shape[2], memory.shape[3]), self.dim // 2, value.device)
            keys.append(value + position.to(value.dtype))
        decoder = self.transformer_decoder
        queries = self.query_feat.weight[None].expand(mask_features.shape[0], -1, -1)
        position = self.query_embed.weight[None]
        normed = decoder.post_norm(queries)
        masks = self.mask_logits(normed, mask_features)
        for i, layer in enumerate(decoder.layers):
            level = i % LEVELS
            allowed = self.attention_mask(resize(masks, memories[level].shape[2:], align_corners=False))
            queries = layer(queries, position, keys[level], values[level], allowed)
            normed = decoder.post_norm(queries)  # predictions read the normed queries, the next layer the others
            masks = self.mask_logits(normed, mask_features)
        return self.cls_embed(normed), masks

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return semantic_scores(*self.predict(maps))


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """(N, Q, num_classes + 1), (N, Q, H, W) -> (N, num_classes, H, W): queries vote where their mask is."""
    votes = class_logits.softmax(-1)[..., :-1].transpose(1, 2)
    return (votes @ mask_logits.sigmoid().flatten(2)).unflatten(2, mask_logits.shape[2:])
