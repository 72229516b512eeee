"""Files of arrays whose header is forged: with a right checksum, it asks for memory or for objects."""

import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from jaxhand.io import array_file


def forged(path, entries, content=bytes(64)):
    """Write a file with these entries of the header, or with this header."""
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    start = struct.pack("<8sII", b"jaxhand1", len(header), zlib.crc32(header)) + header
    path.write_bytes(start + bytes(-len(start) % 64) + content)
    return path


def test_a_length_of_gigabytes_is_not_reserved(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<8sII", b"jaxhand1", 2**32 - 1, 0) + bytes(100))
    tracemalloc.start()
    with pytest.raises(array_file.DamagedError):
        array_file.read(path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "entries",
    [
        [["a", "|O", [8], 0]],  # bytes of the file would become pointers
        [["a", "<f8", [-1], 0]],
        [["a", "<f8", [2.5], 0]],
        [["a", "<f8", [2**32, 2**32], 0]],
        [["a", "<f8", [0, 2**47, 2**47], 0]],
        [["a", "<f8", [1] * 100, 0]],
        [["a", "<f8", "8", 0]],
        [["a", "no type", [8], 0]],
        [["a", "V0", [8], 0]],
        [[["a"], "<f8", [8], 0]],
        [["a", "<f8"]],
        7,
        b"[" * 10**5,
        b"\xff",
    ],
)
def test_a_forged_header_is_damage(tmp_path, entries):
    with pytest.raises(array_file.DamagedError):
        array_file.read(forged(tmp_path / "a", entries))


def test_the_forger_can_write_whole_files(tmp_path):
    path = forged(tmp_path / "a", [["a", "<f8", [8], zlib.crc32(bytes(64))]])
    np.testing.assert_array_equal(array_file.read(path)["a"], np.zeros(8))
