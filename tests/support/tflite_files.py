"""Writes small TFLite files, for tests of the reader: a flatbuffer is tables of fields by number."""

import struct
from pathlib import Path

import numpy as np

SAME, RELU6 = 0, 3
CODES = {"CONV_2D": 3, "DEQUANTIZE": 6, "CUSTOM": 32}


class Number:
    """A number of a struct format."""

    def __init__(self, kind: str, value):
        self.kind, self.value = kind, value


def flatbuffer(root: dict, identifier: bytes = b"TFL3") -> bytes:
    """A flatbuffer whose root table has fields {number: a `Number`, text, array, table (a dict) or list of tables}."""
    out = bytearray(4) + identifier
    references = [(0, root)]  # bytes to be filled in with how far away a value lies, and the value
    while references:
        place, value = references.pop(0)
        out += bytes(-len(out) % 8)
        if isinstance(value, dict):
            count = max(value, default=-1) + 1
            fields = len(out)
            out += struct.pack("<HH", 4 + 2 * count, 4 + 8 * count) + bytes(2 * count)
            out += bytes(-len(out) % 4)
            start = len(out)
            out += struct.pack("<i", start - fields) + bytes(8 * count)
            for number, field in value.items():
                at = 4 + 8 * number
                struct.pack_into("<H", out, fields + 4 + 2 * number, at)
                if isinstance(field, Number):
                    struct.pack_into(field.kind, out, start + at, field.value)
                else:
                    references.append((start + at, field))
        elif isinstance(value, list):
            start = len(out)
            out += struct.pack("<I", len(value)) + bytes(4 * len(value))
            references += [(start + 4 + 4 * i, table) for i, table in enumerate(value)]
        else:
            array = np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else np.ascontiguousarray(value)
            out += bytes(4)  # so that the numbers, after their count, lie at a multiple of 8
            start = len(out)
            out += struct.pack("<I", len(array)) + array.tobytes()
        struct.pack_into("<I", out, place, start - place)
    return bytes(out)


def tensor(name: str, shape, kind: int = 0, buffer: int = 0) -> dict:
    """A tensor; `kind` 0 is float32, 1 float16; buffer 0 is empty, so the tensor is computed."""
    return {0: np.int32(shape), 1: Number("b", kind), 2: Number("<I", buffer), 3: name}


def operation(code: int, inputs, outputs, options: dict | None = None) -> dict:
    """An operation; `code` is a row of the file's list of operations."""
    found = {0: Number("<I", code), 1: np.int32(inputs), 2: np.int32(outputs)}
    return found if options is None else found | {3: Number("B", 1), 4: options}


def one_convolution(kernel: np.ndarray, bias: np.ndarray, stride: int = 2) -> dict:
    """The root of a file with one convolution whose kernel, (out, h, w, in), is float16 behind a DEQUANTIZE."""
    options = {0: Number("b", SAME), 1: Number("<i", stride), 2: Number("<i", stride), 3: Number("b", RELU6)}
    graph = {
        0: [
            tensor("image", (1, 8, 8, kernel.shape[-1])),
            tensor("kernel", kernel.shape, 1, 1),
            tensor("wide", kernel.shape),
            tensor("bias", bias.shape, 0, 2),
            tensor("result", (1, 4, 4, len(bias))),
        ],
        1: np.int32([0]),
        2: np.int32([4]),
        3: [operation(1, [1], [2]), operation(0, [0, 2, 3], [4], options)],
    }
    buffers = [{}] + [{0: np.frombuffer(x.tobytes(), np.uint8)} for x in (np.float16(kernel), np.float32(bias))]
    codes = [{0: Number("b", CODES[name]), 3: Number("<i", CODES[name])} for name in ("CONV_2D", "DEQUANTIZE")]
    return {0: Number("<I", 3), 1: codes, 2: [graph], 4: buffers}


def write(path: Path, root: dict) -> Path:
    """Write a file of that root table."""
    path.write_bytes(flatbuffer(root))
    return path
