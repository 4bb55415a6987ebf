"""The detectors against the outputs of the official code: every stage, and the result on the original picture."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import golden
import golden_detectors
from adapter_infer.detectors.dense_heads import DenseDetector
from adapter_infer.detectors.detector import Detector, TwoStageDetector
from adapter_infer.detectors.htc import HTCRoIHead
from adapter_infer.detectors.picture import PictureDetections, on_picture
from adapter_infer.detectors.sparse_rcnn import SparseRCNN
from golden_detectors import NAMES, TOLERANCE, check

torch.set_num_threads(1)

golden_detectors.require()


def array(name: str, tensor: str) -> np.ndarray:
    config = golden.config("models", name)
    return golden.array("models", name, config["tensors"][tensor]["file"])


def has(name: str, tensor: str) -> bool:
    return tensor in golden.config("models", name)["tensors"]


@cache
def detector(name: str) -> Detector:
    return golden_detectors.build(name)


@cache
@torch.inference_mode()
def maps_of(name: str) -> list[torch.Tensor]:
    return detector(name).features(torch.from_numpy(golden.array("models", name, "input.npy")))


def image_size(name: str) -> torch.Tensor:
    return torch.tensor([golden.config("models", name)["img_meta"]["img_shape"][:2]])


def result(name: str, model: Detector) -> PictureDetections:
    meta = golden.config("models", name)["img_meta"]
    found = model.detect(maps_of(name), image_size(name))
    return on_picture(found, 0, tuple(meta["ori_shape"][:2]), tuple(meta["scale_factor"][:2]))


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_neck_and_dense_outputs_equal_the_official_ones(name: str) -> None:
    if not (golden.folder("models", name) / "neck1.npy").is_file():
        pytest.skip(f"only the results of {name} travel with the project; ADAPTER_GOLDEN names the full set")
    maps = maps_of(name)
    for i, level in enumerate(maps):
        check(level, name, f"neck{i + 1}")
    model = detector(name)
    if isinstance(model, SparseRCNN):
        assert len(maps) == 4
        return
    tensors = ["rpn_cls", "rpn_bbox"]
    if isinstance(model, DenseDetector):
        tensors = ["head_cls", "head_bbox", "head_centerness"]
    dense = model.dense(maps)
    assert len(dense) >= 2
    for tensor, levels in zip(tensors, dense, strict=False):
        for i, level in enumerate(levels):
            check(level, name, f"{tensor}{i + 1}")


@pytest.mark.parametrize("name", golden.names("models", "mask_rcnn_", "cascade_", "htc_"))
@torch.inference_mode()
def test_proposals_stages_and_masks_equal_the_official_ones(name: str) -> None:
    model, maps, size = detector(name), maps_of(name), image_size(name)
    assert isinstance(model, TwoStageDetector)
    proposals = model.rpn_head.propose(*model.dense(maps), size)
    truth = array(name, "proposals")
    count = len(truth)
    assert int(proposals.count) == count
    assert np.abs(proposals.boxes[0, :count].numpy() - truth[:, :4]).max() < 0.01
    assert np.abs(proposals.scores[0, :count].numpy() - truth[:, 4]).max() < TOLERANCE

    head = model.roi_head
    context = head.context(maps)
    if isinstance(head, HTCRoIHead):
        assert context is not None
        check(context, name, "semantic_feat")
        check(head.semantic_head.logits(maps), name, "semantic_logits")
    official = torch.from_numpy(truth[None, :, :4])
    # The official code adds the semantic features in place, so that its record of HTC's box features holds them too.
    check(head.box_features(maps, context, official)[:6], name, "roi_feat_first6")
    stages = head.box_stages(maps, official, size, context)
    assert len(stages) == (1 if name.startswith("mask") else 3)
    for i, stage in enumerate(stages):
        check(stage.logits[0], name, f"stage{i + 1}_cls")
        check(stage.deltas[0], name, f"stage{i + 1}_reg")

    labels = torch.from_numpy(array(name, "mask_labels"))[None]
    boxes = torch.from_numpy(array(name, "mask_boxes"))[None]
    if has(name, "mask_selected_probs"):
        check(head.masks(maps, boxes, labels, context)[0], name, "mask_selected_probs")
    else:
        (logits,) = head.mask_logits(maps, boxes)
        check(logits[torch.arange(labels.shape[1]), labels[0]], name, "mask_selected_logits")


@pytest.mark.parametrize("name", golden.names("models", "sparse_rcnn_"))
@torch.inference_mode()
def test_every_stage_of_sparse_rcnn_equals_the_official_one(name: str) -> None:
    model, maps = detector(name), maps_of(name)
    assert isinstance(model, SparseRCNN)
    boxes, vectors = model.rpn_head(image_size(name))
    check(boxes[0], name, "proposals")
    check(vectors[0], name, "proposal_features")
    check(model.roi_head.bbox_roi_extractor(maps, boxes)[:6], name, "roi_feat_first6")
    stages = model.roi_head.stages(maps, boxes, vectors)
    assert len(stages) == 6
    for i, stage in enumerate(stages):
        check(stage.logits, name, f"stage{i + 1}_cls")
        check(stage.deltas, name, f"stage{i + 1}_reg")


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_results_on_the_original_picture_equal_the_official_ones(name: str) -> None:
    found = result(name, detector(name))
    golden_detectors.check_result(name, found.boxes, found.scores, found.labels, found.masks)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_the_padded_size_in_place_of_the_pictures_is_noticed(name: str) -> None:
    """Boxes are clipped to the picture (for Sparse R-CNN: start from it); the golden data must tell the difference."""
    config: dict[str, Any] = golden.config("models", name)
    padded = torch.tensor([config["img_meta"]["pad_shape"][:2]])
    right = detector(name).detect(maps_of(name), image_size(name))
    wrong = detector(name).detect(maps_of(name), padded)
    assert (wrong.boxes[0] - right.boxes[0]).abs().max() > 1
