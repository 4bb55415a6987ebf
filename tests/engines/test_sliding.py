"""Sliding windows and label maps: the official arithmetic, whatever the sizes, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from adapter_engines.label_maps import labels_of_bands, labels_of_logits, nearest
from adapter_engines.sliding import slide, slide_bands, whole_bands
from adapter_infer.errors import AdapterError, UsageError
from adapter_infer.sliding import starts


def run(images: np.ndarray) -> np.ndarray:
    """A stand-in for a network of 4 classes, whose answer depends on the place within the window and on its content."""
    _, _, height, width = images.shape
    place = np.linspace(0, 1, height, dtype=np.float32)[:, None] + np.linspace(0, 2, width, dtype=np.float32)
    return np.stack([np.sin(images[:, 0] * (k + 1) + place * width) * place + images[:, 1] for k in range(4)], 1)


def official(image: np.ndarray, crop: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """Slide inference spelled out window by window."""
    _, height, width = image.shape
    total, count = np.zeros((4, height, width), np.float32), np.zeros((height, width), np.float32)
    for i in range(max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1):
        for j in range(max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = min(i * stride[0] + crop[0], height), min(j * stride[1] + crop[1], width)
            window = np.s_[..., max(bottom - crop[0], 0) : bottom, max(right - crop[1], 0) : right]
            total[window] += run(image[window][None])[0]
            count[window] += 1
    return total / count


def image_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, height, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "crop", "stride", "expected"),
    [
        (512, 512, 341, [0]),
        (513, 512, 341, [0, 1]),
        (683, 512, 341, [0, 171]),
        (853, 512, 341, [0, 341]),
        (854, 512, 341, [0, 341, 342]),
        (2048, 512, 341, [0, 341, 682, 1023, 1364, 1536]),
        (100, 512, 341, [0]),
    ],
)
def test_windows_begin_where_mmseg_puts_them(size, crop, stride, expected):
    assert starts(size, crop, stride) == expected


@pytest.mark.parametrize(("crop", "stride"), [(0, 0), (512, 0), (512, -1), (32, 33)])
def test_windows_that_leave_gaps_are_refused(crop, stride):
    with pytest.raises(UsageError, match="give a stride from 1 to the crop's size"):
        starts(1000, crop, stride)


@pytest.mark.parametrize("seed", range(12))
def test_averaged_logits_equal_the_official_ones_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    height, width, *crop = (int(x) for x in rng.integers(1, 60, 4))
    stride = tuple(int(rng.integers(1, edge + 1)) for edge in crop)
    image = image_of(height, width, seed)
    batch = int(rng.integers(1, 7))
    np.testing.assert_array_equal(slide(run, image, tuple(crop), stride, batch), official(image, tuple(crop), stride))


def test_windows_come_in_batches_of_the_size_asked():
    sizes = []

    def counted(images):
        sizes.append(len(images))
        return run(images)

    slide(counted, image_of(64, 160), (64, 64), (43, 43), 3)  # 4 windows
    assert sizes == [3, 1]


def test_finished_rows_are_handed_on_before_the_last_window_has_run():
    seen = []

    def counted(images):
        seen.append(len(images))
        return run(images)

    bands = slide_bands(counted, image_of(500, 32), (32, 32), (16, 16))
    first_row, band = next(iter(bands))
    assert (first_row, band.shape) == (0, (4, 16, 32))
    assert len(seen) == 2


@pytest.mark.parametrize("seed", range(12))
def test_labels_of_bands_are_those_of_all_logits_at_once(seed):
    rng = np.random.default_rng(100 + seed)
    height, width, new_height, new_width = (int(x) for x in rng.integers(1, 90, 4))
    image = image_of(height, width, seed)
    bands = slide_bands(run, image, (20, 30), (13, 11))
    expected = labels_of_logits(slide(run, image, (20, 30), (13, 11)), (new_height, new_width))
    np.testing.assert_array_equal(labels_of_bands(bands, (height, width), (new_height, new_width)), expected)


@pytest.mark.parametrize("aligned", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(
    "sizes", [(96, 160, 135, 225), (64, 64, 300, 350), (80, 300, 37, 51), (7, 5, 200, 3), (33, 97, 33, 97)]
)
def test_labels_equal_those_of_torch(sizes, aligned):
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(1).normal(size=(9, *sizes[:2])).astype(np.float32)
    interpolate = torch.nn.functional.interpolate
    resized = interpolate(torch.from_numpy(logits)[None], sizes[2:], mode="bilinear", align_corners=aligned)[0]
    best, second = resized.topk(2, dim=0).values
    clear = (best - second > 1e-6).numpy()
    expected = resized.softmax(0).argmax(0).numpy()
    labels = labels_of_logits(logits, sizes[2:], aligned)
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(labels[clear], expected[clear])


def test_the_first_of_equal_classes_wins():
    logits = np.zeros((3, 4, 4), np.float32)
    logits[1:, 2:] = 1
    assert labels_of_logits(logits, (4, 4))[:, 0].tolist() == [0, 0, 1, 1]


def test_logits_that_are_no_number_are_reported():
    logits = np.zeros((3, 4, 4), np.float32)
    logits[1, 2, 2] = np.nan
    with pytest.raises(AdapterError, match="not a number"):
        labels_of_logits(logits, (8, 8))


@pytest.mark.parametrize(("classes", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_labels_take_two_bytes_only_where_they_must(classes, dtype):
    logits = np.zeros((classes, 2, 2), np.float32)
    logits[-1] = 1
    labels = labels_of_logits(logits, (2, 2))
    assert labels.dtype == dtype
    assert labels.max() == classes - 1


def test_an_answer_of_another_size_is_reported():
    with pytest.raises(AdapterError, match=r"logits \(1, 4, 16, 16\), which are not of the same size"):
        next(whole_bands(lambda x: run(x)[..., ::2, ::2], image_of(32, 32)))


def test_nearest_keeps_every_label_where_it_is():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(nearest(labels, (4, 6)), labels.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(nearest(labels.repeat(3, 0).repeat(3, 1), (2, 3)), labels)
