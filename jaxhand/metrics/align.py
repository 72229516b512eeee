"""Partial alignments: by one bone, by scale only, and of a mesh by its joints."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxhand.metrics.procrustes import as_points, checked_joint, procrustes_align


@partial(jax.jit, static_argnames=("root", "scale_joint"))
def scale_translation_align(pred: ArrayLike, gt: ArrayLike, *, root: int = 0, scale_joint: int = 9) -> jax.Array:
    """Scale `pred` so that one bone is as long as in `gt`, and move its root there: HO-3D's `align_sc_tr`.

    Args:
        pred: (..., N, 3) joints, any unit.
        gt: (..., N, 3) joints.
        root: index of the joint that is moved onto its target, by default the wrist.
        scale_joint: index of the bone's other end. HO-3D takes the base of the middle finger: 9 in jaxhand's order, 4
            in its own.

    Returns:
        (..., N, 3) in the unit of `gt`. Where the bone of `pred` has length 0, the scale is 1. (The official code then
        multiplies by the length in metres.)

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = as_points(pred, gt)
    root, scale_joint = (checked_joint("root and scale_joint", joint, gt.shape[-2]) for joint in (root, scale_joint))
    pred = pred - pred[..., root : root + 1, :]
    origin = gt[..., root : root + 1, :]
    squared, target = (_squared_norm(p[..., scale_joint : scale_joint + 1, :]) for p in (pred, gt - origin))
    nonzero = squared != 0  # also for NaN
    scale = jnp.where(nonzero, jnp.sqrt(target / jnp.where(nonzero, squared, 1)), 1)
    return pred * scale + origin


@jax.jit
def scale_align(pred: ArrayLike, gt: ArrayLike) -> jax.Array:
    """Scale `pred` about the origin so that the sum of squared distances is smallest: mmpose's alignment "scale".

    Args:
        pred: (..., N, 3) joints, any unit, relative to the joint that must stay in place.
        gt: (..., N, 3) joints.

    Returns:
        (..., N, 3) in the unit of `gt`; zeros stay zeros (NaN in mmpose).

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = as_points(pred, gt)
    product = (pred * gt).sum((-2, -1), keepdims=True)
    square = jnp.square(pred).sum((-2, -1), keepdims=True)
    return pred * (product / jnp.maximum(square, jnp.finfo(square.dtype).tiny))


@partial(jax.jit, static_argnames=("reflection", "imitate_missing_scale"))
def align_by_joints(
    vertices: ArrayLike, pred: ArrayLike, gt: ArrayLike, *, reflection: bool = True, imitate_missing_scale: bool = False
) -> jax.Array:
    """Transform vertices by the similarity that aligns joints `pred` with `gt`, for a mesh of another topology.

    Args:
        vertices: (..., V, 3) vertices of the prediction, mm.
        pred: (..., N, 3) joints of the prediction, mm.
        gt: (..., N, 3) joints, mm.
        reflection: whether the alignment may mirror, see `procrustes_align`.
        imitate_missing_scale: compute as FreiHAND's and HO-3D's `align_by_trafo`, which does not divide by the size of
            `pred` (in metres), and rotates the vertices about their own centroid.

    Returns:
        (..., V, 3) mm.

    Raises:
        ValueError: the shapes of the joints and of the vertices do not match.
    """
    vertices, pred, gt = jnp.asarray(vertices), jnp.asarray(pred), jnp.asarray(gt)
    count = vertices.shape[-2]
    points = jnp.concatenate([vertices, pred], -2)
    targets = jnp.concatenate([jnp.zeros_like(vertices), gt], -2)
    valid = jnp.broadcast_to(jnp.arange(points.shape[-2]) >= count, points.shape[:-1])
    aligned = procrustes_align(points, targets, reflection=reflection, valid=valid)[..., :count, :]
    if not imitate_missing_scale:
        return aligned
    centre, size = pred.mean(-2, keepdims=True), 1e-3
    size = size * jnp.sqrt(_squared_norm(pred - centre).sum(-2, keepdims=True))
    shift = gt.mean(-2, keepdims=True) - centre + vertices.mean(-2, keepdims=True)
    return (aligned - aligned.mean(-2, keepdims=True)) * size + shift


def _squared_norm(points):
    return jnp.square(points).sum(-1, keepdims=True)
