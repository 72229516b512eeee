"""Read pickles without running their code: plain Python values, NumPy arrays, and classes with a placeholder.

Dtypes and arrays are not rebuilt by NumPy's own functions: damaged data can crash the process, and manipulated data
makes NumPy interpret bytes of the file as pointers.
"""

import abc
import collections
import functools
import io
import pickle
import re
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError
from jaxhand.io import pickle_limits
from jaxhand.io.files import one_line


def load(
    source: str | Path | bytes, origin: str = "", *, placeholders: typing.Mapping[str, type["Placeholder"]] = {}
) -> typing.Any:
    """Read a pickle of any protocol, also from Python 2 (where `str` becomes text) or from another NumPy version.

    Args:
        source: the file's path, or its bytes.
        origin: name of the file in error messages; empty: the path.
        placeholders: more classes that may be read: "module.name" → placeholder class.

    Returns:
        Numbers, text, bytes or None; lists, tuples, dicts and sets of such values; arrays of numbers, text or objects;
        and the objects that placeholders return.

    Raises:
        UserError: the file does not exist, is damaged, or refers to any other class or function; the message names
            that class or function.
    """
    origin = origin or str(source)
    if not isinstance(source, bytes):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise UserError(f"{origin}: cannot be read ({error.strerror})") from None
    return read(Unpickler(io.BytesIO(source), placeholders), origin)


def read(unpickler: "Unpickler", origin: str) -> typing.Any:
    """Read one pickle with an `Unpickler`. Results and errors are those of `load`.

    Args:
        unpickler: has the opened pickle.
        origin: name of the file in error messages.
    """
    stream = unpickler.stream
    start = stream.tell()
    try:
        content = stream.getvalue()
        pickle_limits.check_opcodes(content, start)
        unpickler.work = pickle_limits.Work(len(content) - start)
        value = unpickler.load()
        pickle_limits.check_values(value, stream.tell() - start)  # before each placeholder makes a copy
        return _materialize(value, {})
    except ForbiddenGlobal as error:
        allowed = "only plain values and arrays are read"
        raise UserError(f"{origin}: refers to {one_line(error)}: refused, {allowed}") from None
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise UserError(f"{origin}: damaged or incomplete pickle ({one_line(error)}); download it again") from None


class ForbiddenGlobal(Exception):
    """A pickle refers to a class or function that is not allowed; the error message is the name of that object."""


class Unpickler(pickle.Unpickler):
    """An unpickler that allows only the classes and functions of plain values, NumPy arrays and `placeholders`."""

    def __init__(self, stream: io.BytesIO, placeholders: typing.Mapping[str, typing.Any] = {}):
        super().__init__(stream, encoding="latin1")
        self.stream = stream
        self.work = pickle_limits.Work(len(stream.getvalue()))
        self._allowed = {**_ALLOWED, **placeholders}
        self._allowed |= {f"builtins.{name}": getattr(self, f"_{name}") for name in ("set", "frozenset", "complex")}
        self._allowed |= {"_codecs.encode": self._encode, "builtins.bytes": self._encode}

    def find_class(self, module: str, name: str) -> typing.Any:
        """Return the class or function `module.name`, if it is allowed.

        Raises:
            ForbiddenGlobal: the class or function is not allowed.
        """
        key = f"{module}.{name}".replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if key not in self._allowed:
            raise ForbiddenGlobal(f"{module}.{name}")
        return self._allowed[key]

    # Bound methods, as those of `_NumpyGlobals`. A pickle can call them often with the same large value.

    def _set(self, keys=()):
        return set(self.work.of_keys(keys))

    def _frozenset(self, keys=()):
        return frozenset(self.work.of_keys(keys))

    def _complex(self, real: float, imag: float):
        return complex(float(real), float(imag))

    def _encode(self, text="", encoding=""):
        self.work.add(len(text))
        return _NumpyGlobals.encode(text)


class Placeholder(abc.ABC):
    """Replaces an object while a pickle is read. `__setstate__` is called last and stores the object's full content."""

    def __setstate__(self, state):
        self.state = state

    @abc.abstractmethod
    def materialize(self, convert: typing.Callable) -> typing.Any:
        """Build the object that the placeholder replaces.

        Args:
            convert: function that replaces all placeholders in a value by their objects.
        """


class _Array(Placeholder):
    def materialize(self, convert):
        _, shape, dtype, fortran, content = self.state
        if dtype.value.kind == "O":
            flat = np.empty(len(content), object)
            for i, item in enumerate(content):
                flat[i] = convert(item)
        else:
            content = _NumpyGlobals.encode(content)
            flat = np.frombuffer(content, dtype.value) if content else np.empty(0, dtype.value)
        if min(shape, default=0) < 0:
            raise ValueError("an array has a negative shape")
        order = "F" if fortran else "C"
        return flat.reshape(shape, order=order).copy(order)  # a copy, because `content` is read-only


class _Dtype(Placeholder):
    """Placeholder of a dtype. The constructor takes kind and size, such as "f8"; `__setstate__` adds the byte order."""

    def __init__(self, code: str):
        if not re.fullmatch(r"[biufcSUO]\d*", code):
            raise ForbiddenGlobal(f"numpy.dtype({code!r})")
        self.value = np.dtype(code)

    def __setstate__(self, state):
        _, order, subarray, names, fields = state[:5]
        if not (subarray is names is fields is None):
            raise ForbiddenGlobal("numpy.dtype with fields")
        self.value = self.value.newbyteorder(order)

    def materialize(self, convert):
        return self.value


_PLAIN = {bool, bytes, float, int, str, type(None)}


def _materialize(value: typing.Any, memo: dict[int, typing.Any]) -> typing.Any:
    """Replace all placeholders in a value by their objects.

    `memo` maps the id of a value to its result: an object that occurs several times is built only once. Otherwise a
    small file could fill the memory.
    """
    if type(value) in _PLAIN:
        return value
    if id(value) not in memo:
        convert = functools.partial(_materialize, memo=memo)
        if isinstance(value, Placeholder):
            result = value.materialize(convert)
        elif isinstance(value, dict):
            result = type(value)((convert(key), convert(item)) for key, item in value.items())
        elif isinstance(value, (list, tuple, set, frozenset)):
            result = type(value)(convert(item) for item in value)
        else:
            result = value
        memo[id(value)] = result
    return memo[id(value)]


class _NumpyGlobals:
    """Replacements for the functions that NumPy's pickles call: bound methods, whose attributes a pickle cannot set."""

    @classmethod
    def dtype(cls, code, align=False, copy=False):
        return _Dtype(code)

    @classmethod
    def reconstruct(cls, kind, shape, code):
        return _Array()

    @classmethod
    def frombuffer(cls, content, dtype, shape, order):
        array = _Array()
        array.state = (1, shape, dtype, order == "F", content)
        return array

    @classmethod
    def scalar(cls, dtype, content):
        if dtype.value.kind == "O" and isinstance(content, tuple):
            raise ValueError("a scalar is a tuple")
        return content if dtype.value.kind == "O" else np.frombuffer(cls.encode(content), dtype.value)[0]

    @classmethod
    def encode(cls, text):
        """Return bytes. Old protocols write bytes as text, and empty bytes as a call without arguments."""
        return text.encode("latin1") if isinstance(text, str) else text

    @classmethod
    def instance(cls, kind, base, state):
        """Create an object of a placeholder class. Pickles of protocols 0 and 1 call this function."""
        if not (isinstance(kind, type) and issubclass(kind, Placeholder)):
            raise ForbiddenGlobal(f"copyreg._reconstructor({kind})")
        return kind()


_ALLOWED = {
    "numpy.ndarray": "ndarray",  # never called, only an argument of `reconstruct`
    "numpy.dtype": _NumpyGlobals.dtype,
    "numpy.core.multiarray._reconstruct": _NumpyGlobals.reconstruct,
    "numpy.core.multiarray.scalar": _NumpyGlobals.scalar,
    "numpy.core.numeric._frombuffer": _NumpyGlobals.frombuffer,
    "builtins.object": "object",  # never called, only an argument of `instance`
    "copy_reg._reconstructor": _NumpyGlobals.instance,
    "copyreg._reconstructor": _NumpyGlobals.instance,
    "collections.OrderedDict": collections.OrderedDict,
}
