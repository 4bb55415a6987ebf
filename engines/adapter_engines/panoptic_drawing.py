"""Draws panoptic segments over their picture: class colours, outlines, names in the segments, a legend of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from adapter_engines import lettering
from adapter_engines.overlay import blend, with_legend
from adapter_engines.panoptic import PanopticResult

TEXT_SHARE = 1 / 45  # of the picture's longer edge
SHADES = (0.0, 0.3, -0.3, 0.5, -0.5)  # towards white or black, of the first, second... thing of a class
ROWS = (0.5, 0.35, 0.65, 0.2, 0.8)  # of a segment's pixels from the top: where its name may stand


def draw(picture: np.ndarray, found: PanopticResult, colours: np.ndarray, names: Sequence[str]) -> Image.Image:
    """An RGB image of the segments with a legend at the right; what belongs to no segment shows the bare picture.

    `picture` (H, W, 3) uint8 RGB, `colours` (K, 3) uint8 and `names` by class. Things carry their score. A small
    picture is enlarged by a whole number, so that names can be read; a segment without room for its name has none.
    """
    index = indices(found)
    paints = _paints(found, colours)
    canvas = lettering.enlarged(blend(picture, index, paints, bare=len(found.info)))
    factor = lettering.magnification(*picture.shape[:2])
    letters = lettering.font(lettering.size_for(max(picture.shape[:2]) * factor, TEXT_SHARE))
    pen = ImageDraw.Draw(canvas)
    for k, segment in enumerate(found.info):
        text = lettering.shown(names[segment.label]) + (f" {segment.score:.2f}" if segment.is_thing else "")
        left, top, right, bottom = letters.getbbox(text, anchor="lt")
        place = _room(index == k, (right - left) / factor, (bottom - top) / factor)
        if place is not None:
            middle = ((place[0] + 0.5) * factor, (place[1] + 0.5) * factor)
            pen.text(middle, text, (255, 255, 255), letters, "mm", stroke_width=2, stroke_fill=(0, 0, 0))
    shares: dict[int, float] = {}
    for segment in found.info:
        shares[segment.label] = shares.get(segment.label, 0.0) + segment.area / found.segments.size
    listed = sorted(shares.items(), key=lambda entry: -entry[1])
    return with_legend(canvas, listed, colours, names)


def _paints(found: PanopticResult, colours: np.ndarray) -> np.ndarray:
    """(S + 1, 3) uint8: the class colour of every segment, things of a class in several shades; void last."""
    seen: Counter[int] = Counter()
    result = np.zeros((len(found.info) + 1, 3))
    for paint, segment in zip(result[:-1], found.info, strict=True):
        shade = SHADES[seen[segment.label] % len(SHADES)]
        seen[segment.label] += 1
        colour = colours[segment.label].astype(float)
        paint[:] = colour + (255 - colour) * shade if shade > 0 else colour * (1 + shade)
    return np.rint(result).astype(np.uint8)


def indices(found: PanopticResult) -> np.ndarray:
    """(H, W) int32: the place in `found.info` of each pixel's segment, its length where there is none."""
    result = np.full(found.segments.shape, len(found.info), np.int32)
    for k, segment in enumerate(found.info):
        result[found.segments == segment.id] = k
    return result


def _room(mask: np.ndarray, width: float, height: float) -> tuple[float, float] | None:
    """(x, y) of the middle of a row's longest run of set pixels, where the run has most room for the text."""
    rows = np.flatnonzero(mask.any(axis=1))
    below = np.cumsum(mask.sum(axis=1))
    if not len(rows) or rows[-1] - rows[0] + 1 < height:
        return None
    best: tuple[int, float, float] | None = None
    for share in ROWS:
        row = int(np.searchsorted(below, max(1, share * below[-1])))
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[row].astype(np.int8), [0]])))
        lengths = edges[1::2] - edges[::2]
        longest = int(lengths.argmax())
        if best is None or lengths[longest] > best[0] * 1.2:
            best = (int(lengths[longest]), float(edges[2 * longest : 2 * longest + 2].mean() - 0.5), float(row))
    return best[1:] if best is not None and best[0] >= width * 0.9 else None
