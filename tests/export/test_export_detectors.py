"""Exports of detectors and of Mask2Former's queries: inputs, outputs, sizes, types, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from adapter_export import export, plan, sizes
from adapter_export.precision import Precision
from adapter_infer import metadata, presets
from adapter_infer.errors import UsageError
from adapter_infer.spec import Preprocessing
from export import detector_cases
from sweeps import sweep

SIZE = (96, 128)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def shapes(entries: Any) -> dict[str, tuple[list[Any], str]]:
    return {entry.name: (entry.shape, entry.type) for entry in entries}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sweep(["gfl", "mask_rcnn"], ["htc", "sparse", "cascade", "atss"]))
def test_any_batch_and_any_size_from_one_file(kind: str, tmp_path: Path) -> None:
    model, spec = detector_cases.small(kind)
    report = export(model, spec, tmp_path / "o.onnx", batch="dynamic", dynamic_size=True)
    assert report.parity is not None  # at three sizes it was not traced at, and batches 1 and 3
    assert {match.unmatched for match in report.parity.matches} == {0}
    assert {"drawn", "plain"} >= set(report.parity.paths())
    run = session(tmp_path / "o.onnx")
    image = torch.randn((2, 3, 64, 160), generator=torch.Generator().manual_seed(0))
    size = torch.tensor([[60, 150], [33, 64]])
    with torch.inference_mode():
        truth = model(image, size)
    for name, ours in zip(
        model.output_names,
        run.run(model.output_names, {"image": image.numpy(), "image_size": size.numpy()}),
        strict=True,
    ):
        np.testing.assert_allclose(ours, getattr(truth, name).numpy(), rtol=0, atol=2e-3, err_msg=name)


def test_pixels_outside_the_picture_are_zero_after_normalising(tmp_path: Path) -> None:
    model, spec = detector_cases.small("gfl")
    path = tmp_path / "o.onnx"
    report = export(model, spec, path, size=SIZE, batch=2, embed_preprocess=True)
    assert report.parity is not None and report.output == "detections"
    run = session(path)
    assert shapes(run.get_inputs()) == {
        "image": ([2, *SIZE, 3], "tensor(uint8)"),
        "image_size": ([2, 2], "tensor(int64)"),
    }
    assert shapes(run.get_outputs()) == {
        "boxes": ([2, 40, 4], "tensor(float)"),
        "scores": ([2, 40], "tensor(float)"),
        "labels": ([2, 40], "tensor(int64)"),
        "count": ([2], "tensor(int64)"),
    }
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    size = np.array([[80, 100], [96, 128]])
    other = image.copy()
    other[0, 80:], other[0, :, 100:] = 7, 255
    first, second = (run.run(None, {"image": each, "image_size": size}) for each in (image, other))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert first[3].min() > 0
    found = metadata.from_props({entry.key: entry.value for entry in onnx.load(path).metadata_props})
    assert found is not None and found.output == "detections" and found.model.task == "detection"
    assert {"plain", "drawn"} >= set(found.parity) >= {"plain"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"),
    sweep([("mask_rcnn", "fp16"), ("gfl", "bf16")], [("htc", "fp16"), ("sparse", "fp16"), ("gfl", "fp16")]),
)
def test_in_a_half_type_boxes_stay_in_fp32(kind: str, precision: str, tmp_path: Path) -> None:
    model, spec = detector_cases.small(kind)
    report = export(model, spec, tmp_path / "o.onnx", size=SIZE, precision=precision)
    assert report.parity is not None
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "o.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {each.name: each.data_type for each in graph.initializer}
    full, half = onnx.TensorProto.FLOAT, getattr(onnx.TensorProto, {"fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision])
    for node in graph.node:
        if node.op_type in {"RoiAlign", "NonMaxSuppression", "TopK", "Exp", "Min", "Log"}:
            assert {types[name] for name in node.input if types[name] in {full, half}} == {full}, node.name
    convolutions = [types[node.output[0]] for node in graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    assert np.mean([dtype == half for dtype in convolutions]) > 0.8
    assert {types[value.name] for value in graph.output} == {full, onnx.TensorProto.INT64}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sweep(["mask_rcnn"], ["atss", "sparse"]))
def test_dense_gives_what_stands_before_any_choice(kind: str, tmp_path: Path) -> None:
    model, spec = detector_cases.small(kind)
    report = export(model, spec, tmp_path / "o.onnx", size=SIZE, output="dense", precision="fp16", io_precision="fp16")
    assert report.parity is not None and not report.parity.matches
    run = session(tmp_path / "o.onnx")
    assert [entry.name for entry in run.get_inputs()] == ["image"]
    outputs = shapes(run.get_outputs())
    assert {dtype for _, dtype in outputs.values()} == {"tensor(float16)"}
    wanted = {"neck_0": [1, 16, 24, 32]}
    if kind == "mask_rcnn":
        wanted |= {"rpn_scores_1": [1, 3, 12, 16], "rpn_deltas_4": [1, 12, 2, 2]}
    elif kind == "atss":
        wanted = {"neck_0": [1, 16, 12, 16], "class_logits_0": [1, 4, 12, 16], "centerness_4": [1, 1, 1, 1]}
    assert {name: outputs[name][0] for name in wanted} == wanted
    assert len(outputs) == {"mask_rcnn": 15, "atss": 20, "sparse": 4}[kind]


# --- what is refused, before anything is traced ---


def asked(kind: str = "mask_rcnn", output: str | None = None, **changes: Any) -> plan.Plan:
    model, spec = detector_cases.small(kind)
    settings: dict[str, Any] = {"size": SIZE, "batch": 1, "dynamic_size": False, "op": "fused", "opset": None}
    settings |= {"embed_preprocess": False, "precision": Precision()} | changes
    return plan.plan(model, spec, output=output, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "labels"}, "output labels is not what a detector gives; choose one of detections, dense, features"),
        ({"output": "queries"}, "output queries is not what a detector gives"),
        ({"output": "boxes"}, "output 'boxes' is unknown; choose one of features, logits"),
        ({"output": "dense", "embed_preprocess": True}, "cannot be embedded with output dense.* ask for detections"),
        ({"precision": Precision("fp16", "fp16")}, "detections in fp16 .* leave out --io-precision"),
        (
            {"precision": Precision("bf16")},
            "bf16 needs the RoiAlign of opset 22.* choose precision fp16, or output dense",
        ),
        ({"opset": 23}, "opset 23 has the RoiAlign of opset 22.* choose opset 18 to 21"),
        ({"size": (100, 128)}, "100x128 is not a multiple of 32"),
    ],
)
def test_what_a_detector_cannot_give_is_refused_with_the_way_out(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked(**changes)


def test_a_detector_gives_detections_by_default_from_two_inputs() -> None:
    made = asked()
    assert made.output == "detections" and made.inputs == ("image", "image_size")
    assert made.outputs == ("boxes", "scores", "labels", "count", "masks")
    assert asked("gfl").outputs == ("boxes", "scores", "labels", "count")
    assert asked(output="features").outputs == metadata.FEATURE_NAMES
    assert asked(output="dense").inputs == ("image",)


@pytest.mark.parametrize(
    ("scale", "size"), [((1333, 800), (800, 1344)), ((1600, 1400), (1408, 1600)), ((1024, 1024), (1024, 1024))]
)
def test_the_default_size_is_that_of_a_padded_wide_picture(scale: tuple[int, int], size: tuple[int, int]) -> None:
    model, spec = detector_cases.small("mask_rcnn")
    spec = replace(spec, preprocessing=Preprocessing(scale=scale, pad=True))
    assert sizes.choose(model, spec, None, False) == size
    assert replace(spec, preprocessing=Preprocessing(scale=scale)).padded_size is None


def test_released_detectors_export_at_their_own_padded_size() -> None:
    found = {name: presets.spec(name).padded_size for name in presets.names() if presets.spec(name).task == "detection"}
    assert set(found.values()) >= {(800, 1344)}
    assert found["mask_rcnn_deit_adapter_tiny_fpn_1x_coco"] == (800, 1344)


# --- queries ---


@pytest.mark.slow
def test_queries_of_mask2former_are_what_its_scores_are_made_of(load: Any, tmp_path: Path) -> None:
    model, spec = load("models", "mask2former_vit_adapter")
    path = tmp_path / "o.onnx"
    report = export(model, spec, path, size=(64, 96), output="queries", batch="dynamic")
    assert report.parity is not None and report.output == "queries"
    image = torch.randn((2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    classes, masks = session(path).run(["class_logits", "mask_logits"], {"image": image.numpy()})
    with torch.inference_mode():
        truth = model.queries(image)
    np.testing.assert_allclose(classes, truth[0].numpy(), rtol=0, atol=5e-4)
    np.testing.assert_allclose(masks, truth[1].numpy(), rtol=0, atol=5e-4 * float(truth[1].abs().max()))
    assert masks.shape[2:] == (16, 24)


def test_queries_are_refused_of_other_heads(load: Any, tmp_path: Path) -> None:
    model, spec = load("models", "upernet_vit_adapter")
    with pytest.raises(UsageError, match="needs Mask2Former's head, but this is a UPerHead; ask for logits"):
        export(model, spec, tmp_path / "o.onnx", size=(64, 96), output="queries")
