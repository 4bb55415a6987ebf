"""Anchors, box coding, clipping, mask pasting: numbers that an off-by-half would change."""

from __future__ import annotations

import math

import pytest
import torch

from adapter_infer.detectors.boxes import MAX_LOG_SCALE, anchor_boxes, clip, decode, larger_than, overlap
from adapter_infer.detectors.detections import Detections, fill_slots
from adapter_infer.detectors.picture import on_picture, paste_masks

CPU = torch.device("cpu")


def encode(boxes: torch.Tensor, targets: torch.Tensor, stds: list[float]) -> torch.Tensor:
    """The deltas that move boxes to targets, by the definition."""
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shift = (targets[:, 2:] + targets[:, :2] - boxes[:, 2:] - boxes[:, :2]) / 2 / size
    return torch.cat((shift, (target_size / size).log()), 1) / torch.tensor(stds)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    rand = torch.rand((count, 4), generator=torch.Generator().manual_seed(seed))
    return torch.cat((rand[:, :2] * 80, rand[:, :2] * 80 + 5 + rand[:, 2:] * 60), 1)


@pytest.mark.parametrize("stds", [[1.0, 1.0, 1.0, 1.0], [0.1, 0.1, 0.2, 0.2], [0.033, 0.033, 0.067, 0.067]])
def test_decoding_undoes_encoding(stds: list[float]) -> None:
    boxes, targets = random_boxes(100, 0), random_boxes(100, 1)
    assert torch.allclose(decode(boxes, encode(boxes, targets, stds), stds), targets, atol=1e-4)


def test_a_box_grows_and_shrinks_at_most_62_and_a_half_times() -> None:
    box = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    grown = decode(box, torch.tensor([[0.0, 0.0, 99.0, -99.0]]), [1.0] * 4)
    assert (grown[0, 2:] - grown[0, :2]).tolist() == pytest.approx([2 * 62.5, 2 / 62.5], rel=1e-5)
    assert pytest.approx(math.log(62.5)) == MAX_LOG_SCALE


def test_anchors_are_centred_at_the_corners_of_cells_and_run_row_by_row() -> None:
    anchors = anchor_boxes((2, 3), 4, [8], [0.5, 1.0, 2.0], CPU)
    assert anchors.shape == (18, 4)
    assert anchors[1].tolist() == [-16, -16, 16, 16]  # cell (0, 0), ratio 1
    assert anchors[4].tolist() == [-12, -16, 20, 16]  # the next column
    assert anchors[10].tolist() == [-16, -12, 16, 20]  # the next row
    width, height = (anchors[2, 2:] - anchors[2, :2]).tolist()  # ratio 2: higher than wide
    assert (height / width, height * width) == pytest.approx((2, 32 * 32), rel=1e-6)


def test_boxes_are_clipped_to_each_pictures_own_size() -> None:
    boxes = torch.tensor([[[-5.0, -5.0, 500.0, 500.0], [10.0, 20.0, 30.0, 40.0]]]).expand(2, -1, -1)
    clipped = clip(boxes, torch.tensor([[90, 130], [30, 25]]))  # height first
    assert clipped[0].tolist() == [[0, 0, 130, 90], [10, 20, 30, 40]]
    assert clipped[1].tolist() == [[0, 0, 25, 30], [10, 20, 25, 30]]


def test_a_box_without_area_is_not_larger_than_nothing() -> None:
    boxes = torch.tensor([[1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 3.0, 5.0], [4.0, 1.0, 3.0, 5.0]])
    assert larger_than(boxes, 0.0).tolist() == [False, True, False]
    assert larger_than(boxes, 2.0).tolist() == [False, False, False]


def test_overlap_counts_areas_without_an_extra_pixel() -> None:
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    others = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0]])
    assert overlap(box, others).tolist() == pytest.approx([1, 1 / 3, 0])


def test_unused_slots_are_inert() -> None:
    boxes, scores = torch.ones((2, 3, 4)), torch.ones((2, 3))
    found = fill_slots(boxes, scores, torch.full((2, 3), 7), torch.tensor([2, 0]), 5)
    assert found.scores.tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert found.labels.tolist() == [[7, 7, -1, -1, -1], [-1] * 5]
    assert found.boxes.sum((1, 2)).tolist() == [8, 0]


# --- the original picture ---


def test_a_full_mask_fills_its_box_and_nothing_else() -> None:
    pasted = paste_masks(torch.ones((1, 28, 28)), torch.tensor([[3.0, 2.0, 9.0, 7.0]]), (10, 12))
    expected = torch.zeros((10, 12), dtype=torch.bool)
    expected[2:7, 3:9] = True
    assert torch.equal(pasted[0], expected)


def test_a_half_mask_ends_in_the_middle_of_its_box() -> None:
    mask = torch.zeros((1, 28, 28))
    mask[:, :, :14] = 1.0
    pasted = paste_masks(mask, torch.tensor([[10.0, 0.0, 50.0, 20.0]]), (20, 60))
    assert pasted[0].sum(1).tolist() == [20] * 20
    assert pasted[0, 0].nonzero()[:, 0].tolist() == list(range(10, 30))


def test_pasting_equals_sampling_the_whole_picture() -> None:
    generator = torch.Generator().manual_seed(3)
    masks, (h, w) = torch.rand((20, 28, 28), generator=generator), (70, 90)
    boxes = random_boxes(20, 4) * 1.3 - 20  # some lie partly outside
    pasted = paste_masks(masks, boxes, (h, w))
    for mask, box, found in zip(masks, boxes, pasted, strict=True):
        x = (torch.arange(w) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(h) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack((x[None].expand(h, w), y[:, None].expand(h, w)), -1)[None]
        whole = torch.nn.functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        assert torch.equal(found, whole >= 0.5)
    assert pasted.any((1, 2)).sum() >= 15


def test_an_empty_box_or_one_outside_paints_nothing() -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [100.0, 100.0, 120.0, 130.0], [-30.0, -30.0, -10.0, -10.0]])
    assert not paste_masks(torch.ones((3, 28, 28)), boxes, (20, 20)).any()


def test_results_are_given_in_pixels_of_the_original_picture() -> None:
    boxes = torch.tensor([[[20.0, 10.0, 60.0, 30.0], [0.0, 0.0, 0.0, 0.0]]])
    found = Detections(
        boxes, torch.tensor([[0.9, 0]]), torch.tensor([[3, -1]]), torch.tensor([1]), torch.ones((1, 2, 28, 28))
    )
    result = on_picture(found, 0, (25, 40), (2.0, 1.0))
    assert result.boxes.tolist() == [[10, 10, 30, 30]]
    assert result.labels.tolist() == [3]
    assert result.masks is not None
    assert result.masks.shape == (1, 25, 40)
    assert result.masks.sum() == 20 * 15  # cut off at the picture's lower border
