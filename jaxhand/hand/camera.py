"""Pinhole cameras. OpenCV frame (x right, y down, z forward), mm; an integer pixel coordinate is a pixel's centre.

Every function takes NumPy or JAX arrays and gives back the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np

DEPTH_RANGE_MM = 150.0  # a depth image is normalised to [-1, 1] over this distance to either side of the hand


def project(points, K):
    """Points (..., N, 3) mm seen by K (..., 3, 3) → pixels (..., N, 2). Points need z > 0."""
    uvw = points @ _module(points, K).swapaxes(K, -1, -2)  # (..., N, 3)
    return uvw[..., :2] / uvw[..., 2:]


def unproject(uv, z, K):
    """Pixels (..., N, 2) at depths z (..., N) mm → points (..., N, 3); exact for any K whose last row is 0 0 1."""
    xp = _module(uv, z, K)
    offset = uv - K[..., None, :2, 2]  # (..., N, 2)
    a, b, c, d = (K[..., None, i, j] for i in (0, 1) for j in (0, 1))  # (..., 1): the 2x2 of focal lengths and skew
    x = (d * offset[..., 0] - b * offset[..., 1]) / (a * d - b * c)
    y = (a * offset[..., 1] - c * offset[..., 0]) / (a * d - b * c)
    return xp.stack([x * z, y * z, z + xp.zeros_like(x)], axis=-1)


def _module(*arrays):
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def weak_perspective_translation(camera, K, size: int):
    """The translation that puts a hand in front of the camera K where a weak-perspective camera projects it.

    The convention is HaMeR's (`cam_crop_to_full`): a point X in metres is projected to (X + t) s / 2 from the centre of
    the crop, in parts of the crop's side.

    Args:
        camera: (B, 3) s, tx, ty, with t in metres.
        K: (B, 3, 3) of the crop.
        size: side of the crop, px.

    Returns:
        (B, 3) mm.
    """
    xp = _module(camera, K)
    scale = camera[:, :1] * size / 2  # (B, 1) px per metre
    focal = xp.sqrt(xp.abs(xp.linalg.det(K[:, :2, :2])))[:, None]
    z = 1000 * focal / (scale + 1e-9)  # (B, 1) mm
    return unproject(size / 2 + scale[:, None] * camera[:, None, 1:], z, K)[:, 0]
