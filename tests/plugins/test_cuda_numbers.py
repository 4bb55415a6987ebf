"""The CUDA kernels, their text unchanged, on the CPU: both ops over the table, all types, orders and block sizes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from cuda_emulation import MESSAGE_SIZE, Emulated, Refused, build
from msda_cases import CASES, DTYPES, TOLERANCE, Case, decode, expected, expected_standard

OPS = ("fused", "standard")
#: Queries in the grids that a model makes of them, odd sizes and incomplete tiles among them.
GRIDS = [
    Case("extractor", shapes=((6, 10),), q=315, d=32, m=2),
    Case("extractor_odd_halves", shapes=((2, 6),), q=63, d=32, m=2),
    Case("injector", shapes=((18, 22), (9, 11), (5, 6)), q=99, d=32, m=4),
    Case("injector_first_level", shapes=((9, 11), (5, 6), (1, 1)), q=99, d=16, m=2),
    Case("encoder", shapes=((17, 9), (9, 5), (5, 3)), q=213, d=64, m=2, reference_levels=3),
    Case("encoder_one_level", shapes=((9, 23),), q=207, d=128, m=1),
    Case("encoder_four", shapes=((9, 8), (8, 9), (3, 3), (1, 2)), q=155, d=32, m=2, n=3),
    Case("no_grid", shapes=((9, 8), (8, 9), (3, 3)), q=157, d=32, m=3),
]
FAST = [
    Case(f"fast_d{d}_l{len(shapes)}", shapes=shapes, d=d, m=m, q=q, n=2)
    for d, m, q in ((16, 2, 9), (32, 3, 11), (64, 2, 5), (128, 1, 5))
    for shapes in (((5, 7),), ((6, 5), (3, 4), (2, 1)), ((8, 6), (4, 3), (2, 2), (1, 1)))
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    return Emulated(build(tmp_path_factory.mktemp("cuda")))


def inputs_of(case: Case, op: str, dtype: str, samples: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    inputs = case.inputs(dtype, samples) if op == "fused" else case.standard_inputs(dtype, samples)
    return inputs, {name: "bf16" for name, array in inputs.items() if array.dtype == np.uint16}


def check(kernels: Emulated, case: Case, op: str, dtype: str, samples: str, device: str | None = None) -> None:
    inputs, types = inputs_of(case, op, dtype, samples)
    output = decode(kernels(inputs, types, device))
    truth = expected(case, dtype, samples) if op == "fused" else expected_standard(case, dtype, samples)
    assert np.array_equal(np.isnan(output), np.isnan(truth))
    if output.size:
        # Softmax weights add up to 1, so |value| bounds a sum; the table's tolerance is a share of it.
        limit = TOLERANCE[dtype] * np.abs(decode(inputs["value"])).max()
        assert np.nanmax(np.abs(output - truth), initial=0) <= limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_every_case_of_the_table(kernels, op, dtype):
    for case in CASES:
        for samples in sorted({dtype, "fp32"}):
            try:
                check(kernels, case, op, dtype, samples)
            except AssertionError as error:
                raise AssertionError(f"{case.name}, {op}, {dtype}, samples {samples}: {error}") from error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_common_sizes_get_the_fast_kernel(kernels, case, dtype):
    for op, samples in (("fused", dtype), ("standard", "fp32")):
        kernels.set()
        check(kernels, case, op, dtype, samples)
        assert len(kernels.launched()) == 1
        assert "fast_kernel<" in kernels.launched()[0]


@pytest.mark.parametrize("order", [1, -1], ids=["lanes up", "lanes down"])
@pytest.mark.parametrize("processors", [1, 4, 132])
@pytest.mark.parametrize("case", GRIDS, ids=lambda case: case.name)
def test_no_order_of_work_changes_or_leaves_out_a_result(kernels, case, processors, order):
    kernels.set(order, processors)
    check(kernels, case, "fused", "fp16", "fp16")
    check(kernels, case, "fused", "fp16", "fp16", device="int32")
    assert all("fast_kernel<" in name for name in kernels.launched())
    inputs, types = inputs_of(case, "fused", "fp16", "fp16")
    here = kernels(inputs, types)
    kernels.set()
    assert np.array_equal(here, kernels(inputs, types))


@pytest.mark.parametrize("device", ["int32", "int64", "int32+starts", "int64+starts"])
@pytest.mark.parametrize("case", [FAST[4], FAST[3], Case("generic", d=24, n=2)], ids=lambda case: case.name)
def test_level_sizes_on_the_device(kernels, case, device):
    for op in ("fused", "standard") if "starts" in device else ("fused",):
        check(kernels, case, op, "fp16", "fp16" if op == "fused" else "fp32", device)


BAD_SIZES = {
    "too many cells": [(6, 5), (3, 4), (2, 2)],
    "too few cells": [(6, 5), (3, 4), (1, 1)],
    "no rows": [(6, 5), (3, 4), (0, 2)],
    "negative": [(-6, -5), (3, 4), (2, 1)],
    "sides that overflow 32 bits": [(1 << 31, 1 << 33), (3, 4), (2, 1)],
    "a side beyond 2^24": [(1, 44), ((1 << 24) + 1, 1), (2, 1)],
    "cells that are right modulo 2^32": [(1 << 16, 1 << 16), (11, 4), (1, 0)],
    "sums that are right modulo 2^32": [(1 << 15, 1 << 16), (1 << 15, 1 << 16), (44, 1)],
    "an area that is right modulo 2^32": [(481, 8929246), (3, 4), (2, 1)],
    "right modulo 2^32 each": [(6 + (1 << 32), 5), (3, 4), (2, 1)],
}


@pytest.mark.parametrize("d", [32, 24])
@pytest.mark.parametrize("sizes", BAD_SIZES.values(), ids=BAD_SIZES.keys())
def test_sizes_on_the_device_that_do_not_fit_give_nan(kernels, sizes, d):
    case = Case("sizes", d=d, m=2, q=9)
    inputs, types = inputs_of(case, "fused", "fp16", "fp16")
    inputs["spatial_shapes"] = np.array(sizes, np.int64)
    output = kernels(inputs, types, "int64")
    assert np.isnan(output).all()


@pytest.mark.parametrize("d", [32, 24])
@pytest.mark.parametrize("start", [-1, 43, 1 << 31, 1 << 40, -(1 << 40)])
def test_starts_on_the_device_outside_value_give_nan(kernels, start, d):
    inputs, types = inputs_of(Case("starts", d=d, m=2, q=9), "standard", "fp16", "fp32")
    inputs["level_start_index"] = np.array([0, 30, start], np.int64)
    assert np.isnan(kernels(inputs, types, "int64+starts")).all()
    inputs["level_start_index"] = np.array([0, 30, 42], np.int64)
    assert not np.isnan(kernels(inputs, types, "int64+starts")).any()


@pytest.mark.parametrize("d", [32, 24])
def test_levels_may_stand_in_any_order(kernels, d):
    """level_start_index decides, not the order of spatial_shapes."""
    case = Case("swapped", shapes=((4, 3), (6, 5), (2, 1)), d=d, q=6, m=2)
    inputs, types = inputs_of(case, "standard", "fp32", "fp32")
    straight = kernels(inputs, types)
    value = inputs["value"]
    inputs["value"] = np.concatenate([value[:, 12:42], value[:, :12], value[:, 42:]], 1)
    inputs["level_start_index"] = np.array([30, 0, 42], np.int64)
    for device in (None, "int32+starts", "int64+starts"):
        assert np.array_equal(kernels(inputs, types, device), straight)


def test_a_batch_beyond_one_launch_is_done_in_several(kernels):
    """The test build allows two entries a launch, a real one 65535."""
    case = Case("five", n=5, d=32, m=2, reference_batch=5)
    kernels.set()
    check(kernels, case, "fused", "fp16", "fp16")
    assert len(kernels.launched()) == 3


def test_a_pointer_off_its_alignment_goes_to_the_generic_kernel(kernels):
    inputs, types = inputs_of(Case("off", d=32, m=2), "fused", "fp16", "fp16")
    straight = kernels(inputs, types)
    kernels.set()
    off = kernels(inputs, types, off=2)
    assert "generic_kernel<" in kernels.launched()[0]
    assert np.abs(straight.astype(float) - off).max() < 4e-3


def test_elements_beyond_2_to_the_31_are_reached(kernels):
    """4 GiB of value, nearly all of it untouched pages of zeros; only the last two cells hold something."""
    height, width, d = 1 << 14, 1 << 13, 16
    value = np.zeros((1, height * width, 1, d), np.float16)
    value[0, -1], value[0, -2] = 3.0, 1.0
    points = np.full((1, 1, 1, 2), 1.0, np.float32)
    samples = np.zeros((1, 1, 1, 12), np.float16)
    samples[..., 0:8:2], samples[..., 1:8:2] = -1.0, -0.5  # half way between the last two cells
    shapes = np.array([[height, width]], np.int64)
    kernels.set()
    output = kernels({"value": value, "spatial_shapes": shapes, "reference_points": points, "samples": samples}, {})
    assert "generic_kernel<" in kernels.launched()[0]
    assert np.array_equal(output, np.full((1, 1, d), 2.0))


def test_nothing_is_launched_for_no_queries_and_no_batch(kernels):
    for case in (Case("no_query", q=0, d=32), Case("no_batch", n=0, d=32)):
        inputs, types = inputs_of(case, "fused", "fp16", "fp16")
        kernels.set()
        kernels(inputs, types)
        assert kernels.launched() == []


def test_an_error_of_the_launch_is_returned(kernels):
    inputs, types = inputs_of(Case("fails", d=32, m=2), "fused", "fp16", "fp16")
    kernels.library.shim_fail_next(1)
    with pytest.raises(Refused, match=r"launching .* failed: invalid configuration argument \(cudaErrorInvalidConf"):
        kernels(inputs, types)
    kernels.library.shim_fail_next(0)  # somebody else's error from before
    assert not np.isnan(kernels(inputs, types)).any()


@pytest.mark.parametrize(
    ("count", "capability", "words"),
    [
        (0, 90, "no CUDA device is visible"),
        (-1, 90, "finding a CUDA device failed"),
        (1, 75, "has compute capability 7.5; the kernels were built for none"),
    ],
)
def test_a_device_that_cannot_run_it_is_refused_with_the_reason(kernels, count, capability, words):
    message = ctypes.create_string_buffer(MESSAGE_SIZE)
    kernels.library.shim_device(count, capability)
    try:
        assert kernels.library.msda_cuda_usable(message) == -1
        assert words in message.value.decode()
    finally:
        kernels.library.shim_device(1, 90)
    assert kernels.library.msda_cuda_usable(message) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_baseline_of_benchmarks_computes_the_same(kernels, dtype):
    for case in (
        Case("naive", d=24, n=2),
        Case("naive_wide", offsets="wide", d=32),
        Case("naive_borders", offsets="borders"),
    ):
        for locations in sorted({dtype, "fp32"}):
            inputs, types = inputs_of(case, "standard", dtype, locations)
            output = decode(kernels(inputs, types, "int64+starts", function="msda_cuda_run_naive"))
            limit = TOLERANCE[dtype] * np.abs(decode(inputs["value"])).max()
            assert np.abs(output - expected_standard(case, dtype, locations)).max() <= limit
    with pytest.raises(Refused, match="the baseline takes the standard op with int64 level sizes"):
        kernels(inputs, types, function="msda_cuda_run_naive")


def test_sizes_of_another_type_are_refused(kernels):
    inputs, types = inputs_of(Case("sizes", d=32), "fused", "fp32", "fp32")
    with pytest.raises(Refused, match="spatial_shapes is fp32; it must be int32 or int64"):
        kernels.describe(inputs, types, "fp32")
    inputs, types = inputs_of(Case("sizes", d=32), "standard", "fp32", "fp32")
    problem, _ = kernels.describe(inputs, types, "int32")
    assert (problem.l, problem.p) == (3, 4)


def test_the_header_stands_alone_in_c(tmp_path: Path):
    from cuda_emulation import KERNELS, compiler, run

    source = tmp_path / "user.c"
    source.write_text('#include "msda_cuda.h"\nint main(void) { return sizeof(msda_device_levels) == 0; }\n')
    run(
        compiler(),
        "-x",
        "c",
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-fsyntax-only",
        "-I",
        KERNELS,
        source,
    )
