"""The visible surface of held solids: rays against a box, a cylinder or a ball, and colours on it."""

import numpy as np

from jaxhand.data.synthetic import backgrounds, grasp
from jaxhand.data.synthetic.raytrace import FAR_MM
from jaxhand.data.synthetic.surfaces import Surface, spread


def solid_surface(rng: np.random.Generator, solid: grasp.Solid, ray: np.ndarray) -> Surface:
    """Return the surface of a held solid (`grasp.Solid` of NumPy arrays), in one colour or with a drawn texture."""
    center, axes, half = (np.asarray(field) for field in solid[1:])
    direction = ray.reshape(-1, 3) @ axes.T  # in the solid's axes
    distance, normal = _SOLIDS[int(solid.kind)](-axes @ center, direction, half)
    texture, plain = backgrounds.draw(rng, 128), backgrounds.color(rng, 1.5)
    share, gloss = rng.choice([0.0, 0.5, 1.0]), 2.0 * rng.uniform() ** 2
    rows = np.flatnonzero(distance < FAR_MM / 2)
    point = direction[rows] * distance[rows, None] - axes @ center
    at = np.clip(point * 0.8 + 64, 0, 127).astype(int)
    color = plain * (1 - share) + share * texture[at[:, 0], (at[:, 1] + at[:, 2]) % 128]
    return spread(rows, distance.astype(np.float32).reshape(ray.shape[:2]), normal[rows] @ axes, color, gloss, 0.0)


# Rays from the point `eye` (3,) along unit vectors `direction` (P, 3), in the solid's axes, against half sizes `half`
# (3,) mm. Each function returns distances (P,) mm, FAR_MM for rays that miss, and normals (P, 3).


def _ball(eye, direction, half):
    b, c = direction @ eye, eye @ eye - half[1] ** 2
    h = b * b - c
    t = np.where(h > 0, -b - np.sqrt(np.maximum(h, 0)), FAR_MM)
    t = np.where(t > 0, t, FAR_MM)
    return t, (eye + direction * t[:, None]) / half[1]


def _box(eye, direction, half):
    safe = np.where(np.abs(direction) < 1e-6, 1e-6, direction)
    middle, reach = -eye / safe, np.abs(half / safe)
    enter, leave = (middle - reach).max(1), (middle + reach).min(1)
    axis = (middle - reach).argmax(1)
    normal = -np.sign(np.take_along_axis(safe, axis[:, None], 1)) * np.eye(3)[axis]
    return np.where((enter < leave) & (enter > 0), enter, FAR_MM), normal


def _cylinder(eye, direction, half):
    flat, side = direction[:, 1:], eye[1:]
    a, b, c = (flat * flat).sum(1) + 1e-9, flat @ side, side @ side - half[1] ** 2
    h = b * b - a * c
    wall = (-b - np.sqrt(np.maximum(h, 0))) / a
    wall = np.where((h > 0) & (np.abs(eye[0] + direction[:, 0] * wall) < half[0]) & (wall > 0), wall, FAR_MM)
    x = np.where(np.abs(direction[:, 0]) < 1e-6, 1e-6, direction[:, 0])
    cap = (-np.sign(x) * half[0] - eye[0]) / x
    on_cap = (np.linalg.norm(side + flat * cap[:, None], axis=1) < half[1]) & (cap > 0)
    cap = np.where(on_cap, cap, FAR_MM)
    point = eye + direction * np.minimum(wall, cap)[:, None]
    around = np.concatenate([np.zeros((len(x), 1)), point[:, 1:] / half[1]], 1)
    normal = np.where((cap < wall)[:, None], -np.sign(x)[:, None] * np.eye(3)[0], around)
    return np.minimum(wall, cap), normal


_SOLIDS = {grasp.BOX: _box, grasp.CYLINDER: _cylinder, grasp.BALL: _ball}
