"""Pinhole cameras. OpenCV frame (x right, y down, z forward), mm; integer pixel coordinates are pixel centres.

Every function takes NumPy or JAX arrays and returns the same kind.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array | np.ndarray

DEPTH_RANGE_MM = 150.0  # a depth image is normalised: the hand's distance ± this value → [-1, 1]
FROM_OPENGL = np.array([1, -1, -1], np.float32)  # factors of x, y, z from OpenGL's camera frame to OpenCV's, and back


def project(points: Array, K: Array) -> Any:
    """Points (..., N, 3) mm in the frame of a camera K (..., 3, 3) → pixels (..., N, 2). Points need z > 0."""
    uvw = points @ _module(points, K).swapaxes(K, -1, -2)  # (..., N, 3)
    return uvw[..., :2] / uvw[..., 2:]


def focal_length(K: Array) -> Any:
    """Focal length (...) px of cameras K (..., 3, 3), also of a rotated crop: sqrt(|fx fy|) without a rotation."""
    determinant = K[..., 0, 0] * K[..., 1, 1] - K[..., 0, 1] * K[..., 1, 0]
    return _module(K).sqrt(abs(determinant))


def unproject(uv: Array, z: Array, K: Array) -> Any:
    """Pixels (..., N, 2) at depths z (..., N) mm → points (..., N, 3); exact for any K whose last row is 0 0 1."""
    xp = _module(uv, z, K)
    offset = uv - K[..., None, :2, 2]  # (..., N, 2)
    a, b, c, d = (K[..., None, i, j] for i in (0, 1) for j in (0, 1))  # (..., 1): the 2x2 of focal lengths and skew
    x = (d * offset[..., 0] - b * offset[..., 1]) / (a * d - b * c)
    y = (a * offset[..., 1] - c * offset[..., 0]) / (a * d - b * c)
    return xp.stack([x * z, y * z, z + xp.zeros_like(x)], axis=-1)


def uncrop(
    keypoints_2d: Array,
    keypoints_3d: Array,
    K_crop: ArrayLike,
    K_image: ArrayLike,
    is_right: ArrayLike,
    rotation: ArrayLike = 0.0,
) -> tuple[np.ndarray, Array]:
    """Map predictions from a crop to its image: the inverse of `data.crop.crop`.

    Args:
        keypoints_2d: (..., N, 2) px of the crop.
        keypoints_3d: (..., N, 3) mm, camera frame of the crop.
        K_crop: (..., 3, 3) of the crop.
        K_image: (..., 3, 3) of the image.
        is_right: (...); 0 for a hand that was mirrored.
        rotation: (...) radians by which the crop was rotated, clockwise.

    Returns:
        (..., N, 2) px of the image and (..., N, 3) mm in the image's camera frame. Mirrored hands are left hands again.
    """
    cos, sin = np.cos(rotation), np.sin(rotation)
    R = np.zeros((*np.broadcast_shapes(np.shape(is_right), np.shape(rotation)), 3, 3))
    R[..., 0, 0], R[..., 0, 1], R[..., 1, 0], R[..., 1, 1], R[..., 2, 2] = cos, -sin, sin, cos, 1
    R[..., :, 0] *= np.where(np.asarray(is_right) > 0, 1, -1)[..., None]  # the mirror comes before the rotation
    to_crop = np.asarray(K_crop, np.float64) @ R @ np.linalg.inv(K_image)  # A = K' R K^-1
    pixels = np.concatenate([keypoints_2d, np.ones_like(keypoints_2d[..., :1])], axis=-1)  # (..., N, 3)
    pixels = pixels @ np.linalg.inv(to_crop).swapaxes(-1, -2)
    return pixels[..., :2], keypoints_3d @ R


def _module(*arrays):
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def weak_perspective_translation(camera: Array, K: Array, size: int) -> Any:
    """Convert a weak-perspective camera into the translation of the hand in front of the camera K.

    The convention is HaMeR's (`cam_crop_to_full`): a point X in metres is projected to (X + t) s / 2. This is the
    offset from the centre of the crop, as a fraction of the crop's side.

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
