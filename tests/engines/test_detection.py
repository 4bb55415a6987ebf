"""Finding objects with an engine: the official preprocessing and results, and refusals that say the way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapter_engines import Engine
from adapter_engines.detection import Detector, detect
from adapter_engines.preprocessing import prepare
from adapter_infer.detectors.detections import Detections
from adapter_infer.detectors.picture import on_picture
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.spec import ModelSpec
from engines import detector_files
from engines.detector_files import COUNT, LABELS, NAMES, PAD, SCORES, SHARES, Answers


def test_boxes_are_given_in_the_pictures_own_pixels(tmp_path, picture) -> None:
    image = picture(90, 120)
    with Engine.load(detector_files.detector(tmp_path / "d.onnx"), threads=1) as engine:
        result = detect(engine, image)
    assert (result.inside, result.network_size) == ((96, 128), (96, 128))
    np.testing.assert_allclose(result.boxes, SHARES[:COUNT] * [120, 90, 120, 90], atol=1e-4)
    brightness = prepare(image, PAD).mean() * 0.01
    np.testing.assert_allclose(result.scores, SCORES[:COUNT] + brightness, atol=1e-6)
    assert result.labels.tolist() == LABELS[:COUNT].tolist()
    assert set(result.seconds) == {"preprocess", "network", "postprocess"}
    assert result.masks is not None and len(result.masks) == 3
    y, x = np.mgrid[:90, :120] + 0.5
    inside = np.hypot((x - 36) / 24, (y - 49.5) / 31.5) < 0.9  # of the first box, 12..60 by 18..81
    assert np.mean(result.masks[0] != inside) < 0.01 and 1500 < inside.sum() < 2500


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("embed", [False, True])
def test_a_file_of_any_form_finds_the_same(tmp_path, picture, batch, embed) -> None:
    path = detector_files.detector(tmp_path / "d.onnx", batch=batch, size=(128, 160), embed=embed)
    with Engine.load(path, threads=1) as engine:
        result = detect(engine, picture(80, 130))
    assert (result.inside, result.network_size) == ((96, 156), (128, 160))
    np.testing.assert_allclose(result.boxes, SHARES[:COUNT] * [130, 80, 130, 80], atol=1e-4)


def test_a_score_threshold_leaves_objects_out(tmp_path, picture) -> None:
    with Engine.load(detector_files.detector(tmp_path / "d.onnx")) as engine:
        result = detect(engine, picture(90, 120), score_threshold=0.5)
        assert len(result) == len(result.boxes) == len(result.masks) == 2
        assert len(detect(engine, picture(90, 120), score_threshold=1.0)) == 0
        for wrong in (-0.1, 1.5, float("nan")):
            with pytest.raises(UsageError, match="scores are from 0 to 1"):
                Detector(engine, wrong)


def test_a_detector_without_masks_gives_none(tmp_path, picture) -> None:
    with Engine.load(detector_files.detector(tmp_path / "d.onnx", masks=False)) as engine:
        assert detect(engine, picture(90, 120)).masks is None


@pytest.mark.parametrize(("clip", "last"), [(True, 120.0), (False, 180.0)])
def test_boxes_end_at_the_picture_unless_the_model_does_not_clip(tmp_path, picture, clip, last) -> None:
    head = {"bbox_coder": {"clip_border": clip}}
    path = detector_files.detector(tmp_path / "d.onnx", shares=SHARES * 1.5, head=head)
    with Engine.load(path) as engine:
        assert detect(engine, picture(90, 120)).boxes[1, 2] == pytest.approx(last)


def test_a_picture_larger_than_a_fixed_file_is_refused_or_scaled_down(tmp_path, picture) -> None:
    path = detector_files.detector(tmp_path / "d.onnx", size=(96, 160))
    with Engine.load(path) as engine:
        with pytest.raises(AdapterError, match=r"it is 160x96 at the model's test scale, but the file takes 96x160"):
            detect(engine, picture(200, 120))
        result = detect(engine, picture(200, 120), fit=True)
        assert (result.inside, result.network_size) == ((96, 58), (96, 160))
        np.testing.assert_allclose(result.boxes[1], [0, 0, 120, 200], atol=1e-3)
        fits = detect(engine, picture(90, 120), fit=True)
        assert fits.inside == (96, 128)  # what fits is not made any smaller
    path = detector_files.detector(tmp_path / "any.onnx")
    with Engine.load(path) as engine, pytest.raises(UsageError, match="fit is for a file of fixed size"):
        Detector(engine, fit=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 9}, "counts 9 objects in 4 slots"),
        ({"count": -1}, "counts -1 objects"),
        ({"labels": np.array([0, 3, 0, 0])}, "labels from 0 to 3, but there are 3 classes"),
        ({"labels": np.array([0, -1, 0, 0])}, "labels from -1 to 0"),
        ({"shares": SHARES * np.nan}, "boxes are not numbers"),
        ({"scores": np.float32([np.inf, 0, 0, 0])}, "scores are not numbers"),
    ],
)
def test_answers_that_make_no_sense_are_refused(tmp_path, picture, changes, message) -> None:
    path = detector_files.detector(tmp_path / "d.onnx", **changes)
    with Engine.load(path) as engine, pytest.raises(AdapterError, match=message):
        detect(engine, picture(90, 120))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "dense"}, "gives dense, not detections; export it with --output detections"),
        ({"preprocessing": None}, "does not say how pictures were normalised"),
        ({"mask_threshold": -1}, "mask_thr_binary is -1"),
    ],
)
def test_files_that_are_no_whole_detector_are_refused(tmp_path, changes, message) -> None:
    path = detector_files.detector(tmp_path / "d.onnx", **changes)
    with Engine.load(path) as engine, pytest.raises(UnsupportedModel, match=message):
        Detector(engine)


def test_other_files_are_refused(make_toy) -> None:
    with (
        Engine.load(make_toy().path) as engine,
        pytest.raises(UnsupportedModel, match=r"gives logits, not detections$"),
    ):
        Detector(engine)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)])
def test_arrays_that_are_no_picture_are_refused(tmp_path, image) -> None:
    with Engine.load(detector_files.detector(tmp_path / "d.onnx")) as engine, pytest.raises(UsageError):
        detect(engine, image)


def test_classes_have_names(tmp_path) -> None:
    with Engine.load(detector_files.detector(tmp_path / "d.onnx")) as engine:
        assert Detector(engine).class_names == NAMES
    with Engine.load(detector_files.detector(tmp_path / "d.onnx", names=("cat",))) as engine:
        assert Detector(engine).class_names == ("cat", "class 1", "class 2")


def test_image_size_and_padding_are_fed_as_the_picture_is(picture) -> None:
    outputs = {"boxes": np.zeros((1, 1, 4), np.float32), "scores": np.zeros((1, 1), np.float32)}
    outputs |= {"labels": np.zeros((1, 1), np.int64), "count": np.zeros(1, np.int64)}
    spec = ModelSpec({"type": "Toy"}, detector={"bbox_head": {"num_classes": 1}}, preprocessing=PAD)
    engine = Answers(spec, outputs, (128, 192))
    detect(engine, picture(97, 131))
    assert engine.fed["image_size"].dtype == np.int64 and engine.fed["image_size"].tolist() == [[96, 130]]
    image = engine.fed["image"][0]
    assert not image[:, 96:].any() and not image[:, :, 130:].any() and image[:, :96, :130].all()
    np.testing.assert_array_equal(image[:, :96, :130], prepare(picture(97, 131), PAD)[:, :96, :130])


def test_results_equal_those_of_the_reference_on_random_slots(picture) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (1, 20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.01, 60, (1, 20, 2))], 2).astype(np.float32)
    outputs = {"boxes": boxes, "scores": np.linspace(1, 0, 20, dtype=np.float32)[None]}
    outputs |= {"labels": rng.integers(0, 3, (1, 20)), "count": np.array([17])}
    outputs |= {"masks": rng.random((1, 20, 28, 28), dtype=np.float32)}
    spec = ModelSpec({"type": "Toy"}, detector={"bbox_head": {"num_classes": 3}}, preprocessing=PAD)
    result = detect(Answers(spec, outputs, (96, 160)), picture(70, 110))
    assert result.inside == (96, 151)
    tensors = {key: torch.from_numpy(value) for key, value in outputs.items()}
    expected = on_picture(Detections(**tensors), 0, (70, 110), (151 / 110, 96 / 70))
    np.testing.assert_allclose(result.boxes, expected.boxes.numpy().clip(0, [110, 70, 110, 70]), atol=1e-4)
    assert result.labels.tolist() == expected.labels.tolist()
    assert result.masks is not None and expected.masks is not None
    inside = (expected.boxes.numpy() == result.boxes).all(1)
    assert inside.sum() > 5
    assert np.count_nonzero(result.masks.stack()[inside] != expected.masks.numpy()[inside]) <= 5
