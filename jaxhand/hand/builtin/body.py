"""The built-in right hand: 24 angles and 10 shape parameters → joints, bone frames, round cones; and a pose prior.

Hand frame in mm: the origin is the wrist, +y points to the fingers, +z out of the back of the hand, -x to the thumb.
Angles are in radians. Every function takes one hand; use `jax.vmap` for many hands.
"""

import typing

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxhand.hand.skeleton import JOINT_NAMES

NUM_DOF, NUM_SHAPE, NUM_CONES = 24, 10, 28
_LONG = ("index", "middle", "ring", "little")
DOF_NAMES = (
    *("thumb_base_flexion", "thumb_base_abduction", "thumb_base_twist"),
    *("thumb_flexion", "thumb_abduction", "thumb_tip_flexion"),
    *(f"{finger}_{name}" for finger in _LONG for name in ("abduction", "flexion", "middle_flexion", "tip_flexion")),
    "ring_arch",
    "little_arch",
)
# (24, 2) lowest and highest angle of each joint, close to the active ranges of motion in tables of hand surgery
LIMITS = np.deg2rad(
    [[-20, 40], [-18, 32], [-15, 40], [-10, 55], [-8, 8], [-15, 75]]
    + [[-15, 15], [-20, 92], [0, 108], [0, 75]] * 4
    + [[0, 8], [0, 18]]
).astype(np.float32)

# The mean hand, mm. The five fingers are ordered thumb to little. `_BASE`: the thumb's carpal joint and four knuckles.
_BASE = np.array([[-20, 20, -9], [-25, 88, 2], [-4, 91, 4.5], [15, 85, 2], [32, 75, -3]], np.float32)
_CARPAL = np.array([[-11, 24, 0], [-2, 24, 2], [7, 22, 1], [15, 19, -1]], np.float32)  # starts of the palm's bones
_LENGTH = np.array([[0, 0, 0, 0, 0], [46, 42, 47, 43, 34], [34, 26, 30, 28, 21], [29, 23, 25, 25, 21]], np.float32)
_RADIUS = np.array(  # radii at each finger's base, next two joints and tip
    [[13, 11.2, 10, 7.4], [9.8, 8.6, 7.6, 6.3], [10, 8.8, 7.8, 6.4], [9.4, 8.2, 7.2, 6], [8.4, 7.2, 6.3, 5.3]],
    np.float32,
)
# For each rotation about x, y, z: the index of its angle in the pose. (4, 5): four levels (the arch of the palm, then
# three joints) of five fingers. Index 24 is an angle of zero.
_ANGLE_X = np.array([[24, 24, 24, 22, 23], [0, 7, 11, 15, 19], [3, 8, 12, 16, 20], [5, 9, 13, 17, 21]])
_ANGLE_Y = np.array([[24] * 5, [2, 24, 24, 24, 24], [24] * 5, [24] * 5])
_ANGLE_Z = np.array([[24] * 5, [1, 6, 10, 14, 18], [4, 24, 24, 24, 24], [24] * 5])
# Angles that are added to the pose, (4, 5): about z to spread the fingers; about y, so that flexed fingers meet at the
# thumb's base.
_SPREAD = np.deg2rad([[0] * 5, [0, 6, 0.5, -5, -12], [0] * 5, [0] * 5]).astype(np.float32)
_CONVERGE = np.deg2rad([[0] * 5, [0, -4, 0, 6, 10], [0] * 5, [0] * 5]).astype(np.float32)


def _thumb_frame() -> np.ndarray:
    along, back = np.array([-0.62, 0.70, -0.34]), np.array([-0.72, -0.2, 0.62])
    along /= np.linalg.norm(along)
    back -= along * (back @ along)
    back /= np.linalg.norm(back)
    return np.stack([np.cross(along, back), along, back], axis=1)


REST_FRAMES = np.stack([_thumb_frame(), *[np.eye(3)] * 4]).astype(np.float32)  # (5, 3, 3)


class Hand(typing.NamedTuple):
    """A posed hand in the hand frame, mm."""

    joints: jax.Array  # (21, 3)
    frames: jax.Array  # (16, 3, 3) of wrist, thumb 1-3, index 1-3 …; columns: x, y along the bone, z out of the back
    carpals: jax.Array  # (4, 3) starts of the palm's long bones, index to little
    scale: jax.Array  # (3,) scale of the palm along x, y, z
    thickness: jax.Array  # () factor that multiplies all radii


class Cones(typing.NamedTuple):
    """Round cones: each is the convex hull of a ball at `start` and a ball at `end`; their union is the hand's body."""

    start: jax.Array  # (28, 3) mm
    end: jax.Array  # (28, 3)
    start_radius: jax.Array  # (28,)
    end_radius: jax.Array  # (28,)


def forward(pose: jax.Array, shape: jax.Array) -> Hand:
    """Pose a hand.

    Args:
        pose: (24,) angles in the order of `DOF_NAMES`, radians; `LIMITS` are not enforced.
        shape: (10,) parameters, roughly standard normal: size, palm width, palm length, thickness, finger length, and
            the length of each finger from thumb to little.
    """
    size = 1 + 0.07 * shape[0]
    scale = size * jnp.stack([1 + 0.05 * shape[1], 1 + 0.04 * shape[2], jnp.ones_like(size)])
    length = _LENGTH * (size * (1 + 0.04 * shape[4]) * (1 + 0.03 * shape[5:10]))  # (4, 5)
    carpals = scale * _CARPAL
    angles = jnp.append(pose, 0.0)
    knuckles = carpals + _rotate_x(_BASE[1:] * scale - carpals, -angles[_ANGLE_X[0, 1:]])  # lowered by the arch
    base = jnp.concatenate([_BASE[:1] * scale, knuckles])  # (5, 3)

    def bend(carry, level):  # in a loop: XLA compiles it much faster than four copies
        frame, joint = carry
        sine, cosine, bone = level  # (5, 3), (5, 3), (5,)
        frame = frame @ euler(sine, cosine)
        joint = joint + frame[:, :, 1] * bone[:, None]
        return (frame, joint), (frame, joint)

    turns = jnp.stack([angles[_ANGLE_Z] + _SPREAD, angles[_ANGLE_Y] + _CONVERGE, -angles[_ANGLE_X]], -1)  # (4, 5, 3)
    _, (frames, joints) = jax.lax.scan(bend, (jnp.asarray(REST_FRAMES), base), (jnp.sin(turns), jnp.cos(turns), length))
    joints = jnp.concatenate([jnp.zeros((1, 3)), joints.swapaxes(0, 1).reshape(20, 3)])
    frames = jnp.concatenate([jnp.eye(3)[None], frames[1:].swapaxes(0, 1).reshape(15, 3, 3)])
    return Hand(joints, frames, carpals, scale, size * (1 + 0.08 * shape[3]))


def euler(sine: jax.Array, cosine: jax.Array) -> jax.Array:
    """Return rotations Rz(z) @ Ry(y) @ Rx(x), (n, 3, 3), from sines and cosines (n, 3) of the angles z, y, x."""
    sz, sy, sx = sine[:, 0], sine[:, 1], sine[:, 2]
    cz, cy, cx = cosine[:, 0], cosine[:, 1], cosine[:, 2]
    entries = (
        *(cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        *(sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        *(-sy, cy * sx, cy * cx),
    )
    return jnp.stack(entries, -1).reshape(-1, 3, 3)


def _rotate_x(points, angle):
    """Rotate each of the points (n, 3) about x by its own angle (n,)."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([points[:, 0], c * points[:, 1] - s * points[:, 2], s * points[:, 1] + c * points[:, 2]], -1)


# ---- body
# The two ends of a cone are weighted sums of anchor points, plus an offset in mm. Anchors are the joints (by name) and
# the starts of the palm's long bones (`index0` … `little0`).
_PALM_CONES = (  # start anchors, start offset, end anchors, end offset, radii
    ({"index0": 1}, (0, -8, 0), {"index1": 1}, (0, 0, -2), 13, 11.5),
    ({"middle0": 1}, (0, -8, 0), {"middle1": 1}, (0, 0, -2), 14, 11.8),
    ({"ring0": 1}, (0, -8, 0), {"ring1": 1}, (0, 0, -2), 13.5, 11.2),
    ({"little0": 1}, (0, -8, 0), {"little1": 1}, (0, 0, -2), 12.5, 10.2),
    ({"index0": 0.5, "middle0": 0.5}, (0, 0, 0), {"index1": 0.5, "middle1": 0.5}, (0, -4, -2), 13, 10.2),
    ({"middle0": 0.5, "ring0": 0.5}, (0, 0, 0), {"middle1": 0.5, "ring1": 0.5}, (0, -4, -2), 13, 10.2),
    ({"ring0": 0.5, "little0": 0.5}, (0, 0, 0), {"ring1": 0.5, "little1": 0.5}, (0, -4, -2), 13, 10.2),
    ({}, (-13, 16, -9), {"thumb1": 0.3, "thumb2": 0.7}, (0, 0, 0), 15.5, 12.5),  # ball of the thumb
    ({}, (17, 14, -9), {"little1": 1}, (-1, -14, -6), 14, 11),  # ball of the little finger
    ({"thumb1": 0.45, "thumb2": 0.55}, (0, 0, 0), {"index1": 0.75, "thumb1": 0.25}, (0, 0, 0), 10, 9.5),  # the web
    ({"thumb1": 0.75, "thumb2": 0.25}, (0, 0, 0), {"index1": 0.6, "index0": 0.4}, (0, 0, -4), 13, 10.5),
    ({}, (-8, 4, 0), {}, (-14, -150, 0), 16, 23),  # forearm: one cone for each of its two bones
    ({}, (10, 2, 0), {}, (13, -150, 0), 15, 22),
)
IS_DIGIT = np.arange(NUM_CONES) < 15
IS_TIP = IS_DIGIT & (np.arange(NUM_CONES) % 3 == 2)
IS_FOREARM = np.arange(NUM_CONES) >= NUM_CONES - 2
BONE_OF_CONE = np.where(IS_DIGIT, np.arange(NUM_CONES) + 1, 0)  # indices into `Hand.frames`


def _cone_table():
    """Weights (2, 28, 41), offsets (2, 28, 3) mm and mean radii (2, 28) mm of the cones' starts and ends.

    ends = weights @ (21 joints, 4 carpals, 16 bone directions) + offsets.
    """
    anchors = (*JOINT_NAMES, *(f"{finger}0" for finger in _LONG))
    weights, offset = np.zeros((2, NUM_CONES, 41), np.float32), np.zeros((2, NUM_CONES, 3), np.float32)
    radius = np.zeros((2, NUM_CONES), np.float32)
    for digit in range(5):
        for level in range(3):
            cone, joint = 3 * digit + level, 1 + 4 * digit + level
            weights[0, cone, joint] = weights[1, cone, joint + 1] = 1
            radius[:, cone] = _RADIUS[digit, level : level + 2] * ((1, 0.98)[level > 0], 1)
        weights[1, cone, 25 + cone + 1] = -0.75 * _RADIUS[digit, 3]  # so that the last ball ends near the tip
    for cone, (start, start_offset, end, end_offset, *radii) in enumerate(_PALM_CONES, 15):
        for i, (anchor_weights, shift) in enumerate(((start, start_offset), (end, end_offset))):
            for name, weight in anchor_weights.items():
                weights[i, cone, anchors.index(name)] = weight
            offset[i, cone] = shift
        radius[:, cone] = radii
    return weights, offset, radius


_WEIGHTS, _OFFSET, _RADII = _cone_table()


def body_cones(hand: Hand) -> Cones:
    """Return the 28 cones of a posed hand: 15 of the fingers (thumb to little, base to tip), then palm and forearm."""
    anchors = jnp.concatenate([hand.joints, hand.carpals, hand.frames[:, :, 1] * hand.thickness])  # (41, 3)
    start, end = (jnp.matmul(_WEIGHTS[s], anchors, precision="highest") + _OFFSET[s] * hand.scale for s in (0, 1))
    return Cones(start, end, _RADII[0] * hand.thickness, _RADII[1] * hand.thickness)


# Overlap is measured between balls inside the cones: three per bone of a finger or of the palm.
_BALL_CONE = np.repeat(np.r_[np.arange(15), 15:19, 22], 3)
_BALL_POSITION = np.tile(np.array([0.17, 0.5, 0.83], np.float32), 20)


def _colliding_pairs():
    """Indices of the pairs of balls that must not overlap: two fingers, or the palm and outer bones of a finger."""
    digit = np.where(_BALL_CONE < 15, _BALL_CONE // 3, -1)
    level = np.where(_BALL_CONE < 15, _BALL_CONE % 3, -1)
    first, second = np.triu_indices(len(_BALL_CONE), 1)
    free = (level > 0) | (digit > 0)  # the thumb's first bone is inside the palm
    digits = (digit[first] >= 0) & (digit[second] >= 0) & (digit[first] != digit[second]) & free[first] & free[second]
    palm = (level[first] > 0) & (digit[second] < 0) & ~((digit[first] == 0) & (_BALL_CONE[second] == 22))
    keep = digits | palm
    return first[keep], second[keep]


_FIRST, _SECOND = _colliding_pairs()


def overlap(cones: Cones) -> jax.Array:
    """Return the largest overlap, () mm, between two fingers or a finger and the palm; 0 if nothing overlaps."""
    center = cones.start[_BALL_CONE] + (cones.end - cones.start)[_BALL_CONE] * _BALL_POSITION[:, None]  # (60, 3)
    radius = cones.start_radius[_BALL_CONE] * (1 - _BALL_POSITION) + cones.end_radius[_BALL_CONE] * _BALL_POSITION
    square = jnp.sum(center**2, -1)
    square = square[:, None] + square - 2 * jnp.matmul(center, center.T, precision="highest")
    distance = jnp.sqrt(jnp.maximum(square, 1e-6))
    depth = radius[:, None] + radius - distance
    checked = np.zeros(depth.shape, bool)
    checked[_FIRST, _SECOND] = True
    return jnp.max(jnp.where(checked, depth, 0.0))


# ---- prior of poses
def _preset(thumb, index, middle, ring, little, arch=(2, 5)):
    return np.deg2rad([*thumb, *index, *middle, *ring, *little, *arch])


_OPEN, _FIST, _HALF, _SOFT = (0, 0, 4, 3), (0, 80, 98, 62), (0, 45, 50, 32), (0, 20, 25, 15)
_THUMB_OPEN, _THUMB_OVER, _THUMB_SOFT = (-10, 15, 0, 0, 0, 0), (28, -5, 32, 35, 0, 40), (5, 8, 12, 12, 0, 12)
POSES = {
    "spread": _preset(_THUMB_OPEN, (8, -4, 3, 2), (1, -4, 3, 2), (-5, -4, 3, 2), (-10, -4, 3, 2)),
    "flat": _preset((0, -8, 0, 5, 0, 5), (-5, 2, 4, 2), (0, 2, 4, 2), (3, 2, 4, 2), (8, 2, 4, 2)),
    "fist": _preset(_THUMB_OVER, _FIST, _FIST, _FIST, _FIST, (6, 15)),
    "point": _preset(_THUMB_OVER, _OPEN, _FIST, _FIST, _FIST, (6, 15)),
    "pinch": _preset((22, 18, 32, 25, 0, 30), (0, 52, 55, 32), _SOFT, _SOFT, _SOFT),
    "tripod": _preset((24, 18, 34, 22, 0, 25), (0, 55, 55, 32), (0, 52, 55, 32), _FIST, _FIST, (6, 14)),
    "victory": _preset(_THUMB_OVER, (8, 0, 4, 2), (-6, 0, 4, 2), _FIST, _FIST, (6, 14)),
    "thumbs_up": _preset((-18, 20, -10, -5, 0, -8), _FIST, _FIST, _FIST, _FIST, (6, 15)),
    "relaxed": _preset(_THUMB_SOFT, _SOFT, (0, 24, 30, 18), (0, 28, 33, 20), (0, 32, 35, 20)),
    "cylinder": _preset((15, 25, 28, 12, 0, 20), _HALF, _HALF, _HALF, _HALF, (6, 14)),
    "ball": _preset((5, 25, 10, 0, 0, 10), (10, 25, 30, 18), (2, 25, 30, 18), (-6, 25, 30, 18), (-12, 25, 30, 18)),
    "hook": _preset((10, -5, 10, 20, 0, 30), (0, 5, 95, 60), (0, 5, 100, 62), (0, 5, 98, 60), (0, 5, 95, 60)),
    "four": _preset((30, -8, 30, 40, 0, 45), _OPEN, _OPEN, _OPEN, _OPEN),
    "shaka": _preset(_THUMB_OPEN, _FIST, _FIST, _FIST, (-6, 0, 5, 3), (6, 6)),
    "beak": _preset((22, 20, 32, 20, 0, 15), (0, 60, 12, 8), (0, 62, 12, 8), (0, 62, 12, 8), (0, 60, 12, 8), (6, 14)),
    "three": _preset(_THUMB_OVER, (4, 0, 4, 3), (0, 0, 4, 3), (-4, 0, 4, 3), _FIST, (3, 14)),
}
_POSES = np.stack(list(POSES.values())).astype(np.float32)  # (16, 24)
_DIGIT_OF_DOF = np.array([0] * 6 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5, 5])  # 5: arch of the palm, not curled


def random_numbers(seed: ArrayLike, index: ArrayLike, count: int = 384) -> tuple[jax.Array, jax.Array]:
    """Return random numbers for one sample: a hash of (seed, index, position), equal on all machines and JAX settings.

    Args:
        seed: seed of the data set, a 32-bit integer.
        index: index of the sample, a 32-bit integer.
        count: how many numbers to return.

    Returns:
        (count,) uniform in (0, 1), and the same numbers mapped to a standard normal distribution, float32.
    """
    position = jnp.arange(1, count + 1, dtype=jnp.uint32)
    bits = hash_bits(jnp.asarray(index, jnp.uint32) ^ hash_bits(jnp.asarray(seed, jnp.uint32) ^ hash_bits(position)))
    uniform = (bits >> 8).astype(jnp.float32) * np.float32(2**-24) + np.float32(2**-25)
    return uniform, np.float32(np.sqrt(2)) * jax.lax.erf_inv(2 * uniform - 1)


class Draws:
    """A stream of the `random_numbers` of one sample: every call returns the next numbers."""

    def __init__(self, numbers: tuple[jax.Array, jax.Array]):
        self._uniform, self._normal = numbers
        self._taken = 0

    def _take(self, numbers: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        count = int(np.prod(shape))
        self._taken += count
        if self._taken > numbers.shape[0]:
            raise ValueError(f"only {numbers.shape[0]} numbers were drawn: pass a larger `count` to `random_numbers`")
        return numbers[self._taken - count : self._taken].reshape(shape)

    def uniform(self, *shape: int, low: float | np.ndarray = 0.0, high: float | np.ndarray = 1.0) -> jax.Array:
        """Return an array of `shape` of numbers that are uniform in (low, high)."""
        return jnp.asarray(low + (high - low) * self._take(self._uniform, shape))

    def normal(self, *shape: int) -> jax.Array:
        """Return an array of `shape` of standard normal numbers."""
        return self._take(self._normal, shape)


def hash_bits(x: jax.Array) -> jax.Array:
    """A bijective hash of uint32 values: MurmurHash3's finalizer, after a multiplication that spreads small inputs."""
    x = x * np.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def sample_shape(draws: Draws) -> jax.Array:
    """Sample the shape parameters (10,) of one hand: standard normal, clipped to ±2."""
    return jnp.clip(draws.normal(NUM_SHAPE), -2, 2)


def sample_pose(draws: Draws, shape: jax.Array, *, tries: int = 3, tolerance: float = 3.0) -> jax.Array:
    """Sample a plausible pose for a hand of this shape.

    A pose is a blend of two of `POSES` plus noise. In addition, each finger is curled on its own with probability 1/4.

    Args:
        draws: random numbers.
        shape: (10,) as in `forward`.
        tries: number of candidates.
        tolerance: mm. The first candidate whose `overlap` is at most this value is returned; if there is none, the
            candidate with the smallest overlap.

    Returns:
        (24,) angles within `LIMITS`, radians.
    """
    chosen = jnp.floor(draws.uniform(tries, 2) * len(_POSES)).astype(jnp.int32)
    blend = jnp.sin(draws.uniform(tries, 1) * (np.pi / 2)) ** 2  # Beta(1/2, 1/2): most weights are close to 0 or 1
    poses = jnp.asarray(_POSES)
    mixed = poses[chosen[:, 0]] * blend + poses[chosen[:, 1]] * (1 - blend)  # (tries, 24)
    curl = jnp.concatenate([draws.uniform(tries, 5), jnp.zeros((tries, 1))], 1)[:, _DIGIT_OF_DOF]
    alone = (draws.uniform(tries, 5) < 0.25).astype(jnp.float32)
    alone = jnp.concatenate([alone, jnp.zeros((tries, 1))], 1)[:, _DIGIT_OF_DOF] > 0
    curled = POSES["spread"].astype(np.float32) * (1 - curl) + POSES["fist"].astype(np.float32) * curl
    noise = draws.normal(tries, NUM_DOF) * (0.07 * (LIMITS[:, 1] - LIMITS[:, 0]))
    candidates = jnp.clip(jnp.where(alone, curled, mixed) + noise, LIMITS[:, 0], LIMITS[:, 1])
    depth = jax.lax.map(lambda pose: overlap(body_cones(forward(pose, shape))), candidates)  # (tries,)
    return candidates[jnp.argmin(jnp.maximum(depth, tolerance))]  # the first one of equal depths
