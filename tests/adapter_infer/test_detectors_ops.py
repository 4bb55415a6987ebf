"""The detectors' operators against ONNX Runtime's RoiAlign and NonMaxSuppression, and against literal loops."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from adapter_infer.detectors.nms import class_nms, grouped_nms, nms
from adapter_infer.detectors.roi_align import RoIExtractor, map_of_box, roi_align
from adapter_infer.detectors.soft_nms import class_soft_nms, soft_nms

torch.set_num_threads(1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, size: float, seed: int, smallest: float = 1.0, n: int = 1) -> torch.Tensor:
    """(n, count, 4) boxes within and partly beyond a square of `size` pixels."""
    rand = torch.rand((n, count, 4), generator=generator(seed))
    start = rand[..., :2] * size * 1.2 - size * 0.1
    return torch.cat((start, start + smallest + rand[..., 2:] ** 2 * size * 0.6), -1)


def session(node: onnx.NodeProto, inputs: dict[str, tuple[int, list]], output: int) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("out", output, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# --- RoIAlign ---


def onnx_roi_align(
    feature_map: torch.Tensor, boxes: torch.Tensor, batch: torch.Tensor, size: int, scale: float, ratio: int
) -> np.ndarray:
    node = helper.make_node(
        "RoiAlign",
        ["x", "rois", "batch"],
        ["out"],
        mode="avg",
        coordinate_transformation_mode="half_pixel",
        output_height=size,
        output_width=size,
        spatial_scale=scale,
        sampling_ratio=ratio,
    )
    kinds = {"x": (TensorProto.FLOAT, ["n", "c", "h", "w"]), "rois": (TensorProto.FLOAT, ["r", 4])}
    run = session(node, kinds | {"batch": (TensorProto.INT64, ["r"])}, TensorProto.FLOAT)
    return run.run(None, {"x": feature_map.numpy(), "rois": boxes.numpy(), "batch": batch.numpy()})[0]


@pytest.mark.parametrize("ratio", [0, 2, 3])
@pytest.mark.parametrize("size", [7, 14])
def test_roi_align_equals_onnx_runtime(size: int, ratio: int) -> None:
    feature_map = torch.randn((2, 3, 25, 33), generator=generator(0))
    special = torch.tensor(
        [
            [0.0, 0.0, 0.0, 0.0],  # empty
            [5.0, 5.0, 5.001, 5.001],  # tiny
            [-500.0, -500.0, -400.0, -400.0],  # outside
            [900.0, 10.0, 990.0, 40.0],  # outside on the right
            [-40.0, -30.0, 300.0, 260.0],  # all of it and more
            [0.0, 0.0, 264.0, 200.0],  # the whole picture
            [263.0, 199.0, 264.0, 200.0],  # the last pixel
            [28.0, 56.0, 84.0, 112.0],  # a whole number of cells
        ]
    )
    boxes = torch.cat((special, random_boxes(100, 264.0, 1)[0], random_boxes(100, 264.0, 2, smallest=0.0)[0]))
    batch = torch.randint(0, 2, (len(boxes),), generator=generator(3))
    ours = roi_align(feature_map, boxes, batch, size, 1 / 8, ratio)
    theirs = onnx_roi_align(feature_map, boxes, batch, size, 1 / 8, ratio)
    assert np.abs(ours.numpy() - theirs).max() < 2e-6
    assert np.abs(theirs).max() > 1


def test_roi_align_of_a_ramp_is_the_ramp_at_the_middles_of_the_bins() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 32, 32).contiguous()
    out = roi_align(ramp, torch.tensor([[16.0, 16.0, 72.0, 72.0]]), torch.zeros(1, dtype=torch.int64), 7, 0.25, 2)
    assert torch.allclose(out[0, 0, 3], 4 - 0.5 + (torch.arange(7.0) + 0.5) * 2)


@pytest.mark.parametrize("ratio", [0, 2])
def test_each_box_is_read_from_the_map_of_its_size(ratio: int) -> None:
    maps = [torch.full((2, 1, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32)]
    sides = [1.0, 100.0, 111.9, 112.1, 223.0, 225.0, 240.0]
    boxes = torch.tensor([[8.0, 8.0, 8 + side, 8 + side] for side in sides]).expand(2, -1, -1)
    assert map_of_box(boxes[0], 4).tolist() == [0, 0, 0, 1, 1, 2, 2]
    extremes = torch.tensor([[0.0, 0.0, 500.0, 450.0], [0.0, 0.0, 9e4, 9e4], [0.0, 0.0, 0.0, 0.0]])
    assert map_of_box(extremes, 4).tolist() == [3, 3, 0]
    out = RoIExtractor(7, ratio, [4, 8, 16, 32])(maps, boxes)
    assert out.shape == (14, 1, 7, 7)
    assert out.mean((1, 2, 3)).tolist() == pytest.approx([4, 4, 4, 8, 8, 16, 16] * 2)


# --- NMS ---


def onnx_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, most: int) -> list[list[int]]:
    """Selected boxes of each row, in ONNX Runtime's order."""
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "score"], ["out"])
    kinds = {"boxes": (TensorProto.FLOAT, ["n", "b", 4]), "scores": (TensorProto.FLOAT, ["n", 1, "b"])}
    kinds |= {"most": (TensorProto.INT64, [1]), "iou": (TensorProto.FLOAT, [1]), "score": (TensorProto.FLOAT, [1])}
    feeds = {"boxes": boxes.numpy(), "scores": scores[:, None].numpy(), "most": np.array([most], np.int64)}
    feeds |= {"iou": np.array([threshold], np.float32), "score": np.zeros(1, np.float32)}
    selected = session(node, kinds, TensorProto.INT64).run(None, feeds)[0]
    return [selected[selected[:, 0] == n, 2].tolist() for n in range(len(boxes))]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("most", [3, 1000])
def test_nms_equals_onnx_runtime(threshold: float, most: int) -> None:
    boxes, scores = random_boxes(200, 100.0, 4, n=6), torch.rand((6, 200), generator=generator(5))
    scores[:, ::5] = 0.0  # padding
    scores[1] = 0.0  # a row of nothing else
    index, count = nms(boxes, scores, threshold, most)
    assert index.shape == (6, most)
    rows = [row[:n].tolist() for row, n in zip(index, count.tolist(), strict=True)]
    assert rows == onnx_nms(boxes, scores, threshold, most)
    assert rows[1] == []
    assert min(len(rows[n]) for n in (0, 2, 3, 4, 5)) >= min(most, 20)
    assert all(not index[row, n:].any() for row, n in enumerate(count.tolist()))


def test_an_overlap_of_exactly_the_threshold_is_kept() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]]])  # overlap 1/2
    scores = torch.tensor([[0.9, 0.8]])
    assert nms(boxes, scores, 0.5, 2)[1].tolist() == [2]
    assert nms(boxes, scores, 0.49, 2)[1].tolist() == [1]


def test_boxes_of_different_groups_do_not_suppress_each_other() -> None:
    boxes, scores = random_boxes(300, 100.0, 6), torch.rand((1, 300), generator=generator(7))
    groups = torch.randint(0, 5, (1, 300), generator=generator(8))
    index, count = grouped_nms(boxes, scores, groups, 0.5, 300)
    expected = []
    for group in range(5):
        own = (groups[0] == group).nonzero()[:, 0]
        kept, n = nms(boxes[:, own], scores[:, own], 0.5, 300)
        expected += own[kept[0, : int(n)]].tolist()
    assert sorted(index[0, : int(count)].tolist()) == sorted(expected)
    assert len(expected) > nms(boxes, scores, 0.5, 300)[1]


def test_padding_takes_no_part_whatever_its_coordinates() -> None:
    boxes, scores = random_boxes(50, 100.0, 9), torch.rand((1, 50), generator=generator(10))
    groups = torch.zeros((1, 50), dtype=torch.int64)
    wild = torch.cat((boxes, torch.full((1, 9, 4), 1e9)), 1)
    padded = torch.cat((scores, torch.zeros((1, 9))), 1), torch.cat((groups, torch.full((1, 9), 3)), 1)
    ours, truth = grouped_nms(wild, *padded, 0.5, 50), grouped_nms(boxes, scores, groups, 0.5, 50)
    assert torch.equal(ours[0], truth[0])
    assert torch.equal(ours[1], truth[1])


@pytest.mark.parametrize("shared", [True, False])
def test_class_nms_gives_the_best_of_all_classes_and_pads_the_rest(shared: bool) -> None:
    b, classes = 40, 3
    boxes = random_boxes(b * (1 if shared else classes), 80.0, 11, n=2).reshape(2, b, -1, 4)
    scores = torch.rand((2, b, classes), generator=generator(12))
    scores = torch.where(scores > 0.4, scores, 0.0)
    scores[1, :, 1:] = 0.0
    found = class_nms(boxes, scores, 0.5, 100)
    for n in range(2):
        expected = []
        for c in range(classes):
            own = boxes[n, :, 0 if shared else c]
            kept, count = nms(own[None], scores[n, :, c][None], 0.5, b)
            expected += [(float(scores[n, i, c]), c, own[i].tolist()) for i in kept[0, : int(count)]]
        expected.sort(reverse=True)
        k = int(found.count[n])
        assert 0 < k == len(expected) < 100
        assert found.scores[n, :k].tolist() == [score for score, _, _ in expected]
        assert found.labels[n, :k].tolist() == [label for _, label, _ in expected]
        assert found.boxes[n, :k].tolist() == [box for _, _, box in expected]
        assert not found.boxes[n, k:].any()
        assert not found.scores[n, k:].any()
        assert (found.labels[n, k:] == -1).all()
    few = class_nms(boxes, scores, 0.5, 5)
    assert torch.equal(few.boxes, found.boxes[:, :5])
    assert torch.equal(few.labels, found.labels[:, :5])


# --- soft-NMS ---


def literal_soft_nms(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, min_score: float
) -> list[tuple[int, float]]:
    """The paper's loop over one class."""
    left, kept = [(float(score), i) for i, score in enumerate(scores) if score > 0], []
    while left:
        left.sort(key=lambda pair: -pair[0])
        score, best = left.pop(0)
        kept.append((best, score))
        decayed = []
        for other, i in left:
            a, b = boxes[best], boxes[i]
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            shared = max(w, 0) * max(h, 0)
            iou = shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
            score_left = other * (1 - iou) if iou >= threshold else other
            if score_left >= min_score:
                decayed.append((score_left, i))
        left = decayed
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_soft_nms_equals_the_literal_loop(seed: int) -> None:
    boxes, scores = random_boxes(60, 50.0, seed, smallest=8.0), torch.rand((1, 60), generator=generator(seed + 50))
    scores[0, ::7] = 0.0
    groups = torch.zeros((1, 60), dtype=torch.int64)
    index, final, count = soft_nms(boxes, scores, groups, 0.3, 1e-3, 60)
    expected = literal_soft_nms(boxes[0].double().numpy(), scores[0].numpy(), 0.3, 1e-3)
    assert int(count) == len(expected)
    assert index[0, : int(count)].tolist() == [i for i, _ in expected]
    assert final[0, : int(count)].tolist() == pytest.approx([score for _, score in expected], rel=1e-4)
    assert (final[0, : int(count)] < scores[0, index[0, : int(count)]] - 0.05).any()


def test_soft_nms_decays_within_a_class_only() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0]]])[:, :, None]
    scores = torch.tensor([[[0.9, 0.0], [0.8, 0.7]]])
    found = class_soft_nms(boxes, scores, 0.5, 5)
    assert int(found.count) == 3
    assert found.labels[0].tolist() == [0, 1, 0, -1, -1]
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.7, 0.8 * 0.2, 0, 0])


# --- as operators ---


@pytest.mark.parametrize("name", ["roi_align", "nms", "soft_nms"])
def test_operators_trace_with_the_shapes_they_have(name: str) -> None:
    boxes, scores = random_boxes(20, 60.0, 13, n=2), torch.rand((2, 20), generator=generator(14))
    batch = torch.randint(0, 2, (20,), generator=generator(15))
    arguments = {
        "roi_align": (torch.randn((2, 3, 16, 16)), boxes[0], batch, 7, 0.25, 0),
        "nms": (boxes, scores, 0.5, 10),
        "soft_nms": (boxes, scores, batch.expand(2, -1), 0.5, 1e-3, 10),
    }[name]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(getattr(torch.ops.adapter_infer, name).default, arguments, test_utils=tests)


def test_a_thousand_boxes_at_the_official_size_are_read_like_onnx_runtime_reads_them() -> None:
    """800x1344 pixels, all four maps, boxes up to the whole picture: the limits the golden models do not reach."""
    h, w = 800, 1344
    maps = [torch.randn((1, 4, math.ceil(h / s), math.ceil(w / s)), generator=generator(s)) for s in (4, 8, 16, 32)]
    rand = torch.rand((1, 1000, 4), generator=generator(16))
    centre, size = rand[..., :2] * torch.tensor([w, h]), torch.exp(rand[..., 2:] * 4 + 3)
    boxes = torch.cat((centre - size / 2, centre + size / 2), -1).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([w, h, w, h]).float())
    suits = map_of_box(boxes[0], 4)
    assert suits.bincount(minlength=4).min() > 50
    out = RoIExtractor(7, 0, [4, 8, 16, 32])(maps, boxes)
    for level, stride in enumerate((4, 8, 16, 32)):
        own = suits == level
        batch = torch.zeros(int(own.sum()), dtype=torch.int64)
        truth = onnx_roi_align(maps[level], boxes[0, own], batch, 7, 1 / stride, 0)
        assert np.abs(out[own].numpy() - truth).max() < 5e-6
