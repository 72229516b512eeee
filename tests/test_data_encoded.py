"""Encoded photographs: a crop of one equals the crop of its decoded image, for any format and any decoded part."""

import dataclasses
import struct

import cv2
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.crop import crop
from jaxhand.data.images import encoded
from jaxhand.data.images.encoded import EncodedImage, read_image
from jaxhand.data.record import Record
from jaxhand.hand.camera import project

CHANGES = [{}, {"rotation": 0.5, "scale": 0.8, "shift": (0.1, -0.05)}, {"rotation": -2.0, "scale": 1.2}]
WHOLE = np.array([[0, 1e4], [0, 1e4]])  # corners of more than the image


def smooth(height, width, channels=3):
    noise = np.random.default_rng(height).standard_normal((height, width, channels), np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 12).reshape(height, width, channels)
    return np.clip(127 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)


def jpeg(pixels, *options):
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])[1].tobytes()


def turned_by_exif(content, orientation, order="<"):
    """The JPEG with an EXIF header of two tags: the width and the orientation."""
    tags = [(0x0100, 4, 1, 0), (0x0112, 3, 1, orientation)]
    packed = [struct.pack(order + "HHI", *tag[:3]) + struct.pack(order + ("I" if tag[1] == 4 else "Hxx"), tag[3])
              for tag in tags]  # fmt: skip
    mark = b"II" if order == "<" else b"MM"
    tiff = mark + struct.pack(order + "HIH", 42, 8, len(tags)) + b"".join(packed) + bytes(4)
    body = b"Exif\0\0" + tiff
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]


def record_of(content, center, extent, hand="right"):
    """A hand of `extent` px around `center` in a photograph."""
    rng = np.random.default_rng(7)
    K = np.array([[500.0, 3, 100], [0, 480, 120], [0, 0, 1]])
    pixels = np.concatenate([center + extent * rng.uniform(-0.5, 0.5, (21, 2)), np.ones((21, 1))], axis=1)
    joints = pixels @ np.linalg.inv(K).T * rng.uniform(500, 600, (21, 1))
    return Record(EncodedImage(content, "image a.jpg"), K, joints, np.ones(21), hand)


def assert_same_crop(record, size, change, most):
    """Labels are bit-identical; pixels differ only by the rounding of another order of steps or another reduction."""
    one = crop(record, size, 1.3, **change)
    two = crop(dataclasses.replace(record, image=record.image.pixels), size, 1.3, **change)
    for key in one:
        if key != "image":
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    difference = np.abs(one["image"].astype(int) - two["image"])
    assert difference.max() <= most and difference.mean() <= most / 4 and two["image"].std() > 12


@pytest.mark.parametrize("hand", ["right", "left"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("height, width", [(240, 320), (239, 317)])
def test_crop_of_a_jpeg_is_the_crop_of_its_image(hand, change, height, width):
    record = record_of(jpeg(smooth(height, width)), (150, 110), 60, hand)
    assert_same_crop(record, 96, change, 0)
    for size in (35, 17, 8):  # decoded at 1/2, 1/4, 1/8
        assert_same_crop(record, size, change, 12)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_turns_the_labels_way(orientation, order):
    content = turned_by_exif(jpeg(smooth(117, 203)), orientation, order)
    photo = EncodedImage(content, "a.jpg")
    assert photo.size == photo.pixels.shape[1::-1] == ((117, 203) if 5 <= orientation <= 8 else (203, 117))
    record = record_of(content, np.array(photo.size) / 2 + 3, 50)
    for size in (70, 30, 14):
        assert_same_crop(record, size, CHANGES[1], 10)
    ignored = EncodedImage(content, "a.jpg", exif=False)
    assert ignored.size == (203, 117) == ignored.pixels.shape[1::-1]
    assert_same_crop(dataclasses.replace(record, image=ignored), 70, CHANGES[1], 0)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [100, 48, 24, 12])
def test_a_blob_stays_under_its_joint(orientation, size):
    """From the pixels alone: the bright spot of a rotated and shrunk JPEG is at the label."""
    base = record_of(turned_by_exif(jpeg(np.zeros((230, 310, 3), np.uint8)), orientation), (120, 110), 90)
    x, y = project(base.keypoints_3d, base.K)[8]
    width, height = base.image.size
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    shown = (250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 200)).astype(np.uint8)
    turns = {1: shown, 3: shown[::-1, ::-1], 6: shown.T[::-1], 8: shown.T[:, ::-1]}  # back to the stored orientation
    stored = np.repeat(turns[orientation][..., None], 3, -1)
    record = dataclasses.replace(base, image=EncodedImage(turned_by_exif(jpeg(stored), orientation), "a.jpg"))
    sample = crop(record, size, 2.0, rotation=0.4)
    weight = sample["image"][..., 0].astype(float) * (sample["image"][..., 0] > 4)
    rows, columns = np.indices(weight.shape)
    found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    assert np.abs(found - sample["keypoints_2d"][8]).max() < 0.06


KINDS = {
    "grey.jpg": jpeg(smooth(90, 120, 1)),
    "progressive.jpg": jpeg(smooth(90, 120), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts.jpg": jpeg(smooth(90, 120), cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "full_colour.jpg": jpeg(smooth(90, 120), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111),
    "rgb.png": cv2.imencode(".png", smooth(90, 120))[1].tobytes(),
    "16_bits.png": cv2.imencode(".png", smooth(90, 120).astype(np.uint16) * 257)[1].tobytes(),
    "grey_16_bits.png": cv2.imencode(".png", smooth(90, 120, 1).astype(np.uint16) * 257)[1].tobytes(),
    "alpha.png": cv2.imencode(".png", np.dstack([smooth(90, 120), smooth(90, 120, 1)]))[1].tobytes(),
    "photo.webp": cv2.imencode(".webp", smooth(90, 120))[1].tobytes(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_image(kind, tmp_path):
    record = record_of(KINDS[kind], (60, 45), 30)
    assert record.image.size == (120, 90)
    for size in (64, 18):
        for change in CHANGES:
            assert_same_crop(record, size, change, 0 if size == 64 else 10)
    (tmp_path / kind).write_bytes(KINDS[kind])
    np.testing.assert_array_equal(read_image(tmp_path / kind), record.image.pixels)


def test_no_more_is_decoded_than_the_crop_needs():
    photo = EncodedImage(jpeg(smooth(480, 640)), "a.jpg")
    assert photo.decode_region(WHOLE, 1)[0].shape == (480, 640, 3)
    corners = np.array([[300, 320], [50, 100]])
    for most, shape in ((1, (135, 640, 3)), (1.99, (136, 640, 3)), (2, (69, 320, 3)), (9, (19, 80, 3))):
        pixels, T = photo.decode_region(corners, most)
        assert pixels.shape == shape and 480 not in pixels.shape
        shrink = 640 // shape[1]
        np.testing.assert_allclose(T @ (0, 0, 1), ((shrink - 1) / 2, (shrink - 1) / 2, 1))
    upside_down = EncodedImage(turned_by_exif(photo.content, 3), "a.jpg")
    assert upside_down.decode_region(corners, 1)[0].shape[0] == 464  # the top rows are stored last
    assert upside_down.decode_region(corners + [[0], [300]], 1)[0].shape[0] == 164
    progressive = EncodedImage(jpeg(smooth(480, 640), cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "a.jpg")
    assert progressive.decode_region(corners, 1)[0].shape == (480, 640, 3)


@pytest.mark.parametrize("kind", ["grey.jpg", "progressive.jpg", "restarts.jpg", "rgb.png"])
@pytest.mark.parametrize("lost", [30, 0.3, 0.7, 0.99, 1.0])
def test_a_cut_off_image_is_named_though_the_crop_needs_only_its_top(kind, lost, tmp_path):
    content = KINDS[kind]
    file = tmp_path / kind
    file.write_bytes(content[: len(content) - int(lost * len(content) if isinstance(lost, float) else lost)])
    record = dataclasses.replace(record_of(content, (50, 15), 20), image=EncodedImage.read(file))
    with pytest.raises(UserError, match=f"^image .*{kind} is not an image or is cut off$"):
        crop(record, 32, 1.3)
    with pytest.raises(UserError, match=f"^image .*{kind} is not an image or is cut off$"):
        read_image(file)


def test_a_missing_image_is_named(tmp_path):
    for path in (tmp_path / "b.jpg", tmp_path, tmp_path / "b.jpg" / "c.jpg"):
        with pytest.raises(UserError, match=f"^image {path} does not exist$"):
            EncodedImage.read(path)
    with pytest.raises(UserError, match="^train.jsonl:3: image .*b.jpg does not exist$"):
        EncodedImage.read(tmp_path / "b.jpg", "train.jsonl:3")


def test_damaged_exif_turns_nothing():
    content = turned_by_exif(jpeg(smooth(60, 80)), 6)
    at = content.index(b"II*\0")
    for place, value in ((at + 4, b"\xff\xff\xff\x7f"), (at + 8, b"\xff\xff"), (at + 10, b"\x13\x01\x13\x01")):
        broken = content[:place] + value + content[place + len(value) :]
        photo = EncodedImage(broken, "a.jpg")
        assert photo.size in ((80, 60), (60, 80)) and photo.decode_region(WHOLE, 1)[0].shape == (60, 80, 3)


@pytest.mark.parametrize(("most", "factor"), [(1, 1), (1.9, 1), (2, 2), (3.9, 2), (4, 4), (7.9, 4), (8, 8), (99, 8)])
def test_the_largest_possible_reduction_is_used(most, factor):
    pixels, T = EncodedImage(jpeg(smooth(100, 120)), "a").decode_region(WHOLE, most)
    assert pixels.shape == (-(-100 // factor), -(-120 // factor), 3)
    np.testing.assert_array_equal(T, encoded.block_centers(factor))
    np.testing.assert_array_equal(T @ [0, 0, 1], [(factor - 1) / 2, (factor - 1) / 2, 1])
    small = EncodedImage(jpeg(smooth(7, 120)), "a").decode_region(WHOLE, 8)[0]
    assert small.shape == (2, 30, 3)  # no side becomes shorter than a pixel


def test_memory_of_a_thread_is_used_again():
    first = encoded.scratch("a", (6, 2))
    assert np.shares_memory(first, encoded.scratch("a", (3, 4))) and np.shares_memory(first, encoded.scratch("a", (5,)))
    assert not np.shares_memory(first, encoded.scratch("b", (12,)))
    assert not np.shares_memory(first, encoded.scratch("a", (13,)))


def test_where_an_upright_pixel_is_stored():
    """EXIF's eight orientations: the place of the stored pixel (1, 2) of an image of 10x7 px."""
    places = [(1, 2), (8, 2), (8, 4), (1, 4), (2, 1), (4, 1), (4, 8), (2, 8)]
    for orientation, place in enumerate(places, start=1):
        assert (encoded._upright(orientation, 10, 7) @ [1, 2, 1])[:2].tolist() == list(place), orientation
