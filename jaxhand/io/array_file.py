"""A file of arrays with checksums: written atomically, memory-mapped when read, damage is detected.

Layout: magic number, length and CRC-32 of a JSON header; the header (name, dtype, shape and CRC-32 of every array); the
arrays' bytes, each array aligned to 64 bytes.
"""

import concurrent.futures
import contextlib
import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxhand.io.files import MALFORMED

_MAGIC = b"jaxhand1"
_PREFIX = struct.Struct("<8sII")  # magic number, length of the header, CRC-32 of the header
_ALIGN = 64


class DamagedError(ValueError):
    """The file is not as `write` wrote it: truncated, altered, or of another format."""


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays atomically: another process reads either the old file or the complete new one.

    Args:
        path: the file; its folder is created if needed.
        arrays: name → array.

    Raises:
        OSError: the folder cannot be written or the disk is full; no partial file remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    entries = [[name, a.dtype.str, a.shape, crc] for (name, a), crc in zip(arrays.items(), _checksums(arrays.values()))]
    header = json.dumps(entries).encode()
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
            for array in arrays.values():
                file.write(bytes(-file.tell() % _ALIGN))
                file.write(array.data)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def read(path: Path) -> dict[str, np.ndarray]:
    """Read a file that `write` has written.

    Args:
        path: the file.

    Returns:
        The arrays by name, memory-mapped and read-only.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be read.
        DamagedError: the file is damaged or of another format; the message says which.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
            raise DamagedError("the file is not an array file of jaxhand")
        _, length, crc = _PREFIX.unpack(prefix)
        header = file.read(min(length, os.fstat(file.fileno()).st_size))
        if zlib.crc32(header) != crc:
            raise DamagedError("the header is damaged")
        start = _PREFIX.size + length
        content = np.memmap(file, np.uint8, mode="r")
    arrays, crcs = {}, []
    for name, dtype, shape, crc in _entries(header):
        start += -start % _ALIGN
        size = math.prod(shape) * dtype.itemsize
        if start + size > len(content):
            raise DamagedError("the file is truncated")
        try:
            arrays[name] = np.asarray(content[start : start + size]).view(dtype).reshape(shape)
        except ValueError as error:  # more elements than an array can have, or more axes
            raise DamagedError("the header is of another format") from error
        crcs.append(crc)
        start += size
    if start != len(content) or _checksums(arrays.values()) != crcs:
        raise DamagedError("the arrays are damaged")
    return arrays


def _entries(header: bytes) -> list[tuple[str, np.dtype, tuple[int, ...], int]]:
    """Name, dtype, shape and CRC-32 of each array. Raises DamagedError if they are none that `write` writes."""
    try:
        entries = [(name, np.dtype(dtype), tuple(shape), crc) for name, dtype, shape, crc in json.loads(header)]
        for name, dtype, shape, _ in entries:
            if dtype.kind not in "biufSU" or not dtype.itemsize or not all(0 <= side < 2**48 for side in shape):
                raise ValueError(f"{name} is no array of numbers or text")
            math.prod(shape).to_bytes(8)  # raises if the product is no whole number of 64 bits
            hash(name)
    except (*MALFORMED, RecursionError) as error:
        raise DamagedError("the header is of another format") from error
    return entries


def _checksums(arrays: Iterable[np.ndarray]) -> list[int]:
    """CRC-32 checksum of every array, computed in parallel threads: zlib releases the GIL."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(zlib.crc32, arrays))
