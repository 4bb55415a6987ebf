"""The test pipeline: the official network inputs come out, and unfit sizes are refused."""

from __future__ import annotations

import numpy as np
import pytest

import golden
from adapter_engines.pictures import MAX_PIXELS
from adapter_engines.preprocessing import network_size, normalized, padded, prepare
from adapter_infer.errors import AdapterError, UnsupportedModel
from adapter_infer.spec import Preprocessing

OFFICIAL = golden.names("models", "preprocess_segmentation")
DETECTION = golden.names("models", "preprocess_detection")


def official_preprocessing(config: dict) -> Preprocessing:
    """The record of a golden case's own pipeline."""
    (outer,) = config["test_pipeline"]
    steps = {step["type"]: step for step in outer["transforms"]}
    return Preprocessing(
        mean=tuple(steps["Normalize"]["mean"]),
        std=tuple(steps["Normalize"]["std"]),
        to_rgb=steps["Normalize"]["to_rgb"],
        scale=tuple(outer["img_scale"]),
        keep_ratio=steps["Resize"]["keep_ratio"],
        size_divisor=(steps.get("ResizeToMultiple") or steps.get("Pad") or {"size_divisor": 1})["size_divisor"],
        pad="Pad" in steps,
    )


def test_there_is_an_official_case():
    assert OFFICIAL


@pytest.mark.skipif(not DETECTION, reason="no preprocess_detection where ADAPTER_GOLDEN says")
def test_a_detectors_picture_is_padded_with_zeros_as_in_mmdet():
    (name,) = DETECTION
    settings = golden.config("models", name)
    result = prepare(golden.array("models", name, "image_bgr.npy")[..., ::-1], official_preprocessing(settings))
    height, width = settings["img_meta"]["img_shape"][:2]
    assert result.shape == (3, *settings["img_meta"]["pad_shape"][:2])
    assert not result[:, height:].any() and not result[:, :, width:].any() and result[:, :height, :width].all()


@pytest.mark.parametrize("name", OFFICIAL + DETECTION)
def test_official_network_inputs_come_out(name):
    picture = golden.array("models", name, "image_bgr.npy")[..., ::-1]
    expected = golden.array("models", name, "input.npy")
    result = prepare(picture, official_preprocessing(golden.config("models", name)))
    assert (result.shape, result.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_embedded_normalisation_gets_the_same_pixels(name):
    picture = golden.array("models", name, "image_bgr.npy")[..., ::-1]
    preprocessing = official_preprocessing(golden.config("models", name))
    embedded = prepare(picture, preprocessing, embedded=True)
    assert embedded.dtype == np.uint8
    np.testing.assert_array_equal(
        normalized(embedded.transpose(1, 2, 0), preprocessing), prepare(picture, preprocessing)
    )


@pytest.mark.parametrize(
    ("size", "scale", "scaled", "aligned"),
    [
        ((201, 300), (512, 96), (96, 143), (96, 160)),
        ((300, 201), (512, 96), (143, 96), (160, 96)),  # the short edge of a portrait is its width
        ((1024, 2048), (2048, 1024), (1024, 2048), (1024, 2048)),
        ((512, 683), (2048, 512), (512, 683), (512, 704)),
        ((100, 1000), (2048, 512), (205, 2048), (224, 2048)),  # the long edge is what limits
        ((1, 1), (2048, 512), (512, 512), (512, 512)),
        ((333, 500), None, (333, 500), (352, 512)),
    ],
)
def test_sizes_follow_the_rule_of_mmcv(size, scale, scaled, aligned):
    assert network_size(*size, Preprocessing(scale=scale)) == (scaled, aligned)


@pytest.mark.parametrize(
    ("size", "scaled", "aligned"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((640, 480), (1067, 800), (1088, 800)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((100, 900), (148, 1333), (160, 1344)),
    ],
)
def test_a_detectors_picture_is_padded_to_the_next_multiple(size, scaled, aligned):
    assert network_size(*size, Preprocessing(scale=(1333, 800), pad=True)) == (scaled, aligned)


@pytest.mark.parametrize(
    ("size", "within", "scaled"),
    [
        ((640, 480), (800, 1344), (800, 600)),
        ((480, 640), (800, 1344), (800, 1067)),  # fits as it is
        ((10, 4000), (800, 1344), (3, 1333)),
        ((333, 501), (96, 64), (43, 64)),
    ],
)
def test_a_picture_is_scaled_into_a_size_with_its_proportions(size, within, scaled):
    assert network_size(*size, Preprocessing(scale=(1333, 800), pad=True), within)[0] == scaled


def test_an_embedded_normalisation_is_padded_with_the_mean():
    picture = np.full((20, 30, 3), 200, np.uint8)
    result = padded(picture, Preprocessing(mean=(9.6, 99.4, 300), pad=True), (20, 30), (32, 64), embedded=True)
    assert (result.image.dtype, result.image.shape, result.inside, result.size) == (
        np.uint8,
        (3, 32, 64),
        (20, 30),
        (32, 64),
    )
    assert result.image[:, 31, 63].tolist() == [10, 99, 255] and result.image[:, 19, 29].tolist() == [200] * 3
    bgr = padded(picture, Preprocessing(mean=(9.6, 99.4, 50), to_rgb=False), (20, 30), (32, 64), embedded=True)
    assert bgr.image[:, 31, 63].tolist() == [50, 99, 10]


def test_without_keep_ratio_the_scale_is_width_and_height():
    assert network_size(100, 200, Preprocessing(scale=(64, 96), keep_ratio=False)) == ((96, 64), (96, 64))


def test_without_a_divisor_the_size_stays():
    assert network_size(33, 47, Preprocessing(scale=None, size_divisor=1))[1] == (33, 47)


@pytest.mark.parametrize(
    ("size", "scale"),
    [((1, 10000), (2048, 512)), ((1, MAX_PIXELS), None), ((50, 50), (10**9, 10**9)), ((9, 9), (0, 0))],
)
def test_extreme_proportions_and_scales_are_refused(size, scale):
    with pytest.raises(AdapterError, match="crop it to less extreme proportions"):
        network_size(*size, Preprocessing(scale=scale))


def test_channels_are_swapped_where_the_network_wants_bgr():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    rgb = normalized(picture, Preprocessing(mean=(1, 2, 3), std=(1, 1, 1)))
    bgr = normalized(picture, Preprocessing(mean=(1, 2, 3), std=(1, 1, 1), to_rgb=False))
    np.testing.assert_array_equal(rgb[:, 0, 0], [0 - 1, 1 - 2, 2 - 3])
    np.testing.assert_array_equal(bgr[:, 0, 0], [2 - 1, 1 - 2, 0 - 3])


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(UnsupportedModel, match=r"std \(1, 0, 1\) is not above 0"):
        normalized(np.zeros((1, 1, 3), np.uint8), Preprocessing(std=(1, 0, 1)))


def test_stretching_is_one_resize_to_the_size_asked():
    picture = golden.array("models", OFFICIAL[0], "image_bgr.npy")
    assert prepare(picture, Preprocessing(scale=(512, 96)), stretch_to=(64, 32)).shape == (3, 64, 32)
