"""The ONNX Runtime library gives the numbers of exact arithmetic, over the shared table of cases."""

from __future__ import annotations

import numpy as np
import pytest

import msda_cases

TYPES = [("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32"), ("bf16", "bf16"), ("bf16", "fp32")]


def mismatch(case, output, truth, value, dtype) -> str | None:
    """What is wrong with `output`, or None."""
    got = msda_cases.decode(output)
    if got.shape != truth.shape:
        return f"{case.name}: shape {got.shape}, not {truth.shape}"
    if not np.array_equal(np.isnan(got), np.isnan(truth)):
        return f"{case.name}: {np.isnan(got).sum()} NaN, not {np.isnan(truth).sum()}"
    worst = np.nanmax(np.abs(got - truth), initial=0.0) / np.abs(msda_cases.decode(value)).max(initial=1.0)
    return f"{case.name}: off by {worst:.1e} of the largest value" if worst > msda_cases.TOLERANCE[dtype] else None


@pytest.mark.parametrize(("dtype", "samples"), TYPES)
def test_fused_op_equals_exact_arithmetic_over_the_table(node, isa, dtype, samples):
    run = node("MSDeformAttn", dtype, samples)
    found = []
    for case in msda_cases.CASES:
        inputs = case.inputs(dtype, samples)
        truth = msda_cases.expected(case, dtype, samples)
        found.append(mismatch(case, run(inputs), truth, inputs["value"], dtype))
    assert [text for text in found if text] == []


@pytest.mark.parametrize(("dtype", "locations"), TYPES)
def test_standard_op_equals_exact_arithmetic_over_the_table(node, isa, dtype, locations):
    run = node("MultiScaleDeformableAttention", dtype, locations)
    found = []
    for case in msda_cases.CASES:
        inputs = case.standard_inputs(dtype, locations)
        truth = msda_cases.expected_standard(case, dtype, locations)
        found.append(mismatch(case, run(inputs), truth, inputs["value"], dtype))
    assert [text for text in found if text] == []


def test_a_masked_logit_has_no_weight_at_all(node, isa):
    case = msda_cases.Case("two_points", shapes=((1, 1),), q=1, m=1, d=1, p=2)
    inputs = case.inputs()
    inputs["value"] = np.ones((1, 1, 1, 1), np.float32)
    inputs["reference_points"] = np.full((1, 1, 1, 2), 0.5, np.float32)
    # both points at the centre; the one with logit -inf must not even take a millionth
    inputs["samples"] = np.array([[[[0, 0, 0, 0, 3, -np.inf]]]], np.float32)
    assert node("MSDeformAttn")(inputs).item() == pytest.approx(1, abs=1e-7)
    inputs["samples"] = np.array([[[[0, 0, 9, 9, -np.inf, 3]]]], np.float32)
    assert node("MSDeformAttn")(inputs).item() == 0


def test_points_outside_the_level_add_nothing(node, isa):
    case = msda_cases.Case("outside", shapes=((4, 4),), q=1, m=1, d=8, p=1)
    inputs = case.inputs()
    inputs["reference_points"] = np.full((1, 1, 1, 2), 0.5, np.float32)
    for x, y in [(2.5, 0), (-2.5, 0), (0, 2.5), (0, -2.5), (1e30, 0), (0, -np.inf), (np.nan, 0), (0, np.nan)]:
        inputs["samples"] = np.array([[[[x, y, 0]]]], np.float32)
        assert not node("MSDeformAttn")(inputs).any(), (x, y)


def test_levels_beyond_16_bit_sizes_are_addressed_right(node, isa):
    """The last cell of a level of 70000 cells in a row, and of one in a column."""
    for shape in [(1, 70000), (70000, 1)]:
        case = msda_cases.Case("long", shapes=(shape,), q=1, m=1, d=1, p=1)
        inputs = case.inputs()
        inputs["value"] = np.arange(70000, dtype=np.float32).reshape(1, -1, 1, 1)
        inputs["reference_points"] = np.array([[[[1, 1]]]], np.float32)
        inputs["samples"] = np.array([[[[-0.5, -0.5, 0]]]], np.float32)
        assert node("MSDeformAttn")(inputs).item() == 69999


def test_level_start_index_chooses_where_a_level_lies(node, isa):
    """Levels stored in the other order than they are listed in."""
    case = msda_cases.Case("order", shapes=((6, 5), (3, 4)))
    inputs = case.standard_inputs()
    truth = msda_cases.expected_standard(case)
    inputs["value"] = np.concatenate([inputs["value"][:, 30:], inputs["value"][:, :30]], 1)
    inputs["level_start_index"] = np.array([12, 0])
    np.testing.assert_allclose(node("MultiScaleDeformableAttention")(inputs), truth, atol=1e-5)
