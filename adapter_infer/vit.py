"""The plain ViT (DeiT, AugReg, MAE, DINOv2 weights), global or windowed, and its baselines ViTBaseline and ViTDet.

Dosovitskiy et al., An Image is Worth 16x16 Words, 2020; Li et al., Exploring Plain Vision Transformer Backbones for
Object Detection, 2022. Module names are those of the official ViT-Adapter checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer import windows
from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import Shape, check_image_size, to_map, to_tokens

EPS = 1e-6  # of every LayerNorm of ViT and BEiT and of their adapters; Uni-Perceiver's are 1e-5


def per_block(setting: object, depth: int) -> list:
    """A setting given once for all blocks or as a list, one entry a block."""
    values = list(setting) if isinstance(setting, (list, tuple)) else [setting] * depth
    if len(values) != depth:
        raise UnsupportedModel(f"a per-block setting has {len(values)} entries, but the backbone has depth={depth}")
    return values


def resize_position(position: Tensor, grid: int, shape: Shape) -> Tensor:
    """A learnt (1, grid*grid, C) position embedding at another grid, (1, H*W, C), bicubic as in training."""
    square = to_map(position, (grid, grid))
    return to_tokens(F.interpolate(square, size=shape, mode="bicubic", align_corners=False))


class PatchEmbed(nn.Module):
    """Patches of 16x16 pixels to tokens: (N, 3, H, W) -> (N, H/16 * W/16, C)."""

    def __init__(self, embed_dim: int, patch_size: int = 16) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return to_tokens(self.proj(image))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def attend(qkv: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Softmax attention over packed projections: qkv (N, T, 3*C), bias (1, heads, T, T) or None -> (N, T, C)."""
    n, t, width = qkv.shape
    q, k, v = qkv.reshape(n, t, 3, num_heads, width // 3 // num_heads).permute(2, 0, 3, 1, 4).split(1)
    out = F.scaled_dot_product_attention(q.squeeze(0), k.squeeze(0), v.squeeze(0), attn_mask=bias)
    return out.transpose(1, 2).reshape(n, t, width // 3)


class Attention(nn.Module):
    """Self-attention over all tokens, or over windows of `window` x `window` tokens.

    Windows are cut after the projection and padded with zeros there: padded keys take part in the softmax with logit 0.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, window: int | None = None) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        qkv = self.qkv(x)
        if self.window is None:
            return self.proj(attend(qkv, self.num_heads))
        out = attend(windows.partition(qkv, shape, self.window), self.num_heads)
        return self.proj(windows.merge(out, shape, self.window))


def add_scaled(x: Tensor, change: Tensor, scale: Tensor | None) -> Tensor:
    """A residual connection with LayerScale, the identity where `scale` is None."""
    return x + (change if scale is None else scale * change)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a (N, C, H, W) map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, EPS)
        return x.permute(0, 3, 1, 2)


class ResBottleneckBlock(nn.Module):
    """ViTDet's residual convolution block (1x1, 3x3, 1x1) that carries information between windows."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim // 2
        self.conv1, self.norm1 = nn.Conv2d(dim, hidden, 1, bias=False), ChannelNorm(hidden)
        self.conv2, self.norm2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), ChannelNorm(hidden)
        self.conv3, self.norm3 = nn.Conv2d(hidden, dim, 1, bias=False), ChannelNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        out = F.gelu(self.norm1(self.conv1(x)))
        out = F.gelu(self.norm2(self.conv2(out)))
        return x + self.norm3(self.conv3(out))


class Block(nn.Module):
    """A pre-norm transformer block, with LayerScale where `layer_scale`, a convolution block where `residual`.

    `ffn` makes its feed-forward network from the tokens' and the hidden width.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        window: int | None,
        layer_scale: bool,
        residual: bool = False,
        ffn: Callable[[int, int], nn.Module] = Mlp,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.attn = Attention(dim, num_heads, qkv_bias, window)
        self.norm2 = nn.LayerNorm(dim, EPS)
        self.mlp = ffn(dim, int(dim * mlp_ratio))
        self.gamma1 = nn.Parameter(torch.ones(dim)) if layer_scale else None
        self.gamma2 = nn.Parameter(torch.ones(dim)) if layer_scale else None
        self.residual = ResBottleneckBlock(dim) if residual else None

    def forward(self, x: Tensor, shape: Shape) -> Tensor:
        x = add_scaled(x, self.attn(self.norm1(x), shape), self.gamma1)
        x = add_scaled(x, self.mlp(self.norm2(x)), self.gamma2)
        return x if self.residual is None else to_tokens(self.residual(to_map(x, shape)))


class ViT(nn.Module):
    """What every plain ViT backbone has: patch embedding, position embedding and blocks.

    `img_size` and `pretrain_size` (pixels) say how large the stored position embedding's grid is; the network takes
    other sizes. `window_attn` and `window_size` are given once or per block.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        img_size: int = 224,
        pretrain_size: int = 224,
        patch_size: int = 16,
        layer_scale: bool = True,
        window_attn: bool | Sequence[bool] = False,
        window_size: int | Sequence[int | None] = 14,
        residual_indices: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.grid = pretrain_size // 16
        if (img_size // patch_size) ** 2 != self.grid**2:
            raise UnsupportedModel(
                f"img_size={img_size} with patch_size={patch_size} gives a position embedding of another grid than "
                f"pretrain_size={pretrain_size} ({self.grid}x{self.grid}); the official models need them equal"
            )
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        # Slot 0 belongs to a class token that no adapter uses; released checkpoints keep it.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, embed_dim))
        windowed, sizes = per_block(window_attn, depth), per_block(window_size, depth)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                window=sizes[index] if windowed[index] else None,
                layer_scale=layer_scale,
                residual=index in residual_indices,
            )
            for index in range(depth)
        )

    def embed(self, image: Tensor, shape: Shape) -> Tensor:
        """(N, 3, H, W) to tokens (N, H/16*W/16, C) with their positions, for `shape` = (H/16, W/16)."""
        return self.patch_embed(image) + resize_position(self.pos_embed[:, 1:], self.grid, shape)


class ViTBaseline(ViT):
    """The plain ViT as a four-level backbone, the adapter's measure; with one out_index it is ViTDet.

    (N, 3, H, W), H and W multiples of 16 -> maps of C channels at strides 4, 8, 16, 32. With `upsample` False all four
    stay at stride 16, as SETR takes them.
    """

    size_divisor = 16

    def __init__(self, out_indices: Sequence[int] | None = None, upsample: bool = True, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        depth, dim = len(self.blocks), self.embed_dim
        if out_indices is None and depth < 4:
            raise UnsupportedModel(f"depth {depth} has no four blocks to take maps from; name them with out_indices")
        # The segmentation code derives the four blocks that the detection code lists.
        self.out_indices = list(out_indices) if out_indices is not None else list(range(-1, depth, depth // 4))[1:]
        if len(self.out_indices) not in {1, 4}:
            raise UnsupportedModel(f"out_indices {self.out_indices} name {len(self.out_indices)} blocks; need 1 or 4")
        if upsample and dim % 32:
            raise UnsupportedModel(f"embed_dim {dim} is not a multiple of 32, which the baseline's GroupNorm needs")
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.norm3, self.norm4 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.up1: nn.Module = nn.Identity()
        self.up2: nn.Module = nn.Identity()
        self.up3: nn.Module = nn.Identity()
        self.up4: nn.Module = nn.Identity()
        if upsample:
            self.up1 = nn.Sequential(
                nn.ConvTranspose2d(dim, dim, 2, 2), nn.GroupNorm(32, dim), nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, 2)
            )
            self.up2 = nn.ConvTranspose2d(dim, dim, 2, 2)
            self.up4 = nn.MaxPool2d(2, 2)

    def forward(self, image: Tensor) -> list[Tensor]:
        h, w = image.shape[2:]
        check_image_size(h, w, self.size_divisor)
        shape = (h // 16, w // 16)
        x = self.embed(image, shape)
        outs = []
        for index, block in enumerate(self.blocks):
            x = block(x, shape)
            if index in self.out_indices:
                outs.append(x)
        return self.spread(outs, shape)

    def spread(self, outs: list[Tensor], shape: Shape) -> list[Tensor]:
        """The tokens of the chosen blocks, (N, H/16*W/16, C), as the four maps."""
        outs = outs * 4 if len(outs) == 1 else outs
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        ups = (self.up1, self.up2, self.up3, self.up4)
        return [up(to_map(norm(out), shape)) for up, norm, out in zip(ups, norms, outs, strict=True)]
