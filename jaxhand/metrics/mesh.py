"""Errors of hand meshes: MPVPE, PA-MPVPE and the F-score. Inputs in millimetres."""

import jax
import jax.numpy as jnp

from jaxhand.metrics.pose import mpjpe, pa_mpjpe
from jaxhand.metrics.procrustes import as_points


def mpvpe(pred, gt, *, valid=None):
    """Mean per-vertex position error of (..., V, 3) meshes, mm: (...,), one number a sample.

    Vertices are compared as they are. `valid` (..., V) masks them; NaN where none is valid.
    """
    return mpjpe(pred, gt, valid=valid)


def pa_mpvpe(pred, gt, *, reflection: bool = False, valid=None):
    """Mean per-vertex position error of (..., V, 3) meshes aligned by their own vertices, mm: (...,), one a sample.

    As FreiHAND does it for meshes of the same topology, where `reflection=True` is its convention (see
    `procrustes_align`). `valid` (..., V) masks the vertices; NaN where none is valid.
    """
    return pa_mpjpe(pred, gt, reflection=reflection, valid=valid)


@jax.jit
def f_score(pred, gt, threshold):
    """Harmonic mean of precision and recall between two surfaces' points, as FreiHAND's `calculate_fscore`.

    A point is met when its nearest neighbour in the other set is strictly closer than the threshold. Pass aligned
    meshes for the aligned figure.

    Args:
        pred: (B, V, 3) vertices, mm.
        gt: (B, V, 3) vertices, mm.
        threshold: mm; F@5 and F@15 are the field's.

    Returns:
        (B,) between 0 and 1, one number a sample; 0 where nothing is met, NaN for a mesh that is not finite.
    """

    def score(meshes):  # one sample at a time: V x V distances of a batch would not fit in a cache
        pred, gt = meshes
        squared = sum(jnp.square(pred[:, None, k] - gt[None, :, k]) for k in range(3))  # (V pred, V gt)
        precision, recall = ((jnp.sqrt(squared.min(axis)) < threshold).mean(dtype=squared.dtype) for axis in (1, 0))
        value = 2 * precision * recall / jnp.maximum(precision + recall, jnp.finfo(squared.dtype).tiny)
        return jnp.where(jnp.isfinite(squared).all(), value, jnp.nan)

    return jax.lax.map(score, as_points(pred, gt))
