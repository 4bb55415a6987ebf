"""The parity gate: torch against ONNX Runtime, on seeded pictures, through the library and through the function body.

The reference is the model as it was loaded, in eager fp32, with the reference arithmetic of MSDA, run before anything
is traced. A graph with a baked size does not fail, it lies; so a dynamic export is compared at sizes and batches that
the exporter never saw.

The tolerance of an output in fp32 is 1e-3 of its standard deviation plus 1e-5 of its largest value. The first part is
10 to 100 times the noise of fp32 through a whole model (a wrong LayerNorm eps, size or weight moves outputs by more);
the second is the rounding that remains where an output hardly varies.

In a half type the model itself moves by far more, and by how much depends on model and picture: over the golden models
by 0.9e-3 to 3.4e-3 of the standard deviation in fp16 (root mean square) and 0.9e-2 to 2.1e-2 in bf16. So the noise is
measured by rounding torch's own operators (see `noise`), and the tolerance is 1.5 times that in root mean square, 2.5
times at the worst place. Right exports of the golden models come to 0.6 to 1.2 of the noise; sampling locations in fp16
at 512 pixels to 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adapter_export import noise, pictures
from adapter_export.precision import Precision
from adapter_export.report import Difference
from adapter_export.sizes import UNSEEN, Size
from adapter_infer.errors import EnvironmentMissing, ParityError
from adapter_infer.spec import Preprocessing

Array = NDArray[Any]

OF_SPREAD, OF_LARGEST = 1e-3, 1e-5
OF_NOISE_RMS, OF_NOISE_LARGEST = 1.5, 2.5
FP32 = Precision()


@dataclass(frozen=True)
class Noise:
    """By how much one output moves in the asked precision: root mean square and at the worst place."""

    rms: float
    largest: float


@dataclass(frozen=True)
class Case:
    """One comparison: what the graph is fed, and what torch makes of it (maps, or logits also where labels are out).

    `noises` has one entry an output; none where everything is fp32.
    """

    image: Array
    expected: tuple[Array, ...]
    noises: tuple[Noise, ...] = ()


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
    precision: Precision = FP32,
) -> list[Case]:
    """What `model` makes of seeded pictures of these (N, H, W); `as_pixels`: the graph normalises them itself.

    Errors: ParityError where the model leaves the range of the half type it is to be written in.
    """
    cases = []
    for i, (n, h, w) in enumerate(wanted):
        kinds = pictures.KINDS[i % 2 :] + pictures.KINDS[: i % 2]
        raw = pictures.pixels(n, h, w, kinds, seed + i)
        image = pictures.normalise(raw, preprocessing)
        run: Any = getattr(model, "features", model) if output == "features" else model
        made = run(torch.from_numpy(image))
        made = made if isinstance(made, (tuple, list)) else (made,)
        expected = tuple(each.numpy() for each in made)
        noises: tuple[Noise, ...] = ()
        if precision.coarsest != "fp32":
            moved = noise.run(model, run, torch.from_numpy(image), precision)
            noises = tuple(_noise(each.numpy(), right, precision) for each, right in zip(moved, expected, strict=True))
        cases.append(Case(raw if as_pixels else image, expected, noises))
    return cases


def _noise(moved: Array, expected: Array, precision: Precision) -> Noise:
    gaps = moved - expected
    np.abs(gaps, out=gaps)
    if not np.isfinite(gaps).all():
        raise ParityError(
            f"in {precision.coarsest} the model's own activations become infinite on the compared pictures; "
            f"export with precision {'bf16, or ' if precision.coarsest == 'fp16' else ''}fp32"
        )
    return Noise(_rms(gaps), float(gaps.max(initial=0.0)))


def _rms(gaps: Array) -> float:
    flat = gaps.ravel()  # logits are large: no squares of them are kept
    return float(np.sqrt(np.vdot(flat, flat) / max(flat.size, 1)))


class Gap(NamedTuple):
    """The figures of a Difference."""

    largest: float
    limit: float
    rms: float = 0.0
    rms_limit: float | None = None

    def named(self, path: str, output: str, input_shape: tuple[int, ...]) -> Difference:
        """The Difference that says where it was found."""
        return Difference(path, output, input_shape, *self)


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
    file: Path,
    path: str,
    custom_ops: Path | None,
    cases: Sequence[Case],
    outputs: Sequence[str],
    *,
    optimise: bool = True,
) -> Iterator[Difference]:
    """Runs the file in ONNX Runtime and yields one Difference an output and case.

    `custom_ops` is registered where given; otherwise functions run by their bodies. `optimise` False: as the graph
    stands. Errors: ParityError where the runtime refuses the file or a run.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed as well
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        if custom_ops is not None:
            options.register_custom_ops_library(str(custom_ops))
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise ParityError(f"ONNX Runtime refuses the exported graph ({path}): {_first_line(error)}") from error
    half = session.get_inputs()[0].type == "tensor(float16)"
    for case in cases:
        image = case.image.astype(np.float16) if half else case.image
        try:
            got = session.run(list(outputs), {"image": image})
        except Exception as error:
            shape = "x".join(map(str, case.image.shape))
            raise ParityError(f"the exported graph fails on input {shape} ({path}): {_first_line(error)}") from error
        noises = case.noises or (None,) * len(outputs)
        for name, array, expected, moves in zip(outputs, got, case.expected, noises, strict=True):
            measure = _labels_difference if name == "labels" else _difference
            yield measure(array, expected, moves).named(path, name, case.image.shape)


def _limits(expected: Array, moves: Noise | None) -> tuple[float, float | None]:
    """Of the largest difference, and of its root mean square where there is noise to compare with."""
    limit = tolerance(expected)
    if moves is None:
        return limit, None
    return max(limit, OF_NOISE_LARGEST * moves.largest), max(limit, OF_NOISE_RMS * moves.rms)


def _difference(got: Array, expected: Array, moves: Noise | None = None) -> Gap:
    """The differences (infinite where shapes or non-finite values differ) and their limits."""
    limit, rms_limit = _limits(expected, moves)
    if got.shape != expected.shape:
        return Gap(np.inf, limit, np.inf, rms_limit)
    gaps = got.astype(expected.dtype, copy=False) - expected
    np.abs(gaps, out=gaps)
    return Gap(_largest(gaps), limit, 0.0 if rms_limit is None else _rms(gaps), rms_limit)


def _labels_difference(got: Array, logits: Array, moves: Noise | None = None) -> Gap:
    """By how much, at the worst pixel, the logit of the chosen class is below the best one; and its limit.

    Both may move by the tolerance, so a class within twice of it is as good as the best.
    """
    limit = 2 * _limits(logits, moves)[0]
    n, classes, h, w = logits.shape
    if got.shape != (n, h, w) or got.min(initial=0) < 0 or got.max(initial=0) >= classes:
        return Gap(np.inf, limit)
    chosen = np.take_along_axis(logits, got[:, None], 1)[:, 0]
    return Gap(_largest(logits.max(1) - chosen), limit)


def _largest(gaps: Array) -> float:
    """The largest gap; infinite where one is not a number, which ordinary comparisons would let pass."""
    largest = float(gaps.max(initial=0.0))
    return largest if np.isfinite(largest) else float(np.inf)


def judge(worst: Difference | None) -> None:
    """Errors: ParityError that names the worst output where it is beyond its tolerance."""
    if worst is None or worst.share <= 1.0:
        return
    shape = "x".join(map(str, worst.input_shape))
    by_rms = worst.rms_limit is not None and worst.rms / worst.rms_limit > worst.largest / worst.limit
    amount, limit = (worst.rms, worst.rms_limit) if by_rms else (worst.largest, worst.limit)
    raise ParityError(
        f"parity failed: output {worst.output} differs from torch by {amount:.3g}{' in root mean square' * by_rms} at "
        f"input {shape} through the {worst.path} path, more than the tolerance of {limit:.3g}; no file was kept"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
