"""What is drawn and written: palettes, legends, label maps that read back, files that are whole or not there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from adapter_engines.outputs import write_labels
from adapter_engines.overlay import overlay, shares
from adapter_engines.palette import generated, palette
from adapter_infer.errors import AdapterError
from adapter_infer.files import replacing


def test_generated_colours_are_distinct():
    colours = generated(300).astype(int)
    assert len(np.unique(colours, axis=0)) == 300
    first = np.abs(colours[:20, None] - colours[None, :20]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert first.min() >= 48


def test_a_palette_too_short_or_damaged_is_filled_up():
    result = palette([(1, 2, 3), (300, 0, 0), (4, 5)], 5)
    assert result[0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(result[1:], generated(5)[1:])


def test_shares_are_sorted_and_only_of_classes_present():
    labels = np.array([[2, 2, 2, 0], [2, 0, 4, 2]], np.uint8)
    assert shares(labels, 7) == [(2, 0.625), (0, 0.25), (4, 0.125)]


def test_the_overlay_keeps_the_pictures_size_and_shows_the_class_colours():
    picture, labels = np.full((60, 80, 3), 100, np.uint8), np.zeros((60, 80), np.uint8)
    labels[:, 40:] = 1
    colours = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
    image = np.array(overlay(picture, labels, colours, ["left", "right"]))
    assert image.shape[0] >= 60
    assert image.shape[1] > 160  # the legend has room for names and shares
    weight = 140 / 256
    np.testing.assert_allclose(image[5, 5], [100 * (1 - weight) + 200 * weight, *[100 * (1 - weight)] * 2], atol=1)
    np.testing.assert_allclose(image[5, 75], [*[100 * (1 - weight)] * 2, 100 * (1 - weight) + 200 * weight], atol=1)
    swatches = image[:, 80:].reshape(-1, 3).tolist()
    assert [200, 0, 0] in swatches
    assert [0, 0, 200] in swatches


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 4)])
def test_tiny_pictures_still_get_a_whole_legend(size):
    labels = (np.arange(size[0] * size[1]) % 200).reshape(size).astype(np.uint8)
    image = overlay(np.zeros((*size, 3), np.uint8), labels, generated(200), [f"class {i}" for i in range(200)])
    assert image.height >= 60
    assert image.width > size[1] + 100


@pytest.mark.parametrize("name", ["x" * 5000, "a\nb\tc", "", "\x00\x1b[31m", "背景", "a, b; c"])
def test_odd_class_names_do_not_break_the_legend(name):
    labels = np.zeros((40, 40), np.uint8)
    image = overlay(np.zeros((40, 40, 3), np.uint8), labels, generated(1), [name])
    assert image.width < 800


def test_label_maps_read_back_as_class_indices_in_the_palettes_colours(tmp_path):
    labels = np.random.default_rng(0).integers(0, 150, (30, 40), dtype=np.uint8)
    write_labels(tmp_path / "deep" / "x.png", labels, generated(150))
    with Image.open(tmp_path / "deep" / "x.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), labels)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), generated(150)[labels])


def test_more_than_256_classes_are_written_with_16_bits(tmp_path):
    labels = np.random.default_rng(0).integers(0, 300, (30, 40), dtype=np.uint16)
    write_labels(tmp_path / "x.png", labels, generated(300))
    with Image.open(tmp_path / "x.png") as image:
        np.testing.assert_array_equal(np.array(image), labels)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="half way"), replacing(path) as stream:
        stream.write(b"new")
        raise ValueError("half way")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AdapterError, match="cannot write"), replacing(tmp_path / "file" / "x.png") as stream:
        stream.write(b"new")
