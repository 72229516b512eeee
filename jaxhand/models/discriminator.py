"""HMR's discriminator, for hands: it scores how realistic a pose and a shape are.

Kanazawa et al., "End-to-end Recovery of Human Shape and Pose" (2018). The sizes of the layers are those of HaMeR.
"""

import jax
import jax.numpy as jnp
from flax import nnx

DIGIT_JOINTS = 15
CHANNELS = 32
HIDDEN = 1024
LOGITS = DIGIT_JOINTS + 2


class Discriminator(nnx.Module):
    """Scores how real a hand looks, from the rotations of its 15 finger joints and its shape: 17 scores.

    The scores are trained towards 1 for real hands and 0 for predicted hands.

    Attributes are named as in HaMeR's checkpoint. There, `pose_out` is a list of 15 layers with one output each; here,
    a layer is a row of an array.
    """

    def __init__(self, rngs: nnx.Rngs):
        def linear(inputs, outputs):
            return nnx.Linear(inputs, outputs, kernel_init=jax.nn.initializers.xavier_uniform(), rngs=rngs)

        self.D_conv1, self.D_conv2 = linear(9, CHANNELS), linear(CHANNELS, CHANNELS)
        self.pose_out = PerJoint(rngs)
        self.betas_fc1, self.betas_fc2, self.betas_out = linear(10, 10), linear(10, 5), linear(5, 1)
        self.D_alljoints_fc1 = linear(DIGIT_JOINTS * CHANNELS, HIDDEN)
        self.D_alljoints_fc2, self.D_alljoints_out = linear(HIDDEN, HIDDEN), linear(HIDDEN, 1)

    def __call__(self, rotations: jax.Array, shape: jax.Array) -> jax.Array:
        """Rotations (B, 15, 3, 3) and shapes (B, 10) → scores (B, 17): 15 for the joints, shape, whole pose."""
        B, relu = len(rotations), jax.nn.relu
        joints = relu(self.D_conv2(relu(self.D_conv1(rotations.reshape(B, DIGIT_JOINTS, 9)))))  # (B, 15, 32)
        shape = self.betas_out(relu(self.betas_fc2(relu(self.betas_fc1(shape)))))  # (B, 1)
        pose = joints.swapaxes(1, 2).reshape(B, -1)  # (B, 32 * 15), channel by channel as in HaMeR's code
        pose = self.D_alljoints_out(relu(self.D_alljoints_fc2(relu(self.D_alljoints_fc1(pose)))))  # (B, 1)
        return jnp.concatenate([self.pose_out(joints), shape, pose], axis=-1)


class PerJoint(nnx.Module):
    """15 linear layers with one output each, one for each joint."""

    def __init__(self, rngs: nnx.Rngs):
        spread = jax.nn.initializers.variance_scaling(2.0, "fan_in", "uniform", in_axis=1, out_axis=())
        self.kernel = nnx.Param(spread(rngs.params(), (DIGIT_JOINTS, CHANNELS)))
        self.bias = nnx.Param(jnp.zeros(DIGIT_JOINTS))

    def __call__(self, joints: jax.Array) -> jax.Array:
        """(B, 15, 32) → (B, 15)."""
        return jnp.einsum("bjc,jc->bj", joints, self.kernel[...]) + self.bias[...]


def discriminator_outputs(
    discriminator: Discriminator,
    rotations: jax.Array,
    shape: jax.Array,
    real_rotations: jax.Array,
    real_shape: jax.Array,
    real: jax.Array,
) -> dict[str, jax.Array]:
    """The scores for the adversarial loss terms. Gradients are stopped where the arguments below say so.

    Args:
        discriminator: receives no gradient from `fake_logits`.
        rotations, shape: predicted hands, (B, 16, 3, 3) and (B, 10); they receive no gradient from `critic_fake`.
        real_rotations, real_shape: real hands, (B, R, 15, 3, 3) and (B, R, 10).
        real: (B, R), 0 where there is no real hand.

    Returns:
        `fake_logits` (B, 17), `critic_fake` (B, 17) and `critic_real` (B, R, 17). Where there is no real hand,
        `critic_real` is its target 1, so that the loss is 0 there.
    """
    digits, R = rotations[:, 1:], real.shape[1]
    graphdef, parameters = nnx.split(discriminator)
    frozen = nnx.merge(graphdef, jax.lax.stop_gradient(parameters))
    real_scores = discriminator(real_rotations.reshape(-1, DIGIT_JOINTS, 3, 3), real_shape.reshape(-1, 10))  # (B R, 17)
    return {
        "fake_logits": frozen(digits, shape),
        "critic_fake": discriminator(jax.lax.stop_gradient(digits), jax.lax.stop_gradient(shape)),
        "critic_real": jnp.where(real[..., None] > 0, real_scores.reshape(-1, R, LOGITS), 1.0),
    }
