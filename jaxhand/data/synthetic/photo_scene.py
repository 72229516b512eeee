"""Scenes of the photograph-like set: who holds up which hand, how, before which camera, and what else is in the way.

A scene starts from one of `scene.sample_scene`; each part that is switched on replaces its share. A part has random
numbers of its own, so that switching it off leaves all other parts as they are.
"""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.data.synthetic import grasp
from jaxhand.data.synthetic.scene import Scene, sample_scene
from jaxhand.hand.builtin import body
from jaxhand.hand.roi import HAND_OVER_JOINTS, PALM_JOINTS

# The parts of a photograph-like world. Their order is the number of their random stream: add new ones at the end.
PARTS = (
    "poses",  # more poses, each finger for itself, and a wrist that bends
    "views",  # from all sides, near and far, away from the middle of the camera's image
    "objects",  # a box, cylinder or ball that the fingers close around
    "second_hand",  # another hand that crosses the first one
    "occluders",  # things in front of the hand
    "backgrounds",  # textures, clutter, own photographs; else a plain wall
    "lighting",  # several lights, cast shadows; else one light
    "skin",  # wrinkles, palm lines, veins, nails, spots; else smooth skin
    "clothing",  # sleeves, watches and rings
    "camera",  # blur, motion, noise, colour casts, JPEG
)
GEOMETRY = (*PARTS[:4], "window")  # what has random numbers in this file
FOREARM_LENGTH = 2.4  # a longer forearm than the body's: it leaves the image
_WRIST = np.deg2rad([[-45, 55], [-22, 28]]).astype(np.float32)  # bending towards the palm, to the little finger
_UP_SPREAD = np.deg2rad([32, 28]).astype(np.float32)  # standard deviation of roll and pitch
_FINGERS_UP = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]], np.float32)  # hand → camera; the back faces the camera


class PhotoScene(typing.NamedTuple):
    """The geometry of one photograph, without a batch axis."""

    hand: Scene  # its object and its background are not used
    other: Scene  # the second hand, in front of the same camera and in the same window
    has_other: jax.Array  # () bool
    solid: grasp.Solid  # the held object, camera frame
    is_left: jax.Array  # () bool: the finished image is mirrored


def sample(seed: int, index: np.ndarray, parts: frozenset[str]) -> PhotoScene:
    """Return the geometry of B photographs.

    Args:
        seed: of the data set.
        index: (B,) numbers of the scenes.
        parts: those of `PARTS` that are switched on.
    """
    seed32, index = np.uint32(seed % 2**32), np.asarray(index).astype(np.uint32)
    base, other = (_base_scenes(_base_numbers(seed32 ^ salt, index)) for salt in (np.uint32(0), np.uint32(0x5EC0D)))
    return _scenes(base, other, _part_numbers(seed32, index), parts & set(GEOMETRY))


def _numbers_of_parts(seed: jax.Array, index: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    salts = {part: np.uint32((number + 1) * 0x01000193) for number, part in enumerate(GEOMETRY)}
    return {part: body.random_numbers(seed ^ salts[part], index, 96) for part in GEOMETRY}


def _scene(base: Scene, other: Scene, numbers: dict, parts: frozenset[str]) -> PhotoScene:
    """Build one scene from two of the plain world: the hand's and the second hand's."""
    draws = {part: body.Draws(numbers[part]) for part in GEOMETRY}
    pose, arm, solid = base.pose, jnp.zeros(2), grasp.nothing()
    if "poses" in parts:
        pose, arm = _pose(draws["poses"], base)
    if "objects" in parts:
        pose, solid = grasp.hold(draws["objects"], pose, base.shape)
    turn = base.frames[0]  # the wrist's axes are those of the hand frame
    distance = jnp.mean(base.joints[:, 2])
    off_axis = jnp.mean(base.joints[:, :2], 0) / distance
    if "views" in parts:
        turn = _turn(draws["views"])
        distance = jnp.exp(draws["views"].uniform(low=np.log(230.0), high=np.log(1000.0)))
        off_axis = draws["views"].uniform(2, low=-0.35, high=0.35)
    center = distance * jnp.append(off_axis, 1.0)
    hand = _posed(base, pose, base.shape, turn, arm, center, mirror=jnp.ones(3))
    window = _window(draws["window"], hand.joints)
    is_left = draws["window"].uniform() < 0.5
    solid = solid._replace(center=turn @ solid.center + hand.joints[0], axes=solid.axes @ turn.T)
    has_other = draws["second_hand"].uniform() < (0.12 if "second_hand" in parts else 0.0)
    other = _second_hand(draws["second_hand"], other, hand)
    hand, other = hand._replace(window=window), other._replace(window=window, skin=hand.skin)
    return PhotoScene(hand, other, has_other, solid, is_left)


# Several compiled programs: in a single one, XLA would compute the random numbers again at each use.
_base_numbers = jax.jit(jax.vmap(body.random_numbers, in_axes=(None, 0)))
_base_scenes = jax.jit(jax.vmap(functools.partial(sample_scene, view="front")))
_part_numbers = jax.jit(jax.vmap(_numbers_of_parts, in_axes=(None, 0)))
_scenes = jax.jit(jax.vmap(_scene, in_axes=(0, 0, 0, None)), static_argnums=3)


def _pose(draws: body.Draws, base: Scene) -> tuple[jax.Array, jax.Array]:
    """Return a pose (24,) and how the wrist bends (2,), radians.

    Half of the hands curl each finger for itself, from straight to a fist. A pose whose fingers pass through each other
    is not used: the hand keeps the pose of its base.
    """
    fist, flat, spread = (body.POSES[name].astype(np.float32) for name in ("fist", "flat", "spread"))
    finger = np.array([0] * 6 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [0] * 2)
    curl = draws.uniform(5)
    curl = jnp.where(draws.uniform(5) < 0.5, jnp.round(curl), curl)[finger]  # many fingers are straight or closed
    width = draws.uniform()
    single = (flat * (1 - width) + spread * width) * (1 - curl) + fist * curl
    pose = jnp.where(draws.uniform() < 0.5, single, base.pose)
    noise = draws.normal(body.NUM_DOF) * 0.09 * (body.LIMITS[:, 1] - body.LIMITS[:, 0])
    pose = jnp.clip(pose + noise, body.LIMITS[:, 0], body.LIMITS[:, 1])
    too_deep = body.overlap(body.body_cones(body.forward(pose, base.shape))) > 5.0  # mm
    middle, half = _WRIST.mean(1), np.ptp(_WRIST, axis=1) / 2
    return jnp.where(too_deep, base.pose, pose), middle + half * jnp.clip(0.45 * draws.normal(2), -1, 1)


def _turn(draws: body.Draws) -> jax.Array:
    """Return a rotation (3, 3), hand → camera, the fingers mostly up: half of the hands show palm or back, as hands do
    that are held up to a camera; the others are seen from any side."""
    roll, pitch = _UP_SPREAD * draws.normal(2)
    yaw = draws.uniform(low=-np.pi, high=np.pi)
    frontal = np.float32(np.pi) * (draws.uniform() < 0.5) + 0.2 * yaw
    yaw = jnp.where(draws.uniform() < 0.5, frontal, yaw)
    zero = jnp.zeros(())
    angles = jnp.stack([roll, zero, pitch, zero, yaw, zero]).reshape(2, 3)
    rotations = body.euler(jnp.sin(angles), jnp.cos(angles))
    return rotations[0] @ _FINGERS_UP @ rotations[1]


def _posed(
    base: Scene, pose: jax.Array, shape: jax.Array, turn: jax.Array, arm: jax.Array, center: jax.Array, mirror
) -> Scene:
    """Return `base` with another hand: mirrored by `mirror` (3,), rotated by `turn`, its mean joint at `center` mm."""
    posed = body.forward(pose, shape)
    cones = _with_forearm(body.body_cones(posed), arm)
    matrix = turn * mirror  # hand → camera
    joints = posed.joints @ matrix.T
    move = center - joints.mean(0)
    place = lambda points: points @ matrix.T + move  # noqa: E731
    cones = cones._replace(start=place(cones.start), end=place(cones.end))
    return base._replace(pose=pose, shape=shape, joints=joints + move, frames=matrix @ posed.frames, cones=cones)


def _with_forearm(cones: body.Cones, arm: jax.Array) -> body.Cones:
    """Bend the forearm at the wrist by `arm` (2,), radians, and lengthen it."""
    zero = jnp.zeros(())
    angles = jnp.stack([arm[1], zero, arm[0]])[None]
    bend = body.euler(jnp.sin(angles), jnp.cos(angles))[0]
    forearm = body.IS_FOREARM[:, None]
    start, end = (points @ bend.T for points in (cones.start, cones.end))
    return cones._replace(
        start=jnp.where(forearm, start, cones.start),
        end=jnp.where(forearm, start + (end - start) * FOREARM_LENGTH, cones.end),
        end_radius=jnp.where(body.IS_FOREARM, cones.end_radius * 1.25, cones.end_radius),
    )


def _window(draws: body.Draws, joints: jax.Array) -> jax.Array:
    """Return the square (3,) at z = 1 that the image shows: centre x, y and side.

    It covers an upright square around all joints, and the square that MediaPipe's crops are cut from.
    """
    points = joints[:, :2] / joints[:, 2:]
    low, high = points.min(0), points.max(0)
    palm = points[np.array(PALM_JOINTS)]
    side = jnp.maximum(1.25 * jnp.max(high - low), HAND_OVER_JOINTS * jnp.max(jnp.ptp(palm, axis=0)))
    side = side * draws.uniform(low=1.05, high=1.4)
    return jnp.append((low + high) / 2 + draws.uniform(2, low=-0.08, high=0.08) * side, side)


def _second_hand(draws: body.Draws, base: Scene, hand: Scene) -> Scene:
    """Return the second hand: it crosses the first one, 55 to 110 mm nearer or farther, half of them left hands."""
    direction = draws.uniform(low=-np.pi, high=np.pi)
    away, depth = draws.uniform(low=55.0, high=125.0), draws.uniform(low=55.0, high=110.0)
    depth = depth * jnp.where(draws.uniform() < 0.35, -1, 1)  # more often behind the labelled hand
    offset = jnp.stack([away * jnp.cos(direction), away * jnp.sin(direction), depth])
    center = hand.joints.mean(0) + offset
    center = center.at[2].set(jnp.maximum(center[2], 150.0))
    mirror = jnp.where(draws.uniform() < 0.8, np.array([-1, 1, 1], np.float32), 1.0)
    return _posed(base, base.pose, hand.shape, base.frames[0], jnp.zeros(2), center, mirror)
