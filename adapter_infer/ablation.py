"""Parts of ViT-Adapter over a plain ViT: what the paper's ablation of its components takes away.

Chen et al., Vision Transformer Adapter for Dense Predictions, 2022, table "components": the plain ViT (43.8M parameters
with Mask R-CNN, S), variant 1 with the spatial prior, variant 2 with injectors (46.6M), and all of it (47.8M). No code
of the variants is published. Here the plain ViT keeps its four maps and the layers that bring them to their strides;

- "spatial_prior" adds the spatial prior's map of the same stride to each of them;
- "injector" lets the ViT look into the spatial prior's pyramid before each group of blocks instead of adding it, which
  has the published parameters.

No interaction at all (N = 0) is the plain ViT too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapter_infer import attention, vit
from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import AdapterGeometry, to_tokens
from adapter_infer.interaction import Injector
from adapter_infer.spatial_prior import SpatialPriorModule
from adapter_infer.vit import ViTBaseline
from adapter_infer.vit_adapter import COMPONENTS, AdapterSettings, check_groups

PARTIAL = COMPONENTS[:-1]


class PartialAdapter(ViTBaseline):
    """`settings.components` is one of `PARTIAL`; the rest as in ViTBaseline, maps at strides 4, 8, 16 and 32.

    An injector stands before the first block of each group; the four maps come from `out_indices` as ever.
    """

    def __init__(self, adapter: AdapterSettings, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        if adapter.components not in PARTIAL:
            raise UnsupportedModel(
                f"components {adapter.components!r} is unknown; choose one of {', '.join(COMPONENTS)}"
            )
        dim = self.embed_dim
        self.groups = [(int(indexes[0]), int(indexes[-1])) for indexes in adapter.interaction_indexes]
        self.spm = None if adapter.components == "none" else SpatialPriorModule(adapter.conv_inplane, dim)
        self.injectors = None
        if self.spm is not None:
            self.size_divisor = 32
        if adapter.components == "injector":
            attention.check(adapter.attention, adapter.deform_num_heads)
            check_groups(adapter.interaction_indexes, len(self.blocks))
            self.level_embed = nn.Parameter(torch.zeros(3, dim))
            how = (adapter.deform_num_heads, adapter.n_points, adapter.deform_ratio, vit.EPS, adapter.init_values)
            self.injectors = nn.ModuleList(Injector(dim, *how, adapter.attention) for _ in self.groups)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W), multiples of 32 (of 16 for "none") -> maps (N, C, H/s, W/s) for s = 4, 8, 16, 32."""
        if self.spm is None:
            return super().forward(image)
        prior = self.spm(image)
        if self.injectors is None:
            maps = super().forward(image)
            return [feature_map + added for feature_map, added in zip(maps, prior, strict=True)]
        geometry = AdapterGeometry.of(image.shape[2], image.shape[3], image.device)
        (shape,) = geometry.vit.shapes
        c = torch.cat([to_tokens(level) + self.level_embed[i] for i, level in enumerate(prior[1:])], 1)
        injectors = {first: injector for (first, _), injector in zip(self.groups, self.injectors, strict=True)}
        x, outs = self.embed(image, shape), []
        for index, block in enumerate(self.blocks):
            x = injectors[index](x, c, geometry) if index in injectors else x
            x = block(x, shape)
            if index in self.out_indices:
                outs.append(x)
        return self.spread(outs, shape)
