"""Pictures of detections and panoptic segments: colours where they belong, labels on pictures of every size."""

from __future__ import annotations

import numpy as np
import pytest

from adapter_engines import detection_drawing, panoptic_drawing
from adapter_engines.detection import DetectionResult
from adapter_engines.masks import InstanceMasks
from adapter_engines.palette import generated
from adapter_engines.panoptic import PanopticResult, Segment
from engines.detector_files import disc

COLOURS = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
NAMES = ("cat", "dog")


def found(boxes, size, labels=None, scores=None, masks=True) -> DetectionResult:
    count = len(boxes)
    array = np.asarray(boxes, np.float32).reshape(count, 4)
    pasted = InstanceMasks(np.tile(disc(), (count, 1, 1)), array, size) if masks else None
    given = np.zeros(count, int) if labels is None else np.asarray(labels)
    likely = np.linspace(0.9, 0.4, count, dtype=np.float32) if scores is None else np.float32(scores)
    return DetectionResult(array, likely, given, pasted, size, size, {})


def test_masks_boxes_and_labels_are_drawn_in_the_class_colour() -> None:
    picture = np.full((480, 640, 3), 100, np.uint8)
    result = found([[100, 100, 300, 300], [400, 200, 600, 400]], (480, 640), labels=[0, 1])
    image = np.array(detection_drawing.draw(picture, result, COLOURS, NAMES))
    assert image.shape == picture.shape
    weight = 110 / 256
    np.testing.assert_allclose(image[200, 200], 100 * (1 - weight) + COLOURS[0] * weight, atol=1)
    np.testing.assert_allclose(image[300, 500], 100 * (1 - weight) + COLOURS[1] * weight, atol=1)
    assert image[200, 100].tolist() == COLOURS[0].tolist() and image[300, 599].tolist() == COLOURS[1].tolist()
    assert image[450, 50].tolist() == [100] * 3
    label = image[80:99, 100:180].reshape(-1, 3)  # above its box, with light letters
    assert (label == COLOURS[0]).all(1).mean() > 0.3 and (label > 200).all(1).any()
    assert (picture == 100).all()  # the caller's own


def test_objects_below_the_least_score_are_not_drawn() -> None:
    picture = np.full((480, 640, 3), 100, np.uint8)
    result = found([[100, 100, 300, 300], [400, 200, 600, 400]], (480, 640), scores=[0.9, 0.2])
    image = np.array(detection_drawing.draw(picture, result, COLOURS, NAMES, least_score=0.3))
    assert (image[150:450, 350:] == 100).all() and not (image[:300, :310] == 100).all()


def test_labels_of_boxes_side_by_side_do_not_cover_one_another() -> None:
    picture = np.full((480, 640, 3), 100, np.uint8)
    boxes = [[100, 100, 300, 300], [104, 102, 304, 302], [108, 104, 308, 304]]
    result = found(boxes, (480, 640), labels=[0, 1, 0], masks=False)
    image = np.array(detection_drawing.draw(picture, result, COLOURS, NAMES))
    light = (image > 230).all(-1)
    rows = np.flatnonzero(np.diff(np.concatenate([[0], light.any(1).astype(int), [0]])))
    assert len(rows) // 2 >= 2  # letters stand in at least two lines


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (700, 2), (27, 40), (5, 3), (2400, 3200)])
@pytest.mark.parametrize("masks", [False, True])
def test_pictures_of_any_size_are_drawn_with_readable_labels(size, masks) -> None:
    height, width = size
    boxes = [[0, 0, width, height], [width / 2, height / 2, width / 2 + 0.1, height / 2 + 0.1], [-9, -9, 9999, 9999]]
    picture = np.full((*size, 3), 100, np.uint8)
    image = detection_drawing.draw(picture, found(boxes, size, [0, 1, 0], masks=masks), COLOURS, NAMES)
    assert min(image.size) >= 96 and max(image.size) >= 640
    assert max(image.size) <= max(2 * 640, *size)
    assert (np.array(image) > 230).all(-1).sum() > 30  # letters


def test_a_picture_without_detections_stays_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (700, 800, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        np.array(detection_drawing.draw(picture, found([], (700, 800)), COLOURS, NAMES)), picture
    )


@pytest.mark.parametrize("name", ["x" * 5000, "a\nb\tc", "", "\x00\x1b[31m", "背景"])
def test_odd_class_names_do_not_break_a_drawing(name) -> None:
    picture = np.zeros((300, 640, 3), np.uint8)
    image = detection_drawing.draw(picture, found([[10, 10, 200, 200]], (300, 640)), COLOURS, [name, ""])
    assert image.size == (640, 300) and np.array(image).any()


def segments(size) -> PanopticResult:
    """The left half a thing, the upper right stuff, the rest void."""
    height, width = size
    ids = np.full(size, 2, np.int32)
    ids[:, : width // 2] = 1000
    ids[: height // 2, width // 2 :] = 1
    info = [
        Segment(number, number % 1000, number >= 1000, 0.9, int((ids == number).sum()))
        for number in (1000, 1)
        if (ids == number).any()
    ]
    return PanopticResult(ids, info, 2, size, size, {})


def test_segments_are_drawn_in_the_class_colour_and_void_is_bare() -> None:
    picture = np.full((480, 640, 3), 100, np.uint8)
    image = np.array(panoptic_drawing.draw(picture, segments((480, 640)), COLOURS, NAMES))
    weight = 140 / 256
    np.testing.assert_allclose(image[400, 100], 100 * (1 - weight) + COLOURS[0] * weight, atol=1)
    np.testing.assert_allclose(image[50, 400], 100 * (1 - weight) + COLOURS[1] * weight, atol=1)
    assert image[400, 500].tolist() == [100] * 3
    assert image.shape[1] > 640 + 100  # the legend
    name = image[225:255, 100:220].reshape(-1, 3)  # in the middle of the left half
    assert (name == 255).all(1).any() and (name == 0).all(1).any()
    assert not (image[:480, 560:640] == 255).all(-1).any()  # nothing is written where nothing is


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (700, 2), (27, 40), (1, 2)])
def test_panoptic_pictures_of_any_size_are_drawn(size) -> None:
    image = panoptic_drawing.draw(np.zeros((*size, 3), np.uint8), segments(size), COLOURS, NAMES)
    assert image.height >= 96 and image.width >= 96


def test_things_of_a_class_side_by_side_have_different_shades() -> None:
    ids = np.repeat(np.arange(1, 9), 80)[None].repeat(480, 0).astype(np.int32) * 1000
    info = [Segment(number * 1000, 0, True, 0.5, 80 * 480) for number in range(1, 9)]
    result = PanopticResult(ids, info, 1, (480, 640), (480, 640), {})
    image = np.array(panoptic_drawing.draw(np.full((480, 640, 3), 100, np.uint8), result, COLOURS, NAMES)).astype(int)
    shades = image[10, 40:640:80]
    weight = 140 / 256
    np.testing.assert_allclose(shades[0], 100 * (1 - weight) + COLOURS[0] * weight, atol=1)
    assert (np.abs(np.diff(shades, axis=0)).max(axis=1) > 20).all()


def test_very_many_segments_are_drawn() -> None:
    ids = (np.arange(64 * 64).reshape(64, 64) // 16 + 1) * 1000
    info = [Segment(int(number), 0, True, 0.5, 16) for number in np.unique(ids)]
    result = PanopticResult(ids.astype(np.int32), info, 1, (64, 64), (64, 64), {})
    assert panoptic_drawing.draw(np.zeros((64, 64, 3), np.uint8), result, generated(1), ["cat"]).height >= 640
