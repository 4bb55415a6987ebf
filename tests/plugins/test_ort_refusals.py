"""Sizes that do not fit together are refused before anything is read, with a message that names the value."""

from __future__ import annotations

import numpy as np
import pytest

import msda_cases

CASE = msda_cases.Case("refused", n=2, q=5, m=3, d=8, p=4)  # S=44, L=3
FUSED, STANDARD = "MSDeformAttn", "MultiScaleDeformableAttention"


def zeros(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def shapes(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.int64)


REFUSED = [
    # op, the input that is spoilt, with what, and what the message must say
    (FUSED, "value", zeros(2, 44, 24), ["value has shape 2x44x24", "(N, S, M, D)"]),
    (FUSED, "value", zeros(2, 43, 3, 8), ["spatial_shapes adds up to 44 cells", "S=43"]),
    (FUSED, "value", zeros(2, 45, 3, 8), ["44 cells", "S=45"]),
    (FUSED, "value", zeros(1, 44, 3, 8), ["samples has shape 2x5x3x36", "N=1"]),
    (FUSED, "value", zeros(2, 44, 4, 8), ["samples has shape 2x5x3x36", "M=4"]),
    (FUSED, "value", zeros(2, 44, 3, 0), ["D=0", "at least 1"]),
    (FUSED, "value", zeros(2, 44, 0, 8), ["M=0", "at least 1"]),
    (FUSED, "spatial_shapes", shapes((6, 5), (3, 4), (2, 2)), ["adds up to 46", "S=44"]),
    (FUSED, "spatial_shapes", shapes((6, 5), (3, 4), (1, 1)), ["adds up to 43", "S=44"]),
    (FUSED, "spatial_shapes", shapes((6, 5), (3, 4), (0, 2)), ["0x2 for level 2", "1 to 16777216"]),
    (FUSED, "spatial_shapes", shapes((6, 5), (-3, -4), (2, 1)), ["-3x-4 for level 1", "1 to 16777216"]),
    (FUSED, "spatial_shapes", shapes((6, 5), (3, 4), (2**40, 1)), ["1099511627776x1 for level 2"]),
    (FUSED, "spatial_shapes", shapes((2**40, 2**40), (3, 4), (2, 1)), ["1099511627776x1099511627776 for level 0"]),
    (FUSED, "spatial_shapes", shapes((2**32, 2**32), (6, 5), (7, 2)), ["4294967296x4294967296 for level 0"]),
    (FUSED, "spatial_shapes", shapes((2**63 - 1, 2), (3, 4), (2, 1)), ["9223372036854775807x2 for level 0"]),
    (FUSED, "spatial_shapes", shapes((2**24, 2**24), (3, 4), (2, 1)), ["adds up to 281474976710670 cells", "S=44"]),
    (FUSED, "spatial_shapes", shapes((6, 5), (3, 2), (2, 2), (2, 1), (2, 1)), ["last dimension 36", "3*L = 15"]),
    (FUSED, "spatial_shapes", zeros(6, dtype=np.int64), ["spatial_shapes has shape 6", "(L, 2)"]),
    (FUSED, "spatial_shapes", zeros(3, 3, dtype=np.int64), ["spatial_shapes has shape 3x3", "(L, 2)"]),
    (FUSED, "spatial_shapes", zeros(0, 2, dtype=np.int64), ["L=0", "1 to 16"]),
    (FUSED, "spatial_shapes", zeros(17, 2, dtype=np.int64), ["L=17", "1 to 16"]),
    (FUSED, "reference_points", zeros(2, 5, 1), ["reference_points has shape 2x5x1"]),
    (FUSED, "reference_points", zeros(3, 5, 1, 2), ["reference_points has shape 3x5x1x2", "N=2"]),
    (FUSED, "reference_points", zeros(1, 4, 1, 2), ["reference_points has shape 1x4x1x2", "Q=5"]),
    (FUSED, "reference_points", zeros(1, 5, 2, 2), ["reference_points has shape 1x5x2x2", "L=3"]),
    (FUSED, "reference_points", zeros(1, 5, 1, 4), ["reference_points has shape 1x5x1x4"]),
    (FUSED, "reference_points", zeros(0, 5, 1, 2), ["reference_points has shape 0x5x1x2"]),
    (FUSED, "samples", zeros(2, 5, 108), ["samples has shape 2x5x108", "(N, Q, M, 3*L*P)"]),
    (FUSED, "samples", zeros(2, 5, 3, 35), ["last dimension 35", "3*L = 9"]),
    (FUSED, "samples", zeros(2, 5, 3, 0), ["P=0", "1 to 256"]),
    (FUSED, "samples", zeros(2, 5, 3, 9 * 86), ["P=86", "1 to 256"]),
    (FUSED, "samples", zeros(2, 6, 3, 36), ["reference_points has shape", "Q=6"]),
    (STANDARD, "value", zeros(2, 43, 3, 8), ["44 cells", "S=43"]),
    (STANDARD, "level_start_index", np.array([0, 30, 43]), ["level 2, 2x1 cells, at 43; with S=44 it must be 0 to 42"]),
    (STANDARD, "level_start_index", np.array([0, -1, 42]), ["level 1, 3x4 cells, at -1", "0 to 32"]),
    (STANDARD, "level_start_index", np.array([0, 2**62, 42]), ["level 1, 3x4 cells, at 4611686018427387904"]),
    (STANDARD, "level_start_index", np.array([0, 30]), ["level_start_index has 2 entries", "L=3"]),
    (STANDARD, "level_start_index", zeros(3, 1, dtype=np.int64), ["level_start_index has shape 3x1"]),
    (STANDARD, "sampling_locations", zeros(2, 5, 3, 2, 4, 2), ["sampling_locations has shape 2x5x3x2x4x2", "L=3"]),
    (STANDARD, "sampling_locations", zeros(2, 5, 3, 3, 4, 3), ["sampling_locations has shape 2x5x3x3x4x3"]),
    (STANDARD, "sampling_locations", zeros(2, 5, 3, 12, 2), ["sampling_locations has shape 2x5x3x12x2"]),
    (STANDARD, "attention_weights", zeros(2, 5, 3, 12), ["attention_weights has shape 2x5x3x12"]),
    (STANDARD, "attention_weights", zeros(2, 6, 3, 3, 4), ["attention_weights has shape 2x6x3x3x4", "must agree"]),
]


@pytest.mark.parametrize(("op", "name", "spoilt", "says"), REFUSED, ids=[f"{r[1]}-{i}" for i, r in enumerate(REFUSED)])
def test_sizes_that_do_not_fit_are_refused_by_name(node, op, name, spoilt, says):
    inputs = (CASE.inputs() if op == FUSED else CASE.standard_inputs()) | {name: spoilt}
    with pytest.raises(Exception, match="INVALID_ARGUMENT") as refusal:
        node(op)(inputs)
    message = str(refusal.value)
    assert f"{op}: " in message
    assert [part for part in says if part not in message] == [], message


def test_more_than_six_dimensions_are_refused(node):
    with pytest.raises(Exception, match="more than 6 dimensions"):
        node(FUSED)(CASE.inputs() | {"value": zeros(1, 1, 1, 1, 2, 44, 3)})


def test_a_session_works_on_after_a_refusal(node):
    run = node(FUSED)
    with pytest.raises(Exception, match="S=43"):
        run(CASE.inputs() | {"value": zeros(2, 43, 3, 8)})
    np.testing.assert_allclose(run(CASE.inputs()), msda_cases.expected(CASE), atol=1e-5)


@pytest.mark.parametrize("wanted", ["avx9", "AVX2", "avx512 "])
def test_an_unknown_code_path_is_refused_by_name(node, monkeypatch, wanted):
    monkeypatch.setenv("ADAPTER_MSDA_ISA", wanted)
    with pytest.raises(Exception, match=f"ADAPTER_MSDA_ISA: code path '{wanted}' is unknown; choose one of"):
        node(FUSED)
