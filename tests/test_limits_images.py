"""Images that ask for much memory, their orientation, and odd paths and labels: one line, or read as they are."""

import io
import json
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest

from jaxhand import config as configs
from jaxhand.data.datasets import coco, folder
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import EncodedImage, decode
from jaxhand.evaluation import prediction_files
from jaxhand.inference.boxes import read_boxes
from tests.support.limits import little_time, named  # noqa: F401 (a fixture of every test here)

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def little_memory():
    """A test may not reserve more than 300 MB."""
    tracemalloc.start(1)
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


# ---- Images


def png(width: int, height: int) -> bytes:
    """The header of a PNG."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


SMALL = np.full((90, 120, 3), 100, np.uint8)


def encoded(suffix: str) -> bytes:
    """A small image of 120x90 px."""
    return cv2.imencode(suffix, SMALL)[1].tobytes()


def larger(suffix: str, old: bytes, new: bytes) -> bytes:
    """A small image whose header has another size."""
    content = encoded(suffix)
    at = content.index(old)
    return content[:at] + new + content[at + len(old) :]


LARGE = {
    "png": png(30_000, 30_000),
    "a larger png": png(2**31 - 1, 2**31 - 1),
    "jpg": larger(".jpg", struct.pack(">HH", 90, 120), struct.pack(">HH", 60_000, 60_000)),
    "gif": larger(".gif", struct.pack("<HH", 120, 90), struct.pack("<HH", 65_535, 65_535)),
    "bmp": larger(".bmp", struct.pack("<ii", 120, 90), struct.pack("<ii", 90_000, -90_000)),
    "tiff": b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHIIHHIII", 256, 4, 1, 90_000, 257, 4, 1, 90_000, 0),
    "jp2": larger(".jp2", b"ihdr" + struct.pack(">II", 90, 120), b"ihdr" + struct.pack(">II", 90_000, 90_000)),
    "ppm": b"P6\n# a comment\n90000 90000\n255\n",
    "pam": b"P7\nWIDTH 90000\nHEIGHT 90000\nDEPTH 3\nMAXVAL 255\nENDHDR\n",
    "avif": larger(".avif", struct.pack(">II", 120, 90), struct.pack(">II", 60_000, 60_000)),
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", LARGE)
def test_a_large_image_is_not_decoded(name, tmp_path):
    image = EncodedImage(LARGE[name], "image a")
    named(lambda: image.pixels, "image a has ", "at most 200 million px are read")
    named(
        lambda: EncodedImage(LARGE[name] + b"\xff\xd9", "image a").decode_region(np.ones((2, 4)), 1),
        "at most 200 million",
    )
    (tmp_path / "a.png").write_bytes(LARGE[name])
    named(lambda: read_grey(tmp_path / "a.png", 120, 90), "depth ", "at most 50 million px are read")


@pytest.mark.parametrize(
    "suffix", [".jpg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tiff", ".jp2", ".ppm", ".pam", ".hdr", ".sr"]
)
def test_every_format_is_still_read(suffix):
    assert decode(encoded(suffix)).shape == (90, 120, 3)


def test_a_jpeg_with_many_passes():
    content = cv2.imencode(".jpg", np.zeros((4000, 5000, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    start = content.rindex(b"\xff\xda")
    scan = content[start:-2]
    named(
        lambda: EncodedImage(content[:-2] + scan * 100 + b"\xff\xd9", "image a").pixels,
        "progressive JPEG with 1",
        "passes",
    )
    assert EncodedImage(content, "image a").pixels.shape == (4000, 5000, 3)


# ---- Paths


def test_paths_with_a_nul_character(tmp_path):
    (tmp_path / "boxes.json").write_text(json.dumps([{"image": "a\0.jpg", "bbox": [1, 2, 3, 4]}]))
    named(lambda: read_boxes(tmp_path / "boxes.json"), "hand 0: image 'a\\x00.jpg' is not a path")
    (tmp_path / "boxes.json").write_text('[{"image": "\\ud800", "bbox": [1, 2, 3, 4]}]')
    named(lambda: read_boxes(tmp_path / "boxes.json"), "hand 0: image ", "is not a path")
    (tmp_path / "boxes.json").write_text(json.dumps([{"image": "a" * 5000, "bbox": [1, 2, 3, 4]}]))
    named(lambda: read_boxes(tmp_path / "boxes.json"), "hand 0: image ", "is not a path")
    named(lambda: EncodedImage.read("a\0.jpg"), "does not exist")
    named(lambda: prediction_files.read("a\0.json", ["xyz"]), "no such file")
    line = {"image": "a\0.jpg", "hand": "right", "K": np.eye(3).tolist(), "joints_3d": np.ones((21, 3)).tolist()}
    (tmp_path / "train.jsonl").write_text(json.dumps(line))
    named(lambda: folder.load(tmp_path, "train"), "train.jsonl:1: image", "does not exist")


def test_ids_of_a_coco_file_that_are_not_numbers(tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
    for change, message in (
        ({"id": "x"}, "image 0: id must be a whole number"),
        ({"id": 10**19}, "whole number"),
    ):
        (tmp_path / "a.json").write_text(json.dumps({"images": [image | change], "annotations": []}))
        named(lambda: coco._parse(tmp_path / "a.json"), message)
    annotation = {"image_id": 1, "cam_param": {"focal": [1, 1]}, "joint_cam": np.ones((21, 3)).tolist()}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": [annotation | {"cam_param": "x"}]}))
    named(lambda: coco._parse(tmp_path / "a.json"), "annotation 0")
    stream = io.StringIO()
    json.dump({"images": [image], "annotations": [{"image_id": 1, "bbox": [10**400] * 4}]}, stream)
    (tmp_path / "a.json").write_text(stream.getvalue())
    named(lambda: coco._parse(tmp_path / "a.json"), "annotation 0 is malformed (OverflowError")


def test_a_whole_number_that_is_no_float_is_out_of_range(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {train_samples: " + "9" * 400 + "}\nseed: " + "9" * 400)
    named(lambda: configs.load(tmp_path / "a.yaml"), "data.train_samples")
    (tmp_path / "a.yaml").write_text("seed: " + "9" * 400)
    named(lambda: configs.load(tmp_path / "a.yaml"), "seed")
