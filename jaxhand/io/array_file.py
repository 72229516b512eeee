"""A checked file of arrays: written at once or not at all, memory-mapped when read, damage noticed.

Layout: magic, length and CRC of a JSON header; the header (name, dtype, shape, CRC of every array); the arrays' bytes.
"""

import concurrent.futures
import contextlib
import json
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np

_MAGIC = b"jaxhand1"
_PREFIX = struct.Struct("<8sII")  # magic, header length, header CRC
_ALIGN = 64


class DamagedError(ValueError):
    """The file is not what `write` wrote: cut short, altered, or something else altogether."""


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to `path`, making its folder; another process reads the old file or the whole new one.

    Raises:
        OSError: the folder cannot be written or is full; nothing is left behind.
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
                file.write(array)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that `write` wrote, memory-mapped and read-only.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        DamagedError: it is damaged or foreign; the message is what is wrong with it.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
            raise DamagedError("it is not a file of rendered hands")
        _, length, crc = _PREFIX.unpack(prefix)
        header = file.read(length)
        if zlib.crc32(header) != crc:
            raise DamagedError("its header is damaged")
        start = _PREFIX.size + length
        whole = np.memmap(file, np.uint8, mode="r")
    arrays, crcs = {}, []
    for name, dtype, shape, crc in json.loads(header):
        start += -start % _ALIGN
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if start + size > len(whole):
            raise DamagedError("it is cut short")
        arrays[name] = np.asarray(whole[start : start + size]).view(dtype).reshape(shape)
        crcs.append(crc)
        start += size
    if start != len(whole) or _checksums(arrays.values()) != crcs:
        raise DamagedError("its contents are damaged")
    return arrays


def _checksums(arrays) -> list[int]:
    """The CRC-32 of every array's bytes, side by side: zlib lets other threads run."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(zlib.crc32, arrays))
