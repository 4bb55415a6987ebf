"""How far an output may be from torch's: in fp32 by its scale, in a half type by the model's own noise.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from adapter_export import noise
from adapter_export.precision import Precision
from adapter_export.report import Difference
from adapter_infer.errors import ParityError

Array = NDArray[Any]

OF_SPREAD, OF_LARGEST = 1e-3, 1e-5
OF_NOISE_RMS, OF_NOISE_LARGEST = 1.5, 2.5
FEW = 1000  # numbers, of which no standard deviation is to be trusted


@dataclass(frozen=True)
class Noise:
    """By how much one output moves in the asked precision: root mean square and at the worst place."""

    rms: float
    largest: float


class Gap(NamedTuple):
    """The figures of a Difference."""

    largest: float
    limit: float
    rms: float = 0.0
    rms_limit: float | None = None
    reason: str = ""

    def named(self, path: str, output: str, input_shape: tuple[int, ...]) -> Difference:
        """The Difference that says where it was found."""
        return Difference(path, output, input_shape, *self)


def noises(
    model: nn.Module,
    call: Callable[..., Sequence[Tensor]],
    given: Sequence[Tensor],
    expected: Sequence[Array],
    precision: Precision,
) -> tuple[Noise, ...]:
    """By how much each of `call(*given)`, in fp32 `expected`, moves in `precision`; empty where that is fp32.

    Errors: ParityError where the model leaves the range of the half type it is to be written in.
    """
    if precision.coarsest == "fp32":
        return ()
    moved = noise.run(model, call, given, precision)
    return tuple(_noise(each.numpy(), right, precision) for each, right in zip(moved, expected, strict=True))


def pooled(noise_of: Mapping[str, Noise], sizes: Mapping[str, int]) -> dict[str, Noise]:
    """Noises of outputs named kind_0, kind_1 and so on; those of few numbers are raised to the largest of their kind.

    How far a few numbers happen to move says little of how far they may: the root mean square of n of them strays from
    that of many by 1 / sqrt(2 n), of which three are allowed.
    """
    largest_of: dict[str, Noise] = {}
    for name, moves in noise_of.items():
        kind = name.rpartition("_")[0]
        other = largest_of.get(kind, moves)
        largest_of[kind] = Noise(max(moves.rms, other.rms), max(moves.largest, other.largest))
    result = dict(noise_of)
    for name in noise_of:
        if sizes[name] < FEW:
            most, stray = largest_of[name.rpartition("_")[0]], 1 + 3 / (2 * max(sizes[name], 1)) ** 0.5
            result[name] = Noise(most.rms * stray, most.largest * stray)
    return result


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


def tolerance(expected: Array) -> float:
    """The largest difference allowed of an output; the smallest normal number where it is all zero."""
    spread, largest = float(np.std(expected)), float(np.abs(expected).max(initial=0.0))
    return max(OF_SPREAD * spread + OF_LARGEST * largest, float(np.finfo(np.float32).tiny))


def _limits(expected: Array, moves: Noise | None) -> tuple[float, float | None]:
    """Of the largest difference, and of its root mean square where there is noise to compare with."""
    limit = tolerance(expected)
    if moves is None:
        return limit, None
    return max(limit, OF_NOISE_LARGEST * moves.largest), max(limit, OF_NOISE_RMS * moves.rms)


def gap(got: Array, expected: Array, moves: Noise | None = None) -> Gap:
    """The differences (infinite where shapes or non-finite values differ) and their limits."""
    limit, rms_limit = _limits(expected, moves)
    if got.shape != expected.shape:
        return Gap(np.inf, limit, np.inf, rms_limit)
    gaps = got.astype(expected.dtype, copy=False) - expected
    np.abs(gaps, out=gaps)
    return Gap(largest(gaps), limit, 0.0 if rms_limit is None else _rms(gaps), rms_limit)


def labels_gap(got: Array, logits: Array, moves: Noise | None = None) -> Gap:
    """By how much, at the worst pixel, the logit of the chosen class is below the best one; and its limit.

    Both may move by the tolerance, so a class within twice of it is as good as the best.
    """
    limit = 2 * _limits(logits, moves)[0]
    n, classes, h, w = logits.shape
    if got.shape != (n, h, w) or got.min(initial=0) < 0 or got.max(initial=0) >= classes:
        return Gap(np.inf, limit)
    chosen = np.take_along_axis(logits, got[:, None], 1)[:, 0]
    return Gap(largest(logits.max(1) - chosen), limit)


def largest(gaps: Array) -> float:
    """The largest gap; infinite where one is not a number, which ordinary comparisons would let pass."""
    found = float(gaps.max(initial=0.0))
    return found if np.isfinite(found) else float(np.inf)
