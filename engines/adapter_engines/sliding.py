"""Runs a network over a picture larger than its crop: overlapping windows whose logits are averaged, as mmseg does.

Windows go row by row from the top left, `stride` apart; the last of a row or column is moved back to end at the border,
and an edge shorter than the crop has one shorter window. A pixel is the sum of its windows' logits over their number.
Finished rows are handed on at once, so that the memory needed is one crop high, however high the picture is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from adapter_infer.errors import AdapterError
from adapter_infer.sliding import starts

Run = Callable[[np.ndarray], np.ndarray]  # (B, 3, h, w) -> logits (B, K, h, w)
Bands = Iterable[tuple[int, np.ndarray]]  # (first row, logits (K, rows, W)), from the top down without gaps


def whole_bands(run: Run, image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The logits of `image` (3, H, W) in one run, as one band."""
    yield 0, _logits(run, image[None], 1)[0]


def slide_bands(
    run: Run, image: np.ndarray, crop: tuple[int, int], stride: tuple[int, int], batch: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Averaged logits of `image` (3, H, W) in bands of finished rows, for `crop` and `stride` (height, width).

    `run` gets `batch` windows at a time, the last time perhaps fewer. A band is valid until the next one is asked for.
    Errors: UsageError unless 1 <= stride <= crop, AdapterError if `run` returns another size than it was given.
    """
    _, height, width = image.shape
    tops, lefts = starts(height, crop[0], stride[0]), starts(width, crop[1], stride[1])
    rows, columns = min(crop[0], height), min(crop[1], width)
    visits_y, visits_x = _visits(tops, rows, height), _visits(lefts, columns, width)

    total: np.ndarray | None = None  # sum of logits in rows [first, first + rows)
    first = 0
    for top, left, logits in _windows(run, image, (tops, lefts), (rows, columns), batch):
        if total is None:
            total = np.zeros((len(logits), rows, width), np.float32)
        if top > first:
            finished = top - first
            total[:, :finished] /= np.outer(visits_y[first:top], visits_x)
            yield first, total[:, :finished]
            total[:, : rows - finished] = total[:, finished:].copy()
            total[:, rows - finished :] = 0
            first = top
        total[:, :, left : left + columns] += logits
    assert total is not None  # there is at least one window
    total /= np.outer(visits_y[first:], visits_x)
    yield first, total


def slide(run: Run, image: np.ndarray, crop: tuple[int, int], stride: tuple[int, int], batch: int = 1) -> np.ndarray:
    """Averaged logits (K, H, W) of `image` (3, H, W): the bands of `slide_bands` in one array."""
    return np.concatenate([band.copy() for _, band in slide_bands(run, image, crop, stride, batch)], axis=1)


def _windows(
    run: Run, image: np.ndarray, places: tuple[list[int], list[int]], size: tuple[int, int], batch: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(top, left, logits (K, *size)) of every window, row by row."""
    corners = [(top, left) for top in places[0] for left in places[1]]
    for start in range(0, len(corners), batch):
        group = corners[start : start + batch]
        windows = np.stack([image[:, top : top + size[0], left : left + size[1]] for top, left in group])
        for (top, left), logits in zip(group, _logits(run, windows, len(group)), strict=True):
            yield top, left, logits


def _logits(run: Run, windows: np.ndarray, count: int) -> np.ndarray:
    logits = run(windows)
    if logits.ndim != 4 or len(logits) != count or logits.shape[2:] != windows.shape[2:]:
        raise AdapterError(
            f"the network answered images {windows.shape} with logits {logits.shape}, which are not of the same size; "
            "export it with adapter-export, whose logits have the size of the image"
        )
    return logits


def _visits(places: list[int], window: int, size: int) -> np.ndarray:
    """How many windows cover each position along one edge, (size,) float32."""
    counts = np.zeros(size, np.float32)
    for place in places:
        counts[place : place + window] += 1
    return counts
