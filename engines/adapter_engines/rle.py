"""COCO's run-length encoding of masks, also in its compressed form of a string.

A mask is read column by column; the runs alternate between unset and set, the first (perhaps 0) is unset. The string
holds each run from the fourth on as its difference to the run two before, in groups of five bits, the lowest first; of
the six bits of a character the highest says that more follow, and 48 is added to make it printable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

GROUP, MORE, SIGN, FIRST = 5, 0x20, 0x10, 48


@dataclass(frozen=True)
class RLE:
    """`counts` (R,) int64, runs of unset and set pixels in turn, of a mask of `size` (height, width)."""

    counts: np.ndarray
    size: tuple[int, int]

    @property
    def area(self) -> int:
        """Pixels that are set."""
        return int(self.counts[1::2].sum())

    def as_coco(self) -> dict[str, Any]:
        """{"size": [height, width], "counts": string}, as pycocotools reads and writes it."""
        return {"size": list(self.size), "counts": to_string(self.counts)}


def encode(mask: np.ndarray, size: tuple[int, int] | None = None, top: int = 0, left: int = 0) -> RLE:
    """`mask` (h, w) bool as part of a picture of `size` (height, width), at (`top`, `left`); None: all of it."""
    height, width = mask.shape
    size = size or (height, width)
    if not mask.size:
        return RLE(np.array([size[0] * size[1]], np.int64), size)
    change = np.empty((height + 1, width), bool)  # along each column, as if the pixels before and behind were unset
    change[0], change[-1] = mask[0], mask[-1]
    np.not_equal(mask[1:], mask[:-1], out=change[1:-1])
    row, column = np.divmod(np.flatnonzero(change), width)
    edges = np.sort((column + left) * size[0] + row + top)  # where runs begin and end, in turn
    meeting = np.flatnonzero(edges[1:-1:2] == edges[2::2])  # a run down to the bottom, and one on from the next top
    edges = np.delete(edges, np.concatenate([meeting * 2 + 1, meeting * 2 + 2]))
    ends = np.concatenate([[0], edges, [size[0] * size[1]]])
    counts = np.diff(ends)
    return RLE(counts if counts[-1] or len(counts) == 1 else counts[:-1], size)


def decode(code: RLE) -> np.ndarray:
    """The mask (height, width) bool."""
    set_or_not = np.arange(len(code.counts)) % 2 == 1
    return np.repeat(set_or_not, code.counts).reshape(code.size[::-1]).T


def to_string(counts: np.ndarray) -> str:
    """The runs in compressed form."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    # A value has as many groups as its two's complement needs, with the sign.
    magnitudes = np.where(values < 0, ~values, values)
    groups = 1 + np.count_nonzero(magnitudes[:, None] >> np.arange(GROUP - 1, 63, GROUP), axis=1)
    owner = np.repeat(np.arange(len(values)), groups)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(groups) - groups, groups)
    characters = (values[owner] >> (GROUP * place)) & (MORE - 1)
    characters[place < groups[owner] - 1] |= MORE
    return (characters + FIRST).astype(np.uint8).tobytes().decode("ascii")


def from_string(text: str) -> np.ndarray:
    """The runs (R,) int64 of a compressed form."""
    values: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        group = character - FIRST
        value |= (group & (MORE - 1)) << shift
        shift += GROUP
        if group & MORE:
            continue
        if group & SIGN:
            value -= 1 << shift
        values.append(value + (values[-2] if len(values) > 2 else 0))
        value = shift = 0
    return np.array(values, np.int64)
