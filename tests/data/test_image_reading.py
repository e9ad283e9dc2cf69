"""Files of every kind that data sets hold are read as one sees them, or named in the error."""

import numpy as np
import pytest
from PIL import Image

from dinov2_detrex.data import read_image
from dinov2_detrex.data.image_reading import read_stored_hw, upright_image_hw

H, W = 6, 9
RAMP = np.linspace(0, 255, H * W).round().astype(np.uint8).reshape(H, W)
RGB = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def save(folder, picture, name="x.png", **options):
    picture.save(folder / name, **options)
    return folder / name


def test_rgb_and_bgr_differ_in_channel_order_alone(tmp_path):
    path = save(tmp_path, Image.fromarray(RGB))
    np.testing.assert_array_equal(read_image(path), RGB)
    bgr = read_image(path, "BGR")
    np.testing.assert_array_equal(bgr, RGB[:, :, ::-1])
    assert bgr.flags["C_CONTIGUOUS"] and bgr.flags["WRITEABLE"]


def test_grayscale_becomes_three_equal_channels(tmp_path):
    path = save(tmp_path, Image.fromarray(RAMP))
    np.testing.assert_array_equal(read_image(path), np.repeat(RAMP[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(read_image(path, "L"), RAMP[:, :, None])


def test_cmyk_jpeg_is_close_to_its_rgb(tmp_path):
    flat = Image.new("RGB", (W, H), (200, 60, 30))
    pixels = read_image(save(tmp_path, flat.convert("CMYK"), "x.jpg", quality=95))
    assert pixels.shape == (H, W, 3)
    assert np.abs(pixels.astype(int) - [200, 60, 30]).max() <= 6


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"transparency": 1}, {"transparency": bytes([0, 128, 255])}])
def test_palettes_with_and_without_transparency_give_their_colours(tmp_path, options):
    picture = Image.fromarray((np.arange(H * W) % 3).astype(np.uint8).reshape(H, W), mode="P")
    colours = np.array([[10, 20, 30], [200, 100, 0], [0, 255, 255]], dtype=np.uint8)
    picture.putpalette(colours.ravel().tolist())
    np.testing.assert_array_equal(read_image(save(tmp_path, picture, **options)), colours[np.asarray(picture)])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_blended(tmp_path, mode):
    picture = Image.fromarray(RGB if mode == "RGBA" else RAMP)
    picture.putalpha(Image.fromarray(RAMP))
    expected = RGB if mode == "RGBA" else np.repeat(RAMP[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(save(tmp_path, picture)), expected)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bit_is_scaled_not_saturated(tmp_path, name):
    deep = RAMP.astype(np.uint16) * 257
    path = save(tmp_path, Image.fromarray(deep), name)
    assert Image.open(path).mode.startswith("I")
    np.testing.assert_array_equal(read_image(path), np.repeat(RAMP[:, :, None], 3, axis=2))


def test_floating_point_files_are_refused_by_name(tmp_path):
    path = save(tmp_path, Image.fromarray(RAMP.astype(np.float32)), "x.tif")
    with pytest.raises(OSError, match="x.tif.*floating-point"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_exif_rotated_files_are_read_upright(tmp_path, orientation, name):
    """EXIF 2.3: the value says where the stored first row and column lie in the scene."""
    stored_of_scene = {
        1: lambda s: s,
        2: lambda s: s[:, ::-1],
        3: lambda s: s[::-1, ::-1],
        4: lambda s: s[::-1],
        5: lambda s: s.transpose(1, 0, 2),
        6: lambda s: np.rot90(s, 1),
        7: lambda s: s[::-1, ::-1].transpose(1, 0, 2),
        8: lambda s: np.rot90(s, -1),
    }
    scene = np.kron(RGB, np.ones((16, 16, 1), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(stored_of_scene[orientation](scene)))
    path = save(tmp_path, stored, name, exif=exif, **({"quality": 100, "subsampling": 0} if name == "x.jpg" else {}))
    np.testing.assert_allclose(read_image(path).astype(int), scene, atol=0 if name == "x.png" else 8)
    assert upright_image_hw(path) == scene.shape[:2]
    assert read_stored_hw(path) == (stored.height, stored.width)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_a_damaged_exif_block_is_ignored(tmp_path, block):
    path = save(tmp_path, Image.fromarray(RGB), "x.jpg", exif=block, quality=100, subsampling=0)
    assert np.abs(read_image(path).astype(int) - RGB).max() <= 8
    assert upright_image_hw(path) == (H, W)


@pytest.mark.parametrize("name", ["half.jpg", "half.png"])
def test_a_truncated_file_is_named(tmp_path, name):
    path = save(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match=name):
        read_image(path)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(OSError, match="notes.jpg"):
        read_image(tmp_path / "notes.jpg")


def test_a_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.jpg"):
        read_image(tmp_path / "absent.jpg")


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'HSV'"):
        read_image(save(tmp_path, Image.fromarray(RGB)), "HSV")
