"""From a picture to the network's input, as mmseg's test pipeline does it: Resize, ResizeToMultiple, Normalize."""

from __future__ import annotations

import math

import numpy as np

from adapter_engines.pictures import MAX_PIXELS
from adapter_engines.resize import resize
from adapter_infer.errors import AdapterError, UnsupportedModel
from adapter_infer.spec import Preprocessing


def network_size(height: int, width: int, preprocessing: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) after Resize and after ResizeToMultiple, for a picture of `height` x `width` pixels.

    Resize: as large as `scale` = (long edge, short edge) allows with the proportions kept; without `keep_ratio`,
    `scale` is (width, height). ResizeToMultiple: each edge up to the next multiple of `size_divisor`.
    Errors: AdapterError if an edge vanishes, or the result is larger than any picture that is read.
    """
    new_height, new_width = height, width
    if preprocessing.scale is not None and preprocessing.keep_ratio:
        long_edge, short_edge = max(preprocessing.scale), min(preprocessing.scale)
        factor = min(long_edge / max(height, width), short_edge / min(height, width))
        new_height, new_width = int(height * factor + 0.5), int(width * factor + 0.5)
    elif preprocessing.scale is not None:
        new_width, new_height = preprocessing.scale
    divisor = max(1, preprocessing.size_divisor)
    aligned_height, aligned_width = math.ceil(new_height / divisor) * divisor, math.ceil(new_width / divisor) * divisor
    if min(new_height, new_width) < 1 or aligned_height * aligned_width > MAX_PIXELS:
        raise AdapterError(
            f"a picture of {height}x{width} pixels (height x width) would become {new_height}x{new_width} at scale "
            f"{preprocessing.scale} and {aligned_height}x{aligned_width} in multiples of {divisor}, not within 1 to "
            f"{MAX_PIXELS} pixels; crop it to less extreme proportions"
        )
    return (new_height, new_width), (aligned_height, aligned_width)


def prepare(
    picture: np.ndarray,
    preprocessing: Preprocessing,
    *,
    embedded: bool = False,
    stretch_to: tuple[int, int] | None = None,
) -> np.ndarray:
    """The network's input (3, H, W) of a `picture` (h, w, 3) uint8 in RGB order.

    float32 and normalised, in the network's channel order; with `embedded` (the graph normalises) uint8 in RGB order.
    ResizeToMultiple is a second resize, not a padding, and bends the proportions a little, as in the official pipeline.
    `stretch_to` (height, width) replaces both resizes by one. Errors: AdapterError on a size that cannot be had.
    """
    if stretch_to is not None:
        image = resize(picture, *stretch_to)
    else:
        scaled, aligned = network_size(picture.shape[0], picture.shape[1], preprocessing)
        image = resize(resize(picture, *scaled), *aligned)
    return image.transpose(2, 0, 1) if embedded else normalized(image, preprocessing)


def normalized(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """`image` (H, W, 3) uint8 RGB as (3, H, W) float32: (x - mean) * (1 / std), each rounded to float32 as cv2 does."""
    if not all(std > 0 for std in preprocessing.std):
        raise UnsupportedModel(
            f"the file's std {preprocessing.std} is not above 0; export it again with its configuration"
        )
    result = np.empty((3, *image.shape[:2]), np.float32)
    channels = (0, 1, 2) if preprocessing.to_rgb else (2, 1, 0)
    for plane, channel, mean, std in zip(result, channels, preprocessing.mean, preprocessing.std, strict=True):
        np.subtract(image[..., channel], np.float32(mean), out=plane)
        np.multiply(plane, np.float32(1 / std), out=plane)
    return result
