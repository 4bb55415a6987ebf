"""Attention between the ViT's map and the pyramid other than deformable: global, CSwin and Pale, for the ablation.

Chen et al., Vision Transformer Adapter for Dense Predictions, 2022, table "attention mechanism", names the three and
publishes no code. Global: Vaswani et al., 2017. CSwin: Dong et al., CSWin Transformer, 2022. Pale: Wu et al., Pale
Transformer, 2022. The last two are defined within one grid; here queries and keys lie on different ones (the ViT's map
has one level, the pyramid three), and they are carried over so:

Every level has k_l = 4, 2 or 1 times the R x C cells of stride 32 (R = H/32, C = W/32; the ViT's map k_l = 2). The rows
of each level fall into R groups of k_l rows, the columns into C groups of k_l columns; a query sees the keys of all
levels whose group has its own number. The first half of the heads attends within groups of rows, the second within
groups of columns.

- CSwin: the k_l rows of group r are neighbours, k_l*r to k_l*r + k_l - 1: one stripe across the picture, 32 pixels high
  on every level (two rows of the ViT's map). No position term of its own (LePE).
- Pale: they are interlaced at equal distances, r, r + R, r + 2R ...: the rows of one pale in the parallel form.

All three have four projections with bias, so all three have the published parameters (Mask R-CNN, S: 50.3M). Their
multiply-adds at 1280x800 are 1080G, 456G and 456G beside the published 1080G, 456G and 458G; what the paper's Pale adds
is not published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import Levels, Shape
from adapter_infer.spec import ATTENTION

DEFORMABLE, *DENSE = ATTENTION


def check(kind: object, num_heads: int) -> None:
    """Errors: UnsupportedModel for an unknown kind, or heads that cannot be halved where they must."""
    if kind not in ATTENTION:
        raise UnsupportedModel(f"attention {kind!r} is unknown; choose one of {', '.join(ATTENTION)}")
    if kind in {"cswin", "pale"} and num_heads % 2:
        raise UnsupportedModel(
            f"attention {kind} gives half of the heads to rows and half to columns, but deform_num_heads={num_heads} "
            "is odd; give an even number"
        )


class CrossAttention(nn.Module):
    """Softmax attention of one of `DENSE` between the ViT's map and the pyramid, in either direction.

    `ratio` is the width of queries, keys and values to that of the tokens, as `MSDeformAttn` has it for its values.
    """

    def __init__(self, dim: int, num_heads: int, kind: str, ratio: float = 1.0) -> None:
        super().__init__()
        check(kind, num_heads)
        self.num_heads, self.kind = num_heads, kind
        width = int(dim * ratio)
        self.query_proj = nn.Linear(dim, width)
        self.key_proj = nn.Linear(dim, width)
        self.value_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)

    def forward(self, query: Tensor, query_levels: Levels, feat: Tensor, feat_levels: Levels) -> Tensor:
        """query (N, Q, C) over `query_levels`, feat (N, S, C) over `feat_levels` -> (N, Q, C)."""
        q, k, v = self.query_proj(query), self.key_proj(feat), self.value_proj(feat)
        if self.kind == "global":
            return self.output_proj(_attend(q, k, v, self.num_heads))
        halves = []
        for levels in (query_levels, feat_levels):
            _check_multiples(self.kind, levels.shapes)
        split = (tokens.chunk(2, -1) for tokens in (q, k, v))
        for columns, (q_half, k_half, v_half) in enumerate(zip(*split, strict=True)):
            how = (bool(columns), self.kind == "pale")
            keys, values = (_gather(half, feat_levels.shapes, *how) for half in (k_half, v_half))
            found = _attend(_gather(q_half, query_levels.shapes, *how), keys, values, self.num_heads // 2)
            halves.append(_scatter(found, query_levels.shapes, *how))
        return self.output_proj(torch.cat(halves, -1))


def core_macs(kind: str, query_shapes: Sequence[Shape], feat_shapes: Sequence[Shape], width: int) -> int:
    """Multiply-adds of the two products of one image (queries by keys, weights by values); 0 for deformable."""
    if kind == DEFORMABLE:
        return 0
    queries, keys = (sum(h * w for h, w in shapes) for shapes in (query_shapes, feat_shapes))
    if kind == "global":
        return 2 * queries * keys * width
    rows, columns = (size // _MULTIPLES[len(query_shapes)][0] for size in query_shapes[0])
    return queries * keys * width // rows + queries * keys * width // columns


def _attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """q (N, Q, C), k and v (N, S, C) -> (N, Q, C)."""
    heads = (tokens.unflatten(-1, (num_heads, -1)).transpose(1, 2) for tokens in (q, k, v))
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


# k_l of the ViT's one level and of the pyramid's three.
_MULTIPLES = {1: (2,), 3: (4, 2, 1)}


def _check_multiples(kind: str, shapes: Sequence[Shape]) -> None:
    """Errors: UnsupportedModel for levels of other strides, as patches of 14 pixels make them."""
    for shape, k in zip(shapes, _MULTIPLES[len(shapes)], strict=True):
        if any(type(size) is int and size % k for size in shape):
            raise UnsupportedModel(
                f"attention {kind} needs a map of {shape[0]}x{shape[1]} cells to be a multiple of {k}, which patches "
                "of 16 pixels give; choose attention global or deformable"
            )


def _gather(tokens: Tensor, shapes: Sequence[Shape], columns: bool, interlaced: bool) -> Tensor:
    """(N, tokens of all levels, C) to (N * groups, tokens of one group over all levels, C)."""
    n, _, c = tokens.shape
    parts = []
    levels = tokens.split([h * w for h, w in shapes], 1)
    for level, (h, w), k in zip(levels, shapes, _MULTIPLES[len(shapes)], strict=True):
        lines, across = (w, h) if columns else (h, w)
        grid = level.reshape(n, h, w, c)
        if columns:
            grid = grid.transpose(1, 2)
        if interlaced:
            grid = grid.reshape(n, k, lines // k, across, c).transpose(1, 2)
        parts.append(grid.reshape(n * (lines // k), k * across, c))
    return torch.cat(parts, 1)


def _scatter(groups: Tensor, shapes: Sequence[Shape], columns: bool, interlaced: bool) -> Tensor:
    """The inverse of `_gather`."""
    c = groups.shape[-1]
    multiples = _MULTIPLES[len(shapes)]
    sizes = [k * (h if columns else w) for (h, w), k in zip(shapes, multiples, strict=True)]
    parts = []
    for part, (h, w), k in zip(groups.split(sizes, 1), shapes, multiples, strict=True):
        lines, across = (w, h) if columns else (h, w)
        grid = part.reshape(-1, lines // k, k, across, c)
        if interlaced:
            grid = grid.transpose(1, 2)
        grid = grid.reshape(-1, lines, across, c)
        if columns:
            grid = grid.transpose(1, 2)
        parts.append(grid.reshape(-1, h * w, c))
    return torch.cat(parts, 1)
