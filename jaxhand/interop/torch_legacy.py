"""Reads files of `torch.save` before PyTorch 1.6, without PyTorch.

Such a file begins with five pickles: a magic number, a version, the sizes of types on the machine, the saved object,
and a list of the keys of the storages. For each storage, in the order of this list, the number of elements and the
elements follow.
"""

import io
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, limits
from jaxhand.interop import torch_file
from jaxhand.interop.tensor import Tensor
from jaxhand.io import pickles

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # first bytes of such a file


def read(path: str | Path):
    """Read a file of `torch.save`. A file of PyTorch 1.6 or later is read by `torch_file.read`.

    Args:
        path: the file.

    Returns:
        The saved object, as `torch_file.read` returns it.

    Raises:
        UserError: the file does not exist, is damaged, has another format, or refers to code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            begin = file.read(limits.TORCH_PICKLES)
            end = file.seek(0, io.SEEK_END)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not begin.startswith(MAGIC):
        return torch_file.read(path)
    stream, where = io.BytesIO(begin), f"{path}: a pickle"
    sizes: dict[str, int] = {}  # key of a storage → its size in bytes
    heads = [pickles.read(pickles.Unpickler(stream), where) for _ in range(3)]
    if not isinstance(heads[2], dict) or heads[2].get("little_endian") is not True:
        raise UserError(f"{path}: was written on a big-endian machine; save the file again on a little-endian one")
    start = stream.tell()
    pickles.read(_Unpickler(stream, path, end, sizes, {}), where)  # the first pass only fills `sizes`
    keys = pickles.read(pickles.Unpickler(stream), where)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(sizes):
        raise UserError(f"{path}: its list of storages does not match its tensors; download it again")
    places, at = {}, stream.tell()
    for key in keys:
        places[key] = at + 8
        at += 8 + sizes[key]
    if at > end:
        raise UserError(f"{path}: incomplete, {end} of {at} bytes; download it again")
    stream.seek(start)
    return pickles.read(_Unpickler(stream, path, end, sizes, places), where)


class _Unpickler(torch_file.TensorUnpickler):
    """Writes the size of every storage into `sizes`, and returns it as a `Tensor` at its offset, if `places` has it."""

    def __init__(self, stream, path: Path, end: int, sizes: dict[str, int], places: dict[str, int]):
        super().__init__(stream, end)
        self._path, self._sizes, self._places = path, sizes, places

    def persistent_load(self, pid):
        kind, name, key, _, elements, view = pid
        if kind != "storage" or name not in torch_file.STORAGES or view is not None:
            raise pickles.ForbiddenGlobal(f"persistent_load({kind!r}, {name!r})")
        if type(elements) is not int or elements < 0 or not isinstance(key, str):
            raise ValueError(f"a storage of {elements!r} elements")
        dtype = np.dtype(torch_file.STORAGES[name])
        self._sizes[key] = elements * dtype.itemsize
        return Tensor(self._path, self._places.get(key, 0), dtype, (elements,), (1,))
