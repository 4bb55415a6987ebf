"""Panoptic fusion against a slow one written from the algorithm's description, and on input that breaks fast ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adapter_engines import Engine
from adapter_engines.interpolation import bilinear
from adapter_engines.label_maps import labels_of_logits
from adapter_engines.panoptic import INSTANCE_OFFSET, Fusion, PanopticSegmenter, fuse, panoptic
from adapter_engines.preprocessing import prepare
from adapter_engines.queries import semantic_scores
from adapter_engines.segmentation import Segmenter
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.spec import Inference, Preprocessing
from engines import detector_files

THINGS, CLASSES = 3, 5
NETWORK, INSIDE, SIZE = (32, 48), (29, 41), (37, 53)


def slow(class_logits, mask_logits, settings, network_size, inside, size) -> np.ndarray:
    """The ids of every pixel, one query and one pixel after the other."""
    masks = F.interpolate(torch.from_numpy(mask_logits)[None], network_size, mode="bilinear", align_corners=False)
    masks = F.interpolate(masks[..., : inside[0], : inside[1]], size, mode="bilinear", align_corners=False)
    masks = masks[0].sigmoid().numpy()
    probabilities = torch.from_numpy(class_logits).softmax(-1).numpy()
    alive = []
    for q, row in enumerate(probabilities):
        label = int(np.argmax(row))
        if label != settings.classes and row[label] > settings.object_mask_thr:
            alive.append((q, label, row[label]))
    owner = np.full(size, -1)
    for y in range(size[0]):
        for x in range(size[1]):
            values = [score * masks[q, y, x] for q, _, score in alive]
            if values:
                owner[y, x] = int(np.argmax(values))
    result = np.full(size, settings.classes)
    number = 0
    for k, (q, label, _) in enumerate(alive):
        mine, own = owner == k, masks[q] >= 0.5
        if not mine.any() or not own.any() or mine.sum() / own.sum() < settings.iou_thr:
            continue
        identity = label
        if label < settings.things:
            number += 1
            identity = label + 1000 * number
        result[mine & own if settings.filter_low_score else mine] = identity
    return result


def smooth_logits(rng: np.random.Generator, queries: int) -> np.ndarray:
    """Mask logits (Q, 8, 12) with large areas."""
    coarse = torch.from_numpy(rng.normal(0, 4, (1, queries, 3, 4)).astype(np.float32))
    return F.interpolate(coarse, (8, 12), mode="bicubic")[0].numpy()


@pytest.mark.parametrize("filtered", [False, True])
def test_the_fusion_equals_a_slow_one(filtered: bool) -> None:
    rng = np.random.default_rng(0)
    found, merged, dropped = set(), 0, 0
    for trial in range(12):
        classes = rng.normal(0, 1, (9, CLASSES + 1)).astype(np.float32)
        classes[np.arange(9), rng.integers(0, CLASSES + 1, 9)] += rng.uniform(0, 6, 9)
        masks = smooth_logits(rng, 9)
        settings = Fusion(THINGS, CLASSES, [0.3, 0.6][trial % 2], [0.2, 0.5, 0.8][trial % 3], filtered)
        expected = slow(classes, masks, settings, NETWORK, INSIDE, SIZE)
        segments, info = fuse(classes, masks, settings, NETWORK, INSIDE, SIZE)
        assert segments.dtype == np.int32
        assert np.count_nonzero(segments != expected) <= 1  # a tie of two queries, rounded otherwise
        for segment in info:
            assert segment.area == np.count_nonzero(segments == segment.id) > 0
            assert segment.label == segment.id % INSTANCE_OFFSET and segment.is_thing == (segment.label < THINGS)
            assert settings.object_mask_thr < segment.score <= 1
        assert {segment.id for segment in info} == set(np.unique(segments).tolist()) - {CLASSES}
        found |= {segment.label for segment in info}
        dropped += int((segments == CLASSES).sum())
        merged += sum(np.isin(classes.argmax(1), range(THINGS, CLASSES))) - sum(not s.is_thing for s in info)
    assert found == set(range(CLASSES)) and merged > 0 and dropped > 1000


def certain(labels: list[int]) -> np.ndarray:
    return (np.eye(CLASSES + 1)[labels] * 12).astype(np.float32)


def split(queries: int = 2) -> np.ndarray:
    """Queries that each own a part of the columns."""
    masks = np.full((queries, 8, 12), -9, np.float32)
    for q, columns in enumerate(np.array_split(np.arange(12), queries)):
        masks[q][:, columns] = 9
    return masks


def test_two_things_of_a_class_stay_apart_and_stuff_of_a_class_merges() -> None:
    settings = Fusion(THINGS, CLASSES)
    same = (NETWORK, NETWORK, NETWORK)
    segments, info = fuse(certain([1, 1]), split(), settings, *same)
    assert [(s.id, s.label, s.is_thing) for s in info] == [(1001, 1, True), (2001, 1, True)]
    assert segments[0, 0] == 1001 and segments[0, -1] == 2001
    segments, info = fuse(certain([4, 4]), split(), settings, *same)
    assert [(s.id, s.area) for s in info] == [(4, 32 * 48)] and (segments == 4).all()
    _, info = fuse(certain([0, 0, 4, 4, 3]), split(5), Fusion(THINGS, CLASSES), *same)
    assert [s.id for s in info] == [1000, 2000, 4, 3]


@pytest.mark.parametrize(("things", "ids"), [(CLASSES, [1000, 2004]), (0, [0, 4])])
def test_there_may_be_things_only_or_stuff_only(things: int, ids: list[int]) -> None:
    _, info = fuse(certain([0, 4]), split(), Fusion(things, CLASSES), NETWORK, NETWORK, NETWORK)
    assert [segment.id for segment in info] == ids


@pytest.mark.parametrize(
    ("classes", "masks"),
    [
        (certain([CLASSES, CLASSES]), split()),  # no object
        (np.zeros((2, CLASSES + 1), np.float32), split()),  # below the threshold
        (certain([0, 1]), np.full((2, 8, 12), -9, np.float32)),  # nowhere more likely than not
        (np.zeros((0, CLASSES + 1), np.float32), np.zeros((0, 8, 12), np.float32)),
    ],
)
def test_where_no_query_survives_all_is_void(classes, masks) -> None:
    segments, info = fuse(classes, masks, Fusion(THINGS, CLASSES), NETWORK, INSIDE, SIZE)
    assert segments.shape == SIZE and (segments == CLASSES).all() and info == []


def test_a_query_that_loses_most_of_its_mask_is_dropped_with_its_number() -> None:
    masks = split()
    masks[1] = 8  # claims all, and gets half
    segments, info = fuse(certain([0, 1]), masks, Fusion(THINGS, CLASSES), NETWORK, NETWORK, NETWORK)
    assert [segment.id for segment in info] == [1000] and segments[0, -1] == CLASSES
    _, info = fuse(certain([0, 1]), masks, Fusion(THINGS, CLASSES, iou_thr=0.4), NETWORK, NETWORK, NETWORK)
    assert [segment.id for segment in info] == [1000, 2001]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    masks = split()
    masks[0, 0, 0] = bad
    with pytest.raises(AdapterError, match="mask logits are not numbers"):
        fuse(certain([0, 1]), masks, Fusion(THINGS, CLASSES), NETWORK, INSIDE, SIZE)
    classes = certain([0, 1])
    classes[0, 0] = bad
    with pytest.raises(AdapterError, match="class logits are not numbers"):
        fuse(classes, split(), Fusion(THINGS, CLASSES), NETWORK, INSIDE, SIZE)


def test_settings_are_those_of_the_test_configuration() -> None:
    head = {"num_things_classes": 80, "num_stuff_classes": 53}
    assert Fusion.of({"panoptic_head": head}) == Fusion(80, 133, 0.8, 0.8, False)
    test = {"panoptic_on": True, "iou_thr": 0.7, "filter_low_score": True, "object_mask_thr": 0.5}
    assert Fusion.of({"panoptic_head": head, "test_cfg": test}) == Fusion(80, 133, 0.5, 0.7, True)
    for broken in ({}, {"panoptic_head": {"num_things_classes": 3}}):
        with pytest.raises(UnsupportedModel, match="does not say its classes"):
            Fusion.of(broken)
    with pytest.raises(UnsupportedModel, match="1001 classes are more"):
        Fusion.of({"panoptic_head": {"num_things_classes": 1000, "num_stuff_classes": 1}})


def colourful(height: int, width: int) -> np.ndarray:
    """A red, a green and a blue third, with a light border below."""
    picture = np.zeros((height, width, 3), np.uint8)
    for channel, columns in enumerate(np.array_split(np.arange(width), 3)):
        picture[:, columns, channel] = 255
    picture[-height // 5 :] = 250
    return picture


@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize(("embed", "size"), [(False, None), (True, None), (True, (128, 160)), (False, (128, 160))])
def test_a_picture_is_divided_by_what_the_network_answers(tmp_path, batch, embed, size) -> None:
    path = detector_files.mask2former(tmp_path / "p.onnx", batch=batch, size=size, embed=embed)
    with Engine.load(path, threads=1) as engine:
        result = panoptic(engine, colourful(60, 90))
    assert (result.inside, result.network_size) == ((96, 144), size or (96, 160))
    assert result.segments.shape == (60, 90) and result.void == 4
    found = [result.segments[20, 10], result.segments[20, 45], result.segments[20, 80], result.segments[57, 50]]
    assert found == [1000, 2001, 2, 3]
    areas = {segment.id: segment.area for segment in result.info}
    assert all(abs(areas[key] / (30 * 48) - 1) < 0.1 for key in (1000, 2001, 2))


def test_a_picture_larger_than_a_fixed_file_is_refused_or_scaled_down(tmp_path) -> None:
    path = detector_files.mask2former(tmp_path / "p.onnx", size=(96, 160))
    with Engine.load(path) as engine:
        with pytest.raises(AdapterError, match="--fit"):
            panoptic(engine, colourful(90, 60))
        result = panoptic(engine, colourful(90, 60), fit=True)
    assert result.inside == (96, 64) and result.segments.shape == (90, 60)


def test_files_that_are_not_panoptic_are_refused(tmp_path, make_toy) -> None:
    with Engine.load(make_toy().path) as engine, pytest.raises(UnsupportedModel, match="not the queries of a panoptic"):
        PanopticSegmenter(engine)
    semantic = detector_files.mask2former(tmp_path / "s.onnx", semantic=True)
    with Engine.load(semantic) as engine, pytest.raises(UnsupportedModel, match="not the queries of a panoptic"):
        PanopticSegmenter(engine)
    path = detector_files.mask2former(tmp_path / "p.onnx")
    with Engine.load(path) as engine:
        with pytest.raises(UnsupportedModel, match=r"is a panoptic model; adapter_engines\.panoptic runs it"):
            Segmenter(engine)
        with pytest.raises(UsageError, match="fit is for a file of fixed size"):
            PanopticSegmenter(engine, fit=True)


# --- the same queries as a semantic segmentation ---


def test_semantic_scores_are_those_of_the_model() -> None:
    from adapter_infer.heads.mask2former import semantic_scores as reference

    rng = np.random.default_rng(0)
    classes, masks = rng.normal(0, 4, (7, 6)).astype(np.float32), rng.normal(0, 60, (7, 5, 9)).astype(np.float32)
    expected = reference(torch.from_numpy(classes)[None], torch.from_numpy(masks)[None])[0].numpy()
    np.testing.assert_allclose(semantic_scores(classes, masks), expected, atol=1e-5)


@pytest.mark.parametrize("new", [(13, 29), (52, 116), (5, 7), (1, 300), (130, 99), (200, 200)])
def test_maps_are_resized_as_torch_does(new) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 13, 29)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], new, mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(bilinear(maps, new), expected, atol=2e-6)


@pytest.mark.parametrize("inference", [Inference(), Inference("slide", (64, 64), (43, 43))])
def test_a_semantic_queries_file_is_segmented_as_its_logits_are(tmp_path, inference) -> None:
    import onnxruntime as ort

    scale = Preprocessing(scale=(160, 64))
    path = detector_files.mask2former(
        tmp_path / "s.onnx", semantic=True, preprocessing=scale, batch=None, inference=inference
    )
    image = colourful(90, 220)
    with Engine.load(path, threads=1) as engine:
        segmenter = Segmenter(engine)
        result = segmenter(image)
    assert segmenter.class_names == ("red thing", "green thing", "blue stuff", "light stuff")
    assert result.windows == (1 if inference.mode == "whole" else 4)
    session = ort.InferenceSession(str(path))
    classes, masks = session.run(["class_logits", "mask_logits"], {"image": prepare(image, scale)[None]})
    logits = bilinear(semantic_scores(classes[0], masks[0]), (64, 160))
    expected = labels_of_logits(logits, (90, 220))
    assert len(np.unique(expected)) == 4
    assert np.mean(result.labels == expected) > (0.999 if inference.mode == "whole" else 0.97)
