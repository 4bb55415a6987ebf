"""What goes into a plan and comes out of it: names, types, and the shapes each optimization profile allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_engines.engine import TensorInfo
from adapter_infer.errors import UnsupportedModel, UsageError

if TYPE_CHECKING:
    from adapter_engines.plan_file import OpenPlan

Shape = tuple[int, ...]

DTYPES = {  # TensorRT's DataType, by its name in Python
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
}


@dataclass(frozen=True)
class PlanTensor:
    """One input or output. -1 in `shape` is dynamic; `ranges` has (min, opt, max) per profile, () for an output."""

    name: str
    shape: Shape
    dtype: str
    is_input: bool
    ranges: tuple[tuple[Shape, Shape, Shape], ...] = ()

    @property
    def info(self) -> TensorInfo:
        """As the user sees it; a dynamic size that all profiles fix to one number is that number."""
        return TensorInfo(self.name, tuple(self._size(axis) for axis in range(len(self.shape))), self.dtype)

    def _size(self, axis: int) -> int | str:
        allowed = {bound[axis] for low, _, high in self.ranges for bound in (low, high)}
        if self.shape[axis] >= 0:
            return self.shape[axis]
        return allowed.pop() if len(allowed) == 1 else "?"


def tensors(plan: OpenPlan) -> tuple[PlanTensor, ...]:
    """The inputs and outputs of an opened plan, in the engine's order.

    Errors: UnsupportedModel on what a plain array cannot feed: shapes given as values, other memory layouts, types
    without a name in numpy.
    """
    path, module = plan.path, plan.toolkit.module  # the engine is not named: a traceback would keep it
    result = []
    for index in range(plan.engine.num_io_tensors):
        name = plan.engine.get_tensor_name(index)
        if plan.engine.get_tensor_location(name) != module.TensorLocation.DEVICE:
            raise UnsupportedModel(
                f"{path} takes the values of {name} on the host, as shapes; export the model with adapter-export, "
                "whose files take images only"
            )
        layout = plan.engine.get_tensor_format(name)
        if layout != module.TensorFormat.LINEAR:
            raise UnsupportedModel(
                f"{path} wants {name} in the layout {layout.name}; build it with linear inputs and outputs (no "
                "--inputIOFormats)"
            )
        kind = plan.engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise UnsupportedModel(
                f"{path} has {name} in {kind}; build it with inputs and outputs of fp32, fp16 or bf16"
            )
        is_input = plan.engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        shape = tuple(plan.engine.get_tensor_shape(name))
        ranges = _ranges(plan, name, shape) if is_input else ()
        result.append(PlanTensor(name, shape, DTYPES[kind], is_input, ranges))
    return tuple(result)


def profile_for(path: Path, inputs: Sequence[PlanTensor], shapes: Mapping[str, Shape], asked: int | None) -> int:
    """The profile that holds `shapes` (by input): the one asked, or of those that do the one tuned nearest to them.

    Errors: UsageError that lists the ranges.
    """
    candidates = range(len(inputs[0].ranges) if inputs else 1) if asked is None else (asked,)
    fitting = [profile for profile in candidates if all(_holds(i.ranges[profile], shapes[i.name]) for i in inputs)]
    if not fitting:
        found = ", ".join(f"{i.name} {_text(shapes[i.name])}" for i in inputs)
        raise UsageError(
            f"{found} fits no profile of {path}{'' if asked is None else f' that was asked for ({asked})'}, which has "
            f"{described(inputs)}; feed such a shape, or build the plan with a profile for it"
        )
    return min(fitting, key=lambda profile: sum(_distance(i.ranges[profile], shapes[i.name]) for i in inputs))


def described(inputs: Sequence[PlanTensor]) -> str:
    """Every profile's ranges in one line: "profile 0: image 1x3x64x64 to 4x3x64x64"."""
    profiles = []
    for profile in range(len(inputs[0].ranges) if inputs else 0):
        spans = [f"{i.name} {_text(i.ranges[profile][0])} to {_text(i.ranges[profile][2])}" for i in inputs]
        profiles.append(f"profile {profile}: {', '.join(spans)}")
    return "; ".join(profiles)


def _ranges(plan: OpenPlan, name: str, shape: Shape) -> tuple[tuple[Shape, Shape, Shape], ...]:
    count = max(1, plan.engine.num_optimization_profiles)
    if -1 not in shape:  # profiles are about dynamic sizes
        return ((shape, shape, shape),) * count
    found = []
    for profile in range(count):
        low, best, high = (tuple(bound) for bound in plan.engine.get_tensor_profile_shape(name, profile))
        found.append((low, best, high))
    return tuple(found)


def _holds(span: tuple[Shape, Shape, Shape], shape: Shape) -> bool:
    return all(low <= size <= high for low, size, high in zip(span[0], shape, span[2], strict=True))


def _distance(span: tuple[Shape, Shape, Shape], shape: Shape) -> float:
    return abs(math.log(math.prod(shape) / math.prod(span[1])))


def _text(shape: Shape) -> str:
    return "x".join(str(size) for size in shape) or "scalar"
