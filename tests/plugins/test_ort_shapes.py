"""ONNX Runtime learns the output's shape while it loads a model, and names of dynamic axes survive."""

from __future__ import annotations

import pytest

import msda_cases

CASE = msda_cases.Case("shapes", n=2, q=5, m=3, d=8)


def output_of(run) -> tuple[list, str]:
    (output,) = run.session.get_outputs()
    return output.shape, output.type


@pytest.mark.parametrize("dtype", msda_cases.DTYPES)
def test_fixed_sizes_give_a_fixed_output(node, dtype):
    names = {"fp32": "tensor(float)", "fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
    dims = {name: list(array.shape) for name, array in CASE.inputs().items()}
    assert output_of(node("MSDeformAttn", dtype, "fp32", dims=dims)) == ([2, 5, 24], names[dtype])


def test_dynamic_axes_keep_their_names(node):
    dims = {"value": ["batch", "cells", 3, 8], "samples": ["batch", "queries", 3, 36]}
    assert output_of(node("MSDeformAttn", dims=dims))[0] == ["batch", "queries", 24]


def test_a_known_batch_beats_a_named_one(node):
    dims = {"value": ["batch", "cells", 3, 8], "samples": [2, 5, 3, 36]}
    assert output_of(node("MSDeformAttn", dims=dims))[0] == [2, 5, 24]


def test_standard_op_infers_from_locations(node):
    dims = {"value": [2, 44, 3, 8], "sampling_locations": ["n", "q", 3, 3, 4, 2]}
    assert output_of(node("MultiScaleDeformableAttention", dims=dims))[0] == [2, "q", 24]


@pytest.mark.parametrize(
    "dims",
    [
        {},
        {"value": [None, 44, 3, 8], "samples": [None, 5, 3, 36]},
        {"value": [2, 44, "heads", 8], "samples": [2, 5, "heads", 36]},
        {"value": [2, 44, 3], "samples": [2, 5, 3, 36]},
    ],
    ids=["no ranks", "size without a name", "heads by name", "wrong rank"],
)
def test_what_cannot_be_said_is_left_open(node, dims):
    """Such a model loads; a wrong rank is refused when it runs, with numbers."""
    assert output_of(node("MSDeformAttn", dims=dims))[0] in ([], None)
