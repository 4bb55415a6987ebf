"""BEiT: attention with a learnt bias by relative position, global with a class token or in windows; and BEiTBaseline.

Bao et al., BEiT: BERT Pre-Training of Image Transformers, 2021. Module names are those of the official checkpoints.
The index that maps pairs of tokens to rows of the bias table is computed when it is needed: it is the same for all
blocks of one window size, and the copies that some checkpoints carry are neither required nor trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer import windows
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.geometry import Shape, to_map
from adapter_infer.vit import EPS, Mlp, PatchEmbed, add_scaled, attend, per_block


def relative_position_index(size: int, class_token: bool, device: torch.device | str) -> Tensor:
    """Row of the bias table for each pair of tokens of a `size` x `size` grid, (T, T) int64.

    The table holds (2*size-1)^2 rows for the relative positions and, with a class token (T = 1 + size^2), three more:
    class to patch, patch to class, class to class.
    """
    span = 2 * size - 1
    cell = torch.arange(size * size, dtype=torch.int64, device=device)
    y, x = cell // size, cell % size
    index = (y[:, None] - y[None, :] + size - 1) * span + (x[:, None] - x[None, :] + size - 1)
    if not class_token:
        return index
    rows = span * span
    index = F.pad(index, (0, 0, 1, 0), value=rows)
    index = F.pad(index, (1, 0, 0, 0), value=rows + 1)
    corner = torch.zeros_like(index[:1, :1]) + (rows + 2)
    top = torch.cat([corner, index[:1, 1:]], 1)
    return torch.cat([top, index[1:]], 0)


class Attention(nn.Module):
    """Self-attention with a relative position bias; keys have no bias term.

    Windows are cut before the projection and their zero padding is projected too: padded values equal v_bias.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, table_rows: int | None, window: int | None) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.relative_position_bias_table = (
            None if table_rows is None else nn.Parameter(torch.zeros(table_rows, num_heads))
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, shape: Shape, index: Tensor | None) -> Tensor:
        if self.window is not None:
            x = windows.partition(x, shape, self.window)
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        position = None
        if self.relative_position_bias_table is not None and index is not None:
            # Rows first, then the transpose: as an ONNX Gather this is five times faster than gathering columns.
            rows = F.embedding(index, self.relative_position_bias_table)
            position = rows.permute(2, 0, 1).unsqueeze(0)  # (1, heads, T, T)
        out = self.proj(attend(qkv, self.num_heads, position))
        return out if self.window is None else windows.merge(out, shape, self.window)


class Block(nn.Module):
    """A pre-norm transformer block with LayerScale (gamma_1, gamma_2) where `init_values` is given."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        init_values: float | None,
        table_rows: int | None,
        window: int | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attn = Attention(dim, num_heads, qkv_bias, table_rows, window)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.gamma_1 = None if init_values is None else nn.Parameter(torch.full((dim,), init_values))
        self.gamma_2 = None if init_values is None else nn.Parameter(torch.full((dim,), init_values))

    def forward(self, x: Tensor, shape: Shape, index: Tensor | None) -> Tensor:
        x = add_scaled(x, self.attn(self.norm1(x), shape, index), self.gamma_1)
        return add_scaled(x, self.mlp(self.norm2(x)), self.gamma_2)


class BEiT(nn.Module):
    """What every BEiT backbone has.

    `class_token` True (the segmentation code): global attention over a class token and a fixed grid of img_size/16.
    False (the detection code): no class token; blocks attend in windows of their own `window_size`, or globally over
    exactly window_size^2 tokens where `window_attn` is False.
    """

    def __init__(
        self,
        class_token: bool,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        img_size: int = 512,
        patch_size: int = 16,
        init_values: float | None = None,
        use_abs_pos_emb: bool = False,
        use_rel_pos_bias: bool = True,
        use_shared_rel_pos_bias: bool = False,
        window_attn: bool | Sequence[bool] = False,
        window_size: int | Sequence[int] = 14,
    ) -> None:
        super().__init__()
        if use_abs_pos_emb or use_shared_rel_pos_bias:
            raise UnsupportedModel(
                f"BEiT with use_abs_pos_emb={use_abs_pos_emb}, use_shared_rel_pos_bias={use_shared_rel_pos_bias} "
                "is not supported; no released model has either, set both to False"
            )
        self.embed_dim = embed_dim
        self.grid = img_size // patch_size
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        windowed, self.sizes = per_block(window_attn, depth), per_block(window_size, depth)
        if class_token:
            if any(windowed):
                raise UnsupportedModel("window_attn does not go with BEiT's class token (segmentation code); remove it")
            self.sizes = [self.grid] * depth
        self.biased = use_rel_pos_bias or not class_token  # the detection code always has tables
        self.fixed_size = img_size if class_token and self.biased else None
        rows = [(2 * size - 1) ** 2 + (3 if class_token else 0) if self.biased else None for size in self.sizes]
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                init_values,
                rows[i],
                self.sizes[i] if windowed[i] else None,
            )
            for i in range(depth)
        )

    def indexes(self, image: Tensor) -> dict[int, Tensor]:
        """The position indexes for this image. Errors: UsageError if it does not fit."""
        h, w = image.shape[2:]
        if self.fixed_size is not None and (h != self.fixed_size or w != self.fixed_size):
            raise UsageError(
                f"image size {h}x{w} does not fit this BEiT, whose position bias was trained at "
                f"{self.fixed_size}x{self.fixed_size}; resize it, or slide windows of that size over it"
            )
        return self.position_indexes(image.device)

    def position_indexes(self, device: torch.device | str) -> dict[int, Tensor]:
        """The relative position index of each window size that occurs; none without bias tables."""
        sizes = sorted(set(self.sizes)) if self.biased else []
        return {size: relative_position_index(size, self.cls_token is not None, device) for size in sizes}

    def run(self, x: Tensor, first: int, last: int, shape: Shape, indexes: dict[int, Tensor]) -> Tensor:
        """Blocks `first` to `last` (both included) over tokens x (N, T, C)."""
        for position in range(first, last + 1):
            x = self.blocks[position](x, shape, indexes.get(self.sizes[position]))
        return x


class BEiTBaseline(BEiT):
    """Plain BEiT as a four-level backbone: (N, 3, img_size, img_size) -> maps of C channels at strides 4, 8, 16, 32."""

    size_divisor = 16

    def __init__(self, out_indices: Sequence[int] = (3, 5, 7, 11), **settings: object) -> None:
        super().__init__(class_token=True, **({"img_size": 224} | settings))  # type: ignore[arg-type]
        if len(out_indices) != 4:
            raise UnsupportedModel(f"out_indices {list(out_indices)} do not name 4 blocks, which BEiTBaseline needs")
        self.out_indices = list(out_indices)
        dim = self.embed_dim
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, 2), nn.BatchNorm2d(dim), nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, 2)
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(dim, dim, 2, 2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2, 2)

    def forward(self, image: Tensor) -> list[Tensor]:
        indexes = self.indexes(image)
        shape = (image.shape[2] // 16, image.shape[3] // 16)
        tokens = self.patch_embed(image)
        assert self.cls_token is not None
        x = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        maps, done = [], 0
        for index in self.out_indices:
            x = self.run(x, done, index, shape, indexes)
            maps.append(to_map(x[:, 1:], shape))
            done = index + 1
        ups = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        return [up(feature_map) for up, feature_map in zip(ups, maps, strict=True)]
