"""The collective operations of a compiled program, read from its HLO text.

HLO is the language of XLA, and the same program runs on every device. Its text is a list of computations. A line of a
computation is an instruction: `%name = type opcode(%operand, …), attribute=…`. Loops, fusions and calls refer to other
computations by name.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")
_END_OF_OPERANDS = re.compile(r"\)(?=,|$)")
_NAME = re.compile(r"%([^\s,(){}]+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")  # such as bf16[8,64]; tokens have no bytes
_INTEGER = re.compile(r"[su]\d+\[")
_BODIES = re.compile(r"\b(?:body|condition|calls|to_apply)=%([^\s,]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{(.*?)\}|(?:true|false)_computation=(%[^\s,]+))")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SIZES = re.compile(r"\b(?:num_partitions|replica_count)=(\d+)")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}")
_AXIS = re.compile(r"('[^']*')=(\d+)")
_INLINE = ("fusion", "call")  # opcodes of an instruction that runs a computation once
_SAME_NUMBERS = ("bitcast", "copy", "reshape", "transpose")
_HALF = ("bf16", "f16")


@dataclasses.dataclass(frozen=True)
class Collective:
    """An array in a collective operation."""

    kind: str  # one of `KINDS`
    size: int  # bytes of the array on one device, before the operation
    groups: tuple[tuple[int, ...], ...]  # indices of the devices that exchange data with each other
    times: int | None  # how often the program does it; None: in a loop whose length the program does not state
    sliced: bool = False  # an all-reduce from which each device uses only its own part: it could be a reduce-scatter
    rounded: bool = False  # an all-reduce of float32 whose result is only used in 16 bits


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    text: str  # operands and attributes


_Place = tuple[str, str]  # names of a computation and of one of its instructions


def read(hlo: str) -> list[Collective]:
    """Read the collective operations of a program.

    Args:
        hlo: text of a compiled program, from `jax.jit(…).lower(…).compile().as_text()`.

    Returns:
        One item for each array of each operation; an operation can combine several arrays. Operations in which every
        device is alone are left out.

    Raises:
        ValueError: the text is not a program, or the form of an operation's groups is unknown.
    """
    return list(_Program(hlo).collectives())


class _Program:
    """A program, with what uses each instruction and what runs each computation."""

    def __init__(self, hlo: str):
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.parameters: dict[_Place, int] = {}
        self.users: dict[_Place, list[_Place]] = {}
        self.roots: dict[str, str] = {}  # computation → the instruction that is its result
        self.callers: dict[str, list[_Place]] = {}  # computation → the loops, fusions and calls that run it
        entry = None
        for line in hlo.splitlines():
            if header := _COMPUTATION.match(line):
                instructions = self.computations[header[2]] = {}
                computation, entry = header[2], header[2] if header[1] else entry
            elif found := _INSTRUCTION.match(_COMMENT.sub("", line)):
                name, kind, opcode, text = found.groups()
                operands = tuple(_NAME.findall(_END_OF_OPERANDS.split(text, maxsplit=1)[0]))
                instructions[name] = _Instruction(name, kind, opcode, operands, text)
                if line.lstrip().startswith("ROOT "):
                    self.roots[computation] = name
                if opcode == "parameter":
                    self.parameters[computation, name] = int(text.partition(")")[0])
                for operand in dict.fromkeys(operands):
                    self.users.setdefault((computation, operand), []).append((computation, name))
                for body in dict.fromkeys(_BODIES.findall(text)):
                    self.callers.setdefault(body, []).append((computation, name))
        if entry is None:
            raise ValueError("the text is not an HLO program")
        self.entry: str = entry
        self.devices = math.prod(map(int, _SIZES.findall(hlo.partition("\n")[0])))

    def at(self, place: _Place) -> _Instruction:
        return self.computations[place[0]][place[1]]

    def collectives(self) -> Iterator[Collective]:
        for computation, times in self._runs(self.entry, 1):
            for name, each in self.computations[computation].items():
                kind = each.opcode.removesuffix("-start")
                if kind not in KINDS:
                    continue
                groups = _groups(each.text, self.devices)
                if all(len(group) == 1 for group in groups):
                    continue
                for index, operand in enumerate(each.operands):
                    size = sum(map(_bytes, _ARRAY.findall(self.at((computation, operand)).type)))
                    result = self._result((computation, name), index) if kind == "all-reduce" else None
                    sliced = result is not None and self._is_sliced(result, parts=len(groups[0]))
                    rounded = result is not None and self._is_rounded(result)
                    yield Collective(kind, size, groups, times, sliced, rounded)

    def _runs(self, computation: str, times: int | None) -> Iterator[tuple[str, int | None]]:
        """Yield the names of a computation and of all that it runs, with how often each is run."""
        yield computation, times
        for each in self.computations[computation].values():
            if each.opcode.endswith(("-update", "-done")):  # has the computation of its "-start"
                continue
            length = _TRIP_COUNT.search(each.text)
            count = 1 if each.opcode != "while" else int(length[1]) if length else None
            for body in _BODIES.findall(each.text):
                yield from self._runs(body, times * count if times is not None and count is not None else None)
            for branch in _NAME.findall(" ".join(map("".join, _BRANCHES.findall(each.text)))):  # only one of them runs
                yield from self._runs(branch, None)

    def _every_use(self, place: _Place, passes: tuple[str, ...], accepts: Callable[[_Place, int], bool]) -> bool:
        """Whether an array is used, and all instructions that use it are accepted.

        Args:
            place: the array.
            passes: opcodes of instructions whose result is looked at instead.
            accepts: called with an instruction, and with the position of the array among its operands.
        """

        def accepted(user: _Place, position: int) -> bool:
            each = self.at(user)
            if each.opcode in _INLINE:
                (body,) = _BODIES.findall(each.text)
                (inside,) = (name for name in self.computations[body] if self.parameters.get((body, name)) == position)
                return self._every_use((body, inside), passes, accepts)
            return each.opcode in passes and self._every_use(user, passes, accepts) or accepts(user, position)

        uses = [
            accepted(user, position)
            for user in self.users.get(place, [])
            for position, operand in enumerate(self.at(user).operands)
            if operand == place[1]
        ]
        for caller in self.callers.get(place[0], []) if self.roots[place[0]] == place[1] else ():
            uses.append(self.at(caller).opcode in _INLINE and self._every_use(caller, passes, accepts))
        return bool(uses) and all(uses)

    def _result(self, place: _Place, index: int) -> _Place | None:
        """Where a collective operation's result for one of its arrays is; None: it is not used."""
        operation = self.at(place)
        if operation.opcode.endswith("-start"):
            (place,) = self.users[place]
        if len(operation.operands) == 1:
            return place
        return next((user for user in self.users.get(place, []) if _index(self.at(user)) == index), None)

    def _is_sliced(self, result: _Place, parts: int) -> bool:
        """Whether each device uses only its own part of an array, one of `parts`."""
        part = _numbers(self.at(result).type) / parts

        def is_own(place: _Place, position: int) -> bool:
            each = self.at(place)
            return (
                each.opcode == "dynamic-slice"
                and position == 0
                and _numbers(each.type) == part
                and any(self._is_of_device((place[0], start)) for start in each.operands[1:])
            )

        return self._every_use(result, (*_SAME_NUMBERS, "convert"), is_own)

    def _is_rounded(self, result: _Place) -> bool:
        """Whether an array of float32 is only used in 16 bits."""

        def rounds(place: _Place, position: int) -> bool:
            each = self.at(place)
            return each.opcode == "convert" and each.type.startswith(_HALF)

        return self.at(result).type.startswith("f32") and self._every_use(
            result, (*_SAME_NUMBERS, "dynamic-slice"), rounds
        )

    def _is_of_device(self, place: _Place) -> bool:
        """Whether an integer is computed from the index of the device."""
        each = self.at(place)
        if each.opcode == "partition-id":
            return True
        if not _INTEGER.match(each.type):
            return False
        if each.opcode == "get-tuple-element":
            source = self._element((place[0], each.operands[0]), _index(each))
            return source is not None and self._is_of_device(source)
        if each.opcode == "parameter":
            source = self._argument(place)
            return source is not None and self._is_of_device(source)
        inside = [(body, name) for body in _BODIES.findall(each.text) for name in self.computations[body]]
        return any(self.at(other).opcode == "partition-id" for other in inside) or any(
            self._is_of_device((place[0], operand)) for operand in each.operands
        )

    def _element(self, place: _Place, index: int) -> _Place | None:
        """Where an element of a tuple comes from; in a loop: from where the loop starts."""
        each = self.at(place)
        if each.opcode == "tuple":
            return place[0], each.operands[index]
        if each.opcode == "while":
            return self._element((place[0], each.operands[0]), index)
        source = self._argument(place) if each.opcode == "parameter" else None
        return self._element(source, index) if source else None

    def _argument(self, place: _Place) -> _Place | None:
        """What a parameter of a computation is where the computation is run; None: several instructions run it."""
        callers, number = self.callers.get(place[0], []), self.parameters[place]
        operands = self.at(callers[0]).operands if len(callers) == 1 else ()
        return (callers[0][0], operands[number]) if number < len(operands) else None


def _index(instruction: _Instruction) -> int:
    """The index of a get-tuple-element; -1 for other instructions."""
    found = re.search(r"\bindex=(\d+)", instruction.text)
    return int(found[1]) if found and instruction.opcode == "get-tuple-element" else -1


def _numbers(kind: str) -> int:
    """How many numbers a type has."""
    return sum(_product(shape) for _, _, shape in _ARRAY.findall(kind))


def _bytes(array: tuple[str, str, str]) -> int:
    """Bytes of a match of `_ARRAY`."""
    _, bits, shape = array
    return -(-_product(shape) * int(bits or 8) // 8)


def _product(shape: str) -> int:
    return math.prod(_integers(shape))


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _groups(text: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """The groups of devices of a collective operation, in any of the forms of HLO.

    - `{{0,1},{2,3}}`, or `{}` for all devices.
    - `[2,2]<=[4]` or `[2,2]<=[2,2]T(1,0)`: the devices in their order, or transposed, in two groups of two.
    - `mesh['x'=2,'y'=2] {'y'}`: those along an axis of a mesh; `device_ids` states their order in the mesh.
    - the pairs of a collective-permute.
    """
    if found := _PAIRS.search(text):
        pairs = [_integers(pair) for pair in re.findall(r"\{(.*?)\}", found[1])]
        return tuple((source, target) for source, target in pairs if source != target) or ((0,),)
    if found := _LISTED.search(text):
        listed = [tuple(_integers(group)) for group in re.findall(r"\{(.*?)\}", found[1])]
        return tuple(listed) or (tuple(range(devices)),)
    if found := _IOTA.search(text):
        groups = _ordered(found[3], found[4]).reshape(int(found[1]), int(found[2]))
    elif (found := _MESH.search(text)) and ":" not in found[4]:
        lengths = {name: int(length) for name, length in _AXIS.findall(found[1])}
        mesh = (_ordered(found[2], found[3]) if found[2] else np.arange(devices)).reshape(tuple(lengths.values()))
        names = [name for name in found[4].split(",") if name]
        along = np.moveaxis(mesh, [list(lengths).index(name) for name in names], range(-len(names), 0))
        groups = along.reshape(-1, math.prod(lengths[name] for name in names))
    else:
        raise ValueError(f"these groups of devices cannot be read: {text[:200]}")
    return tuple(map(tuple, groups.tolist()))


def _ordered(shape: str, order: str | None) -> np.ndarray:
    """The integers from 0 in an array of a shape, whose axes are then put into an order; as one axis."""
    counted = np.arange(_product(shape)).reshape(_integers(shape))
    return (counted.transpose(_integers(order)) if order else counted).reshape(-1)
