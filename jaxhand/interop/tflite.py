"""Reads a TFLite network without TensorFlow: its operations in order of execution, with their constants and options.

A .tflite file is a flatbuffer: tables, each with a list of the offsets of its fields. Only the tables for operations,
tensors and constants are read. Field numbers are those of TensorFlow's `lite/schema/schema.fbs`. Every offset is
checked against the size of the file. Constants are views of the file's bytes, so a damaged file cannot need more memory
than its own size.
"""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxhand.config import UserError, limits
from jaxhand.io.archives import DAMAGED, Archive
from jaxhand.io.files import one_line

IDENTIFIER = b"TFL3"
DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 9: "i1"}
OPERATIONS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE",
    9: "FULLY_CONNECTED", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6", 22: "RESHAPE",
    23: "RESIZE_BILINEAR", 34: "PAD", 40: "MEAN", 54: "PRELU",
}  # fmt: skip
_PADDING = ("SAME", "VALID")
_ACTIVATION = ("", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
# Options of an operation: name → (field number, format of the struct module, default)
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
    """An input or output tensor of a network."""

    number: int
    name: str
    shape: tuple[int, ...]


class Operation(NamedTuple):
    """One operation of a network."""

    name: str  # such as "CONV_2D"; "BUILTIN_99" if `OPERATIONS` lacks its number; "CUSTOM" if it is not one of TFLite
    constants: list[np.ndarray]  # the constants among its inputs, in the order of the inputs; read-only arrays
    options: dict  # option such as stride_h → value; empty if `OPTIONS` lacks the operation
    inputs: tuple[int, ...]  # tensor numbers; -1: an optional input that is missing
    outputs: tuple[int, ...]


class Network(NamedTuple):
    """A network. Operations that only convert float16 constants to float32 are left out: the constants are float16."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    operations: list[Operation]


def read(source: str | Path) -> Network:
    """Read a .tflite file.

    Raises:
        UserError: the file does not exist, is damaged, has another format, or has a sparse or quantised constant.
    """
    path = Path(source)
    try:
        with path.open("rb") as file:
            content = file.read(limits.NETWORK_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return parse(content, str(path))


def read_archive(source: str | Path, wanted: Callable[[str], bool]) -> dict[str, Network]:
    """Read networks from a zip archive, such as a wheel or MediaPipe's .task bundle.

    Args:
        source: the archive.
        wanted: function of a member's name that returns whether to read the member.

    Returns:
        Name of a member → network.

    Raises:
        UserError: the archive does not exist or is damaged, or a network in it cannot be read, see `read`.
    """
    path = Path(source)
    try:
        with Archive(path) as archive:
            chosen = [info for info in archive.infolist() if wanted(info.filename)]
            members = {info.filename: archive.open_member(info).read() for info in chosen}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or incomplete zip archive ({one_line(error)}); download it again") from None
    return {name: parse(content, f"{path}: {ascii(name)[1:-1][:200]}") for name, content in members.items()}


def parse(content: bytes, where: str) -> Network:
    """Read the bytes of a .tflite file.

    Args:
        content: all bytes of the file.
        where: the name of the file, for error messages.

    Raises:
        UserError: see `read`.
    """
    if len(content) > limits.NETWORK_BYTES:
        raise UserError(
            f"{where}: larger than {limits.NETWORK_BYTES >> 20} MB, too large for a network for hands of MediaPipe"
        )
    if content[4:8] != IDENTIFIER:
        raise UserError(f"{where}: not a .tflite file: the file begins with {ascii(content[:8])}")
    try:
        return _network(_Table(content, _number(content, "<I", 0)))
    except _Damaged as damage:
        raise UserError(f"{where}: {damage}; download it again") from None
    except _Unsupported as reason:
        raise UserError(f"{where}: {reason}") from None


class _Damaged(Exception):
    """The content of a file contradicts the .tflite format."""


class _Unsupported(Exception):
    """A valid file uses a feature of the format that this reader does not support."""


def _number(content: bytes, kind: str, at: int):
    """Read the number at byte `at`; `kind` is its format in the struct module."""
    if at < 0 or at + struct.calcsize(kind) > len(content):
        raise _Damaged(f"refers to byte {at}, but has {len(content)} bytes")
    return struct.unpack_from(kind, content, at)[0]


class _Table(NamedTuple):
    """A table of a flatbuffer. Each method reads a field, given its number."""

    content: bytes
    start: int

    def _place(self, field: int) -> int:
        """Offset of a field in the file, bytes; 0 if the table does not have the field."""
        fields = self.start - _number(self.content, "<i", self.start)
        at = 4 + 2 * field
        if at + 2 > _number(self.content, "<H", fields):
            return 0
        offset = _number(self.content, "<H", fields + at)
        return self.start + offset if offset else 0

    def number(self, field: int, kind: str, default=0):
        """Read a field that is a number; `kind` is its format in the struct module."""
        at = self._place(field)
        return _number(self.content, kind, at) if at else default

    def table(self, field: int) -> "_Table | None":
        """Read a field that is a table; None if it is missing."""
        at = self._place(field)
        return _Table(self.content, at + _number(self.content, "<I", at)) if at else None

    def array(self, field: int, dtype: str) -> np.ndarray:
        """Read a field that is a list of numbers, as a view of the file's bytes."""
        at = self._place(field)
        if not at:
            return np.empty(0, dtype)
        begin = at + _number(self.content, "<I", at)
        length = _number(self.content, "<I", begin)
        if begin + 4 + length * np.dtype(dtype).itemsize > len(self.content):
            raise _Damaged(f"a list of {length} numbers at byte {begin} is longer than the file")
        return np.frombuffer(self.content, dtype, length, begin + 4)

    def tables(self, field: int) -> "list[_Table]":
        """Read a field that is a list of tables."""
        offsets = self.array(field, "<u4")
        if len(offsets) > limits.NETWORK_ITEMS:
            raise _Damaged(f"has a list of {len(offsets)} tables; a network for hands has a few hundred")
        begin = self._place(field)
        begin += _number(self.content, "<I", begin) + 4 if begin else 0
        return [_Table(self.content, begin + 4 * i + int(offset)) for i, offset in enumerate(offsets)]

    def text(self, field: int) -> str:
        """Read a field that is a text, at most 1000 bytes of it."""
        return self.array(field, "u1")[:1000].tobytes().decode("utf-8", "replace")


def _network(model: _Table) -> Network:
    graphs = model.tables(2)
    if len(graphs) != 1:
        raise _Unsupported(f"has {len(graphs)} networks; only a file with one network can be read")
    graph, buffers, codes = graphs[0], model.tables(4), [_code(table) for table in model.tables(1)]
    tensors = graph.tables(0)
    widened, operations = {}, []  # `widened`: number of a float32 tensor → its float16 constant

    def tensor(number: int) -> _Table:
        if not 0 <= number < len(tensors):
            raise _Damaged(f"refers to tensor {number}, but has {len(tensors)} tensors")
        return tensors[number]

    def constant(number: int) -> np.ndarray | None:
        return widened[number] if number in widened else _constant(tensor(number), buffers)

    for table in graph.tables(3):
        code = table.number(0, "<I")
        if code >= len(codes):
            raise _Damaged(f"refers to operation code {code}, but has {len(codes)} codes")
        name = codes[code]
        inputs, outputs = (_ints(table.array(field, "<i4")) for field in (1, 2))
        constants = [array for array in map(constant, (i for i in inputs if i >= 0)) if array is not None]
        if name == "DEQUANTIZE" and len(outputs) == 1 and len(constants) == len(inputs) == 1:
            if constants[0].dtype != np.float16:
                raise _Unsupported("has quantised constants; only floating-point constants can be read")
            widened[outputs[0]] = constants[0]
        else:
            operations.append(Operation(name, constants, _options(name, table.table(4)), inputs, outputs))
    inputs, outputs = ([TensorInfo(i, *_info(tensor(i))) for i in _ints(graph.array(field, "<i4"))] for field in (1, 2))
    return Network(inputs, outputs, operations)


def _ints(array: np.ndarray) -> tuple[int, ...]:
    if len(array) > limits.OPERATION_TENSORS:
        raise _Damaged(
            f"an operation, or the network, has {len(array)} inputs or outputs, not at most {limits.OPERATION_TENSORS}"
        )
    return tuple(map(int, array))


def _code(table: _Table) -> str:
    """The name of an operation code. Older files store the number in field 0, of one byte; newer files in field 3."""
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
                raise _Damaged(f"{name} has the unknown {key} {options[key]}")
            options[key] = names[options[key]]
    return options


def _info(table: _Table) -> tuple[str, tuple[int, ...]]:
    """The name and the shape of a tensor."""
    return table.text(3), tuple(map(int, table.array(0, "<i4")[:20]))


def _constant(table: _Table, buffers: list[_Table]) -> np.ndarray | None:
    """The array of a constant tensor; None for a tensor that the network computes."""
    number = table.number(2, "<I")
    if number >= len(buffers):
        raise _Damaged(f"refers to constant {number}, but has {len(buffers)} constants")
    raw = buffers[number].array(0, "u1")
    if not raw.size:
        return None
    name, shape = _info(table)
    name = ascii(name)[1:-1][-60:]
    if table.table(6) is not None:
        raise _Unsupported(f"constant {name} is sparse; only dense constants can be read")
    kind = table.number(1, "b")
    if kind not in DTYPES:
        raise _Unsupported(f"constant {name} has type {kind} of TFLite's schema, which cannot be read")
    dtype = np.dtype(DTYPES[kind])
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != raw.size:
        raise _Damaged(f"constant {name} has {raw.size} bytes, which do not fit shape {shape} of {dtype}")
    return raw.view(dtype).reshape(shape)
