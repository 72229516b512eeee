"""The rotation nearest to a 3x3 matrix, for millions of matrices at once, without a general SVD and without branches.

A matrix is a nested list of its nine entries, and each entry is an array (...) over the batch. The arithmetic is
written out, so that XLA compiles one long vector loop. `in_one_kernel` keeps one loop where several results are needed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SWEEPS = {np.dtype("float32"): 3, np.dtype("float64"): 5}  # Jacobi sweeps; they converge quadratically
# Integer type, first estimate for 1 / sqrt(x) from the bits of x, and number of Newton steps
_NEWTON = {np.dtype("float32"): (np.int32, 0x5F3759DF, 3), np.dtype("float64"): (np.int64, 0x5FE6EB50C7B537A9, 4)}


def nearest_rotation(matrix: list, reflection: bool = False) -> list:
    """Find the R that maximises tr(R^T M), with det R = +1 or, if it may mirror, with either sign.

    One-sided Jacobi rotations make the columns of M orthogonal: b = sigma u, with right singular vectors v. For each k,
    `sigma_1 b_k + b_i x b_j` is then parallel to u_k. Its coefficient sigma_1 sigma_k + det(UV) sigma_i sigma_j is
    positive for the two larger singular values, and has the determinant's sign for the smallest one. So flat, straight
    and mirrored hands need no sorting, no test of a sign and no special case.

    Args:
        matrix: nested lists of entries (...), float32 or float64.
        reflection: whether R may mirror.

    Returns:
        Nested lists of entries (...): a rotation, also where the solution is not unique (rank below 2, or mirrored with
        equal smaller singular values); not finite where M is not finite.
    """
    dtype = matrix[0][0].dtype
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    largest = jnp.abs(matrix[0][0])
    for entry in (*matrix[0][1:], *matrix[1], *matrix[2]):
        largest = jnp.maximum(largest, jnp.abs(entry))
    inverse = reciprocal(jnp.maximum(largest, 4 * tiny))
    if reflection:
        inverse = jnp.where(dot(matrix[0], cross(matrix[1], matrix[2])) < 0, -inverse, inverse)
    # These small numbers keep three independent columns at rank one, and make R the identity for M = 0
    columns = [[matrix[i][j] * inverse + (eps**1.5 * (j + 1) if i == j else 0) for i in range(3)] for j in range(3)]
    columns = [b + [jnp.full_like(inverse, i == j) for i in range(3)] for j, b in enumerate(columns)]  # 3 of (b, v)
    for _ in range(SWEEPS[dtype]):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            columns[p], columns[q] = _orthogonalize(columns[p], columns[q])
    squares = [dot(column, column) for column in columns]
    longest = jnp.maximum(jnp.maximum(squares[0], squares[1]), squares[2])
    sigma = longest * reciprocal_sqrt(longest + tiny)
    rotation = [[0] * 3 for _ in range(3)]
    for k in range(3):
        u = [sigma * b + c for b, c in zip(columns[k][:3], cross(columns[k - 2], columns[k - 1]))]
        factor = reciprocal_sqrt(dot(u, u) + tiny)
        if reflection:
            factor = jnp.where(inverse < 0, -factor, factor)
        u = [entry * factor for entry in u]
        rotation = [[rotation[i][j] + u[i] * columns[k][3 + j] for j in range(3)] for i in range(3)]
    return rotation


def in_one_kernel(outputs):
    """Make XLA:CPU compute all arrays of a tree in the same kernel.

    XLA:CPU compiles a separate kernel for each output, and each repeats the computations that they share. Only a
    reduction may have several outputs. So this is a reduction, over an axis that holds the value and a zero.

    Args:
        outputs: tree of arrays (...), all of the same shape.

    Returns:
        The same tree with the same values.
    """
    leaves, tree = jax.tree.flatten(outputs)
    first = np.arange(2) == 0
    return jax.tree.unflatten(tree, sums([jnp.where(first, leaf[..., None], 0) for leaf in leaves]))


def sums(terms: list[jax.Array]) -> list[jax.Array]:
    """Sums (...) over the last axis of several arrays (..., N), all in one pass over memory."""
    zeros = [np.zeros((), term.dtype) for term in terms]
    return lax.reduce(list(terms), zeros, lambda a, b: [p + q for p, q in zip(a, b)], (terms[0].ndim - 1,))


def dot(a, b) -> jax.Array:
    """a . b of two lists; only the first three entries count."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a, b) -> list[jax.Array]:
    """a x b of two lists; only the first three entries count."""
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def reciprocal(x: jax.Array) -> jax.Array:
    """1 / x for x > 0, without a division: see `reciprocal_sqrt`."""
    return reciprocal_sqrt(x) ** 2


def reciprocal_sqrt(x: jax.Array) -> jax.Array:
    """1 / sqrt(x) for x > 0, by Newton's method from an estimate by the bits of x.

    XLA:CPU splits a kernel at a root or a division with many users. The absolute value changes nothing, as y is
    positive, but without it LLVM's loop vectoriser does not finish in jax 0.11 and 0.12: its run time is exponential in
    the depth of an expression whose parts are used several times, and it stops at a call.
    """
    integer, magic, steps = _NEWTON[x.dtype]
    y = lax.bitcast_convert_type(integer(magic) - (lax.bitcast_convert_type(x, integer) >> 1), x.dtype)
    for _ in range(steps):
        y = jnp.abs(y * (1.5 - 0.5 * x * y * y))
    return y


def _orthogonalize(p, q):
    """Rotate two columns (six entries: b, v) by less than 45 degrees in their plane, so that the b are orthogonal."""
    x, y = dot(p, p) - dot(q, q), 2 * dot(p, q)
    size = jnp.abs(x) + 16 * jnp.finfo(x.dtype).tiny ** 0.5  # its square is not 0, so that cos is 1 where x = y = 0
    inverse = reciprocal_sqrt(size * size + y * y)
    cos_squared = 0.5 + 0.5 * size * inverse
    inverse_cos = reciprocal_sqrt(cos_squared)
    cos, sin = cos_squared * inverse_cos, 0.5 * inverse * inverse_cos * jnp.where(x < 0, -y, y)
    return [cos * a + sin * b for a, b in zip(p, q)], [cos * b - sin * a for a, b in zip(p, q)]
