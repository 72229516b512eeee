"""The real-time mesh network: `VotingNet` predicts the joints, and the mesh is a linear function of vectors at them.

A vertex is a weighted sum of vectors that rotate and scale with the joints; the weights are the same for every hand.
The vectors are the joints themselves, the axes of the bones between them, and vectors predicted from tokens for what
the joints do not determine, such as the thickness of a hand or the twist of its thumb. The initial weights are those of
the skinned hand.
Attribute names are the parameter paths of saved checkpoints: do not change them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import Config
from jaxhand.hand.skeleton import JOINT_ORDERS, to_our_order
from jaxhand.hand.skinned import NUM_JOINTS, SkinnedHand
from jaxhand.models.contract import Predictions
from jaxhand.models.layers import NUM_KEYPOINTS, Linear, MlpBlock, TokenMlp, normal_param
from jaxhand.models.voting_net import VotingNet

UNIT_MM = 100.0  # of the vectors
WEIGHT_GAIN = 0.3  # weights of the vectors / their parameters: they learn this much slower than all others
UPSAMPLE = 4  # tokens of a stage / tokens of the stage before
BASES = np.flatnonzero(np.array(JOINT_ORDERS["mano"]) < NUM_JOINTS)  # (16,) keypoints at which bones start
# (21,) the bone whose frame the vectors of a joint are in: the palm for the wrist, the last bone for a fingertip
BONES = np.searchsorted(BASES, np.arange(NUM_KEYPOINTS), side="right") - 1
SOFT_MM = 0.1
KNUCKLES = np.array([5, 9, 13, 17])


class FastMesh(nnx.Module):
    """RGB and depth crops → joints and mesh. One set of weights works with and without depth.

    The joints are those that pose the hand, as data sets label them; joints regressed from the mesh, as in simpleHand,
    would be some 3 mm off. The mesh follows the predicted joints.

    Args:
        config: as for `VotingNet`, and `model.mesh`.
        hand_model: the hand whose mesh is predicted.
        rngs: draws the parameters.
    """

    has_mesh = True
    loss_terms = (*VotingNet.loss_terms, "vertices")

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        self.dense = VotingNet(config, None, rngs)
        self.mesh = MeshHead(config, hand_model, rngs)

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """The predictions of `VotingNet`, and `vertices` (B,V,3) mm in the camera frame. Nothing is random."""
        predictions, features = self.dense.predict_with_features(batch)
        predictions["vertices"] = self.mesh(features, predictions["keypoints_3d"])
        return predictions


class MeshHead(nnx.Module):
    """Joints and their features → vertices, which translate, rotate and scale with the joints.

    After simpleHand (Zhou et al., "A Simple Baseline for Efficient Hand Mesh Reconstruction", 2024): layers on the
    tokens of the joints, then on 4 and 16 times as many. Its attention is replaced by linear layers over the tokens,
    which learn as much in half the time: a token stands for the same position on every hand. Its last two layers, to
    the vertices and to their coordinates, are linear: in the opposite order they compute the same at a twentieth of the
    cost.

    Args:
        config: `model.joint_width` channels of the features; `model.mesh`.
        hand_model: the mesh of an untrained network.
        rngs: draws the parameters.
    """

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        channels = (config.model.joint_width, *config.model.mesh.widths)
        counts = [NUM_KEYPOINTS, *(NUM_KEYPOINTS * UPSAMPLE**stage for stage in range(len(channels) - 1))]
        self.enter = nnx.RMSNorm(channels[0], rngs=rngs)
        self.place = Linear(3, channels[0], rngs)  # joint position → features
        self.stages = nnx.List(
            [UpsampleStage(*sizes, rngs) for sizes in zip(counts, counts[1:], channels, channels[1:])]
        )
        self.norm = nnx.RMSNorm(channels[-1], rngs=rngs)
        self.vector = Linear(channels[-1], 3, rngs, scale=0.02)
        self.rest, skinned = skinning_basis(hand_model)  # `rest` is an array of the checkpoint, too
        token_weights = counts[-1] ** -0.5 * jax.random.normal(rngs.params(), (counts[-1], hand_model.num_vertices))
        self.sums = nnx.Param(jnp.concatenate([skinned / WEIGHT_GAIN, token_weights]))  # (20 + 48 + T, V)

    def __call__(self, features: jax.Array, joints: jax.Array) -> jax.Array:
        """Features (B, 21, c) and joints (B, 21, 3) mm → vertices (B, V, 3) mm."""
        B, scale = len(joints), (palm_length(joints) / palm_length(self.rest))[:, None, None]  # (B, 1, 1)
        offsets = (joints - joints[:, :1]) / UNIT_MM  # (B, 21, 3)
        frames = bone_frames(joints, self.rest)  # (B, 16, 3, 3)
        x = self.enter(features) + self.place(offsets @ frames[:, 0] / scale)
        for stage in self.stages:
            x = stage(x)
        vectors = self.vector(self.norm(x)).reshape(B, NUM_KEYPOINTS, -1, 3)  # (B, T, 3) → (B, 21, T/21, 3)
        vectors = jnp.einsum("bjcd,bjtd->bcjt", frames[:, BONES], vectors).reshape(
            B, 3, -1
        )  # (B, 3, 21, T/21) → (B, 3, T)
        axes = frames.swapaxes(1, 2).reshape(B, 3, -1)  # (B, 3, 16, 3) → (B, 3, 48)
        vectors = jnp.concatenate([offsets[:, 1:].swapaxes(1, 2), scale * axes, scale * vectors], axis=-1)
        return joints[:, :1] + UNIT_MM * (vectors @ (WEIGHT_GAIN * self.sums[...])).swapaxes(1, 2)


class UpsampleStage(nnx.Module):
    """Upsample the tokens, change their channels, then an MLP over the tokens and one over the channels.

    Args:
        tokens, new_tokens: their number before and after.
        width, new_width: their channels before and after.
        rngs: draws the parameters.
    """

    def __init__(self, tokens: int, new_tokens: int, width: int, new_width: int, rngs: nnx.Rngs):
        self.split = normal_param(rngs, (tokens, new_tokens), tokens**-0.5)
        self.widen = Linear(width, new_width, rngs)
        self.names = normal_param(rngs, (new_tokens, new_width), 0.5)  # token embedding
        self.mixer = TokenMlp(new_tokens, new_width, rngs)
        self.block = MlpBlock(new_width, 2 * new_width, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, c) → (B, T', c')."""
        x = jnp.einsum("btc,ts->bsc", self.widen(x), self.split[...]) + self.names[...]
        return self.block(self.mixer(x))


def skinning_basis(hand_model: SkinnedHand) -> tuple[np.ndarray, np.ndarray]:
    """The skinning of a hand as weighted sums of vectors, without its pose-dependent corrections.

    Returns:
        Joints in the rest pose (21, 3) mm, and weights (20 + 48, V): of the joints relative to the wrist, and of the
        axes of the 16 bones.
    """
    V = hand_model.num_vertices
    joints = np.concatenate([hand_model.template[-NUM_JOINTS:], hand_model.template[V:-NUM_JOINTS]])
    joints = to_our_order(joints, "mano").astype(np.float32)
    weights = hand_model.weights[:V, np.array(JOINT_ORDERS["mano"])[BASES]]  # (V, 16)
    offsets = weights[..., None] * (hand_model.template[:V, None] - joints[BASES]) / UNIT_MM  # (V, 16, 3)
    joint_weights = np.zeros((V, NUM_KEYPOINTS))
    joint_weights[:, BASES] = weights
    # (V, 16, 3) → (V, 48); all: (V, 68) → (68, V)
    return joints, np.concatenate([joint_weights[:, 1:], offsets.reshape(V, -1)], axis=1).T.astype(np.float32)


def bone_frames(joints: jax.Array, rest: np.ndarray) -> jax.Array:
    """Rotations of the bones of a hand from the rest pose, as far as the joints determine them.

    The knuckles and the wrist define the frame of the palm. A bone of a digit follows the rotation of the bone before
    it, and then rotates by the smallest angle to its own direction: the joints do not determine its twist about itself.

    Args:
        joints: (..., 21, 3) mm.
        rest: (21, 3) mm.

    Returns:
        (..., 16, 3, 3): palm, thumb 1-3, index 1-3, middle, ring, little.
    """
    bones, rest_bones = (
        # (..., 20, 3) → (..., 5, 4, 3) → (..., 5, 3, 3): of each digit three bones
        soft_normalize(jnp.diff(points[..., 1:, :].reshape(*points.shape[:-2], 5, 4, 3), axis=-2))
        for points in (joints, rest)
    )
    palm = (palm_frame(joints) @ palm_frame(rest).T)[..., None, :, :]
    rotation, levels = palm, []
    for level in range(3):
        predicted = jnp.einsum("...cd,...d->...c", rotation, rest_bones[:, level])  # (..., 5, 3)
        between = soft_normalize(predicted + bones[..., level, :], 1e-3)
        rotation = half_turn(between) @ half_turn(predicted) @ rotation  # (..., 5, 3, 3)
        levels.append(rotation)
    digits = jnp.stack(levels, axis=-3)  # (..., 5, 3, 3, 3)
    return jnp.concatenate([palm, digits.reshape(*palm.shape[:-3], 15, 3, 3)], axis=-3)


def palm_frame(joints: jax.Array | np.ndarray) -> jax.Array:
    """Frame of the palm of joints (..., 21, 3).

    Returns:
        (..., 3, 3); the columns are unit vectors from the index to the little finger, towards the fingers, and normal
        to both.
    """
    along = soft_normalize(joints[..., KNUCKLES, :].mean(-2) - joints[..., 0, :])
    across = joints[..., 17, :] - joints[..., 5, :]
    across = soft_normalize(across - (across * along).sum(-1, keepdims=True) * along)
    return jnp.stack([across, along, jnp.cross(across, along)], axis=-1)


def half_turn(axis: jax.Array) -> jax.Array:
    """Rotation matrices (..., 3, 3) of 180 degrees about unit vectors (..., 3)."""
    return 2 * axis[..., :, None] * axis[..., None, :] - jnp.eye(3)


def soft_normalize(vectors: jax.Array | np.ndarray, soft: float = SOFT_MM) -> jax.Array:
    """Normalise vectors (..., 3). Those as short as `soft` become shorter than 1, which bounds the gradient."""
    return jnp.divide(vectors, jnp.sqrt((vectors**2).sum(-1, keepdims=True) + soft**2))


def palm_length(joints: jax.Array | np.ndarray) -> jax.Array:
    """Mean distance between the knuckles and the wrist of joints (..., 21, 3): (...), mm."""
    return jnp.sqrt(((joints[..., KNUCKLES, :] - joints[..., :1, :]) ** 2).sum(-1) + SOFT_MM**2).mean(-1)
