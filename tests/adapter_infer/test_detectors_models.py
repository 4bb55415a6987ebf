"""Every detector over a small backbone: batches, picture sizes, unused slots, tracing, and what is refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_infer.detectors import DETECTORS, build_detector
from adapter_infer.detectors.detections import Detections
from adapter_infer.detectors.detector import Detector
from adapter_infer.errors import UnsupportedModel
from small_detectors import RELEASED, WIDTH, Backbone, dictionary, with_weights

torch.set_num_threads(1)

NAMES = RELEASED


def config_of(kind: str, **rcnn: Any) -> dict[str, Any]:
    return dictionary(kind, slots=9, proposals=20, **rcnn)


def detector(kind: str, **rcnn: Any) -> Detector:
    return with_weights(config_of(kind, **rcnn))


def pictures(n: int = 3) -> tuple[Tensor, Tensor]:
    image = torch.randn((n, 3, 96, 128), generator=torch.Generator().manual_seed(3))
    return image, torch.tensor([[96, 128], [70, 101], [90, 64]])[:n]


def one(found: Detections, n: int) -> list[Tensor]:
    return [part[n : n + 1] for part in found if part is not None]


@pytest.mark.parametrize("kind", NAMES)
@torch.inference_mode()
def test_a_batch_equals_its_pictures_one_by_one(kind: str) -> None:
    model, (image, size) = detector(kind), pictures()
    together = model(image, size)
    assert together.count.min() >= 3
    for n in range(3):
        alone = model(image[n : n + 1], size[n : n + 1])
        for name, ours, truth in zip(model.output_names, one(together, n), one(alone, 0), strict=True):
            assert ours.shape == truth.shape
            assert (ours - truth).abs().max() < 1e-3, name


@pytest.mark.parametrize("kind", NAMES)
@torch.inference_mode()
def test_outputs_have_the_sizes_they_promise(kind: str) -> None:
    model, (image, size) = detector(kind), pictures()
    found = model(image, size)
    assert found.boxes.shape == (3, 9, 4)
    assert found.scores.shape == found.labels.shape == (3, 9)
    assert (found.labels.dtype, found.count.dtype, found.boxes.dtype) == (torch.int64, torch.int64, torch.float32)
    masked = kind not in {"atss", "gfl", "sparse"}
    assert model.has_masks == masked == (found.masks is not None)
    assert model.output_names == ("boxes", "scores", "labels", "count", "masks")[: 5 if masked else 4]
    assert (found.scores.diff(dim=1) <= 0).all()
    if found.masks is not None:
        assert found.masks.shape == (3, 9, 28, 28)
        assert 0 <= found.masks.min() < found.masks.max() <= 1
        assert found.masks[:, :3].std(1).min() > 1e-4  # every detection has its own


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "sparse"])
@torch.inference_mode()
def test_boxes_end_at_the_picture_and_not_at_its_padding(kind: str) -> None:
    model, (image, size) = detector(kind), pictures()
    boxes = model(image, size).boxes
    for n, (h, w) in enumerate(size.tolist()):
        assert boxes[n].min() >= 0
        assert boxes[n, :, 2].max() <= w
        assert boxes[n, :, 3].max() <= h
    assert (boxes[..., 2].amax(1) == size[:, 1]).any() or (boxes[..., 3].amax(1) == size[:, 0]).any()


@torch.inference_mode()
def test_proposals_of_sparse_rcnn_are_shares_of_the_picture() -> None:
    model = detector("sparse")
    boxes, vectors = model.rpn_head(torch.tensor([[100, 50], [200, 100]]))  # type: ignore[operator]
    assert torch.allclose(boxes[1], 2 * boxes[0])
    shares = model.rpn_head.init_proposal_bboxes.weight  # type: ignore[union-attr]
    assert torch.allclose(
        (boxes[0, :, 2:] + boxes[0, :, :2]) / 2, shares[:, :2] * torch.tensor([50.0, 100.0]), atol=1e-4
    )
    assert vectors.shape == (2, 12, WIDTH)


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade", "htc", "atss", "gfl"])
@torch.inference_mode()
def test_unused_slots_are_empty(kind: str) -> None:
    model, (image, size) = detector(kind), pictures()
    best = model(image, size).scores
    threshold = best.flatten().sort(descending=True).values[8:10].mean().item()
    found = detector(kind, score_thr=threshold, max_per_img=40)(image, size)
    assert 0 < found.count.sum() < 3 * 40
    for n, count in enumerate(found.count.tolist()):
        assert (found.scores[n, :count] > 0).all()
        assert (found.labels[n, :count] >= 0).all()
        assert (found.labels[n, count:] == -1).all()
        for part in (found.boxes, found.scores, found.masks):
            assert part is None or not part[n, count:].any()


@torch.inference_mode()
def test_proposals_that_are_padding_change_nothing() -> None:
    model, (image, size) = detector("cascade"), pictures(1)
    maps = model.features(image)
    proposals = model.rpn_head.propose(*model.dense(maps), size)  # type: ignore[operator, union-attr]
    count = int(proposals.count)
    few = proposals._replace(count=proposals.count - 5)
    junk = few.boxes.clone()
    junk[:, count - 5 :] = torch.tensor([1.0, 2.0, 90.0, 60.0])
    ours = model.roi_head(maps, few._replace(boxes=junk), size)  # type: ignore[operator]
    truth = model.roi_head(maps, few._replace(boxes=few.boxes[:, : count - 5]), size)  # type: ignore[operator]
    for part, expected in zip(ours, truth, strict=True):
        assert torch.allclose(part, expected, atol=1e-4)


# --- tracing ---


@pytest.mark.parametrize(
    "kind", ["mask_rcnn", "gfl", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("htc", "sparse"))]
)
@torch.inference_mode()
def test_a_traced_detector_serves_other_pictures_sizes_and_batches(kind: str) -> None:
    model, (image, size) = detector(kind), pictures()
    n = torch.export.Dim("n")
    shapes = {"image": {0: n}, "image_size": {0: n}}
    traced = torch.export.export(model, (image[:2], size[:2]), dynamic_shapes=shapes, strict=False)
    targets = {str(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    sized_by_data = ("nonzero", "_local_scalar", "masked_select", "unique", "index_put")
    assert not {target for target in targets if any(name in target for name in sized_by_data)}
    for output, truth in zip(traced.module()(-image, size.flip(0)), model(-image, size.flip(0)), strict=True):
        assert (output is None) == (truth is None)
        assert output is None or torch.equal(output, truth)


# --- what is refused ---


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        ("atss", "type", "FCOS", "model has type='FCOS'; supported: MaskRCNN, CascadeRCNN"),
        ("atss", "neck.type", "BiFPN", "neck has type='BiFPN'; supported: FPN"),
        ("atss", "neck.outs", 3, "neck FPN has unsupported settings: outs=3; known: .*num_outs"),
        ("atss", "neck.num_outs", 4, "anchors for 5 maps; supported: 4"),
        ("atss", "neck.add_extra_convs", "on_input", "add_extra_convs='on_input'; supported: False or 'on_output'"),
        ("gfl", "bbox_head.norm_cfg", {"type": "IN"}, "norm_cfg has type='IN'; supported: BN"),
        ("gfl", "bbox_head.reg_max", -1, "reg_max=-1; supported: integers from 1"),
        ("gfl", "test_cfg.nms.type", "soft_nms", "type='soft_nms'; supported: nms"),
        ("mask_rcnn", "roi_head.type", "PointRendRoIHead", "type='PointRendRoIHead'; supported: StandardRoIHead"),
        ("mask_rcnn", "roi_head.bbox_head.with_avg_pool", True, "with_avg_pool=True; supported: False"),
        ("mask_rcnn", "rpn_head.loss_cls", {"use_sigmoid": False}, "use_sigmoid=False; supported: True"),
        ("mask_rcnn", "test_cfg.rcnn.max_per_img", None, "max_per_img=None; supported: integers"),
        ("mask_rcnn", "roi_head", 7, "roi_head is 7; supported: a dictionary"),
        ("cascade", "roi_head.bbox_head", [], "has 0 entries in bbox_head; supported: 3"),
        ("htc", "roi_head.semantic_head.fusion_level", 5, "fusion_level=5; supported: less than num_ins=5"),
        ("htc", "roi_head.mask_head", None, "has mask_head=None; supported: three mask heads"),
        (
            "htc",
            "roi_head.semantic_roi_extractor.featmap_strides",
            [4, 8],
            "supported: one stride, and a multiple of 7",
        ),
        ("htc", "neck.0.num_head", 3, "num_head=3; supported: divisors of 16"),
        ("sparse", "roi_head.bbox_head.2.num_heads", 5, r"bbox_head\[2\] DIIHead has num_heads=5"),
        ("sparse", "rpn_head.num_proposals", 10**9, "num_proposals=1000000000; supported: integers from 1 to 65536"),
    ],
)
def test_what_cannot_be_built_is_refused_by_key_and_value(kind: str, path: str, value: Any, message: str) -> None:
    config = deepcopy(config_of(kind))
    *way, last = path.split(".")
    place: Any = config
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    with pytest.raises(UnsupportedModel, match=message):
        build_detector(Backbone(), config)


def test_a_missing_entry_is_named() -> None:
    config = config_of("mask_rcnn")
    del config["rpn_head"]["anchor_generator"]["strides"]
    with pytest.raises(UnsupportedModel, match=r"rpn_head.anchor_generator AnchorGenerator lacks strides"):
        build_detector(Backbone(), config)


def test_every_kind_of_detector_is_tried_here() -> None:
    tried = {config_of(kind)["type"] for kind in NAMES}
    assert tried | {"HybridTaskCascadeAug"} == set(DETECTORS)


@torch.inference_mode()
def test_weights_of_the_augmented_cascade_run_as_the_plain_one() -> None:
    model, (image, size) = detector("htc"), pictures(1)
    config = config_of("htc") | {"type": "HybridTaskCascadeAug"}
    config["test_cfg"]["aug"] = {"score_thr": 0.001}
    other = build_detector(Backbone(), config)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(image, size).scores, model(image, size).scores)
