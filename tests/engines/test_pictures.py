"""Reading pictures: every common kind comes out as 8-bit upright RGB, and what cannot be read says why."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from adapter_engines.pictures import read_picture
from adapter_infer.errors import AdapterError, UsageError


def _grey(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(rgb[..., 0])


def _grey_alpha(rgb: np.ndarray) -> Image.Image:
    image = _grey(rgb)
    image.putalpha(Image.fromarray(rgb[..., 1]))
    return image


KINDS = {
    "rgb.png": Image.fromarray,
    "grey.png": _grey,
    "alpha.png": lambda rgb: Image.fromarray(np.dstack([rgb, rgb[..., 0]])),
    "grey_alpha.png": _grey_alpha,
    "palette.png": lambda rgb: Image.fromarray(rgb).quantize(17),
    "bilevel.png": lambda rgb: Image.fromarray(rgb[..., 0] > 128),
    "grey16.png": lambda rgb: Image.fromarray(rgb[..., 0].astype(np.uint16) * 256 + rgb[..., 1]),
    "rgb.jpg": Image.fromarray,
    "grey.jpg": _grey,
    "rgb.bmp": Image.fromarray,
    "rgb.tif": Image.fromarray,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_is_read_exactly_as_opencv_reads_it(tmp_path, picture, name):
    cv2 = pytest.importorskip("cv2")
    KINDS[name](picture(37, 53)).save(tmp_path / name)
    np.testing.assert_array_equal(read_picture(tmp_path / name)[..., ::-1], cv2.imread(str(tmp_path / name)))


def test_a_cmyk_jpeg_is_read_within_one_level_of_opencv(tmp_path, picture):
    cv2 = pytest.importorskip("cv2")
    Image.fromarray(picture(37, 53)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    expected = cv2.imread(str(tmp_path / "cmyk.jpg")).astype(int)
    assert np.abs(read_picture(tmp_path / "cmyk.jpg")[..., ::-1] - expected).max() <= 1


@pytest.mark.parametrize("name", ["rgb.png", "alpha.png", "rgb.bmp", "rgb.tif"])
def test_colours_come_out_in_rgb_order_and_alpha_is_dropped(tmp_path, picture, name):
    rgb = picture(20, 30)
    KINDS[name](rgb).save(tmp_path / name)
    np.testing.assert_array_equal(read_picture(tmp_path / name), rgb)


def test_grey_becomes_three_equal_channels(tmp_path, picture):
    rgb = picture(20, 30)
    KINDS["grey_alpha.png"](rgb).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, axis=2))


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)).save(tmp_path / "grey16.png")
    assert read_picture(tmp_path / "grey16.png")[0, :, 1].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_whatever_the_camera_did(tmp_path, orientation, ending):
    """Red marks the corner that belongs at the upper left; the stored picture is 48 wide, 32 high."""
    corner = {1: (0, 0), 2: (0, 32), 3: (16, 32), 4: (16, 0), 5: (0, 0), 6: (16, 0), 7: (16, 32), 8: (0, 32)}[
        orientation
    ]
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[corner[0] : corner[0] + 16, corner[1] : corner[1] + 16, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"x.{ending}", exif=exif, **({"quality": 95} if ending == "jpg" else {}))
    upright = read_picture(tmp_path / f"x.{ending}")
    assert upright.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert upright[3:12, 3:12, 0].min() > 200
    assert upright[20:, 20:, 0].max() < 50


def test_a_senseless_orientation_is_no_reason_to_fail(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 99
    Image.fromarray(picture(20, 30)).save(tmp_path / "x.png", exif=exif)
    assert read_picture(tmp_path / "x.png").shape == (20, 30, 3)


def test_floating_point_pictures_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(AdapterError, match=r"x\.tif has 32 bits a pixel .* convert it to 8 or 16 bits"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp", "tif"])
def test_a_picture_cut_short_is_refused(tmp_path, picture, ending):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AdapterError, match=rf"x\.{ending}"):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=r"x\.png"):
        read_picture(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is not there; give a picture file"):
        read_picture(tmp_path / "x.png")
    with pytest.raises(UsageError, match="is not a file; give a picture file"):
        read_picture(tmp_path)


@pytest.mark.parametrize("side", [100_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(AdapterError, match=r"pixels.*scale it down, or cut it into tiles"):
        read_picture(tmp_path / "bomb.png")


def test_the_limit_on_pixels_can_be_set(tmp_path, picture):
    Image.fromarray(picture(20, 30)).save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png", max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(AdapterError, match="30x20 = 600 pixels, more than the 599"):
        read_picture(tmp_path / "x.png", max_pixels=599)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_never_raise_anything_but_a_refusal(tmp_path, picture):
    rng = np.random.default_rng(0)
    for ending in ("png", "jpg", "tif", "bmp", "webp"):
        path = tmp_path / f"x.{ending}"
        Image.fromarray(picture(24, 24)).save(path)
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for position in rng.integers(0, len(content), 4):
                damaged[position] = int(rng.integers(0, 256))
            path.write_bytes(damaged)
            try:
                result = read_picture(path)
            except AdapterError:
                continue
            assert result.ndim == 3
            assert result.dtype == np.uint8
