"""Reads .safetensors files.

Such a file has a JSON header with names, types, shapes and byte offsets of the tensors. The tensors' bytes follow.
"""

import itertools
import math
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, limits
from jaxhand.config.json_text import parse_json
from jaxhand.interop.tensor import BFLOAT16, Tensor, dense_strides

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def read(path: str | Path) -> dict[str, Tensor]:
    """Read the header of a .safetensors file.

    Args:
        path: the file.

    Returns:
        Name → tensor, whose elements are not read yet.

    Raises:
        UserError: the file does not exist, is damaged or has another format, or a tensor's type is unknown.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            begin, end = 8 + length, path.stat().st_size
            header = parse_json(file.read(length)) if begin <= end else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise UserError(
            f"{path}: damaged or incomplete .safetensors file: its header cannot be read; download it again"
        )
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, begin, end) for name, entry in header.items()}
    ordered = sorted((item for item in tensors.items() if item[1].span), key=lambda item: item[1].start)
    for (name, tensor), (other, following) in itertools.pairwise(ordered):
        if tensor.start + tensor.span * tensor.dtype.itemsize > following.start:
            names = f"{ascii(name)[:100]} and {ascii(other)[:100]}"
            raise UserError(f"{path}: the tensors {names} overlap in the file; download it again")
    return tensors


def _tensor(path: Path, name: str, entry: dict, begin: int, end: int) -> Tensor:
    """The tensor of an entry of the header. `begin` and `end` are the first byte and the end of the data section."""
    origin = f"{path}: {ascii(name)[:100]}"
    incomplete = UserError(f"{origin}: its type, shape or offsets are missing or invalid; download the file again")
    try:
        shape, (first, last), kind = tuple(entry["shape"]), entry["data_offsets"], entry["dtype"]
    except (TypeError, KeyError, ValueError):
        raise incomplete from None
    if len(shape) > limits.AXES or not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise incomplete
    if not isinstance(kind, str) or kind not in DTYPES:
        raise UserError(f"{origin}: its type {ascii(kind)[:20]} is unknown; known types are {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[kind])
    if last - first != math.prod(shape) * dtype.itemsize:
        raise UserError(
            f"{origin}: has {last - first} bytes, not {math.prod(shape)} elements of {kind}; download the file again"
        )
    if begin + last > end:
        raise UserError(f"{origin}: its offsets are beyond the end of the file; download the file again")
    return Tensor(path, begin + first, dtype, shape, dense_strides(shape))
