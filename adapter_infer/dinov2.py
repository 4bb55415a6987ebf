"""DINOv2's ViT (patches of 14 pixels, class token, SwiGLU), its ViT-Adapter, and the plain ViT as its measure.

Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023. Module names are those of the official
segmentation_m2f code (github.com/facebookresearch/dinov2 at b8931f7), whose Mask2Former head and pixel decoder are the
same program, statement by statement, as those of ViT-Adapter at fd64a51: heads/mask2former.py serves both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import AdapterGeometry, Shape, check_image_size, to_map
from adapter_infer.vit import EPS, Block, Mlp, PatchEmbed, per_block, resize_position
from adapter_infer.vit_adapter import AdapterBody, AdapterSettings, RunBlocks


class SwiGLU(nn.Module):
    """A feed-forward network whose hidden units are gated by SiLU: w3(silu(w1(x)) * w2(x)).

    `hidden` is the width of the plain network that it replaces; two thirds of it, rounded up to a multiple of `align`,
    keep the parameters about equal.
    """

    def __init__(self, dim: int, hidden: int, bias: bool = True, align: int = 8) -> None:
        super().__init__()
        width = -(-int(2 * hidden / 3) // align) * align
        self.w1 = nn.Linear(dim, width, bias=bias)
        self.w2 = nn.Linear(dim, width, bias=bias)
        self.w3 = nn.Linear(width, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


FFNS: dict[str, type[Mlp] | type[SwiGLU]] = {"mlp": Mlp, "swiglu": SwiGLU}


class DINOv2(nn.Module):
    """What both DINOv2 backbones have: patch embedding, class token, position embedding and blocks.

    `img_size` and `pretrain_size` (pixels) say how large the stored position embedding's grid is. An image need not be
    a multiple of `patch_size`: the pixels right and below of the last whole patch are not embedded, and the positions
    spread over the patches that there are. `pre_norm` is CLIP's normalisation before the first block.
    """

    size_divisor = 32

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
        ffn_type: str = "mlp",
        use_cls: bool = True,
        pre_norm: bool = False,
        window_attn: bool | Sequence[bool] = False,
        window_size: int | Sequence[int | None] = 14,
    ) -> None:
        super().__init__()
        if ffn_type not in FFNS:
            raise UnsupportedModel(f"ffn_type={ffn_type!r} is not supported; supported: {', '.join(FFNS)}")
        self.embed_dim, self.patch_size = embed_dim, patch_size
        self.grid = pretrain_size // patch_size
        if img_size // patch_size != self.grid:
            raise UnsupportedModel(
                f"img_size={img_size} with patch_size={patch_size} gives a position embedding of another grid than "
                f"pretrain_size={pretrain_size} ({self.grid}x{self.grid}); the official models need them equal"
            )
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        if pre_norm:
            self.patch_embed.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size, bias=False)
        self.norm_pre = nn.LayerNorm(embed_dim, EPS) if pre_norm else nn.Identity()
        # Slot 0 is the class token's, and there without one too.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, embed_dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if use_cls else None
        windowed, sizes = per_block(window_attn, depth), per_block(window_size, depth)
        if use_cls and any(windowed):
            raise UnsupportedModel("window_attn does not go with a class token, which lies in no window; remove it")
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                window=sizes[index] if windowed[index] else None,
                layer_scale=layer_scale,
                ffn=FFNS[ffn_type],
            )
            for index in range(depth)
        )

    def start(self, image: Tensor, shape: Shape) -> tuple[Tensor, RunBlocks]:
        """Patch tokens (N, T, C) of an image (N, 3, H, W) with their positions, and what runs blocks over them."""
        position = resize_position(self.pos_embed[:, 1:], self.grid, shape)
        tokens = self.norm_pre(self.patch_embed(image) + position)
        cls = None
        if self.cls_token is not None:
            cls = self.norm_pre(self.cls_token + self.pos_embed[:, :1]).expand(image.shape[0], -1, -1)

        def run(x: Tensor, first: int, last: int) -> Tensor:
            # The class token travels from group to group beside the patch tokens, unseen by injectors and extractors.
            nonlocal cls
            if cls is not None:
                x = torch.cat([cls, x], 1)
            for index in range(first, last + 1):
                x = self.blocks[index](x, shape)
            if cls is not None:
                cls, x = x[:, :1], x[:, 1:]
            return x

        return tokens, run


def _resized(tokens: Tensor, shape: Shape, size: Sequence[int]) -> Tensor:
    """Tokens of a grid `shape` as a map of another (H, W), which is no multiple of it."""
    return F.interpolate(to_map(tokens, shape), size=tuple(size), mode="bilinear", align_corners=False)


class DINOv2Adapter(AdapterBody, DINOv2):
    """ViT-Adapter over DINOv2: (N, 3, H, W), H and W multiples of 32 -> maps of C channels at strides 4, 8, 16, 32.

    The ViT's tokens lie on the grid of its own patches; only multiples of 224 pixels hold whole patches of 14 as well.
    """

    def __init__(self, adapter: AdapterSettings, **settings: object) -> None:
        DINOv2.__init__(self, **settings)  # type: ignore[arg-type]
        self.add_adapter(adapter, len(self.blocks), EPS)

    def start(self, image: Tensor, shape: Shape) -> tuple[Tensor, RunBlocks]:
        return DINOv2.start(self, image, shape)

    def geometry(self, image: Tensor) -> AdapterGeometry:
        return AdapterGeometry.of(image.shape[2], image.shape[3], image.device, self.patch_size)

    def vit_map(self, tokens: Tensor, shape: Shape, size: Sequence[int], level: int) -> Tensor:
        return _resized(tokens, shape, size)


class DINOv2Baseline(DINOv2):
    """The plain DINOv2 ViT as a four-level backbone, the adapter's measure: what the adapter takes from the ViT alone.

    The tokens after four blocks (a quarter, half, three quarters and all of the depth, unless `out_indices` names
    others), each normalised and resized to strides 4, 8, 16, 32 as the adapter resizes them. Nobody published weights
    for it.
    """

    def __init__(self, out_indices: Sequence[int] | None = None, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        depth, dim = len(self.blocks), self.embed_dim
        self.out_indices = list(range(-1, depth, max(depth // 4, 1)))[1:] if out_indices is None else list(out_indices)
        if len(self.out_indices) != 4 or sorted(set(self.out_indices) & set(range(depth))) != self.out_indices:
            raise UnsupportedModel(
                f"out_indices {self.out_indices} do not name four blocks, in order, of a backbone of depth {depth}"
            )
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.norm3, self.norm4 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)

    def forward(self, image: Tensor) -> list[Tensor]:
        h, w = image.shape[2:]
        check_image_size(h, w, self.size_divisor)
        shape = (h // self.patch_size, w // self.patch_size)
        x, run = self.start(image, shape)
        maps, done = [], 0
        for level, (index, norm) in enumerate(
            zip(self.out_indices, (self.norm1, self.norm2, self.norm3, self.norm4), strict=True)
        ):
            x = run(x, done, index)
            maps.append(_resized(norm(x), shape, (h // (4 << level), w // (4 << level))))
            done = index + 1
        return maps
