"""Writes random arrays in the layout of the official MANO files, with the bytes that Python 2 wrote.

Neither chumpy nor scipy is needed. Only the layout is MANO's, not the numbers.
"""

import io
import pickle
import struct
from pathlib import Path

import numpy as np

from jaxhand.hand.skinned import PARENTS


class Named:
    """An object of a class that may not exist: it is pickled as `name`, "module.Class", with its attributes."""

    def __init__(self, name: str, **state):
        self.__class__ = type(name, (Named,), {})
        self.__dict__.update(state)


class _Pickler(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, text):
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)))
        self.write(raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text

    def save_global(self, obj, name=None):
        module, named = getattr(obj, "__module__", None) or "", obj.__name__
        if isinstance(obj, type) and issubclass(obj, Named):
            module, _, named = obj.__name__.rpartition(".")
        elif not module.startswith("numpy._core"):
            return super().save_global(obj, name)
        self.write(f"c{module.replace('numpy._core', 'numpy.core')}\n{named}\n".encode())
        self.memoize(obj)

    def save_type(self, obj):
        self.save_global(obj)

    dispatch[type] = save_type


def pickled(value, protocol: int = 2) -> bytes:
    """The pickle of a value as Python 2 would write it."""
    file = io.BytesIO()
    _Pickler(file, protocol=protocol).dump(value)
    return file.getvalue()


def chumpy(array) -> Named:
    """An array as a chumpy object."""
    return Named("chumpy.ch.Ch", x=np.asarray(array), _dirty_vars=set(), _itr=None, _depends_on_deps={})


def select(array, count: int) -> Named:
    """The first `count` of the last axis, in the form of the files' shape directions."""
    array = np.asarray(array)
    idxs = np.arange(array.size).reshape(array.shape)[..., :count]
    shape = {"idxs": idxs.ravel(), "preferred_shape": idxs.shape}
    return Named("chumpy.reordering.Select", a=chumpy(array), _dirty_vars=set(), _itr=None, **shape)


def sparse(dense, name: str = "scipy.sparse.csc.csc_matrix") -> Named:
    """A matrix compressed by columns, or by rows if the name contains "csr"."""
    dense = np.asarray(dense)
    lines = dense if "csr" in name else dense.T
    nonzero = [np.flatnonzero(line) for line in lines]
    return Named(
        name,
        _shape=dense.shape,
        maxprint=50,
        data=np.concatenate([line[index] for line, index in zip(lines, nonzero)]),
        indices=np.concatenate(nonzero).astype(np.int32),
        indptr=np.cumsum([0, *map(len, nonzero)]).astype(np.int32),
    )


def model(seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays in MANO's shapes, metres: joints at plausible positions, each vertex near one of them."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((16, 3))
    for joint, parent in list(enumerate(PARENTS))[1:]:
        step = (-0.09, 0, 0.02 * (joint // 3 - 2)) if parent == 0 else (-0.03, 0, 0)
        joints[joint] = joints[parent] + step
    owner = np.arange(778) % 16
    weights = 0.9 * np.eye(16)[owner] + 0.1 * np.eye(16)[np.maximum(np.take(PARENTS, owner), 0)]
    regressor = np.eye(16)[:, owner] * (np.arange(778) < 160) / 10  # the mean of 10 vertices
    return {
        "v_template": joints[owner] + rng.normal(size=(778, 3), scale=0.005),
        "shapedirs": rng.normal(size=(778, 3, 10), scale=0.002),
        "posedirs": rng.normal(size=(778, 3, 135), scale=0.001),
        "J_regressor": regressor,
        "weights": weights,
        "f": rng.integers(0, 778, (1538, 3)).astype(np.uint32),
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(16)], np.uint32),
        "hands_components": np.linalg.qr(rng.normal(size=(45, 45)))[0],
        "hands_mean": rng.normal(size=45, scale=0.2),
    }


def write(path: Path, arrays: dict[str, np.ndarray], protocol: int = 2) -> Path:
    """Write a model such as `model()`, with further keys that the reader does not need; returns the path."""
    more = np.concatenate([arrays["shapedirs"], np.ones((778, 3, 10))], -1)  # the files have 20
    content = dict(arrays) | {
        "shapedirs": select(more, 10),
        "J_regressor": sparse(arrays["J_regressor"]),
        "J": arrays["J_regressor"] @ arrays["v_template"],
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    path.write_bytes(pickled(content, protocol))
    return path
