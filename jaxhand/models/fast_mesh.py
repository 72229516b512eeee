"""The real-time mesh network: `Dense` finds the joints, and a mesh rides on them.

A vertex is a sum of vectors that turn and grow with the joints, the same sum in every hand: the joints themselves, the
axes of the bones between them, and what tokens add that the joints cannot tell, such as how thick a hand is or how its
thumb twists. At first the sums are those of the skinned hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import Config
from jaxhand.hand.skeleton import JOINT_ORDERS, to_our_order
from jaxhand.hand.skinned import NUM_JOINTS, SkinnedHand
from jaxhand.models.dense import JOINTS, Block, Dense, JointMixer, Linear

UNIT_MM = 100.0  # of the vectors
GAIN = 0.3  # of the sums over their parameters: they learn this much slower than all others
MORE = 4  # tokens of a stage over those of the one before
BASES = np.flatnonzero(np.array(JOINT_ORDERS["mano"]) < NUM_JOINTS)  # (16,) the joints at which bones start
# (21,) the bone whose frame a joint's vectors are in: the palm for the wrist, the last bone for a tip
BONES = np.searchsorted(BASES, np.arange(JOINTS), side="right") - 1
SOFT_MM = 0.1
KNUCKLES = np.array([5, 9, 13, 17])


class FastMesh(nnx.Module):
    """Colour and depth crops → joints and mesh. One network serves both with and without depth.

    The joints are those that pose the hand, as data sets label them; regressed from the mesh, as in simpleHand, they
    would lie some 3 mm off. The mesh stands where they are.

    Args:
        config: what `Dense` takes, and `model.mesh`.
        hand: whose mesh it is.
        rngs: draws the parameters.
    """

    loss_terms = (*Dense.loss_terms, "vertices")

    def __init__(self, config: Config, hand: SkinnedHand, rngs: nnx.Rngs):
        self.dense = Dense(config, None, rngs)
        self.mesh = Mesh(config, hand, rngs)

    def __call__(self, batch: dict, key: jax.Array | None = None) -> dict:
        """What `Dense` predicts, and `vertices` (B,V,3) mm in the camera frame. Nothing here is random."""
        predictions, tokens = self.dense.read(batch)
        return predictions | {"vertices": self.mesh(tokens, predictions["keypoints_3d"])}


class Mesh(nnx.Module):
    """Joints and what is known of them → vertices, which move, turn and grow with the joints.

    After simpleHand (Zhou et al., "A Simple Baseline for Efficient Hand Mesh Reconstruction", 2024): layers on the
    joints' tokens, then on four and sixteen times as many. Its attention gives way to products over the tokens, which
    learn as much in half the time: a token stands for the same place of every hand. Its last two layers, to the
    vertices and to their coordinates, are linear: taken the other way around they are the same, and cost a twentieth.

    Args:
        config: `model.joint_width` channels of the tokens that come in; `model.mesh`.
        hand: what the mesh is before anything is learned.
        rngs: draws the parameters.
    """

    def __init__(self, config: Config, hand: SkinnedHand, rngs: nnx.Rngs):
        channels = (config.model.joint_width, *config.model.mesh.widths)
        counts = [JOINTS, *(JOINTS * MORE**stage for stage in range(len(channels) - 1))]
        self.enter = nnx.RMSNorm(channels[0], rngs=rngs)
        self.place = Linear(3, channels[0], rngs)
        self.stages = nnx.List([Stage(*sizes, rngs) for sizes in zip(counts, counts[1:], channels, channels[1:])])
        self.norm = nnx.RMSNorm(channels[-1], rngs=rngs)
        self.vector = Linear(channels[-1], 3, rngs, scale=0.02)
        self.rest, skinned = rig(hand)
        told = counts[-1] ** -0.5 * jax.random.normal(rngs.params(), (counts[-1], hand.num_vertices))
        self.sums = nnx.Param(jnp.concatenate([skinned / GAIN, told]))  # (20 + 48 + T, V)

    def __call__(self, tokens, joints):
        """Tokens (B, 21, c) and joints (B, 21, 3) mm → vertices (B, V, 3) mm."""
        B, size = len(joints), (span(joints) / span(self.rest))[:, None, None]  # (B, 1, 1)
        arms, frames = (joints - joints[:, :1]) / UNIT_MM, bone_frames(joints, self.rest)  # (B, 21, 3), (B, 16, 3, 3)
        x = self.enter(tokens) + self.place(arms @ frames[:, 0] / size)
        for stage in self.stages:
            x = stage(x)
        told = self.vector(self.norm(x)).reshape(B, JOINTS, -1, 3)  # (B, 21, T/21, 3)
        told = jnp.einsum("bjcd,bjtd->bcjt", frames[:, BONES], told).reshape(B, 3, -1)  # (B, 3, T)
        axes = frames.swapaxes(1, 2).reshape(B, 3, -1)  # (B, 3, 48)
        vectors = jnp.concatenate([arms[:, 1:].swapaxes(1, 2), size * axes, size * told], axis=-1)
        return joints[:, :1] + UNIT_MM * (vectors @ (GAIN * self.sums[...])).swapaxes(1, 2)


class Stage(nnx.Module):
    """Tokens become more, change their width and tell each other what they know."""

    def __init__(self, tokens: int, more: int, width: int, new_width: int, rngs: nnx.Rngs):
        self.split = nnx.Param(tokens**-0.5 * jax.random.normal(rngs.params(), (tokens, more)))
        self.widen = Linear(width, new_width, rngs)
        self.names = nnx.Param(0.5 * jax.random.normal(rngs.params(), (more, new_width)))
        self.mixer = JointMixer(more, new_width, rngs)
        self.block = Block(new_width, 2 * new_width, rngs)

    def __call__(self, x):
        """(B, T, c) → (B, T', c')."""
        return self.block(self.mixer(jnp.einsum("btc,ts->bsc", self.widen(x), self.split[...]) + self.names[...]))


def rig(hand: SkinnedHand):
    """The resting joints (21, 3) mm of a hand, and its skinning as sums of vectors, without corrections for the pose.

    Returns:
        The joints, and (20 + 48, V): what a vertex takes of the joints relative to the wrist and of the bones' axes.
    """
    V = hand.num_vertices
    joints = np.concatenate([hand.template[-NUM_JOINTS:], hand.template[V:-NUM_JOINTS]])
    joints = to_our_order(joints, "mano").astype(np.float32)
    weights = hand.weights[:V, np.array(JOINT_ORDERS["mano"])[BASES]]  # (V, 16)
    arms = weights[..., None] * (hand.template[:V, None] - joints[BASES]) / UNIT_MM  # (V, 16, 3)
    follow = np.zeros((V, JOINTS))
    follow[:, BASES] = weights
    return joints, np.concatenate([follow[:, 1:], arms.reshape(V, -1)], axis=1).T.astype(np.float32)


def bone_frames(joints, rest):
    """How the bones of a hand have turned since it rested, as far as its joints tell.

    The knuckles and the wrist span the palm's frame. A digit's bone has turned on the shortest way from where the bone
    before it would carry it: how bones twist about themselves, joints do not tell.

    Args:
        joints: (..., 21, 3) mm.
        rest: (21, 3) mm.

    Returns:
        (..., 16, 3, 3): palm, thumb 1-3, index 1-3, middle, ring, little.
    """
    bones, rest_bones = (
        direction(jnp.diff(points[..., 1:, :].reshape(*points.shape[:-2], 5, 4, 3), axis=-2))
        for points in (joints, rest)
    )
    palm = (palm_frame(joints) @ palm_frame(rest).T)[..., None, :, :]
    turned, levels = palm, []
    for level in range(3):
        carried = jnp.einsum("...cd,...d->...c", turned, rest_bones[:, level])  # (..., 5, 3)
        between = direction(carried + bones[..., level, :], 1e-3)
        turned = half_turn(between) @ half_turn(carried) @ turned  # (..., 5, 3, 3)
        levels.append(turned)
    digits = jnp.stack(levels, axis=-3)  # (..., 5, 3, 3, 3)
    return jnp.concatenate([palm, digits.reshape(*palm.shape[:-3], 15, 3, 3)], axis=-3)


def palm_frame(joints):
    """Axes of the palm of joints (..., 21, 3): (..., 3, 3), columns from index to little finger, to the fingers, third."""
    along = direction(joints[..., KNUCKLES, :].mean(-2) - joints[..., 0, :])
    across = joints[..., 17, :] - joints[..., 5, :]
    across = direction(across - (across * along).sum(-1, keepdims=True) * along)
    return jnp.stack([across, along, jnp.cross(across, along)], axis=-1)


def half_turn(axis):
    """Half a turn about unit vectors (..., 3), as matrices (..., 3, 3)."""
    return 2 * axis[..., :, None] * axis[..., None, :] - jnp.eye(3)


def direction(vectors, soft: float = SOFT_MM):
    """Unit vectors along others (..., 3), but shorter ones of those as short as `soft`: gradients stay bounded."""
    return vectors / jnp.sqrt((vectors**2).sum(-1, keepdims=True) + soft**2)


def span(joints):
    """Mean distance of the knuckles from the wrist of joints (..., 21, 3): (...), mm."""
    return jnp.sqrt(((joints[..., KNUCKLES, :] - joints[..., :1, :]) ** 2).sum(-1) + SOFT_MM**2).mean(-1)
