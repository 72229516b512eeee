"""Similarity alignment (scale, rotation, translation) of batches of point sets, under both conventions of the field.

Everything is written over leading batch axes with the 3x3 matrices in front, so that XLA sees few, long, plain loops.
"""

from functools import partial

import jax
import jax.numpy as jnp

SWEEPS = 5  # of the Jacobi iteration below; it converges quadratically, 4 are enough for float32


@partial(jax.jit, static_argnames="reflection")
def procrustes_align(pred, gt, *, reflection: bool = False, valid=None):
    """Move `pred` onto `gt` by the similarity that leaves the least sum of squared distances.

    Args:
        pred: (..., N, 3) points, any unit. Float32, or float64 where JAX has it enabled.
        gt: (..., N, 3) points to align with.
        reflection: False allows rotations only, det R = +1 (HaMeR `compute_similarity_transform`, mmpose). True allows
            mirroring too, as FreiHAND, HO-3D and DexYCB do (`align_w_scale`, scipy's `orthogonal_procrustes`).
        valid: (..., N) mask of the points that decide the alignment; the others are moved along. None takes all.

    Returns:
        (..., N, 3) aligned points in the unit of `gt`. Coinciding `pred` points land on the centroid of `gt`; a
        non-finite input makes the whole sample non-finite.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    matrix, pred, _, centroid = similarity(pred, gt, reflection, valid)
    return _apply(matrix, pred) + centroid


@partial(jax.jit, static_argnames="reflection")
def aligned_distances(pred, gt, *, reflection: bool = False, valid=None):
    """Distance of every point to its target after `procrustes_align`, (..., N) in the unit of `gt`.

    Taken about the centroid, so that a hand metres away loses no digits. The arguments are those of `procrustes_align`.
    """
    matrix, pred, gt, _ = similarity(pred, gt, reflection, valid)
    return jnp.linalg.norm(_apply(matrix, pred) - gt, axis=-1)


def similarity(pred, gt, reflection: bool, valid):
    """The best similarity: its scaled rotation (3, 3, ...), `pred` and `gt` about their centroids, `gt`'s centroid."""
    pred, gt = as_points(pred, gt)
    pred, _ = _centre(pred, valid)
    gt, centroid = _centre(gt, valid)
    x, y = (pred, gt) if valid is None else (jnp.where(valid[..., None] > 0, p, 0) for p in (pred, gt))
    covariance = jnp.einsum("...ni,...nj->ij...", y, x, precision="highest")  # (3, 3, ...)
    rotation = nearest_rotation(covariance, reflection)
    spread = jnp.square(x).sum((-2, -1))
    scale = (rotation * covariance).sum((0, 1)) / jnp.maximum(spread, jnp.finfo(spread.dtype).tiny)
    return rotation * scale, pred, gt, centroid


def as_points(pred, gt):
    """Both as floating (..., N, 3) arrays of one shape, at least float32.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = jnp.asarray(pred), jnp.asarray(gt)
    if pred.shape != gt.shape or pred.ndim < 2 or pred.shape[-1] != 3:
        raise ValueError(f"pred and gt must both be (..., N, 3), got {pred.shape} and {gt.shape}")
    dtype = jnp.promote_types(jnp.promote_types(pred.dtype, gt.dtype), jnp.float32)
    return pred.astype(dtype), gt.astype(dtype)


def nearest_rotation(matrix, reflection: bool = False):
    """The R of `argmax tr(R^T M)` with det R = +1, or with any sign of the determinant, for (3, 3, ...) matrices M.

    One-sided Jacobi turns M into columns b = sigma u with right vectors v. `sigma_1 b_k + b_i x b_j` then points along
    the wanted u_k for each k: its coefficient sigma_1 sigma_k + det(UV) sigma_i sigma_j is positive for the two larger
    singular values and has the determinant's sign for the smallest. So flat, straight and mirrored hands need no sort,
    no sign test and no branch. The sweeps are a loop because XLA:CPU compiles them for minutes when they are unrolled.
    """
    eps, tiny = jnp.finfo(matrix.dtype).eps, jnp.finfo(matrix.dtype).tiny
    batch = (1,) * (matrix.ndim - 2)
    matrix = matrix / jnp.maximum(jnp.abs(matrix).max((0, 1)), tiny)
    flip = jnp.where(reflection & (_dot(matrix[0], _cross(matrix[1], matrix[2])) < 0), -1, 1).astype(matrix.dtype)
    eye = jnp.eye(3, dtype=matrix.dtype).reshape(3, 3, *batch)
    ramp = eps**1.5 * jnp.arange(1, 4, dtype=matrix.dtype).reshape(3, 1, *batch)  # exact rank 1 still has three columns
    left = jnp.swapaxes(flip * matrix, 0, 1) + ramp * eye
    columns = jnp.concatenate([left, jnp.broadcast_to(eye, matrix.shape)], axis=1)  # (3, b over v: 6, ...)

    def sweep(_, columns):
        columns = list(columns)
        for p, q in ((0, 1), (0, 2), (1, 2)):
            a, b = columns[p], columns[q]
            x, y = _dot(a[:3], a[:3]) - _dot(b[:3], b[:3]), 2 * _dot(a[:3], b[:3])
            tangent = jnp.where(x < 0, -y, y) / (jnp.abs(x) + jnp.sqrt(x * x + y * y) + tiny)
            cos = jax.lax.rsqrt(1 + tangent * tangent)
            sin = tangent * cos
            columns[p], columns[q] = cos * a + sin * b, cos * b - sin * a
        return jnp.stack(columns)

    columns = jax.lax.fori_loop(0, SWEEPS, sweep, columns)
    b, v = columns[:, :3], columns[:, 3:]
    sigma = jnp.sqrt(jnp.square(b).sum(1).max(0))
    rotation = jnp.zeros_like(matrix)
    for k in range(3):
        u = sigma * b[k] + _cross(b[k - 2], b[k - 1])
        rotation += (u * jax.lax.rsqrt(_dot(u, u) + tiny))[:, None] * v[k]
    return flip * rotation


def _centre(points, valid):
    """Points about the centroid of the valid ones, and that centroid; a second pass mends the rounding of the first."""
    keep = None if valid is None else (valid > 0)[..., None]
    first = points.mean(-2, keepdims=True, where=keep)
    second = (points - first).mean(-2, keepdims=True, where=keep)
    return points - first - second, first + second


def _apply(matrix, points):
    """(3, 3, ...) matrices times (..., N, 3) points, without a matmul that could round to bfloat16 or TF32."""
    return jnp.stack([_dot(row[..., None], jnp.moveaxis(points, -1, 0)) for row in matrix], axis=-1)


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a, b):
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
