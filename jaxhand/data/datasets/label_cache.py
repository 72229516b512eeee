"""Labels that are slow to parse: kept as arrays in the user's cache folder, memory-mapped from then on."""

import hashlib
import math
import os
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, cache_folder
from jaxhand.io import array_file, files

_PIECE = 2**20  # bytes of a JSON file parsed at once: of numbers as Python objects no more is ever in memory


def cached(sources: typing.Sequence[Path], build: typing.Callable[[], dict]) -> dict[str, np.ndarray]:
    """What `build()` makes of `sources`, built once and again when a file, or the code of `build`'s module, changes.

    Args:
        sources: what the arrays are made of; a folder counts as changed when something is added to it or removed.
        build: takes nothing and gives named arrays. It must be a function of Python.

    Returns:
        The arrays, read-only. They are memory-mapped unless the cache folder cannot be written.

    Raises:
        UserError: a file is missing.
    """
    stamps = [(str(file.resolve()), *_stamp(file)) for file in sources]
    code = files.code_fingerprint(build.__code__.co_filename)
    key = hashlib.sha256((code + repr(stamps)).encode()).hexdigest()[:32]
    kept = cache_folder() / "index" / f"{sources[0].stem}-{key}"
    try:
        return array_file.read(kept)
    except (OSError, array_file.DamagedError):
        arrays = build()
    try:
        array_file.write(kept, arrays)
        return array_file.read(kept)
    except (OSError, array_file.DamagedError):
        return arrays


def numbers(file: Path, shape: tuple[int, ...] = ()) -> np.ndarray:
    """The JSON file of a list of nested lists of numbers, as (N, *shape) float32, by way of the cache.

    The file is parsed in pieces: beyond the array it takes a few MB of memory, however large it is.

    Raises:
        UserError: naming the file, if it is missing, cut off, or anything else than finite numbers in this shape.
    """
    return cached([file], lambda: {"numbers": _parse(file, shape)})["numbers"]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise files.unreadable(file, error) from None
    return stat.st_size, stat.st_mtime_ns


def _parse(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    wanted = f"a list of {'x'.join(map(str, shape)) + ' ' if shape else ''}numbers"
    content, opened, closed = bytearray(), 0, 0  # grows in place
    for piece in _pieces(file):
        opened, closed = opened + piece.count(b"["), closed + piece.count(b"]")
        try:  # the brackets go: their number is checked instead
            content += np.array(piece.translate(None, b"[] \t\r\n").split(b","), np.float32).tobytes()
        except ValueError as error:
            raise UserError(f"{file}: must hold {wanted} ({error})") from None
    values = np.frombuffer(content, np.float32)
    if opened != closed:
        raise UserError(f"{file}: cut off after {len(values) // size} entries; download it again")
    lists = 1 + len(values) // size * sum(math.prod(shape[:level]) for level in range(len(shape)))  # a bracket each
    if len(values) % size or opened != lists:
        raise UserError(f"{file}: must hold {wanted}, but its lists are of other lengths")
    values = values.reshape(-1, *shape)  # (N, *shape)
    wrong = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(-1))
    if len(wrong):
        raise UserError(f"{file}: entry {wrong[0]} is not finite")
    return values


def _pieces(file: Path) -> typing.Iterator[bytes]:
    """The file in pieces that end where a comma was."""
    try:
        with file.open("rb") as content:
            content.seek(-min(64, file.stat().st_size), os.SEEK_END)
            if not content.read().rstrip().endswith(b"]"):
                raise UserError(f"{file}: does not end as a list does: cut off, or not JSON; download it again")
            content.seek(0)
            rest = b""
            while piece := content.read(_PIECE):
                head, comma, rest = (rest + piece).rpartition(b",")
                if comma:
                    yield head
            yield rest
    except OSError as error:
        raise files.unreadable(file, error) from None
