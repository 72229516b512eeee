"""Reads a TFLite network without TensorFlow: its operations in the order they run, with their constants and options.

A .tflite file is a flatbuffer: tables whose fields are found through a list of offsets. Only the few tables of TFLite's
schema that hold operations, tensors and constants are read. Field numbers are those of TensorFlow's
`lite/schema/schema.fbs`. Every offset is checked against the size of the file, and constants are views of its bytes, so
a damaged file costs no more memory than its own size.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxhand.config import UserError

MOST_BYTES = 256 << 20  # of one file; MediaPipe's networks for hands have 2 to 6 MB
MOST_ITEMS = 5_000  # operations, tensors or constants of one network
MOST_TENSORS = 32  # of one operation, and at each end of a network
IDENTIFIER = b"TFL3"
DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 9: "i1"}
OPERATIONS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE",
    9: "FULLY_CONNECTED", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6", 22: "RESHAPE",
    23: "RESIZE_BILINEAR", 34: "PAD", 40: "MEAN", 54: "PRELU",
}  # fmt: skip
_PADDING = ("SAME", "VALID")
_ACTIVATION = ("", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
# Options of an operation: name: (number of the field, its struct format, default)
_STRIDES = {"padding": (0, "b", 0), "stride_w": (1, "<i", 0), "stride_h": (2, "<i", 0)}
_POOL = _STRIDES | {"filter_w": (3, "<i", 0), "filter_h": (4, "<i", 0), "activation": (5, "b", 0)}
OPTIONS = {
    "CONV_2D": _STRIDES | {"activation": (3, "b", 0), "dilation_w": (4, "<i", 1), "dilation_h": (5, "<i", 1)},
    "DEPTHWISE_CONV_2D": _STRIDES
    | {"multiplier": (3, "<i", 0), "activation": (4, "b", 0), "dilation_w": (5, "<i", 1), "dilation_h": (6, "<i", 1)},
    "MAX_POOL_2D": _POOL,
    "AVERAGE_POOL_2D": _POOL,
    "ADD": {"activation": (0, "b", 0)},
    "MUL": {"activation": (0, "b", 0)},
    "FULLY_CONNECTED": {"activation": (0, "b", 0)},
    "CONCATENATION": {"axis": (0, "<i", 0), "activation": (1, "b", 0)},
    "RESIZE_BILINEAR": {"align_corners": (2, "?", False), "half_pixel_centers": (3, "?", False)},
    "MEAN": {"keep_dims": (0, "?", False)},
}


class TensorInfo(NamedTuple):
    """A tensor at an end of a network."""

    number: int
    name: str
    shape: tuple[int, ...]


class Operation(NamedTuple):
    """One step of a network."""

    name: str  # such as "CONV_2D"; "BUILTIN_99" where the reader has no name, "CUSTOM" for one from outside TFLite
    constants: list[np.ndarray]  # those of its inputs that are constants, in the order of the inputs; read-only
    options: dict  # such as stride_h; only of the operations in `OPTIONS`
    inputs: tuple[int, ...]  # numbers of tensors; -1 where an optional one is missing
    outputs: tuple[int, ...]


class Network(NamedTuple):
    """A whole network. Operations that only widen float16 constants are left out; these constants are float16."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    operations: list[Operation]


def read(source: str | Path) -> Network:
    """Read a .tflite file.

    Raises:
        UserError: there is no such file, it is damaged or has another format, or a constant is sparse or quantised.
    """
    path = Path(source)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return parse(content, str(path))


def read_archive(source: str | Path, wanted: Callable[[str], bool]) -> dict[str, Network]:
    """Read networks from a zip archive, such as a wheel or MediaPipe's .task bundle.

    Args:
        source: the archive.
        wanted: whether the member with a name is to be read.

    Returns:
        Networks by the names of their members.

    Raises:
        UserError: there is no such file, it is damaged or no zip archive, or a network in it is as in `read`.
    """
    path = Path(source)
    try:
        with zipfile.ZipFile(path) as archive:
            members, left = {}, MOST_BYTES
            for info in archive.infolist():
                if wanted(info.filename):
                    with archive.open(info) as member:
                        members[info.filename] = member.read(left + 1)
                    left -= len(members[info.filename])
                    if left < 0:
                        raise UserError(f"{path}: its networks take more than {MOST_BYTES >> 20} MB")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        RuntimeError,
        NotImplementedError,
        EOFError,
        struct.error,
    ) as error:
        reason = ascii(" ".join(str(error).split()))[1:-1][:100]
        raise UserError(f"{path}: not a whole zip archive ({reason}); download it again") from None
    return {name: parse(content, f"{path}: {ascii(name)[1:-1][:200]}") for name, content in members.items()}


def parse(content: bytes, where: str) -> Network:
    """Read the bytes of a .tflite file.

    Args:
        content: all of the file.
        where: the name of the file, for errors.

    Raises:
        UserError: as `read`.
    """
    if len(content) > MOST_BYTES:
        raise UserError(f"{where}: larger than {MOST_BYTES >> 20} MB, so it is no network for hands")
    if content[4:8] != IDENTIFIER:
        raise UserError(f"{where}: not a .tflite file, it begins with {ascii(content[:8])}")
    try:
        return _network(_Table(content, _number(content, "<I", 0)))
    except _Damaged as damage:
        raise UserError(f"{where}: {damage}; download it again") from None
    except _Unsupported as reason:
        raise UserError(f"{where}: {reason}") from None


class _Damaged(Exception):
    """What in a file contradicts the format."""


class _Unsupported(Exception):
    """What a valid file has and this reader has not."""


def _number(content: bytes, kind: str, at: int):
    """The number of a struct format at a byte."""
    if at < 0 or at + struct.calcsize(kind) > len(content):
        raise _Damaged(f"points to byte {at}, but has {len(content)}")
    return struct.unpack_from(kind, content, at)[0]


class _Table(NamedTuple):
    """A table of a flatbuffer: fields by their numbers."""

    content: bytes
    start: int

    def _place(self, field: int) -> int:
        """The byte where a field lies; 0 where the table does not have it."""
        fields = self.start - _number(self.content, "<i", self.start)
        at = 4 + 2 * field
        if at + 2 > _number(self.content, "<H", fields):
            return 0
        offset = _number(self.content, "<H", fields + at)
        return self.start + offset if offset else 0

    def number(self, field: int, kind: str, default=0):
        """A number."""
        at = self._place(field)
        return _number(self.content, kind, at) if at else default

    def table(self, field: int) -> "_Table | None":
        """A table inside this one."""
        at = self._place(field)
        return _Table(self.content, at + _number(self.content, "<I", at)) if at else None

    def array(self, field: int, dtype: str) -> np.ndarray:
        """A list of numbers, as a view of the file."""
        at = self._place(field)
        if not at:
            return np.empty(0, dtype)
        begin = at + _number(self.content, "<I", at)
        length = _number(self.content, "<I", begin)
        if begin + 4 + length * np.dtype(dtype).itemsize > len(self.content):
            raise _Damaged(f"a list of {length} numbers at byte {begin} is longer than the file")
        return np.frombuffer(self.content, dtype, length, begin + 4)

    def tables(self, field: int) -> "list[_Table]":
        """A list of tables."""
        offsets = self.array(field, "<u4")
        if len(offsets) > MOST_ITEMS:
            raise _Damaged(f"lists {len(offsets)} parts; a network for hands has a few hundred")
        begin = self._place(field)
        begin += _number(self.content, "<I", begin) + 4 if begin else 0
        return [_Table(self.content, begin + 4 * i + int(offset)) for i, offset in enumerate(offsets)]

    def text(self, field: int) -> str:
        """A short text."""
        return self.array(field, "u1")[:1000].tobytes().decode("utf-8", "replace")


def _network(model: _Table) -> Network:
    graphs = model.tables(2)
    if len(graphs) != 1:
        raise _Unsupported(f"has {len(graphs)} networks, only files of one are read")
    graph, buffers, codes = graphs[0], model.tables(4), [_code(table) for table in model.tables(1)]
    tensors = graph.tables(0)
    widened, operations = {}, []  # constants that are widened when the network runs, by the number of the wide tensor

    def tensor(number: int) -> _Table:
        if not 0 <= number < len(tensors):
            raise _Damaged(f"names tensor {number}, but has {len(tensors)}")
        return tensors[number]

    def constant(number: int) -> np.ndarray | None:
        return widened[number] if number in widened else _constant(tensor(number), buffers)

    for table in graph.tables(3):
        code = table.number(0, "<I")
        if code >= len(codes):
            raise _Damaged(f"names operation {code}, but has {len(codes)}")
        name = codes[code]
        inputs, outputs = (_ints(table.array(field, "<i4")) for field in (1, 2))
        constants = [array for array in map(constant, (i for i in inputs if i >= 0)) if array is not None]
        if name == "DEQUANTIZE" and len(outputs) == 1 and len(constants) == len(inputs) == 1:
            if constants[0].dtype != np.float16:
                raise _Unsupported("has quantised constants, only float ones are read")
            widened[outputs[0]] = constants[0]
        else:
            operations.append(Operation(name, constants, _options(name, table.table(4)), inputs, outputs))
    inputs, outputs = ([TensorInfo(i, *_info(tensor(i))) for i in _ints(graph.array(field, "<i4"))] for field in (1, 2))
    return Network(inputs, outputs, operations)


def _ints(array: np.ndarray) -> tuple[int, ...]:
    if len(array) > MOST_TENSORS:
        raise _Damaged(f"has an operation or an end with {len(array)} tensors")
    return tuple(map(int, array))


def _code(table: _Table) -> str:
    """The name of an operation; older files have its number in a field of one byte."""
    number = max(table.number(0, "b"), table.number(3, "<i"))
    return "CUSTOM" if number == 32 else OPERATIONS.get(number, f"BUILTIN_{number}")


def _options(name: str, table: _Table | None) -> dict:
    fields = OPTIONS.get(name, {})
    options = {
        key: default if table is None else table.number(*field, default=default)
        for key, (*field, default) in fields.items()
    }
    for key, names in (("padding", _PADDING), ("activation", _ACTIVATION)):
        if key in options:
            if not 0 <= options[key] < len(names):
                raise _Damaged(f"{name} has {key} {options[key]}")
            options[key] = names[options[key]]
    return options


def _info(table: _Table) -> tuple[str, tuple[int, ...]]:
    """The name and the shape of a tensor."""
    return table.text(3), tuple(map(int, table.array(0, "<i4")[:20]))


def _constant(table: _Table, buffers: list[_Table]) -> np.ndarray | None:
    """The constant that a tensor is; None for one that is computed."""
    number = table.number(2, "<I")
    if number >= len(buffers):
        raise _Damaged(f"names constant {number}, but has {len(buffers)}")
    raw = buffers[number].array(0, "u1")
    if not raw.size:
        return None
    name, shape = _info(table)
    name = ascii(name)[1:-1][-60:]
    if table.table(6) is not None:
        raise _Unsupported(f"constant {name} is sparse, only dense ones are read")
    kind = table.number(1, "b")
    if kind not in DTYPES:
        raise _Unsupported(f"constant {name} has type {kind} of TFLite's schema, which is not read")
    dtype = np.dtype(DTYPES[kind])
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != raw.size:
        raise _Damaged(f"constant {name} has {raw.size} bytes, not {shape} of {dtype}")
    return raw.view(dtype).reshape(shape)
