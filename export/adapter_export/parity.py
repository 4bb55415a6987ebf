"""The parity gate: torch against ONNX Runtime, on seeded pictures, through the library and through the function body.

The reference is the model as it was loaded, in eager fp32, with the reference arithmetic of MSDA, run before anything
is traced. A graph with a baked size does not fail, it lies; so a dynamic export is compared at sizes and batches that
the exporter never saw.

The tolerance of an output is 1e-3 of its standard deviation plus 1e-5 of its largest value. The first part is 10 to
100 times the noise of fp32 through a whole model (a wrong LayerNorm eps, size or weight moves outputs by more); the
second is the rounding that remains where an output hardly varies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adapter_export import pictures
from adapter_export.report import Difference
from adapter_export.sizes import UNSEEN, Size
from adapter_infer.errors import EnvironmentMissing, ParityError
from adapter_infer.spec import Preprocessing

Array = NDArray[Any]

OF_SPREAD, OF_LARGEST = 1e-3, 1e-5


@dataclass(frozen=True)
class Case:
    """One comparison: what the graph is fed, and what torch makes of it (maps, or logits also where labels are out)."""

    image: Array
    expected: tuple[Array, ...]


def shapes(size: Size | None, batch: int | None, divisor: int) -> list[tuple[int, int, int]]:
    """(N, H, W) of each comparison; None means dynamic. A dynamic export is traced at batch 2, so 1 and 3 are new."""
    sizes = [size] if size is not None else [(h * divisor, w * divisor) for h, w in UNSEEN]
    if batch is not None:
        return [(batch, *each) for each in sizes] * (2 if size is not None and batch == 1 else 1)
    if len(sizes) == 1:
        return [(1, *sizes[0]), (3, *sizes[0])]
    return [(3 if i == 0 else 1, *each) for i, each in enumerate(sizes)]


@torch.no_grad()
def reference(
    model: nn.Module,
    wanted: Sequence[tuple[int, int, int]],
    output: str,
    preprocessing: Preprocessing,
    as_pixels: bool,
    seed: int = 0,
) -> list[Case]:
    """What `model` makes of seeded pictures of these (N, H, W); `as_pixels`: the graph normalises them itself."""
    cases = []
    for i, (n, h, w) in enumerate(wanted):
        kinds = pictures.KINDS[i % 2 :] + pictures.KINDS[: i % 2]
        raw = pictures.pixels(n, h, w, kinds, seed + i)
        image = pictures.normalise(raw, preprocessing)
        run: Any = getattr(model, "features", model) if output == "features" else model
        made = run(torch.from_numpy(image))
        made = made if isinstance(made, (tuple, list)) else (made,)
        cases.append(Case(raw if as_pixels else image, tuple(each.numpy() for each in made)))
    return cases


def tolerance(expected: Array) -> float:
    """The largest difference allowed of an output; the smallest normal number where it is all zero."""
    spread, largest = float(np.std(expected)), float(np.abs(expected).max(initial=0.0))
    return max(OF_SPREAD * spread + OF_LARGEST * largest, float(np.finfo(np.float32).tiny))


def library() -> tuple[Path | None, str]:
    """ONNX Runtime's custom-op library, or why there is none."""
    import adapter_plugins

    try:
        return adapter_plugins.library(adapter_plugins.ORT_CPU), ""
    except EnvironmentMissing as error:
        return None, str(error)


def compare(
    file: Path, path: str, custom_ops: Path | None, cases: Sequence[Case], outputs: Sequence[str]
) -> Iterator[Difference]:
    """Runs the file in ONNX Runtime and yields one Difference an output and case.

    `custom_ops` is registered where given; otherwise functions run by their bodies. Errors: ParityError where the
    runtime refuses the file or a run.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed as well
    try:
        if custom_ops is not None:
            options.register_custom_ops_library(str(custom_ops))
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise ParityError(f"ONNX Runtime refuses the exported graph ({path}): {_first_line(error)}") from error
    for case in cases:
        try:
            got = session.run(list(outputs), {"image": case.image})
        except Exception as error:
            shape = "x".join(map(str, case.image.shape))
            raise ParityError(f"the exported graph fails on input {shape} ({path}): {_first_line(error)}") from error
        for name, array, expected in zip(outputs, got, case.expected, strict=True):
            measure = _labels_difference if name == "labels" else _difference
            largest, limit = measure(array, expected)
            yield Difference(path, name, case.image.shape, largest, limit)


def _difference(got: Array, expected: Array) -> tuple[float, float]:
    """The largest absolute difference (infinite where shapes or non-finite values differ) and its limit."""
    limit = tolerance(expected)
    if got.shape != expected.shape:
        return np.inf, limit
    return _largest(np.abs(got - expected)), limit


def _labels_difference(got: Array, logits: Array) -> tuple[float, float]:
    """By how much, at the worst pixel, the logit of the chosen class is below the best one; and its limit.

    Both may move by the tolerance, so a class within twice of it is as good as the best.
    """
    limit = 2 * tolerance(logits)
    n, classes, h, w = logits.shape
    if got.shape != (n, h, w) or got.min(initial=0) < 0 or got.max(initial=0) >= classes:
        return np.inf, limit
    chosen = np.take_along_axis(logits, got[:, None], 1)[:, 0]
    return _largest(logits.max(1) - chosen), limit


def _largest(gaps: Array) -> float:
    """The largest gap; infinite where one is not a number, which ordinary comparisons would let pass."""
    largest = float(gaps.max(initial=0.0))
    return largest if np.isfinite(largest) else float(np.inf)


def judge(worst: Difference | None) -> None:
    """Errors: ParityError that names the worst output where it is beyond its tolerance."""
    if worst is None or worst.share <= 1.0:
        return
    shape = "x".join(map(str, worst.input_shape))
    raise ParityError(
        f"parity failed: output {worst.output} differs from torch by {worst.largest:.3g} at input {shape} through the "
        f"{worst.path} path, more than the tolerance of {worst.limit:.3g}; no file was kept"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
