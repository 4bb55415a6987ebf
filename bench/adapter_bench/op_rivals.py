"""The rivals of `op_speed`: the same multi-scale deformable attention through this library, GridSample and a torch op.

A rival is a call without arguments. Its inputs lie in memory that its own runtime allocated, as between two nodes of a
model: numpy aligns to 16 bytes only, which would cost the wide loads of this library up to 40 percent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapter_infer.errors import UsageError
from adapter_infer.metadata import FUSED_OP, OP_DOMAIN, STANDARD_OP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

OURS, GRID_SAMPLE, TORCH_OP = "this op", "ORT GridSample", "torch-ms-deform-attn"
Shapes = tuple[tuple[int, int], ...]
GRIDS: Shapes = ((64, 64), (32, 32), (16, 16))  # strides 8, 16, 32 of a 512x512 image


@dataclass(frozen=True)
class Workload:
    """One call: M heads of D channels, Q queries on `query_shapes`, P points in each level of `shapes`, batch 1."""

    name: str
    shapes: Shapes
    query_shapes: Shapes
    d: int
    m: int = 12
    p: int = 4

    @property
    def s(self) -> int:
        return sum(h * w for h, w in self.shapes)

    @property
    def q(self) -> int:
        return sum(h * w for h, w in self.query_shapes)


WORKLOADS = [
    Workload("injector D=32", GRIDS, GRIDS[1:2], 32),
    Workload("injector D=64", GRIDS, GRIDS[1:2], 64),
    Workload("extractor D=32", GRIDS[1:2], GRIDS, 32),
    Workload("extractor D=64", GRIDS[1:2], GRIDS, 64),
]


def inputs(work: Workload) -> dict[str, NDArray[np.float32]]:
    """value, reference, offsets, logits, and what follows from them: locations, weights. Seeded.

    Offsets are the module's initial ones (head m looks at angle 2*pi*m/M, point p is p+1 cells away) plus normal noise
    of 2 cells, independent from query to query: trained offsets vary less from one query to the next.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    levels, rows = len(work.shapes), (1, work.q, work.m)
    centres = [
        np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1).reshape(-1, 2)
        for h, w in work.query_shapes
    ]
    reference = np.concatenate(centres).astype(np.float32)[None, :, None]
    angle = np.arange(work.m) * 2 * np.pi / work.m
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    distance = np.arange(1, work.p + 1)[:, None]
    offsets = rng.standard_normal((*rows, levels, work.p, 2)) * 2 + direction[:, None, None] * distance
    logits = rng.standard_normal((*rows, levels * work.p)).astype(np.float32)
    size = np.array([(w, h) for h, w in work.shapes], np.float32)[:, None]
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    offsets = offsets.astype(np.float32)
    return {
        "value": rng.standard_normal((1, work.s, work.m, work.d)).astype(np.float32),
        "reference": reference,
        "offsets": offsets,
        "logits": logits,
        "locations": reference[:, :, None, :, None] + offsets / size,
        "weights": powers / powers.sum(-1, keepdims=True),
    }


def our_model(work: Workload, included: bool) -> ModelProto:
    """The one node: fused from `value`, `reference`, `samples`, or standard from `value`, `locations`, `weights`."""
    import numpy as np
    from onnx import helper, numpy_helper

    levels = len(work.shapes)
    shapes = np.array(work.shapes, np.int64)
    constants = {"shapes": shapes, "starts": np.cumsum(shapes.prod(1)) - shapes.prod(1)}
    row = [1, work.q, work.m]
    sizes = {"value": [1, work.s, work.m, work.d]}
    if included:
        sizes |= {"reference": [1, work.q, 1, 2], "samples": [*row, 3 * levels * work.p]}
        node = helper.make_node(FUSED_OP, ["value", "shapes", "reference", "samples"], ["output"])
        del constants["starts"]
    else:
        sizes |= {"locations": [*row, levels, work.p, 2], "weights": [*row, levels, work.p]}
        names = ["value", "shapes", "starts", "locations", "weights"]
        node = helper.make_node(STANDARD_OP, names, ["output"])
    node.domain = OP_DOMAIN
    return _model([node], sizes, work, [numpy_helper.from_array(array, name) for name, array in constants.items()])


def grid_sample_model(work: Workload, included: bool) -> ModelProto:
    """The usual decomposition: one GridSample a level over (M, D, H, W), then the weighted sum."""
    import numpy as np
    from onnx import helper, numpy_helper

    levels, points = len(work.shapes), len(work.shapes) * work.p
    constants: dict[str, NDArray[Any]] = {
        "one": np.ones((), np.float32),
        "two": np.full((), 2, np.float32),
        "cells": np.array([h * w for h, w in work.shapes], np.int64),
        "last": np.array([-1], np.int64),
        "weights_shape": np.array([work.m, 1, work.q, points], np.int64),
        "output_shape": np.array([1, work.m * work.d, work.q], np.int64),
        "grid_shape": np.array([work.m, work.q, work.p, 2], np.int64),
        "size": np.array([(w, h) for h, w in work.shapes], np.float32).reshape(1, 1, 1, levels, 1, 2),
    }
    nodes = []

    def add(op: str, names: str, **attributes: Any) -> None:
        sources, _, results = names.partition(" -> ")
        nodes.append(helper.make_node(op, sources.split(), results.split(), **attributes))

    row = [1, work.q, work.m]
    sizes = {"value": [1, work.s, work.m, work.d]}
    if included:
        sizes |= {"reference": [1, work.q, 1, 1, 1, 2], "offsets": [*row, levels, work.p, 2], "logits": [*row, points]}
        add("Div", "offsets size -> shifts")
        add("Add", "reference shifts -> locations")
        add("Softmax", "logits -> weights", axis=-1)
    else:
        sizes |= {"locations": [*row, levels, work.p, 2], "weights": [*row, points]}
        del constants["size"]
    add("Mul", "locations two -> doubled")
    add("Sub", "doubled one -> grid")
    add("Split", "value cells -> " + " ".join(f"value{level}" for level in range(levels)), axis=1)
    for level, (h, w) in enumerate(work.shapes):
        constants |= {f"map_shape{level}": np.array([work.m, work.d, h, w], np.int64), f"level{level}": np.array(level)}
        add("Transpose", f"value{level} -> channels{level}", perm=[0, 2, 3, 1])
        add("Reshape", f"channels{level} map_shape{level} -> map{level}")
        add("Gather", f"grid level{level} -> grid_of{level}", axis=3)
        add("Transpose", f"grid_of{level} -> heads{level}", perm=[0, 2, 1, 3, 4])
        add("Reshape", f"heads{level} grid_shape -> grid{level}")
        add("GridSample", f"map{level} grid{level} -> sampled{level}", mode="bilinear", padding_mode="zeros")
    add("Concat", " ".join(f"sampled{level}" for level in range(levels)) + " -> sampled", axis=-1)
    add("Transpose", "weights -> weights_of_heads", perm=[0, 2, 1, 3])
    add("Reshape", "weights_of_heads weights_shape -> factors")
    add("Mul", "sampled factors -> weighted")
    add("ReduceSum", "weighted last -> summed", keepdims=0)
    add("Reshape", "summed output_shape -> columns")
    add("Transpose", "columns -> output", perm=[0, 2, 1])
    return _model(nodes, sizes, work, [numpy_helper.from_array(array, name) for name, array in constants.items()])


def _model(nodes: list[Any], sizes: dict[str, list[int]], work: Workload, constants: list[Any]) -> ModelProto:
    from onnx import TensorProto, helper

    ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    out = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, work.q, work.m * work.d])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(OP_DOMAIN, 1)]
    return helper.make_model(helper.make_graph(nodes, "op", ins, out, constants), opset_imports=opsets, ir_version=10)


def ort_rival(model: ModelProto, feeds: dict[str, NDArray[Any]], threads: int) -> Callable[[], NDArray[Any]]:
    """A call that runs `model` with everything bound beforehand, and returns its (reused) output."""
    import numpy as np
    import onnxruntime

    from adapter_plugins import ORT_CPU, library

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library(ORT_CPU)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for item in session.get_inputs():
        array = np.ascontiguousarray(feeds[item.name].reshape(item.shape))
        # ONNX Runtime's own memory, aligned as between two nodes of a model; numpy's is aligned to 16 bytes only.
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(item.shape, np.float32)
        value.update_inplace(array)
        binding.bind_ortvalue_input(item.name, value)
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(session.get_outputs()[0].shape, np.float32)
    binding.bind_ortvalue_output("output", output)

    def call() -> NDArray[Any]:
        session.run_with_iobinding(binding)
        return output

    return call


def torch_rival(work: Workload, feeds: dict[str, NDArray[Any]], included: bool) -> Callable[[], Any]:
    """torch-ms-deform-attn; raises ImportError where it is not installed."""
    import torch
    from torch_ms_deform_attn import ms_deform_attn

    tensors = {name: torch.from_numpy(array).clone() for name, array in feeds.items()}  # in torch's own memory
    shapes = torch.tensor(work.shapes)
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    size = shapes.flip(1).float()[:, None]
    rows = (1, work.q, work.m, len(work.shapes), work.p)

    def call() -> Any:
        locations, weights = tensors["locations"], tensors["weights"]
        if included:
            locations = tensors["reference"][:, :, None, :, None] + tensors["offsets"] / size
            weights = tensors["logits"].softmax(-1)
        return ms_deform_attn(tensors["value"], shapes, starts, locations, weights.reshape(rows))

    return call


def rivals(work: Workload, included: bool, threads: int) -> dict[str, Callable[[], Any]]:
    """Calls by name, each checked against ours."""
    import numpy as np

    feeds = inputs(work)
    rows = (1, work.q, work.m)
    ours = feeds | {
        "samples": np.concatenate([feeds["offsets"].reshape(*rows, -1), feeds["logits"]], -1),
    }
    calls: dict[str, Callable[[], Any]] = {
        OURS: ort_rival(our_model(work, included), ours, threads),
        GRID_SAMPLE: ort_rival(grid_sample_model(work, included), feeds, threads),
    }
    try:
        calls[TORCH_OP] = torch_rival(work, feeds, included)
    except ImportError as error:
        print(f"{TORCH_OP} is left out: {error}") if work is WORKLOADS[0] and included else None
    truth = np.array(calls[OURS]().numpy())
    for name, call in calls.items():
        difference = float(np.abs(call().numpy().reshape(truth.shape) - truth).max())
        if not difference < 1e-4:
            raise UsageError(
                f"{name} differs from {OURS} by {difference:.1e} on {work.name}: there is nothing to compare"
            )
    return calls
