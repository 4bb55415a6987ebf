"""Detectors and panoptic models under adapter-bench: two inputs, pictures that matter, counts that agree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from adapter_bench import bare, cli, demo, macs_onnx, macs_torch, memory, session
from adapter_bench.engine_subject import EngineSubject
from adapter_bench.measure import Rules
from adapter_bench.session import Plan
from adapter_bench.subject import default_size
from adapter_bench.torch_subject import TorchSubject
from adapter_infer import presets
from adapter_infer import spec as model_spec
from adapter_infer.models import build_model
from adapter_infer.spec import ModelSpec

Export = Callable[..., Path]
SIZE = (64, 96)
QUICK = ["--duration", "0", "--iterations", "3", "--warmup", "0", "--threads", "1"]


@pytest.fixture(autouse=True)
def no_cache_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home_cache"))


# --- counts ---

# model, options of the export
FORMS = [
    ("mask_rcnn", {}),
    ("atss", {}),
    ("atss", {"output": "dense"}),
    pytest.param("mask_rcnn", {"output": "features", "batch": 2}, marks=pytest.mark.long),
    pytest.param("cascade", {"batch": 2}, marks=pytest.mark.long),
    pytest.param("htc", {}, marks=pytest.mark.long),  # soft-NMS is a loop in the graph
    pytest.param("gfl", {}, marks=pytest.mark.long),  # its integral is a product with a vector
]


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_graph_and_detector_have_the_same_macs(
    exported: Export, tiny: dict[str, ModelSpec], name: str, options: dict[str, Any]
) -> None:
    counted = macs_onnx.count(macs_onnx.load(exported(name, **options)), {})
    batch, output = options.get("batch", 1), options.get("output", "detections")
    assert counted.macs == sum(macs_torch.count(tiny[name], SIZE, batch, output).values()) > 0
    assert counted.uncounted == {}
    assert counted.msda_nodes == 6


@pytest.mark.slow
def test_sparse_rcnns_graph_lacks_only_what_its_proposals_do_before_they_see_the_picture(
    exported: Export, tiny: dict[str, ModelSpec]
) -> None:
    """Their first attention among each other, and the dynamic layer that it feeds: 12 vectors of 32 channels."""
    counted = macs_onnx.count(macs_onnx.load(exported("sparse")), {})
    constant = macs_torch.count_constant(tiny["sparse"], SIZE)
    assert constant == 12 * 32 * 32 * 4 + 2 * 12 * 12 * 32 + 12 * 32 * 2 * 32 * 32
    assert counted.macs == sum(macs_torch.count(tiny["sparse"], SIZE).values()) - constant
    (remark,) = EngineSubject(str(exported("sparse"))).count(1, SIZE).remarks
    assert remark == f"{constant} MACs of the PyTorch model are constants in the graph"


def test_a_detectors_count_grows_with_its_slots_and_the_batch_alone(tiny: dict[str, ModelSpec]) -> None:
    one, three = (sum(macs_torch.count(tiny["mask_rcnn"], SIZE, batch).values()) for batch in (1, 3))
    assert three == 3 * one
    fewer = model_spec.from_json(model_spec.to_json(tiny["mask_rcnn"]))
    assert fewer.detector is not None
    fewer.detector["test_cfg"]["rpn"]["max_per_img"] -= 10
    box_head = 32 * 49 * 24 + 24 * 24 + 24 * (5 + 4 * 4)
    assert one - sum(macs_torch.count(fewer, SIZE).values()) == 10 * box_head


def test_layers_that_a_detector_does_not_read_are_idle(tiny: dict[str, ModelSpec]) -> None:
    """ATSS reads no map of stride 4; of its RPN's objectness Mask R-CNN keeps only the choice that it made."""

    def idle(name: str) -> list[str]:
        return macs_torch.idle_modules(build_model(tiny[name], "meta"), *macs_torch.meta_inputs(tiny[name], SIZE))

    assert idle("atss") == ["backbone.spm.fc1", "backbone.up", "backbone.norm1"]
    assert idle("mask_rcnn") == []
    assert idle("htc") == ["roi_head.semantic_head.conv_logits"]
    assert idle("sparse")[:2] == ["roi_head.bbox_head.0.cls_fcs", "roi_head.bbox_head.0.fc_cls"]


def test_the_papers_rule_counts_the_semantic_logits_that_htc_does_not_need(tiny: dict[str, ModelSpec]) -> None:
    spec = tiny["htc"]
    more = model_spec.from_json(model_spec.to_json(spec))
    assert more.detector is not None
    more.detector["roi_head"]["semantic_head"]["num_classes"] += 1
    added = (macs_torch.count_paper(more, SIZE) or 0) - (macs_torch.count_paper(spec, SIZE) or 0)
    assert added == 8 * 12 * (32 + 1)  # a class at stride 8, with bias
    assert macs_torch.count(more, SIZE) == macs_torch.count(spec, SIZE)


def test_the_papers_rule_tells_batch_norms_of_a_detector_apart(tiny: dict[str, ModelSpec]) -> None:
    """30 proposals through four convolutions of 32 channels and 7x7 cells; SyncBN, as released, counts nothing."""

    def counted(norm: str) -> int:
        spec = model_spec.from_json(model_spec.to_json(tiny["cascade"]))
        assert spec.detector is not None
        spec.detector["roi_head"]["bbox_head"][1]["norm_cfg"] = {"type": norm}
        return macs_torch.count_paper(spec, SIZE) or 0

    assert counted("BN") - counted("SyncBN") == 2 * 30 * 4 * 32 * 7 * 7


def loop(body: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A loop of three rounds over `body`, which makes y from x, between two products."""

    def value(name: str, dtype: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, shape)

    inside = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go"]), *body],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go_in", TensorProto.BOOL, []),
            value("x", TensorProto.FLOAT, [4, 4]),
        ],
        [value("go", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, [4, 4])],
    )
    nodes = [
        helper.make_node("MatMul", ["a", "a"], ["first"]),
        helper.make_node("Loop", ["rounds", "", "first"], ["looped"], body=inside),
        helper.make_node("MatMul", ["looped", "a"], ["result"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("a", TensorProto.FLOAT, [4, 4])],
        [value("result", TensorProto.FLOAT, [4, 4])],
        [onnx.numpy_helper.from_array(np.array(3), "rounds")],
        value_info=[value("looped", TensorProto.FLOAT, [4, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_loop_without_products_is_free_and_what_follows_is_counted() -> None:
    counted = macs_onnx.count(loop([helper.make_node("Relu", ["x"], ["y"])]), {})
    assert (counted.macs, counted.uncounted) == (2 * 4 * 4 * 4, {})


def test_a_loop_with_products_makes_the_count_a_lower_bound() -> None:
    counted = macs_onnx.count(loop([helper.make_node("MatMul", ["x", "x"], ["y"])]), {})
    assert (counted.macs, counted.uncounted) == (2 * 4 * 4 * 4, {"Loop": 1})


# --- pictures ---


@pytest.mark.parametrize(("shape", "dtype"), [((2, 3, 64, 96), "float32"), ((2, 64, 96, 3), "uint8")])
def test_scenes_are_pictures_and_the_same_every_time(shape: tuple[int, ...], dtype: str) -> None:
    pictures = bare.scenes(shape, dtype)
    assert (pictures.shape, pictures.dtype) == (shape, np.dtype(dtype))
    assert np.array_equal(pictures, bare.scenes(shape, dtype))
    first, second = pictures.astype(np.float32)
    assert np.abs(first - second).mean() > 0.2 * first.std()  # pictures of a batch differ
    rows = np.diff(first, axis=-1 if shape[1] == 3 else 1)
    assert np.abs(rows).mean() < 0.3 * first.std()  # and unlike noise they have areas


def test_a_scene_is_the_same_picture_in_both_forms() -> None:
    pixels, normalised = bare.scenes((1, 64, 96, 3), "uint8"), bare.scenes((1, 3, 64, 96), "float32")
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (model_spec.IMAGENET_MEAN, model_spec.IMAGENET_STD))
    assert np.allclose(normalised[0] * std + mean, np.moveaxis(pixels[0], 2, 0), atol=1e-3)


def test_each_picture_is_said_to_fill_its_place() -> None:
    feeds = bare.feeds("image", (2, 3, 64, 96), "float32", "image_size")
    assert feeds["image_size"].tolist() == [[64, 96], [64, 96]]
    assert bare.feeds("image", (1, 64, 96, 3), "uint8", "image_size")["image_size"].tolist() == [[64, 96]]
    assert feeds["image_size"].dtype == np.int64
    assert bare.feeds("image", (2, 3, 64, 96), "float32").keys() == {"image"}


def test_default_sizes_are_the_crop_or_the_padded_scale() -> None:
    assert default_size(presets.spec("mask_rcnn_deit_adapter_tiny_fpn_3x_coco")) == (800, 1344)
    assert default_size(presets.spec("htc++_beitv2_adapter_large_fpn_3x_coco")) == (1408, 1600)
    assert default_size(presets.spec("semfpn_vit_tiny_512_ade20k")) == (512, 512)
    assert default_size(None) is None


# --- subjects ---


def test_an_exported_detector_is_measured_beside_its_plain_vit(exported: Export, tmp_path: Path) -> None:
    engine, out = exported("mask_rcnn"), tmp_path / "report.json"
    command = ["--engine", str(engine), "--cache", str(tmp_path / "cache"), "--json", str(out), *QUICK]
    assert cli.main(command) == 0
    found = json.loads(out.read_text())
    assert (found["height"], found["width"], found["batch"], found["msda_nodes"]) == (64, 96, 1, 6)
    assert found["baseline"]["msda_nodes"] == 0
    assert found["baseline"]["macs"] < found["macs"]
    assert found["macs_paper"] == macs_torch.count_paper(EngineSubject(str(engine)).spec, SIZE)
    assert found["ratio_fps"] == pytest.approx(found["fps"] / found["baseline"]["fps"])
    assert found["memory"]["peak_bytes"] > found["memory"]["weights_bytes"] > 0
    (remark,) = (remark for remark in found["remarks"] if remark.startswith("NMS and RoIAlign"))
    assert "of at most 9 detections" in remark


def test_a_detector_in_pytorch_is_measured_beside_its_plain_vit(tiny: dict[str, ModelSpec]) -> None:
    subject = TorchSubject({"spec": model_spec.to_json(tiny["mask_rcnn"])}, threads=1)
    rules = Rules(warmup=0.0, warmup_runs=0, duration=0.0, iterations=2)
    plan = Plan(frozenset({"fps", "flops", "baseline"}), frozenset(), rules, None, [2], "cpu", 1, Path())
    (found,) = session.run(subject, plan, [])
    assert (found["height"], found["width"], found["batch"]) == (64, 96, 2)
    assert found["macs"] == sum(macs_torch.count(tiny["mask_rcnn"], SIZE).values())
    assert found["baseline"]["engine"]["model"] == "mask_rcnn baseline"
    assert found["baseline"]["params"] != found["params"]
    assert any("of at most 9 detections" in remark for remark in found["remarks"])


def test_a_detector_runs_alone_in_the_process_that_measures_memory(
    exported: Export, tiny: dict[str, ModelSpec]
) -> None:
    for subject in (
        TorchSubject({"spec": model_spec.to_json(tiny["atss"])}, threads=1),
        EngineSubject(str(exported("atss")), threads=1),
    ):
        before = torch.get_num_threads()
        try:
            found = memory.measure_here(subject.alone(1, SIZE))
        finally:
            torch.set_num_threads(before)
        assert found["peak_bytes"] >= found["loaded_bytes"] > 0


def test_the_baseline_of_every_detector_is_the_same_detector_over_a_plain_vit(tiny: dict[str, ModelSpec]) -> None:
    for name in ("mask_rcnn", "cascade", "atss", "sparse"):
        model = TorchSubject({"spec": model_spec.to_json(tiny[name])}, threads=1)
        plain = model.baseline(Path())
        assert plain.spec.backbone["type"] == "ViTBaseline"
        assert plain.spec.detector == model.spec.detector
        with torch.no_grad():
            maps = build_model(plain.spec, "meta").features(torch.empty(1, 3, *SIZE, device="meta"))  # type: ignore[operator]
            ours = build_model(model.spec, "meta").features(torch.empty(1, 3, *SIZE, device="meta"))  # type: ignore[operator]
        assert [m.shape for m in maps] == [m.shape for m in ours]


def test_a_dense_export_takes_one_input_and_has_no_figure_of_the_papers(exported: Export) -> None:
    subject = EngineSubject(str(exported("atss", output="dense")), threads=1)
    assert subject.count(1, SIZE).paper is None
    with subject.open() as prepare:
        found = prepare(1, SIZE)()
    assert isinstance(found, dict)
    assert {name.rpartition("_")[0] for name in found} >= {"class_logits", "box_deltas", "centerness"}
    assert not any("RoIAlign" in remark for remark in subject.facts()["remarks"])


@pytest.mark.long
def test_a_detector_of_pixels_takes_pixels(exported: Export) -> None:
    subject = EngineSubject(str(exported("atss", embed_preprocess=True)), threads=1)
    with subject.open() as prepare:
        found: Any = prepare(1, subject.resolve(None, None)[0])()
    assert found["boxes"].shape == (1, 9, 4)
    assert subject.count(1, SIZE).macs == EngineSubject(str(exported("atss"))).count(1, SIZE).macs


@pytest.mark.parametrize("name", ["mask_rcnn_deit_adapter_tiny_fpn_3x_coco"])
def test_a_sample_checkpoint_of_a_detector_says_what_it_is(name: str, tmp_path: Path) -> None:
    from adapter_infer import checkpoints

    path = tmp_path / "sample.pth"
    demo.write_sample_checkpoint(path, name)
    _, found, _ = checkpoints.load_model(str(path))
    wanted = presets.spec(name)
    assert dataclasses.replace(found, name=name, source=wanted.source) == wanted
