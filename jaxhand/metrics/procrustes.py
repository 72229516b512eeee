"""Similarity alignment (scale, rotation, translation) of batches of point sets, under both conventions of the field.

On a CPU, the error of a hand of up to `MOST_UNROLLED` joints is computed by one kernel that is unrolled over the
joints: it reads each number once and stores nothing but the error. It is always a program of its own, because XLA:CPU
may fuse it with operations that follow it in the same `jax.jit`, and then takes many times longer to compile and to
run. Everything else (meshes, aligned points, gradients, use inside `jax.jit`) computes all sums over the points in one
pass, with a `lax.reduce` of many operands. XLA:CPU compiles both to long vector loops. On a GPU, everything uses
`lax.reduce`: XLA:GPU cuts the unrolled kernel into more and larger pieces, and takes two to three times as long.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxhand.metrics.rotation import cross, dot, in_one_kernel, nearest_rotation, reciprocal, reciprocal_sqrt, sums

MOST_UNROLLED = 24  # points; with more, the unrolled kernel is slower, and for some numbers it never finishes compiling
BLOCK_POINTS = 2**18  # in one block of a large numpy array: 3 MB


@partial(jax.jit, static_argnames="reflection")
def procrustes_align(
    pred: ArrayLike, gt: ArrayLike, *, reflection: bool = False, valid: ArrayLike | None = None
) -> jax.Array:
    """Align `pred` with `gt` by the similarity transform that minimises the sum of squared distances.

    Args:
        pred: (..., N, 3) points, any unit. Float32, or float64 where JAX has it enabled.
        gt: (..., N, 3) points to align with.
        reflection: False allows rotations only, det R = +1 (HaMeR `compute_similarity_transform`, mmpose). True allows
            mirroring too, as FreiHAND, HO-3D and DexYCB do (`align_w_scale`, scipy's `orthogonal_procrustes`).
        valid: (..., N) mask of the points that determine the alignment; the others are transformed too. None takes all.

    Returns:
        (..., N, 3) aligned points in the unit of `gt`. If all `pred` points coincide, they move to the centre of `gt`.
        A non-finite input makes the whole sample non-finite. Gradients (reverse mode) are finite for finite points.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = as_points(pred, gt)
    return gt + jnp.stack(_residual(pred, gt, _weight(valid), reflection), axis=-1)


@partial(jax.jit, static_argnames="reflection")
def aligned_distances(
    pred: ArrayLike, gt: ArrayLike, *, reflection: bool = False, valid: ArrayLike | None = None
) -> jax.Array:
    """Distance of each point to its target after `procrustes_align`.

    It is computed relative to the centroid, so that a hand several metres away loses no digits.

    Args:
        pred: (..., N, 3) points, any unit.
        gt: (..., N, 3) points to align with.
        reflection: whether the alignment may mirror, see `procrustes_align`.
        valid: (..., N) mask of the points that determine the alignment; None takes all.

    Returns:
        (..., N) in the unit of `gt`; 0 for points that are not valid.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = as_points(pred, gt)
    weight = _weight(valid)
    return norm(_masked(_residual(pred, gt, weight, reflection), weight))


def aligned_error(
    pred: ArrayLike, gt: ArrayLike, *, reflection: bool = False, valid: ArrayLike | None = None
) -> jax.Array:
    """Mean of `aligned_distances` over the points that count; fastest outside `jax.jit`.

    Args:
        pred: (..., N, 3) points, any unit.
        gt: (..., N, 3) points to align with.
        reflection: whether the alignment may mirror, see `procrustes_align`.
        valid: (..., N) mask of the points to align by and to measure; None takes all.

    Returns:
        (...,) in the unit of `gt`, one number per sample. NaN where no point is valid.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    arrays = (pred, gt) if valid is None else (pred, gt, valid)
    if all(isinstance(array, np.ndarray) for array in arrays):
        return _error_in_blocks(*arrays, reflection=reflection)
    return _error_at_once(pred, gt, valid, reflection)


def _error_at_once(pred, gt, valid, reflection) -> Any:
    pred, gt = as_points(pred, gt)
    valid = None if valid is None else jnp.asarray(valid)
    traced = any(isinstance(array, Tracer) for array in (pred, gt, valid))
    unrolled = jax.default_backend() == "cpu" and pred.shape[-2] <= MOST_UNROLLED and pred.dtype == jnp.float32
    if unrolled and not traced:
        return _unrolled_error(pred, gt, valid, reflection)
    weight = _weight(valid)
    weight = None if weight is None else jnp.broadcast_to(weight, pred.shape[:-1])
    return _error(pred, gt, weight, reflection)


def _error_in_blocks(pred, gt, valid=None, *, reflection):
    """`aligned_error` of numpy arrays: large arrays in blocks, through buffers that JAX reads in place on a CPU.

    All blocks have the same size, so that one compiled program serves all: the last block overlaps the one before it.
    """
    _check_points(pred, gt)
    batch, count = gt.shape[:-2], gt.shape[-2]
    block, samples = max(1, BLOCK_POINTS // max(1, count)), math.prod(batch)
    if samples <= block:
        return _error_at_once(pred, gt, valid, reflection)
    arrays = [points.reshape(samples, count, 3) for points in (pred, gt)]
    if valid is not None:
        arrays.append(np.broadcast_to(valid, gt.shape[:-1]).reshape(samples, count))
    buffers = [_aligned_empty((block, *array.shape[1:]), array.dtype) for array in arrays]
    errors = np.empty(samples, np.result_type(pred.dtype, gt.dtype, np.float32))
    for start in [*range(0, samples - block, block), samples - block]:
        for buffer, array in zip(buffers, arrays):
            buffer[...] = array[start : start + block]
        pred, gt, *mask = (jax.device_put(buffer, may_alias=True) for buffer in buffers)
        errors[start : start + block] = _error_at_once(pred, gt, mask[0] if mask else None, reflection)  # this waits
    return jnp.asarray(errors.reshape(batch))


def _aligned_empty(shape, dtype):
    """An empty numpy array that starts at a multiple of 64 bytes, as JAX requires to use it without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def as_points(pred: ArrayLike, gt: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Convert two point sets to arrays of the same floating type, at least float32.

    Args:
        pred: (..., N, 3) points.
        gt: (..., N, 3) points.

    Returns:
        Both as (..., N, 3) arrays.

    Raises:
        ValueError: the shapes differ or are not (..., N, 3).
    """
    pred, gt = jnp.asarray(pred), jnp.asarray(gt)
    _check_points(pred, gt)
    dtype = jnp.promote_types(jnp.promote_types(pred.dtype, gt.dtype), jnp.float32)
    return pred.astype(dtype), gt.astype(dtype)


def checked_joint(name: str, joint, count: int) -> int:
    """Check the index of a joint, and return it counted from the start. (JAX replaces a wrong index without an error.)

    Args:
        name: name of the argument, for the error.
        joint: the index; a negative one counts from the end.
        count: number of joints.

    Raises:
        ValueError: it is no whole number, or there is no such joint.
    """
    if isinstance(joint, bool | np.bool_) or not isinstance(joint, int | np.integer) or not -count <= joint < count:
        raise ValueError(f"{name} must be the index of one of {count} joints, 0 to {count - 1}, got {joint!r}")
    return int(joint) % count


def _check_points(pred, gt):
    if pred.shape != gt.shape or pred.ndim < 2 or pred.shape[-1] != 3:
        raise ValueError(f"pred and gt must both be (..., N, 3), got {pred.shape} and {gt.shape}")


def norm(vector) -> jax.Array:
    """Euclidean norm (...) of a vector that is given as three components (...); its gradient at 0 is 0."""
    square = dot(vector, vector)
    tiny = jnp.finfo(square.dtype).tiny
    return jnp.sqrt(jnp.maximum(square, tiny)) - np.sqrt(tiny)


def mean(values: jax.Array) -> jax.Array:
    """Mean over the last axis of (..., N) values, by a matrix product: XLA:CPU does not vectorise a sum of roots."""
    count = values.shape[-1]
    return jnp.matmul(values, jnp.full(count, 1 / count, values.dtype), precision="highest")


def masked_mean(values: jax.Array, valid: ArrayLike | None) -> jax.Array:
    """Mean over the last axis of (..., N) values where `valid` (..., N) is > 0 or None; NaN where it never is."""
    if valid is None:
        return mean(values)
    keep = jnp.broadcast_to(jnp.asarray(valid) > 0, values.shape)
    return mean(jnp.where(keep, values, 0)) / mean(keep.astype(values.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def _error(pred, gt, weight, reflection):
    """`aligned_error` of points (..., N, 3) with weights 1 or 0 (..., N), or None."""
    return masked_mean(norm(_masked(_residual(pred, gt, weight, reflection), weight)), weight)


def _error_backward(reflection, inputs, gradient):
    """The gradient of a mean distance by that of each point's residual: its direction over the number of points."""
    pred, gt, weight = inputs
    residual, saved = _solve(pred, gt, weight, reflection)
    square = dot(residual, residual)
    inverse = reciprocal_sqrt(jnp.maximum(square, 4 * jnp.finfo(square.dtype).tiny))  # (..., N)
    inverse = inverse * (gradient / (pred.shape[-2] if weight is None else weight.sum(-1)))[..., None]
    return _residual_backward(reflection, saved, in_one_kernel(_masked([r * inverse for r in residual], weight)))


_error.defvjp(lambda *inputs: (_error(*inputs), inputs[:3]), _error_backward)


@partial(jax.jit, static_argnums=3)
def _unrolled_error(pred, gt, valid, reflection):
    """`aligned_error` of float32 points, as one kernel without intermediate arrays."""
    count = pred.shape[-2]
    x, y = ([[points[..., n, c] for c in range(3)] for n in range(count)] for points in (pred, gt))
    if valid is None:
        share = 1 / count
        x, y = (_relative_to_midpoint(points) for points in (x, y))
    else:
        weight = jnp.broadcast_to(jnp.asarray(_weight(valid)), pred.shape[:-1])
        weights = [weight[..., n] for n in range(count)]
        share = reciprocal(jnp.asarray(sum(weights)))  # infinite if no point is valid, so that the error is NaN
        x, y = (_relative_to_valid_centroid(points, weights, share) for points in (x, y))
    moments = [sum(q[i] * p[j] for p, q in zip(x, y)) for i in range(3) for j in range(3)]
    moments += [sum(dot(p, p) for p in x)] + [sum(p[c] for p in points) for points in (x, y) for c in range(3)]
    fit = _Fit.of(moments, share, reflection)
    errors = ([dot(row, p) - b - o for row, b, o in zip(fit.scaled, q, fit.offset)] for p, q in zip(x, y))
    distances = [jnp.sqrt(dot(error, error)) for error in errors]
    if valid is not None:
        distances = [w * distance for w, distance in zip(weights, distances)]
    return sum(distances) * share


def _relative_to_valid_centroid(points, weights, share):
    """Points (lists of three) relative to the centroid of the valid ones; the others become 0."""
    points = [[jnp.where(w > 0, a, 0) for a in point] for w, point in zip(weights, points)]
    centre = [sum(point[c] for point in points) * share for c in range(3)]
    return [[w * (a - b) for a, b in zip(point, centre)] for w, point in zip(weights, points)]


def _relative_to_midpoint(points):
    """Points (lists of three) relative to the midpoint of two of them, which keeps the digits of a hand far away."""
    pivot = [0.5 * (a + b) for a, b in zip(points[0], points[len(points) // 2])]
    return [[a - b for a, b in zip(point, pivot)] for point in points]


class _Fit(NamedTuple):
    """The similarity transform that aligns x with y. Matrices are nested lists of entries (...), vectors are lists."""

    scaled: list  # A = s R, the scaled rotation
    offset: list  # A mean(x) - mean(y): subtracted from A x - y
    mean_x: list
    mean_y: list
    matrix: list  # M = sum y x^T about the centroids
    inverse: jax.Array  # 1 / sum |x|^2 about the centroid; 0 for coinciding points

    @classmethod
    def of(cls, moments, share, reflection) -> "_Fit":
        """Fit from the sums over the points of y x^T (9), |x|^2, x (3) and y (3); `share` is 1 / number of points."""
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
    """Aligned points minus `gt`: three components (..., N). `weight` (..., N) is 1 for points that count, or None."""
    return _solve(pred, gt, weight, reflection)[0]


def _solve(pred, gt, weight, reflection):
    """`_residual`, and the values that its gradient needs."""
    share = 1 / pred.shape[-2] if weight is None else 1 / jnp.maximum(weight.sum(-1), 1)
    x, y = _relative_to_centre(pred, gt, weight)
    xs, ys = _masked(x, weight), _masked(y, weight)
    moments = sums([a * b for a in ys for b in xs] + [dot(xs, xs), *xs, *ys])
    fit = in_one_kernel(_Fit.of(moments, share, reflection))
    residual = [a - b - o[..., None] for a, b, o in zip(_apply(fit.scaled, x), y, fit.offset)]
    return residual, (x, y, weight, share, fit)


def _residual_backward(reflection, saved, gradient):
    """The gradient of `_residual`, in closed form.

    With A = s R, g = sum |x|^2 and N = sum n_j x_j^T for the incoming n_j, tr(R^T M) is stationary, so that dA acts
    through ds = <R, dM> / g - s dg / g and dR = R [w]x, (tr(S) I - S) w = vee(R^T dM - dM^T R), S = R^T M. Hence dM
    has the coefficient G = A [h]x + <A, N> / (g s^2) A, where (tr(T) I - T) h = vee(A^T N - N^T A), T = A^T M = s S.
    That equation is solved with damping, because R need not be unique.
    """
    x, y, weight, share, fit = saved
    outer = [n * p for n in gradient for p in x]
    if weight is not None:  # a point without gradient may be NaN, and 0 times NaN must be 0
        outer = [jnp.where(gradient[k // 3] == 0, 0, product) for k, product in enumerate(outer)]
    *outer, n0, n1, n2 = sums(outer + list(gradient))
    total, outer = (n0, n1, n2), (outer[0:3], outer[3:6], outer[6:9])
    outer = [[entry - n * m for entry, m in zip(row, fit.mean_x)] for row, n in zip(outer, total)]  # N
    pull = sum(dot(*rows) for rows in zip(fit.scaled, outer)) * fit.inverse
    rotated = _product(fit.scaled, outer)
    v = [rotated[k - 1][k - 2] - rotated[k - 2][k - 1] for k in range(3)]
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


def _relative_to_centre(pred, gt, weight):
    """The components (..., N) of both relative to a point near their centre, which keeps the digits of a hand far away.

    That point is the mean of about ten points, or with a mask of all valid ones. The exact centroid follows from the
    sums in `_Fit.of`.
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
    """Matrices of entries (...) times points in components (..., N); unlike matmul never in bfloat16 or TF32."""
    return [sum(entry[..., None] * p for entry, p in zip(row, points)) for row in matrix]


def _product(a, b):
    """A^T B of nested lists."""
    return [[sum(a[k][i] * b[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
