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
    rotations, shape = jnp.broadcast_to(rotations, (*lead, 16, 3, 3)), jnp.broadcast_to(shape, (*lead, 10))
    turns = (rotations[..., 1:, :, :] - jnp.eye(3, dtype=rotations.dtype)).reshape(*lead, 135)
    directions = np.concatenate([hand.shape_dirs, hand.pose_dirs], -1).swapaxes(0, 1)  # (3, P, 145)
    # The coordinate comes before the point: sums over points then run along memory.
    rest = hand.template.T + jnp.einsum(
        "...n,cpn->...cp", jnp.concatenate([shape, turns], -1), directions, precision="highest"
    )
    rest = rest * (1 + hand.growth * shape[..., :1, None])  # (..., 3, P)
    turned, at = _chain(rotations, rest[..., -NUM_JOINTS:])
    surface = rest[..., :-NUM_JOINTS]  # (..., 3, V + 5)
    move = at - jnp.einsum("...cdj,...dj->...cj", turned, rest[..., -NUM_JOINTS:], precision="highest")
    maps = jnp.concatenate([turned, move[..., None, :]], -2)  # (..., 3, 4, 16)
    maps = jnp.einsum("...cdj,pj->...cdp", maps, hand.weights, precision="highest")
    surface = jnp.sum(maps[..., :3, :] * surface[..., None, :, :], -2) + maps[..., 3, :]  # (..., 3, V + 5)
    points = jnp.concatenate([surface, at], -1).swapaxes(-1, -2)  # (..., P, 3)
    if translation is not None:
        points = points + translation[..., None, :]
    vertices = hand.num_vertices
    return Posed(points[..., :vertices, :], points[..., vertices:, :][..., _OURS, :])


def _chain(rotations, rest):
    """Turns (..., 3, 3, 16) and places (..., 3, 16) of the joints, from their turns (..., 16, 3, 3) and rest places."""
    turned, at = [rotations[..., 0, :, :]], [rest[..., 0]]
    for joint, parent in list(enumerate(PARENTS))[1:]:
        offset = rest[..., joint] - rest[..., parent]
        at.append(at[parent] + jnp.einsum("...cd,...d->...c", turned[parent], offset, precision="highest"))
        turned.append(jnp.matmul(turned[parent], rotations[..., joint, :, :], precision="highest"))
    return jnp.stack(turned, -1), jnp.stack(at, -1)
