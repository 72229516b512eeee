"""Read .npy and .npz files: the size that a header states is compared with the file before memory is reserved."""

import contextlib
import math
import os
import typing
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, limits
from jaxhand.io import pickles
from jaxhand.io.archives import Archive
from jaxhand.io.files import one_line

FAULT = "damaged or incomplete {} file ({}); download it again"


def read_npy(file: str | Path, *, fault: str = FAULT) -> np.ndarray:
    """Read an .npy file of numbers or text.

    Args:
        file: path of the .npy file.
        fault: message for a damaged file, with a place for the suffix and a place for the reason.

    Raises:
        UserError: the file does not exist, is damaged, or contains objects.
    """
    with _errors(file, fault.format(".npy", "{}")), open(file, "rb") as stream:
        return _read_array(stream, os.fstat(stream.fileno()).st_size)


def read_npz(
    file: str | Path, names: Collection[str] | None = None, *, objects: bool = False, fault: str = FAULT
) -> dict[str, np.ndarray]:
    """Read an .npz file.

    Args:
        file: path of the .npz file.
        names: the arrays to read, if the file has them; None: all.
        objects: also read arrays of objects, which are stored as pickles. `pickles.load` reads them.
        fault: as for `read_npy`.

    Returns:
        The arrays: name → array.

    Raises:
        UserError: the file does not exist, is damaged, or refers to anything other than plain values and arrays.
    """
    arrays = {}
    with _errors(file, fault.format(".npz", "{}")), Archive(file) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if names is None or name in names:
                with archive.open_member(info) as stream:
                    origin = f"{file}: {one_line(info.filename)}" if objects else ""
                    arrays[name] = _read_array(stream, info.file_size, origin)
    return arrays


def names_in(file: str | Path) -> list[str]:
    """Return the names of the arrays in an .npz file that can be read."""
    with Archive(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _read_array(stream: typing.IO[bytes], size: int, origin: str = "") -> np.ndarray:
    """Read an array from a stream of `size` bytes; an array of objects only if `origin` is its name in errors."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    size -= stream.tell()
    if dtype.hasobject and origin:
        array = pickles.load(stream.read(), origin)
        if not isinstance(array, np.ndarray):
            raise UserError(f"{origin}: must be an array, but is a {type(array).__name__}")
        return array
    count = math.prod(shape)
    if len(shape) > limits.AXES or min(shape, default=0) < 0 or count * max(dtype.itemsize, 1) > size:
        raise ValueError(f"an array of shape {shape} and type {dtype} in {size} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


@contextlib.contextmanager
def _errors(file: str | Path, fault: str) -> Iterator[None]:
    """Context manager that turns any error while a file is read into a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or one_line(error)})") from None
    except Exception as error:  # a damaged file can raise nearly any exception
        raise UserError(f"{file}: {fault.format(one_line(error))}") from None
