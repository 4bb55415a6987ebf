"""Writes results so that a file under its own name is always complete: to a temporary name first, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from adapter_infer.errors import AdapterError

OVERLAY_COMPRESSION = 3  # of zlib's 9: within a tenth of the smallest file, in a third of the time


def write_labels(path: Path, labels: np.ndarray, colours: np.ndarray) -> None:
    """A PNG whose pixel values are class indices: with a palette up to 256 classes, else 16-bit grey."""
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        image.putpalette(colours.tobytes())
    with replacing(path) as stream:
        image.save(stream, format="PNG")


def write_overlay(path: Path, image: Image.Image) -> None:
    """An RGB PNG."""
    with replacing(path) as stream:
        image.save(stream, format="PNG", compress_level=OVERLAY_COMPRESSION)


def write_json(path: Path, document: dict[str, object]) -> None:
    """Indented JSON in UTF-8."""
    with replacing(path) as stream:
        stream.write((json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A stream that becomes the file `path` when the block ends, and leaves nothing behind when it fails.

    Errors: AdapterError if the folder or the disk does not take it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        raise AdapterError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
