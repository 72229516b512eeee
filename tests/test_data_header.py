"""Headers of images: size, orientation and focal length of photographs, and what of them survives damage."""

import io
import math
import struct

import cv2
import numpy as np
import pytest

from jaxhand.data.images import header
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.images.header import first_rows, focal_length, image_size, orientation, read_image_size
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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_of_every_format_and_type(suffix, turn):
    """16 or 32 bits, in either byte order: all turn the image as OpenCV does with 16 bits."""
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8), (0, 0), 9)

    def made(order, kind):
        value = struct.pack(order + ("I" if kind == 4 else "Hxx"), turn)
        exif = (
            (b"II" if order == "<" else b"MM")
            + struct.pack(order + "HIHHHI", 42, 8, 1, 0x112, kind, 1)
            + value
            + bytes(4)
        )
        return cv2.imencodeWithMetadata(suffix, image, [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(exif, np.uint8)])[1]

    expected = cv2.imdecode(made("<", 3), cv2.IMREAD_COLOR_RGB)
    for order in "<>":
        for kind in (3, 4):
            content = made(order, kind).tobytes()
            assert orientation(content) == turn
            np.testing.assert_array_equal(EncodedImage(content, "a").pixels, expected)
            assert EncodedImage(content, "a").size == expected.shape[1::-1]
            assert EncodedImage(content, "a", exif=False).pixels.shape == (40, 60, 3)


def test_an_avif_that_is_turned_by_its_own_property_alone():
    exif = b"II" + struct.pack("<HIHHHI", 42, 8, 1, 0x112, 3, 1) + struct.pack("<Hxx", 6) + bytes(4)
    image = np.zeros((40, 60, 3), np.uint8)
    content = cv2.imencodeWithMetadata(".avif", image, [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(exif, np.uint8)])[
        1
    ].tobytes()
    assert b"irot" in content and orientation(content.replace(exif[:4], b"XXXX")) == 6
    assert orientation(content.replace(exif[:4], b"XXXX").replace(b"irot", b"none")) == 1


def test_the_size_of_an_image_is_read_from_its_start():
    pixels = np.zeros((33, 70, 3), np.uint8)
    for ending, flags in ((".png", []), (".jpg", []), (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])):
        content = cv2.imencode(ending, pixels, flags)[1].tobytes()
        assert image_size(content) == (70, 33) and image_size(content[:20]) is None
    note = b"\xff\xe1" + (60002).to_bytes(2, "big") + bytes(60000)  # such as a preview
    content = content[:2] + note + content[2:]
    assert read_image_size(io.BytesIO(content).read, len(content)) == (70, 33)
    assert image_size(b"") is image_size(b"GIF89a") is image_size(b"\xff\xd8\xff") is None


def segments(*parts: tuple[int, bytes]) -> bytes:
    """A JPEG of these segments: marker and content."""
    content = b"".join(bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body for marker, body in parts)
    return b"\xff\xd8" + content


FRAME = struct.pack(">BHHB", 8, 300, 400, 1) + bytes(3)


def test_every_marker_of_a_frame_has_the_size():
    """ITU T.81, table B.1: C0 to CF, without C4, C8 and CC, which are tables, a reserved marker and conditioning."""
    for marker in range(0xC0, 0xD0):
        expected = None if marker in (0xC4, 0xC8, 0xCC) else (400, 300)
        assert image_size(segments((0xE0, b"JFIF"), (marker, FRAME))) == expected
    assert image_size(segments((0xE0, b"JFIF"), (0xC0, FRAME))[:-4]) == (400, 300)
    assert image_size(segments((0xC0, FRAME[:5]))) == (400, 300) and image_size(segments((0xC0, FRAME[:4]))) is None
    assert image_size(segments((0xDA, b"scan"), (0xC0, FRAME))) is None  # the pixels come first
    padded = b"\xff\xd8\xff\xff" + segments((0xC0, FRAME))[2:]
    assert image_size(padded) == (400, 300)
    assert image_size(b"\xff\xd8" + b"\0" + segments((0xC0, FRAME))[2:]) is None


def test_the_height_in_a_header_is_replaced():
    short = first_rows(JPEG, 16)
    assert image_size(short) == (400, 16) and len(short) == len(JPEG)
    assert cv2.imdecode(np.frombuffer(short, np.uint8), cv2.IMREAD_COLOR).shape == (16, 400, 3)
    assert image_size(first_rows(segments((0xC1, FRAME)), 7)) == (400, 7)
    assert first_rows(segments((0xC2, FRAME)), 7) is None  # progressive
    assert first_rows(b"", 7) is None


def test_the_first_4096_bytes_are_read_first():
    calls = []

    def read(count):
        calls.append(count)
        return JPEG[:count]

    assert read_image_size(read, 10**6) == (400, 300) and calls == [4096]
    assert read_image_size(io.BytesIO(JPEG[:100]).read, 100) is None


@pytest.mark.parametrize(
    ("turn", "mirror", "expected"),
    [(0, None, 1), (1, None, 8), (2, None, 3), (3, None, 6), (0, 0, 4), (0, 1, 2), (1, 0, 5), (1, 1, 7)]
    + [(2, 0, 2), (2, 1, 4), (3, 0, 7), (3, 1, 5), (None, 0, 4), (None, 1, 2), (None, None, 1)],
)
def test_properties_of_avif(turn, mirror, expected):
    """Quarter turns against the clock and mirroring, in both places of the byte: only its lowest bits count."""
    boxes = b"" if turn is None else b"\0\0\0\x09irot" + bytes([turn | 0xFC])
    boxes += b"" if mirror is None else b"\0\0\0\x09imir" + bytes([mirror | 0xFE])
    assert orientation(b"\0\0\0\x1cftypavif" + boxes) == expected


def tiff(order: str, entries: list[bytes], tail: bytes = b"") -> bytes:
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4) + tail


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_of_a_directory(order):
    """16 bits, 32 bits and fractions are read; other types are left out, and all after a wrong offset."""
    place = 8 + 2 + 5 * 12 + 4
    entries = [
        struct.pack(order + "HHIHxx", 256, 3, 1, 640),
        struct.pack(order + "HHII", 257, 4, 1, 70_000),
        struct.pack(order + "HHII", 300, 5, 1, place),
        struct.pack(order + "HHII", 301, 2, 1, 5),
        struct.pack(order + "HHII", 302, 5, 1, place + 8),
    ]
    content = tiff(order, entries, struct.pack(order + "IIII", 7, 2, 7, 0))
    assert header.tiff_numbers(content, order, 8) == {256: 640, 257: 70_000, 300: 3.5, 302: 0}
    entries[2] = struct.pack(order + "HHII", 300, 5, 1, 9999)
    assert header.tiff_numbers(tiff(order, entries), order, 8) == {256: 640, 257: 70_000}
    assert header.tiff_numbers(content, order, 10**6) == {}


@pytest.mark.parametrize("value", [0, 1, 8, 9])
def test_an_orientation_is_1_to_8(value):
    content = with_exif(JPEG, {}, orientation=value)
    assert orientation(content) == (value if 1 <= value <= 8 else 1)
    assert focal_length(content) is None


def test_other_segments_and_chunks_come_before_the_exif_data():
    found = with_exif(JPEG, {FOCAL_35MM: 26}, orientation=6)
    body = found[found.index(b"Exif\0\0") : found.index(b"Exif\0\0") + 8 + 100]
    note = b"\xff\xe1" + (2 + 20).to_bytes(2, "big") + b"http://ns.adobe.com/"
    assert orientation(found[:2] + note + found[2:]) == 6
    data = body[6:]
    png = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 5, b"tEXt") + bytes(5 + 4) + struct.pack(">I4s", len(data), b"eXIf")
    )
    assert orientation(png + data) == 6 and orientation(png[:-4] + b"none" + data) == 1
    webp = b"RIFF\0\0\0\0WEBP" + struct.pack("<4sI", b"VP8L", 5) + bytes(6)  # padded to an even length
    webp += struct.pack("<4sI", b"EXIF", len(body))
    assert orientation(webp + body) == orientation(webp[:-8] + struct.pack("<4sI", b"EXIF", len(data)) + data) == 6
    assert orientation(b"RIFF\0\0\0\0WAVE" + webp[12:] + body) == 1
