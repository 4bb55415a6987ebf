"""The test pipeline: the official network inputs come out, and unfit sizes are refused."""

from __future__ import annotations

import numpy as np
import pytest

import golden
from adapter_engines.pictures import MAX_PIXELS
from adapter_engines.preprocessing import network_size, normalized, prepare
from adapter_infer.errors import AdapterError, UnsupportedModel
from adapter_infer.spec import Preprocessing

OFFICIAL = golden.names("models", "preprocess_segmentation")


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
        size_divisor=steps["ResizeToMultiple"]["size_divisor"] if "ResizeToMultiple" in steps else 1,
    )


def test_there_is_an_official_case():
    assert OFFICIAL


@pytest.mark.parametrize("name", OFFICIAL)
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
