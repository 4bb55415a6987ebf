"""Draws what a detector found over its picture: masks, boxes, and labels that do not cover one another if they can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from adapter_engines import lettering
from adapter_engines.detection import DetectionResult
from adapter_engines.masks import Region

OPACITY, EDGE_OPACITY = 110, 235  # of 256, of a mask's colour over the picture and along its outline
TEXT_SHARE = 1 / 50  # of the picture's longer edge
LINE_SHARE = 1 / 450

Box = tuple[int, int, int, int]  # x0, y0, x1, y1


def draw(
    picture: np.ndarray,
    found: DetectionResult,
    colours: np.ndarray,
    names: Sequence[str],
    least_score: float = 0.0,
) -> Image.Image:
    """An RGB image of the objects with at least `least_score`, the best on top.

    `picture` (H, W, 3) uint8 RGB, `colours` (K, 3) uint8 and `names` by class. A small picture is enlarged by a whole
    number, so that labels can be read.
    """
    shown = [i for i in range(len(found)) if found.scores[i] >= least_score]
    blended = picture.copy()
    thickness = max(1, round(max(picture.shape[:2]) * LINE_SHARE / 2))
    for i in reversed(shown if found.masks is not None else []):
        blend(blended, found.masks.region(i), colours[found.labels[i]], thickness)  # type: ignore[union-attr]
    canvas = lettering.enlarged(blended)
    factor = lettering.magnification(*picture.shape[:2])
    edge = max(picture.shape[:2]) * factor
    pen, line = ImageDraw.Draw(canvas), max(2, round(edge * LINE_SHARE))
    letters = lettering.font(lettering.size_for(edge, TEXT_SHARE))
    limits = np.array([picture.shape[1], picture.shape[0]] * 2, np.float32)
    boxes = {i: _corners(found.boxes[i].clip(0, limits) * factor, canvas.size) for i in shown}
    texts = {i: f"{lettering.shown(names[found.labels[i]])} {found.scores[i]:.2f}" for i in shown}
    taken: list[Box] = []
    places = {i: _place(texts[i], letters, boxes[i], line, canvas.size, taken) for i in shown}
    paints = {i: tuple(int(value) for value in colours[found.labels[i]]) for i in shown}
    for i in reversed(shown):
        pen.rectangle(boxes[i], outline=paints[i], width=line)
    for i in reversed(shown):
        pen.rectangle(places[i], fill=paints[i])
        middle = (places[i][0] + line + 1, (places[i][1] + places[i][3]) / 2)
        pen.text(middle, texts[i], lettering.readable_on(paints[i]), letters, anchor="lm")
    return canvas


def blend(picture: np.ndarray, region: Region, colour: np.ndarray, thickness: int = 1) -> None:
    """Lays `colour` over the mask's pixels of `picture`, stronger along an outline of `thickness` pixels; in place."""
    if not region.inside.size:
        return
    weight = np.where(region.inside, np.uint16(OPACITY), np.uint16(0))
    weight[region.inside & ~_core(region.inside, thickness)] = EDGE_OPACITY
    part = picture[region.place]
    mixed = part * (256 - weight[..., None])
    mixed += colour.astype(np.uint16) * weight[..., None]
    mixed >>= 8
    part[...] = mixed


def _core(mask: np.ndarray, depth: int) -> np.ndarray:
    """Pixels whose four neighbours `depth` away are set too; beyond the region nothing is."""
    core = np.zeros_like(mask)
    if min(mask.shape) > 2 * depth:
        core[depth:-depth, depth:-depth] = (
            mask[2 * depth :, depth:-depth]
            & mask[: -2 * depth, depth:-depth]
            & mask[depth:-depth, 2 * depth :]
            & mask[depth:-depth, : -2 * depth]
        )
    return core


def _corners(box: np.ndarray, size: tuple[int, int]) -> Box:
    """The pixels of a box's border, within a canvas of `size` (width, height)."""
    x0, y0 = (min(int(value), limit - 1) for value, limit in zip(box[:2], size, strict=True))
    ends = (int(np.ceil(value)) - 1 for value in box[2:])
    x1, y1 = (min(max(end, low), limit - 1) for end, low, limit in zip(ends, (x0, y0), size, strict=True))
    return x0, y0, x1, y1


def _place(
    text: str,
    letters: lettering.Font,
    box: Box,
    line: int,
    size: tuple[int, int],
    taken: list[Box],
) -> Box:
    """Where a box's label goes: above it, inside at its top or bottom, or below, wherever no other label is."""
    left, top, right, bottom = letters.getbbox(text, anchor="lt")
    width, height = round(right - left) + 2 * line + 2, round((bottom - top) * 1.1) + line + 4
    x = max(0, min(box[0], size[0] - width))
    candidates = [
        (x, max(0, min(y, size[1] - height - 1)))
        for y in (box[1] - height, box[1], box[3] - height, box[3], box[1] + height)
    ]
    areas = [(x, y, x + width, y + height) for x, y in candidates]
    chosen = next((area for area in areas if not any(_overlap(area, other) for other in taken)), areas[0])
    taken.append(chosen)
    return chosen


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
