"""DINOv3's adapter: spatial prior and extractors around a frozen ViT that never sees them.

ViT-Adapter (Chen et al., 2022) without its injectors: the ViT runs as it is, and four of its intermediate layers feed
one extractor each, the last one three. So the ViT is a graph of its own, which several adapters and heads can share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adapter_infer.dinov3.vit import DINOv3ViT
from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import AdapterGeometry, to_map, to_maps, to_tokens
from adapter_infer.heads.layers import resize
from adapter_infer.interaction import Extractor
from adapter_infer.spatial_prior import SpatialPriorModule

EPS = 1e-6  # of the adapter's own LayerNorms; the ViT's are 1e-5


class ExtractorBlock(nn.Module):
    """An extractor, and two more where `extra`, over the same tokens of the ViT."""

    def __init__(
        self, dim: int, num_heads: int, n_points: int, ratio: float, cffn_ratio: float | None, extra: bool
    ) -> None:
        super().__init__()
        self.extractor = Extractor(dim, num_heads, n_points, ratio, EPS, cffn_ratio)
        more = [Extractor(dim, num_heads, n_points, ratio, EPS, cffn_ratio) for _ in range(2 * extra)]
        self.extra_extractors = nn.ModuleList(more) if more else None

    def forward(self, c: Tensor, x: Tensor, geometry: AdapterGeometry) -> Tensor:
        """Pyramid tokens c (N, S, C) after looking into the ViT's tokens x (N, T, C)."""
        for extractor in (self.extractor, *(self.extra_extractors or ())):
            c = extractor(c, x, geometry)
        return c


class DINOv3Adapter(nn.Module):
    """(N, 3, H, W), H and W multiples of 32 -> maps (N, C, H/s, W/s) for s = 4, 8, 16, 32.

    The patches need multiples of 16, the spatial prior's coarsest map multiples of 32. `interaction_indexes` names the
    four blocks of `vit` whose output is taken, flat; the defaults are the official constants.
    """

    size_divisor = 32

    def __init__(
        self,
        vit: DINOv3ViT,
        interaction_indexes: Sequence[int],
        conv_inplane: int = 64,
        n_points: int = 4,
        deform_num_heads: int = 16,
        deform_ratio: float = 0.5,
        with_cffn: bool = True,
        cffn_ratio: float = 0.25,
        use_extra_extractor: bool = True,
        add_vit_feature: bool = True,
    ) -> None:
        super().__init__()
        self.interaction_indexes = _checked(interaction_indexes, len(vit.blocks))
        embed_dim = vit.embed_dim
        value_dim = int(embed_dim * deform_ratio)
        if value_dim % deform_num_heads:
            raise UnsupportedModel(
                f"the value width {value_dim} (embed_dim {embed_dim} x deform_ratio {deform_ratio}) is not a multiple "
                f"of deform_num_heads={deform_num_heads}"
            )
        self.embed_dim, self.add_vit_feature = embed_dim, add_vit_feature
        self.backbone = vit
        self.level_embed = nn.Parameter(torch.zeros(3, embed_dim))
        self.spm = SpatialPriorModule(conv_inplane, embed_dim)
        last = len(self.interaction_indexes) - 1
        self.interactions = nn.ModuleList(
            ExtractorBlock(
                embed_dim,
                deform_num_heads,
                n_points,
                deform_ratio,
                cffn_ratio if with_cffn else None,
                extra=use_extra_extractor and i == last,
            )
            for i in range(last + 1)
        )
        self.up = nn.ConvTranspose2d(embed_dim, embed_dim, 2, 2)
        self.norm1, self.norm2 = nn.BatchNorm2d(embed_dim), nn.BatchNorm2d(embed_dim)
        self.norm3, self.norm4 = nn.BatchNorm2d(embed_dim), nn.BatchNorm2d(embed_dim)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.maps(image, self.tokens(image))

    def tokens(self, image: Tensor) -> list[Tensor]:
        """The ViT's part: patch tokens (N, H/16*W/16, C) of the four blocks."""
        return self.backbone(image, self.interaction_indexes)

    def maps(self, image: Tensor, stages: Sequence[Tensor]) -> list[Tensor]:
        """The adapter's part: the four maps, from the image and from what `tokens` gave for it."""
        geometry = AdapterGeometry.of(image.shape[2], image.shape[3], image.device)
        (shape,), pyramid = geometry.vit.shapes, geometry.pyramid.shapes
        c1, *levels = self.spm(image)
        c = torch.cat([to_tokens(level) + self.level_embed[i] for i, level in enumerate(levels)], 1)
        for interaction, x in zip(self.interactions, stages, strict=True):
            c = interaction(c, x, geometry)
        c2, c3, c4 = to_maps(c, pyramid)
        maps = [self.up(c2) + c1, c2, c3, c4]
        if self.add_vit_feature:
            sizes = [(2 * h, 2 * w) for h, w in pyramid[:1]] + list(pyramid)
            for i, (x, size) in enumerate(zip(stages, sizes, strict=True)):
                square = to_map(x, shape)
                maps[i] = maps[i] + (square if i == 2 else resize(square, size, align_corners=False))
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return [norm(feature_map) for norm, feature_map in zip(norms, maps, strict=True)]


def _checked(indexes: Sequence[int], depth: int) -> list[int]:
    """Errors: UnsupportedModel unless these are four blocks, each once and in order."""
    numbers = [index for index in indexes if isinstance(index, int) and not isinstance(index, bool)]
    in_order = numbers == sorted(set(numbers)) and all(0 <= number < depth for number in numbers)
    if len(numbers) != len(indexes) or len(numbers) != 4 or not in_order:
        raise UnsupportedModel(
            f"interaction_indexes {list(indexes)} do not name four blocks, in order, of a backbone of depth {depth}; "
            "DINOv3's are a flat list such as [2, 5, 8, 11]"
        )
    return numbers
