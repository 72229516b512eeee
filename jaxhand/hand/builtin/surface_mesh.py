"""Mesh the smooth skin over the round cones of the built-in hand with triangles of similar size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body

# Width of the smooth minimum that joins the cones. It is a compromise: the renderer uses 2.6, so that its skin stays
# within the outlines of the bare cones.
BLEND_MM = 2.3
WRIST_MM, ROUND_MM = -15.0, 1.5  # y at which the hand ends, and width of the rounded rim there
GRID_MM, LOW_MM, HIGH_MM = 1.2, (-105, -21, -75), (75, 215, 40)  # cell size of the grid, and corners of its box
VERTICES = 956
# Points are clustered by position and normal. A change of the normal by 1 rad has the weight of this distance, so that
# curved skin gets more vertices. The values are tried in order until the mesh is closed.
NORMAL_MM = (9.0, 8.5, 9.5, 8.0, 10.0, 8.75, 9.25)


def distances(points: jax.Array | np.ndarray, cones: body.Cones) -> tuple[jax.Array, jax.Array]:
    """Signed distances (..., 28) mm from points (..., 3) to a hand's cones; positions (..., 28) along them, 0 to 1."""
    along = cones.end - cones.start
    offset = points[..., None, :] - cones.start
    position = jnp.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
    length = jnp.sqrt(((offset - position[..., None] * along) ** 2).sum(-1) + 1e-6)
    return length - cones.start_radius - (cones.end_radius - cones.start_radius) * position, position


def skin(
    points: jax.Array, cones: body.Cones, own: jax.Array | float = 1.0, wrist: jax.Array | float = WRIST_MM
) -> jax.Array:
    """Signed distance to the skin: a smooth minimum of the distances to the cones. A plane at the wrist cuts the skin.

    Args:
        points: (..., 3) mm.
        cones: the cones of one hand.
        own: (..., 28) weight of each cone, 0 to 1, see `own_cones`.
        wrist: mm, position of the plane along y; the rim at the cut is rounded.

    Returns:
        (...) mm, 0 on the skin, negative inside.
    """
    exponents = jnp.log(jnp.maximum(own, 1e-9)) - distances(points, cones)[0] / BLEND_MM
    smooth = -BLEND_MM * jax.scipy.special.logsumexp(exponents, -1)
    return ROUND_MM * jnp.logaddexp(smooth / ROUND_MM, (wrist - points[..., 1]) / ROUND_MM)


def own_cones(points: np.ndarray, cones: body.Cones) -> np.ndarray:
    """Weights (V, 28), 0 to 1: which cones form the skin at each of the vertices (V, 3) in the rest pose.

    A cone far from a vertex in the rest pose belongs to another finger or to the palm. Its weight is 0, so that it
    does not attract the vertex if the two touch in another pose.
    """
    distance = np.asarray(distances(points, cones)[0])
    digit = np.where(np.arange(28) < 15, np.arange(28) // 3, -1)
    nearest = digit[distance[:, :15].argmin(1)][:, None]
    far = np.where((digit >= 0) & (digit != nearest), 5, 10)
    return np.clip((far + 2 - distance) / 4, 0, 1)


def project_to_level(
    field: Callable, points: jax.Array, level: float = 0.0, steps: int = 6
) -> tuple[jax.Array, jax.Array]:
    """Move points onto the level set of a field, by Newton's method.

    Args:
        field: function of one point (3,) → ().
        points: (n, 3).
        level: value of the field on the level set.
        steps: number of Newton steps.

    Returns:
        The moved points (n, 3), and the unit normals (n, 3) there.
    """
    value_and_normal = jax.vmap(jax.value_and_grad(field))
    for _ in range(steps):
        value, normal = value_and_normal(points)
        square = jnp.maximum((normal**2).sum(-1), 0.3)
        points = points - (jnp.clip(value - level, -4, 4) / square)[:, None] * normal
    return points, normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


def surface_nets(field: Callable, low: np.ndarray, high: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Triangulate the zero level set of a field. Gibson, "Constrained Elastic Surface Nets" (1998), no smoothing.

    Args:
        field: function of points (..., 3) → (...), negative inside.
        low, high: (3,) float32, corners of the box that is searched.
        step: width of the grid's cells.

    Returns:
        Vertices (n, 3), one at the centre of each grid cell that the surface crosses; triangles (m, 3), outward.
    """
    axes = [np.arange(start, end, step, dtype=np.float32) for start, end in zip(low, high)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    inside = np.stack([np.asarray(field(plane)) for plane in grid]) < 0
    ends = (slice(0, -1), slice(1, None))
    corners = np.stack([inside[i, j, k] for i in ends for j in ends for k in ends])  # (8, …)
    mixed = corners.any(0) & ~corners.all(0)
    number = np.cumsum(mixed).reshape(mixed.shape) - 1
    faces = []
    for axis in range(3):
        first, second = np.eye(3, dtype=int)[[(axis + 1) % 3, (axis + 2) % 3]]
        here = np.take(inside, range(inside.shape[axis] - 1), axis)
        there = np.take(inside, range(1, inside.shape[axis]), axis)
        for leaves in (True, False):
            edge = np.argwhere((here != there) & (here == leaves))
            around = (edge - first - second, edge - second, edge, edge - first)[:: 1 if leaves else -1]
            quad = np.stack([number[tuple(cell.T)] for cell in around], 1)
            faces += [quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]
    return (np.argwhere(mixed) + 0.5) * step + low, np.concatenate(faces)


def voronoi(
    points: np.ndarray, weight: np.ndarray, fine: np.ndarray, count: int, rounds: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points by Lloyd's algorithm.

    Args:
        points: (n, d) float32.
        weight: (n,) area of each point.
        fine: (n,) relative fineness: the size of a cluster is divided by this factor.
        count: number of clusters.
        rounds: number of iterations.

    Returns:
        The cluster of each point (n,), and the clusters' centres (count, d).
    """
    seeds = [int(points[:, 1].argmax())]
    gap = ((points - points[seeds[0]]) ** 2).sum(1)
    for _ in range(count - 1):  # farthest-point sampling
        seeds.append(int((gap * fine**2).argmax()))
        gap = np.minimum(gap, ((points - points[seeds[-1]]) ** 2).sum(1))
    centers, weight = points[seeds], weight * fine**4
    nearest = lambda: np.concatenate(  # noqa: E731
        [np.argmin((centers**2).sum(1) - 2 * part @ centers.T, 1) for part in np.array_split(points, 12)]
    )
    for _ in range(rounds):
        label = nearest()
        total = np.maximum(np.bincount(label, weight, count), 1e-9)
        centers = np.stack([np.bincount(label, weight * x, count) / total for x in points.T], 1).astype(np.float32)
    return nearest(), centers


def edges(faces: np.ndarray) -> np.ndarray:
    """Return all directed edges (3 m, 2) of triangles (m, 3)."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def dual(faces: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Make a mesh whose vertices are clusters: one triangle wherever three clusters meet.

    Before that, each vertex is moved 20 times to the most frequent cluster among itself and its neighbours. So
    clusters become compact.

    Args:
        faces: (m, 3) triangles of the fine mesh.
        label: (n,) cluster of each vertex of the fine mesh.

    Returns:
        Triangles (k, 3); the indices are clusters.
    """
    count = label.max() + 1
    pairs = np.concatenate([edges(faces), np.stack([np.arange(len(label))] * 2, 1)])
    for _ in range(20):
        key, votes = np.unique(pairs[:, 0] * count + label[pairs[:, 1]], return_counts=True)
        order = np.lexsort((votes, key // count))
        winner = order[np.append(np.diff(key[order] // count) > 0, True)]
        label = key[winner] % count
    corner = label[faces]
    corner = corner[(corner != np.roll(corner, 1, 1)).all(1)]
    cyclic = corner.argmin(1)[:, None] + np.arange(3)  # the smallest index comes first
    return np.unique(np.take_along_axis(corner, cyclic % 3, 1), axis=0)


def closed_mesh(cones: body.Cones) -> tuple[np.ndarray, np.ndarray]:
    """Mesh the skin over a hand's cones, with smaller triangles on the fingers.

    Args:
        cones: the cones of the hand.

    Returns:
        `VERTICES` vertices (V, 3) mm and faces (F, 3), outward.

    Raises:
        RuntimeError: the clusters do not form a closed surface with that many vertices.
    """
    field = lambda points: skin(points, cones)  # noqa: E731
    points, faces = surface_nets(jax.jit(field), np.array(LOW_MM, np.float32), np.array(HIGH_MM, np.float32), GRID_MM)
    points, normals = map(np.asarray, project_to_level(field, jnp.asarray(points, jnp.float32)))
    distance = np.asarray(distances(points, cones)[0])
    on_digit = np.clip((distance[:, 15:].min(1) - distance[:, :15].min(1) + 7) / 12, 0, 1)
    cap = (normals[:, 1] < -0.95) & (points[:, 1] < WRIST_MM + 1)
    fine = 1 + 0.4 * on_digit**2 * (3 - 2 * on_digit) - 0.15 * cap
    sides = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    area = np.bincount(faces.ravel(), np.repeat(np.linalg.norm(sides, axis=1), 3) / 6, len(points))
    for normal_mm in NORMAL_MM:
        label, centers = voronoi(np.concatenate([points, normal_mm * normals], 1), area, fine, VERTICES)
        coarse = dual(faces, label)
        both = np.concatenate([edges(coarse), edges(coarse)[:, ::-1]])
        is_closed = len(np.unique(both, axis=0)) == len(coarse) * 3 == 6 * VERTICES - 12
        if is_closed and len(np.unique(coarse)) == VERTICES:
            return np.asarray(project_to_level(field, jnp.asarray(centers[:, :3]))[0]), coarse.astype(np.int32)
    raise RuntimeError("no clustering forms a closed surface: add other values to NORMAL_MM")


def vertex_neighbors(faces: np.ndarray) -> np.ndarray:
    """Neighbours (V, 24) of every vertex of a mesh with faces (F, 3). Lists shorter than 24 are repeated to fill up."""
    pairs = edges(faces)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable"), 1]
    count = np.bincount(faces.ravel())
    start = np.cumsum(count) - count
    return pairs[start[:, None] + np.arange(24) % count[:, None]]
