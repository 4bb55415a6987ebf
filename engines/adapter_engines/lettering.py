"""Letters on pictures: the font, names made printable, and enlarging pictures too small to be written on."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFont

SIZES = (13, 34)  # pixels; between them the text grows with the picture
LONGEST_NAME = 32  # letters; what is longer is cut
LEAST_LONG, LEAST_SHORT = 640, 96  # pixels of the edges of a picture with labels on it

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def shown(name: str) -> str:
    """A class name as one printable line of bounded length."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split()) or "(no name)"
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def size_for(edge: int, share: float) -> int:
    """The letters' height in pixels on a picture of that edge, of which it is to be the `share`."""
    return int(np.clip(edge * share, *SIZES))


def font(size: int) -> Font:
    """Pillow's own font, which is always there."""
    return ImageFont.load_default(size)


def readable_on(colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on `colour`."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def magnification(height: int, width: int) -> int:
    """How many times a picture must be enlarged before there is room for labels."""
    return max(1, math.ceil(LEAST_LONG / max(height, width)))


def enlarged(picture: np.ndarray) -> Image.Image:
    """`picture` (H, W, 3) uint8 RGB, `magnification` times as large, on grey where it is very narrow."""
    factor = magnification(*picture.shape[:2])
    image = Image.fromarray(picture)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if min(image.size) >= LEAST_SHORT:
        return image
    canvas = Image.new("RGB", (max(image.width, LEAST_SHORT), max(image.height, LEAST_SHORT)), (128, 128, 128))
    canvas.paste(image, (0, 0))
    return canvas
