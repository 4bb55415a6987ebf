"""Multi-scale deformable attention (MSDA): reference arithmetic, torch operators, the MSDeformAttn module.

Letters: N batch, S tokens of all levels, M heads, D channels per head, Q queries, L levels, P points.
Idea: Zhu et al., Deformable DETR, 2020. The operators follow plugins/DESIGN.md; the functions here are the truth they
are tested against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from adapter_infer import msda_cuda
from adapter_infer.geometry import Levels, Shape

CORES = ("fused", "standard", "onnx")


def _arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, which are storage only; wider types keep their own."""
    return torch.float32 if dtype in {torch.float16, torch.bfloat16} else dtype


def _grid(sampling_locations: Tensor, level: int) -> Tensor:
    """grid_sample's coordinates of one level, (N*M, Q, P, 2); what is not finite or far outside lands just outside."""
    grid = 2 * sampling_locations[:, :, :, level] - 1
    grid = grid.nan_to_num(nan=-3.0, posinf=3.0, neginf=-3.0).clamp(-3.0, 3.0)
    return grid.transpose(1, 2).flatten(0, 1)


def _maps(value: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """The levels of `value` (N, S, M, D) as maps (N*M, D, H_l, W_l)."""
    n, _, m, d = value.shape
    parts = value.split([h * w for h, w in shapes], 1)
    return [part.permute(0, 2, 3, 1).reshape(n * m, d, h, w) for part, (h, w) in zip(parts, shapes, strict=True)]


def msda_reference(
    value: Tensor, shapes: Sequence[Shape], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The arithmetic of the standard operator, in float32 or wider.

    value (N, S, M, D), shapes [(H_l, W_l)] with sum H_l*W_l = S, sampling_locations (N, Q, M, L, P, 2) x first with
    [0, 1] spanning a level, attention_weights (N, Q, M, L, P) -> (N, Q, M*D) in value's type. Bilinear, zero outside
    (align_corners=False); a location that is not finite adds nothing.
    """
    n, _, m, d = value.shape
    _, q, _, levels, p, _ = sampling_locations.shape
    dtype = _arithmetic_dtype(value.dtype)
    locations = sampling_locations.to(dtype)
    samples = [
        F.grid_sample(level_map, _grid(locations, level), mode="bilinear", padding_mode="zeros", align_corners=False)
        for level, level_map in enumerate(_maps(value.to(dtype), shapes))
    ]
    weights = attention_weights.to(dtype).transpose(1, 2).reshape(n * m, 1, q, levels * p)
    output = (torch.cat(samples, -1) * weights).sum(-1)
    return output.reshape(n, m * d, q).transpose(1, 2).to(value.dtype)


def split_samples(samples: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """`samples` (N, Q, M, 3*L*P) as sampling_offsets (N, Q, M, L, P, 2) and attention_logits (N, Q, M, L*P)."""
    n, q, m, width = samples.shape
    p = width // (3 * levels)
    offsets, logits = samples.split([2 * levels * p, levels * p], -1)
    return offsets.reshape(n, q, m, levels, p, 2), logits


def to_standard(spatial_shapes: Tensor, reference_points: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """The fused operator's raw inputs as the standard operator's sampling_locations and attention_weights.

    spatial_shapes (L, 2), reference_points (1 or N, Q, 1 or L, 2), samples (N, Q, M, 3*L*P).
    """
    dtype = _arithmetic_dtype(samples.dtype)
    offsets, logits = split_samples(samples.to(dtype), spatial_shapes.shape[0])
    sizes = spatial_shapes.flip(-1).to(dtype)  # (L, 2) as (W_l, H_l)
    locations = reference_points.to(dtype)[:, :, None, :, None, :] + offsets / sizes[:, None, :]
    return locations, logits.softmax(-1).reshape(offsets.shape[:-1])


def fused_reference(value: Tensor, shapes: Sequence[Shape], reference_points: Tensor, samples: Tensor) -> Tensor:
    """The arithmetic of the fused operator: softmax, locations, sampling, weighted sum. Shapes as in `to_standard`."""
    spatial_shapes = Levels.of(shapes, value.device).spatial_shapes
    return msda_reference(value, shapes, *to_standard(spatial_shapes, reference_points, samples))


def _shapes(value: Tensor, spatial_shapes: Tensor) -> list[Shape]:
    """The level shapes as integers. Errors: ValueError unless they are positive and cover value's S tokens."""
    shapes = [(int(h), int(w)) for h, w in spatial_shapes.tolist()]
    tokens = sum(h * w for h, w in shapes)
    if any(h <= 0 or w <= 0 for h, w in shapes) or tokens != value.shape[1]:
        raise ValueError(
            f"spatial_shapes {shapes} hold {tokens} tokens, but value has S={value.shape[1]}; "
            "every level needs a positive height and width, and their areas must add up to S"
        )
    return shapes


# --- The standard operator: finished locations and weights, the signature other toolkits use ---


@torch.library.custom_op("adapter_infer::multi_scale_deformable_attention", mutates_args=())
def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Standard operator; shapes and errors as `msda_reference`, spatial_shapes (L, 2), level_start_index (L,) int64.

    On a GPU `adapter_infer.msda_cuda` runs it, where this installation has the library.
    """
    if value.is_cuda:
        levels, floats = [spatial_shapes, level_start_index], [sampling_locations, attention_weights]
        output = msda_cuda.run("standard", value, levels, floats)
        if output is not None:
            return output
    shapes = _shapes(value, spatial_shapes)
    starts = Levels.of(shapes, "cpu").level_start_index
    if level_start_index.tolist() != starts.tolist():
        raise ValueError(
            f"level_start_index {level_start_index.tolist()} does not follow from spatial_shapes {shapes}; "
            f"expected {starts.tolist()}"
        )
    return msda_reference(value, shapes, sampling_locations, attention_weights).contiguous()


@multi_scale_deformable_attention.register_fake
def _(value: Tensor, spatial_shapes: Tensor, starts: Tensor, sampling_locations: Tensor, weights: Tensor) -> Tensor:
    n, _, m, d = value.shape
    return value.new_empty((n, sampling_locations.shape[1], m * d))


@torch.library.custom_op("adapter_infer::multi_scale_deformable_attention_backward", mutates_args=())
def multi_scale_deformable_attention_backward(
    grad: Tensor, value: Tensor, spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights. An operator of its own, so that traced graphs can hold it."""
    n, _, m, d = value.shape
    _, q, _, _, p, _ = sampling_locations.shape
    shapes = _shapes(value, spatial_shapes)
    dtype = _arithmetic_dtype(value.dtype)
    grad = grad.to(dtype).reshape(n, q, m, d).permute(0, 2, 3, 1).reshape(n * m, d, q, 1)
    locations, weights = sampling_locations.to(dtype), attention_weights.to(dtype)
    grad_value, grad_locations, grad_weights = [], [], []
    for level, level_map in enumerate(_maps(value.to(dtype), shapes)):
        h, w = shapes[level]
        grid = _grid(locations, level)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(n * m, 1, q, p)
        sampled = F.grid_sample(level_map, grid, align_corners=False)
        grad_map, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad * weight, level_map, grid, 0, 0, False, [True, True]
        )
        grad_value.append(grad_map.reshape(n, m, d, h * w).permute(0, 3, 1, 2))
        grad_locations.append(2 * grad_grid.reshape(n, m, q, p, 2).transpose(1, 2))
        grad_weights.append((sampled * grad).sum(1).reshape(n, m, q, p).transpose(1, 2))
    return (
        torch.cat(grad_value, 1).to(value.dtype).contiguous(),
        torch.stack(grad_locations, 3).to(sampling_locations.dtype).contiguous(),
        torch.stack(grad_weights, 3).to(attention_weights.dtype).contiguous(),
    )


@multi_scale_deformable_attention_backward.register_fake
def _(
    grad: Tensor, value: Tensor, spatial_shapes: Tensor, sampling_locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        sampling_locations.new_empty(sampling_locations.shape),
        torch.empty_like(weights),
    )


def _standard_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    value, spatial_shapes, _, sampling_locations, attention_weights = inputs
    ctx.save_for_backward(value, spatial_shapes, sampling_locations, attention_weights)


def _standard_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = multi_scale_deformable_attention_backward(grad, *ctx.saved_tensors)
    return value, None, None, locations, weights


multi_scale_deformable_attention.register_autograd(_standard_backward, setup_context=_standard_setup)


# --- The fused operator: raw offsets and logits, fp32 reference points ---


@torch.library.custom_op("adapter_infer::ms_deform_attn", mutates_args=())
def ms_deform_attn(value: Tensor, spatial_shapes: Tensor, reference_points: Tensor, samples: Tensor) -> Tensor:
    """Fused operator: value (N, S, M, D), spatial_shapes (L, 2), reference_points (1 or N, Q, 1 or L, 2),
    samples (N, Q, M, 3*L*P) -> (N, Q, M*D) in value's type. On a GPU as the standard operator."""
    if value.is_cuda:
        output = msda_cuda.run("fused", value, [spatial_shapes], [reference_points, samples])
        if output is not None:
            return output
    return fused_reference(value, _shapes(value, spatial_shapes), reference_points, samples).contiguous()


@ms_deform_attn.register_fake
def _(value: Tensor, spatial_shapes: Tensor, reference_points: Tensor, samples: Tensor) -> Tensor:
    n, _, m, d = value.shape
    return value.new_empty((n, samples.shape[1], m * d))


@torch.library.custom_op("adapter_infer::ms_deform_attn_backward", mutates_args=())
def ms_deform_attn_backward(
    grad: Tensor, value: Tensor, spatial_shapes: Tensor, reference_points: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, reference_points and samples."""
    locations, weights = to_standard(spatial_shapes, reference_points, samples)
    grad_value, grad_locations, grad_weights = multi_scale_deformable_attention_backward(
        grad, value, spatial_shapes, locations, weights
    )
    grad_offsets = grad_locations / spatial_shapes.flip(-1).to(locations.dtype)[:, None, :]
    weighted = grad_weights * weights  # softmax over L*P of one (query, head)
    grad_logits = weighted - weights * weighted.sum((-2, -1), keepdim=True)
    grad_samples = torch.cat([grad_offsets.flatten(3), grad_logits.flatten(3)], -1)
    grad_points = grad_locations.sum(4).sum(2).sum_to_size(reference_points.shape)
    return (
        grad_value,
        grad_points.to(reference_points.dtype).contiguous(),
        grad_samples.to(samples.dtype).contiguous(),
    )


@ms_deform_attn_backward.register_fake
def _(
    grad: Tensor, value: Tensor, spatial_shapes: Tensor, reference_points: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        reference_points.new_empty(reference_points.shape),
        samples.new_empty(samples.shape),
    )


def _fused_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _fused_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, points, samples = ms_deform_attn_backward(grad, *ctx.saved_tensors)
    return value, None, points, samples


ms_deform_attn.register_autograd(_fused_backward, setup_context=_fused_setup)


def msda_macs(n: int, q: int, m: int, levels: int, p: int, d: int) -> int:
    """Multiply-adds of one call: per sample and channel four for the bilinear corners and one for the weight."""
    return 5 * n * q * m * levels * p * d


@register_flop_formula(torch.ops.adapter_infer.ms_deform_attn)
def _fused_flops(
    value_shape: Sequence[int],
    spatial_shapes_shape: Sequence[int],
    reference_points_shape: Sequence[int],
    samples_shape: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    n, q, m, width = samples_shape
    return 2 * msda_macs(n, q, m, 1, width // 3, value_shape[3])


@register_flop_formula(torch.ops.adapter_infer.multi_scale_deformable_attention)
def _standard_flops(
    value_shape: Sequence[int],
    spatial_shapes_shape: Sequence[int],
    level_start_index_shape: Sequence[int],
    sampling_locations_shape: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    n, q, m, levels, p, _ = sampling_locations_shape
    return 2 * msda_macs(n, q, m, levels, p, value_shape[3])


class MSDeformAttn(nn.Module):
    """Projects queries to sampling offsets and attention logits, and features to values; samples; projects back.

    `core` says what a forward pass calls: "fused" or "standard" (one operator each), or "onnx" (plain torch operators
    with grid_sample, for runtimes without either). All three compute the same.
    """

    def __init__(self, dim: int, num_heads: int, n_levels: int, n_points: int = 4, ratio: float = 1.0) -> None:
        super().__init__()
        self.num_heads, self.n_levels, self.n_points = num_heads, n_levels, n_points
        self.value_dim = int(dim * ratio)
        self.core = "fused"
        samples = num_heads * n_levels * n_points
        self.sampling_offsets = nn.Linear(dim, 2 * samples)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, self.value_dim)
        self.output_proj = nn.Linear(self.value_dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialisation: queries have no say, offsets form a star."""
        nn.init.zeros_(self.sampling_offsets.weight)
        self.reset_star()
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    @torch.no_grad()
    def reset_star(self) -> None:
        """The offsets' bias: head k looks in direction 2*pi*k/M, point i at i+1 cells' distance."""
        theta = torch.arange(self.num_heads, dtype=torch.float32) * (2.0 * math.pi / self.num_heads)
        direction = torch.stack([theta.cos(), theta.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        star = direction[:, None, None, :] * distance[None, None, :, None]
        self.sampling_offsets.bias.copy_(star.expand(-1, self.n_levels, -1, -1).reshape(-1))

    def merge_projections(self) -> None:
        """Replaces the two query projections by one whose rows are interleaved per head; exact, for exports.

        The fused operator takes offsets and logits in one tensor; merged, no Concat stands before it.
        Afterwards the module's state-dict keys are no longer the checkpoint's.
        """
        merged = nn.Linear(self.sampling_offsets.in_features, 3 * self.attention_weights.out_features, device="meta")
        merged.weight = nn.Parameter(self._interleave(self.sampling_offsets.weight, self.attention_weights.weight))
        merged.bias = nn.Parameter(self._interleave(self.sampling_offsets.bias, self.attention_weights.bias))
        self.samples = merged
        del self.sampling_offsets, self.attention_weights

    def _interleave(self, offsets: Tensor, logits: Tensor) -> Tensor:
        """Rows (M*L*P*2, ...) and (M*L*P, ...) as (M*3*L*P, ...), head by head."""
        heads = [rows.detach().unflatten(0, (self.num_heads, -1)) for rows in (offsets, logits)]
        return torch.cat(heads, 1).flatten(0, 1)

    def _samples(self, query: Tensor) -> Tensor:
        n, q, _ = query.shape
        if hasattr(self, "samples"):
            return self.samples(query).reshape(n, q, self.num_heads, -1)
        parts = (self.sampling_offsets(query), self.attention_weights(query))
        return torch.cat([part.reshape(n, q, self.num_heads, -1) for part in parts], -1)

    def forward(self, query: Tensor, reference_points: Tensor, feat: Tensor, levels: Levels) -> Tensor:
        """query (N, Q, C), reference_points (1 or N, Q, 1 or L, 2), feat (N, S, C) over `levels` -> (N, Q, C)."""
        n, s, _ = feat.shape
        value = self.value_proj(feat).reshape(n, s, self.num_heads, -1)
        samples = self._samples(query)
        if self.core == "fused":
            output = ms_deform_attn(value, levels.spatial_shapes, reference_points, samples)
        else:
            locations, weights = to_standard(levels.spatial_shapes, reference_points, samples)
            if self.core == "standard":
                output = multi_scale_deformable_attention(
                    value, levels.spatial_shapes, levels.level_start_index, locations, weights
                )
            else:
                output = msda_reference(value, levels.shapes, locations, weights)
        return self.output_proj(output)
