"""What the pixels of a photograph show, before any light falls on it: distances, normals and colours."""

import typing

import numpy as np

from jaxhand.data.synthetic.raytrace import FAR_MM


class Surface(typing.NamedTuple):
    """The visible surface of an image of S px, in mm and linear colours."""

    distance: np.ndarray  # (S, S) along the ray; FAR_MM where nothing is
    normal: np.ndarray  # (S, S, 3) unit vectors
    color: np.ndarray  # (S, S, 3) share of the light that is reflected
    gloss: np.ndarray  # (S, S) strength of the highlight
    flesh: np.ndarray  # (S, S) 1 where light goes under the surface, as in skin


def empty(size: int) -> Surface:
    """Return an image without any surface."""
    flat, colors = np.zeros((size, size), np.float32), np.zeros((size, size, 3), np.float32)
    return Surface(flat + np.float32(FAR_MM), colors - np.array([0, 0, 1], np.float32), colors, flat, flat)


def rays(window: np.ndarray, size: int) -> np.ndarray:
    """Return unit rays (S, S, 3) through the pixels of a window (3,): centre x, y and side at z = 1."""
    place = ((np.arange(size) + 0.5) / size - 0.5) * window[2]
    ray = np.ones((size, size, 3), np.float32)
    ray[..., 0], ray[..., 1] = window[0] + place, window[1] + place[:, None]
    return ray / np.sqrt(np.einsum("...i,...i->...", ray, ray))[..., None]


def spread(rows: np.ndarray, distance: np.ndarray, normal, color, gloss, flesh) -> Surface:
    """Put the values of the pixels with the indices `rows` (P,) of the flattened image into images."""
    arrays = [array.copy() for array in empty(len(distance))[1:]]
    for array, values in zip(arrays, (normal, color, gloss, flesh)):
        array.reshape(-1, *array.shape[2:])[rows] = values
    return Surface(distance, *arrays)


def nearest(first: Surface, second: Surface) -> Surface:
    """Return, at each pixel, the nearer of two surfaces."""
    pick = first.distance <= second.distance
    fields = [np.where(pick if a.ndim == 2 else pick[..., None], a, b) for a, b in zip(first, second)]
    return Surface(*fields)


def dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return scalar products (...,) of vectors (..., 3); much faster than a sum over the last axis."""
    return np.einsum("...i,...i->...", u, v)
