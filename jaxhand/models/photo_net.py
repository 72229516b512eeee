"""Our heads on MediaPipe's or ImageNet's backbone: model.name=photo_net.

The cells of the backbone's coarse map vote for the joints: for their pixels, and for their positions in mm around the
hand's middle. Refinement stages then sample both maps of the backbone at the joints, exchange the features of all
joints, and correct them. Where MediaPipe's heads are there too, the joints are a weighted mean of both: the errors of
the two differ.

A hand's distance has two estimates as well. The closed form (`hand.placement`) compares the joints in mm with those in
px. The distance head predicts it from the image: it recognises the hand's proportions and how it is foreshortened. The
two are averaged in proportion to the inverse of their variances.
"""

import dataclasses
import typing

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import Config, ConfigError
from jaxhand.hand.camera import focal_length
from jaxhand.hand.placement import place_at_distance
from jaxhand.models.contract import Predictions
from jaxhand.models.efficientnet_lite import SIZES, STRIDE, Features
from jaxhand.models.layers import NUM_KEYPOINTS, Linear, MlpBlock, TokenMlp, normal_param, patchify
from jaxhand.models.mediapipe import HandReading, Mediapipe
from jaxhand.models.upsample import sample_bilinear

UNIT_PX, UNIT_MM = 50.0, 50.0  # units of the joints inside of the heads: about the standard deviation of a joint
# Standard deviations, of the logarithm of a hand's distance: of the closed form, and of the distance head
CLOSED_FORM, DISTANCE_HEAD = 0.066, 0.043


class PhotoNet(Mediapipe):
    """Colour crop → joints in px and in millimetres, placed before the camera.

    Args:
        config: `data.image_size` must be 224; see `Options`.
        hand_model: is not used.
        rngs: draws the parameters.

    Raises:
        ConfigError: an option is out of its range, or `data.image_size` is not 224.
    """

    loss_terms = ("joints_3d", "joints_2d", "camera", "size", "guesses")
    optional_parameters = (*Mediapipe.optional_parameters, "cells", "votes", "names", "stages", "distance", "variances")

    @dataclasses.dataclass(frozen=True)
    class Options(Mediapipe.Options):
        """Settings of this model, and those of `Mediapipe`."""

        share: float = 0.5  # of our heads in the joints, 0 to 1; MediaPipe's heads have the rest
        width: int = 96  # channels of a cell
        joint_width: int = 64  # channels of a joint
        looks: int = 2  # number of refinement stages

    def __init__(self, config: Config, hand_model: None, rngs: nnx.Rngs):
        super().__init__(config, hand_model, rngs)
        options = typing.cast(PhotoNet.Options, config.model.options)
        if not 0 <= options.share <= 1:
            raise ConfigError(f"model.options.share must be 0 to 1, got {options.share}")
        self.share = options.share
        fine, coarse = (SIZES[options.size].stages[stage] for stage in (4, 5))
        self.cells = Cells(4 * fine + coarse, options.width, rngs)
        self.votes = Linear(options.width, NUM_KEYPOINTS * 6, rngs, scale=0.1)
        self.names = normal_param(rngs, (NUM_KEYPOINTS, options.joint_width), 0.5)  # joint embedding
        inputs = fine + coarse, self.backbone.width
        self.stages = nnx.List([RefinementStage(*inputs, options.joint_width, rngs) for _ in range(options.looks)])
        self.distance = Distance(self.backbone.width)
        self.variances = nnx.Param(2 * jnp.log(jnp.array([CLOSED_FORM, DISTANCE_HEAD])))  # their logarithms

    def placed(self, reading: HandReading, K: jax.Array) -> Predictions:
        """As `Mediapipe.placed`, with the distance head; and what its loss terms need."""
        joints = place_at_distance(reading.world, reading.pixels, K, reading.log_distance, reading.weight)
        return super().placed(reading, K) | {
            "keypoints_3d": joints,
            "root_depth": focal_length(K) * jnp.exp(reading.log_distance),
            "guesses_3d": reading.guesses[..., 2:],
            "guesses_2d": reading.guesses[..., :2],
        }

    def read_features(self, features: Features) -> HandReading:
        """What the network reads, from the features of the backbone."""
        base = super().read_features(features)
        guesses = self._guesses(features)  # (B, G, 21, 5)
        pixels, world = guesses[:, -1, :, :2], guesses[:, -1, :, 2:]
        mean = lambda own, other: self.share * own + (1 - self.share) * other if self.share < 1 else own  # noqa: E731
        weight = jax.nn.sigmoid(self.variances[0] - self.variances[1])  # of the distance head: its inverse variance
        log_distance = self.distance(features.pooled)
        return base._replace(
            pixels=mean(pixels, base.pixels),
            world=mean(world, base.world - base.world.mean(1, keepdims=True)),
            log_distance=log_distance,
            weight=jnp.broadcast_to(weight, log_distance.shape),
            guesses=guesses,
        )

    def _guesses(self, features: Features) -> jax.Array:
        """Joints after the vote and after every stage: (B, G, 21, 5), x, y px and x, y, z mm."""
        fine, coarse, pooled = (jnp.asarray(array, jnp.float32) for array in features)
        joints = self._aggregate_votes(self.votes(self.cells(fine, coarse)))
        guesses, tokens = [joints], self.names[...]
        for stage in self.stages:
            tokens, joints = stage(tokens, joints, fine, coarse, pooled)
            guesses.append(joints)
        middle = (jnp.arange(5) < 2) * (coarse.shape[1] * STRIDE / 2 - 0.5)  # the crop's centre, px
        units = jnp.where(jnp.arange(5) < 2, UNIT_PX, UNIT_MM)
        return jnp.stack(guesses, 1) * units + middle

    def _aggregate_votes(self, votes: jax.Array) -> jax.Array:
        """Votes (B, h, w, 21 * 6) of the cells → joints (B, 21, 5), their mean weighted by a softmax over the cells."""
        B, h, w, _ = votes.shape
        logits, *values = jnp.moveaxis(votes.reshape(B, h * w, 6, NUM_KEYPOINTS), 2, 0)  # (B, T, 21) each
        weight = jax.nn.softmax(logits, axis=1)
        across, down = ((jnp.arange(n) + 0.5 - n / 2) * STRIDE / UNIT_PX for n in (w, h))
        x, y = (center.reshape(-1, 1) for center in jnp.meshgrid(across, down))  # (T, 1)
        values[0], values[1] = values[0] + x, values[1] + y
        return jnp.stack([(weight * value).sum(1) for value in values], axis=-1)


class Cells(nnx.Module):
    """Features of the cells of the coarse map, from both maps."""

    def __init__(self, inputs: int, width: int, rngs: nnx.Rngs):
        self.enter = nnx.RMSNorm(inputs, rngs=rngs)
        self.linear = Linear(inputs, width, rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, fine: jax.Array, coarse: jax.Array) -> jax.Array:
        """(B, 2h, 2w, c) and (B, h, w, C) → (B, h, w, width)."""
        x = self.enter(jnp.concatenate([patchify(fine, 2), coarse], -1))
        return self.norm(jax.nn.relu(self.linear(x)))


class RefinementStage(nnx.Module):
    """Correct every joint, from both maps at the joint, the pooled features, and the features of all joints.

    Args:
        sampled: channels of both maps together.
        pooled: channels of the pooled features.
        width: channels of a joint.
        rngs: draws the parameters.
    """

    def __init__(self, sampled: int, pooled: int, width: int, rngs: nnx.Rngs):
        self.sampled_norm, self.pooled_norm = nnx.RMSNorm(sampled, rngs=rngs), nnx.RMSNorm(pooled, rngs=rngs)
        self.sampled, self.pooled = Linear(sampled, width, rngs), Linear(pooled, width, rngs)
        self.placed = Linear(5, width, rngs)
        self.mixer, self.block = TokenMlp(NUM_KEYPOINTS, width, rngs), MlpBlock(width, 2 * width, rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.correction = Linear(width, 5, rngs, scale=0.03)

    def __call__(self, tokens, joints, fine, coarse, pooled) -> tuple[jax.Array, jax.Array]:
        """Refine the joints.

        Args:
            tokens: (B, 21, width) or (21, width) features of the joints.
            joints: (B, 21, 5) in units of the heads, pixels from the crop's centre.
            fine, coarse: (B, 2h, 2w, c) and (B, h, w, C) maps.
            pooled: (B, P).

        Returns:
            New features (B, 21, width) and joints (B, 21, 5).
        """
        pixels = jax.lax.stop_gradient(joints[..., :2]) * UNIT_PX  # from the crop's centre
        at = [pixels / stride + (m.shape[1] - 1) / 2 for m, stride in ((fine, STRIDE / 2), (coarse, STRIDE))]
        samples = [sample_bilinear(*pair) for pair in zip((fine, coarse), at)]
        found = self.sampled(self.sampled_norm(jnp.concatenate(samples, -1)))
        tokens = tokens + self.placed(joints) + found + self.pooled(self.pooled_norm(pooled))[:, None]
        tokens = self.block(self.mixer(tokens))
        return tokens, joints + self.correction(self.norm(tokens))


class Distance(nnx.Module):
    """Pooled features (B, C) → log of (mean depth of the joints / focal length of the crop) (B,)."""

    def __init__(self, width: int):
        self.kernel, self.bias = nnx.Param(jnp.zeros(width)), nnx.Param(jnp.zeros(()))

    def __call__(self, pooled: jax.Array) -> jax.Array:
        """(B, C) → (B,)."""
        return pooled @ self.kernel[...] + self.bias[...]
