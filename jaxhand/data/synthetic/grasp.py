"""Simple solids and hands that close around them: box, cylinder and ball, distances to them, and their contact."""

import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body

NOTHING, BOX, CYLINDER, BALL = range(4)
_LEVELS = 20  # steps in which the fingers close
_TOUCH_MM = 0.8  # how deep the skin gives way
_HELD = 0.35  # probability that a hand holds something
_OPEN = body.POSES["spread"].astype(np.float32)
_CLOSED = body.POSES["fist"].astype(np.float32)
_THUMB_OPPOSED = np.deg2rad([-8, 26, 22, 0, 0, 0]).astype(np.float32)
_FINGER = np.array([0] * 6 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [4] * 2)  # finger of each angle of a pose
_ALONG = np.array([0.15, 0.5, 0.85, 1.0], np.float32)  # tested places on each bone


class Solid(typing.NamedTuple):
    """A solid, without a batch axis.

    Half sizes are those along the axes: a cylinder's axis is the first one and its radius the second size; a ball has
    the second size as its radius.
    """

    kind: jax.Array  # () int: NOTHING, BOX, CYLINDER or BALL
    center: jax.Array  # (3,) mm
    axes: jax.Array  # (3, 3) rows: unit vectors
    half: jax.Array  # (3,) mm


def nothing() -> Solid:
    """Return no solid."""
    return Solid(jnp.zeros((), jnp.int32), jnp.zeros(3), jnp.eye(3), jnp.ones(3))


def distance_to(solid: Solid, points: jax.Array) -> jax.Array:
    """Return the distance (...,) mm of points (..., 3) to the surface of a solid; negative inside."""
    x = jnp.abs((points - solid.center) @ solid.axes.T)
    box = x - solid.half
    across = jnp.linalg.norm(x[..., 1:], axis=-1) - solid.half[1]
    can = jnp.stack([box[..., 0], across], -1)
    outside = lambda q: jnp.linalg.norm(jnp.maximum(q, 0), axis=-1) + jnp.minimum(q.max(-1), 0)  # noqa: E731
    ball = jnp.linalg.norm(x, axis=-1) - solid.half[1]
    far = jnp.full_like(ball, 1e3)
    return jnp.select([solid.kind == kind for kind in (BOX, CYLINDER, BALL)], [outside(box), outside(can), ball], far)


def hold(draws: body.Draws, pose: jax.Array, shape: jax.Array) -> tuple[jax.Array, Solid]:
    """Put a solid into some hands: it lies against the palm, and each finger closes until it touches.

    Args:
        draws: random numbers.
        pose: (24,) of a hand that holds nothing.
        shape: (10,) as in `body.forward`.

    Returns:
        The pose (24,), as it was where nothing is held, and the solid in the hand frame.
    """
    kind = 1 + jnp.floor(draws.uniform() * 3).astype(jnp.int32)
    tilt = draws.normal(3) * np.array([0.12, 0.25, 0.35], np.float32)
    axes = body.euler(jnp.sin(tilt)[None], jnp.cos(tilt)[None])[0].T  # the first axis: across the palm
    long = draws.uniform(low=25.0, high=95.0)
    thick = draws.uniform(2, low=9.0, high=38.0)
    half = jnp.stack([long, thick[0], jnp.where(kind == BOX, jnp.minimum(thick[1], 26.0), thick[0])])
    beneath = jnp.where(kind == BOX, half[2], half[1])
    x, y = draws.uniform(2, low=np.array([-14, 58], np.float32), high=np.array([14, 88], np.float32))
    solid = Solid(kind, jnp.stack([x, y, -14 - beneath]), axes, half)
    palm = _penetration(solid, body.body_cones(body.forward(jnp.asarray(_OPEN), shape)), range(15, 24))
    solid = solid._replace(center=solid.center - jnp.array([0.0, 0.0, 1.0]) * jnp.maximum(palm.max(), -4.0))

    noise = draws.normal(body.NUM_DOF) * 0.05 * (body.LIMITS[:, 1] - body.LIMITS[:, 0])
    start = jnp.asarray(_OPEN).at[:6].set(_THUMB_OPPOSED) + noise
    level = np.linspace(0, 1, _LEVELS, dtype=np.float32)[:, None]
    closing = jnp.clip(start * (1 - level) + _CLOSED * level, body.LIMITS[:, 0], body.LIMITS[:, 1])  # (levels, 24)
    cones = jax.vmap(lambda p: body.body_cones(body.forward(p, shape)))(closing)
    depth = jax.vmap(lambda c: _penetration(solid, c, range(15)))(cones)  # (levels, 15)
    touches = depth.reshape(_LEVELS, 5, 3).max(-1) > _TOUCH_MM  # (levels, 5)
    last = jnp.where(touches.any(0), jnp.argmax(touches, 0) - 1, _LEVELS - 1)  # the level before the first touch
    loose = jnp.where(draws.uniform(5) < 0.1, 4, 0)  # some fingers do not reach the solid
    last = jnp.maximum(jnp.maximum(last, 0) - loose, 0)
    held_pose = closing[last[_FINGER], np.arange(body.NUM_DOF)]
    grips = body.body_cones(body.forward(held_pose, shape))
    fits = (_penetration(solid, grips, range(28)).max() < 4.0) & (body.overlap(grips) < 5.0)
    held = (draws.uniform() < _HELD) & fits
    return jnp.where(held, held_pose, pose), solid._replace(kind=jnp.where(held, kind, NOTHING))


def _penetration(solid: Solid, cones: body.Cones, which: typing.Sequence[int]) -> jax.Array:
    """Return how deep some cones (n,) reach into the solid, mm; negative: the gap between them."""
    rows = np.array(which)
    start, end = cones.start[rows, None], cones.end[rows, None]
    points = start + (end - start) * _ALONG[:, None]  # (n, 4, 3)
    radius = cones.start_radius[rows, None] * (1 - _ALONG) + cones.end_radius[rows, None] * _ALONG
    return (radius - distance_to(solid, points)).max(-1)
