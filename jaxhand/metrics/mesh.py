"""Errors of hand meshes: MPVPE, PA-MPVPE and the F-score. Inputs are in millimetres."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxhand.metrics.pose import mpjpe, pa_mpjpe

BLOCK_SAMPLES = 64  # meshes that are scored together: the fastest on a CPU, whose caches hold them
BLOCK_POINTS = 16  # vertices in one unrolled step of the loop
FAR_MM = 1e18  # coordinate of points that only fill a block; its square is finite in float32


def mpvpe(pred: ArrayLike, gt: ArrayLike, *, valid: ArrayLike | None = None) -> jax.Array:
    """Mean per-vertex position error, without alignment.

    Args:
        pred: (..., V, 3) vertices, mm.
        gt: (..., V, 3) vertices, mm.
        valid: (..., V) mask of the vertices to measure; None measures all.

    Returns:
        (...,) mm, one number per sample. NaN where no vertex is valid.

    Raises:
        ValueError: the shapes differ or are not (..., V, 3).
    """
    return mpjpe(pred, gt, valid=valid)


def pa_mpvpe(pred: ArrayLike, gt: ArrayLike, *, reflection: bool = False, valid: ArrayLike | None = None) -> jax.Array:
    """Mean per-vertex position error of meshes that are aligned by their own vertices.

    FreiHAND computes it like this for meshes of the same topology.

    Args:
        pred: (..., V, 3) vertices, mm.
        gt: (..., V, 3) vertices, mm.
        reflection: whether the alignment may mirror (True is FreiHAND's convention), see `procrustes_align`.
        valid: (..., V) mask of the vertices to align by and to measure; None takes all.

    Returns:
        (...,) mm, one number per sample. NaN where no vertex is valid.

    Raises:
        ValueError: the shapes differ or are not (..., V, 3).
    """
    return pa_mpjpe(pred, gt, reflection=reflection, valid=valid)


@jax.jit
def f_score(pred: ArrayLike, gt: ArrayLike, threshold: ArrayLike) -> jax.Array:
    """Harmonic mean of precision and recall between the points of two surfaces, as FreiHAND's `calculate_fscore`.

    A point is a hit if its nearest neighbour in the other set is strictly closer than the threshold. Pass aligned
    meshes for the aligned score. Distances are computed directly: |a|^2 - 2ab + |b|^2 would be hardly faster, and would
    miscount in float32.

    Args:
        pred: (..., V, 3) vertices, mm.
        gt: (..., W, 3) vertices, mm; W may differ from V.
        threshold: mm; usual are 5 and 15 (F@5, F@15). A sequence of T thresholds costs no more than one.

    Returns:
        (...,) between 0 and 1, one number per sample, or (..., T); 0 without hits, NaN for a mesh that is not finite.

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
    """Squared distances (V,) of (3, V) points to the nearest of (3, W) others; others that are not finite are ignored.

    The loop runs over blocks of `others`, and the vector lanes hold points and samples. So nothing is reduced across
    lanes, and the V x W distances are never stored. `where` is one instruction; `minimum`, which keeps NaN, is several.
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
