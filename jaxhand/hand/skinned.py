"""A hand surface that follows 16 joints by linear blend skinning. MANO and the built-in hand are two sets of arrays.

The model is SMPL's: Loper et al., "SMPL: A Skinned Multi-Person Linear Model" (2015); for hands: Romero et al.,
"Embodied Hands" (2017).
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)  # wrist, index 1-3, middle, little, ring, thumb
NUM_FINGERTIPS, NUM_JOINTS = 5, 16
# For each of our 21 joints, its index in an array of 5 fingertips and 16 joints: the wrist, then each finger to its tip
OUR_ORDER = np.array(
    [5, *(n for tip, base in enumerate((13, 1, 4, 10, 7)) for n in (5 + base, 6 + base, 7 + base, tip))]
)


@dataclasses.dataclass(frozen=True, eq=False)
class SkinnedHand:
    """The arrays of a hand. The P points are V vertices, 5 fingertips (thumb to little), 16 joints (see `PARENTS`).

    Objects are hashed by identity. If a hand is a static argument of `jax.jit`, its arrays become constants of the
    compiled program.
    """

    name: str  # "mano" | "builtin"
    side: str  # "right" | "left"
    template: np.ndarray  # (P, 3) mm
    shape_dirs: np.ndarray  # (P, 3, 10) mm
    pose_dirs: np.ndarray  # (P, 3, 135) mm; factors of (15 finger rotations - identity), flattened by rows
    global_scale_per_beta: float  # all lengths are multiplied by 1 + this value * first shape parameter
    weights: np.ndarray  # (V + 5, 16) skinning weights of vertices and fingertips; rows sum to 1
    faces: np.ndarray  # (F, 3) int32, outward by the right-hand rule
    mean_pose: np.ndarray  # (45,) axis-angle
    components: np.ndarray  # (45, 45) principal components of the pose, one per row

    @property
    def num_vertices(self) -> int:
        """V, the number of vertices without the fingertips."""
        return len(self.weights) - NUM_FINGERTIPS


class Posed(typing.NamedTuple):
    """Posed hands, mm."""

    vertices: jax.Array  # (..., V, 3)
    joints: jax.Array  # (..., 21, 3) wrist, thumb 1-4, index, middle, ring, little


@functools.partial(jax.jit, static_argnums=0)
def forward(
    hand_model: SkinnedHand, rotations: jax.Array, shape: jax.Array, translation: jax.Array | np.ndarray | None = None
) -> Posed:
    """Pose hands.

    Args:
        hand_model: the arrays of the hand.
        rotations: (..., 16, 3, 3) of every joint relative to its parent, in the order of `PARENTS`. The first one
            rotates the hand about its wrist.
        shape: (..., 10) shape parameters.
        translation: (..., 3) mm, added to every point.

    Returns:
        Vertices and joints, with the leading axes of `rotations` and `shape`, broadcast.
    """
    lead = jnp.broadcast_shapes(rotations.shape[:-3], shape.shape[:-1])
    rotations = jnp.broadcast_to(rotations, (*lead, NUM_JOINTS, 3, 3)).reshape(-1, NUM_JOINTS, 3, 3)
    shape = jnp.broadcast_to(shape, (*lead, 10)).reshape(-1, 10)
    rest_points = _rest_points(hand_model, rotations, shape)
    global_rotations, positions = _forward_kinematics(rotations, rest_points[..., -NUM_JOINTS:])
    surface = _skin(hand_model.weights, rest_points, global_rotations, positions)
    joints = jnp.concatenate([surface[..., hand_model.num_vertices :], positions], -1)[..., OUR_ORDER]
    shift = np.zeros(3, np.float32) if translation is None else translation

    def points(coordinates):
        return coordinates.swapaxes(1, 2).reshape(*lead, coordinates.shape[-1], 3) + shift[..., None, :]

    return Posed(points(surface[..., : hand_model.num_vertices]), points(joints))


# Below, points are the last axis, (N, 3, P), so that operations on many points access contiguous memory.


def _rest_points(hand_model: SkinnedHand, rotations: jax.Array, shape: jax.Array) -> jax.Array:
    """All points in the rest pose, (N, 3, P). One matrix product computes the corrections for shape and pose."""
    pose_features = (rotations[:, 1:] - jnp.eye(3, dtype=rotations.dtype)).reshape(-1, 135)
    directions = np.concatenate([hand_model.shape_dirs, hand_model.pose_dirs], -1).swapaxes(0, 1).reshape(-1, 145)
    offsets = jnp.matmul(jnp.concatenate([shape, pose_features], -1), directions.T, precision="highest")
    points = (offsets + hand_model.template.T.reshape(-1)).reshape(-1, 3, len(hand_model.template))  # (N, 3, P)
    scale = hand_model.global_scale_per_beta
    return points if scale == 0 else points * (1 + scale * shape[:, :1, None])


def _forward_kinematics(rotations: jax.Array, rest_joints: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotations and positions of the posed joints. Five fingers with three joints each start at the wrist.

    Args:
        rotations: (N, 16, 3, 3) relative to the parents.
        rest_joints: (N, 3, 16) positions in the rest pose.

    Returns:
        Rotations (N, 3, 3, 16) relative to the rest pose, and positions (N, 3, 16).
    """
    ends = rest_joints[..., 1:].reshape(-1, 3, 5, 3)  # (N, 3, 5 fingers, 3 joints along the finger)
    wrist = jnp.broadcast_to(rest_joints[..., :1, None], (*ends.shape[:3], 1))
    bones = jnp.moveaxis(ends - jnp.concatenate([wrist, ends[..., :-1]], -1), 1, -1)  # (N, 5, 3, 3)
    steps = jnp.concatenate([rotations[:, 1:].reshape(-1, 5, 3, 3, 3), bones[..., None]], -1)  # (N, 5, 3, 3, 4)
    rotation, position = rotations[:, :1], rest_joints[:, None, :, 0]  # (N, 1, 3, 3), (N, 1, 3)
    finger_rotations, finger_positions = [], []
    for level in range(3):
        step = jnp.matmul(rotation, steps[:, :, level], precision="highest")  # (N, 5, 3, 4)
        rotation, position = step[..., :3], position + step[..., 3]
        finger_rotations.append(rotation)
        finger_positions.append(position)
    all_rotations = jnp.concatenate([rotations[:, :1], jnp.stack(finger_rotations, 2).reshape(-1, 15, 3, 3)], 1)
    positions = jnp.concatenate([rest_joints[:, None, :, 0], jnp.stack(finger_positions, 2).reshape(-1, 15, 3)], 1)
    return jnp.moveaxis(all_rotations, 1, -1), jnp.moveaxis(positions, 1, -1)


def _skin(weights: np.ndarray, rest_points: jax.Array, rotations: jax.Array, positions: jax.Array) -> jax.Array:
    """Compute vertices and fingertips by linear blend skinning.

    Args:
        weights: (V + 5, 16).
        rest_points: (N, 3, P).
        rotations: (N, 3, 3, 16) of the joints relative to the rest pose.
        positions: (N, 3, 16) of the posed joints.

    Returns:
        (N, 3, V + 5).
    """
    x, y, z = (rest_points[:, None, axis, :-NUM_JOINTS] for axis in range(3))
    shift = positions - jnp.sum(rotations * rest_points[:, None, :, -NUM_JOINTS:], 2)  # (N, 3, 16)
    # Four matrix products: a single one of (N * 12, 16), followed by a sum, takes XLA:CPU twice as long.
    blend = functools.partial(jnp.matmul, b=weights.T, precision="highest")
    return blend(rotations[:, :, 0]) * x + blend(rotations[:, :, 1]) * y + blend(rotations[:, :, 2]) * z + blend(shift)
