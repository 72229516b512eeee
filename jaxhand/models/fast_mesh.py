"""The real-time mesh network: `VotingNet` predicts the joints, and each vertex is a weighted sum of vectors.

The vectors rotate and scale with the joints; the weights are the same for every hand. There are three kinds of vectors:
the joints, the axes of the bones, and vectors predicted from tokens. The predicted vectors describe what the joints do
not determine, such as the thickness of a hand or the twist of its thumb. The initial weights are those of the skinned
hand.
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
from jaxhand.models.layers import NUM_KEYPOINTS, Linear, MlpBlock, TokenMlp, normal_param, product
from jaxhand.models.voting_net import VotingNet

UNIT_MM = 100.0  # the vectors are in units of 100 mm
WEIGHT_GAIN = 0.3  # the weights are 0.3 * `sums`, so they train more slowly than other parameters
UPSAMPLE = 4  # each stage has 4 times as many tokens as the stage before
BASES = np.flatnonzero(np.array(JOINT_ORDERS["mano"]) < NUM_JOINTS)  # (16,) keypoint at the start of each bone
# (21,) for each joint, the bone whose frame its vectors use: the palm for the wrist, the last bone for a fingertip
BONES = np.searchsorted(BASES, np.arange(NUM_KEYPOINTS), side="right") - 1
SOFT_MM = 0.1  # see `soft_normalize`
KNUCKLES = np.array([5, 9, 13, 17])  # base joints of the four fingers


class FastMesh(nnx.Module):
    """RGB and depth crops → joints and mesh. The same weights work with and without depth.

    The joints are predicted first, and the mesh follows them. They are the joints that pose the hand, as in the labels
    of data sets. Joints regressed from the mesh, as in simpleHand, would be about 3 mm away from these.

    Args:
        config: as for `VotingNet`; `model.mesh` is used, too.
        hand_model: the hand whose mesh is predicted.
        rngs: draws the parameters.
    """

    has_mesh = True
    loss_terms = (*VotingNet.loss_terms, "vertices")

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        self.dense = VotingNet(config, None, rngs)
        self.mesh = MeshHead(config, hand_model, rngs)

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """Predict joints as `VotingNet` does, and `vertices` (B,V,3) mm in the camera frame; `key` is not used."""
        predictions, features = self.dense.predict_with_features(batch)
        predictions["vertices"] = self.mesh(features, predictions["keypoints_3d"])
        return predictions


class MeshHead(nnx.Module):
    """Joints and their features → vertices, which translate, rotate and scale with the joints.

    The design follows simpleHand (Zhou et al., "A Simple Baseline for Efficient Hand Mesh Reconstruction", 2024): there
    is one token per joint, then 4 times and 16 times as many tokens. Two things differ. Linear layers over the tokens
    replace the attention: they reach the same error in half the time, because a token has the same position on every
    hand. The last two layers, from tokens to vertices and from channels to coordinates, are linear, so they can be
    swapped: this needs a twentieth of the operations.

    Args:
        config: `model.joint_width` (channels of the features) and `model.mesh`.
        hand_model: the hand whose mesh an untrained network predicts.
        rngs: draws the parameters.
    """

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        channels = (config.model.joint_width, *config.model.mesh.widths)
        counts = [NUM_KEYPOINTS, *(NUM_KEYPOINTS * UPSAMPLE**stage for stage in range(len(channels) - 1))]
        self.enter = nnx.RMSNorm(channels[0], rngs=rngs)
        self.place = Linear(3, channels[0], rngs)  # joint position → features
        self.stages = nnx.List(
            [
                UpsampleStage(*sizes, rngs, config.model.dtype)
                for sizes in zip(counts, counts[1:], channels, channels[1:])
            ]
        )
        self.norm = nnx.RMSNorm(channels[-1], rngs=rngs)
        self.vector = Linear(channels[-1], 3, rngs, scale=0.02)
        self.rest, skinned = skinning_basis(hand_model)  # `rest` is saved in checkpoints
        token_weights = counts[-1] ** -0.5 * jax.random.normal(rngs.params(), (counts[-1], hand_model.num_vertices))
        self.sums = nnx.Param(jnp.concatenate([skinned / WEIGHT_GAIN, token_weights]))  # (20 + 48 + T, V)

    def __call__(self, features: jax.Array, joints: jax.Array) -> jax.Array:
        """Features (B, 21, c) and joints (B, 21, 3) mm → vertices (B, V, 3) mm."""
        B, scale = joints.shape[0], (palm_length(joints) / palm_length(self.rest))[:, None, None]  # (B, 1, 1)
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
    """Upsample the tokens and change their channels, then apply an MLP over the tokens and an MLP over the channels.

    Args:
        tokens, new_tokens: number of tokens before and after.
        width, new_width: number of channels before and after.
        rngs: draws the parameters.
        dtype: type of the matrix products.
    """

    def __init__(self, tokens: int, new_tokens: int, width: int, new_width: int, rngs: nnx.Rngs, dtype: str):
        self.dtype, self.split = dtype, normal_param(rngs, (tokens, new_tokens), tokens**-0.5)
        self.widen = Linear(width, new_width, rngs, dtype=jnp.dtype(dtype))
        self.names = normal_param(rngs, (new_tokens, new_width), 0.5)  # token embedding
        self.mixer = TokenMlp(new_tokens, new_width, rngs, dtype)
        self.block = MlpBlock(new_width, 2 * new_width, rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, c) → (B, T', c')."""
        x = product("btc,ts->bsc", self.widen(x), self.split[...], self.dtype) + self.names[...]
        return self.block(self.mixer(x))


def skinning_basis(hand_model: SkinnedHand) -> tuple[np.ndarray, np.ndarray]:
    """Write the skinning of a hand as weighted sums of vectors, without the pose-dependent corrections.

    Returns:
        Joints in the rest pose, (21, 3) mm; and weights (20 + 48, V) of the vectors. The vectors are the 20 joints
        relative to the wrist, and three axes of each of the 16 bones.
    """
    V = hand_model.num_vertices
    joints = np.concatenate([hand_model.template[-NUM_JOINTS:], hand_model.template[V:-NUM_JOINTS]])
    joints = to_our_order(joints, "mano").astype(np.float32)
    weights = hand_model.weights[:V, np.array(JOINT_ORDERS["mano"])[BASES]]  # (V, 16)
    offsets = weights[..., None] * (hand_model.template[:V, None] - joints[BASES]) / UNIT_MM  # (V, 16, 3)
    joint_weights = np.zeros((V, NUM_KEYPOINTS))
    joint_weights[:, BASES] = weights
    # offsets (V, 16, 3) → (V, 48); result (V, 20 + 48) → (68, V)
    return joints, np.concatenate([joint_weights[:, 1:], offsets.reshape(V, -1)], axis=1).T.astype(np.float32)


def bone_frames(joints: jax.Array, rest: np.ndarray) -> jax.Array:
    """Estimate the rotations of a hand's bones, relative to the rest pose, from the joints.

    The knuckles and the wrist define the rotation of the palm. A bone of a digit has the rotation of the bone before
    it, followed by the smallest rotation to its direction. The joints do not determine the twist of a bone about its
    axis.

    Args:
        joints: (..., 21, 3) mm.
        rest: (21, 3) mm.

    Returns:
        (..., 16, 3, 3): palm, then three bones of the thumb, index, middle, ring and little finger each.
    """
    bones, rest_bones = (
        # joints (..., 20, 3) → (..., 5, 4, 3) → (..., 5, 3, 3): directions of three bones per digit
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
    """Frame of the palm, from joints (..., 21, 3).

    Returns:
        (..., 3, 3). The columns are unit vectors: from the index to the little finger, from the wrist to the fingers,
        and perpendicular to both.
    """
    along = soft_normalize(joints[..., KNUCKLES, :].mean(-2) - joints[..., 0, :])
    across = joints[..., 17, :] - joints[..., 5, :]
    across = soft_normalize(across - (across * along).sum(-1, keepdims=True) * along)
    return jnp.stack([across, along, jnp.cross(across, along)], axis=-1)


def half_turn(axis: jax.Array) -> jax.Array:
    """Rotation matrices (..., 3, 3) of 180 degrees about unit vectors (..., 3)."""
    return 2 * axis[..., :, None] * axis[..., None, :] - jnp.eye(3)


def soft_normalize(vectors: jax.Array | np.ndarray, soft: float = SOFT_MM) -> jax.Array:
    """Normalise vectors (..., 3). To limit the gradient, vectors of about length `soft` become shorter than 1."""
    return jnp.divide(vectors, jnp.sqrt((vectors**2).sum(-1, keepdims=True) + soft**2))


def palm_length(joints: jax.Array | np.ndarray) -> jax.Array:
    """Mean distance between the knuckles and the wrist of joints (..., 21, 3): (...), mm."""
    return jnp.sqrt(((joints[..., KNUCKLES, :] - joints[..., :1, :]) ** 2).sum(-1) + SOFT_MM**2).mean(-1)
