"""The detectors' operators in standard ONNX: NMS, RoIAlign, and soft-NMS as a loop.

Only NonMaxSuppression's own output has a length that depends on the data. It is scattered onto a fixed size at once, so
that every tensor behind it has a shape that TensorRT can plan for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

BOOL, FLOAT, INT64 = (int(dtype) for dtype in (ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64))


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The exporter's custom_translation_table: the torch operators `nms`, `roi_align` and `soft_nms` to ONNX nodes."""
    import torch

    from adapter_infer.detectors import nms, roi_align, soft_nms  # noqa: F401  registers the torch operators

    ours = torch.ops.adapter_infer
    return {ours.nms.default: _nms, ours.roi_align.default: _roi_align, ours.soft_nms.default: _soft_nms}


def _opset() -> Any:
    from onnxscript import opset18

    return opset18


def _roi_align(
    feature_map: Any, boxes: Any, batch_index: Any, output_size: int, spatial_scale: float, sampling_ratio: int
) -> Any:
    op = _opset()
    return op.RoiAlign(
        feature_map,
        boxes,
        batch_index,
        mode="avg",
        coordinate_transformation_mode="half_pixel",
        output_height=output_size,
        output_width=output_size,
        spatial_scale=spatial_scale,
        sampling_ratio=sampling_ratio,
    )


def _nms(boxes: Any, scores: Any, iou_threshold: float, max_output: int) -> Any:
    """boxes (N, B, 4), scores (N, B) -> index (N, max_output), count (N,), both int64."""
    op = _opset()
    one = op.Constant(value_ints=[1])
    selected = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, one),
        op.Constant(value_ints=[max_output]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),
    )  # (S, 3): row, 0, box
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    # S ones without asking for S.
    ones = op.Add(
        op.Cast(op.Gather(selected, op.Constant(value_int=1), axis=1), to=FLOAT), op.Constant(value_float=1.0)
    )
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    kept = op.Mul(scores, op.ScatterND(nothing, places, ones))
    # A row shorter than max_output is filled up.
    kept = op.Pad(kept, op.Constant(value_ints=[0, 0, 0, max_output]), op.Constant(value_float=0.0))
    best, found = op.TopK(kept, op.Constant(value_ints=[max_output]), axis=1)
    used = op.Cast(op.Greater(best, op.Constant(value_float=0.0)), to=INT64)
    return op.Mul(found, used), op.ReduceSum(used, one, keepdims=0)


def _soft_nms(boxes: Any, scores: Any, groups: Any, iou_threshold: float, min_score: float, max_output: int) -> Any:
    """boxes (N, B, 4), scores and groups (N, B) -> index (N, max_output), final scores, count (N,)."""
    op = _opset()
    no, yes = op.Constant(value_float=0.0), op.Constant(value=ir.tensor(True))
    corners = op.Split(boxes, axis=2, num_outputs=4)
    x1, y1, x2, y2 = (op.Squeeze(corner, op.Constant(value_ints=[2])) for corner in corners)
    body = _soft_nms_round(x1, y1, x2, y2, groups, iou_threshold, min_score)
    rounds = op.Constant(value_int=max_output)
    left = op.Max(scores, no)
    loop = op.Loop(rounds, yes, left, body=body).producer()
    # The exporter gives the two optional inputs twice, and one output: it does not look into the body.
    loop.replace_input_with(2, left)
    loop.resize_inputs(3)
    loop.resize_outputs(3)
    index, final = loop.outputs[1:]  # (max_output, N, 1) each
    index.dtype, final.dtype = ir.DataType.INT64, ir.DataType.FLOAT
    last = op.Constant(value_ints=[2])
    index, final = (op.Transpose(op.Squeeze(each, last), perm=[1, 0]) for each in (index, final))
    used = op.Cast(op.Greater(final, no), to=INT64)
    return op.Mul(index, used), final, op.ReduceSum(used, op.Constant(value_ints=[1]), keepdims=0)


def _soft_nms_round(
    x1: ir.Value, y1: ir.Value, x2: ir.Value, y2: ir.Value, groups: ir.Value, iou_threshold: float, min_score: float
) -> ir.Graph:
    """One round, over all rows at once: takes the scores that are left, gives those left then, the best and where.

    Everything but the scores comes from outside the loop.
    """
    nodes: list[ir.Node] = []
    constants: dict[str, ir.Value] = {}

    def name(value: ir.Value, text: str, dtype: int) -> ir.Value:
        value.name, value.dtype = f"soft_nms/{text}", ir.DataType(dtype)
        return value

    def add(op: str, inputs: list[ir.Value], dtype: int, **attributes: Any) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        node.name = f"soft_nms/{op}_{len(nodes)}"
        nodes.append(node)
        return name(node.outputs[0], f"{op}_{len(nodes)}", dtype)

    def constant(number: float | int | list[int]) -> ir.Value:
        key = repr(number)
        if key not in constants:
            dtype = ir.DataType.FLOAT if isinstance(number, float) else ir.DataType.INT64
            constants[key] = add("Constant", [], int(dtype), value=ir.tensor(number, dtype=dtype))
        return constants[key]

    turn, go_on, left = (ir.val(f"soft_nms/{text}", ir.DataType(kind)) for text, kind in _ROUND_INPUTS)
    turn.shape = go_on.shape = ir.Shape([])
    left.shape = ir.Shape([None, None])
    best = add("ReduceMax", [left, constant([1])], FLOAT, keepdims=1)
    where = add("ArgMax", [left], INT64, axis=1, keepdims=1)
    a1, b1, a2, b2 = (add("GatherElements", [side, where], FLOAT, axis=1) for side in (x1, y1, x2, y2))
    group = add("GatherElements", [groups, where], INT64, axis=1)

    def extent(low: ir.Value, high: ir.Value) -> ir.Value:
        return add("Sub", [high, low], FLOAT)

    zero = constant(0.0)
    width = add("Max", [extent(add("Max", [x1, a1], FLOAT), add("Min", [x2, a2], FLOAT)), zero], FLOAT)
    height = add("Max", [extent(add("Max", [y1, b1], FLOAT), add("Min", [y2, b2], FLOAT)), zero], FLOAT)
    shared = add("Mul", [width, height], FLOAT)
    areas = add("Mul", [extent(x1, x2), extent(y1, y2)], FLOAT)
    area = add("Mul", [extent(a1, a2), extent(b1, b2)], FLOAT)
    overlap = add("Div", [shared, add("Sub", [add("Add", [areas, area], FLOAT), shared], FLOAT)], FLOAT)
    near = add("GreaterOrEqual", [overlap, constant(iou_threshold)], BOOL)
    decays = add("And", [near, add("Equal", [groups, group], BOOL)], BOOL)
    less = add("Mul", [left, add("Sub", [constant(1.0), overlap], FLOAT)], FLOAT)
    left_now = add("Where", [decays, less, left], FLOAT)
    alive = add("GreaterOrEqual", [left_now, constant(min_score)], BOOL)
    left_now = add("Where", [alive, left_now, zero], FLOAT)
    gone = add("Mul", [best, zero], FLOAT)
    left_now = add("ScatterElements", [left_now, where, gone], FLOAT, axis=1)
    go_on_now = add("Identity", [go_on], BOOL)
    return ir.Graph([turn, go_on, left], [go_on_now, left_now, where, best], nodes=nodes, name="soft_nms")


_ROUND_INPUTS = (("turn", INT64), ("go_on", BOOL), ("left", FLOAT))
