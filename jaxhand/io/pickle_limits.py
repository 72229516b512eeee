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
_EFFECTS = {  # opcode → number of values that it takes from the stack, and puts there
    opcode.code.encode("latin1")[0]: (len(opcode.stack_before), len(opcode.stack_after))
    for opcode in pickletools.opcodes
}
_STOP = pickle.STOP[0]
_PUTS = pickle.PUT + pickle.BINPUT + pickle.LONG_BINPUT + pickle.MEMOIZE
_GETS = pickle.GET + pickle.BINGET + pickle.LONG_BINGET
_MEMO = [code in _PUTS + _GETS + pickle.DUP for code in range(256)]  # opcodes that keep a value, or copy one
_CONTAINERS = [0] * 256  # number of containers that an opcode makes, in units of a list; a set has four times the size
for _code in b"]}ldt\x85\x86\x87Rio\x81\x92":
    _CONTAINERS[_code] = 1
for _code in b"\x8f\x91":
    _CONTAINERS[_code] = 4
_CHOSEN = [0] * 256  # 1 for opcodes whose result can have a hash that the file chooses
_LONGS = {pickle.LONG1[0], pickle.LONG4[0]}
_DIGITS = {pickle.INT[0], pickle.LONG[0]}  # opcodes whose argument is an integer as text
for _code in b"\x85\x86\x87t\x91Rio\x81\x92":
    _CHOSEN[_code] = 1
# Opcodes that make a value, which is no tuple
_PLAIN = b"NIJKML\x88\x89\x8a\x8bSTUBC\x8e\x96V\x8cX\x8dFGc\x93R\x81\x92io]l)}d\x8f\x91"
KEYS = "keys that are tuples, frozensets or complex numbers"
MAX_COPIES = 20  # copied tuples: one that has copies of another, and so on, has a hash that takes exponential time


def check_opcodes(content: bytes, start: int = 0) -> None:
    """Check the opcodes of one pickle, without running them.

    Args:
        content: the bytes; more may follow after the pickle.
        start: offset of the pickle's first byte.

    Raises:
        pickle.UnpicklingError: the pickle is incomplete, has an unknown opcode, or asks for much more memory or time
            than its size justifies.
    """
    at, end, made, numbers, chosen, copies = start, len(content), 0, 0, 0, 0
    before, tuples = 0, set()  # code of the opcode before; entries of the memo that may be tuples
    counted, named = 0, False  # memo entries without an index, and whether any has one; no program writes both kinds
    fixed, containers, chooses, memo = _FIXED, _CONTAINERS, _CHOSEN, _MEMO
    while at < end:
        code = content[at]
        at += 1
        made += containers[code]
        chosen += chooses[code]
        if fixed[code] < 0 or memo[code]:
            if fixed[code] == 1 and at < end:  # the usual ones, without a call
                argument, at = content[at], at + 1
            else:
                argument, at = _argument(content, at, end, code)
            if code in _PUTS:
                counted += argument is None
                index = counted - 1 if argument is None else argument
                named |= argument is not None
                if index > end - start:  # indices are consecutive, so there are fewer of them than bytes
                    raise pickle.UnpicklingError(f"memo index {index} in a pickle of {end - start} bytes")
                if before not in _PLAIN:
                    tuples.add(index)
            elif memo[code]:
                copies += argument is None or argument in tuples
            elif argument is not None and (code in _LONGS and argument > 8 or code in _DIGITS and argument > 20):
                numbers += 1
                _check_number(numbers, "integers of more than 64 bits")
        elif code == _STOP:
            if made > limits.containers(at - start):
                raise pickle.UnpicklingError(f"{made} lists, dicts, tuples and sets in {at - start} bytes")
            if chosen > limits.PICKLE_KEYS or copies > MAX_COPIES or counted and named:
                _check_keys(content, start)
            return
        else:
            at += fixed[code]
        before = code
    raise pickle.UnpicklingError("Ran out of input")


def _argument(content: bytes, at: int, end: int, code: int) -> tuple[int | None, int]:
    """Read the argument of an opcode at `at`. Returns it, and the offset after it.

    The argument is the index of an opcode of the memo, None if there is none; the length of any other one, in bytes.
    """
    length, is_index = _FIXED[code], _MEMO[code]
    if length >= 0:
        return int.from_bytes(content[at : at + length], "little") if length and is_index else None, at + length
    if code in _COUNTS:
        count = _COUNTS[code]
        if at + count.size > end:
            raise pickle.UnpicklingError("Ran out of input")
        (length,) = count.unpack_from(content, at)
        at += count.size + length
        if length < 0 or at > end:
            raise pickle.UnpicklingError("Ran out of input")
        return length, at
    if code not in _LINES:
        raise pickle.UnpicklingError(f"unknown opcode {code:#04x}")
    start = at
    for _ in range(_LINES[code]):
        at = content.find(b"\n", at) + 1
        if not at:
            raise pickle.UnpicklingError("Ran out of input")
    return int(content[start : at - 1]) if is_index else at - start, at


def _check_keys(content: bytes, start: int) -> None:
    """Check the keys whose hash a file can choose: if they collide, a dict needs quadratic time.

    These are tuples, frozensets, and results of calls such as complex numbers. The opcodes are run on a stack that has,
    in place of each value, how many such values are in it, when every reference is counted as a copy.

    Args:
        content, start: as of `check_opcodes`, by which the opcodes are complete and known.
    """
    at, stack, marks, memo, found = start, [], [], {}, 0
    while True:
        code = content[at]
        is_fixed = _FIXED[code] >= 0 and not _MEMO[code]
        argument, at = (None, at + 1 + _FIXED[code]) if is_fixed else _argument(content, at + 1, len(content), code)
        if code == _STOP:
            return
        if code in b"ude\x90ltio1\x91":  # take everything after the last mark
            items = stack[(mark := marks.pop()) :]
            del stack[mark:]
            found += sum(items[::2] if code in b"ud" else items if code in b"\x90\x91" else ())
            if code in b"dltio\x91":
                stack.append(1 + sum(items) if code in b"t\x91" else _CHOSEN[code])
        elif code in b"\x85\x86\x87":  # a tuple of one, two or three
            items = stack[-(code - 0x84) :]
            stack[-len(items) :] = [min(1 + sum(items), 2**62)]
        elif code in b"R":
            stack[-2:] = [1 + stack[-1]]
        elif code in b"s":
            found += stack[-2]
            del stack[-2:]
        elif code in b"(":
            marks.append(len(stack))
        elif code in b"0":
            marks.pop() if marks and marks[-1] == len(stack) else stack.pop()
        elif code in b"2":
            stack.append(stack[-1])
        elif code in _GETS:
            stack.append(memo.get(argument, 0))
        elif code in _PUTS:
            memo[len(memo) if argument is None else argument] = stack[-1]
        else:
            taken, made = _EFFECTS[code]
            del stack[len(stack) - taken :]
            stack += [_CHOSEN[code]] * made
        _check_number(found, KEYS)


class Work:
    """Counts what the calls in a pickle do, in bytes of their arguments, and limits it.

    Args:
        size: size of the pickle, bytes.
    """

    def __init__(self, size: int):
        self._left, self._keys = limits.shared(size), 0

    def add(self, size: int) -> None:
        """Count a call on a value of `size` bytes. Raises pickle.UnpicklingError if it is too much."""
        self._left -= size
        if self._left < 0:
            raise pickle.UnpicklingError("calls functions too often on the same values")

    def of_keys(self, keys: typing.Collection) -> typing.Collection:
        """Count the keys of a set, and return them. Raises pickle.UnpicklingError as `add` and `check_opcodes`."""
        self.add(50 * len(keys))  # time of as many bytes
        counts = {}
        self._keys += sum(_tuples(key, counts) for key in keys)
        _check_number(self._keys, KEYS)
        return keys


def _tuples(key: typing.Any, counts: dict[int, int]) -> int:
    """Number of tuples and the like in a key, when every reference is a copy. `counts` maps ids of tuples to theirs."""
    if not isinstance(key, tuple):
        return not isinstance(key, (int, float, str, bytes))
    if id(key) not in counts:
        counts[id(key)] = min(1 + sum(_tuples(each, counts) for each in key), 2**62)
    return counts[id(key)]


def _check_number(found: int, what: str) -> None:
    if found > limits.PICKLE_KEYS:
        raise pickle.UnpicklingError(f"more than {limits.PICKLE_KEYS} {what}")


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
        value = getattr(value, "state", None)  # of a placeholder
        if not isinstance(value, (tuple, dict)):
            return 8
    if id(value) not in sizes:
        sizes[id(value)] = 0  # a container inside itself
        children = value.values() if isinstance(value, dict) else value.flat if isinstance(value, np.ndarray) else value
        total = sum(8 if type(child) in (int, float) else _expanded(child, sizes) for child in children)
        sizes[id(value)] = min(total, 2**62)  # not a number of many digits
    return sizes[id(value)]
