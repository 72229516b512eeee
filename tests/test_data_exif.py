"""The focal length in the EXIF data of photographs, and what of it survives damage."""

import math
import struct

import cv2
import numpy as np
import pytest

from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.images.header import focal_length
from tests.support.exif import FOCAL, FOCAL_35MM, PLANE_RESOLUTION, PLANE_UNIT, RECORDED_WIDTH, with_exif

JPEG = cv2.imencode(".jpg", np.full((300, 400, 3), 90, np.uint8))[1].tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({FOCAL_35MM: 26}, 26 * 500 / math.hypot(36, 24)),  # a diagonal of 500 px
        ({FOCAL_35MM: 26, FOCAL: 4.2, PLANE_RESOLUTION: 9999}, 26 * 500 / math.hypot(36, 24)),
        ({FOCAL: 4.25, PLANE_RESOLUTION: 2540}, 425.0),  # inches where no unit is given
        ({FOCAL: 4.25, PLANE_RESOLUTION: 1000, PLANE_UNIT: 3}, 425.0),  # centimetres
        ({FOCAL: 4.25, PLANE_RESOLUTION: 1000, PLANE_UNIT: 4, RECORDED_WIDTH: 4000}, 425.0),  # ten times smaller
        ({FOCAL_35MM: 0, FOCAL: 4.25, PLANE_RESOLUTION: 1000, PLANE_UNIT: 3}, 425.0),  # 0: not known
        ({FOCAL: 4.25}, None),
        ({FOCAL: 4.25, PLANE_RESOLUTION: 1000, PLANE_UNIT: 9}, None),
        ({}, None),
    ],
)
def test_focal_length(tags, expected, order):
    found = focal_length(with_exif(JPEG, tags, order=order))
    assert found == (expected and pytest.approx(expected, rel=1e-3))


def test_without_exif_data_or_in_another_format_there_is_none():
    assert focal_length(JPEG) is None
    assert focal_length(cv2.imencode(".png", np.zeros((3, 4, 3), np.uint8))[1].tobytes()) is None
    assert focal_length(b"") is None


def test_orientation_and_focal_length_go_together():
    """The two are in different directories; a turned photograph has the same focal length."""
    photo = EncodedImage(with_exif(JPEG, {FOCAL_35MM: 26}, orientation=6), "a.jpg")
    assert photo.size == (300, 400) and photo.pixels.shape == (400, 300, 3)
    assert photo.focal_length == pytest.approx(26 * 500 / math.hypot(36, 24))


def test_damaged_exif_data_are_no_error():
    content = with_exif(JPEG, {FOCAL_35MM: 26, FOCAL: 4.25, PLANE_RESOLUTION: 1000})
    start = content.index(b"II*\0")
    for at in range(start, start + 110):
        for value in (b"\xff\xff\xff\x7f", struct.pack("<I", 8), bytes(4)):
            found = focal_length(content[:at] + value + content[at + 4 :])
            assert found is None or found > 0
    for length in range(start, start + 110):
        focal_length(content[:length])
