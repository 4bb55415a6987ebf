"""NMS, RoIAlign and soft-NMS as ONNX nodes against the torch operators they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from adapter_export import detection_ops, trace
from adapter_infer.detectors import nms, roi_align, soft_nms  # noqa: F401  registers the operators

torch.set_num_threads(1)


class Nms(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.adapter_infer.nms(boxes + groups[..., None] * 200, scores, 0.5, 30)


class SoftNms(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.adapter_infer.soft_nms(boxes, scores, groups, 0.5, 1e-3, 30)


def exported(module: nn.Module, path: Path, *example: Tensor) -> onnx.ModelProto:
    names = ["a", "b", "c"]
    batch = torch.export.Dim("n")
    with trace.quiet():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            verbose=False,
            opset_version=18,
            input_names=names,
            dynamic_shapes=tuple({0: batch} for _ in example),
            custom_translation_table=detection_ops.translations(),
        )
    assert program is not None
    program.save(path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = dict(zip("abc", (each.numpy() for each in inputs), strict=True))
    return session.run(None, feeds)


def some(n: int, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and groups; a row without any score, and padding behind the others."""
    generator = torch.Generator().manual_seed(seed)
    rand = torch.rand((n, count, 4), generator=generator)
    boxes = torch.cat((rand[..., :2] * 50, rand[..., :2] * 50 + 5 + rand[..., 2:] * 60), -1)
    scores = torch.rand((n, count), generator=generator)
    scores[:, -5:] = 0
    scores[-1] = 0
    return boxes, scores, torch.randint(0, 3, (n, count), generator=generator)


@pytest.mark.parametrize("count", [20, 120])
@pytest.mark.parametrize("module", [Nms(), SoftNms()], ids=["nms", "soft_nms"])
def test_suppression_equals_torch_in_full_and_short_rows(module: nn.Module, count: int, tmp_path: Path) -> None:
    model = exported(module, tmp_path / "o.onnx", *some(2, count, 0))
    sized_by_data = {"NonZero", "Unique", "Compress"} & {node.op_type for node in model.graph.node}
    assert not sized_by_data
    for n in (1, 4):
        inputs = some(n, count, n)
        truth = module(*inputs)
        for ours, theirs in zip(run(tmp_path / "o.onnx", *inputs), truth, strict=True):
            assert ours.shape == tuple(theirs.shape)
            np.testing.assert_array_equal(ours, theirs.numpy())
        if n > 1:
            assert 0 < int(truth[-1][0]) < 30 or count > 100
            assert int(truth[-1][-1]) == 0


def test_only_the_output_of_nms_itself_has_a_length_that_depends_on_data(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(exported(Nms(), tmp_path / "o.onnx", *some(2, 50, 0)))
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.value_info}
    selected = next(node.output[0] for node in model.graph.node if node.op_type == "NonMaxSuppression")
    (scatter,) = [node for node in model.graph.node if node.op_type == "ScatterND"]
    behind = {selected}
    for node in model.graph.node:
        if node is not scatter and behind.intersection(node.input):
            behind.update(node.output)
    assert behind.intersection(scatter.input) and scatter.output[0] not in behind
    assert not behind.intersection(value.name for value in model.graph.output)
    assert shapes[scatter.output[0]].dim[1].dim_value == 50
