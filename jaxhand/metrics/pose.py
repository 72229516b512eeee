"""Errors of 3D joints: MPJPE and PA-MPJPE. Inputs are in millimetres."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxhand.metrics.procrustes import aligned_error, as_points, checked_joint, masked_mean, norm


@partial(jax.jit, static_argnames="root")
def mpjpe(pred: ArrayLike, gt: ArrayLike, *, root: int | None = None, valid: ArrayLike | None = None) -> jax.Array:
    """Mean per-joint position error.

    Args:
        pred: (..., N, 3) joints, mm.
        gt: (..., N, 3) joints, mm.
        root: index of the joint that is subtracted from both (0 is the wrist: "root-relative"); None subtracts none.
        valid: (..., N) mask of the joints to measure; the others do not affect the result.

    Returns:
        (...,) mm, one number per sample. NaN where no joint is valid, or the root is not valid.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3), or there is no such root.
    """
    valid = _with_root(valid, root)
    return masked_mean(distances(pred, gt, root, valid), valid)


def pa_mpjpe(pred: ArrayLike, gt: ArrayLike, *, reflection: bool = False, valid: ArrayLike | None = None) -> jax.Array:
    """Mean per-joint position error after `procrustes_align`; some papers call it reconstruction error.

    Args:
        pred: (..., N, 3) joints, mm.
        gt: (..., N, 3) joints, mm.
        reflection: False as in HaMeR and mmpose; True as in FreiHAND, HO-3D and DexYCB, where a mirrored hand scores 0.
        valid: (..., N) mask of the joints to align by and to measure; the others do not affect the result. (The
            official codes align by all joints and mask the mean: `mpjpe(procrustes_align(pred, gt), gt, valid=valid)`.)

    Returns:
        (...,) mm, one number per sample. NaN where no joint is valid. Gradients (reverse mode) are finite for finite
        points.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    return aligned_error(pred, gt, reflection=reflection, valid=valid)


def distances(pred: ArrayLike, gt: ArrayLike, root: int | None = None, valid: ArrayLike | None = None) -> jax.Array:
    """Distance of each joint to its target.

    Args:
        pred: (..., N, 3) joints, any unit.
        gt: (..., N, 3) joints.
        root: index of the joint that is subtracted from both; None subtracts none.
        valid: (..., N) mask of the joints to measure; None measures all.

    Returns:
        (..., N) in the unit of the joints; 0 for joints that are not valid.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = as_points(pred, gt)
    if root is not None:
        root = checked_joint("root", root, gt.shape[-2])
        pred, gt = (points - points[..., root : root + 1, :] for points in (pred, gt))
    difference = [pred[..., c] - gt[..., c] for c in range(3)]
    return norm(difference if valid is None else [jnp.where(jnp.asarray(valid) > 0, d, 0) for d in difference])


def _with_root(valid, root):
    """The mask of the joints to measure: none of a hand whose root is not valid."""
    if valid is None or root is None:
        return valid
    valid = jnp.asarray(valid) > 0
    root = checked_joint("root", root, valid.shape[-1])
    return valid & valid[..., root : root + 1]
