"""Detectors in NVIDIA's parser and builder (TensorRT-RTX): what builds, and which operators stop it here.

RoiAlign is a plugin of TensorRT's own, and asks for a GPU as soon as it is parsed; TensorRT-RTX has no kernel for NMS.
So for building, both get stand-ins of the same shapes, which leaves all that is around them to be judged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import golden_detectors
import rtx_rig
from adapter_export import export
from adapter_infer.metadata import OP_DOMAIN
from export import detector_cases
from sweeps import sweep

SIZE = (96, 128)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rtx_rig.require()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("rtx")

    def written(kind: str, **options: Any) -> onnx.ModelProto:
        path: Path = folder / f"{kind}.onnx"
        if not path.exists():
            model, spec = detector_cases.small(kind)
            export(model, spec, path, size=SIZE, check=False, **options)
        return onnx.load(path)

    return written


def stood_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """RoiAlign becomes the mean of its map, NonMaxSuppression a choice of the first box."""
    graph, nodes = model.graph, []

    def constant(*numbers: int) -> str:
        name = "constant_" + "_".join(map(str, numbers))
        if name not in {each.name for each in graph.initializer}:
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    for i, node in enumerate(graph.node):
        inputs, output = list(node.input), node.output[0]

        def add(op: str, given: list[str], out: str, **attributes: Any) -> str:
            nodes.append(onnx.helper.make_node(op, given, [out], name=f"{out}/{op}", **attributes))
            return out

        if node.op_type == "RoiAlign":
            size = next(each.i for each in node.attribute if each.name == "output_height")
            mean = add("ReduceMean", [inputs[0], constant(2, 3)], f"mean_{i}", keepdims=1)
            own = add("Gather", [mean, inputs[2]], f"own_{i}", axis=0)
            tiled = add("Tile", [own, constant(1, 1, size, size)], f"tiled_{i}")
            width = add("ReduceMean", [inputs[1], constant(1)], f"width_{i}", keepdims=1)
            add("Add", [tiled, add("Unsqueeze", [width, constant(2, 3)], f"flat_{i}")], output)
        elif node.op_type == "NonMaxSuppression":
            numbers = add("Slice", [inputs[0], constant(0, 0, 0), constant(1, 3, 1)], f"numbers_{i}")
            zeros = add("Cast", [numbers], f"zeros_{i}", to=onnx.TensorProto.INT64)
            none = add("Mul", [zeros, constant(0)], f"none_{i}")
            add("Reshape", [none, constant(1, 3)], output)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "layer"), sweep([("htc", "TRIP_LIMIT")], [("mask_rcnn", "TOPK"), ("gfl", "SCATTER")]))
def test_everything_but_roi_align_and_nms_builds(kind: str, layer: str, written: Any) -> None:
    model = stood_in(written(kind))
    with rtx_rig.process() as attempt:
        outcome = attempt(model)
    assert outcome.error == "" and outcome.plan > 0
    assert outcome.layers[layer] > 0
    k, (h, w) = detector_cases.SLOTS, (28, 28)
    wanted = [("boxes", (1, k, 4), "FLOAT"), ("scores", (1, k), "FLOAT"), ("labels", (1, k), "INT64")]
    wanted += [("count", (1,), "INT64")] + ([] if kind == "gfl" else [("masks", (1, k, h, w), "FLOAT")])
    assert outcome.outputs == wanted


@pytest.mark.slow
def test_the_operators_that_stop_it_are_roi_align_and_nms_alone(written: Any) -> None:
    """Should this fail, TensorRT-RTX has learnt one of them: say so in the README."""
    with rtx_rig.process() as attempt:
        two_stages, one_stage = attempt(written("mask_rcnn")), attempt(written("gfl"))
    assert "ROIAlign plugin was not found" in two_stages.error
    assert one_stage.layers["NMS"] == 1 and "NonMaxSuppression" in one_stage.error


@pytest.mark.slow
def test_the_part_before_any_choice_builds_as_it_is(written: Any) -> None:
    with rtx_rig.process() as attempt:
        outcome = attempt(written("cascade", output="dense"))
    assert outcome.error == "" and outcome.plan > 0 and len(outcome.outputs) == 15


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep([], golden_detectors.NAMES))
def test_each_msda_node_before_the_choice_becomes_a_plugin_layer(name: str, tmp_path: Path) -> None:
    rtx_rig.require()
    detector, spec = detector_cases.from_golden(name)
    export(detector, spec, tmp_path / "a.onnx", size=SIZE, output="dense", check=False)
    model = onnx.load(tmp_path / "a.onnx")
    with rtx_rig.process() as attempt:
        outcome = attempt(model, rtx_rig.plugin())
    assert outcome.error == "" and outcome.plan > 0
    assert outcome.layers["PLUGIN_V3"] == sum(node.domain == OP_DOMAIN for node in model.graph.node)
    assert (outcome.layers["PLUGIN_V3"] > 0) == ("adapter" in name)
