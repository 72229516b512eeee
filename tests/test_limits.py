"""Small files that ask for much memory or time, or that have an unusual form: one line, or read as they are."""

import datetime
import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json
from jaxhand.data.datasets import coco, folder, hamer_npz, interhand
from jaxhand.data.images.depth import read_grey
from jaxhand.data.images.encoded import EncodedImage, decode
from jaxhand.data.images.header import orientation
from jaxhand.evaluation import prediction_files
from jaxhand.hand import mano
from jaxhand.inference.boxes import read_boxes
from jaxhand.interop import checkpoints, safetensors, tflite, torch_file
from jaxhand.io import numpy_files, pickles
from tests.support import mano_file, torch_files

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def little_time():
    """No test here may take more than 20 s."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 20


@pytest.fixture
def little_memory():
    """A test may not reserve more than 300 MB."""
    tracemalloc.start(1)
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


def named(read, *match: str) -> None:
    """`read()` raises a UserError of one short line that contains every text of `match`."""
    with pytest.raises(UserError) as error:
        read()
    text = str(error.value)
    assert "\n" not in text and len(text) < 700
    for part in match:
        assert part in text, text


# ---- JSON and YAML


def test_deep_nesting_is_named_by_every_reader(tmp_path):
    (tmp_path / "a.jpg").touch()
    for name, read in {
        "train.jsonl": lambda path: folder.load(path.parent, "train"),
        "boxes.json": read_boxes,
        "coco.json": coco._parse,
        "interhand.json": interhand._object,
        "pred.json": lambda path: prediction_files.read(path, ["xyz", "verts"]),
        "a.yaml": configs.load,
    }.items():
        text = DEEP if name != "coco.json" else '{"images": [' + '{"id": ' + DEEP + "}]}"
        (tmp_path / name).write_text(text)
        named(lambda: read(tmp_path / name), str(tmp_path))


@pytest.mark.parametrize("digits", [400, 5000])
def test_long_numbers_are_not_finite_or_named(tmp_path, digits):
    assert parse_json("9" * digits) == parse_json(b"[" + b"9" * digits + b"]")[0] == float("inf")
    (tmp_path / "boxes.json").write_text('[{"image": "a", "bbox": [1, 2, 3, ' + "9" * digits + "]}]")
    named(lambda: read_boxes(tmp_path / "boxes.json"), "hand 0", "bbox must be")
    (tmp_path / "a.yaml").write_text("training: {batch_size: " + "9" * digits + "}")
    named(lambda: configs.load(tmp_path / "a.yaml"), "training.batch_size")
    (tmp_path / "pred.json").write_text("[[[1, 2, " + "9" * digits + "]]]")
    try:
        assert np.isinf(prediction_files.read(tmp_path / "pred.json", ["xyz"])[0]["xyz"]).any()
    except UserError as error:
        assert "sample 0" in str(error)


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    content = b"\xef\xbb\xbf" + json.dumps([[[[1, 2, 3]]], [[[4, 5, 6]]]]).encode()
    (tmp_path / "pred.json").write_bytes(content)
    arrays, _ = prediction_files.read(tmp_path / "pred.json", ["xyz", "verts"])
    assert arrays["verts"].tolist() == [[[4, 5, 6]]]
    assert parse_json(content)[0] == parse_json(content.decode())[0] == [[[1, 2, 3]]]


# ---- Pickles and NumPy's files


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04Nr" + (2**27).to_bytes(4, "little") + b".", "memo index 134217728 in a pickle of 9 bytes"),
        (b"Np134217728\n.", "memo index 134217728"),
        (b"\x80\x04" + b"\x8f" * 300_000 + b".", "1200000 lists, dicts, tuples and sets in 300003 bytes"),
        (b"(" + b"]" * 1_100_000 + b"l.", "1100001 lists, dicts, tuples and sets"),
        (b"](" + b"\x8a\x09123456789" * 10_001 + b"e.", "more than 10000 integers of more than 64 bits"),
        (b"\x8e" + (2**40).to_bytes(8, "little") + b"a.", "Ran out of input"),
        (b"T\xff\xff\xff\xff.", "Ran out of input"),
        (b"\xb0.", "unknown opcode 0xb0"),
    ],
)
def test_a_pickle_that_asks_for_more_than_it_has(content, message):
    named(lambda: pickles.load(content, "a.pkl"), "a.pkl: damaged or incomplete pickle", message)


@pytest.mark.usefixtures("little_memory")
def test_a_pickle_of_shared_values():
    value = [0] * 10
    for _ in range(8):
        value = [value] * 10
    content = pickle.dumps(value)
    assert len(content) < 400
    named(lambda: pickles.load(content, "a.pkl"), "expands to 8,000 MB by references to the same values")
    named(lambda: pickles.load(pickle.dumps([np.zeros(10**5)] * 10**5), "a.pkl"), "expands to")
    same = [np.zeros(9), "text"] * 3
    assert len(pickles.load(pickle.dumps(same * 100), "a.pkl")) == 600
    itself = []
    itself.append(itself)
    named(lambda: pickles.load(pickle.dumps(itself), "a.pkl"), "damaged or incomplete pickle")


def header(shape: str, dtype: str = "<f8") -> bytes:
    """The beginning of an .npy file, with any text as its shape."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "content",
    [
        *(header("(10000000000000,)"), header("(10000000000000,)", "<U0"), header("(-1,)"), header("(1,) * 99")),
        *(header("(" * 200), header("(1"), header("(3,)") + bytes(8), header("(3,)", "|O") + b"x", b"\x93NUMPY"),
        header("(" + "1," * 40 + ")") + bytes(8),
    ],
)
def test_forged_numpy_headers(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    named(lambda: numpy_files.read_npy(tmp_path / "a.npy"), "a.npy: damaged or incomplete .npy file")
    named(lambda: prediction_files.read(tmp_path / "a.npy", ["xyz"]), "a.npy: not a complete .npy file of numbers")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("xyz.npy", content)
    named(lambda: numpy_files.read_npz(tmp_path / "a.npz"), "a.npz: damaged or incomplete .npz file")
    named(lambda: prediction_files.read(tmp_path / "a.npz", ["xyz"]), "a.npz: not a complete .npz file of numbers")


def test_hamer_npz_with_objects_and_values_that_are_none(tmp_path):
    path, rows = tmp_path / "h.npz", {"center": np.full((2, 2), 30.0), "scale": np.full(2, 50.0)}
    np.savez(path, imgname=np.array(["a", "b"]), **rows | {"center": np.array([{"x": 1}, 2], object)})
    named(lambda: hamer_npz.load(path, "test"), "center must have 2 rows of numbers")
    np.savez(path, imgname=np.array(["a", "b"]), **rows | {"center": np.full((2, 2), np.nan)})
    named(lambda: hamer_npz.load(path, "test"), "center or scale of row 0 is not finite")
    with zipfile.ZipFile(path, "w") as archive:  # an object in the place of an array
        archive.writestr("imgname.npy", header("(1,)", "|O") + pickle.dumps({"a": 1}))
    named(lambda: hamer_npz.load(path, "test"), "imgname.npy: must be an array, but is a dict")


# ---- Archives


def archive_of(path: Path, name: str, size: int, byte: bytes = b" ", method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip archive with one member of `size` equal bytes."""
    with (
        zipfile.ZipFile(path, "w", method, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        for start in range(0, size, 2**20):
            member.write(byte * min(2**20, size - start))
    return path


@pytest.mark.usefixtures("little_memory")
def test_archives_that_unpack_to_much_more(tmp_path):
    spaces = archive_of(tmp_path / "pred.zip", "pred.json", 32 * 2**20)
    named(lambda: prediction_files.read(spaces, ["xyz"]), "pred.zip:pred.json", "has more than 4,194,304 characters")
    with zipfile.ZipFile(tmp_path / "many.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("pred.json", b"[[" + b"[[0,0,0]]," * 2_000_001)
    named(lambda: prediction_files.read(tmp_path / "many.zip", ["xyz"]), "at most 2,000,000 samples are read")
    large = archive_of(tmp_path / "large.zip", "pred.json", 210 * 10**6, b"[")
    named(lambda: prediction_files.read(large, ["xyz"]), "unpacks to more than 20")
    task = archive_of(tmp_path / "a.task", "hand.tflite", 210 * 10**6, b"\0")
    named(
        lambda: tflite.read_archive(task, lambda name: True), "a.task: damaged or incomplete zip archive", "unpacks to"
    )
    npz = archive_of(tmp_path / "a.npz", "xyz.npy", 210 * 10**6, b"\0")
    named(lambda: numpy_files.read_npz(npz), "a.npz", "unpacks to")
    other = archive_of(tmp_path / "b.zip", "pred.json", 100, method=zipfile.ZIP_LZMA)
    named(lambda: prediction_files.read(other, ["xyz"]), "compression method 14 is not read")


def test_predictions_of_zeros_are_read_though_they_compress_well(tmp_path):
    zeros = np.zeros((300, 778, 3))
    prediction_files.write_freihand(tmp_path / "pred.zip", zeros[:, :21], zeros)
    assert (tmp_path / "pred.zip").stat().st_size * 100 < zeros.size * 4
    arrays, _ = prediction_files.read(tmp_path / "pred.zip", ["xyz", "verts"])
    assert arrays["verts"].shape == zeros.shape


# ---- Weights


def safetensors_file(path: Path, **entries) -> Path:
    """A .safetensors file with 64 bytes of numbers."""
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    return path


@pytest.mark.usefixtures("little_memory")
def test_safetensors_with_odd_entries(tmp_path):
    path, good = tmp_path / "a.safetensors", {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for change, message in (
        ({"dtype": ["F32"]}, "its type"),
        ({"shape": [1] * 40 + [4]}, "its type, shape or offsets"),
        ({"shape": [2**63, 2**63]}, "has 16 bytes"),
    ):
        safetensors_file(path, a=good | change)
        named(lambda: safetensors.read(path), "a.safetensors", message)
    safetensors_file(path, a=good, b=good | {"data_offsets": [12, 28]})
    named(lambda: safetensors.read(path), "the tensors 'a' and 'b' overlap")
    safetensors_file(
        path, a=good, b=good | {"data_offsets": [16, 32]}, empty=good | {"shape": [0], "data_offsets": [16, 16]}
    )
    assert set(safetensors.read(path)) == {"a", "b", "empty"}


def test_plain_objects_next_to_weights_are_left_out(tmp_path):
    weights = {
        "_orig_mod.layer.weight": np.ones((2, 3), np.float32),
        "module._orig_mod.layer.bias": np.zeros(2, np.float32),
    }
    settings = {"folder": Path("/data"), "date": datetime.datetime(2026, 1, 2), "delta": datetime.timedelta(1)}
    torch_files.save(tmp_path / "a.pt", {"state_dict": weights, "settings": settings})
    read = torch_file.read(tmp_path / "a.pt")
    assert read["settings"] == {"folder": None, "date": None, "delta": None}
    tensors, unused = checkpoints._tensors("hamer", tmp_path / "a.pt")
    assert list(tensors) == ["layer.weight", "layer.bias"] and set(unused) == {"settings"}


def test_mano_as_npz_is_read(tmp_path):
    arrays = mano_file.model()
    np.savez(tmp_path / "MANO_RIGHT.npz", **arrays)
    mano_file.write(tmp_path / "MANO_RIGHT.pkl", arrays)
    one, two = (mano.read(tmp_path / f"MANO_RIGHT.{end}") for end in ("npz", "pkl"))
    np.testing.assert_array_equal(one.template, two.template)
    np.testing.assert_array_equal(one.shape_dirs, two.shape_dirs)
    np.savez(tmp_path / "b.npz", x=np.ones(3))
    named(lambda: mano.read(tmp_path / "b.npz"), "b.npz: not a MANO file (no key 'v_template')")


@pytest.mark.usefixtures("little_memory")
def test_a_sparse_matrix_of_a_forged_size(tmp_path):
    arrays = mano_file.model()
    matrix = mano_file.sparse(arrays["J_regressor"])
    for state in ({"_shape": (10**6, 10**6)}, {"indptr": np.array([0, 2**62])}):
        forged = mano_file.sparse(arrays["J_regressor"])
        forged.__dict__.update(matrix.__dict__ | state)
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(mano_file.pickled({key: forged if key == "J_regressor" else a for key, a in arrays.items()}))
        named(lambda: mano.read(path), "damaged or incomplete pickle (a sparse matrix")


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


# ---- Paths


def test_paths_with_a_nul_character(tmp_path):
    (tmp_path / "boxes.json").write_text(json.dumps([{"image": "a\0.jpg", "bbox": [1, 2, 3, 4]}]))
    named(lambda: read_boxes(tmp_path / "boxes.json"), "hand 0: image 'a\\x00.jpg' is not a path")
    (tmp_path / "boxes.json").write_text('[{"image": "\\ud800", "bbox": [1, 2, 3, 4]}]')
    named(lambda: read_boxes(tmp_path / "boxes.json"), "hand 0: image ", "is not a path")
    (tmp_path / "boxes.json").write_text(json.dumps([{"image": "a" * 5000, "bbox": [1, 2, 3, 4]}]))
    assert len(read_boxes(tmp_path / "boxes.json")) == 1
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
