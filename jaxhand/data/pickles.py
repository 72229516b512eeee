"""Reads pickles of data sets without running anything from them: plain Python values and numpy arrays, nothing else.

NumPy's own way from a pickle to a dtype and an array is not used: a damaged state can end the process, and a forged one
makes numpy take bytes of the file for pointers.
"""

import collections
import io
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from jaxhand.config import UserError


def load(source: str | Path | bytes, where: str = ""):
    """Read a pickle of any protocol, also one written by Python 2 (its `str` becomes text) or another NumPy.

    Args:
        source: the file's path, or its bytes.
        where: what errors name; a path's own name if empty.

    Returns:
        Numbers, text, bytes, None, lists, tuples, dicts and sets of them, and arrays of numbers, text or objects.

    Raises:
        UserError: there is no such file, it is damaged, or it asks for anything else, which is named.
    """
    where = where or str(source)
    if not isinstance(source, bytes):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    try:
        return _made(_Unpickler(io.BytesIO(source), encoding="latin1").load())
    except _Refused as error:
        known = "a pickle may hold plain values and numpy arrays only"
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


class _Refused(Exception):
    """Says what a pickle asked for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        key = f"{module}.{name}".replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if key not in _ADMITTED:
            raise _Refused(f"{module}.{name}")
        return _ADMITTED[key]


class _Array:
    """Stands for an array while a pickle is read: its content comes last, by `__setstate__`."""

    def __setstate__(self, state):
        self.state = state

    def made(self) -> np.ndarray:
        """The array."""
        _, shape, dtype, fortran, content = self.state
        return _array(content, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """Stands for a dtype: its letter and size come at first, its byte order by `__setstate__`."""

    def __init__(self, code: str):
        if not re.fullmatch(r"[biufcSUO]\d*", code):
            raise _Refused(f"numpy.dtype({code!r})")
        self.made = np.dtype(code)

    def __setstate__(self, state):
        _, order, subarray, names, fields = state[:5]
        if not (subarray is names is fields is None):
            raise _Refused("numpy.dtype of a structure")
        self.made = self.made.newbyteorder(order)


def _array(content, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    if dtype.made.kind == "O":
        flat = np.empty(len(content), object)
        for i, value in enumerate(content):
            flat[i] = _made(value)
    else:
        content = _Numpy.encode(content)
        flat = np.frombuffer(content, dtype.made) if content else np.empty(0, dtype.made)
    if min(shape, default=0) < 0:
        raise ValueError("an array's shape is negative")
    return flat.reshape(shape, order=order).copy(order)  # a copy, since bytes cannot be written to


def _made(value):
    """A value with the arrays and dtypes in it put where something stands for them."""
    if isinstance(value, _Array):
        return value.made()
    if isinstance(value, _Dtype):
        return value.made
    if isinstance(value, dict):
        return type(value)((_made(key), _made(each)) for key, each in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(_made(each) for each in value)
    return value


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
        return _array(content, dtype, shape, order)

    @classmethod
    def scalar(cls, dtype, content):
        return content if dtype.made.kind == "O" else _array(content, dtype, (1,), "C")[0]

    @classmethod
    def encode(cls, text="", encoding=""):
        """Bytes, which old protocols write as text, or as a call without arguments where there are none."""
        return text.encode("latin1") if isinstance(text, str) else text


_ADMITTED = {
    "numpy.ndarray": "ndarray",  # only ever handed to `reconstruct`
    "numpy.dtype": _Numpy.dtype,
    "numpy.core.multiarray._reconstruct": _Numpy.reconstruct,
    "numpy.core.multiarray.scalar": _Numpy.scalar,
    "numpy.core.numeric._frombuffer": _Numpy.frombuffer,
    "_codecs.encode": _Numpy.encode,
    "builtins.bytes": _Numpy.encode,
    "collections.OrderedDict": collections.OrderedDict,
    **{f"builtins.{kind.__name__}": kind for kind in (set, frozenset, complex)},
}
