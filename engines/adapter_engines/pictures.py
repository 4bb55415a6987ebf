"""Reads real pictures as the training pipeline's reader (cv2.imread, IMREAD_COLOR) sees them: 8 bits, RGB, upright.

An alpha channel is dropped, not blended; palettes are resolved; grey is repeated three times; of 16 bits the upper 8
are kept; colour profiles are ignored. All of that is what cv2 does, and so what the networks were trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from adapter_infer.errors import AdapterError, UsageError

MAX_PIXELS = 178_956_970  # Pillow's own limit, here independent of its global switch: 512 MiB of RGB
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture in the file at `path`, (H, W, 3) uint8 in RGB order; the first frame where it has several.

    Errors: UsageError if there is no such file, AdapterError if it cannot be read as a picture, or has more than
    `max_pixels` (said by its header, before anything is unpacked).
    """
    if not path.is_file():
        raise UsageError(f"{path} is {'not a file' if path.exists() else 'not there'}; give a picture file")
    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise AdapterError(
                    f"{path} has {image.width}x{image.height} = {pixels} pixels, more than the {max_pixels} that are "
                    "unpacked at most; scale it down, or cut it into tiles"
                )
            image.load()  # before the orientation: a PNG may say it behind its pixels, a TIFF is turned by loading
            turn = UPRIGHT.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            return _rgb(upright, path)
    except (AdapterError, MemoryError):
        raise
    except PermissionError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error
    except UnidentifiedImageError as error:
        raise AdapterError(f"{path} is not a picture of a known format; convert it to PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise AdapterError(f"{path} has more than {max_pixels} pixels; scale it down, or cut it into tiles") from error
    except Exception as error:  # decoders of damaged files raise almost anything
        raise AdapterError(f"{path} cannot be read, the file is damaged or of a rare kind: {error}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) where it is missing or unreadable: a bad tag does not make a bad picture."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def _rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise AdapterError(
            f"{path} has 32 bits a pixel ({image.mode!r}), which says neither what is black nor what is white; "
            "convert it to 8 or 16 bits"
        )
    # asarray may show Pillow's own memory, which is read-only
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
