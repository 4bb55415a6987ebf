"""Toy ONNX files with this project's metadata, small enough to build in a test and simple enough to compute by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapter_infer.metadata import InputForm, Metadata, to_props
from adapter_infer.spec import IMAGENET_MEAN, IMAGENET_STD, Inference, ModelSpec, Preprocessing

OPSET = 18


@dataclass
class Toy:
    """A segmentation network: logits = W x + V mean(x) + b, of which the second term makes windows differ.

    `expected(x)` computes it with numpy for normalised images (N, 3, H, W).
    """

    path: Path
    weight: np.ndarray
    context: np.ndarray
    bias: np.ndarray

    def expected(self, x: np.ndarray) -> np.ndarray:
        mean = x.mean(axis=(2, 3), dtype=np.float64)
        local = np.einsum("kc,nchw->nkhw", self.weight, x)
        return (local + (mean @ self.context.T + self.bias)[:, :, None, None]).astype(np.float32)


@pytest.fixture
def make_toy(tmp_path):
    """A function that writes a Toy: batch, size (None: dynamic), output, embed, classes and what the metadata says."""

    def make(
        name="toy.onnx",
        *,
        batch=1,
        size=(64, 64),
        output="logits",
        embed=False,
        classes=5,
        inference=None,
        preprocessing=Preprocessing(scale=(160, 64)),  # noqa: B008, it is frozen
        names=None,
        palette=None,
        op="fused",
        metadata=True,
        declared_output=None,
    ) -> Toy:
        rng = np.random.default_rng(classes)
        toy = Toy(
            tmp_path / name,
            rng.normal(size=(classes, 3)).astype(np.float32),
            rng.normal(size=(classes, 3)).astype(np.float32) * 2,
            rng.normal(size=classes).astype(np.float32),
        )
        height, width = size or ("height", "width")
        count = batch or "batch"
        nodes, shape, element = [], [count, 3, height, width], TensorProto.FLOAT
        constants = {"w": toy.weight[..., None, None], "v": toy.context[..., None, None], "b": toy.bias}
        if embed:
            shape, element = [count, height, width, 3], TensorProto.UINT8
            constants |= {"mean": np.float32(IMAGENET_MEAN), "scale": np.float32(1 / np.float64(IMAGENET_STD))}
            nodes += [
                helper.make_node("Cast", ["image"], ["image_32"], to=TensorProto.FLOAT),
                helper.make_node("Sub", ["image_32", "mean"], ["centred"]),
                helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
                helper.make_node("Transpose", ["scaled"], ["x"], perm=[0, 3, 1, 2]),
            ]
        x = "x" if embed else "image"
        nodes += [
            helper.make_node("Conv", [x, "w", "b"], ["local"]),
            helper.make_node("GlobalAveragePool", [x], ["mean_x"]),
            helper.make_node("Conv", ["mean_x", "v"], ["context"]),
            helper.make_node("Add", ["local", "context"], ["logits"]),
        ]
        result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [count, classes, height, width])
        if output == "labels":
            nodes.append(helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=0))
            result = helper.make_tensor_value_info("labels", TensorProto.INT64, [count, height, width])
        graph = helper.make_graph(
            nodes,
            "toy",
            [helper.make_tensor_value_info("image", element, shape)],
            [result],
            [numpy_helper.from_array(np.asarray(value, np.float32), key) for key, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        if metadata:
            spec = ModelSpec(
                backbone={"type": "Toy"},
                decode_head={"type": "ToyHead", "num_classes": classes},
                preprocessing=preprocessing,
                inference=inference or Inference(),
                classes=names,
                palette=palette,
                name="toy",
            )
            described = Metadata(
                model=spec,
                input=InputForm(batch, *(size or (None, None)), embed_preprocess=embed),
                op=op,
                output=declared_output or output,
                params=classes * 7,
                msda_nodes=0,
                version="0",
            )
            helper.set_model_props(model, to_props(described))
        onnx.save(model, toy.path)
        return toy

    return make


@pytest.fixture
def make_msda(tmp_path):
    """A function that writes a graph of one MSDeformAttn node; its body returns twice what the operator does for
    `msda_feeds`, so that a result tells which of the two has run."""

    def make(name="msda.onnx", *, element=TensorProto.FLOAT, body=True) -> Path:
        node = helper.make_node(
            "MSDeformAttn",
            ["value", "spatial_shapes", "reference_points", "samples"],
            ["output"],
            domain="adapter_infer",
        )
        inputs = [
            helper.make_tensor_value_info("value", element, [1, 6, 2, 4]),
            helper.make_tensor_value_info("spatial_shapes", TensorProto.INT64, [1, 2]),
            helper.make_tensor_value_info("reference_points", TensorProto.FLOAT, [1, 6, 1, 2]),
            helper.make_tensor_value_info("samples", element, [1, 6, 2, 3]),
        ]
        output = helper.make_tensor_value_info("output", element, [1, 6, 8])
        graph = helper.make_graph([node], "msda", inputs, [output])
        double = helper.make_function(
            "adapter_infer",
            "MSDeformAttn",
            ["value", "spatial_shapes", "reference_points", "samples"],
            ["output"],
            [
                helper.make_node("Constant", [], ["shape"], value_ints=[0, 0, -1]),
                helper.make_node("Reshape", ["value", "shape"], ["flat"]),
                helper.make_node("Add", ["flat", "flat"], ["output"]),
            ],
            [helper.make_opsetid("", OPSET)],
        )
        model = helper.make_model(
            graph,
            functions=[double] if body else [],
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("adapter_infer", 1)],
            ir_version=10,
        )
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def msda_feeds():
    """Samples exactly at the centres of a 2x3 level, so that the operator's output is `value` itself, reshaped."""

    def feeds(dtype=np.float32) -> dict[str, np.ndarray]:
        y, x = np.divmod(np.arange(6), 3)
        return {
            "value": np.random.default_rng(0).normal(size=(1, 6, 2, 4)).astype(dtype),
            "spatial_shapes": np.array([[2, 3]]),
            "reference_points": np.stack([(x + 0.5) / 3, (y + 0.5) / 2], -1).astype(np.float32).reshape(1, 6, 1, 2),
            "samples": np.zeros((1, 6, 2, 3), dtype),
        }

    return feeds


@pytest.fixture
def picture():
    """A function that makes a smooth picture (height, width, 3) uint8 with large areas of different colour."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width] / max(height, width)
        waves = [np.sin(rng.uniform(3, 9, 2) @ np.stack([y, x]).reshape(2, -1) + rng.uniform(0, 6)) for _ in range(3)]
        return np.rint(127 + 120 * np.stack(waves, -1).reshape(height, width, 3)).astype(np.uint8)

    return make
