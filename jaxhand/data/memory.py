"""Memory for the arrays of a batch, which is used again when no array needs it any more.

Allocating new memory for every batch would take as long as decoding, because the operating system clears each page.
"""

import math
import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

_ALIGN = 64  # bytes; JAX uses arrays on such an address without a copy on a CPU


class Place(NamedTuple):
    """Where an array is in a block of memory."""

    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype


def places(shapes: Mapping[str, tuple[tuple[int, ...], np.typing.DTypeLike]]) -> tuple[dict[str, Place], int]:
    """Place arrays one after the other in a block of memory.

    Args:
        shapes: name → shape and dtype.

    Returns:
        The places by name, and the size of the block in bytes.
    """
    found, end = {}, 0
    for name, (shape, dtype) in shapes.items():
        found[name] = Place(end, tuple(shape), np.dtype(dtype))
        end += -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGN) * _ALIGN
    return found, end


def arrays(memory, found: Mapping[str, Place], release: Callable[[], object]) -> dict[str, np.ndarray]:
    """The arrays at these places.

    Args:
        memory: the block, as a buffer.
        found: the places by name.
        release: called when no array refers to the block any more.
    """
    block = np.frombuffer(memory, np.uint8)  # lives as long as any array that is a view of it
    weakref.finalize(block, release).atexit = False
    return {name: np.ndarray(place.shape, place.dtype, block, place.begin) for name, place in found.items()}
