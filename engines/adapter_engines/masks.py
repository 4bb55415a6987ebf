"""Instance masks of one picture, kept as the network gave them and pasted when they are looked at.

100 masks of a 12-megapixel picture are 1.2 GB of booleans; what they are made of is 300 KB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adapter_engines import rle

BLOCK_ELEMENTS = 1 << 15  # pasted at a time, which stay in a core's level-1 and level-2 caches


@dataclass(frozen=True)
class Region:
    """A mask where it can be set: `inside` (h, w) bool begins at pixel (`top`, `left`) of the picture."""

    top: int
    left: int
    inside: np.ndarray

    @property
    def area(self) -> int:
        """Pixels that are set."""
        return int(np.count_nonzero(self.inside))

    @property
    def place(self) -> tuple[slice, slice]:
        """The region as an index of the picture's arrays."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class InstanceMasks:
    """D masks of a picture of `size` (height, width): `masks[i]` is the i-th as (H, W) bool, pasted anew each time.

    `probabilities` (D, P, P) float32 are stretched over `boxes` (D, 4) in the picture's pixels; a pixel is set where
    the value at its centre is at least `threshold`.
    """

    def __init__(
        self, probabilities: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5
    ) -> None:
        self.probabilities, self.boxes, self.size, self.threshold = probabilities, boxes, size, threshold

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, index: int) -> np.ndarray:
        whole = np.zeros(self.size, bool)
        region = self.region(index)
        whole[region.place] = region.inside
        return whole

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def region(self, index: int) -> Region:
        """The i-th mask around its box only."""
        return paste(self.probabilities[index], self.boxes[index], self.size, self.threshold)

    def rle(self, index: int) -> rle.RLE:
        """The i-th mask as COCO keeps it."""
        region = self.region(index)
        return rle.encode(region.inside, self.size, region.top, region.left)

    def stack(self) -> np.ndarray:
        """All masks, (D, H, W) bool: one byte a pixel."""
        return np.stack(list(self)) if len(self) else np.zeros((0, *self.size), bool)


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float = 0.5) -> Region:
    """Probabilities `mask` (P, P) over `box` (x0, y0, x1, y1) of a picture of `size` (height, width).

    Bilinear with zeros outside the mask, as torch's grid_sample with align_corners False, each pixel at its centre; set
    where at least `threshold`. A box without an inside (also one that is not a number) sets nothing.
    """
    x0, y0, x1, y1 = np.asarray(box, np.float32)
    rows, columns = _edge(y0, y1, mask.shape[0], size[0]), _edge(x0, x1, mask.shape[1], size[1])
    if rows is None or columns is None:
        return Region(0, 0, np.zeros((0, 0), bool))
    (top, row, down), (left, column, right) = rows, columns
    cells = np.pad(np.asarray(mask, np.float32), 1)
    across = cells[:, column] * (1 - right) + cells[:, column + 1] * right
    inside = np.empty((len(row), len(column)), bool)
    step = max(1, BLOCK_ELEMENTS // len(column))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        values = across[row[part]] * (1 - down[part, None])
        values += across[row[part] + 1] * down[part, None]
        np.greater_equal(values, np.float32(threshold), out=inside[part])
    return Region(top, left, inside)


def _edge(low: np.float32, high: np.float32, cells: int, size: int) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Along one edge, for the pixels that a mask can reach (they begin at the first number): the cell before each, of
    cells with one of zeros at either end, and the weight of the cell behind it. None if there are no such pixels."""
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        return None
    with np.errstate(over="ignore"):
        length = high - low
    reach = float(length) / cells + 1  # bilinear sampling sees half a cell beyond the box
    first, last = (float(np.clip(edge, 0, size)) for edge in (float(low) - reach, float(high) + reach))
    begin, end = round(first), round(last)
    if begin >= end or not np.isfinite(length):
        return None
    pixels = np.arange(begin, end, dtype=np.float32) + np.float32(0.5)
    grid = (pixels - low) / length * np.float32(2) - np.float32(1)
    position = ((grid + np.float32(1)) * np.float32(cells) - np.float32(1)) / np.float32(2)  # grid_sample's roundings
    position = position.clip(-1, cells)
    before = np.floor(position).clip(-1, cells - 1)
    return begin, before.astype(np.intp) + 1, position - before
