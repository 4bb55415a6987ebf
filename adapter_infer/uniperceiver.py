"""The Uni-Perceiver encoder as a vision backbone: a BERT-style transformer over image patches.

Zhu et al., Uni-Perceiver, 2021. Module names are those of the official ViT-Adapter checkpoints. Every LayerNorm has
eps 1e-5, unlike the other families.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer import windows
from adapter_infer.geometry import Shape, to_tokens
from adapter_infer.vit import attend, per_block, resize_position

EPS = 1e-5
MAX_FRAMES = 8  # rows of the temporal embedding; an image is frame 0


class SelfAttention(nn.Module):
    """Self-attention, global or windowed. Windows are padded before the projection, so padding carries its bias."""

    def __init__(self, dim: int, num_heads: int, window: int | None) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        if self.window is None:
            return self.out_proj(attend(self.in_proj(x), self.num_heads))
        out = attend(self.in_proj(windows.partition(x, shape, self.window)), self.num_heads)
        return self.out_proj(windows.merge(out, shape, self.window))


class Layer(nn.Module):
    """A pre-norm transformer block with LayerScale."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, window: int | None) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads, window)
        self.linear1 = nn.Linear(dim, int(dim * mlp_ratio))
        self.linear2 = nn.Linear(int(dim * mlp_ratio), dim)
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.gamma_1 = nn.Parameter(torch.zeros(dim))
        self.gamma_2 = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        x = x + self.gamma_1 * self.self_attn(self.norm1(x), shape)
        return x + self.gamma_2 * self.linear2(F.gelu(self.linear1(self.norm2(x))))


class PatchEmbed(nn.Module):
    """Patches with their spatial position and the temporal position of a single frame."""

    def __init__(self, embed_dim: int, patch_size: int, img_size: int) -> None:
        super().__init__()
        self.grid = img_size // 16
        self.spatial_pos_embed = nn.Embedding((img_size // patch_size) ** 2, embed_dim)
        self.temporal_pos_embed = nn.Embedding(MAX_FRAMES, embed_dim)
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, image: Tensor, shape: Shape) -> Tensor:
        position = resize_position(self.spatial_pos_embed.weight.unsqueeze(0), self.grid, shape)
        return to_tokens(self.proj(image)) + position + self.temporal_pos_embed.weight[:1].unsqueeze(0)


class VisualEmbed(nn.Module):
    """The patch embedding and the norm after it."""

    def __init__(self, embed_dim: int, patch_size: int, img_size: int) -> None:
        super().__init__()
        self.embeddings_norm = nn.LayerNorm(embed_dim, EPS)
        self.patch_embed = PatchEmbed(embed_dim, patch_size, img_size)

    def forward(self, image: Tensor, shape: Shape) -> Tensor:
        return self.embeddings_norm(self.patch_embed(image, shape))


class UniPerceiver(nn.Module):
    """What every Uni-Perceiver backbone has. `window_attn` and `window_size` are given once or per block."""

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        img_size: int = 224,
        patch_size: int = 16,
        window_attn: bool | Sequence[bool] = False,
        window_size: int | Sequence[int | None] = 14,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        windowed, sizes = per_block(window_attn, depth), per_block(window_size, depth)
        self.layers = nn.ModuleList(
            Layer(embed_dim, num_heads, mlp_ratio, sizes[i] if windowed[i] else None) for i in range(depth)
        )
        self.visual_embed = VisualEmbed(embed_dim, patch_size, img_size)
