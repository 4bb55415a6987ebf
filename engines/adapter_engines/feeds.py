"""Checks what is fed to a model before it runs: every refusal names the value, the limit and the way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_engines.device import is_device_array
from adapter_infer.errors import UsageError
from adapter_infer.metadata import IMAGE, IMAGE_SIZE, Metadata

if TYPE_CHECKING:
    from adapter_engines.engine import TensorInfo

BFLOAT16 = "bfloat16"


def checked(
    feeds: Mapping[str, Any],
    inputs: Sequence[TensorInfo],
    metadata: Metadata | None,
    adopt: Callable[[str, Any], Any] | None = None,
) -> dict[str, Any]:
    """`feeds` as contiguous arrays, in the order of `inputs`. Errors: UsageError.

    `adopt(name, array)`, where a runtime takes more than numpy arrays, turns an array on a GPU into something with
    `shape`, `ndim` and the name of its `dtype`.
    """
    if not isinstance(feeds, Mapping):
        raise UsageError(f"feeds is a {type(feeds).__name__}; give a mapping of input names to arrays")
    wanted = [tensor.name for tensor in inputs]
    surplus = [str(name) for name in feeds if name not in wanted]
    missing = [name for name in wanted if name not in feeds]
    if surplus or missing:
        found = ", ".join(str(name) for name in feeds) or "nothing"
        raise UsageError(f"the model's inputs are {', '.join(wanted)}, but {found} was fed")
    symbols: dict[str, tuple[int, str]] = {}
    result = {}
    for tensor in inputs:
        array, adopted = feeds[tensor.name], False
        if adopt is not None and is_device_array(array):
            array, adopted = adopt(tensor.name, array), True
        _check_type(tensor, array, adopted=adopted, bfloat16=adopt is not None)
        _check_shape(tensor, array, symbols)
        if tensor.name == IMAGE and metadata is not None:
            _check_multiple(array, metadata)
        result[tensor.name] = array if adopted else np.ascontiguousarray(array)
    if metadata is not None and {IMAGE, IMAGE_SIZE} <= result.keys():
        _check_image_size(result[IMAGE_SIZE], result[IMAGE], metadata)
    return result


def _check_type(tensor: TensorInfo, array: Any, *, adopted: bool, bfloat16: bool) -> None:
    """`bfloat16` says whether the runtime takes arrays of ml_dtypes.bfloat16, which numpy itself has not."""
    if adopted:
        if array.dtype != tensor.dtype:
            raise UsageError(f"{tensor.name} is {array.dtype}, but the model takes {tensor.dtype}; convert it first")
        return
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{tensor.name} is a {type(array).__name__}; give a numpy array of {tensor.dtype}")
    if tensor.dtype == BFLOAT16 and bfloat16:
        if array.dtype.name != BFLOAT16:
            raise UsageError(
                f"{tensor.name} is {array.dtype.name}, but the model takes bfloat16; convert it with "
                ".astype(ml_dtypes.bfloat16)"
            )
        return
    try:
        wanted = np.dtype(tensor.dtype)
        if tensor.dtype == BFLOAT16:  # known to numpy once ml_dtypes was imported, but not to this runtime
            raise TypeError(BFLOAT16)
    except TypeError as error:
        raise UsageError(
            f"{tensor.name} is {tensor.dtype}, which numpy arrays cannot hold; export the model with a float32 input"
        ) from error
    if array.dtype != wanted:
        raise UsageError(
            f"{tensor.name} is {array.dtype.name if array.dtype.isnative else array.dtype.str}, but the model takes "
            f"{tensor.dtype}; convert it with .astype(numpy.{tensor.dtype})"
        )


def _check_shape(tensor: TensorInfo, array: Any, symbols: dict[str, tuple[int, str]]) -> None:
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


def _check_multiple(image: Any, metadata: Metadata) -> None:
    """A dynamic size that is no multiple of the coarsest stride would give wrong results deep inside the graph."""
    divisor = metadata.input.size_divisor
    height, width = _size(image, metadata)
    if height % divisor or width % divisor:
        padded = f"{-(-height // divisor) * divisor}x{-(-width // divisor) * divisor}"
        raise UsageError(
            f"image size {height}x{width} is not a multiple of {divisor}, which the model's coarsest level needs; "
            f"resize or pad to {padded}"
        )


def _check_image_size(sizes: Any, image: Any, metadata: Metadata) -> None:
    """Each picture's height and width lie within the image. Values on a GPU are not fetched to be looked at."""
    if not isinstance(sizes, np.ndarray):
        return
    height, width = _size(image, metadata)
    outside = (sizes < 1) | (sizes > [height, width])
    if outside.any():
        row = int(np.flatnonzero(outside.any(axis=1))[0])
        raise UsageError(
            f"image_size {sizes[row].tolist()} of picture {row} is not within 1x1 to {height}x{width}, the size of the "
            "image; give height and width of the picture without its padding"
        )


def _size(image: Any, metadata: Metadata) -> tuple[int, int]:
    """(height, width) of a fed image."""
    height, width = image.shape[1:3] if metadata.input.embed_preprocess else image.shape[2:4]
    return height, width
