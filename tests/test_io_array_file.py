"""Files of arrays with checksums: layout, and every kind of damage."""

import json
import struct
import zlib

import numpy as np
import pytest

from jaxhand.io import array_file

ARRAYS = {
    "a": np.arange(7, dtype=np.uint8),
    "b": np.linspace(0, 1, 6).reshape(2, 3),
    "none": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def file(tmp_path):
    array_file.write(tmp_path / "new" / "x.bin", ARRAYS)
    return tmp_path / "new" / "x.bin"


def test_arrays_are_read_again(file):
    found = array_file.read(file)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and not found[name].flags.writeable
    assert [path.name for path in file.parent.iterdir()] == ["x.bin"]


def test_the_layout_stays(file):
    """Files of earlier versions are read: magic number, length and checksum of the header, arrays at 64 bytes."""
    content = file.read_bytes()
    magic, length, checksum = struct.unpack("<8sII", content[:16])
    header = content[16 : 16 + length]
    assert magic == b"jaxhand1" and zlib.crc32(header) == checksum
    entries = json.loads(header)
    assert [entry[:3] for entry in entries] == [["a", "|u1", [7]], ["b", "<f8", [2, 3]], ["none", "<f4", [0, 3]]]
    start = -(-(16 + length) // 64) * 64
    assert content[start : start + 7] == ARRAYS["a"].tobytes() and not any(content[16 + length : start])
    assert content[start + 64 : start + 64 + 48] == ARRAYS["b"].tobytes()
    assert [entry[3] for entry in entries] == [zlib.crc32(array.tobytes()) for array in ARRAYS.values()]
    assert len(content) == start + 128


def test_every_changed_byte_is_noticed(file):
    content = file.read_bytes()
    _, length, _ = struct.unpack("<8sII", content[:16])
    first = -(-(16 + length) // 64) * 64
    padding = {*range(16 + length, first), *range(first + 7, first + 64), *range(first + 64 + 48, len(content))}
    for at in set(range(len(content))) - padding:
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(array_file.DamagedError):
            array_file.read(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: b"", "not an array file"),
        (lambda content: content[:15], "not an array file"),
        (lambda content: b"other   " + content[8:], "not an array file"),
        (lambda content: content[:40], "header is damaged"),
        (lambda content: content[:-65], "truncated"),
        (lambda content: content[:-1], "truncated|the arrays are damaged"),
        (lambda content: content + b"x", "the arrays are damaged"),
    ],
)
def test_damage_is_named(file, change, words):
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(array_file.DamagedError, match=words):
        array_file.read(file)


def test_an_error_leaves_the_old_file(file, monkeypatch):
    monkeypatch.setattr(array_file.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        array_file.write(file, {"a": np.ones(3)})
    np.testing.assert_array_equal(array_file.read(file)["a"], ARRAYS["a"])
    assert [path.name for path in file.parent.iterdir()] == ["x.bin"]
