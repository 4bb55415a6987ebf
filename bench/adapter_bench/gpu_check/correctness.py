"""The kernels against exact arithmetic, over the shared table of cases and at the sizes of real models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapter_bench.gpu_check import rivals
from adapter_bench.gpu_check.build import CHECKOUT
from adapter_bench.gpu_check.native import Library
from adapter_bench.gpu_check.workloads import WORKLOADS, Workload
from adapter_infer import msda

Arrays = dict[str, np.ndarray[Any, Any]]
# A way of computing: op, tensors by name, where the level sizes lie -> output (N, Q, M*D).
Run = Callable[[str, dict[str, Tensor], str], Tensor]
TYPES = (("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"))
PLACES = ("host", "device int64", "device int32")
POISON = 12345.0  # stays in an output that was not written; no case comes near it


def cases_module() -> Any:
    """tests/msda_cases.py of this checkout."""
    if str(CHECKOUT / "tests") not in sys.path:
        sys.path.append(str(CHECKOUT / "tests"))
    import msda_cases

    return msda_cases


def by_library(library: Library) -> Run:
    def run(op: str, tensors: dict[str, Tensor], place: str) -> Tensor:
        names = ("spatial_shapes", "level_start_index")
        on_host = place == "host"
        for name in names:
            if name in tensors:
                kept = tensors[name].cpu() if on_host else tensors[name]
                tensors[name] = kept.to(torch.int32) if place == "device int32" else kept
        shapes = tensors["spatial_shapes"]
        if op == "fused":
            call = library.fused(tensors["value"], shapes, tensors["reference_points"], tensors["samples"], on_host)
        else:
            locations, weights = tensors["sampling_locations"], tensors["attention_weights"]
            call = library.standard(tensors["value"], shapes, tensors["level_start_index"], locations, weights, on_host)
        call.output.fill_(POISON)
        return call()

    return run


def by_reference(op: str, tensors: dict[str, Tensor], place: str) -> Tensor:
    """PyTorch's own arithmetic: what a rehearsal without a GPU has."""
    shapes = [(int(h), int(w)) for h, w in tensors["spatial_shapes"].tolist()]
    if op == "fused":
        return msda.fused_reference(tensors["value"], shapes, tensors["reference_points"], tensors["samples"])
    locations, weights = tensors["sampling_locations"], tensors["attention_weights"]
    return msda.msda_reference(tensors["value"], shapes, locations, weights)


def over_the_table(run: Run, device: str, places: tuple[str, ...] = PLACES) -> dict[str, Any]:
    """Every case, type, op and place of the level sizes: how many were right, what was wrong, the worst difference as a
    share of the largest value."""
    cases, wrong, worst, count = cases_module(), [], dict.fromkeys(("fp32", "fp16", "bf16"), 0.0), 0
    for op in ("fused", "standard"):
        for dtype, other in TYPES:
            for case in cases.CASES:
                if op == "fused":
                    arrays, truth = case.inputs(dtype, other), cases.expected(case, dtype, other)
                else:
                    arrays = case.standard_inputs(dtype, other)
                    truth = cases.expected_standard(case, dtype, other)
                for place in places:
                    count += 1
                    what = f"{op} {dtype}/{other} {case.name}, sizes on {place}"
                    try:
                        output = run(op, {name: to_torch(array, device) for name, array in arrays.items()}, place)
                        share, complaint = difference(from_torch(output), truth, arrays["value"], dtype)
                    except Exception as error:
                        share, complaint = 0.0, f"{type(error).__name__}: {error}"
                    worst[dtype] = max(worst[dtype], share)
                    if complaint:
                        wrong.append(f"{what}: {complaint}")
    return {"calls": count, "wrong": wrong[:40], "wrong_count": len(wrong), "worst_share_of_value": worst}


def difference(output: Any, truth: Any, value: Any, dtype: str) -> tuple[float, str | None]:
    """Largest difference as a share of the largest |value|, and what is wrong with `output`, or None."""
    cases = cases_module()
    got = cases.decode(output)
    if got.shape != truth.shape:
        return 0.0, f"shape {got.shape}, not {truth.shape}"
    if not np.array_equal(np.isnan(got), np.isnan(truth)):
        return 0.0, f"{int(np.isnan(got).sum())} NaN, not {int(np.isnan(truth).sum())}, or elsewhere"
    share = float(np.nanmax(np.abs(got - truth), initial=0.0) / np.abs(cases.decode(value)).max(initial=1.0))
    limit = cases.TOLERANCE[dtype]
    return share, None if share <= limit else f"off by {share:.1e} of the largest value, {limit:.0e} is allowed"


def at_real_sizes(
    bind: rivals.Bind, device: str, workloads: tuple[Workload, ...] = WORKLOADS, batches: tuple[int, ...] = (1, 3)
) -> dict[str, Any]:
    """The fused op against fp64 arithmetic on the same device. The larger batches of the first forward pass only."""
    limits, rows, wrong = cases_module().TOLERANCE, [], []
    for work, batch in _sizes(workloads, batches):
        for dtype in rivals.TORCH_TYPES:
            one = rivals.inputs(work, dtype, device, seed=1, batch=batch)
            try:
                share = float(((bind(one)() - rivals.exact(one)).abs().max() / one.value.abs().max()).item())
            except Exception as error:  # a broken kernel leaves a broken device: every later call says so as well
                wrong.append(f"{work.name} batch {batch} {dtype}: {type(error).__name__}: {str(error)[:200]}")
                continue
            # Positions in levels of up to 112 cells, in fp32: twice the tolerance of the small cases.
            right = share <= 2 * limits[dtype]  # a NaN is not
            rows.append(
                {"workload": work.name, "batch": batch, "dtype": dtype, "share_of_value": share, "right": right}
            )
            if not right:
                wrong.append(f"{work.name} batch {batch} {dtype}: off by {share:.1e} of the largest value")
    return {"sizes": rows, "sizes_wrong": wrong}


def _sizes(workloads: tuple[Workload, ...], batches: tuple[int, ...]) -> Iterator[tuple[Workload, int]]:
    for index, work in enumerate(workloads):
        for batch in batches if index < 2 else batches[:1]:
            yield work, batch


def to_torch(array: Any, device: str) -> Tensor:
    """numpy to torch; uint16 holds the bits of bf16."""
    array = np.ascontiguousarray(array)
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def from_torch(tensor: Tensor) -> Any:
    """The other way."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
