"""Compare saved trees of arrays with the trees that a model needs, and describe the differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def stored(leaf: Any, sharding: jax.sharding.Sharding | None = None) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of a leaf on disk. A random key is stored as an array of integers.

    Args:
        leaf: an array, or another object with `shape` and `dtype`.
        sharding: sharding of the result; None: the sharding of the leaf, or else this process's first device.
    """
    places = (sharding, getattr(leaf, "sharding", None), jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    place = next(place for place in places if isinstance(place, jax.sharding.Sharding))
    leaf = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def mismatch(name: str, saved: Any, wanted: Any, *, partial: bool = False) -> str | None:
    """Describe the first leaf whose name, shape or dtype differs; None if no leaf differs.

    Args:
        name: name of the tree, for the text.
        saved: tree of arrays, or of objects with `shape` and `dtype`.
        wanted: the tree that the model needs.
        partial: True if leaves may be missing in `saved`.
    """
    saved, wanted = _by_path(saved), _by_path(wanted)
    faults = []
    for path in saved if partial else wanted | saved:
        have, want = saved.get(path), wanted.get(path)
        if have is None:
            faults.append(f"{name}/{path}: not saved, the model needs {_shape(want)}")
        elif want is None:
            faults.append(f"{name}/{path}: saved {_shape(have)}, but not in the model")
        elif tuple(have.shape) != tuple(want.shape):
            faults.append(f"{name}/{path}: saved {_shape(have)}, the model needs {_shape(want)}")
        elif have.dtype != want.dtype:
            faults.append(f"{name}/{path}: saved {np.dtype(have.dtype)}, the model needs {np.dtype(want.dtype)}")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return faults[0] + more if faults else None


def overlaid(tree: dict, saved: dict) -> dict:
    """Copy the nested dicts `tree` and replace each leaf whose path is also in `saved` by the saved leaf."""
    both = {key: overlaid(tree[key], saved[key]) for key in tree.keys() & saved.keys() if isinstance(tree[key], dict)}
    return tree | saved | both


def parts(saved: dict, wanted: dict) -> str:
    """Text: which of the wanted leaves are saved and which are new, grouped by the first two names of a path."""
    saved, wanted = _by_path(saved), _by_path(wanted)
    taken, new = (
        sorted({"/".join(path.split("/")[:2]) for path in wanted if (path in saved) == is_saved})
        for is_saved in (True, False)
    )
    return f"{len(saved)} of {len(wanted)} parameters are loaded ({', '.join(taken)}); new: {', '.join(new)}"


def int_keys(tree: Any) -> Any:
    """Convert number keys of nested dicts from text to int, as in `nnx.List`; on disk all keys are text."""
    if not isinstance(tree, dict):
        return tree
    return {int(key) if key.isdecimal() else key: int_keys(value) for key, value in tree.items()}


def _by_path(tree) -> dict:
    flat = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _shape(leaf) -> str:
    return str(tuple(leaf.shape)).replace(" ", "")
