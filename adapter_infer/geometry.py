"""Level shapes, level starts and reference points, all derived from the size of an image.

Everything here traces: with symbolic sizes the tensors are computed from the sizes inside the graph. Two spellings that
look equivalent are avoided on purpose, because an export bakes them into constants without a word: a nested list in
`torch.as_tensor`, and `torch.linspace` with a symbolic length.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapter_infer.errors import UsageError

Shape = tuple[int, int]
KEPT = {"cuda"}  # types of device on which level tensors are kept


def check_image_size(h: int, w: int, divisor: int) -> None:
    """Raises UsageError unless both sizes (pixels) are positive multiples of `divisor`."""
    if h % divisor == 0 and w % divisor == 0 and h > 0 and w > 0:
        return
    up = [max(divisor, -(-size // divisor) * divisor) for size in (h, w)]
    raise UsageError(
        f"image size {h}x{w} is not a multiple of {divisor}, which the stride-{divisor} level needs; "
        f"resize or pad it to {up[0]}x{up[1]}"
    )


@dataclass(frozen=True)
class Levels:
    """The L feature maps that MSDA samples from, flattened one after the other to S tokens.

    `shapes` holds (H_l, W_l) as Python integers, `spatial_shapes` the same as a tensor (L, 2) int64,
    `level_start_index` (L,) int64 says where each level begins.
    """

    shapes: tuple[Shape, ...]
    spatial_shapes: Tensor
    level_start_index: Tensor

    @staticmethod
    def of(shapes: Sequence[Shape], device: torch.device | str) -> Levels:
        """On a GPU they are made once and kept: making them copies from the host, which waits for the GPU and cannot
        be captured in a CUDA graph."""
        shapes, device = tuple(shapes), torch.device(device)
        plain = all(type(size) is int for shape in shapes for size in shape)  # not a symbol of an export
        if device.type in KEPT and plain and not torch.compiler.is_compiling():
            return _kept_levels(shapes, device)
        return _levels(shapes, device)


def _levels(shapes: tuple[Shape, ...], device: torch.device) -> Levels:
    starts = [0]
    for h, w in shapes[:-1]:
        starts.append(starts[-1] + h * w)
    flat = torch.tensor([size for shape in shapes for size in shape], dtype=torch.int64, device=device)
    return Levels(shapes, flat.reshape(len(shapes), 2), torch.tensor(starts, dtype=torch.int64, device=device))


@functools.lru_cache(maxsize=64)
def _kept_levels(shapes: tuple[Shape, ...], device: torch.device) -> Levels:
    with torch.inference_mode(False):  # tensors made in inference mode could not be saved for a backward pass
        return _levels(shapes, device)


def reference_points(shapes: Sequence[Shape], device: torch.device | str) -> Tensor:
    """Centres of all cells of all levels, (1, sum of H_l*W_l, 1, 2) float32, x first, in [0, 1]."""
    points = []
    for h, w in shapes:
        y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
        grid = torch.stack((x[None, :].expand(h, w), y[:, None].expand(h, w)), -1)
        points.append(grid.reshape(1, h * w, 1, 2))
    return torch.cat(points, 1)


@dataclass(frozen=True)
class AdapterGeometry:
    """What the interactions of one forward pass share: the ViT's single level and the spatial prior's three.

    The injector's queries are the ViT's tokens and sample the pyramid; the extractor's are the pyramid's tokens and
    sample the ViT's map.
    """

    vit: Levels
    pyramid: Levels
    vit_points: Tensor
    pyramid_points: Tensor

    @staticmethod
    def of(h: int, w: int, device: torch.device | str, patch_size: int = 16) -> AdapterGeometry:
        """For an image of h x w pixels and a ViT with patches of `patch_size` pixels, of which whole ones count.

        Errors: UsageError unless both are multiples of 32.
        """
        check_image_size(h, w, 32)
        # All sizes come from one pair, so that a symbolic export needs no algebra of floor divisions.
        h32, w32 = h // 32, w // 32
        vit = [(2 * h32, 2 * w32) if patch_size == 16 else (h // patch_size, w // patch_size)]
        pyramid = [(4 * h32, 4 * w32), (2 * h32, 2 * w32), (h32, w32)]
        return AdapterGeometry(
            Levels.of(vit, device),
            Levels.of(pyramid, device),
            reference_points(vit, device),
            reference_points(pyramid, device),
        )


def to_map(tokens: Tensor, shape: Shape) -> Tensor:
    """(N, H*W, C) tokens to a (N, C, H, W) map."""
    n, _, c = tokens.shape
    return tokens.transpose(1, 2).reshape(n, c, *shape)


def to_maps(tokens: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """(N, sum of H*W, C) tokens of several levels to their (N, C, H, W) maps.

    Transposed before they are split: the other way round OpenVINO's CPU plugin (2024.6 to 2026.4.1) loses the
    transposition of a level that is next added to something.
    """
    parts = tokens.transpose(1, 2).split([h * w for h, w in shapes], 2)
    return [part.reshape(*part.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True)]


def to_tokens(feature_map: Tensor) -> Tensor:
    """A (N, C, H, W) map to (N, H*W, C) tokens."""
    return feature_map.flatten(2).transpose(1, 2)
