"""Bilinear interpolation of float maps with the positions and weights of torch's interpolate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PIECE = 64  # new cells at a time


def taps(old: int, new: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """For every new index both neighbours (2, new) and their weights (2, new) float32, with torch's roundings.

    torch computes scale * (i + 0.5) - 0.5 in float32 as one fused multiply-add, so it rounds once.
    """
    index = np.arange(new)
    if align_corners:
        scale = np.float64(np.float32(old - 1) / np.float32(new - 1)) if new > 1 else np.float64(0)
        position = (scale * index).astype(np.float32)
    else:
        scale = np.float64(np.float32(old) / np.float32(new))
        position = np.maximum((scale * (index + 0.5) - 0.5).astype(np.float32), 0)
    first = np.minimum(position.astype(np.intp), old - 1)
    second = np.minimum(first + 1, old - 1)
    fraction = np.clip(position - first.astype(np.float32), 0, 1)
    return np.stack([first, second]), np.stack([np.float32(1) - fraction, fraction])


def matrix(old: int, new: int) -> np.ndarray:
    """Interpolation of one edge as a matrix (new, old) float32 with two entries a row, align_corners False."""
    (first, second), (near, far) = taps(old, new, align_corners=False)
    result = np.zeros((new, old), np.float32)
    index = np.arange(new)
    result[index, first] = near
    np.add.at(result, (index, second), far)  # at the last cell both neighbours are the same
    return result


def along_rows(weights: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """maps (K, h, w) by `weights` (W, w) -> (K, h, W)."""
    result = np.empty((*maps.shape[:2], len(weights)), np.float32)
    for part, cells in _pieces(weights):
        result[..., part] = maps[..., cells] @ weights[part, cells].T
    return result


def along_columns(weights: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """maps (K, h, w) by `weights` (H, h) -> (K, H, w)."""
    result = np.empty((len(maps), len(weights), maps.shape[2]), np.float32)
    for part, cells in _pieces(weights):
        result[:, part] = weights[part, cells] @ maps[:, cells]
    return result


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (K, h, w) float32 as (K, *size): torch's interpolate, bilinear, align_corners False."""
    across = along_rows(matrix(maps.shape[2], size[1]), maps)
    return along_columns(matrix(maps.shape[1], size[0]), across)


def reach(weights: np.ndarray) -> slice:
    """The old cells that rows of a matrix make use of."""
    used = np.flatnonzero(weights.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)


def _pieces(weights: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """(new cells, old cells they are made of), a few at a time: far from its diagonal the matrix is empty."""
    for start in range(0, len(weights), PIECE):
        part = slice(start, start + PIECE)
        yield part, reach(weights[part])
