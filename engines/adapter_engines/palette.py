"""Colours for classes: the model's own, or a generated palette of colours as far apart as the eye sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = np.arange(15, 256, 16)  # of each of red, green and blue: the candidates are their 4096 combinations
LIGHTNESS = (0.42, 0.90)  # in OKLab, 0 black to 1 white: outside, colours vanish in shadows and highlights
CHROMA = (0.05, 0.17)  # in OKLab: below, colours are taken for grey parts of the picture; above, they glare
FIRST = (63, 111, 191)


def palette(colours: Sequence[Sequence[int]] | None, classes: int) -> np.ndarray:
    """(classes, 3) uint8 RGB: `colours` as far as they go and are colours, generated ones for the rest."""
    result = generated(classes)
    for index, colour in enumerate((colours or ())[:classes]):
        if len(colour) == 3 and all(isinstance(value, int) and 0 <= value <= 255 for value in colour):
            result[index] = colour
    return result


def generated(classes: int) -> np.ndarray:
    """(classes, 3) uint8 RGB, always the same: each colour the candidate farthest from all before it, in OKLab.

    They repeat where there are more classes than candidates.
    """
    candidates = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 3)
    places = _oklab(candidates)
    chroma = np.hypot(places[:, 1], places[:, 2])
    usable = (places[:, 0] > LIGHTNESS[0]) & (places[:, 0] < LIGHTNESS[1]) & (chroma > CHROMA[0]) & (chroma < CHROMA[1])
    candidates, places = candidates[usable], places[usable]
    chosen = [int(np.argmin(np.abs(candidates - FIRST).sum(axis=1)))]
    nearest = np.full(len(places), np.inf)
    for _ in range(1, min(classes, len(places))):
        nearest = np.minimum(nearest, np.square(places - places[chosen[-1]]).sum(axis=1))
        chosen.append(int(np.argmax(nearest)))
    return candidates[np.resize(chosen, classes)].astype(np.uint8)


def _oklab(colours: np.ndarray) -> np.ndarray:
    """sRGB in 0..255 as OKLab (lightness, green to red, blue to yellow), in which distances are as the eye sees them.

    The matrices are those of its author, Björn Ottosson.
    """
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)
