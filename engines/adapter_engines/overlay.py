"""Draws a label map over its picture, with a legend of the classes found and their share of the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from adapter_engines import lettering

OPACITY = 140  # of 256, of the class colour over the picture
EDGE_OPACITY = 235  # of 256, of the class colour along the border to another class

PANEL = (248, 248, 249)
TITLE, TEXT, MUTED, OUTLINE = (22, 24, 29), (38, 41, 48), (112, 117, 128), (120, 124, 134)
BLOCK_PIXELS = 1 << 16  # blended at a time, so that the 16-bit intermediate of a large picture stays small
FEWEST_ROWS = 8  # classes the legend has room for, beside however small a picture


def shares(labels: np.ndarray, classes: int) -> list[tuple[int, float]]:
    """(class, share of the pixels in 0..1) of the classes present, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=classes)
    order = np.argsort(-counts, kind="stable")
    return [(int(index), float(counts[index] / labels.size)) for index in order if counts[index]]


def overlay(picture: np.ndarray, labels: np.ndarray, colours: np.ndarray, names: Sequence[str]) -> Image.Image:
    """The blended picture with its legend at the right, as an RGB image at least as large as the picture.

    `picture` (H, W, 3) uint8 RGB, `labels` (H, W) class indices, `colours` (K, 3) uint8, `names` K class names.
    """
    return with_legend(Image.fromarray(blend(picture, labels, colours)), shares(labels, len(names)), colours, names)


def with_legend(
    image: Image.Image, found: Sequence[tuple[int, float]], colours: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """`image` with the legend of the classes `found`, (class, share of the pixels) as they are to be listed."""
    rows = [(tuple(int(value) for value in colours[i]), lettering.shown(names[i]), share) for i, share in found]
    panel = _legend(rows, lettering.size_for(image.height, 1 / 34), image.height)
    canvas = Image.new("RGB", (image.width + panel.width, max(image.height, panel.height)), PANEL)
    canvas.paste(image, (0, 0))
    canvas.paste(panel, (image.width, 0))
    return canvas


def blend(picture: np.ndarray, labels: np.ndarray, colours: np.ndarray, bare: int | None = None) -> np.ndarray:
    """Class colours over the picture, stronger along the borders between classes; the class `bare` is left out."""
    opacity = np.full(labels.shape, OPACITY, np.uint8)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    for border, parts in ((across, (np.s_[:, 1:], np.s_[:, :-1])), (down, (np.s_[1:], np.s_[:-1]))):
        for part in parts:
            opacity[part][border] = EDGE_OPACITY
    if bare is not None:
        opacity[labels == bare] = 0
    wide_colours = colours.astype(np.uint16)
    result = np.empty_like(picture)
    step = max(1, BLOCK_PIXELS // labels.shape[1])
    for start in range(0, len(labels), step):
        part = np.s_[start : start + step]
        weight = opacity[part].astype(np.uint16)[..., None]
        mixed = picture[part] * (256 - weight)
        mixed += wide_colours[labels[part]] * weight
        mixed >>= 8
        result[part] = mixed
    return result


def _legend(rows: list[tuple[tuple[int, ...], str, float]], size: int, height: int) -> Image.Image:
    """The panel: a title, then a colour swatch, the name and the share of every class that there is room for."""
    text, title = lettering.font(size), lettering.font(round(size * 1.15))
    margin, line, swatch = round(size * 1.2), round(size * 1.75), round(size * 1.05)
    top = margin + round(line * 1.35)
    room = max((height - top - margin // 2) // line, FEWEST_ROWS)
    shown = rows if len(rows) <= room else rows[: room - 1]
    rest = rows[len(shown) :]
    more = f"and {len(rest)} more" if rest else ""

    width_of_names = max(text.getlength(name) for name in [*(name for _, name, _ in shown), more, "Classes found"])
    width_of_shares = text.getlength("100.0 %")
    names_at = margin + swatch + round(size * 0.7)
    width = round(names_at + width_of_names + size * 1.6 + width_of_shares) + margin
    bottom = top + line * (len(shown) + bool(rest)) + margin // 2
    panel = Image.new("RGB", (width, max(bottom, 1)), PANEL)
    draw = ImageDraw.Draw(panel)
    draw.text((margin, margin), "Classes", TITLE, title)
    draw.text((width - margin, margin), "Share", MUTED, title, anchor="ra")
    rule = margin + round(line * 1.05)
    draw.line([(margin, rule), (width - margin, rule)], (214, 216, 222), max(1, size // 14))

    for index, (colour, name, share) in enumerate(shown):
        middle = top + line * index + line // 2
        box = (margin, middle - swatch // 2, margin + swatch, middle - swatch // 2 + swatch)
        draw.rounded_rectangle(box, radius=swatch // 5, fill=colour, outline=OUTLINE)
        draw.text((names_at, middle), name, TEXT, text, anchor="lm")
        draw.text((width - margin, middle), _percent(share), MUTED, text, anchor="rm")
    if rest:
        middle = top + line * len(shown) + line // 2
        draw.text((names_at, middle), more, MUTED, text, anchor="lm")
        draw.text((width - margin, middle), _percent(sum(share for *_, share in rest)), MUTED, text, anchor="rm")
    return panel


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.0005 else f"{share:.1%}".replace("%", " %")
