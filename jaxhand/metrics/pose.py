"""Errors of 3D joints: MPJPE, PA-MPJPE, PCK and its area. Inputs in millimetres."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics.procrustes import aligned_distances, as_points

THRESHOLDS_MM = np.linspace(0, 50, 100)  # of FreiHAND's PCK curve, both ends included


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
    return masked_mean(distances(pred, gt, root), _with_root(valid, root))


@partial(jax.jit, static_argnames="reflection")
def pa_mpjpe(pred, gt, *, reflection: bool = False, valid=None):
    """Mean per-joint position error after `procrustes_align`: Procrustes-aligned, in some papers "reconstruction error".

    Args:
        pred: (..., N, 3) joints, mm.
        gt: (..., N, 3) joints, mm.
        reflection: False as HaMeR and mmpose, True as FreiHAND, HO-3D and DexYCB, where a mirrored hand scores 0.
        valid: (..., N) mask of the joints to align by and to measure; the values of the others are never read.

    Returns:
        (...,) mm, one number a sample. NaN where no joint is valid.
    """
    return masked_mean(aligned_distances(pred, gt, reflection=reflection, valid=valid), valid)


def distances(pred, gt, root: int | None = None):
    """(..., N) distance of every joint to its target in the unit of (..., N, 3), relative to joint `root` if given."""
    pred, gt = as_points(pred, gt)
    if root is not None:
        pred, gt = (points - points[..., root : root + 1, :] for points in (pred, gt))
    return jnp.linalg.norm(pred - gt, axis=-1)


def masked_mean(values, valid):
    """Mean over the last axis of (..., N) values where `valid` > 0, or of all of them if it is None."""
    return values.mean(-1, where=None if valid is None else jnp.asarray(valid) > 0)


def _with_root(valid, root):
    return valid if valid is None or root is None else valid * valid[..., root : root + 1]
