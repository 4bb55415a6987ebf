"""The op in PyTorch: reference and operators against exact arithmetic, their gradients, and the module around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import msda_cases
from adapter_infer import msda
from adapter_infer.geometry import Levels, reference_points

TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def tensors(arrays: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """numpy arrays as tensors; uint16 stands for bf16."""
    return [
        torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        if array.dtype == np.uint16
        else torch.from_numpy(array.copy())
        for array in arrays.values()
    ]


def assert_close(output: torch.Tensor, truth: np.ndarray, dtype: str) -> None:
    found = output.to(torch.float64).numpy()
    assert found.shape == truth.shape
    assert np.array_equal(np.isnan(found), np.isnan(truth))
    if found.size:
        assert np.nanmax(np.abs(found - truth), initial=0.0) <= 4 * msda_cases.TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", msda_cases.DTYPES)
@pytest.mark.parametrize("case", msda_cases.CASES, ids=lambda case: case.name)
def test_fused_op_equals_exact_arithmetic(case: msda_cases.Case, dtype: str) -> None:
    output = msda.ms_deform_attn(*tensors(case.inputs(dtype)))
    assert output.dtype == TORCH_TYPES[dtype]
    assert_close(output, msda_cases.expected(case, dtype), dtype)


@pytest.mark.parametrize("dtype", msda_cases.DTYPES)
@pytest.mark.parametrize("case", msda_cases.CASES, ids=lambda case: case.name)
def test_standard_op_equals_exact_arithmetic(case: msda_cases.Case, dtype: str) -> None:
    output = msda.multi_scale_deformable_attention(*tensors(case.standard_inputs(dtype)))
    assert output.dtype == TORCH_TYPES[dtype]
    assert_close(output, msda_cases.expected_standard(case, dtype), dtype)


def small_inputs(reference_batch: int, reference_levels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (2, 2)]

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=dtype).requires_grad_()

    points = torch.rand(reference_batch, 5, reference_levels, 2, generator=generator, dtype=dtype).requires_grad_()
    return [normal(2, 16, 3, 5), Levels.of(shapes, "cpu").spatial_shapes, points, normal(2, 5, 3, 3 * 2 * 4)]


@pytest.mark.parametrize(("batch", "levels"), [(1, 1), (2, 2), (1, 2), (2, 1)])
def test_fused_gradients_equal_finite_differences(batch: int, levels: int) -> None:
    assert torch.autograd.gradcheck(msda.ms_deform_attn, small_inputs(batch, levels, torch.float64))


def standard_inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    value, spatial_shapes, points, samples = small_inputs(1, 1, dtype)
    locations, weights = (part.detach().requires_grad_() for part in msda.to_standard(spatial_shapes, points, samples))
    return [value, spatial_shapes, Levels.of([(4, 3), (2, 2)], "cpu").level_start_index, locations, weights]


def test_standard_gradients_equal_finite_differences() -> None:
    inputs = standard_inputs(torch.float64)
    assert torch.autograd.gradcheck(msda.multi_scale_deformable_attention, inputs)


def test_operators_keep_the_rules_of_torch_library() -> None:
    points = small_inputs(1, 1, torch.float32)
    checks = torch.library.opcheck(torch.ops.adapter_infer.ms_deform_attn, tuple(points))
    checks |= torch.library.opcheck(
        torch.ops.adapter_infer.multi_scale_deformable_attention, tuple(standard_inputs(torch.float32))
    )
    assert set(checks.values()) == {"SUCCESS"}


def test_flops_count_bilinear_corners_and_weights() -> None:
    value, spatial_shapes, points, samples = small_inputs(1, 1, torch.float32)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        msda.ms_deform_attn(value, spatial_shapes, points, samples)
    n, q, m, levels, p, d = 2, 5, 3, 2, 4, 5
    assert counter.get_total_flops() == 2 * 5 * n * q * m * levels * p * d
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        msda.multi_scale_deformable_attention(*standard_inputs(torch.float32))
    assert counter.get_total_flops() == 2 * 5 * n * q * m * levels * p * d


@pytest.mark.parametrize("shapes", [[[4, 3], [2, 3]], [[4, 3], [-2, -2]], [[4, 3], [0, 4]], [[16, 1], [2, 2]]])
def test_level_shapes_that_do_not_cover_the_tokens_are_refused(shapes: list[list[int]]) -> None:
    value, _, points, samples = small_inputs(1, 1, torch.float32)
    with pytest.raises(ValueError, match="S=16"):
        msda.ms_deform_attn(value, torch.tensor(shapes), points, samples)


def test_level_starts_that_do_not_follow_from_the_shapes_are_refused() -> None:
    inputs = standard_inputs(torch.float32)
    inputs[2] = torch.tensor([0, 11])
    with pytest.raises(ValueError, match="level_start_index"):
        msda.multi_scale_deformable_attention(*inputs)


@pytest.mark.parametrize("core", msda.CORES)
@pytest.mark.parametrize("merged", [False, True])
@torch.inference_mode()
def test_every_core_computes_the_same_attention(core: str, merged: bool) -> None:
    torch.manual_seed(0)
    levels = Levels.of([(4, 6), (2, 3)], "cpu")
    module = msda.MSDeformAttn(24, num_heads=3, n_levels=2, n_points=4, ratio=0.5)
    torch.nn.init.normal_(module.sampling_offsets.weight)
    torch.nn.init.normal_(module.attention_weights.weight)
    query, feat = torch.randn(2, 30, 24), torch.randn(2, 30, 24)
    points = reference_points(levels.shapes, "cpu")
    truth = module(query, points, feat, levels)
    module.core = core
    if merged:
        module.merge_projections()
        assert not any(key.startswith(("sampling_offsets", "attention_weights")) for key in module.state_dict())
    assert torch.allclose(module(query, points, feat, levels), truth, atol=1e-5)


def test_the_initial_offsets_form_a_star() -> None:
    module = msda.MSDeformAttn(8, num_heads=4, n_levels=1, n_points=2)
    star = module.sampling_offsets.bias.detach().reshape(4, 2, 2)
    assert torch.allclose(star[:, 0], torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]), atol=1e-6)
    assert torch.allclose(star[:, 1], 2 * star[:, 0])
