"""Files: hashes, early refusals, and writing so that a file under its own name is always whole. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from adapter_infer.errors import AdapterError, UsageError


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file as hex digits, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def check_writable(path: Path, name: str) -> None:
    """Refuses before any work what could not be written after it; `name` is what messages call the file.

    Errors: UsageError.
    """
    if path.is_dir():
        raise UsageError(f"{name} {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"{name} {path}: the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{name} {path}: the folder {path.parent} is not writable; choose another one")


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
