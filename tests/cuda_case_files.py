"""Writes cases of tests/msda_cases.py for tests/plugins/cuda/case_driver.cpp."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cuda_emulation import TYPES
from msda_cases import TOLERANCE, Case, decode, expected, expected_standard


class Run(NamedTuple):
    """One call. `device` as in cuda_emulation.Emulated.

    `broken`, `broken_starts`: sizes and starts to give instead, which make all of it NaN.
    `swapped`: the first two levels, which are of one size, stand in `value` in the other order.
    """

    case: Case
    op: str = "fused"
    dtype: str = "fp16"
    samples: str = "fp16"
    device: str | None = None
    order: int = 1
    broken: tuple[tuple[int, int], ...] | None = None
    broken_starts: tuple[int, ...] | None = None
    swapped: bool = False


def write(path: Path, runs: Iterable[Run]) -> int:
    """The file for `runs`; returns how many there are."""
    count = 0
    with path.open("wb") as file:
        for run in runs:
            _write_one(file, run)
            count += 1
    return count


def _write_one(file: BinaryIO, run: Run) -> None:
    case, fused = run.case, run.op == "fused"
    if fused:
        inputs, truth = case.inputs(run.dtype, run.samples), expected(case, run.dtype, run.samples)
    else:
        inputs = case.standard_inputs(run.dtype, run.samples)
        truth = expected_standard(case, run.dtype, run.samples)
    kind = np.dtype((run.device or "int64").removesuffix("+starts"))
    shapes = inputs["spatial_shapes"]
    starts = (np.cumsum(shapes.prod(1)) - shapes.prod(1)) if run.device and "starts" in run.device else None
    starts = inputs.get("level_start_index", starts)
    if run.broken:
        shapes, truth = np.array(run.broken, np.int64), np.full_like(truth, np.nan)
    if run.broken_starts:
        starts, truth = np.array(run.broken_starts, np.int64), np.full_like(truth, np.nan)
    if run.swapped:
        half = shapes[0].prod()
        stored = inputs["value"]
        inputs["value"] = np.concatenate([stored[:, half : 2 * half], stored[:, :half], stored[:, 2 * half :]], 1)
        starts = np.concatenate([[half, 0], starts[2:]])
    header = [fused, TYPES[run.dtype], TYPES[run.samples], TYPES[kind.name], run.device is not None, starts is not None]
    header += [case.n, case.s, case.m, case.d, case.q, case.levels, case.p, case.reference_batch, case.reference_levels]
    file.write(np.array([*header, run.order], np.int64).tobytes())
    value = decode(inputs["value"])
    file.write(np.float64(TOLERANCE[run.dtype] * np.abs(value).max(initial=0)).tobytes())
    file.write(inputs["value"].tobytes())
    file.write(shapes.astype(kind).tobytes())
    if starts is not None:
        file.write(starts.astype(kind).tobytes())
    names = ("reference_points", "samples") if fused else ("sampling_locations", "attention_weights")
    for name in names:
        file.write(inputs[name].tobytes())
    file.write(truth.tobytes())
