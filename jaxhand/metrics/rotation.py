"""The rotation nearest to a 3x3 matrix, for millions of matrices at once, without a general SVD and without a branch.

A matrix is nested lists of its nine entries, each an array (...) over the batch: all of the arithmetic is spelled out,
so that XLA makes one long vector loop of it. `in_one_kernel` keeps it one where several results are wanted.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SWEEPS = {np.dtype("float32"): 3, np.dtype("float64"): 5}  # of the Jacobi iteration; it converges quadratically
_NEWTON = {np.dtype("float32"): (np.int32, 0x5F3759DF, 3), np.dtype("float64"): (np.int64, 0x5FE6EB50C7B537A9, 4)}


def nearest_rotation(matrix, reflection: bool = False):
    """The R of `argmax tr(R^T M)` with det R = +1, or with any sign of the determinant.

    One-sided Jacobi turns M into orthogonal columns b = sigma u with right vectors v. `sigma_1 b_k + b_i x b_j` then
    points along the wanted u_k for each k: its coefficient sigma_1 sigma_k + det(UV) sigma_i sigma_j is positive for the
    two larger singular values and has the determinant's sign for the smallest. So flat, straight and mirrored hands need
    no sort, no test of a sign and no special case.

    Args:
        matrix: nested lists of entries (...), float32 or float64.
        reflection: whether R may mirror.

    Returns:
        Nested lists of entries (...). A rotation also where the answer is not unique (rank below 2, or mirrored with
        equal smaller singular values); not finite where M is not.
    """
    dtype = matrix[0][0].dtype
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    largest = jnp.abs(matrix[0][0])
    for entry in (*matrix[0][1:], *matrix[1], *matrix[2]):
        largest = jnp.maximum(largest, jnp.abs(entry))
    inverse = reciprocal(jnp.maximum(largest, 4 * tiny))
    if reflection:
        inverse = jnp.where(dot(matrix[0], cross(matrix[1], matrix[2])) < 0, -inverse, inverse)
    # The ramp keeps three columns where the rank is exactly one, and makes the identity of no matrix at all
    columns = [[matrix[i][j] * inverse + (eps**1.5 * (j + 1) if i == j else 0) for i in range(3)] for j in range(3)]
    columns = [b + [jnp.full_like(inverse, i == j) for i in range(3)] for j, b in enumerate(columns)]  # 3 of (b, v)
    for _ in range(SWEEPS[dtype]):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            columns[p], columns[q] = _made_orthogonal(columns[p], columns[q])
    squares = [dot(column, column) for column in columns]
    longest = jnp.maximum(jnp.maximum(squares[0], squares[1]), squares[2])
    sigma = longest * reciprocal_sqrt(longest + tiny)
    rotation = [[0] * 3 for _ in range(3)]
    for k in range(3):
        u = [sigma * b + c for b, c in zip(columns[k][:3], cross(columns[k - 2], columns[k - 1]))]
        length = reciprocal_sqrt(dot(u, u) + tiny)
        if reflection:
            length = jnp.where(inverse < 0, -length, length)
        u = [entry * length for entry in u]
        rotation = [[rotation[i][j] + u[i] * columns[k][3 + j] for j in range(3)] for i in range(3)]
    return rotation


def in_one_kernel(outputs):
    """The same tree of arrays (...), all of one shape, computed together.

    XLA:CPU makes a kernel of its own for each output, and in it computes again all that they share. Only a reduction
    has several outputs, so this is one, over an axis that holds the value and a zero.
    """
    leaves, tree = jax.tree.flatten(outputs)
    first = np.arange(2) == 0
    return jax.tree.unflatten(tree, sums([jnp.where(first, leaf[..., None], 0) for leaf in leaves]))


def sums(terms):
    """The sum of each of the (..., N) terms over N, all in one pass over memory."""
    zeros = [np.zeros((), term.dtype) for term in terms]
    return lax.reduce(list(terms), zeros, lambda a, b: [p + q for p, q in zip(a, b)], (terms[0].ndim - 1,))


def dot(a, b):
    """a . b of two lists; only the first three entries count."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a, b):
    """a x b of two lists; only the first three entries count."""
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def reciprocal(x):
    """1 / x of x > 0, without a division: see `reciprocal_sqrt`."""
    return reciprocal_sqrt(x) ** 2


def reciprocal_sqrt(x):
    """1 / sqrt(x) of x > 0 by Newton from its bits: at a root or a division that many use, XLA:CPU splits a kernel."""
    integer, magic, steps = _NEWTON[x.dtype]
    y = lax.bitcast_convert_type(integer(magic) - (lax.bitcast_convert_type(x, integer) >> 1), x.dtype)
    for _ in range(steps):
        y = jnp.abs(y * (1.5 - 0.5 * x * y * y))
    return y


def _made_orthogonal(p, q):
    """Two columns (b and v, six entries) turned in their plane so that the b are orthogonal, by less than 45 degrees."""
    x, y = dot(p, p) - dot(q, q), 2 * dot(p, q)
    size = jnp.abs(x) + 16 * jnp.finfo(x.dtype).tiny ** 0.5  # its square is no zero, so that cos is 1 where x = y = 0
    inverse = reciprocal_sqrt(size * size + y * y)
    cos_squared = 0.5 + 0.5 * size * inverse
    inverse_cos = reciprocal_sqrt(cos_squared)
    cos, sin = cos_squared * inverse_cos, 0.5 * inverse * inverse_cos * jnp.where(x < 0, -y, y)
    return [cos * a + sin * b for a, b in zip(p, q)], [cos * b - sin * a for a, b in zip(p, q)]
