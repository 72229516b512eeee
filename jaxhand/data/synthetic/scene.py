"""Random scenes in front of a camera: a person's hand, a held object, a wall with clutter, light, a depth sensor.

A scene is a pure function of (seed, index). Colours are linear light; points are mm in the camera frame.
"""

import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.hand.builtin import body

VIEWS = ("front", "all")
NUM_CLUTTER, NUM_HOLES = 7, 3
_FRONT_TURN = np.deg2rad([40, 35, 35]).astype(np.float32)  # largest roll, pitch and yaw, in both directions
_FINGERS_UP = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]], np.float32)  # hand → camera; the back faces the camera
# Skin tones from dark to light, sRGB. The colours of real skins are close to a curve through these tones. A person's
# skin has a random position on the curve and a random hue.
_SKIN = np.array([[0.24, 0.14, 0.10], [0.42, 0.26, 0.18], [0.63, 0.43, 0.32], [0.80, 0.59, 0.46], [0.93, 0.75, 0.65]])


class Scene(typing.NamedTuple):
    """One scene, without a batch axis. Positions in the image are fractions of the image's side, -0.5 to 0.5."""

    pose: jax.Array  # (24,)
    shape: jax.Array  # (10,)
    joints: jax.Array  # (21, 3)
    frames: jax.Array  # (16, 3, 3) axes of the bones in the camera frame
    cones: body.Cones
    window: jax.Array  # (3,) centre x, y and side of the square at z = 1 that the image shows
    skin: jax.Array  # (3,) colour of the skin
    sleeve: jax.Array  # (4,) start of the sleeve along the forearm, 0 to 1 (above 1: no sleeve), and colour (3)
    nails: jax.Array  # (3,) added to the skin colour
    light: jax.Array  # (3,) unit vector towards the light
    light_color: jax.Array  # (3,) colour of the light, multiplied by the exposure
    ambient: jax.Array  # () fraction of the light that is ambient
    object_start: jax.Array  # (3,) mm, start of the axis of a held ball or stick
    object_end: jax.Array  # (3,) mm, end of this axis
    object_radius: jax.Array  # () mm, radius of the ball or stick
    object_axes: jax.Array  # (3, 3) rows: unit axes of a held box
    object_half_size: jax.Array  # (3,) mm, half sizes of the box along these axes
    object_kind: jax.Array  # () held object: 0 nothing, 1 a ball or stick, 2 a box
    object_color: jax.Array  # (2, 3) two colours of the held object's stripes
    wall: jax.Array  # (5,) unit normal (3), distance (normal · X = distance), gap between wall and hand
    wall_color: jax.Array  # (3,) mean colour of the wall
    wall_pattern: jax.Array  # (8,) see `_pattern`
    clutter: jax.Array  # (NUM_CLUTTER, 13) see `_clutter`
    clutter_color: jax.Array  # (NUM_CLUTTER, 3) colours of the clutter
    blur: jax.Array  # () strength of the lens blur
    grain: jax.Array  # () strength of the image noise
    sensor: jax.Array  # (5,) noise mm at 0.5 m, fraction of edge holes, shadow px, fraction of flying pixels, bias mm
    holes: jax.Array  # (NUM_HOLES, 3) position and radius of holes in the depth image
    salt: jax.Array  # () uint32, seed of the pixels' noise


def sample_scene(numbers: tuple[jax.Array, jax.Array], view: str) -> Scene:
    """Build a scene from random numbers.

    Args:
        numbers: result of `body.random_numbers(seed, index)`.
        view: one of `VIEWS`.
    """
    draws = body.Draws(numbers)
    shape = body.sample_shape(draws)
    pose = body.sample_pose(draws, shape)
    hand = body.forward(pose, shape)
    cones = body.body_cones(hand)
    rotation = _front_view(draws) if view == "front" else _any_view(draws)  # hand → camera

    rounded, box, object_color = _held_object(draws)
    distance = draws.uniform(low=350.0, high=800.0)
    shift = draws.uniform(2, low=-0.12, high=0.12) * distance
    joints = hand.joints @ rotation.T
    move = jnp.append(shift, distance) - joints.mean(0)
    joints = joints + move
    place = lambda points: points @ rotation.T + move  # noqa: E731
    cones = cones._replace(start=place(cones.start), end=place(cones.end))

    box_low, box_high = (pick(joints[:, :2] / joints[:, 2:], axis=0) for pick in (jnp.min, jnp.max))
    side = jnp.max(box_high - box_low) * draws.uniform(low=1.25, high=1.65)  # like a crop around a detector's box
    side = jnp.maximum(side, 110 / distance)
    window = jnp.append((box_low + box_high) / 2 + draws.uniform(2, low=-0.07, high=0.07) * side, side)

    light = draws.normal(3)
    light = jnp.stack([light[0], light[1] - 0.5, -jnp.abs(light[2]) - 0.5])  # from the front, mostly from above
    warmth, exposure = draws.uniform(low=-1.0, high=1.0), draws.uniform(low=-0.45, high=0.3)
    light_color = jnp.exp(exposure + warmth * np.array([0.10, 0.0, -0.14], np.float32))
    clutter, clutter_color = _clutter(draws)
    kind = jnp.where(draws.uniform() < 0.3, jnp.where(draws.uniform() < 0.3, 2, 1), 0)
    return Scene(
        pose=pose, shape=shape, joints=joints, frames=rotation @ hand.frames, cones=cones, window=window,
        skin=_skin(draws), sleeve=jnp.append(draws.uniform(low=0.05, high=1.6), _surface_colors(draws, 1, 0.8)[0]),
        nails=draws.uniform(low=0.3, high=1.2) * np.array([0.10, 0.06, 0.05], np.float32),
        light=light / jnp.linalg.norm(light), light_color=light_color, ambient=draws.uniform(low=0.25, high=0.6),
        object_start=place(rounded[0]), object_end=place(rounded[1]), object_radius=rounded[2],
        object_axes=box[0] @ rotation.T, object_half_size=box[1], object_kind=kind, object_color=object_color,
        wall=_wall(draws, cones), wall_color=_surface_colors(draws, 1, 0.35)[0], wall_pattern=_pattern(draws),
        clutter=clutter, clutter_color=clutter_color,
        blur=draws.uniform(low=0.0, high=0.22), grain=draws.uniform(low=0.002, high=0.03),
        sensor=_sensor(draws), holes=_holes(draws), salt=(draws.uniform() * 2**24).astype(jnp.uint32),
    )  # fmt: skip


def _front_view(draws: body.Draws) -> jax.Array:
    """Return a random rotation (3, 3), hand → camera: palm or back towards the camera, fingers up, ± `_FRONT_TURN`."""
    roll, pitch, yaw = draws.uniform(3, low=-1.0, high=1.0) * _FRONT_TURN
    palm = jnp.where(draws.uniform() < 0.5, np.float32(np.pi), 0.0)
    zero = jnp.zeros(())
    angles = jnp.stack([roll, zero, pitch, zero, yaw + palm, zero]).reshape(2, 3)
    rotations = body.euler(jnp.sin(angles), jnp.cos(angles))
    return rotations[0] @ _FINGERS_UP @ rotations[1]


def _any_view(draws: body.Draws) -> jax.Array:
    """Return a uniformly distributed rotation (3, 3), from a normally distributed quaternion."""
    q = draws.normal(4)
    w, x, y, z = q / jnp.linalg.norm(q)
    entries = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack(entries).reshape(3, 3)


def _held_object(draws: body.Draws):
    """Return objects in front of the palm: a ball or stick (start, end, radius), a box (axes, half sizes), colours."""
    center = draws.uniform(3, low=np.array([-25, 40, -55], np.float32), high=np.array([25, 110, -30], np.float32))
    along = draws.normal(3) * np.array([1, 0.35, 0.35], np.float32)
    along = along / jnp.linalg.norm(along)
    across = jnp.cross(along, draws.normal(3))
    across = across / jnp.linalg.norm(across)
    axes = jnp.stack([along, across, jnp.cross(along, across)])
    ball = draws.uniform() < 0.35
    half = jnp.where(ball, 0.1, draws.uniform(low=25.0, high=80.0))
    radius = jnp.where(ball, draws.uniform(low=14.0, high=30.0), draws.uniform(low=5.0, high=19.0))
    size = draws.uniform(3, low=np.array([20, 12, 3], np.float32), high=np.array([60, 35, 18], np.float32))
    color = _surface_colors(draws, 2, 0.9)
    color = jnp.where(draws.uniform() < 0.6, color[:1], color)
    return (center - along * half, center + along * half, radius), (axes, size), color


def _skin(draws: body.Draws) -> jax.Array:
    """Return a random skin colour (3,), linear light."""
    place = draws.uniform() ** 0.7 * (len(_SKIN) - 1)  # position on the curve of tones
    tone = sum(jnp.clip(1 - jnp.abs(place - i), 0, 1)[..., None] * np.float32(color) for i, color in enumerate(_SKIN))
    red, yellow = draws.uniform(2, low=-1.0, high=1.0)
    tone = tone * (
        1 + red * np.array([0.035, -0.025, -0.01], np.float32) + yellow * np.array([0.01, 0.015, -0.07], np.float32)
    )
    return (tone * draws.uniform(low=0.94, high=1.06)) ** 2.2


def _surface_colors(draws: body.Draws, count: int, saturation: float) -> jax.Array:
    """Return random colours (count, 3), linear light: mostly grey, brown and pale, with limited `saturation`."""
    value, hue, colorful, warm = draws.uniform(4, count, 1)
    phase = hue * np.float32(2 * np.pi) + np.float32(2 * np.pi / 3) * np.arange(3, dtype=np.float32)
    tint = jnp.where(warm < 0.5, np.array([0.25, 0.02, -0.27], np.float32), jnp.cos(phase) * 0.7)
    return jnp.clip((0.1 + 0.85 * value**0.7) * (1 + saturation * colorful**3 * 1.5 * tint), 0.02, 1) ** 2.2


def _wall(draws: body.Draws, cones: body.Cones) -> jax.Array:
    """Return a plane (5,) that is 4 mm to 1.5 m behind the hand, upright like a wall or tilted like a table."""
    lean = draws.normal(2) * np.array([0.35, 0.5], np.float32)
    normal = jnp.append(lean, 1.0)
    normal = normal / jnp.linalg.norm(normal)
    reach = jnp.maximum(cones.start @ normal + cones.start_radius, cones.end @ normal + cones.end_radius)
    gap = jnp.exp(draws.uniform(low=np.log(4.0), high=np.log(1500.0)))
    return jnp.concatenate([normal, jnp.stack([jnp.max(reach) + gap, gap])])


def _pattern(draws: body.Draws) -> jax.Array:
    """Return the texture of the wall (8,): frequencies (4) and strengths (2) of two waves, slopes (2) of brightness."""
    frequency = draws.normal(4) * np.repeat(np.array([2, 8], np.float32), 2)
    strength = np.array([0.2, 0.12], np.float32) * draws.uniform(2) ** 3
    return jnp.concatenate([frequency, strength, draws.uniform(2, low=-0.5, high=0.5)])


def _clutter(draws: body.Draws):
    """Return flat objects on the wall (NUM_CLUTTER, 13) and their colours (NUM_CLUTTER, 3). 1/3 of scenes show none.

    Columns: position (2), half sizes (2), direction (2), visible (0 or 1), round (0 or 1), sharpness of the edge,
    height as a fraction of the gap between wall and hand, strength and frequency of stripes, strength of the shadow.
    """
    density = jnp.maximum(draws.uniform(low=-0.5, high=0.9), 0.0)
    numbers = draws.uniform(NUM_CLUTTER, 11)
    place = (numbers[:, :2] - 0.5) * 1.3
    size = 0.04 + 0.45 * numbers[:, 2:4] ** 2
    angle = numbers[:, 4] * np.float32(2 * np.pi)
    shown = numbers[:, 5] < density
    round_ = (numbers[:, 6] < 0.45).astype(jnp.float32)
    sharpness = 3 + 60 * numbers[:, 7]
    height = 0.7 * numbers[:, 8]  # fraction of the gap between the wall and the nearest point of the hand
    stripes = 0.5 * jnp.maximum(numbers[:, 9] - 0.6, 0)
    columns = (shown, round_, sharpness, height, stripes, 6 + 20 * numbers[:, 10], 0.35 * numbers[:, 5] / 0.9)
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    rows = [place, size, direction, *(column[:, None].astype(jnp.float32) for column in columns)]
    return jnp.concatenate(rows, 1), _surface_colors(draws, NUM_CLUTTER, 0.9)


def _sensor(draws: body.Draws) -> jax.Array:
    """Return the random faults of a depth sensor (5,); see `Scene.sensor`."""
    noise, share, shadow, flying, bias = draws.uniform(5)
    shadow = jnp.where(shadow < 0.6, 0.0, jnp.where(shadow < 0.8, 1.0, 2.0))
    return jnp.stack([1 + 2 * noise, 0.15 + 0.6 * share, shadow, 0.5 * flying, 6 * (bias - 0.5)])


def _holes(draws: body.Draws) -> jax.Array:
    """Return round areas without depth (NUM_HOLES, 3): position and radius. More than half of the radii are 0."""
    place = draws.uniform(NUM_HOLES, 2) - 0.5
    radius = jnp.maximum(draws.uniform(NUM_HOLES, 1, low=-0.06, high=0.05), 0.0)
    return jnp.concatenate([place, radius], 1)
