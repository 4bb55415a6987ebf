"""DINOv3's plain ViT: rotary positions, storage tokens, keys without a bias, layer scale, MLP or SwiGLU.

Siméoni et al., DINOv3, 2025; rotary positions: Su et al., RoFormer, 2021; SwiGLU: Shazeer, GLU Variants Improve
Transformer, 2020. Letters: N batch, T patch tokens, C channels, M heads, D = C/M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.dinov2 import SwiGLU
from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import Shape, check_image_size
from adapter_infer.vit import Mlp, PatchEmbed

PATCH = 16
NORMS = {"layernorm": 1e-6, "layernormbf16": 1e-5}  # the official name of a norm says its eps
SWIGLU_ALIGNMENT = {"swiglu": 8, "swiglu32": 32, "swiglu64": 64, "swiglu128": 128}


class RotaryEmbedding(nn.Module):
    """Sines and cosines that turn a head's channels by a patch's place; `periods` (D/4,) come with the weights.

    The first half of the angles belongs to the row, the second to the column; places run from -1 to 1 over each edge,
    so any image size has them.
    """

    periods: Tensor

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        if head_dim % 4:
            raise UnsupportedModel(f"heads of {head_dim} channels cannot turn by row and column; need a multiple of 4")
        exponents = 2 * torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim // 2)
        self.register_buffer("periods", base**exponents)

    def forward(self, shape: Shape, unturned: int) -> tuple[Tensor, Tensor]:
        """sin and cos, (unturned + T, D) each; the first `unturned` tokens have no place and stay as they are."""
        h, w = shape
        parts = self.periods.shape[0]
        rows = self._angles(h)[:, None].expand(h, w, parts)
        columns = self._angles(w)[None].expand(h, w, parts)
        angles = torch.cat((rows, columns), 2).reshape(h * w, 2 * parts).repeat(1, 2)
        still = angles.new_zeros((unturned, 4 * parts))
        angles = torch.cat((still, angles))
        return angles.sin(), angles.cos()

    def _angles(self, size: int) -> Tensor:
        centres = (torch.arange(size, dtype=torch.float32, device=self.periods.device) + 0.5) / size
        return 2 * math.pi * (2 * centres - 1)[:, None] / self.periods


def turn(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """x (N, M, T, D): channel i and channel i + D/2 are the two coordinates that an angle turns."""
    sin, cos = rotary
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class MaskedBiasLinear(nn.Linear):
    """A linear layer whose bias is multiplied by `bias_mask`, which comes with the weights: 0 for the keys, else 1."""

    bias_mask: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        mask = torch.ones(outputs)
        mask[outputs // 3 : 2 * outputs // 3] = 0
        self.register_buffer("bias_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class Attention(nn.Module):
    """Self-attention over all tokens with turned queries and keys."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, mask_k_bias: bool, proj_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        masked = qkv_bias and mask_k_bias
        self.qkv = MaskedBiasLinear(dim, 3 * dim) if masked else nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        n, t, c = x.shape
        packed = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = (part.squeeze(0) for part in packed.split(1))
        mixed = F.scaled_dot_product_attention(turn(q, rotary), turn(k, rotary), v)
        return self.proj(mixed.transpose(1, 2).reshape(n, t, c))


def feed_forward(kind: str, dim: int, ratio: float, bias: bool) -> nn.Module:
    """The official `ffn_layer` of that name. SwiGLU has two thirds of the width, rounded up to its alignment."""
    hidden = int(dim * ratio)
    if kind == "mlp" and bias:
        return Mlp(dim, hidden)
    if kind not in SWIGLU_ALIGNMENT:
        raise UnsupportedModel(
            f"ffn_layer {kind!r} {'' if bias else 'without bias '}is not supported; supported: mlp (with bias), "
            f"{', '.join(SWIGLU_ALIGNMENT)}"
        )
    return SwiGLU(dim, hidden, bias, SWIGLU_ALIGNMENT[kind])


class LayerScale(nn.Module):
    """A learnt factor a channel."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, attention: Attention, mlp: nn.Module, dim: int, eps: float, layer_scale: float | None) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps), attention
        self.ls1: nn.Module = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.norm2, self.mlp = nn.LayerNorm(dim, eps), mlp
        self.ls2: nn.Module = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DINOv3ViT(nn.Module):
    """The frozen ViT by its official arguments; (N, 3, H, W), H and W multiples of 16.

    `mask_token` and, where `untie_global_and_local_cls_norm`, `local_cls_norm` are part of the weights and used in
    training alone; `cls_norm` (`untie_cls_and_patch_norms`) normalises tokens that no adapter reads.
    """

    size_divisor = PATCH

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        ffn_ratio: float = 4.0,
        ffn_layer: str = "mlp",
        qkv_bias: bool = True,
        proj_bias: bool = True,
        ffn_bias: bool = True,
        mask_k_bias: bool = True,
        n_storage_tokens: int = 4,
        layerscale_init: float | None = 1e-5,
        norm_layer: str = "layernormbf16",
        pos_embed_rope_base: float = 100.0,
        untie_cls_and_patch_norms: bool = False,
        untie_global_and_local_cls_norm: bool = False,
    ) -> None:
        super().__init__()
        if norm_layer not in NORMS:
            raise UnsupportedModel(f"norm_layer {norm_layer!r} is not supported; supported: {', '.join(NORMS)}")
        if embed_dim % num_heads:
            raise UnsupportedModel(f"embed_dim {embed_dim} is not a multiple of num_heads={num_heads}")
        eps = NORMS[norm_layer]
        self.embed_dim, self.n_storage_tokens = embed_dim, n_storage_tokens
        self.patch_embed = PatchEmbed(embed_dim, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if n_storage_tokens:
            self.storage_tokens = nn.Parameter(torch.zeros(1, n_storage_tokens, embed_dim))
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.rope_embed = RotaryEmbedding(embed_dim // num_heads, pos_embed_rope_base)
        self.blocks = nn.ModuleList(
            Block(
                Attention(embed_dim, num_heads, qkv_bias, mask_k_bias, proj_bias),
                feed_forward(ffn_layer, embed_dim, ffn_ratio, ffn_bias),
                embed_dim,
                eps,
                layerscale_init,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps)
        self.cls_norm = nn.LayerNorm(embed_dim, eps) if untie_cls_and_patch_norms else None
        self.local_cls_norm = nn.LayerNorm(embed_dim, eps) if untie_global_and_local_cls_norm else None

    def forward(self, image: Tensor, indexes: Sequence[int]) -> list[Tensor]:
        """The patch tokens (N, H/16*W/16, C) after each of the blocks `indexes` (ascending), normalised by `norm`.

        Class and storage tokens take part in the attention and are not returned.
        """
        n, _, h, w = image.shape
        check_image_size(h, w, PATCH)
        first = [self.cls_token] + ([self.storage_tokens] if self.n_storage_tokens else [])
        x = torch.cat([*(token.expand(n, -1, -1) for token in first), self.patch_embed(image)], 1)
        rotary = self.rope_embed((h // PATCH, w // PATCH), 1 + self.n_storage_tokens)
        outs = []
        for index in range(max(indexes) + 1):
            x = self.blocks[index](x, rotary)
            if index in indexes:
                outs.append(self.norm(x[:, 1 + self.n_storage_tokens :]))
        return outs
