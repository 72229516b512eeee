"""Find the position of a hand in front of the camera from its joints in mm (around any origin) and in pixels.

Every function takes NumPy or JAX arrays and returns the same kind.
"""

import jax
import jax.numpy as jnp
import numpy as np

NEAREST_MM = 50.0  # smallest distance used for a weight, so that a very near joint does not dominate
ROUNDS = 3  # number of least-squares solutions; the distances of each one are the weights of the next


def translation(joints, pixels, K):
    """Return the translation with which joints project to given pixels, by iteratively reweighted least squares.

    A joint X, moved by t, lies on the ray u of its pixel if (X + t)_xy = u (Z + t_z): two linear equations in t per
    joint, solved in closed form. The equations are divided by the joint's distance Z + t_z, so that the errors are
    proportional to pixels. The distance is taken from the previous solution.

    Args:
        joints: (..., N, 3) mm, around any origin, along the camera's axes.
        pixels: (..., N, 2) px.
        K: (..., 3, 3), any camera whose last row is 0 0 1.

    Returns:
        (..., 3) mm.
    """
    xp = _module(joints, pixels, K)
    u = rays(pixels, K)[..., :2]  # (..., N, 2)
    target = u * joints[..., 2:] - joints[..., :2]  # (..., N, 2)
    w = xp.ones_like(target[..., 0])  # (..., N)
    for _ in range(ROUNDS):
        wu = w[..., None] * u
        total, wu_sum = w.sum(-1), wu.sum(-2)  # (...), (..., 2)
        zero = xp.zeros_like(total)
        normal = xp.stack(
            [
                xp.stack([total, zero, -wu_sum[..., 0]], -1),
                xp.stack([zero, total, -wu_sum[..., 1]], -1),
                xp.stack([-wu_sum[..., 0], -wu_sum[..., 1], (wu * u).sum((-1, -2))], -1),
            ],
            -2,
        )  # (..., 3, 3)
        right = xp.stack(
            [(w * target[..., 0]).sum(-1), (w * target[..., 1]).sum(-1), -(wu * target).sum((-1, -2))], -1
        )  # (..., 3)
        t = _solve(normal, right)
        w = 1 / xp.maximum(joints[..., 2] + t[..., 2:], NEAREST_MM) ** 2
    return t


def place_on_rays(joints, pixels, K):
    """Move joints (..., N, 3) mm, around any origin, onto the rays of their pixels: (..., N, 3) mm in the camera frame.

    The distance of a joint is its z plus the z of `translation`. Its x and y follow from the ray at this distance. The
    arguments are those of `translation`.
    """
    z = joints[..., 2:] + translation(joints, pixels, K)[..., None, 2:]
    return rays(pixels, K) * z


def rays(pixels, K):
    """Pixels (..., N, 2) → points (..., N, 3) at z = 1 that project to these pixels."""
    xp = _module(pixels, K)
    homogeneous = xp.concatenate([pixels, xp.ones_like(pixels[..., :1])], -1)
    return homogeneous @ xp.linalg.inv(K).swapaxes(-1, -2)


def _solve(normal, right):
    """Solve normal (..., 3, 3) @ x = right (..., 3), where `normal` is symmetric and its entry [0, 1] is 0."""
    xp = _module(normal, right)
    total = normal[..., 0, 0]
    coupling = normal[..., 2, :2] / total[..., None]  # (..., 2)
    z = right[..., 2] - (coupling * right[..., :2]).sum(-1)
    z = z / xp.maximum(normal[..., 2, 2] - (coupling**2).sum(-1) * total, 1e-12 * total)
    xy = right[..., :2] / total[..., None] - coupling * z[..., None]
    return xp.concatenate([xy, z[..., None]], -1)


def _module(*arrays):
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np
