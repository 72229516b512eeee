"""Similarity alignment (scale, rotation, translation) of batches of point sets, under both conventions of the field.

A hand of up to `MOST_UNROLLED` joints whose error alone is wanted goes through one kernel, unrolled over the joints,
that reads each number once and stores nothing else. All the rest, meshes, masks, aligned points and gradients, takes
its sums over the points in one pass with `lax.reduce` over many operands. XLA:CPU makes long vector loops of both.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxhand.metrics.rotation import cross, dot, nearest_rotation, reciprocal

MOST_UNROLLED = 24  # points; beyond them one kernel is slower, and some sizes never end


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
        non-finite input makes the whole sample non-finite. Gradients are finite wherever the points are.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = as_points(pred, gt)
    return gt + jnp.stack(_residual(pred, gt, _weight(valid), reflection), axis=-1)


@partial(jax.jit, static_argnames="reflection")
def aligned_distances(pred, gt, *, reflection: bool = False, valid=None):
    """Distance of every point to its target after `procrustes_align`, (..., N) in the unit of `gt`.

    Taken about the centroid, so that a hand metres away loses no digits. The arguments are those of `procrustes_align`.
    """
    pred, gt = as_points(pred, gt)
    return length(_residual(pred, gt, _weight(valid), reflection))


@partial(jax.jit, static_argnames="reflection")
def aligned_error(pred, gt, *, reflection: bool = False):
    """Mean of `aligned_distances` over the points, (...,) in the unit of `gt`; the fastest way to it."""
    pred, gt = as_points(pred, gt)
    if pred.shape[-2] > MOST_UNROLLED or pred.dtype != jnp.float32:
        return mean(aligned_distances(pred, gt, reflection=reflection))
    return _unrolled_error(pred, gt, reflection)


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


def length(vector):
    """Euclidean length (...) of a vector in three components (...); its gradient at 0 is 0."""
    square = dot(vector, vector)
    tiny = jnp.finfo(square.dtype).tiny
    return jnp.sqrt(jnp.maximum(square, tiny)) - np.sqrt(tiny)


def mean(values):
    """Mean over the last axis of (..., N) values, as a product: XLA:CPU adds up roots one by one in a plain mean."""
    count = values.shape[-1]
    return jnp.matmul(values, jnp.full(count, 1 / count, values.dtype), precision="highest")


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _unrolled_error(pred, gt, reflection):
    """Mean distance (...,) after the alignment of (..., N, 3), as one kernel without intermediate arrays."""
    count = pred.shape[-2]
    x, y = ([[points[..., n, c] for c in range(3)] for n in range(count)] for points in (pred, gt))
    x, y = (_minus(points, _mean(points)) for points in (x, y))
    matrix = [[sum(q[i] * p[j] for p, q in zip(x, y)) for j in range(3)] for i in range(3)]
    rotation = nearest_rotation(matrix, reflection)
    trace = sum(dot(*rows) for rows in zip(rotation, matrix))
    scale = trace * reciprocal(jnp.maximum(sum(dot(p, p) for p in x), 4 * jnp.finfo(jnp.float32).tiny))
    rotation = [[entry * scale for entry in row] for row in rotation]
    rest = [dot(row, _mean(x)) - m for row, m in zip(rotation, _mean(y))]  # what rounding left of the centroids
    errors = ([dot(row, p) - target - r for row, target, r in zip(rotation, q, rest)] for p, q in zip(x, y))
    return sum(jnp.sqrt(dot(error, error)) for error in errors) * (1 / count)


def _unrolled_error_backward(reflection, points, gradient):
    _, vjp = jax.vjp(lambda *points: mean(length(_residual(*points, None, reflection))), *points)
    return vjp(gradient)


_unrolled_error.defvjp(lambda *inputs: (_unrolled_error(*inputs), inputs[:2]), _unrolled_error_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _residual(pred, gt, weight, reflection):
    """Aligned minus `gt`: three components (..., N). `weight` (..., N) is 1 for the points that decide, or None."""
    return _solve(pred, gt, weight, reflection)[0]


def _solve(pred, gt, weight, reflection):
    """`_residual`, and what its gradient needs."""
    x, y = _about_centroid(pred, weight), _about_centroid(gt, weight)
    xs, ys = _masked(x, weight), _masked(y, weight)
    count = _count(x, weight)
    *matrix, spread, x0, x1, x2, y0, y1, y2 = _sums([a * b for a in ys for b in xs] + [dot(xs, xs), *xs, *ys])
    matrix = jnp.stack(matrix).reshape(3, 3, *spread.shape)
    rotation = nearest_rotation(matrix, reflection)
    inverse = jnp.where(spread > 0, 1 / jnp.maximum(spread, jnp.finfo(spread.dtype).tiny), 0)
    scale = (rotation * matrix).sum((0, 1)) * inverse
    scaled = rotation * scale
    rest = [(dot(row, (x0, x1, x2)) - m) / count for row, m in zip(scaled, (y0, y1, y2))]  # of the centroids' rounding
    residual = [a - b - r[..., None] for a, b, r in zip(_apply(scaled, x), y, rest)]
    return residual, (x, y, weight, matrix, rotation, scale, inverse)


def _residual_backward(reflection, saved, gradient):
    """The gradient of `_residual`, in closed form.

    With A = s R and N = sum n_j x_j^T for the incoming n_j, the trace tr(R^T M) is stationary, so that dA acts through
    ds = <R, dM> / g - s dg / g and dR = R [w]x, (tr(S) I - S) w = vee(R^T dM - dM^T R), S = R^T M. Hence dM weighs
    G = s R [h]x + tr(R^T N) / g R with (tr(S) I - S) h = vee(R^T N - N^T R), damped where R is not unique.
    """
    x, y, weight, matrix, rotation, scale, inverse = saved
    # A point that nothing asks for may be anything: 0 times NaN must stay 0
    *outer, n0, n1, n2 = _sums([jnp.where(n == 0, 0, n * p) for n in gradient for p in x] + list(gradient))
    outer = jnp.stack(outer).reshape(matrix.shape)
    trace = (rotation * outer).sum((0, 1)) * inverse
    turned = _product(rotation, outer)
    v = [turned[2, 1] - turned[1, 2], turned[0, 2] - turned[2, 0], turned[1, 0] - turned[0, 1]]
    h = [scale * entry for entry in _solve_damped(_product(rotation, matrix), v)]
    zero = jnp.zeros_like(trace)
    skew = jnp.stack([jnp.stack(row) for row in ([zero, -h[2], h[1]], [h[2], zero, -h[0]], [-h[1], h[0], zero])])
    of_matrix = _product(rotation.swapaxes(0, 1), skew) + trace * rotation
    scaled, count = (rotation * scale).swapaxes(0, 1), _count(x, weight)
    to_pred, to_gt = [dot(row, (n0, n1, n2)) / count for row in scaled], [n / count for n in (n0, n1, n2)]
    shrink = (2 * trace * scale)[..., None]
    by_pred = [a - shrink * b - c[..., None] for a, b, c in zip(_apply(of_matrix.swapaxes(0, 1), y), x, to_pred)]
    by_gt = [a + c[..., None] for a, c in zip(_apply(of_matrix, x), to_gt)]
    of_pred = jnp.stack([a + b for a, b in zip(_apply(scaled, gradient), _masked(by_pred, weight))], axis=-1)
    of_gt = jnp.stack([b - n for n, b in zip(gradient, _masked(by_gt, weight))], axis=-1)
    return of_pred, of_gt, None if weight is None else jnp.zeros_like(weight)


_residual.defvjp(_solve, _residual_backward)


def _solve_damped(s, v):
    """x of (tr(S) I - S) x = v for S (3, 3, ...) and three v (...); finite where that matrix has no inverse."""
    size = jnp.maximum(jnp.abs(s).max((0, 1)), jnp.finfo(s.dtype).tiny)
    s = (s + s.swapaxes(0, 1)) / (2 * size)
    trace = s[0, 0] + s[1, 1] + s[2, 2]
    rows = [[trace * (i == j) - s[i, j] for j in range(3)] for i in range(3)]
    cofactors = [cross(rows[1], rows[2]), cross(rows[2], rows[0]), cross(rows[0], rows[1])]
    determinant = dot(rows[0], cofactors[0])
    factor = determinant / ((determinant**2 + 1e-12) * size)
    return [sum(cofactors[i][j] * v[i] for i in range(3)) * factor for j in range(3)]


def _about_centroid(points, weight):
    """The components (..., N) of points about the centroid of the valid ones, but for its rounding."""
    points = [points[..., c] for c in range(3)]
    sums = _sums(_masked(points, weight))
    return [p - (total / _count(points, weight))[..., None] for p, total in zip(points, sums)]


def _count(points, weight):
    return points[0].shape[-1] if weight is None else jnp.maximum(weight.sum(-1), 1)


def _masked(points, weight):
    return points if weight is None else [jnp.where(weight > 0, p, 0) for p in points]


def _weight(valid):
    return None if valid is None else (jnp.asarray(valid) > 0).astype(jnp.float32)


def _sums(terms):
    """The sum of each of the (..., N) terms over N, all in one pass over memory."""
    zeros = [np.zeros((), term.dtype) for term in terms]
    return lax.reduce(terms, zeros, lambda a, b: [p + q for p, q in zip(a, b)], (terms[0].ndim - 1,))


def _apply(matrix, points):
    """(3, 3, ...) matrices times points in components (..., N): no matmul that could round to bfloat16 or TF32."""
    return [dot(row[..., None], points) for row in matrix]


def _product(a, b):
    """A^T B of (3, 3, ...) matrices."""
    return sum(a[k, :, None] * b[k, None, :] for k in range(3))


def _mean(points):
    return [sum(p[c] for p in points) * (1 / len(points)) for c in range(3)]


def _minus(points, centroid):
    return [[p - m for p, m in zip(point, centroid)] for point in points]
