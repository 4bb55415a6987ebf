"""What a report says of a file, and the report's own text files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapter_infer.files import replacing, sha256


def describe(path: Path) -> dict[str, Any]:
    """Path, size and sha256 of a file."""
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}


def write(path: Path, text: str) -> None:
    """Writes `text`; a reader finds the old file or the whole new one, never a part."""
    with replacing(path) as stream:
        stream.write(text.encode())
