"""The ways of computing one MSDA call that are timed side by side, all from what a network has at hand: the value, fp32
reference points, raw offsets and logits. What a rival needs besides (locations, softmax) is part of its time."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapter_bench.gpu_check.goals import DEFORMOPS, NAIVE, OURS
from adapter_bench.gpu_check.native import Library
from adapter_bench.gpu_check.workloads import P, Workload
from adapter_infer import msda
from adapter_infer.geometry import Levels, reference_points

OURS_ON_DEVICE = "this kernel, level sizes on the GPU"
GRID_SAMPLE = "torch grid_sample"
FALLBACK = "torch, fp32 inside"
TORCH_OP = "torch-ms-deform-attn"
NAMES = (OURS, OURS_ON_DEVICE, NAIVE, DEFORMOPS, TORCH_OP, GRID_SAMPLE, FALLBACK)
TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SPREAD = 2.0  # of the offsets about their star, in cells: wider than trained models have, so hard on the caches


@dataclass(frozen=True)
class Inputs:
    """One set of inputs: value (N, S, M, D), reference_points (1, Q, 1, 2) fp32, samples (N, Q, M, 3*L*P)."""

    work: Workload
    value: Tensor
    reference_points: Tensor
    samples: Tensor
    levels: Levels  # on the inputs' device
    sizes: Tensor  # (L, 1, 2) as (width, height), in the value's type

    def locations_and_logits(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Locations (N, Q, M, L, P, 2) in `dtype` and logits (N, Q, M, L*P) as they are."""
        offsets, logits = msda.split_samples(self.samples, self.work.levels)
        points = self.reference_points[:, :, None, :, None].to(dtype)
        return points + offsets.to(dtype) / self.sizes.to(dtype), logits


Bind = Callable[[Inputs], Callable[[], Tensor]]


def inputs(work: Workload, dtype: str, device: str, seed: int = 0, batch: int = 1) -> Inputs:
    """Normal values and logits; offsets about the star that training starts from."""
    generator = torch.Generator(device=device).manual_seed(seed)
    kind, lp = TORCH_TYPES[dtype], work.levels * P

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    theta = torch.arange(work.m, device=device) * (2 * math.pi / work.m)
    star = torch.stack([theta.cos(), theta.sin()], -1)
    star = star / star.abs().amax(-1, keepdim=True)
    distance = torch.arange(1, P + 1, device=device)
    star = (star[:, None, None, :] * distance[None, None, :, None]).expand(-1, work.levels, -1, -1)
    offsets = normal(batch, work.q, work.m, 2 * lp) * SPREAD + star.reshape(work.m, 2 * lp)
    samples = torch.cat([offsets, normal(batch, work.q, work.m, lp)], -1)
    levels = Levels.of(work.shapes, device)
    return Inputs(
        work,
        normal(batch, work.s, work.m, work.d).to(kind),
        reference_points(work.grids, device),
        samples.to(kind).contiguous(),
        levels,
        levels.spatial_shapes.flip(-1)[:, None].to(kind),
    )


def available(library: Library | None) -> tuple[dict[str, Bind], dict[str, str]]:
    """What can be timed here, and for the others why not."""
    found: dict[str, Bind] = {GRID_SAMPLE: _grid_sample, FALLBACK: _fallback}
    missing: dict[str, str] = {}
    if library is None:
        missing[OURS] = missing[NAIVE] = "the library was not built"
    else:
        found[OURS], found[OURS_ON_DEVICE] = _ours(library, on_host=True), _ours(library, on_host=False)
        if library.has_naive:
            found[NAIVE] = _naive(library)
        else:
            missing[NAIVE] = "the library has no msda_cuda_run_naive"
    for name, make in ((DEFORMOPS, _deformops), (TORCH_OP, _torch_op)):
        try:
            found[name] = make()
        except Exception as error:  # a package of somebody else's may fail to load in any way
            missing[name] = f"{type(error).__name__}: {error}"[:200]
    return {name: found[name] for name in NAMES if name in found}, missing


def versions() -> dict[str, str]:
    """Of the rivals that are packages of their own."""
    found = {}
    for name in (DEFORMOPS, TORCH_OP):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def exact(one: Inputs) -> Tensor:
    """The op in fp64 from the inputs as they are stored: fp32 would bring errors of its own in positions."""
    return _reference(one, one.value.double(), one.samples.double())


def _reference(one: Inputs, value: Tensor, samples: Tensor) -> Tensor:
    """`fused_reference` with the level sizes already on the device: copying them there would forbid a CUDA graph."""
    standard = msda.to_standard(one.levels.spatial_shapes, one.reference_points, samples)
    return msda.msda_reference(value, one.work.shapes, *standard)


def _ours(library: Library, on_host: bool) -> Bind:
    def bind(one: Inputs) -> Callable[[], Tensor]:
        shapes = one.levels.spatial_shapes
        return library.fused(one.value, shapes.cpu() if on_host else shapes, one.reference_points, one.samples, on_host)

    return bind


def _naive(library: Library) -> Bind:
    def bind(one: Inputs) -> Callable[[], Tensor]:
        shapes, starts = one.levels.spatial_shapes, one.levels.level_start_index

        def call() -> Tensor:
            locations, logits = one.locations_and_logits(one.value.dtype)
            weights = logits.softmax(-1).reshape(locations.shape[:-1])
            # As the kernels of that design: level sizes in int64, on the device.
            return library.standard(one.value, shapes, starts, locations, weights, on_host=False).naive()

        return call

    return bind


def _grid_sample(one: Inputs) -> Callable[[], Tensor]:
    """The form that every code base falls back to, all in the value's type."""
    n, _, m, d = one.value.shape
    q, work = one.samples.shape[1], one.work

    def call() -> Tensor:
        locations, logits = one.locations_and_logits(one.value.dtype)
        grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
        parts = one.value.split([h * w for h, w in work.shapes], 1)
        sampled = [
            F.grid_sample(
                part.permute(0, 2, 3, 1).reshape(n * m, d, *work.shapes[level]), grids[:, :, level], align_corners=False
            )
            for level, part in enumerate(parts)
        ]
        weights = logits.softmax(-1).transpose(1, 2).reshape(n * m, 1, q, work.levels * P)
        return (torch.cat(sampled, -1) * weights).sum(-1).reshape(n, m * d, q).transpose(1, 2).contiguous()

    return call


def _fallback(one: Inputs) -> Callable[[], Tensor]:
    """What this project runs on a GPU without its kernel."""
    return lambda: _reference(one, one.value, one.samples).contiguous()


def _deformops() -> Bind:
    """Locations in fp32, which it asks for; its own softmax. Raises ImportError."""
    from deformops.registry import msda as theirs

    def bind(one: Inputs) -> Callable[[], Tensor]:
        shapes, starts = one.levels.spatial_shapes, one.levels.level_start_index

        def call() -> Tensor:
            locations, logits = one.locations_and_logits(torch.float32)
            output: Any = theirs(one.value, shapes, starts, locations, logits.contiguous(), method="softmax")
            return output

        return call

    return bind


def _torch_op() -> Bind:
    """Raises ImportError."""
    from torch_ms_deform_attn import ms_deform_attn

    def bind(one: Inputs) -> Callable[[], Tensor]:
        shapes, starts = one.levels.spatial_shapes, one.levels.level_start_index

        def call() -> Tensor:
            locations, logits = one.locations_and_logits(one.value.dtype)
            weights = logits.softmax(-1).reshape(locations.shape[:-1])
            output: Any = ms_deform_attn(one.value, shapes, starts, locations, weights)
            return output

        return call

    return bind
