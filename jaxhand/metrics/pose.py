"""Errors of 3D joints: MPJPE and PA-MPJPE. Inputs in millimetres."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxhand.metrics.procrustes import aligned_distances, aligned_error, as_points, length, mean


@partial(jax.jit, static_argnames="root")
def mpjpe(pred, gt, *, root: int | None = None, valid=None):
    """Mean per-joint position error.

    Args:
        pred: (..., N, 3) joints, mm.
        gt: (..., N, 3) joints, mm.
        root: joint subtracted from both first (0 is the wrist: "root-relative"); None compares as they are.
        valid: (..., N) mask of the joints to measure; the values of the others are never read.

    Returns:
        (...,) mm, one number a sample. NaN where no joint is valid, or the root is not.
    """
    valid = _with_root(valid, root)
    return masked_mean(distances(pred, gt, root, valid), valid)


def pa_mpjpe(pred, gt, *, reflection: bool = False, valid=None):
    """Mean per-joint position error after `procrustes_align`; some papers call it reconstruction error.

    Args:
        pred: (..., N, 3) joints, mm.
        gt: (..., N, 3) joints, mm.
        reflection: False as HaMeR and mmpose, True as FreiHAND, HO-3D and DexYCB, where a mirrored hand scores 0.
        valid: (..., N) mask of the joints to align by and to measure; the values of the others are never read. (The
            official codes align by all joints and mask the mean: `mpjpe(procrustes_align(pred, gt), gt, valid=valid)`.)

    Returns:
        (...,) mm, one number a sample. NaN where no joint is valid. Gradients (reverse mode) are finite for all finite
        points.
    """
    if valid is None:
        return aligned_error(pred, gt, reflection=reflection)
    return _masked_pa_mpjpe(pred, gt, reflection, valid)


@partial(jax.jit, static_argnums=2)
def _masked_pa_mpjpe(pred, gt, reflection, valid):
    return masked_mean(aligned_distances(pred, gt, reflection=reflection, valid=valid), valid)


def distances(pred, gt, root: int | None = None, valid=None):
    """(..., N) distance of every joint to its target in the unit of (..., N, 3), relative to joint `root` if given.

    It is 0 where `valid` (..., N) is given and 0, whatever stands there.
    """
    pred, gt = as_points(pred, gt)
    if root is not None:
        pred, gt = (points - points[..., root : root + 1, :] for points in (pred, gt))
    difference = [pred[..., c] - gt[..., c] for c in range(3)]
    return length(difference if valid is None else [jnp.where(valid > 0, d, 0) for d in difference])


def masked_mean(values, valid):
    """Mean over the last axis of (..., N) values where `valid` > 0, or of all of them if it is None."""
    if valid is None:
        return mean(values)
    keep = jnp.broadcast_to(jnp.asarray(valid) > 0, values.shape)
    return mean(jnp.where(keep, values, 0)) / mean(keep.astype(values.dtype))


def _with_root(valid, root):
    return valid if valid is None or root is None else valid * valid[..., root : root + 1]
