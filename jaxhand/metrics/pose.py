"""Errors of 3D joints: MPJPE, PA-MPJPE, PCK and its area. Inputs in millimetres."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics.procrustes import aligned_distances, aligned_error, as_points, length, mean

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
    return masked_mean(aligned_distances(pred, gt, reflection=reflection, valid=valid), valid)


@jax.jit
def pck_auc(pred, gt, *, valid=None):
    """Area under the curve of correct keypoints, as FreiHAND's `EvalUtil` counts it, of every sample.

    The curve is the share of joints whose distance is <= each of 100 thresholds, `linspace(0, 50)` mm; the area is
    its trapezoid over 50 mm. A distance that is not finite is a miss. The mean over samples is FreiHAND's AUC where all
    joints are valid; with joints missing that one averages per joint first: take `pck` over the whole set.

    Args:
        pred: (..., N, 3) joints, mm, compared as they are; pass aligned points for the aligned figure.
        gt: (..., N, 3) joints, mm.
        valid: (..., N) mask of the joints to measure; the values of the others are never read.

    Returns:
        (...,) between 0 and 1, one number a sample. NaN where no joint is valid.
    """
    distance = distances(pred, gt)[..., None, :]  # (..., 1, N)
    hits = (distance <= THRESHOLDS_MM[:, None]).astype(distance.dtype)  # (..., 100, N)
    curve = masked_mean(hits, None if valid is None else valid[..., None, :])
    return jnp.trapezoid(curve, dx=1 / (len(THRESHOLDS_MM) - 1))


@jax.jit
def pck(pred, gt, *, valid=None, thresholds=THRESHOLDS_MM):
    """Percentage of correct keypoints of a whole set: per joint over the samples, then the mean over joints (FreiHAND).

    Args:
        pred: (B, N, 3) joints, mm, compared as they are.
        gt: (B, N, 3) joints, mm.
        valid: (B, N) mask of the joints to measure. A joint that is never valid is left out of the mean.
        thresholds: (T,) mm.

    Returns:
        (T,) share of joints with a distance <= the threshold, between 0 and 1.
    """
    distance = distances(pred, gt)
    hits = (distance <= jnp.asarray(thresholds)[:, None, None]).astype(distance.dtype)  # (T, B, N)
    keep = None if valid is None else (valid > 0)[None]
    return jnp.nanmean(hits.mean(1, where=keep), axis=-1)


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
