"""Depth images: units, channels, and files that are no depth image."""

import cv2
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.images.depth import read_grey, read_two_channels

GREY = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
CHANNELS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)  # blue, green, red


@pytest.fixture
def png(tmp_path):
    """Write an image and return its path."""

    def write(image):
        cv2.imwrite(str(tmp_path / "depth.png"), image)
        return tmp_path / "depth.png"

    return write


def test_a_grey_image_is_in_mm(png):
    depth = read_grey(png(GREY), 4, 3)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, GREY)


@pytest.mark.parametrize("image", [GREY.T.copy(), GREY[:, :3], GREY.astype(np.uint8), np.repeat(GREY[..., None], 3, 2)])
def test_another_grey_image_is_refused(png, image):
    with pytest.raises(UserError, match="depth.png: must be a 16-bit grey PNG of 4x3 px, as the colour image"):
        read_grey(png(image), 4, 3)


def test_two_channels_are_the_bytes_of_the_depth(png):
    path = png(CHANNELS)
    _, green, red = np.moveaxis(CHANNELS.astype(float), -1, 0)
    for high, expected in (("red", red * 256 + green), ("green", green * 256 + red)):
        depth = read_two_channels(path, high=high, unit=0.25)
        assert depth.dtype == np.float32
        np.testing.assert_array_equal(depth, expected * 0.25)


@pytest.mark.parametrize("image", [GREY, CHANNELS[..., 0], CHANNELS[..., [0, 1, 2, 0]], CHANNELS.astype(np.uint16)])
def test_an_image_without_three_channels_of_8_bits_is_refused(png, image):
    with pytest.raises(UserError, match="depth.png: not a complete depth image"):
        read_two_channels(png(image), high="red", unit=1.0)


def test_files_that_are_no_image(tmp_path):
    (tmp_path / "depth.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="16-bit grey"):
        read_grey(tmp_path / "depth.png", 4, 3)
    with pytest.raises(UserError, match="3 channels of 8 bits"):
        read_two_channels(tmp_path / "depth.png", high="red", unit=1.0)
