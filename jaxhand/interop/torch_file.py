"""What `torch.save` wrote, read without PyTorch: its pickle runs nothing, and tensors stay on disk until asked for.

The archive holds a pickle, data.pkl, in which a tensor is a call with the number of a storage, and the bytes of each
storage uncompressed as a member of its own, data/NUMBER.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.interop.tensor import BFLOAT16, Tensor
from jaxhand.io import pickles

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
# What checkpoints hold beside weights: settings, and states of optimizers and loops. Nothing of it is kept.
_INERT = re.compile(
    r"(yacs|omegaconf|pytorch_lightning|lightning|lightning_\w+|mmcv|mmengine|mmpose|hamer|wilor|argparse|typing"
    r"|torch\.optim|torch\.nn)\..+"
    r"|torch\.(device|Size|(b?float|u?int|complex)\d+|bool)"
    r"|collections\.(Counter|defaultdict|deque)"
    r"|(builtins|__builtin__)\.(bool|dict|float|int|list|str|tuple|type)"
)
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the magic number of PyTorch before 1.6


def read(path: str | Path):
    """What was saved: nested plain values and arrays, with a `Tensor`, not yet read, for each tensor.

    Objects of other libraries, such as Lightning's settings, are None.

    Raises:
        UserError: there is no such file, it is damaged or of another format, or it wants to run anything.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            members = _Members(path, file)
            order = members.content("byteorder") if "byteorder" in members.sizes else b"little"
            if order != b"little":
                raise UserError(f"{path}: was written on a big-endian machine; save it again on another")
            return pickles.read(_Unpickler(members), f"{path}: data.pkl")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class _Members:
    """The files in an archive: where their bytes lie."""

    def __init__(self, path: Path, file):
        self.path, self._file = path, file
        try:
            infos = zipfile.ZipFile(file).infolist()
        except (
            zipfile.BadZipFile,
            ValueError,
            RuntimeError,
            struct.error,
        ):  # RuntimeError: a version unknown to zipfile
            raise UserError(f"{path}: {_what_else(file)}") from None
        roots = [info.filename.removesuffix("data.pkl") for info in infos if info.filename.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise UserError(f"{path}: a zip archive, but not one of torch.save: it has {len(roots)} data.pkl")
        self._infos = {info.filename.removeprefix(roots[0]): info for info in infos}
        self.sizes = {name: info.file_size for name, info in self._infos.items()}
        self.end = file.seek(0, io.SEEK_END)

    def place(self, name: str) -> tuple[int, int]:
        """The first byte of a member in the archive, and its CRC-32 (0: not known)."""
        info = self._infos[name]
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if info.compress_type != zipfile.ZIP_STORED or header[:4] != b"PK\x03\x04":
            raise UserError(f"{self.path}: {name} is compressed or damaged; save it again with torch.save")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + info.file_size > self.end:
            raise UserError(f"{self.path}: ends inside {name}; download it again")
        return start, info.CRC

    def content(self, name: str) -> bytes:
        """A small member, whole."""
        start, crc = self.place(name)
        self._file.seek(start)
        content = self._file.read(self.sizes[name])
        if crc and zlib.crc32(content) != crc:
            raise UserError(f"{self.path}: {name} is not what was written; download it again")
        return content


def _what_else(file) -> str:
    """What a file is that is no zip archive."""
    file.seek(0)
    begin = file.read(512)
    if begin.startswith(b"PK\x03\x04"):
        return "the end is missing; download it again"
    if begin.startswith(_LEGACY) or begin[257:262] == b"ustar":
        again = "torch.save(torch.load(FILE, map_location='cpu'), NEW_FILE)"
        return f"is in PyTorch's format of before version 1.6; save it again with PyTorch: {again}"
    return f"not a file of torch.save, it begins with {begin[:40]!a}"


class _Unpickler(pickles.Unpickler):
    def __init__(self, members: _Members):
        tensors = {"_rebuild_tensor_v2": self._tensor, "_rebuild_parameter": self._parameter}
        tensors |= {"_rebuild_parameter_with_state": self._parameter}
        stands = {f"torch._utils.{name}": method for name, method in tensors.items()}
        stands |= {f"torch.{name}": name for name in STORAGES}
        super().__init__(io.BytesIO(members.content("data.pkl")), stands)
        self._members = members

    def find_class(self, module, name):
        return _Nothing if _INERT.fullmatch(f"{module}.{name}") else super().find_class(module, name)

    def persistent_load(self, pid):
        kind, name, number, _, elements = pid
        if kind != "storage" or name not in STORAGES:
            raise pickles.Refused(f"persistent_load({kind!r}, {name!r})")
        dtype, member = np.dtype(STORAGES[name]), f"data/{number}"
        if member not in self._members.sizes:
            raise ValueError(f"{member} is missing")
        if self._members.sizes[member] != elements * dtype.itemsize:
            raise ValueError(f"{member} has {self._members.sizes[member]} bytes, not {elements} of {dtype}")
        start, crc = self._members.place(member)
        return Tensor(self._members.path, start, dtype, (elements,), (1,), crc)

    def _tensor(self, storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, Tensor) or any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a tensor that is none")
        tensor = storage._replace(
            start=storage.start + offset * storage.dtype.itemsize, shape=tuple(shape), strides=tuple(strides)
        )
        [elements] = storage.shape
        if len(shape) != len(strides) or offset + tensor.span > elements:
            raise ValueError(f"a tensor {shape} with strides {strides} from {offset} on, in {elements} elements")
        if math.prod(shape) > self._members.end:  # what repeats itself can describe more than any memory holds
            raise ValueError(f"a tensor {shape} in a file of {self._members.end} bytes")
        whole = not offset and tensor.span == elements
        return _Made(tensor if whole else tensor._replace(crc=0))

    def _parameter(self, data, *_):
        return data


class _Made(pickles.Stand):
    """A tensor, behind what a pickle may do to what it has made."""

    def __init__(self, tensor: Tensor):
        self._tensor = tensor

    def made(self, make):
        return self._tensor


class _Nothing(pickles.Stand):
    """Stands for an object of a library that is not here: takes whatever it is given and keeps none of it."""

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

    def made(self, make):
        return None
