"""Alignments between none and Procrustes: by one bone, by scale alone, and of a mesh by its joints. Any unit."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxhand.metrics.procrustes import as_points, procrustes_align


@partial(jax.jit, static_argnames=("root", "scale_joint"))
def scale_translation_align(pred, gt, *, root: int = 0, scale_joint: int = 9):
    """Scale `pred` so that one bone is as long as in `gt`, and move its root there: HO-3D's `align_sc_tr`.

    Args:
        pred: (..., N, 3) joints.
        gt: (..., N, 3) joints.
        root: joint that is moved onto its target, the wrist.
        scale_joint: the bone's other end. HO-3D takes the base of the middle finger: joint 9 here, 4 in its order.

    Returns:
        (..., N, 3) in the unit of `gt`. A bone of length 0 in `pred` leaves its scale alone. (The official code then
        multiplies by the length in metres.)
    """
    pred, gt = as_points(pred, gt)
    pred = pred - pred[..., root : root + 1, :]
    origin = gt[..., root : root + 1, :]
    have, want = (_square(p[..., scale_joint : scale_joint + 1, :]) for p in (pred, gt - origin))
    known = have != 0  # also for NaN
    scale = jnp.where(known, jnp.sqrt(want / jnp.where(known, have, 1)), 1)
    return pred * scale + origin


@jax.jit
def scale_align(pred, gt):
    """Scale `pred` about the origin to the least sum of squared distances: mmpose's alignment "scale".

    Args:
        pred: (..., N, 3) joints, relative to the joint that shall stay in place.
        gt: (..., N, 3) joints.

    Returns:
        (..., N, 3) in the unit of `gt`; zeros stay zeros (NaN in mmpose).
    """
    pred, gt = as_points(pred, gt)
    product = (pred * gt).sum((-2, -1), keepdims=True)
    square = jnp.square(pred).sum((-2, -1), keepdims=True)
    return pred * (product / jnp.maximum(square, jnp.finfo(square.dtype).tiny))


@partial(jax.jit, static_argnames=("reflection", "imitate_missing_scale"))
def align_by_joints(vertices, pred, gt, *, reflection: bool = True, imitate_missing_scale: bool = False):
    """Move vertices by the similarity that aligns joints `pred` with `gt`, for a mesh whose topology is not `gt`'s.

    Args:
        vertices: (..., V, 3) of the prediction, mm.
        pred: (..., N, 3) joints of the prediction, mm.
        gt: (..., N, 3) joints, mm.
        reflection: see `procrustes_align`.
        imitate_missing_scale: do as FreiHAND's and HO-3D's `align_by_trafo`, which forgets to divide by the size of
            `pred` (in metres), and turns the vertices about their own centroid.

    Returns:
        (..., V, 3) mm.
    """
    count = vertices.shape[-2]
    points = jnp.concatenate([vertices, pred], -2)
    targets = jnp.concatenate([jnp.zeros_like(vertices), gt], -2)
    valid = jnp.broadcast_to(jnp.arange(points.shape[-2]) >= count, points.shape[:-1])
    aligned = procrustes_align(points, targets, reflection=reflection, valid=valid)[..., :count, :]
    if not imitate_missing_scale:
        return aligned
    centre, size = pred.mean(-2, keepdims=True), 1e-3
    size = size * jnp.sqrt(_square(pred - centre).sum(-2, keepdims=True))
    shift = gt.mean(-2, keepdims=True) - centre + vertices.mean(-2, keepdims=True)
    return (aligned - aligned.mean(-2, keepdims=True)) * size + shift


def _square(points):
    return jnp.square(points).sum(-1, keepdims=True)
