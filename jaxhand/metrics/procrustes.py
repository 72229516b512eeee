"""Similarity alignment (scale, rotation, translation) of batches of point sets, under both conventions of the field.

A hand of up to `MOST_UNROLLED` joints whose error alone is wanted goes through one kernel, unrolled over the joints,
that reads each number once and stores nothing else. All the rest, meshes, masks, aligned points and gradients, takes
its sums over the points in one pass with `lax.reduce` over many operands. XLA:CPU makes long vector loops of both.
"""

import functools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics.rotation import cross, dot, in_one_kernel, nearest_rotation, reciprocal, reciprocal_sqrt, sums

# Points: beyond them one kernel is slower, and some sizes never end. With jax 0.11.2 no size ends on a CPU.
MOST_UNROLLED = 24


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
        non-finite input makes the whole sample non-finite. Gradients (reverse mode) are finite wherever the points are.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = as_points(pred, gt)
    return gt + jnp.stack(_residual(pred, gt, _weight(valid), reflection), axis=-1)


@partial(jax.jit, static_argnames="reflection")
def aligned_distances(pred, gt, *, reflection: bool = False, valid=None):
    """Distance of every point to its target after `procrustes_align`, (..., N) in the unit of `gt`; 0 if not valid.

    Taken about the centroid, so that a hand metres away loses no digits. The arguments are those of `procrustes_align`.
    """
    pred, gt = as_points(pred, gt)
    weight = _weight(valid)
    return length(_masked(_residual(pred, gt, weight, reflection), weight))


def aligned_error(pred, gt, *, reflection: bool = False):
    """Mean of `aligned_distances` over the points, (...,) in the unit of `gt`; the fastest way to it."""
    pred, gt = as_points(pred, gt)
    if pred.shape[-2] > MOST_UNROLLED or pred.dtype != jnp.float32:
        return _error(pred, gt, reflection)
    traced = isinstance(pred, jax.core.Tracer) or isinstance(gt, jax.core.Tracer)
    return _unrolled_error(pred, gt, reflection) if traced else _unrolled_alone()(pred, gt, reflection)


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


@partial(jax.jit, static_argnums=2)
def _error(pred, gt, reflection):
    return mean(length(_residual(pred, gt, None, reflection)))


@functools.cache
def _unrolled_alone():
    """`_unrolled_error` as a program of its own: the older emitter of XLA:CPU is faster, and only such can ask for it."""
    options = {"xla_cpu_use_fusion_emitters": False} if False else None
    return jax.jit(_unrolled_error, static_argnums=2, compiler_options=options)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _unrolled_error(pred, gt, reflection):
    """Mean distance (...,) after the alignment of (..., N, 3), as one kernel without intermediate arrays."""
    count = pred.shape[-2]
    x, y = ([[points[..., n, c] for c in range(3)] for n in range(count)] for points in (pred, gt))
    x, y = (_from_the_midst(points) for points in (x, y))
    moments = [sum(q[i] * p[j] for p, q in zip(x, y)) for i in range(3) for j in range(3)]
    moments += [sum(dot(p, p) for p in x)] + [sum(p[c] for p in points) for points in (x, y) for c in range(3)]
    fit = _Fit.of(moments, 1 / count, reflection)
    errors = ([dot(row, p) - b - o for row, b, o in zip(fit.scaled, q, fit.offset)] for p, q in zip(x, y))
    return sum(jnp.sqrt(dot(error, error)) for error in errors) * (1 / count)


def _from_the_midst(points):
    """Points (lists of three) relative to one between two of them, which keeps the digits of a hand metres away."""
    pivot = [0.5 * (a + b) for a, b in zip(points[0], points[len(points) // 2])]
    return [[a - b for a, b in zip(point, pivot)] for point in points]


def _unrolled_error_backward(reflection, points, gradient):
    residual, saved = _solve(*points, None, reflection)
    least, count = 4 * jnp.finfo(jnp.float32).tiny, points[0].shape[-2]
    inverse = reciprocal_sqrt(jnp.maximum(dot(residual, residual), least)) * (gradient / count)[..., None]  # (..., N)
    return _residual_backward(reflection, saved, in_one_kernel([r * inverse for r in residual]))[:2]


_unrolled_error.defvjp(lambda *inputs: (_unrolled_error(*inputs), inputs[:2]), _unrolled_error_backward)


class _Fit(NamedTuple):
    """The similarity that moves x onto y. Matrices are nested lists of entries (...), vectors lists."""

    scaled: list  # A = s R, the scaled rotation
    offset: list  # A mean(x) - mean(y): what to take off A x - y
    mean_x: list
    mean_y: list
    matrix: list  # M = sum y x^T about the centroids
    inverse: jax.Array  # of sum |x|^2 about the centroid; 0 for coinciding points

    @classmethod
    def of(cls, moments, share, reflection) -> "_Fit":
        """From the sums over the points of y x^T (9), |x|^2, x (3) and y (3), and one over the number of points."""
        total_y = moments[13:]
        mean_x, mean_y = ([total * share for total in moments[i : i + 3]] for i in (10, 13))
        matrix = [[moments[3 * i + j] - total_y[i] * mean_x[j] for j in range(3)] for i in range(3)]
        spread = moments[9] - dot(moments[10:13], mean_x)
        least = 4 * jnp.finfo(spread.dtype).tiny
        inverse = jnp.where(spread <= least, 0, reciprocal(jnp.maximum(spread, least)))
        rotation = nearest_rotation(matrix, reflection)
        scale = sum(dot(*rows) for rows in zip(rotation, matrix)) * inverse
        offset = [scale * dot(row, mean_x) - m for row, m in zip(rotation, mean_y)]
        scaled = [[entry * scale for entry in row] for row in rotation]
        return cls(scaled, offset, mean_x, mean_y, matrix, inverse)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _residual(pred, gt, weight, reflection):
    """Aligned minus `gt`: three components (..., N). `weight` (..., N) is 1 for the points that decide, or None."""
    return _solve(pred, gt, weight, reflection)[0]


def _solve(pred, gt, weight, reflection):
    """`_residual`, and what its gradient needs."""
    share = 1 / pred.shape[-2] if weight is None else 1 / jnp.maximum(weight.sum(-1), 1)
    x, y = _from_near_the_centre(pred, gt, weight)
    xs, ys = _masked(x, weight), _masked(y, weight)
    moments = sums([a * b for a in ys for b in xs] + [dot(xs, xs), *xs, *ys])
    fit = in_one_kernel(_Fit.of(moments, share, reflection))
    residual = [a - b - o[..., None] for a, b, o in zip(_apply(fit.scaled, x), y, fit.offset)]
    return residual, (x, y, weight, share, fit)


def _residual_backward(reflection, saved, gradient):
    """The gradient of `_residual`, in closed form.

    With A = s R, g = sum |x|^2 and N = sum n_j x_j^T for the incoming n_j, tr(R^T M) is stationary, so that dA acts
    through ds = <R, dM> / g - s dg / g and dR = R [w]x, (tr(S) I - S) w = vee(R^T dM - dM^T R), S = R^T M. Hence dM
    weighs G = A [h]x + <A, N> / (g s^2) A, where (tr(T) I - T) h = vee(A^T N - N^T A) with T = A^T M = s S is solved
    with damping, as R need not be unique.
    """
    x, y, weight, share, fit = saved
    outer = [n * p for n in gradient for p in x]
    if weight is not None:  # a point that nothing asks for may be anything: 0 times NaN must stay 0
        outer = [jnp.where(gradient[k // 3] == 0, 0, product) for k, product in enumerate(outer)]
    *outer, n0, n1, n2 = sums(outer + list(gradient))
    total, outer = (n0, n1, n2), (outer[0:3], outer[3:6], outer[6:9])
    outer = [[entry - n * m for entry, m in zip(row, fit.mean_x)] for row, n in zip(outer, total)]  # N
    pull = sum(dot(*rows) for rows in zip(fit.scaled, outer)) * fit.inverse
    turned = _product(fit.scaled, outer)
    v = [turned[k - 1][k - 2] - turned[k - 2][k - 1] for k in range(3)]
    h = _solve_damped(_product(fit.scaled, fit.matrix), v)
    by_size = pull * reciprocal(jnp.maximum(dot(fit.scaled[0], fit.scaled[0]), 4 * jnp.finfo(pull.dtype).tiny))
    of_matrix = [[c + by_size * a for c, a in zip(cross(row, h), row)] for row in fit.scaled]  # G
    shrink = 2 * pull
    to_pred = [shrink * m - dot(column, fit.mean_y) for m, column in zip(fit.mean_x, zip(*of_matrix))]
    to_pred = [t - dot(column, total) * share for t, column in zip(to_pred, zip(*fit.scaled))]
    to_gt = [n * share - dot(row, fit.mean_x) for n, row in zip(total, of_matrix)]
    of_matrix, shrink, to_pred, to_gt = in_one_kernel((of_matrix, shrink, to_pred, to_gt))
    by_pred = [a - shrink[..., None] * b + c[..., None] for a, b, c in zip(_apply(zip(*of_matrix), y), x, to_pred)]
    by_gt = [a + c[..., None] for a, c in zip(_apply(of_matrix, x), to_gt)]
    of_pred = [a + b for a, b in zip(_apply(zip(*fit.scaled), gradient), _masked(by_pred, weight))]
    of_gt = [b - n for n, b in zip(gradient, _masked(by_gt, weight))]
    return jnp.stack(of_pred, axis=-1), jnp.stack(of_gt, axis=-1), None if weight is None else jnp.zeros_like(weight)


_residual.defvjp(_solve, _residual_backward)


def _solve_damped(s, v):
    """x of (tr(S) I - S) x = v for symmetric S; finite where that matrix has no inverse."""
    size = sum(dot(row, row) for row in s)
    size = reciprocal_sqrt(jnp.maximum(size, 4 * jnp.finfo(size.dtype).tiny))
    s = [[0.5 * (s[i][j] + s[j][i]) * size for j in range(3)] for i in range(3)]
    trace = s[0][0] + s[1][1] + s[2][2]
    rows = [[trace * (i == j) - s[i][j] for j in range(3)] for i in range(3)]
    cofactors = [cross(rows[1], rows[2]), cross(rows[2], rows[0]), cross(rows[0], rows[1])]
    determinant = dot(rows[0], cofactors[0])
    factor = determinant * reciprocal(determinant**2 + 1e-12) * size
    return [dot(column, v) * factor for column in zip(*cofactors)]


def _from_near_the_centre(pred, gt, weight):
    """The components (..., N) of both relative to a point in their midst, which keeps the digits of a hand far away.

    That is the mean of some ten points, or of all valid ones under a mask; the sums to come find the true centroid.
    """
    points = [p[..., c] for p in (pred, gt) for c in range(3)]
    some = [p[..., :: max(1, p.shape[-1] // 8)] for p in points] if weight is None else _masked(points, weight)
    count = some[0].shape[-1] if weight is None else jnp.maximum(weight.sum(-1), 1)
    points = [p - (total / count)[..., None] for p, total in zip(points, sums(some))]
    return points[:3], points[3:]


def _masked(points, weight):
    return points if weight is None else [jnp.where(weight > 0, p, 0) for p in points]


def _weight(valid):
    return None if valid is None else (jnp.asarray(valid) > 0).astype(jnp.float32)


def _apply(matrix, points):
    """Matrices of entries (...) times points in components (..., N): no matmul that could round to bfloat16 or TF32."""
    return [sum(entry[..., None] * p for entry, p in zip(row, points)) for row in matrix]


def _product(a, b):
    """A^T B of nested lists."""
    return [[sum(a[k][i] * b[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
