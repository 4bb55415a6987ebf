"""Toy detectors and Mask2Formers as ONNX files: their answers can be computed by hand from picture and picture size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from adapter_engines.engine import Engine, TensorInfo
from adapter_infer.metadata import InputForm, Metadata, to_props
from adapter_infer.spec import Inference, ModelSpec, Preprocessing

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
PAD = Preprocessing(scale=(160, 96), pad=True)
SHARES = np.float32([[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1], [0.5, 0.5, 0.75, 0.75], [0, 0, 0, 0]])  # of the picture
SCORES, LABELS, COUNT = np.float32([0.9, 0.6, 0.3, 0.0]), np.array([2, 0, 1, -1]), 3
NAMES = ("cat", "dog", "ball")


class Answers(Engine):
    """An engine that keeps what it is fed and gives what it is told."""

    def __init__(self, spec: ModelSpec, outputs: dict[str, np.ndarray], size: tuple[int, int]) -> None:
        self.path, self.outputs_to_give, self.fed = Path("answers"), outputs, dict[str, np.ndarray]()
        self.metadata = Metadata(spec, InputForm(1, *size), "fused", "detections", 1, 0, "0")
        shapes = {"image": (1, 3, *size), "image_size": (1, 2)}
        dtypes = {"image": "float32", "image_size": "int64"}
        self.inputs = tuple(TensorInfo(name, shape, dtypes[name]) for name, shape in shapes.items())
        self.outputs = tuple(TensorInfo(name, array.shape, array.dtype.name) for name, array in outputs.items())

    def infer(self, feeds: Any) -> dict[str, np.ndarray]:
        self.fed = feeds
        return self.outputs_to_give

    def close(self) -> None:
        pass


def disc(size: int = 28) -> np.ndarray:
    """Probabilities (P, P) of a disc that fills its box."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    return (1 / (1 + np.exp((np.hypot(y, x) - 0.9) * 20))).astype(np.float32)


def detector(path: Path, *, batch: Any = 1, size: Any = None, embed: bool = False, **changes: Any) -> Path:
    """Boxes are SHARES of `image_size`; each score is SCORES plus a hundredth of the image's mean.

    `changes`: masks, preprocessing, mask_threshold, names, output, kind ("MaskRCNN" or "SparseRCNN"), and arrays in
    place of SHARES, SCORES, LABELS and COUNT.
    """
    shares, scores = changes.get("shares", SHARES), changes.get("scores", SCORES)
    labels, count = changes.get("labels", LABELS), changes.get("count", COUNT)
    slots, masked = len(scores), changes.get("masks", True)
    constants = {
        "shares": shares[None],
        "scores_0": scores[None],
        "labels_0": labels[None].astype(np.int64),
        "count_0": np.array([count], np.int64),
        "order": np.array([1, 0, 1, 0]),
        "first": np.array([0]),
        "none": np.array([0]),
        "row": np.array([-1, 1]),
        "cell": np.array([-1, 1, 1, 1]),
        "one": np.array([1]),
        "small": np.float32([0.01]),
        "zero": np.float32([0]),
        "masks_0": np.tile(disc(), (1, slots, 1, 1)),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "row"], ["mean_row"]),
        helper.make_node("Mul", ["mean_row", "small"], ["brightness"]),
        helper.make_node("Add", ["brightness", "scores_0"], ["scores"]),
        helper.make_node("Cast", ["image_size"], ["size_f"], to=FLOAT),
        helper.make_node("Gather", ["size_f", "order"], ["edges"], axis=1),
        helper.make_node("Unsqueeze", ["edges", "one"], ["edges_1"]),
        helper.make_node("Mul", ["edges_1", "shares"], ["boxes"]),
        helper.make_node("Gather", ["image_size", "first"], ["heights"], axis=1),
        helper.make_node("Mul", ["heights", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "labels_0"], ["labels"]),
        helper.make_node("Squeeze", ["zeros", "one"], ["zeros_0"]),
        helper.make_node("Add", ["zeros_0", "count_0"], ["count"]),
    ]
    n = batch or "batch"
    outputs = [("boxes", FLOAT, [n, slots, 4]), ("scores", FLOAT, [n, slots]), ("labels", INT64, [n, slots])]
    outputs += [("count", INT64, [n])]
    if masked:
        nodes += [
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Reshape", ["nothing", "cell"], ["nothing_1"]),
            helper.make_node("Add", ["nothing_1", "masks_0"], ["masks"]),
        ]
        outputs += [("masks", FLOAT, [n, slots, 28, 28])]
    head = {"type": "Toy", "num_classes": 3} | changes.get("head", {})
    dictionary = {"type": "Toy", "bbox_head": head, "test_cfg": {}}
    if "mask_threshold" in changes:
        dictionary["test_cfg"] = {"rcnn": {"mask_thr_binary": changes["mask_threshold"]}}
    spec = ModelSpec(
        backbone={"type": "Toy"},
        half="detection",
        detector=dictionary,
        preprocessing=changes.get("preprocessing", PAD),
        classes=changes.get("names", NAMES),
        name="toy detector",
    )
    sized = [helper.make_tensor_value_info("image_size", INT64, [n, 2])]
    return _save(
        path, spec, changes.get("output", "detections"), nodes, constants, outputs, (batch, size, embed), sized
    )


def mask2former(path: Path, *, batch: Any = 1, size: Any = None, embed: bool = False, **changes: Any) -> Path:
    """Query q answers class `classes[q]` with certainty; its mask is where its row of `colours` fits the image.

    A panoptic model of 2 things and 2 stuff classes, or with `semantic` a decode head. `certainty` of the classes.
    """
    colours = changes.get("colours", np.float32([[3, -3, 0], [-3, 3, 0], [0, -3, 3], [1, 1, 1]]))
    classes = changes.get("classes", [0, 1, 2, 3])
    logits = np.zeros((1, len(classes), 5), np.float32)
    logits[0, np.arange(len(classes)), classes] = changes.get("certainty", 8.0)
    mean = np.array([124, 116, 104] if embed else [0, 0, 0], np.float32)
    scale = np.float32(58 if embed else 1)
    weight = np.tile(colours[..., None, None] / 16 / scale, (1, 1, 4, 4))
    constants = {
        "logits": logits,
        "weight": weight,
        "bias": -(colours * mean).sum(1) / scale,
        "row": np.array([-1, 1, 1]),
        "zero": np.float32([0]),
    }
    image = "x" if embed else "image"
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2] if embed else [0, 1, 2, 3]),
        helper.make_node("Conv", [image, "weight", "bias"], ["mask_logits"], strides=[4, 4]),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "row"], ["nothing_1"]),
        helper.make_node("Add", ["nothing_1", "logits"], ["class_logits"]),
    ]
    n, q = batch or "batch", len(classes)
    outputs = [("class_logits", FLOAT, [n, q, 5]), ("mask_logits", FLOAT, [n, q, "h", "w"])]
    head = {"type": "Mask2FormerHead", "num_things_classes": 2, "num_stuff_classes": 2}
    if changes.get("semantic"):
        parts: dict[str, Any] = {"decode_head": head}
    else:
        test = {"panoptic_on": True, "iou_thr": 0.1} | changes.get("test", {})
        parts = {"detector": {"type": "Mask2Former", "panoptic_head": head, "test_cfg": test}, "half": "detection"}
    spec = ModelSpec(
        backbone={"type": "Toy"},
        preprocessing=changes.get("preprocessing", replace(PAD, pad="semantic" not in changes)),
        classes=("red thing", "green thing", "blue stuff", "light stuff"),
        name="toy Mask2Former",
        inference=changes.get("inference", Inference()),
        **parts,
    )
    return _save(path, spec, "queries", nodes, constants, outputs, (batch, size, embed), [])


def _save(
    path: Path,
    spec: ModelSpec,
    output: str,
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    outputs: list[Any],
    form: tuple[Any, Any, bool],
    inputs: list[Any],
) -> Path:
    batch, size, embed = form
    n, (height, width) = batch or "batch", size or ("height", "width")
    shape = [n, height, width, 3] if embed else [n, 3, height, width]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.UINT8 if embed else FLOAT, shape), *inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [
            numpy_helper.from_array(np.asarray(value, np.float32 if value.dtype.kind == "f" else np.int64), key)
            for key, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    described = Metadata(
        model=spec,
        input=InputForm(batch, *(size or (None, None)), embed_preprocess=embed),
        op="fused",
        output=output,
        params=1,
        msda_nodes=0,
        version="0",
    )
    helper.set_model_props(model, to_props(described))
    onnx.save(model, path)
    return path
