"""Checks that a pickle needs no more memory than its size justifies, before and after it is read."""

import pickle
import pickletools
import struct
import typing

import numpy as np

from jaxhand.config import limits

_LINES = {opcode.code.encode()[0]: 1 for opcode in pickletools.opcodes if opcode.arg and opcode.arg.n == -1}
_LINES |= {ord("c"): 2, ord("i"): 2}  # a module and a name
_COUNTS = {  # opcode with a counted argument → format of the count
    opcode.code.encode("latin1")[0]: struct.Struct({-2: "<B", -3: "<i", -4: "<I", -5: "<Q"}[opcode.arg.n])
    for opcode in pickletools.opcodes
    if opcode.arg and opcode.arg.n < -1
}
_FIXED = [-1] * 256  # number of bytes after each opcode; -1: not a fixed number
for _opcode in pickletools.opcodes:
    if not _opcode.arg or _opcode.arg.n >= 0:
        _FIXED[_opcode.code.encode("latin1")[0]] = _opcode.arg.n if _opcode.arg else 0
_STOP, _PUT, _LONG_BINPUT = pickle.STOP[0], pickle.PUT[0], pickle.LONG_BINPUT[0]
_CONTAINERS = [0] * 256  # number of containers that an opcode makes, in units of a list; a set has four times the size
for _code in b"]}ldt\x85\x86\x87Rio\x81\x92":
    _CONTAINERS[_code] = 1
for _code in b"\x8f\x91":
    _CONTAINERS[_code] = 4
_LONGS = {pickle.LONG1[0], pickle.LONG4[0]}


def check_opcodes(content: bytes, start: int = 0) -> None:
    """Check the opcodes of one pickle, without running them.

    Args:
        content: the bytes; more may follow after the pickle.
        start: offset of the pickle's first byte.

    Raises:
        pickle.UnpicklingError: the pickle is incomplete, has an unknown opcode, or asks for much more memory or time
            than its size justifies.
    """
    at, end, made, keys = start, len(content), 0, 0
    fixed, containers, long_binput = _FIXED, _CONTAINERS, _LONG_BINPUT
    while at < end:
        code = content[at]
        length = fixed[code]
        at += 1
        made += containers[code]
        if length >= 0:
            if code == long_binput:
                _check_memo(int.from_bytes(content[at : at + 4], "little"), end - start)
            elif code == _STOP:
                if made > limits.containers(at - start):
                    raise pickle.UnpicklingError(f"{made} lists, dicts, tuples and sets in {at - start} bytes")
                return
            at += length
        elif code in _COUNTS:
            count = _COUNTS[code]
            if at + count.size > end:
                break
            (length,) = count.unpack_from(content, at)
            at += count.size + length
            if length < 0 or at > end:
                break
            if code in _LONGS and length > 8:
                keys += 1
                if keys > limits.PICKLE_KEYS:
                    raise pickle.UnpicklingError(f"more than {limits.PICKLE_KEYS} integers of more than 64 bits")
        elif code in _LINES:
            line_start = at
            for _ in range(_LINES[code]):
                at = content.find(b"\n", at) + 1
                if not at:
                    raise pickle.UnpicklingError("Ran out of input")
            if code == _PUT:
                _check_memo(int(content[line_start : at - 1]), end - start)
        else:
            raise pickle.UnpicklingError(f"unknown opcode {code:#04x}")
    raise pickle.UnpicklingError("Ran out of input")


def _check_memo(index: int, size: int) -> None:
    """Check the index of a memo entry: indices are consecutive, so there are fewer of them than bytes."""
    if index > size:
        raise pickle.UnpicklingError(f"memo index {index} in a pickle of {size} bytes")


def check_values(value: typing.Any, size: int) -> None:
    """Check the size of the values of a pickle, when every reference to a value is counted as a copy of it.

    Args:
        value: what the pickle contains.
        size: size of the pickle, bytes.

    Raises:
        pickle.UnpicklingError: the values are larger than `limits.shared` allows.
    """
    found = _expanded(value, {})
    if found > limits.shared(size):
        raise pickle.UnpicklingError(f"expands to {found / 1e6:,.0f} MB by references to the same values")


def _expanded(value: typing.Any, sizes: dict[int, int]) -> int:
    """Size of a value in bytes when every reference is a copy. `sizes` maps ids of containers to their sizes."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.nbytes
    if isinstance(value, (str, bytes)):
        return len(value)
    if not isinstance(value, (list, tuple, dict, set, frozenset, np.ndarray)):
        return 8
    if id(value) not in sizes:
        sizes[id(value)] = 0  # a container inside itself
        children = value.values() if isinstance(value, dict) else value.flat if isinstance(value, np.ndarray) else value
        total = sum(8 if type(child) in (int, float) else _expanded(child, sizes) for child in children)
        sizes[id(value)] = min(total, 2**62)  # not a number of many digits
    return sizes[id(value)]
