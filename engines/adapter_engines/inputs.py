"""From the arguments of adapter-run to the list of pictures and the names their results get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_engines.pictures import SUFFIXES
from adapter_infer.errors import UsageError

LABELS, OVERLAY, PANOPTIC = "_labels.png", "_overlay.png", "_panoptic.png"


@dataclass(frozen=True)
class Task:
    """One picture and where its results go: `target` is their common path without an ending."""

    picture: Path
    target: Path

    @property
    def labels(self) -> Path:
        return self.target.with_name(self.target.name + LABELS)

    @property
    def overlay(self) -> Path:
        return self.target.with_name(self.target.name + OVERLAY)

    @property
    def panoptic(self) -> Path:
        return self.target.with_name(self.target.name + PANOPTIC)


def tasks(arguments: Sequence[Path], out: Path) -> list[Task]:
    """One task per picture, in the order of the arguments; a folder's sorted, its sub-folders kept under `out`.

    A named file is taken whatever its ending, so that a broken one is reported; of a folder, the files that end like
    pictures. Errors: UsageError if a folder is not there or holds no picture, if `out` is a folder read from, or if two
    pictures would write the same results.
    """
    result: dict[Path, Task] = {}
    for argument in arguments:
        if argument.is_dir():
            if _same(argument, out):
                raise UsageError(f"--out {out} is a folder pictures are read from; choose another for the results")
            found = [
                Task(picture, out / picture.relative_to(argument).with_suffix("")) for picture in _in(argument, out)
            ]
            if not found:
                raise UsageError(f"the folder {argument} holds no picture ({', '.join(sorted(SUFFIXES))})")
        else:
            found = [Task(argument, out / argument.stem)]
        for task in found:
            other = result.setdefault(task.target, task)
            if not _same(other.picture, task.picture):
                raise UsageError(
                    f"{other.picture} and {task.picture} would both be written as {task.target}_*; rename one of them, "
                    "or run them with different --out folders"
                )
    return list(result.values())


def _in(folder: Path, out: Path) -> list[Path]:
    """The pictures under `folder`, sorted; results of an earlier run into a folder within it are left out."""
    result = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _same(Path(parent, name), out))
        result += [
            Path(parent, name)
            for name in sorted(files)
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return result


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
