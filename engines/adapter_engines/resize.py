"""Resizes pictures bit for bit as OpenCV does: networks were trained and tested on pictures that cv2.resize made.

cv2's INTER_LINEAR on 8-bit pictures is integer arithmetic. With x = (i + 0.5) * scale - 0.5 in float32, the neighbours
floor(x) and floor(x) + 1 get the weights 1 - f and f, f = x - floor(x), each rounded to 11 bits (2048 is one). A row is
interpolated horizontally into 19 bits, cut to 15, interpolated vertically into 26, cut to 10, and rounded to 8. At the
left and right border f becomes 0; at the top and bottom the weights stay and the row index is clamped.
"""

from __future__ import annotations

import numpy as np

WEIGHT_ONE = np.float32(2048)
BLOCK_ELEMENTS = 1 << 17  # of one block of rows: its int32 stages then stay in a core's level-2 cache


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """`picture` (H, W, 3) uint8 as (height, width, 3) uint8: cv2.resize with INTER_LINEAR, to the last bit."""
    old_height, old_width, channels = picture.shape
    if (old_height, old_width) == (height, width):
        return picture
    left, x_weights = _taps(old_width, width, weight_at_border=False)
    top, y_weights = _taps(old_height, height, weight_at_border=True)
    right = np.minimum(left + 1, old_width - 1)
    left = np.maximum(left, 0)
    rows = np.clip(np.stack([top, top + 1]), 0, old_height - 1)
    x_weights = np.repeat(x_weights, 4, axis=1)  # the same for the four bytes of a pixel

    result = np.empty((height, width, channels), np.uint8)
    block = max(1, BLOCK_ELEMENTS // (4 * width))
    for start in range(0, height, block):
        stop = min(start + block, height)
        needed, place = np.unique(rows[:, start:stop], return_inverse=True)
        place = place.reshape(2, stop - start)
        across = _horizontal(picture[needed], left, right, x_weights)
        upper = across[place[0]]
        upper *= y_weights[0, start:stop, None]
        upper >>= 16
        lower = across[place[1]]
        lower *= y_weights[1, start:stop, None]
        lower >>= 16
        upper += lower
        upper += 2
        upper >>= 2
        result[start:stop] = upper.reshape(stop - start, width, 4)[..., :channels]
    return result


def _horizontal(rows: np.ndarray, left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows (R, W, channels) uint8 as interpolated rows (R, 4 * width) int32, 15 bits each."""
    # Four bytes a pixel: numpy then gathers whole pixels as 32-bit words, several times faster than triples.
    padded = np.empty((*rows.shape[:2], 4), np.uint8)
    padded[..., : rows.shape[2]] = rows
    words = padded.view(np.uint32)[..., 0]
    at_left = np.take(words, left, axis=1).view(np.uint8).astype(np.int32)
    at_left *= weights[0]
    at_right = np.take(words, right, axis=1).view(np.uint8).astype(np.int32)
    at_right *= weights[1]
    at_left += at_right
    at_left >>= 4
    return at_left


def _taps(old: int, new: int, *, weight_at_border: bool) -> tuple[np.ndarray, np.ndarray]:
    """For every new index the first neighbour (new,), from -1 to old - 1, and both weights (2, new) int32."""
    scale = 1.0 / (new / old)  # the detour through the inverse is OpenCV's, and shows in the last bit
    position = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position)
    fraction = position - first
    if not weight_at_border:
        fraction[(first < 0) | (first >= old - 1)] = 0
    weights = np.rint(np.stack([np.float32(1) - fraction, fraction]) * WEIGHT_ONE).astype(np.int32)
    return first.astype(np.intp), weights
