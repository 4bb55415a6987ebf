"""From logits to a label map of the picture's own size, a few rows at a time.

The official code resizes all logits to the picture (bilinear, float32), takes a softmax and then the first maximum.
Softmax does not change which class is largest, so it is left out; and the maximum is kept up to date class by class
over a block of rows: 150 classes at 2048x1024 would be 1.2 GB at once, a block is a few megabytes.
"""

from __future__ import annotations

import numpy as np

from adapter_engines.interpolation import taps
from adapter_engines.sliding import Bands
from adapter_infer.errors import AdapterError

BLOCK_PIXELS = 1 << 16  # of one class; the block's few float32 arrays then stay in a core's level-2 cache


def label_dtype(classes: int) -> type[np.unsignedinteger]:
    """The smallest unsigned integer that holds every class index."""
    return np.uint8 if classes <= 256 else np.uint16


def labels_of_bands(
    bands: Bands, source: tuple[int, int], size: tuple[int, int], align_corners: bool = False
) -> np.ndarray:
    """The label map `size` = (height, width) of logits that come as bands of an image of `source` = (height, width).

    `align_corners` as in torch's interpolate: whether the corner pixels' centres or their outer edges coincide.
    Errors: AdapterError if a logit is not a number.
    """
    rows, y_weights = taps(source[0], size[0], align_corners)
    columns, x_weights = taps(source[1], size[1], align_corners)
    labels: np.ndarray | None = None
    kept: np.ndarray | None = None  # rows of earlier bands that later rows of the label map still need
    done = 0
    for first, band in bands:
        logits = band if kept is None else np.concatenate([kept, band], axis=1)
        begin = first if kept is None else first - kept.shape[1]
        ready = int(np.searchsorted(rows[1], begin + logits.shape[1]))  # rows whose lower neighbour is there
        if labels is None:
            labels = np.empty(size, label_dtype(len(logits)))
        step = max(1, BLOCK_PIXELS // size[1])
        for start in range(done, ready, step):
            stop = min(start + step, ready)
            part = slice(start, stop)
            labels[part] = _block(
                logits, rows[:, part] - begin, y_weights[:, part, None], columns, x_weights, labels.dtype
            )
        done = max(done, ready)
        if done < size[0]:
            kept = logits[:, rows[0, done] - begin :].copy()
    assert labels is not None and done == size[0]
    return labels


def labels_of_logits(logits: np.ndarray, size: tuple[int, int], align_corners: bool = False) -> np.ndarray:
    """The label map `size` = (height, width) of `logits` (K, H, W)."""
    return labels_of_bands([(0, logits)], logits.shape[1:], size, align_corners)


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map (H, W) in another size, each pixel from the nearest pixel centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp).clip(0, old - 1)
        for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[rows[:, None], columns]


def _block(
    logits: np.ndarray,
    rows: np.ndarray,
    y_weights: np.ndarray,
    columns: np.ndarray,
    x_weights: np.ndarray,
    dtype: np.dtype,
) -> np.ndarray:
    """The labels of some rows: `rows` (2, R) and `columns` (2, W) are the neighbours of each pixel."""
    top, bottom = int(rows[0, 0]), int(rows[1, -1]) + 1
    upper, lower = rows - top
    best = np.full((rows.shape[1], columns.shape[1]), -np.inf, np.float32)
    labels = np.zeros(best.shape, dtype)
    for index, plane in enumerate(logits[:, top:bottom]):
        # torch's order: along x within each row first, then between the rows
        across = plane[:, columns[0]] * x_weights[0] + plane[:, columns[1]] * x_weights[1]
        value = across[upper] * y_weights[0] + across[lower] * y_weights[1]
        if index == 0:
            best = value
            continue
        labels[value > best] = index  # only if larger: the first of equal classes stays
        np.maximum(best, value, out=best)  # and keeps NaN once there is one
    if np.isnan(best).any():
        raise AdapterError("the network's output is not a number (NaN) at some pixels; run it in fp32")
    return labels
