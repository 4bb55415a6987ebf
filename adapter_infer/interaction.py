"""Injector, extractor and their interaction block: how the ViT and the spatial prior exchange features by MSDA.

Chen et al., Vision Transformer Adapter for Dense Predictions, 2022, sections 3.3 and 3.4. The paper's ablation puts
other attention in the place of MSDA; `attention` names it as in `adapter_infer.attention`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.attention import DEFORMABLE, CrossAttention
from adapter_infer.geometry import AdapterGeometry, Levels, to_map, to_tokens
from adapter_infer.msda import MSDeformAttn


class DWConv(nn.Module):
    """One depth-wise 3x3 convolution, shared by the three levels of the pyramid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, x: Tensor, pyramid: Levels) -> Tensor:
        parts = x.split([h * w for h, w in pyramid.shapes], 1)
        maps = [self.dwconv(to_map(part, shape)) for part, shape in zip(parts, pyramid.shapes, strict=True)]
        return torch.cat([to_tokens(feature_map) for feature_map in maps], 1)


class ConvFFN(nn.Module):
    """A feed-forward network with a depth-wise convolution between its layers, (N, S, C) -> (N, S, C)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DWConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, pyramid: Levels) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), pyramid)))


def _attention(kind: str, dim: int, num_heads: int, n_levels: int, n_points: int, ratio: float) -> nn.Module:
    """MSDA, or what the ablation puts in its place."""
    if kind == DEFORMABLE:
        return MSDeformAttn(dim, num_heads, n_levels=n_levels, n_points=n_points, ratio=ratio)
    return CrossAttention(dim, num_heads, kind, ratio)


class Injector(nn.Module):
    """The ViT's tokens look into the pyramid; `gamma` scales what they bring back."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        n_points: int,
        ratio: float,
        eps: float,
        init_values: float | None,
        attention: str = DEFORMABLE,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps)
        self.feat_norm = nn.LayerNorm(dim, eps)
        self.attn = _attention(attention, dim, num_heads, 3, n_points, ratio)
        self.gamma = nn.Parameter(torch.full((dim,), init_values or 0.0))

    def forward(self, x: Tensor, c: Tensor, geometry: AdapterGeometry) -> Tensor:
        queries = geometry.vit if isinstance(self.attn, CrossAttention) else geometry.vit_points
        return x + self.gamma * self.attn(self.query_norm(x), queries, self.feat_norm(c), geometry.pyramid)


class Extractor(nn.Module):
    """The pyramid's tokens look into the ViT's map, then pass a ConvFFN where `cffn_ratio` is given."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        n_points: int,
        ratio: float,
        eps: float,
        cffn_ratio: float | None,
        attention: str = DEFORMABLE,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps)
        self.feat_norm = nn.LayerNorm(dim, eps)
        self.attn = _attention(attention, dim, num_heads, 1, n_points, ratio)
        self.ffn = None if cffn_ratio is None else ConvFFN(dim, int(dim * cffn_ratio))
        self.ffn_norm = None if cffn_ratio is None else nn.LayerNorm(dim, eps)

    def forward(self, c: Tensor, x: Tensor, geometry: AdapterGeometry) -> Tensor:
        queries = geometry.pyramid if isinstance(self.attn, CrossAttention) else geometry.pyramid_points
        c = c + self.attn(self.query_norm(c), queries, self.feat_norm(x), geometry.vit)
        if self.ffn is None or self.ffn_norm is None:
            return c
        return c + self.ffn(self.ffn_norm(c), geometry.pyramid)


class Interaction(nn.Module):
    """An injector before a group of the ViT's blocks and an extractor after it; the last one may have two more."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        n_points: int,
        ratio: float,
        eps: float,
        init_values: float | None,
        cffn_ratio: float | None,
        extra_extractors: bool,
        attention: str = DEFORMABLE,
    ) -> None:
        super().__init__()
        same = (dim, num_heads, n_points, ratio, eps)
        self.injector = Injector(*same, init_values, attention)
        self.extractor = Extractor(*same, cffn_ratio, attention)
        extra = [Extractor(*same, cffn_ratio, attention) for _ in range(2 * extra_extractors)]
        self.extra_extractors = nn.ModuleList(extra) if extra else None

    def forward(
        self, x: Tensor, c: Tensor, run_blocks: Callable[[Tensor], Tensor], geometry: AdapterGeometry
    ) -> tuple[Tensor, Tensor]:
        """ViT tokens x (N, T, C) and pyramid tokens c (N, S, C) after this group; `run_blocks` is the ViT's part."""
        x = run_blocks(self.injector(x, c, geometry))
        c = self.extractor(c, x, geometry)
        for extractor in self.extra_extractors or ():
            c = extractor(c, x, geometry)
        return x, c
