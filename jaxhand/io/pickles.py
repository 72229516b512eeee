"""Reads pickles without running anything from them: plain Python values, numpy arrays, and what a reader stands in for.

NumPy's own way from a pickle to a dtype and an array is not used: a damaged state can end the process, and a forged one
makes numpy take bytes of the file for pointers.
"""

import abc
import collections
import functools
import io
import pickle
import re
import typing
import zipfile
from pathlib import Path

import numpy as np

from jaxhand.config import UserError


def load(source: str | Path | bytes, where: str = "", *, stands: typing.Mapping[str, type["Stand"]] = {}):
    """Read a pickle of any protocol, also one written by Python 2 (its `str` becomes text) or another NumPy.

    Args:
        source: the file's path, or its bytes.
        where: what errors name; a path's own name if empty.
        stands: classes of the file that are read too, by "module.name", and what stands for each.

    Returns:
        Numbers, text, bytes, None, lists, tuples, dicts and sets of them, arrays of numbers, text or objects, and what
        `stands` make of themselves.

    Raises:
        UserError: there is no such file, it is damaged, or it asks for anything else, which is named.
    """
    where = where or str(source)
    if not isinstance(source, bytes):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    return read(Unpickler(io.BytesIO(source), stands), where)


def read(unpickler: "Unpickler", where: str):
    """What an `Unpickler` reads; errors as of `load`, naming `where`."""
    try:
        return _made(unpickler.load(), {})
    except Refused as error:
        known = "only plain values and arrays are read"
        raise UserError(f"{where}: wants to run {_line(error)}: refused, {known}") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{where}: not a whole pickle ({_line(error)}); download it again") from None


def load_npz(file: Path) -> dict:
    """The arrays of an .npz file by name; those of objects, which are pickles, are read as `load` reads them.

    Raises:
        UserError: there is no such file, it is damaged, or asks for anything else than values.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(file) as members:
            for name in members.namelist():
                content = io.BytesIO(members.read(name))
                version = np.lib.format.read_magic(content)
                number = {(1, 0): "1_0"}.get(version, "2_0")
                if getattr(np.lib.format, f"read_array_header_{number}")(content)[2].hasobject:
                    array = load(content.read(), f"{file}: {name}")
                else:
                    content.seek(0)
                    array = np.lib.format.read_array(content, allow_pickle=False)
                arrays[name.removesuffix(".npy")] = array
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UserError:
        raise
    except Exception as error:  # a damaged zip file raises nearly anything
        raise UserError(f"{file}: not a whole .npz file ({_line(error)}); download it again") from None
    return arrays


def _line(error: Exception) -> str:
    """What an error says, as one short line whatever a file has put into it."""
    return ascii(" ".join(str(error).split()))[1:-1][:120] or type(error).__name__


class Refused(Exception):
    """Says what a pickle asked for."""


class Unpickler(pickle.Unpickler):
    """Knows the names of plain values and numpy arrays, and those of `stands` (see `load`), and refuses all others."""

    def __init__(self, file: typing.BinaryIO, stands: typing.Mapping[str, type["Stand"]] = {}):
        super().__init__(file, encoding="latin1")
        self._known = {**_KNOWN, **stands}

    def find_class(self, module, name):
        """What a name stands for."""
        key = f"{module}.{name}".replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if key not in self._known:
            raise Refused(f"{module}.{name}")
        return self._known[key]


class Stand(abc.ABC):
    """Stands for an object while a pickle is read: all of its content comes last, by `__setstate__`."""

    def __setstate__(self, state):
        self.state = state

    @abc.abstractmethod
    def made(self, make: typing.Callable):
        """The object; `make` turns a part of the state that may hold other stands into what they stand for."""


class _Array(Stand):
    def made(self, make):
        _, shape, dtype, fortran, content = self.state
        if dtype.of.kind == "O":
            flat = np.empty(len(content), object)
            for i, value in enumerate(content):
                flat[i] = make(value)
        else:
            content = _Numpy.encode(content)
            flat = np.frombuffer(content, dtype.of) if content else np.empty(0, dtype.of)
        if min(shape, default=0) < 0:
            raise ValueError("an array's shape is negative")
        order = "F" if fortran else "C"
        return flat.reshape(shape, order=order).copy(order)  # a copy, since bytes cannot be written to


class _Dtype(Stand):
    """A dtype's letter and size come at first, its byte order by `__setstate__`."""

    def __init__(self, code: str):
        if not re.fullmatch(r"[biufcSUO]\d*", code):
            raise Refused(f"numpy.dtype({code!r})")
        self.of = np.dtype(code)

    def __setstate__(self, state):
        _, order, subarray, names, fields = state[:5]
        if not (subarray is names is fields is None):
            raise Refused("numpy.dtype of a structure")
        self.of = self.of.newbyteorder(order)

    def made(self, make):
        return self.of


def _made(value, memo: dict):
    """A value with everything put where something stands for it. `memo` holds what is made, so that shared parts stay
    shared: a small file could else describe more than any memory holds.
    """
    if id(value) not in memo:
        make = functools.partial(_made, memo=memo)
        if isinstance(value, Stand):
            made = value.made(make)
        elif isinstance(value, dict):
            made = type(value)((make(key), make(each)) for key, each in value.items())
        elif isinstance(value, (list, tuple, set, frozenset)):
            made = type(value)(make(each) for each in value)
        else:
            made = value
        memo[id(value)] = made
    return memo[id(value)]


class _Numpy:
    """What numpy's pickles call. Bound methods: a pickle can set attributes of what it is given, not of these."""

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
        return content if dtype.of.kind == "O" else np.frombuffer(cls.encode(content), dtype.of)[0]

    @classmethod
    def encode(cls, text="", encoding=""):
        """Bytes, which old protocols write as text, or as a call without arguments where there are none."""
        return text.encode("latin1") if isinstance(text, str) else text

    @classmethod
    def instance(cls, kind, base, state):
        """How protocols before 2 begin an object."""
        if not (isinstance(kind, type) and issubclass(kind, Stand)):
            raise Refused(f"copyreg._reconstructor({kind})")
        return kind()


_KNOWN = {
    "numpy.ndarray": "ndarray",  # only ever handed to `reconstruct`
    "numpy.dtype": _Numpy.dtype,
    "numpy.core.multiarray._reconstruct": _Numpy.reconstruct,
    "numpy.core.multiarray.scalar": _Numpy.scalar,
    "numpy.core.numeric._frombuffer": _Numpy.frombuffer,
    "_codecs.encode": _Numpy.encode,
    "builtins.bytes": _Numpy.encode,
    "builtins.object": "object",  # only ever handed to `instance`
    "copy_reg._reconstructor": _Numpy.instance,
    "copyreg._reconstructor": _Numpy.instance,
    "collections.OrderedDict": collections.OrderedDict,
    **{f"builtins.{kind.__name__}": kind for kind in (set, frozenset, complex)},
}
