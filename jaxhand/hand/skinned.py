"""A hand with a surface that follows 16 joints: MANO and the built-in hand are two sets of its numbers, mm.

The model is SMPL's: Loper et al., "SMPL: A Skinned Multi-Person Linear Model" (2015), for hands Romero et al.,
"Embodied Hands" (2017).
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)  # wrist, index 1-3, middle, little, ring, thumb
NUM_TIPS, NUM_JOINTS = 5, 16
# Points are vertices, tips of thumb to little, joints. Ours of tips and joints: a digit's three joints, then its tip.
_OURS = np.array([5, *(n for tip, base in enumerate((13, 1, 4, 10, 7)) for n in (5 + base, 6 + base, 7 + base, tip))])


@dataclasses.dataclass(frozen=True, eq=False)
class SkinnedHand:
    """The numbers of a hand. P points are V vertices, the tips of thumb to little, and 16 joints in `PARENTS`' order.

    It is hashed by identity: as a static argument of `jax.jit` its arrays become constants of the program.
    """

    name: str  # "mano" | "builtin"
    side: str  # "right" | "left"
    template: np.ndarray  # (P, 3) mm
    shape_dirs: np.ndarray  # (P, 3, 10) mm
    pose_dirs: np.ndarray  # (P, 3, 135) mm, times the 15 turns of the digits less the identity, row by row
    growth: float  # of all lengths, times the first number of the shape
    weights: np.ndarray  # (V + 5, 16) by which vertices and tips follow the joints; rows sum to 1
    faces: np.ndarray  # (F, 3) int32, outward by the right-hand rule
    mean_pose: np.ndarray  # (45,) axis-angle
    components: np.ndarray  # (45, 45) of the pose, one a row

    @property
    def num_vertices(self) -> int:
        """V."""
        return len(self.weights) - NUM_TIPS


class Posed(typing.NamedTuple):
    """Posed hands, mm."""

    vertices: jax.Array  # (..., V, 3)
    joints: jax.Array  # (..., 21, 3) wrist, thumb 1-4, index, middle, ring, little


@functools.partial(jax.jit, static_argnums=0)
def forward(hand: SkinnedHand, rotations: jax.Array, shape: jax.Array, translation: jax.Array | None = None) -> Posed:
    """Pose hands.

    Args:
        hand: whose numbers.
        rotations: (..., 16, 3, 3) of every joint against its parent, in `PARENTS`' order; the first turns the whole
            hand about its wrist.
        shape: (..., 10).
        translation: (..., 3) mm, added to every point.
    """
    lead = jnp.broadcast_shapes(rotations.shape[:-3], shape.shape[:-1])
    rotations = jnp.broadcast_to(rotations, (*lead, NUM_JOINTS, 3, 3)).reshape(-1, NUM_JOINTS, 3, 3)
    shape = jnp.broadcast_to(shape, (*lead, 10)).reshape(-1, 10)
    rest = _rest(hand, rotations, shape)
    turned, at = _chain(rotations, rest[..., -NUM_JOINTS:])
    surface = _skin(hand.weights, rest, turned, at)
    joints = jnp.concatenate([surface[..., hand.num_vertices :], at], -1)[..., _OURS]
    if translation is None:
        translation = np.zeros(3, np.float32)

    def points(coordinates):
        return coordinates.swapaxes(1, 2).reshape(*lead, coordinates.shape[-1], 3) + translation[..., None, :]

    return Posed(points(surface[..., : hand.num_vertices]), points(joints))


# Below coordinates come before points: (N, 3, P). What is done to many points then runs along memory.


def _rest(hand, rotations, shape):
    """All points before the joints turn, (N, 3, P): one product for shape and pose, joints included."""
    turns = (rotations[:, 1:] - jnp.eye(3, dtype=rotations.dtype)).reshape(-1, 135)
    directions = np.concatenate([hand.shape_dirs, hand.pose_dirs], -1).swapaxes(0, 1).reshape(-1, 145)
    moved = jnp.matmul(jnp.concatenate([shape, turns], -1), directions.T, precision="highest")
    rest = (hand.template.T.reshape(-1) + moved).reshape(-1, 3, len(hand.template))  # (N, 3, P)
    return rest if hand.growth == 0 else rest * (1 + hand.growth * shape[:, :1, None])


def _chain(rotations, rest):
    """How the joints are turned, (N, 3, 3, 16), and where they come to be, (N, 3, 16).

    From their turns (N, 16, 3, 3) and places at rest (N, 3, 16): five digits of three joints hang on the wrist.
    """
    ends = rest[..., 1:].reshape(-1, 3, 5, 3)  # the last axis runs along the digit
    wrist = jnp.broadcast_to(rest[..., :1, None], (*ends.shape[:3], 1))
    bones = jnp.moveaxis(ends - jnp.concatenate([wrist, ends[..., :-1]], -1), 1, -1)  # (N, 5, 3, 3)
    steps = jnp.concatenate([rotations[:, 1:].reshape(-1, 5, 3, 3, 3), bones[..., None]], -1)  # (N, 5, 3, 3, 4)
    turn, place = rotations[:, :1], rest[:, None, :, 0]  # (N, 1, 3, 3), (N, 1, 3)
    turns, places = [], []
    for level in range(3):
        step = jnp.matmul(turn, steps[:, :, level], precision="highest")  # (N, 5, 3, 4)
        turn, place = step[..., :3], place + step[..., 3]
        turns.append(turn)
        places.append(place)
    turns = jnp.concatenate([rotations[:, :1], jnp.stack(turns, 2).reshape(-1, 15, 3, 3)], 1)
    places = jnp.concatenate([rest[:, None, :, 0], jnp.stack(places, 2).reshape(-1, 15, 3)], 1)
    return jnp.moveaxis(turns, 1, -1), jnp.moveaxis(places, 1, -1)


def _skin(weights, rest, turned, at):
    """Vertices and tips (N, 3, V + 5), each carried by a weighted sum of the motions of the joints."""
    x, y, z = (rest[:, None, axis, :-NUM_JOINTS] for axis in range(3))
    shift = at - jnp.sum(turned * rest[:, None, :, -NUM_JOINTS:], 2)  # (N, 3, 16)
    # Four products, since XLA:CPU takes twice as long for one of (N * 12, 16) whose parts are then added up.
    mix = functools.partial(jnp.matmul, b=weights.T, precision="highest")
    return mix(turned[:, :, 0]) * x + mix(turned[:, :, 1]) * y + mix(turned[:, :, 2]) * z + mix(shift)
