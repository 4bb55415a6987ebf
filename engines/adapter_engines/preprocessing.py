"""From a picture to the network's input, as the official test pipelines do it.

mmseg: Resize, ResizeToMultiple, Normalize. mmdet: Resize, Normalize, Pad.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adapter_engines.pictures import MAX_PIXELS
from adapter_engines.resize import resize
from adapter_infer.errors import AdapterError, UnsupportedModel
from adapter_infer.spec import Preprocessing

Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class Prepared:
    """`image` (3, H, W), the network's input, and `inside` (height, width), what the picture fills of it.

    That is at the top left; the rest is padding.
    """

    image: np.ndarray
    inside: Size

    @property
    def size(self) -> Size:
        """(height, width) of the image with its padding."""
        return self.image.shape[1], self.image.shape[2]


def network_size(
    height: int, width: int, preprocessing: Preprocessing, within: Size | None = None
) -> tuple[Size, Size]:
    """(height, width) after Resize, and after ResizeToMultiple or Pad, for a picture of `height` x `width` pixels.

    Resize: as large as `scale` = (long edge, short edge) allows with the proportions kept; without `keep_ratio`,
    `scale` is (width, height). ResizeToMultiple and Pad: each edge up to the next multiple of `size_divisor`.
    `within` (height, width) limits Resize too, with the proportions kept.
    Errors: AdapterError if an edge vanishes, or the result is larger than any picture that is read.
    """
    new_height, new_width = height, width
    if preprocessing.scale is not None and not preprocessing.keep_ratio:
        new_width, new_height = preprocessing.scale
    else:
        factor = 1.0
        if preprocessing.scale is not None:
            long_edge, short_edge = max(preprocessing.scale), min(preprocessing.scale)
            factor = min(long_edge / max(height, width), short_edge / min(height, width))
        if within is not None:
            factor = min(factor, within[0] / height, within[1] / width)
        new_height, new_width = int(height * factor + 0.5), int(width * factor + 0.5)
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
    stretch_to: Size | None = None,
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
        if preprocessing.pad:
            return padded(picture, preprocessing, scaled, aligned, embedded=embedded).image
        image = resize(resize(picture, *scaled), *aligned)
    return image.transpose(2, 0, 1) if embedded else normalized(image, preprocessing)


def padded(
    picture: np.ndarray, preprocessing: Preprocessing, scaled: Size, to: Size, *, embedded: bool = False
) -> Prepared:
    """`picture` (h, w, 3) uint8 RGB resized to `scaled`, normalised, and padded to `to` at the right and the bottom.

    The padding is 0 after normalising; with `embedded` it is the mean's nearest colour, for a graph that does not know
    where the picture ends. Both sizes are (height, width), the second not smaller than the first.
    """
    small = resize(picture, *scaled)
    if embedded:
        mean = np.asarray(preprocessing.mean if preprocessing.to_rgb else preprocessing.mean[::-1])
        image = np.empty((3, *to), np.uint8)
        image[...] = np.rint(mean).clip(0, 255).astype(np.uint8)[:, None, None]
        image[:, : scaled[0], : scaled[1]] = small.transpose(2, 0, 1)
    else:
        image = np.zeros((3, *to), np.float32)
        image[:, : scaled[0], : scaled[1]] = normalized(small, preprocessing)
    return Prepared(image, scaled)


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
