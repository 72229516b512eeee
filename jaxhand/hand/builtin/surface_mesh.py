"""Meshes of the built-in hand's body: the smooth skin over its round cones, polygonised and evenly remeshed."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body

# Width of the smooth minimum. The renderer draws one of 2.6 within the outlines of the bare cones: this lies between.
BLEND_MM = 2.3
WRIST_MM, ROUND_MM = -15.0, 1.5  # where along y the hand ends, and how wide its rim is
GRID_MM, LOW_MM, HIGH_MM = 1.2, (-105, -21, -75), (75, 215, 40)  # of the fine mesh, and its box
VERTICES = 956
# What a turn of the normal by 1 rad counts, so that bent skin gets more vertices: the first that makes a closed mesh.
NORMAL_MM = (9.0, 8.5, 9.5, 8.0, 10.0, 8.75, 9.25)


def distances(points, cones: body.Cones):
    """Signed distances of points (..., 3) to the cones of one hand, and where along them: two (..., 28)."""
    along = cones.end - cones.start
    offset = points[..., None, :] - cones.start
    at = jnp.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
    length = jnp.sqrt(((offset - at[..., None] * along) ** 2).sum(-1) + 1e-6)
    return length - cones.start_radius - (cones.end_radius - cones.start_radius) * at, at


def skin(points, cones, own=1.0, wrist=WRIST_MM):
    """Smooth minimum (...) of the distances to the cones, each weighted by `own`, 0 on the skin; a plane with a rounded
    rim ends it at the wrist."""
    near = jnp.log(jnp.maximum(own, 1e-9)) - distances(points, cones)[0] / BLEND_MM
    drawn = -BLEND_MM * jax.scipy.special.logsumexp(near, -1)
    return ROUND_MM * jnp.logaddexp(drawn / ROUND_MM, (wrist - points[..., 1]) / ROUND_MM)


def own_cones(points, cones):
    """How much each cone (28) makes the skin of vertices at rest: flesh that is far at rest is not theirs (V, 28)."""
    distance = np.asarray(distances(points, cones)[0])
    digit = np.where(np.arange(28) < 15, np.arange(28) // 3, -1)
    mine = digit[distance[:, :15].argmin(1)][:, None]
    far = np.where((digit >= 0) & (digit != mine), 5, 10)
    return np.clip((far + 2 - distance) / 4, 0, 1)


def settle(field, points, level=0.0, steps: int = 6):
    """Points (n, 3) brought to where `field(points (3,), *args)` is `level` by Newton's method; and unit normals."""
    slope = jax.vmap(jax.value_and_grad(field))
    for _ in range(steps):
        value, normal = slope(points)
        square = jnp.maximum((normal**2).sum(-1), 0.3)
        points = points - (jnp.clip(value - level, -4, 4) / square)[:, None] * normal
    return points, normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


def surface_nets(field, low, high, step: float):
    """Where `field` is 0 within a box: vertices (n, 3), triangles (m, 3) outward. After S. Gibson, surface nets."""
    axes = [np.arange(start, end, step, np.float32) for start, end in zip(low, high)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    inside = np.stack([np.asarray(field(plane)) for plane in grid]) < 0
    ends = (slice(0, -1), slice(1, None))
    corners = np.stack([inside[i, j, k] for i in ends for j in ends for k in ends])  # (8, …) of every cell
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


def voronoi(points, weight, fine, count: int, rounds: int = 120):
    """Lloyd's clusters of points (n, d): which of `count` each is in; `fine` (n,) is how much finer than others."""
    seeds = [int(points[:, 1].argmax())]
    gap = ((points - points[seeds[0]]) ** 2).sum(1)
    for _ in range(count - 1):  # farthest points first
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


def edges(faces):
    """All directed edges (3 m, 2) of triangles."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def dual(faces, label):
    """Triangles between clusters, where three meet; first every vertex joins most of its neighbours."""
    count = label.max() + 1
    pairs = np.concatenate([edges(faces), np.stack([np.arange(len(label))] * 2, 1)])
    for _ in range(20):
        key, votes = np.unique(pairs[:, 0] * count + label[pairs[:, 1]], return_counts=True)
        order = np.lexsort((votes, key // count))
        winner = order[np.append(np.diff(key[order] // count) > 0, True)]
        label = key[winner] % count
    corner = label[faces]
    corner = corner[(corner != np.roll(corner, 1, 1)).all(1)]
    turn = corner.argmin(1)[:, None] + np.arange(3)
    return np.unique(np.take_along_axis(corner, turn % 3, 1), axis=0)


def closed_mesh(cones: body.Cones):
    """The skin over a hand's cones as about `VERTICES` vertices (V, 3), finer on the digits, and faces (F, 3), outward.

    Raises:
        RuntimeError: the clusters make no closed surface of that many vertices.
    """
    field = lambda points: skin(points, cones)  # noqa: E731
    points, faces = surface_nets(jax.jit(field), np.float32(LOW_MM), np.float32(HIGH_MM), GRID_MM)
    points, normals = map(np.asarray, settle(field, jnp.asarray(points, jnp.float32)))
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
            return np.asarray(settle(field, jnp.asarray(centers[:, :3]))[0]), coarse.astype(np.int32)
    raise RuntimeError("no clusters make a closed surface: add other numbers to NORMAL_MM")


def ring(faces):
    """The neighbours of every vertex, its shorter lists repeated: (V, 24)."""
    pairs = edges(faces)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable"), 1]
    count = np.bincount(faces.ravel())
    start = np.cumsum(count) - count
    return pairs[start[:, None] + np.arange(24) % count[:, None]]
