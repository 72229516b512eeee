"""A flat map of the hand's skin, and the textures that are drawn on it: lines, wrinkles, veins, spots.

The map lays the hand flat, fingers straight and apart, in mm: x to the little finger, y to the fingertips, the wrist at
the origin. It has two sides, palm and back. A posed hand looks its colours up there, so they move with the skin.
"""

import functools
import typing

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body

PEOPLE = 32  # different skins of a set
SCALE = 1.5  # px of the map per mm
LOW, HIGH = np.array([-105.0, -130.0]), np.array([65.0, 205.0])  # mm, corners of the map
_WIDTH, _HEIGHT = np.ceil((HIGH - LOW) * SCALE).astype(int)
_THUMB_DIRECTION = np.array([-0.66, 0.75])
# Palm lines of the right hand, mm
_PALM_LINES = (
    [(36, 58), (18, 66), (2, 76), (-14, 90)],  # heart
    [(-36, 70), (-16, 66), (6, 55), (27, 38)],  # head
    [(-36, 68), (-18, 58), (-6, 38), (-4, 18), (-10, 4)],  # life
    [(6, 10), (8, 40), (4, 62)],  # fate
    [(-24, -2), (0, -5), (24, -2)],
    [(-22, -9), (0, -11), (22, -9)],  # wrist
)


class Layout(typing.NamedTuple):
    """Where the map shows each cone of the body."""

    start: np.ndarray  # (28, 2) mm, start of the cone
    axes: np.ndarray  # (28, 2, 2) columns: directions of the bone's x and y axes
    length: np.ndarray  # (28,) mm of the mean hand
    knuckles: np.ndarray  # (5, 3, 2) mm, start of each bone of the fingers
    directions: np.ndarray  # (5, 2) of the fingers


@functools.cache
def layout() -> Layout:
    """Return the layout of the mean hand, by the built-in hand's lengths."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        hand = body.forward(jnp.zeros(body.NUM_DOF), jnp.zeros(body.NUM_SHAPE))
        cones = jax.tree.map(np.asarray, body.body_cones(hand))
        joints = np.asarray(hand.joints)
    length = np.linalg.norm(cones.end - cones.start, axis=-1)
    start, axes = cones.start[:, :2].copy(), np.tile(np.eye(2), (body.NUM_CONES, 1, 1))
    directions = np.tile(np.array([0.0, 1.0]), (5, 1))
    directions[0] = _THUMB_DIRECTION
    knuckles = np.zeros((5, 3, 2))
    for finger, direction in enumerate(directions):
        place = joints[1 + 4 * finger, :2]
        for level in range(3):
            cone = 3 * finger + level
            knuckles[finger, level] = start[cone] = place
            axes[cone] = np.array([[direction[1], direction[0]], [-direction[0], direction[1]]])
            place = place + direction * np.linalg.norm(joints[2 + 4 * finger + level] - joints[1 + 4 * finger + level])
    return Layout(start, axes, length, knuckles, directions)


def to_pixels(points: np.ndarray) -> np.ndarray:
    """Return pixels (..., 2) of the map, for points (..., 2) in mm. Row 0 is the lowest y."""
    return (points - LOW) * SCALE - 0.5


@functools.lru_cache(PEOPLE)
def skin_of(seed: int, person: int) -> np.ndarray:
    """Draw one person's skin.

    Args:
        seed: of the data set.
        person: 0 to `PEOPLE` - 1.

    Returns:
        (2, H, W, 4) float32, palm and back: factor of the brightness - 1, redness, darkness of creases, height in mm.
    """
    rng = np.random.default_rng([seed, person])
    age = rng.uniform()
    sides = np.stack([_palm(rng, age), _back(rng, age)])
    spots = np.stack([noise(rng, (_HEIGHT, _WIDTH), 60, 4) for _ in range(2)], -1)
    fine = noise(rng, (_HEIGHT, _WIDTH), 5, 2)
    sides[..., 0] += 0.055 * spots[..., 0] + 0.02 * fine
    sides[..., 1] += 0.30 * spots[..., 1]
    sides[..., 3] += 0.05 * fine
    return sides


def _palm(rng: np.random.Generator, age: float) -> np.ndarray:
    side = np.zeros((_HEIGHT, _WIDTH, 4), np.float32)
    lines = np.zeros((_HEIGHT, _WIDTH), np.float32)
    for number, line in enumerate(_PALM_LINES):
        if number != 3 or rng.uniform() < 0.5:
            points = np.array(line) + rng.normal(0, 2.0, (len(line), 2))
            _stroke(lines, _smooth(points), rng.uniform(0.5, 1.0), 2)
    for _ in range(rng.integers(8, 26)):  # fine lines
        start = rng.uniform((-34, 4), (34, 88))
        bend = np.cumsum(rng.normal(0, (6, 4), (4, 2)) + rng.normal(0, 5, 2), 0)
        _stroke(lines, _smooth(start + bend), rng.uniform(0.1, 0.35), 1)
    place = layout()
    for finger in range(5):
        direction = place.directions[finger]
        for level in range(3):
            at = place.knuckles[finger, level] + direction * (21.0 if level == 0 and finger else 1.0)
            for shift in (-1.3, 1.3) if level < 2 else (0.0,):
                _across(rng, lines, at + direction * (shift + rng.normal(0, 0.4)), direction, 10.5, 0.8)
    redness = _blobs(((-24, 34, 20), (24, 30, 18), *[(*k, 11) for k in place.knuckles[1:, 0] - (0, 6)]))
    redness = redness + _fingertips(8)
    side[..., 1] = 0.55 * redness * rng.uniform(0.2, 1.2)
    lines = cv2.GaussianBlur(lines, (0, 0), 0.7)
    side[..., 2] = lines * (0.5 + 0.5 * age)
    side[..., 3] = -0.5 * lines
    return side


def _back(rng: np.random.Generator, age: float) -> np.ndarray:
    side = np.zeros((_HEIGHT, _WIDTH, 4), np.float32)
    place = layout()
    wrinkles = np.zeros((_HEIGHT, _WIDTH), np.float32)
    for finger in range(5):
        direction = place.directions[finger]
        for level in range(1, 3):
            reach = (6.0, 3.0)[level - 1]
            for shift in np.linspace(-reach, reach, rng.integers(3, 6)):
                at = place.knuckles[finger, level] + direction * (shift + rng.normal(0, 0.5))
                _across(rng, wrinkles, at, direction, 7.5 - 0.5 * abs(shift), rng.uniform(0.3, 0.8))
    for _ in range(int(60 * age)):  # fine wrinkles across the back
        at = rng.uniform((-30, 8), (34, 90))
        _across(rng, wrinkles, at, np.array([0.2, 1.0]), rng.uniform(2, 7), rng.uniform(0.05, 0.25))
    wrinkles = cv2.GaussianBlur(wrinkles, (0, 0), 0.6)

    tendons, veins = np.zeros((2, _HEIGHT, _WIDTH), np.float32)
    for finger in range(1, 5):
        knuckle = place.knuckles[finger, 0]
        _stroke(tendons, np.array([knuckle * 0.15, knuckle * 0.97]), 1.0, 4)
        _stroke(tendons, np.array([knuckle * 0.97, knuckle * 0.97 + 1]), 1.0, 16)
    for _ in range(rng.integers(2, 6)):
        steps = np.cumsum(rng.normal((0, 13), (7, 3), (8, 2)), 0)
        _stroke(veins, _smooth(np.array([rng.uniform(-22, 28), -50]) + steps), 1.0, 4)
    tendons, veins = cv2.GaussianBlur(tendons, (0, 0), 4), cv2.GaussianBlur(veins, (0, 0), 2)
    strength = rng.uniform(0, 1) ** 2
    dots = np.zeros((_HEIGHT, _WIDTH), np.float32)
    for _ in range(rng.integers(0, 4) + int(50 * (rng.uniform() < 0.15))):
        x, y = rng.integers((0, 0), (_WIDTH, _HEIGHT))
        cv2.circle(dots, (int(x), int(y)), int(rng.integers(1, 3)), rng.uniform(0.2, 0.8), -1)
    dots = cv2.GaussianBlur(dots, (0, 0), 0.8)

    knuckles = _blobs((*[(*k, 9) for k in place.knuckles[1:, 0]], *[(*k, 7) for k in place.knuckles[:, 1]]))
    side[..., 0] = -0.25 * dots - 0.06 * strength * veins
    side[..., 1] = 0.5 * (knuckles + _fingertips(6)) * rng.uniform(0.1, 1.2) - 0.5 * strength * veins
    side[..., 2] = wrinkles * (0.35 + 0.65 * age)
    side[..., 3] = 0.9 * tendons * rng.uniform(0.2, 1.2) + 0.7 * strength * veins - 0.4 * wrinkles
    return side


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int) -> np.ndarray:
    """Return smooth noise (H, W) float32 of about -1 to 1. The coarsest of its octaves has cells of `cell` px."""
    total, weight = np.zeros(shape, np.float32), 1.0
    for _ in range(octaves):
        grid = [max(2, int(np.ceil(side / cell)) + 1) for side in shape]
        octave = rng.random(grid, np.float32) * 2 - 1
        total += weight * cv2.resize(octave, shape[::-1], interpolation=cv2.INTER_CUBIC)
        cell, weight = max(cell / 2, 1.0), weight * 0.55
    return total / (2.2 * (1 - 0.55**octaves)) * 1.5


def _stroke(image: np.ndarray, points: np.ndarray, value: float, thickness: int) -> None:
    """Draw a line through points (n, 2) mm into the map."""
    pixels = np.round(to_pixels(points) * 16).astype(np.int32)
    cv2.polylines(image, [pixels[:, None]], False, value, thickness, cv2.LINE_8, 4)


def _across(rng, image: np.ndarray, center: np.ndarray, direction: np.ndarray, half: float, value: float) -> None:
    """Draw a slightly bent line across a finger."""
    across = np.array([direction[1], -direction[0]])
    bend = direction * rng.normal(0, 0.8)
    tilt = direction * rng.normal(0, 0.6)
    points = np.array([center - across * half - tilt, center + bend, center + across * half + tilt])
    _stroke(image, _smooth(points), value, 1)


def _smooth(points: np.ndarray) -> np.ndarray:
    """Return a curve (16, 2) through points (n, 2)."""
    return _curve(len(points)) @ points


@functools.cache
def _curve(count: int) -> np.ndarray:
    """Weights (16, count): a polynomial of degree 3 or less, by least squares."""
    powers = np.arange(min(4, count))
    fine, knots = (np.linspace(0, 1, n)[:, None] ** powers for n in (16, count))
    return fine @ np.linalg.pinv(knots)


@functools.cache
def _grid() -> np.ndarray:
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    return np.stack([columns, rows], -1).astype(np.float32) / SCALE + LOW.astype(np.float32)


@functools.cache
def _blobs(places: tuple[tuple, ...]) -> np.ndarray:
    """Return the sum of soft discs (x, y, radius), mm."""
    x, y = np.moveaxis(_grid(), -1, 0)
    total = np.zeros((_HEIGHT, _WIDTH), np.float32)
    for px, py, radius in places:
        total += np.exp(-((x - px) ** 2 + (y - py) ** 2) / np.float32(radius**2))
    return total


def _fingertips(radius: float) -> np.ndarray:
    place = layout()
    return _blobs(tuple((*(place.knuckles[f, 2] + 19 * place.directions[f]), radius) for f in range(5)))
