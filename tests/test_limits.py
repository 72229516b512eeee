"""Small files that ask for much memory or time, or that have an unusual form: one line, or read as they are."""

import datetime
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json
from jaxhand.data.datasets import coco, folder, hamer_npz, interhand
from jaxhand.evaluation import prediction_files
from jaxhand.hand import mano
from jaxhand.inference.boxes import read_boxes
from jaxhand.interop import checkpoints, safetensors, tflite, torch_file
from jaxhand.io import numpy_files, pickles
from tests.support import mano_file, torch_files
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


def test_more_samples_than_any_set_has(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("pred.json", b"[[" + b"[[0,0,0]]," * 2_000_001)
    named(lambda: prediction_files.read(tmp_path / "many.zip", ["xyz"]), "at most 2,000,000 samples are read")


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
