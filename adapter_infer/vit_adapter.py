"""ViT-Adapter over each plain backbone: spatial prior, interactions, and the four maps they end in.

Chen et al., Vision Transformer Adapter for Dense Predictions, 2022. One body serves ViT, BEiT and Uni-Perceiver; the
families differ in how tokens are embedded and how a group of blocks runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer import uniperceiver, vit
from adapter_infer.attention import DEFORMABLE
from adapter_infer.attention import check as check_attention
from adapter_infer.beit import BEiT
from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import AdapterGeometry, Shape, to_map, to_maps, to_tokens
from adapter_infer.interaction import Interaction
from adapter_infer.spatial_prior import SpatialPriorModule
from adapter_infer.uniperceiver import UniPerceiver
from adapter_infer.vit import ViT

# How much of the adapter there is, each with what stands before it; all but the last are in `adapter_infer.ablation`.
COMPONENTS = ("none", "spatial_prior", "injector", "extractor")


class RunBlocks(Protocol):
    """Runs blocks `first` to `last` (both included) over patch tokens; called once per interaction, in order."""

    def __call__(self, x: Tensor, first: int, last: int) -> Tensor: ...


@dataclass(frozen=True)
class AdapterSettings:
    """The adapter's own numbers, by their official names (deform_num_heads is M of the MSDA, n_points its P).

    `interaction_indexes` lists the first and last block of each interaction. `vit_features` says what is added to the
    four maps: "stages" the ViT's tokens after each of four interactions (segmentation, BEiT "old"), "final" the last
    ones at all four levels (detection), "none" nothing. `attention` and `components` are for the paper's ablations:
    what injectors and extractors attend by (`adapter_infer.attention`), and how much of the adapter there is
    (`adapter_infer.ablation`).
    """

    interaction_indexes: Sequence[Sequence[int]]
    conv_inplane: int = 64
    n_points: int = 4
    deform_num_heads: int = 6
    init_values: float | None = 0.0
    with_cffn: bool = True
    cffn_ratio: float = 0.25
    deform_ratio: float = 1.0
    use_extra_extractor: bool = True
    vit_features: str = "stages"
    attention: str = DEFORMABLE
    components: str = COMPONENTS[-1]


def check_groups(groups: Sequence[Sequence[int]], depth: int) -> None:
    """Errors: UnsupportedModel where `interaction_indexes` name blocks that are not there, or none."""
    if not groups or any(not 0 <= group[0] <= group[-1] < depth for group in groups):
        raise UnsupportedModel(f"interaction_indexes {groups} do not name blocks of a backbone of depth {depth}")


class AdapterBody(nn.Module, ABC):
    """The adapter's modules and forward pass, mixed into a plain backbone that offers `start`."""

    size_divisor = 32
    embed_dim: int

    def add_adapter(self, settings: AdapterSettings, depth: int, eps: float) -> None:
        dim, last = self.embed_dim, len(settings.interaction_indexes) - 1
        self._check(settings, depth)
        self.groups = [(int(indexes[0]), int(indexes[-1])) for indexes in settings.interaction_indexes]
        self.vit_features = settings.vit_features
        self.level_embed = nn.Parameter(torch.zeros(3, dim))
        self.spm = SpatialPriorModule(settings.conv_inplane, dim)
        self.interactions = nn.ModuleList(
            Interaction(
                dim,
                settings.deform_num_heads,
                settings.n_points,
                settings.deform_ratio,
                eps,
                settings.init_values,
                settings.cffn_ratio if settings.with_cffn else None,
                extra_extractors=settings.use_extra_extractor and i == last,
                attention=settings.attention,
            )
            for i in range(last + 1)
        )
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)
        self.norm3, self.norm4 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)

    def _check(self, settings: AdapterSettings, depth: int) -> None:
        groups = settings.interaction_indexes
        check_attention(settings.attention, settings.deform_num_heads)
        if settings.components != COMPONENTS[-1]:
            raise UnsupportedModel(
                f"components {settings.components!r} is not for {type(self).__name__}; the ablation is of ViTAdapter "
                f"and takes {', '.join(COMPONENTS)}"
            )
        check_groups(groups, depth)
        if settings.vit_features == "stages" and len(groups) != 4:
            raise UnsupportedModel(
                f"add_vit_feature needs exactly 4 interactions in this forward pass, but there are {len(groups)}"
            )
        value_dim = int(self.embed_dim * settings.deform_ratio)
        if value_dim % settings.deform_num_heads:
            raise UnsupportedModel(
                f"the value width {value_dim} (embed_dim {self.embed_dim} x deform_ratio {settings.deform_ratio}) "
                f"is not a multiple of deform_num_heads={settings.deform_num_heads}"
            )

    @abstractmethod
    def start(self, image: Tensor, shape: Shape) -> tuple[Tensor, RunBlocks]:
        """Patch tokens (N, T, C) with their positions, and what runs blocks over them."""

    def geometry(self, image: Tensor) -> AdapterGeometry:
        """Shapes and points for an image (N, 3, H, W). Errors: UsageError unless H and W are multiples of 32."""
        return AdapterGeometry.of(image.shape[2], image.shape[3], image.device)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W), H and W multiples of 32 -> maps (N, C, H/s, W/s) for s = 4, 8, 16, 32."""
        geometry = self.geometry(image)
        (shape,), pyramid = geometry.vit.shapes, geometry.pyramid.shapes
        c1, *levels = self.spm(image)
        c = torch.cat([to_tokens(level) + self.level_embed[i] for i, level in enumerate(levels)], 1)
        x, run = self.start(image, shape)
        stages = []
        for interaction, (first, last) in zip(self.interactions, self.groups, strict=True):
            x, c = interaction(x, c, partial(run, first=first, last=last), geometry)
            stages.append(x)
        c2, c3, c4 = to_maps(c, pyramid)
        maps = [self.up(c2) + c1, c2, c3, c4]
        if self.vit_features != "none":
            sources = stages if self.vit_features == "stages" else [x] * 4
            maps = [level + self.vit_map(sources[i], shape, level.shape[2:], i) for i, level in enumerate(maps)]
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return [norm(feature_map) for norm, feature_map in zip(norms, maps, strict=True)]

    def vit_map(self, tokens: Tensor, shape: Shape, size: Sequence[int], level: int) -> Tensor:
        """The ViT's tokens as a map at stride 4 * 2^level, which is `size` (H, W) large."""
        factor = (4.0, 2.0, 1.0, 0.5)[level]
        square = to_map(tokens, shape)
        if factor == 1.0:
            return square
        return F.interpolate(square, scale_factor=factor, mode="bilinear", align_corners=False)


def _plain_runner(blocks: nn.ModuleList, shape: Shape) -> RunBlocks:
    def run(x: Tensor, first: int, last: int) -> Tensor:
        for index in range(first, last + 1):
            x = blocks[index](x, shape)
        return x

    return run


class ViTAdapter(AdapterBody, ViT):
    """ViT-Adapter over a plain ViT."""

    def __init__(self, adapter: AdapterSettings, **settings: object) -> None:
        ViT.__init__(self, **settings)  # type: ignore[arg-type]
        self.add_adapter(adapter, len(self.blocks), vit.EPS)

    def start(self, image: Tensor, shape: Shape) -> tuple[Tensor, RunBlocks]:
        return self.embed(image, shape), _plain_runner(self.blocks, shape)


class BEiTAdapter(AdapterBody, BEiT):
    """ViT-Adapter over BEiT; `class_token` as in BEiT."""

    def __init__(self, adapter: AdapterSettings, class_token: bool, **settings: object) -> None:
        # The official class hands its injectors' initial value to the blocks' LayerScale too.
        BEiT.__init__(self, class_token, init_values=adapter.init_values, **settings)  # type: ignore[arg-type]
        self.add_adapter(adapter, len(self.blocks), vit.EPS)

    def start(self, image: Tensor, shape: Shape) -> tuple[Tensor, RunBlocks]:
        indexes = self.indexes(image)
        cls = None if self.cls_token is None else self.cls_token.expand(image.shape[0], -1, -1)

        def run(x: Tensor, first: int, last: int) -> Tensor:
            # The class token travels from group to group beside the patch tokens, unseen by injectors and extractors.
            nonlocal cls
            if cls is None:
                return self.run(x, first, last, shape, indexes)
            x = self.run(torch.cat([cls, x], 1), first, last, shape, indexes)
            cls = x[:, :1]
            return x[:, 1:]

        return self.patch_embed(image), run


class UniPerceiverAdapter(AdapterBody, UniPerceiver):
    """ViT-Adapter over the Uni-Perceiver encoder."""

    def __init__(self, adapter: AdapterSettings, **settings: object) -> None:
        UniPerceiver.__init__(self, **settings)  # type: ignore[arg-type]
        self.add_adapter(adapter, len(self.layers), uniperceiver.EPS)

    def start(self, image: Tensor, shape: Shape) -> tuple[Tensor, RunBlocks]:
        return self.visual_embed(image, shape), _plain_runner(self.layers, shape)
