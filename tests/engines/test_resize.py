"""Resizing gives OpenCV's pictures to the last bit."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from adapter_engines.resize import resize

# (height, width, new height, new width, CRC-32 of what OpenCV 4.10.0 makes of `pattern`)
RECORDED = [
    (1, 1, 5, 7, 0x6AADD4AC),
    (5, 7, 1, 1, 0x00B6997E),
    (2, 3, 64, 96, 0x713384A9),
    (64, 96, 2, 3, 0x82C04341),
    (40, 50, 20, 25, 0x60E0E841),
    (20, 25, 40, 50, 0xAE09F1F3),
    (37, 53, 41, 47, 0x4C42A7BC),
    (53, 37, 29, 61, 0x449309F4),
    (100, 31, 99, 32, 0xD3148CE4),
    (201, 300, 96, 143, 0x65C38573),
    (96, 143, 96, 160, 0xC4A4377A),
    (17, 400, 17, 33, 0x687DB843),
    (400, 17, 33, 17, 0xE27312DA),
    (3, 3, 200, 1, 0xFBACB67A),
    (128, 128, 127, 129, 0x213ACEC6),
]


def pattern(height: int, width: int) -> np.ndarray:
    """Bytes that any numpy makes alike."""
    index = np.arange(height * width * 3, dtype=np.uint64)
    return (
        ((index * np.uint64(2654435761) >> np.uint64(11)) % np.uint64(256)).astype(np.uint8).reshape(height, width, 3)
    )


@pytest.mark.parametrize(("height", "width", "new_height", "new_width", "checksum"), RECORDED)
def test_recorded_opencv_pictures_are_reproduced(height, width, new_height, new_width, checksum):
    result = resize(pattern(height, width), new_height, new_width)
    assert (result.shape, result.dtype) == ((new_height, new_width, 3), np.uint8)
    assert zlib.crc32(result.tobytes()) == checksum


def test_random_sizes_agree_with_the_opencv_installed():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width, new_height, new_width = (int(x) for x in np.exp(rng.uniform(0, np.log(300), 4)))
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(resize(picture, new_height, new_width), expected)


@pytest.mark.parametrize("size", [(2000, 3000, 341, 512), (300, 2000, 700, 333)])
def test_large_pictures_agree_with_the_opencv_installed(size):
    cv2 = pytest.importorskip("cv2")
    picture = pattern(*size[:2])
    expected = cv2.resize(picture, (size[3], size[2]), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize(picture, *size[2:]), expected)


def test_views_are_resized_like_their_copies():
    picture = pattern(60, 80)[::-1, ::2, ::-1]
    np.testing.assert_array_equal(resize(picture, 33, 47), resize(picture.copy(), 33, 47))


def test_the_same_size_changes_nothing():
    picture = pattern(33, 47)
    np.testing.assert_array_equal(resize(picture, 33, 47), picture)
