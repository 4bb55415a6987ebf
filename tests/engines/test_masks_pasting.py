"""Masks on pictures: pasted as torch's grid_sample does it, and kept and written as COCO's run lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapter_engines import rle
from adapter_engines.masks import InstanceMasks, paste
from adapter_infer.detectors.picture import paste_masks

CASES = 150


def boxes(rng: np.random.Generator) -> np.ndarray:
    """Boxes of all sizes inside, across the borders of, around and beside a picture of up to 120 pixels an edge."""
    corners = rng.uniform(-60, 140, (CASES, 2))
    sizes = np.exp(rng.uniform(-4, 6, (CASES, 2)))
    result = np.concatenate([corners, corners + sizes], 1)
    result[::5] = np.round(result[::5] * 2) / 2  # borders on pixel centres and pixel borders
    result[1::11] = [-50, -30, 400, 300]
    return result.astype(np.float32)


def test_masks_are_pasted_as_torch_samples_them() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for i, box in enumerate(boxes(rng)):
        if not (box[2] > box[0] and box[3] > box[1]):
            continue
        h, w = (int(edge) for edge in rng.integers(1, 120, 2))
        mask = rng.random((28, 28), dtype=np.float32)
        if i % 3 == 0:
            mask = np.round(mask)
        threshold = [0.5, 0.3, 0.9][i % 3]
        expected = paste_masks(torch.from_numpy(mask[None]), torch.from_numpy(box[None]), (h, w), threshold)[0].numpy()
        result = InstanceMasks(mask[None], box[None], (h, w), threshold)[0]
        # A value on the threshold may fall to either side where sums are rounded in another order.
        assert np.count_nonzero(result != expected) <= 2, (box, h, w)
        found += int(expected.sum())
    assert found > 10_000


def test_a_whole_mask_fills_the_pixels_whose_centres_are_in_its_box() -> None:
    result = InstanceMasks(np.ones((1, 28, 28), np.float32), np.float32([[3, 2, 9, 7.4]]), (10, 12))[0]
    expected = np.zeros((10, 12), bool)
    expected[2:7, 3:9] = True
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "box",
    [
        *([3, 3, 3, 9], [3, 3, 9, 3], [9, 3, 3, 9], [-90, -90, -50, -50], [50, 50, 90, 90]),
        *([np.nan] * 4, [0, 0, np.nan, 5], [0, 0, np.inf, np.inf], [-np.inf, 0, 5, 5], [-3e38, -3e38, 3e38, 3e38]),
    ],
)
def test_a_box_without_an_inside_in_the_picture_sets_nothing(box) -> None:
    masks = InstanceMasks(np.ones((1, 28, 28), np.float32), np.float32([box]), (20, 30))
    assert masks[0].shape == (20, 30) and not masks[0].any()
    assert masks.rle(0).counts.tolist() == [600]


def test_a_huge_box_pastes_only_what_the_picture_shows() -> None:
    region = paste(np.ones((28, 28), np.float32), np.float32([-1e7, -1e7, 1e7, 1e7]), (20, 30))
    assert region.inside.shape == (20, 30) and region.area == 600


def test_masks_are_a_sequence_of_pictures() -> None:
    masks = InstanceMasks(np.ones((2, 28, 28), np.float32), np.float32([[0, 0, 4, 4], [2, 2, 6, 5]]), (8, 9))
    assert len(masks) == len(list(masks)) == 2
    assert masks.stack().shape == (2, 8, 9) and masks.stack().sum(axis=(1, 2)).tolist() == [16, 12]
    assert InstanceMasks(np.ones((0, 28, 28), np.float32), np.ones((0, 4), np.float32), (8, 9)).stack().shape[0] == 0


def slow_counts(mask: np.ndarray) -> list[int]:
    """Run lengths pixel by pixel, down the columns."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    result = []
    for share in (0, 0.02, 0.5, 0.98, 1):
        for _ in range(12):
            h, w = rng.integers(1, 60, 2)
            result.append(rng.random((h, w)) < share)
            result.append(np.kron(rng.random((3, 3)) < share, np.ones((9, 15))) > 0)
    return result


def test_run_lengths_are_those_counted_pixel_by_pixel() -> None:
    for mask in random_masks():
        code = rle.encode(mask)
        assert code.counts.tolist() == slow_counts(mask)
        assert code.area == mask.sum()
        np.testing.assert_array_equal(rle.decode(code), mask)
        assert rle.from_string(rle.to_string(code.counts)).tolist() == code.counts.tolist()


def test_a_region_has_the_run_lengths_of_the_whole_picture() -> None:
    rng = np.random.default_rng(2)
    for top, left, height, width in [(0, 0, 30, 40), (3, 5, 10, 7), (0, 2, 30, 5), (29, 39, 1, 1), (0, 0, 0, 0)]:
        for share in (0.5, 1.0):
            region = rng.random((height, width)) < share
            whole = np.zeros((30, 40), bool)
            whole[top : top + height, left : left + width] = region
            assert rle.encode(region, (30, 40), top, left).counts.tolist() == slow_counts(whole)


def test_the_compressed_form_is_cocos() -> None:
    """Strings made by pycocotools 2.0."""
    assert rle.encode(np.array([[0, 1, 1], [1, 1, 0]], bool)).as_coco() == {"size": [2, 3], "counts": "141"}
    diagonal = np.kron(np.eye(3), np.ones((40, 40))) > 0
    assert rle.encode(diagonal).as_coco()["counts"].startswith("0X1`2000") and rle.encode(diagonal).area == 4800


def test_pycocotools_reads_and_writes_the_same() -> None:
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for mask in random_masks():
        code = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle.encode(mask).as_coco()["counts"] == code["counts"].decode()
        np.testing.assert_array_equal(tools.decode(rle.encode(mask).as_coco()), mask)
