"""Checks what is fed to a model before it runs: every refusal names the value, the limit and the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adapter_infer.errors import UsageError
from adapter_infer.metadata import Metadata

if TYPE_CHECKING:
    from adapter_engines.engine import TensorInfo

IMAGE = "image"  # the input of every file adapter-export writes


def checked(
    feeds: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo], metadata: Metadata | None
) -> dict[str, np.ndarray]:
    """`feeds` as contiguous arrays, in the order of `inputs`. Errors: UsageError."""
    if not isinstance(feeds, Mapping):
        raise UsageError(f"feeds is a {type(feeds).__name__}; give a mapping of input names to arrays")
    wanted = [tensor.name for tensor in inputs]
    surplus = [str(name) for name in feeds if name not in wanted]
    missing = [name for name in wanted if name not in feeds]
    if surplus or missing:
        found = ", ".join(str(name) for name in feeds) or "nothing"
        raise UsageError(f"the model's inputs are {', '.join(wanted)}, but {found} was fed")
    symbols: dict[str, tuple[int, str]] = {}
    for tensor in inputs:
        _check_type(tensor, feeds[tensor.name])
        _check_shape(tensor, feeds[tensor.name], symbols)
        if tensor.name == IMAGE and metadata is not None:
            _check_multiple(feeds[tensor.name], metadata)
    return {name: np.ascontiguousarray(feeds[name]) for name in wanted}


def _check_type(tensor: TensorInfo, array: np.ndarray) -> None:
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{tensor.name} is a {type(array).__name__}; give a numpy array of {tensor.dtype}")
    try:
        wanted = np.dtype(tensor.dtype)
    except TypeError as error:
        raise UsageError(
            f"{tensor.name} is {tensor.dtype}, which numpy arrays cannot hold; export the model with a float32 input"
        ) from error
    if array.dtype != wanted:
        raise UsageError(
            f"{tensor.name} is {array.dtype.name if array.dtype.isnative else array.dtype.str}, but the model takes "
            f"{tensor.dtype}; convert it with .astype(numpy.{tensor.dtype})"
        )


def _check_shape(tensor: TensorInfo, array: np.ndarray, symbols: dict[str, tuple[int, str]]) -> None:
    """`symbols` collects the size each named dimension was seen with, and in which input."""
    expected = "(" + ", ".join(str(size) for size in tensor.shape) + ")"
    if array.ndim != len(tensor.shape):
        raise UsageError(f"{tensor.name} {array.shape} has {array.ndim} dimensions, but the model takes {expected}")
    for axis, (size, allowed) in enumerate(zip(array.shape, tensor.shape, strict=True)):
        if size == 0:
            raise UsageError(f"{tensor.name} {array.shape} is empty along dimension {axis}; give at least 1")
        if isinstance(allowed, int):
            if size != allowed:
                raise UsageError(
                    f"{tensor.name} {array.shape} has {size} along dimension {axis}, but the model takes {expected}; "
                    f"feed {allowed}, or export with that dimension dynamic"
                )
        elif allowed != "?":
            known, owner = symbols.setdefault(allowed, (size, tensor.name))
            if known != size:
                raise UsageError(f"{allowed} is {known} in {owner} but {size} in {tensor.name}; they must be the same")


def _check_multiple(image: np.ndarray, metadata: Metadata) -> None:
    """A dynamic size that is no multiple of the coarsest stride would give wrong results deep inside the graph."""
    divisor = metadata.input.size_divisor
    height, width = image.shape[1:3] if metadata.input.embed_preprocess else image.shape[2:4]
    if height % divisor or width % divisor:
        padded = f"{-(-height // divisor) * divisor}x{-(-width // divisor) * divisor}"
        raise UsageError(
            f"image size {height}x{width} is not a multiple of {divisor}, which the model's coarsest level needs; "
            f"resize or pad to {padded}"
        )
