"""The rotation nearest to a 3x3 matrix, for millions of matrices at once, without a general SVD and without a branch."""

import jax
import jax.numpy as jnp
from jax import lax

SWEEPS = 3  # of the Jacobi iteration in float32; it converges quadratically
SWEEPS_DOUBLE = 5


def nearest_rotation(matrix, reflection: bool = False):
    """The R of `argmax tr(R^T M)` with det R = +1, or with any sign of the determinant.

    One-sided Jacobi turns M into orthogonal columns b = sigma u with right vectors v. `sigma_1 b_k + b_i x b_j` then
    points along the wanted u_k for each k: its coefficient sigma_1 sigma_k + det(UV) sigma_i sigma_j is positive for the
    two larger singular values and has the determinant's sign for the smallest. So flat, straight and mirrored hands need
    no sort, no test of a sign and no special case.

    Args:
        matrix: (3, 3, ...) float32 or float64; or float32 entries as nested lists of (...). With an array the iteration
            is a loop and compiles at once. With lists all is unrolled, for a kernel that does not store the rotation:
            there it is several times faster, while several outputs of it would take XLA:CPU minutes to compile.
        reflection: whether R may mirror.

    Returns:
        (3, 3, ...), or nested lists as given. A rotation also where the answer is not unique (rank below 2, or mirrored
        with equal smaller singular values); not finite where M is not.
    """
    unrolled = isinstance(matrix, list)
    rsqrt = _rsqrt_from_bits if unrolled else lax.rsqrt
    rows = [[matrix[i][j] for j in range(3)] for i in range(3)]
    dtype = rows[0][0].dtype
    eps, tiny = jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny
    largest = jnp.abs(rows[0][0])
    for entry in (*rows[0][1:], *rows[1], *rows[2]):
        largest = jnp.maximum(largest, jnp.abs(entry))
    inverse = rsqrt(jnp.maximum(largest, 4 * tiny)) ** 2
    if reflection:
        inverse = jnp.where(dot(rows[0], cross(rows[1], rows[2])) < 0, -inverse, inverse)
    # The ramp keeps three columns where the rank is exactly one, and makes the identity of no matrix at all
    columns = [[rows[i][j] * inverse + (eps**1.5 * (j + 1) if i == j else 0) for i in range(3)] for j in range(3)]
    columns = [b + [jnp.full_like(inverse, i == j) for i in range(3)] for j, b in enumerate(columns)]  # 3 of (b, v)
    if unrolled:
        for _ in range(SWEEPS):
            columns = _sweep(columns, rsqrt)
    else:
        sweeps = SWEEPS if dtype == jnp.float32 else SWEEPS_DOUBLE
        columns = lax.fori_loop(0, sweeps, lambda _, c: _sweep(c, rsqrt), [jnp.stack(column) for column in columns])
    longest = jnp.maximum(jnp.maximum(dot(columns[0], columns[0]), dot(columns[1], columns[1])), dot(columns[2], columns[2]))
    sigma = longest * rsqrt(longest + tiny)
    rotation = [[0] * 3 for _ in range(3)]
    for k in range(3):
        u = [sigma * b + c for b, c in zip(columns[k][:3], cross(columns[k - 2], columns[k - 1]))]
        length = rsqrt(dot(u, u) + tiny)
        if reflection:
            length = jnp.where(inverse < 0, -length, length)
        u = [entry * length for entry in u]
        rotation = [[rotation[i][j] + u[i] * columns[k][3 + j] for j in range(3)] for i in range(3)]
    return rotation if unrolled else jnp.stack([jnp.stack(row) for row in rotation])


def dot(a, b):
    """a . b of the first three entries of vectors that lie along the first axis, or in lists."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a, b):
    """a x b as a list, of vectors as in `dot`."""
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _sweep(columns, rsqrt):
    """Three plane rotations, each of which makes two columns orthogonal; a column holds b and v, six entries."""
    columns = list(columns)
    for p, q in ((0, 1), (0, 2), (1, 2)):
        a, b = columns[p], columns[q]
        x, y = dot(a, a) - dot(b, b), 2 * dot(a, b)
        size = jnp.abs(x) + 16 * jnp.finfo(x.dtype).tiny ** 0.5  # its square is no zero, so cos is 1 where x and y are
        inverse = rsqrt(size * size + y * y)
        cos_squared = 0.5 + 0.5 * size * inverse
        inverse_cos = rsqrt(cos_squared)
        cos, sin = cos_squared * inverse_cos, 0.5 * inverse * inverse_cos * jnp.where(x < 0, -y, y)
        columns[p] = jax.tree.map(lambda a, b: cos * a + sin * b, a, b)
        columns[q] = jax.tree.map(lambda a, b: cos * b - sin * a, a, b)
    return columns


def reciprocal(x):
    """1 / x of float32 x > 0, without a division: see `_rsqrt_from_bits`."""
    return _rsqrt_from_bits(x) ** 2


def _rsqrt_from_bits(x):
    """1 / sqrt(x) of float32 x > 0 by Newton from its bits: at a root that many use, XLA:CPU would split the kernel."""
    y = lax.bitcast_convert_type(0x5F3759DF - (lax.bitcast_convert_type(x, jnp.int32) >> 1), jnp.float32)
    for _ in range(3):
        y = y * (1.5 - 0.5 * x * y * y)
    return y
