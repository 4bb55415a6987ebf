"""The gate of a detector: a right graph passes, and every planted fault is stopped and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from adapter_export import export, exporter, matching, parity
from adapter_export.plan import Plan
from adapter_infer.errors import ParityError
from export import detector_cases
from sweeps import sweep

SIZE = (96, 128)
Edit = Callable[[onnx.GraphProto], None]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The traced graph of a small detector; tracing takes seconds, so each is traced once."""
    kept: dict[str, bytes] = {}

    def traced(kind: str) -> bytes:
        if kind not in kept:
            model, spec = detector_cases.small(kind)
            trace = exporter._trace

            def keep(model: Any, plan: Plan) -> ir.Model:
                graph = trace(model, plan)
                kept[kind] = ir.to_proto(graph).SerializeToString()
                return graph

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporter, "_trace", keep)
                folder = tmp_path_factory.mktemp(kind)
                report = export(model, spec, folder / "right.onnx", size=SIZE)
            assert report.parity is not None
            worst = report.parity.worst()
            assert worst is not None and worst.share < 0.1  # far from the limit
            assert {match.unmatched for match in report.parity.matches} == {0}
            assert sum(match.matched for match in report.parity.matches) >= (10 if kind == "gfl" else 40)
        return kept[kind]

    return traced


def export_edited(kind: str, proto: bytes, edit: Edit, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load_model_from_string(proto)
    before = model.graph.SerializeToString(deterministic=True)
    edit(model.graph)
    assert model.graph.SerializeToString(deterministic=True) != before, "the fault was not planted"
    monkeypatch.setattr(exporter, "_trace", lambda *_: ir.from_proto(model))
    export(*detector_cases.small(kind), path, size=SIZE)


def constant(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(each for each in graph.initializer if each.name == name)


def nodes(graph: onnx.GraphProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == op]


def set_value(graph: onnx.GraphProto, name: str, array: np.ndarray) -> None:
    constant(graph, name).CopyFrom(onnx.numpy_helper.from_array(array, name))


def moved_anchors(graph: onnx.GraphProto) -> None:
    """Anchors of the first maps half a pixel off."""
    for each in graph.initializer:
        array = onnx.numpy_helper.to_array(each)
        if (
            array.ndim == 2
            and array.shape[1] == 4
            and len(array) in {SIZE[0] * SIZE[1] // s**2 * 3 for s in (4, 8, 16)}
        ):
            set_value(graph, each.name, array + np.float32(0.5))


def other_stds(graph: onnx.GraphProto) -> None:
    for each in graph.initializer:
        array = onnx.numpy_helper.to_array(each)
        if array.shape == (4,) and array.dtype == np.float32 and np.allclose(array, [0.1, 0.1, 0.2, 0.2]):
            set_value(graph, each.name, array * np.float32(1.05))


def nms_threshold(place: int, threshold: float) -> Edit:
    def edit(graph: onnx.GraphProto) -> None:
        node = nodes(graph, "NonMaxSuppression")[place]
        name = f"threshold_{place}"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([threshold], np.float32), name))
        node.input[3] = name

    return edit


def without_clip(graph: onnx.GraphProto) -> None:
    """The last boxes are cut off at the left and the top only."""
    node = nodes(graph, "Min")[-1]
    node.op_type = "Identity"
    del node.input[1:]


def roi_attribute(name: str, value: Any) -> Edit:
    def edit(graph: onnx.GraphProto) -> None:
        for node in nodes(graph, "RoiAlign"):
            kept = [each for each in node.attribute if each.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return edit


def one_map_for_all_boxes(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "RoiAlign"):
        node.input[0] = "neck_1"


def wrong_stage(graph: onnx.GraphProto) -> None:
    """Who reads the second stage's logits gets the first one's; the second ones stay part of the graph, times zero."""
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "zero_of_fault"))
    place = next(i for i, node in enumerate(graph.node) if "stage_logits_1" in node.input)
    for node in graph.node:
        node.input[:] = ["wrong_logits" if name == "stage_logits_1" else name for name in node.input]
    nothing = onnx.helper.make_node("Mul", ["stage_logits_1", "zero_of_fault"], ["nothing"], name="fault_mul")
    wrong = onnx.helper.make_node("Add", ["stage_logits_0", "nothing"], ["wrong_logits"], name="fault_add")
    graph.node.insert(place, wrong)
    graph.node.insert(place, nothing)


def after(output: str, op: str, operand: np.ndarray) -> Edit:
    """One more node in front of an output."""

    def edit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.output[:] = [f"{output}_right" if name == output else name for name in node.output]
            node.input[:] = [f"{output}_right" if name == output else name for name in node.input]
        graph.initializer.append(onnx.numpy_helper.from_array(operand, f"{output}_operand"))
        graph.node.append(onnx.helper.make_node(op, [f"{output}_right", f"{output}_operand"], [output]))

    return edit


def padded_size(graph: onnx.GraphProto) -> None:
    """What is clipped to is the padded size."""
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([SIZE], np.int64), "padded"))
    for node in graph.node:
        node.input[:] = ["padded" if name == "image_size" else name for name in node.input]


CHOICES = r"are not what torch chooses at input 1x3x96x128 through the "
FAULTS: dict[str, tuple[Edit, str]] = {
    "anchors half a pixel off": (moved_anchors, f"stage_boxes_0 {CHOICES}plain path: .* is no candidate"),
    "another unit of box deltas": (other_stds, "boxes"),
    "RPN's NMS at 0.8": (nms_threshold(0, 0.8), f"stage_boxes_0 {CHOICES}(plain|drawn) path: .*"),
    "NMS at 0.6": (nms_threshold(1, 0.6), f"{CHOICES}(plain|drawn) path: number .* is suppressed by an earlier one"),
    "NMS at 0.4": (nms_threshold(1, 0.4), f"{CHOICES}(plain|drawn) path: a candidate of group .* is missing"),
    "boxes not clipped": (without_clip, "is no candidate"),
    "clipped to the padded size": (padded_size, "is no candidate"),
    "RoIAlign without half a pixel": (
        roi_attribute("coordinate_transformation_mode", "output_half_pixel"),
        "output stage_logits_0|output stage_deltas_0|output masks",
    ),
    "two samples a bin": (roi_attribute("sampling_ratio", 2), "output (stage_(logits|deltas)_[012]|masks) differs"),
    "one map for all boxes": (one_map_for_all_boxes, "output (stage_(logits|deltas)_[012]|masks) differs"),
    "labels shifted": (
        after("labels", "Add", np.array(1, np.int64)),
        "is no candidate|should score|are not empty|is suppressed",
    ),
    "scores squared": (after("scores", "Pow", np.array(2, np.float32)), "should score"),
    "one detection too few": (after("count", "Sub", np.array([1], np.int64)), "is missing|are not empty"),
    "masks a little weaker": (after("masks", "Mul", np.array(0.99, np.float32)), "output masks differs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_stopped_and_named(
    fault: str, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit, message = FAULTS[fault]
    with pytest.raises(ParityError, match=message):
        export_edited("mask_rcnn", traced("mask_rcnn"), edit, tmp_path / "o.onnx", monkeypatch)
    assert list(tmp_path.iterdir()) == []


def soft_threshold(graph: onnx.GraphProto) -> None:
    """Soft-NMS at 0.6: what the loop's body compares overlaps with comes from outside of it."""
    (loop,) = nodes(graph, "Loop")
    (body,) = [each.g for each in loop.attribute if each.name == "body"]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.6, np.float32), "other_threshold"))
    halves = {each.name for each in graph.initializer if (onnx.numpy_helper.to_array(each) == 0.5).all()}
    for node in body.node:
        if node.op_type == "GreaterOrEqual":
            node.input[:] = ["other_threshold" if name in halves else name for name in node.input]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "edit", "message"),
    sweep(
        [("cascade", wrong_stage, "are not what torch chooses")],
        [
            ("htc", soft_threshold, "should score|is missing|is no candidate"),
            ("gfl", nms_threshold(0, 0.7), "is suppressed by an earlier one"),
            ("sparse", after("boxes", "Mul", np.array(1.001, np.float32)), "is no candidate"),
        ],
    ),
)
def test_faults_of_other_detectors_are_stopped(
    kind: str, edit: Edit, message: str, traced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParityError, match=message):
        export_edited(kind, traced(kind), edit, tmp_path / "o.onnx", monkeypatch)


def test_the_gates_pictures_have_padding_of_their_own() -> None:
    sizes = parity.image_sizes(50, 96, 128, 0)
    assert sizes.dtype == np.int64 and len(np.unique(sizes, axis=0)) > 40
    assert (sizes < [96, 128]).all() and (sizes >= [72, 96]).all()


def test_detections_are_matched_one_to_one_by_label_and_overlap() -> None:
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]], np.float32)
    right = {
        "boxes": boxes,
        "scores": np.array([[0.9, 0.8, 0.7, 0]], np.float32),
        "labels": np.array([[0, 1, 1, -1]]),
        "count": np.array([3]),
    }
    ours = right | {"scores": right["scores"] + np.float32(0.01), "labels": np.array([[0, 1, 0, -1]])}
    same = matching.match("plain", (1, 3, 32, 32), right, right)
    assert (same.matched, same.unmatched, same.worst_iou, same.worst_score) == (3, 0, 1.0, 0.0)
    other = matching.match("plain", (1, 3, 32, 32), ours, right)
    assert (other.matched, other.unmatched) == (2, 2)
    assert other.worst_score == pytest.approx(0.01, rel=1e-3)
    none = matching.match("plain", (1, 3, 32, 32), right | {"count": np.array([0])}, right)
    assert (none.matched, none.unmatched, none.worst_iou) == (0, 3, None)
