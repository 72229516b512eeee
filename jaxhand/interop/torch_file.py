"""Reads files of `torch.save` without PyTorch. No code of the pickle runs, and tensors stay on disk until requested.

The file is a zip archive. Its member data.pkl is a pickle, in which a tensor is a function call that refers to a
storage by its number. The bytes of each storage are in an uncompressed member, data/NUMBER.
"""

import io
import math
import re
import struct
import typing
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxhand.config import UserError, limits
from jaxhand.interop.tensor import BFLOAT16, Tensor
from jaxhand.io import pickles
from jaxhand.io.archives import DAMAGED

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# Objects in checkpoints that are not weights: settings, paths and dates, states of optimizers and of training loops.
# They become None, and their classes are never called.
_IGNORED = re.compile(
    r"(yacs|omegaconf|pytorch_lightning|lightning|lightning_\w+|mmcv|mmengine|mmpose|hamer|wilor|argparse|typing"
    r"|torch\.optim|torch\.nn)\..+"
    r"|torch\.(device|Size|(b?float|u?int|complex)\d+|bool)"
    r"|(pathlib|datetime|zoneinfo|uuid|decimal|fractions|enum|dataclasses|numpy\.random)\..+"
    r"|collections\.(Counter|defaultdict|deque)"
    r"|(builtins|__builtin__)\.(bool|dict|float|int|list|str|tuple|type)"
)
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # first bytes of a file before PyTorch 1.6


def read(path: str | Path) -> typing.Any:
    """Read a file of `torch.save`.

    Args:
        path: the file.

    Returns:
        Nested dicts and lists of plain values. Each tensor is a `Tensor`, whose elements are not read yet. Objects of
        other libraries, such as Lightning's settings, are None.

    Raises:
        UserError: the file does not exist, is damaged, has another format, or refers to code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            members = _Members(path, file)
            order = members.content("byteorder") if "byteorder" in members.sizes else b"little"
            if order != b"little":
                raise UserError(
                    f"{path}: was written on a big-endian machine; save the file again on a little-endian one"
                )
            return pickles.read(_Unpickler(members), f"{path}: data.pkl")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class _Members:
    """The members of a zip archive, and the position of each member in the file."""

    def __init__(self, path: Path, file: typing.BinaryIO):
        self.path, self._file = path, file
        try:
            infos = zipfile.ZipFile(file).infolist()
        except DAMAGED:
            raise UserError(f"{path}: {_describe_other_format(file)}") from None
        roots = [info.filename.removesuffix("data.pkl") for info in infos if info.filename.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise UserError(
                f"{path}: a zip archive, but not one of torch.save: it has {len(roots)} members data.pkl, not 1"
            )
        self._infos = {info.filename.removeprefix(roots[0]): info for info in infos}
        self.sizes = {name: info.file_size for name, info in self._infos.items()}
        self.end = file.seek(0, io.SEEK_END)

    def location(self, name: str) -> tuple[int, int]:
        """Offset of a member's first byte in the archive, and the CRC-32 checksum of the member (0: unknown)."""
        info = self._infos[name]
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if info.compress_type != zipfile.ZIP_STORED or header[:4] != b"PK\x03\x04":
            raise UserError(f"{self.path}: {name} is compressed or damaged; save the file again with torch.save")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + info.file_size > self.end:
            raise UserError(f"{self.path}: ends inside {name}; download it again")
        return start, info.CRC

    def content(self, name: str) -> bytes:
        """Read all bytes of a small member."""
        start, crc = self.location(name)
        self._file.seek(start)
        content = self._file.read(self.sizes[name])
        if crc and zlib.crc32(content) != crc:
            raise UserError(f"{self.path}: {name} is damaged (wrong checksum); download the file again")
        return content


def _describe_other_format(file: typing.BinaryIO) -> str:
    """Describe a file that is not a readable zip archive, and what the user can do: the end of an error message."""
    file.seek(0)
    begin = file.read(512)
    if begin.startswith(b"PK\x03\x04"):
        return "the file is truncated; download it again"
    if begin.startswith(_LEGACY) or begin[257:262] == b"ustar":
        again = "torch.save(torch.load(FILE, map_location='cpu'), NEW_FILE)"
        return f"has the format of PyTorch before version 1.6; save the file again with PyTorch: {again}"
    return f"not a file of torch.save: the file begins with {begin[:40]!a}"


class TensorUnpickler(pickles.Unpickler):
    """Unpickles tensors and ignores objects of other libraries. Subclasses implement `persistent_load` for storages.

    Args:
        stream: the pickle.
        most: largest number of elements of a tensor, whatever its strides.
    """

    def __init__(self, stream: io.BytesIO, most: int):
        tensors = {"_rebuild_tensor_v2": self._tensor, "_rebuild_parameter": self._parameter}
        tensors |= {"_rebuild_parameter_with_state": self._parameter}
        allowed = {f"torch._utils.{name}": method for name, method in tensors.items()}
        allowed |= {f"torch.{name}": name for name in STORAGES}
        super().__init__(stream, allowed)
        self._most = most

    def find_class(self, module: str, name: str) -> typing.Any:
        """Resolve a global name: a class of `_IGNORED` is replaced, all others are checked by `pickles.Unpickler`."""
        return _Ignored if _IGNORED.fullmatch(f"{module}.{name}") else super().find_class(module, name)

    def _tensor(self, storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, Tensor) or any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a tensor with invalid offset, shape or strides")
        tensor = storage._replace(
            start=storage.start + offset * storage.dtype.itemsize, shape=tuple(shape), strides=tuple(strides)
        )
        [elements] = storage.shape
        if not len(shape) == len(strides) <= limits.AXES or offset + tensor.span > elements:
            raise ValueError(
                f"a tensor {shape} with strides {strides} and offset {offset} in a storage of {elements} elements"
            )
        if math.prod(shape) > self._most:  # with stride 0, a shape can be larger than the memory
            raise ValueError(f"a tensor {shape} in a file of {self._most} bytes")
        covers_storage = not offset and tensor.span == elements
        return _TensorPlaceholder(tensor if covers_storage else tensor._replace(crc=0))

    def _parameter(self, data, *_):
        return data


class _Unpickler(TensorUnpickler):
    def __init__(self, members: _Members):
        super().__init__(io.BytesIO(members.content("data.pkl")), members.end)
        self._members = members

    def persistent_load(self, pid):
        kind, name, number, _, elements = pid
        if kind != "storage" or name not in STORAGES:
            raise pickles.ForbiddenGlobal(f"persistent_load({kind!r}, {name!r})")
        dtype, member = np.dtype(STORAGES[name]), f"data/{number}"
        if member not in self._members.sizes:
            raise ValueError(f"{member} is missing")
        if self._members.sizes[member] != elements * dtype.itemsize:
            raise ValueError(f"{member} has {self._members.sizes[member]} bytes, not {elements} elements of {dtype}")
        start, crc = self._members.location(member)
        return Tensor(self._members.path, start, dtype, (elements,), (1,), crc)


class _TensorPlaceholder(pickles.Placeholder):
    """Placeholder of a tensor, which the pickle cannot change."""

    def __init__(self, tensor: Tensor):
        self._tensor = tensor

    def materialize(self, convert):
        return self._tensor


class _Ignored(pickles.Placeholder):
    """Placeholder of an object of `_IGNORED`, whose library may not be installed. It ignores the object's content."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def materialize(self, convert):
        return None
