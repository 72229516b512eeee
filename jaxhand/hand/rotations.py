"""Rotations as axis-angle, matrix and 6D vector. Gradients are finite everywhere, also at angles of 0 and pi."""

import jax
import jax.numpy as jnp
import numpy as np


def axis_angle_to_matrix(axis_angle: jax.Array) -> jax.Array:
    """Axis-angle (..., 3), radians → rotation matrices (..., 3, 3), by Rodrigues' formula."""
    square = jnp.sum(axis_angle**2, -1, keepdims=True)
    small = square < 1e-4
    half = 0.5 * jnp.sqrt(jnp.where(small, 1.0, square))
    sinc = jnp.where(small, 1 - square / 24 * (1 - square / 80), jnp.sin(half) / half)  # sin(θ/2) / (θ/2)
    w = jnp.where(small, 1 - square / 8 * (1 - square / 48), jnp.cos(half))[..., 0]
    x, y, z = jnp.moveaxis(0.5 * sinc * axis_angle, -1, 0)  # (w, x, y, z) is a unit quaternion
    entries = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack(entries, -1).reshape(*axis_angle.shape, 3)


def matrix_to_axis_angle(matrix: jax.Array) -> jax.Array:
    """Rotation matrices (..., 3, 3) → axis-angle (..., 3), radians.

    The angle is in [0, pi]. At pi two opposite axes describe the same rotation; either of them is returned.
    """
    (a, b, c), (d, e, f), (g, h, i) = jnp.moveaxis(matrix, (-2, -1), (0, 1))
    products = (  # 4 q qᵀ of the unit quaternion q = (w, x, y, z)
        *(1 + a + e + i, h - f, c - g, d - b),
        *(h - f, 1 + a - e - i, b + d, c + g),
        *(c - g, b + d, 1 - a + e - i, f + h),
        *(d - b, c + g, f + h, 1 - a - e + i),
    )
    products = jnp.stack(products, -1).reshape(*a.shape, 4, 4)
    largest = jnp.argmax(jnp.diagonal(products, axis1=-2, axis2=-1), -1)  # this row of `products` is far from 0
    quaternion = jnp.take_along_axis(products, largest[..., None, None], -2)[..., 0, :]  # (..., 4)
    quaternion = quaternion / jnp.linalg.norm(quaternion, axis=-1, keepdims=True)
    quaternion = jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    square = jnp.sum(xyz**2, -1, keepdims=True)
    small = square < 1e-5
    sine = jnp.sqrt(jnp.where(small, 1.0, square))
    near = jnp.where(small, square / jnp.where(small, w, 1.0) ** 2, 0.0)  # tan² of half the angle
    series = 2 / jnp.where(small, w, 1.0) * (1 - near / 3 * (1 - near * 0.6))
    return xyz * jnp.where(small, series, 2 * jnp.arctan2(sine, w) / sine)


def rotation_6d_to_matrix(rotation_6d: jax.Array) -> jax.Array:
    """6D vectors → rotation matrices: two columns, made orthonormal, and their cross product as the third column.

    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks" (2019), in the layout of HaMeR.

    Args:
        rotation_6d: (..., 6), the first column and then the second. It must be float32: HaMeR's mean wrist rotation
            needs the last bits of its second column.

    Returns:
        (..., 3, 3).
    """
    first, second = rotation_6d[..., :3], rotation_6d[..., 3:]
    first = _unit(first)
    second = _unit(second - jnp.sum(first * second, -1, keepdims=True) * first)
    return jnp.stack([first, second, jnp.cross(first, second)], -1)


def _unit(vector):
    return vector / jnp.sqrt(jnp.maximum(jnp.sum(vector**2, -1, keepdims=True), 1e-24))


def matrix_to_rotation_6d(matrix: jax.Array) -> jax.Array:
    """Rotation matrices (..., 3, 3) → 6D vectors (..., 6): the first column, then the second."""
    return jnp.swapaxes(matrix[..., :2], -1, -2).reshape(*matrix.shape[:-2], 6)


def mirror_axis_angle(axis_angle: jax.Array) -> jax.Array:
    """Axis-angle (..., 3) of a left hand → of its mirror image (x negated), a right hand; and the other way round."""
    return axis_angle * np.array([1, -1, -1], np.float32)
