"""Errors of hand meshes: MPVPE, PA-MPVPE and the F-score. Inputs in millimetres."""

import jax
import jax.numpy as jnp

from jaxhand.metrics.pose import mpjpe, pa_mpjpe

BLOCK_SAMPLES = 64  # scored together, and BLOCK_POINTS unrolled: the fastest on a CPU, whose caches hold them
BLOCK_POINTS = 16
FAR_MM = 1e18  # of points that only fill a block; its square is finite in float32


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
    meshes for the aligned figure. The distances are taken directly: |a|^2 - 2ab + |b|^2 would be little faster and
    miscount in float32.

    Args:
        pred: (..., V, 3) vertices, mm.
        gt: (..., W, 3) vertices, mm; W may differ from V.
        threshold: mm; F@5 and F@15 are the field's. A sequence of T thresholds costs no more than one.

    Returns:
        (...,) between 0 and 1, one number a sample, or (..., T); 0 where nothing is met, NaN for a mesh that is not
        finite.

    Raises:
        ValueError: the shapes are not (..., V, 3) and (..., W, 3).
    """
    pred, gt = jnp.asarray(pred), jnp.asarray(gt)
    batch = gt.shape[:-2]
    if min(pred.ndim, gt.ndim) < 2 or pred.shape[:-2] != batch or {pred.shape[-1], gt.shape[-1]} != {3}:
        raise ValueError(f"pred and gt must be (..., V, 3) and (..., W, 3), got {pred.shape} and {gt.shape}")
    dtype = jnp.result_type(pred.dtype, gt.dtype, jnp.float32)
    limit = jnp.asarray(threshold, dtype)[..., None]

    def score(meshes):
        pred, gt = (points.T for points in meshes)  # (3, V), (3, W)
        precision, recall = (
            (jnp.sqrt(_nearest_squared(*pair)) < limit).mean(-1, dtype=dtype) for pair in ((pred, gt), (gt, pred))
        )
        value = 2 * precision * recall / jnp.maximum(precision + recall, jnp.finfo(dtype).tiny)
        return jnp.where(jnp.isfinite(pred).all() & jnp.isfinite(gt).all(), value, jnp.nan)

    meshes = [points.astype(dtype).reshape(-1, *points.shape[-2:]) for points in (pred, gt)]  # (B, V, 3), (B, W, 3)
    scores = jax.lax.map(score, meshes, batch_size=BLOCK_SAMPLES)
    return scores.reshape(batch + scores.shape[1:])


def _nearest_squared(points, others):
    """Squared distance of (3, V) points to the nearest of (3, W) others, (V,); others that are not finite are far.

    The loop is over blocks of `others`, with the points and the samples of a block in the lanes: nothing is reduced
    across lanes, and V x W distances never exist. `where` is one instruction, the NaN-proof `minimum` several.
    """
    others = jnp.pad(others, ((0, 0), (0, -others.shape[1] % BLOCK_POINTS)), constant_values=FAR_MM)

    def nearer(block, least):
        start = block * BLOCK_POINTS
        q = jax.lax.dynamic_slice_in_dim(others, start, BLOCK_POINTS, axis=1)  # (3, BLOCK_POINTS)
        for k in range(BLOCK_POINTS):
            squared = sum(jnp.square(points[axis] - q[axis, k]) for axis in range(3))
            least = jnp.where(squared < least, squared, least)
        return least

    return jax.lax.fori_loop(0, others.shape[1] // BLOCK_POINTS, nearer, jnp.full_like(points[0], jnp.inf))
