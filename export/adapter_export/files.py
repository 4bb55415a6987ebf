"""Writes an export beside its final place and moves it there when everything has passed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from adapter_export import single_file
from adapter_infer.errors import AdapterError, UsageError
from adapter_infer.files import check_writable

SINGLE_FILE_BYTES = 2**31 - 2**24
"""Weights above this go to a second file: a protobuf file ends at 2 GiB, and the graph itself needs room."""
EMBEDDED_BYTES = 1024
"""Tensors up to this stay in the graph also where there is a second file: shapes must be readable without it."""


class Staging:
    """A folder beside the target, with the files of one export under their final names."""

    def __init__(self, target: Path, folder: Path) -> None:
        self.target = target
        self.model = folder / target.name
        self.data = folder / f"{target.name}.data"

    def publish(self) -> None:
        """Moves the files to their place; what stood there is replaced. The graph goes last: it is what is opened."""
        data = self.target.with_name(self.data.name)
        orphan = not self.data.exists() and _uses(self.target, data)
        if self.data.exists():
            os.replace(self.data, data)
        os.replace(self.model, self.target)
        if orphan:
            data.unlink()


def _uses(model: Path, data: Path) -> bool:
    """Whether a model that is about to be replaced keeps its weights in `data`."""
    if not (model.exists() and data.exists()):
        return False
    try:
        initializers = onnx.load(model, load_external_data=False).graph.initializer
    except Exception:  # not an ONNX file, whose neighbours are none of our business
        return False
    return any(entry.value == data.name for tensor in initializers for entry in tensor.external_data)


@contextmanager
def staging(target: Path) -> Iterator[Staging]:
    """Whatever happens inside, nothing but published files is left. Errors: AdapterError where writing fails."""
    check_writable(target, "--onnx")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            yield Staging(target, Path(folder))
    except OSError as error:
        reason = error.strerror or str(error)
        raise AdapterError(f"writing {target} failed: {reason}; nothing was kept") from error


def check_one_file(size: int) -> None:
    """Errors: UsageError where weights of `size` bytes do not fit one file."""
    if size > SINGLE_FILE_BYTES:
        raise UsageError(
            f"the weights take {size / 1e9:.1f} GB, but one ONNX file holds 2 GB at most; allow a second file for them"
        )


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def save(model: ir.Model, place: Staging, external_data: bool | None) -> None:
    """Writes the graph, with its weights in a second file if asked, or if needed where None.

    `model` may lose its weights on the way. Errors: UsageError where one file was asked for and cannot hold them.
    """
    size = weight_bytes(model)
    if external_data is False:
        check_one_file(size)
    if external_data or size > SINGLE_FILE_BYTES:
        ir.save(model, place.model, external_data=place.data.name, size_threshold_bytes=EMBEDDED_BYTES)
    else:
        single_file.write(model, place.model)


def append(path: Path, addition: onnx.ModelProto) -> None:
    """Adds to the repeated fields (metadata, functions) of a written model without reading its weights again.

    A protobuf message followed by another reads as the two merged, with repeated fields joined: that is the format's
    own rule, so the result is one ordinary file.
    """
    with path.open("ab") as file:
        file.write(addition.SerializeToString())


def append_metadata(path: Path, props: Mapping[str, str]) -> None:
    """Adds metadata_props to a written model."""
    addition = onnx.ModelProto()
    onnx.helper.set_model_props(addition, dict(props))
    append(path, addition)


def with_functions(model: Path, functions: list[onnx.FunctionProto]) -> Path:
    """A copy of a staged model with these functions, beside it (the second file serves both)."""
    copy = model.with_name(f"bodies-{model.name}")
    shutil.copyfile(model, copy)
    addition = onnx.ModelProto()
    addition.functions.extend(functions)
    append(copy, addition)
    return copy
