"""Weights in half precision: which arrays can be stored so, and parameters that are."""

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST = 1024  # number of elements from which an array is worth storing in half precision


def is_exact(array: np.ndarray) -> bool:
    """Whether an array is large, and all its float32 values are numbers of half precision."""
    if array.dtype != np.float32 or array.size < SMALLEST or np.abs(array).max() > np.finfo(np.float16).max:
        return False
    return np.array_equal(array, array.astype(np.float16))


def stored(params: dict, *, half: bool) -> dict:
    """Parameters as they are stored in a file: large arrays in half precision where `half`, or where it is exact."""

    def store(array):
        array = np.asarray(array)
        smaller = half and array.dtype == np.float32 and array.size >= SMALLEST
        return array.astype(np.float16) if smaller or is_exact(array) else array

    return jax.tree.map(store, params)


def restored(params: dict) -> dict:
    """Parameters as a network computes with them: float32 instead of half precision."""
    return jax.tree.map(lambda a: jnp.asarray(a).astype(jnp.float32) if a.dtype == np.float16 else a, params)
