"""A cache for labels that are slow to parse: memory-mapped arrays in the user's cache folder."""

import contextlib
import hashlib
import math
import os
import sys
import threading
import time
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, cache_folder
from jaxhand.io import array_file, files
from jaxhand.io.files import one_line

# After this many seconds of parsing, one line on stderr explains the delay. It is not printed earlier, because file
# sizes do not predict the delay: DexYCB and HO-3D have many small files.
PATIENCE_S = 2.0
_PIECE = 2**20  # bytes of a JSON file that are parsed at once; this limits the memory for Python objects

Arrays = dict[str, np.ndarray]
Builder = typing.Callable[[], Arrays]


def cached(sources: typing.Sequence[Path], build: Builder) -> Arrays:
    """Return the arrays that `build()` makes from `sources`. `build` is called only if the cache has no such arrays.

    The cache is not used after a file or the code of `build`'s module has changed. Changes of comments, docstrings and
    layout do not matter. If `build` takes longer than `PATIENCE_S`, one line on stderr says so.

    Args:
        sources: the files from which the arrays are made. A folder has changed if an entry was added or removed.
        build: a Python function without arguments that returns named arrays.

    Returns:
        The arrays, read-only. They are memory-mapped, unless the cache folder cannot be written.

    Raises:
        UserError: a file is missing.
    """
    return cached_parts(sources[0], [(sources, build)])[0]


def cached_parts(name: Path, parts: typing.Iterable[tuple[typing.Sequence[Path], Builder]]) -> list[Arrays]:
    """Return the arrays of a data set whose labels are cached in several files, as `cached` does for one file.

    If building all files takes longer than `PATIENCE_S`, one line on stderr says so, only once.

    Args:
        name: name of the data set in this line, such as its folder.
        parts: `sources` and `build` for each cache file, as for `cached`.

    Returns:
        The arrays of each cache file, as `cached` returns them.

    Raises:
        UserError: a file is missing.
    """
    notice = _Notice(name)
    return [_cached(sources, build, notice) for sources, build in parts]


def _cached(sources: typing.Sequence[Path], build: Builder, notice: "_Notice") -> Arrays:
    stamps = [(str(file.resolve()), *_stamp(file)) for file in sources]
    code = files.code_fingerprint(build.__code__.co_filename)
    key = hashlib.sha256((code + repr(stamps)).encode()).hexdigest()[:32]
    cache_file = _folder() / f"{sources[0].stem}-{key}"
    try:
        return array_file.read(cache_file)
    except (OSError, array_file.DamagedError):
        with notice.watch():
            arrays = build()
    try:
        array_file.write(cache_file, arrays)
        return array_file.read(cache_file)
    except (OSError, array_file.DamagedError):
        return arrays


class _Notice:
    """Prints one line to stderr when the total time to build the labels of a data set reaches `PATIENCE_S`."""

    def __init__(self, name: Path):
        self._name, self._patience, self._printed = name, PATIENCE_S, False

    @contextlib.contextmanager
    def watch(self) -> typing.Iterator[None]:
        """Add the time inside this context to the total."""
        if self._printed:
            yield
            return
        started, timer = time.monotonic(), threading.Timer(max(self._patience, 0), self._print)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._patience -= time.monotonic() - started

    def _print(self) -> None:
        self._printed = True
        print(f"reading the labels of {self._name}; they are kept in {_folder()}", file=sys.stderr, flush=True)


def _folder() -> Path:
    return cache_folder() / "index"


def numbers(file: Path, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Read a JSON file that contains a list of nested lists of numbers, through the cache.

    The file is parsed in pieces. So, for a file of any size, only a few MB of memory are needed besides the array.

    Args:
        file: the JSON file.
        shape: shape of one entry of the list.

    Returns:
        (N, *shape) float32, read-only.

    Raises:
        UserError: the file is missing or cut off, or contains anything but finite numbers in this shape; the message
            names the file.
    """
    return cached([file], lambda: {"numbers": _parse(file, shape)})["numbers"]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise files.unreadable(file, error) from None
    return stat.st_size, stat.st_mtime_ns


def _parse(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)  # numbers per entry
    wanted = f"a list of {'x'.join(map(str, shape)) + ' ' if shape else ''}numbers"
    content, opened, closed = bytearray(), 0, 0  # `content` grows in place
    for piece in _pieces(file):
        opened, closed = opened + piece.count(b"["), closed + piece.count(b"]")
        try:  # brackets are removed here; their number is checked below
            with np.errstate(over="ignore"):  # such a number is not finite, which is checked below
                content += np.array(piece.translate(None, b"[] \t\r\n").split(b","), np.float32).tobytes()
        except ValueError as error:
            raise UserError(f"{file}: must contain {wanted} ({one_line(error)}); download the file again") from None
    values = np.frombuffer(content, np.float32)
    if opened != closed:
        raise UserError(f"{file}: cut off after {len(values) // count} entries; download the file again")
    lists = 1 + len(values) // count * sum(math.prod(shape[:level]) for level in range(len(shape)))  # number of "["
    if len(values) % count or opened != lists:
        raise UserError(f"{file}: must contain {wanted}, but the lists have other lengths; download the file again")
    values = values.reshape(-1, *shape)  # (N, *shape)
    wrong = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(-1))
    if len(wrong):
        raise UserError(f"{file}: entry {wrong[0]} is not finite; download the file again")
    return values


def _pieces(file: Path) -> typing.Iterator[bytes]:
    """Yield the content of the file in pieces, which end at commas."""
    try:
        with file.open("rb") as content:
            content.seek(-min(64, file.stat().st_size), os.SEEK_END)
            if not content.read().rstrip().endswith(b"]"):
                raise UserError(f"{file}: does not end with ']': cut off, or not a JSON list; download it again")
            content.seek(0)
            remainder = b""
            while piece := content.read(_PIECE):
                head, comma, remainder = (remainder + piece).rpartition(b",")
                if comma:
                    yield head
            yield remainder
    except OSError as error:
        raise files.unreadable(file, error) from None
