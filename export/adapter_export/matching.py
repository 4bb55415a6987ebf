"""How many of torch's detections an exported detector finds too, end to end: figures for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapter_export.report import Match

Array = NDArray[Any]

SAME = 0.9
"""Overlap from which on two boxes of one label are the same detection."""


def match(path: str, input_shape: tuple[int, ...], ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> Match:
    """Pairs detections of one label greedily by overlap, over all pictures of a batch."""
    matched, unmatched, overlap, score = 0, 0, 1.0, 0.0
    for n in range(len(theirs["count"])):
        mine, right = int(ours["count"][n]), int(theirs["count"][n])
        overlaps = _overlaps(ours["boxes"][n, :mine], theirs["boxes"][n, :right])
        overlaps[ours["labels"][n, :mine, None] != theirs["labels"][n, :right]] = 0.0
        gaps = np.abs(ours["scores"][n, :mine, None] - theirs["scores"][n, :right])
        pairs = 0
        # The score decides between boxes that are equal.
        for i, j in zip(*np.unravel_index(np.argsort(gaps - overlaps, axis=None), overlaps.shape), strict=True):
            if overlaps[i, j] < SAME:
                continue
            pairs += 1
            overlap, score = min(overlap, float(overlaps[i, j])), max(score, float(gaps[i, j]))
            overlaps[i], overlaps[:, j] = 0.0, 0.0
        matched, unmatched = matched + pairs, unmatched + mine + right - 2 * pairs
    return Match(path, input_shape, matched, unmatched, overlap if matched else None, score if matched else None)


def _overlaps(boxes: Array, others: Array) -> Array:
    """Intersection over union of boxes (A, 4) with others (B, 4) -> (A, B)."""
    first, second = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = sides.clip(0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
