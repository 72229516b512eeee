"""MediaPipe's hand landmark network (Zhang et al., "MediaPipe Hands", 2020), with its hands put before the camera.

A crop of 224 px, turned so that the hand points up, becomes 21 joints in px of the crop and in metres around the hand's
middle, and how likely there is a hand at all and it is a right one. Weights: `python -m jaxhand.convert mediapipe`.
"""

import dataclasses
import typing
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import Config, ConfigError
from jaxhand.hand import joint_mix
from jaxhand.hand.placement import place_on_rays
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.models.contract import Predictions
from jaxhand.models.efficientnet_lite import SIZES, EfficientNetLite, Features, Pointwise

CROP = 224  # px
JOINTS = 21


class HandReading(NamedTuple):
    """What the network reads from B crops."""

    pixels: jax.Array  # (B, 21, 2) px of the crop, integers are pixel centres
    depth: jax.Array  # (B, 21) px, behind the wrist; much poorer than that of `world`
    world: jax.Array  # (B, 21, 3) mm around the hand's middle, axes of the crop: x right, y down, z away
    presence: jax.Array  # (B,) how likely there is a hand
    right: jax.Array  # (B,) how likely it is a right hand, of a photograph that is not mirrored
    # Only of `PhotoNet`: (B,) log of the mean depth over the focal length of the crop, mm / px; (B, 2) and (B, 2) as in
    # `placement.place_at_distance`; (B, G, 21, 5) its joints after every stage, x, y px and x, y, z mm
    log_distance: jax.Array | None = None
    variances: jax.Array | None = None
    prior: jax.Array | None = None
    guesses: jax.Array | None = None


class Mediapipe(nnx.Module):
    """Colour crop → joints in px and in millimetres.

    Args:
        config: `model.options.size`, `model.dtype`. `data.image_size` must be 224.
        hand_model: is not used.
        rngs: draws the parameters.

    Raises:
        ConfigError: the size is unknown, or `data.image_size` is not 224.
    """

    has_mesh = False
    loss_terms = ("joints_3d", "joints_2d", "camera")
    optional_parameters = ("mix_2d", "mix_3d", "correction")

    @dataclasses.dataclass(frozen=True)
    class Options:
        """Settings of this model."""

        size: str = "full"  # or "lite", or "lite0": the backbone as EfficientNet-Lite0 of ImageNet has it
        # Parameters to adapt to a data set: `mix_2d` and `mix_3d`, from MediaPipe's joints to those of its labels, and
        # `correction`, which rotates and scales the hand. At first they change nothing.
        adapt: bool = False

    def __init__(self, config: Config, hand_model: None, rngs: nnx.Rngs):
        options = typing.cast(Mediapipe.Options, config.model.options)
        size, adapt = options.size, options.adapt
        if size not in SIZES:
            raise ConfigError(f"model.options.size must be one of {', '.join(SIZES)}, got {size!r}")
        if config.data.image_size != CROP:
            raise ConfigError(f"data.image_size must be {CROP} for model 'mediapipe', got {config.data.image_size}")
        self.backbone = EfficientNetLite(SIZES[size], dtype=config.model.dtype, rngs=rngs)
        width = self.backbone.width
        self.landmarks = Pointwise(width, 3 * JOINTS, rngs=rngs)
        self.world = Pointwise(width, 3 * JOINTS, rngs=rngs)
        self.presence = Pointwise(width, 1, rngs=rngs)
        self.handedness = Pointwise(width, 1, rngs=rngs)
        self.mix_2d, self.mix_3d = (nnx.Param(joint_mix.identity()) if adapt else None for _ in range(2))
        self.correction = Correction(width) if adapt else None

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """Predict joints.

        Args:
            batch: `image` (B,224,224,3) in 0..1, `K` (B,3,3) of the crop.
            key: nothing here is random.

        Returns:
            `keypoints_3d` (B,21,3) mm, camera frame · `keypoints_2d` (B,21,2) px of the crop · `world` (B,21,3) mm
            around the hand's middle · `presence` (B,) · `right` (B,).
        """
        return self.placed(self.read(batch["image"]), batch["K"])

    def placed(self, reading: HandReading, K: jax.Array) -> Predictions:
        """Readings of B crops with cameras K (B, 3, 3) → what `__call__` returns."""
        return {
            "keypoints_3d": place_on_rays(reading.world, reading.pixels, K),
            "keypoints_2d": reading.pixels,
            "world": reading.world,
            "presence": reading.presence,
            "right": reading.right,
        }

    def read(self, image: jax.Array) -> HandReading:
        """Crops (B, 224, 224, 3) in 0..1 → what MediaPipe's network says of them."""
        return self.read_features(self.backbone(image))

    def read_features(self, features: Features) -> HandReading:
        """As `read`, of what the backbone makes of the crops."""
        pooled = features.pooled
        landmarks, world = (head(pooled).reshape(-1, JOINTS, 3) for head in (self.landmarks, self.world))
        presence, right = (jax.nn.sigmoid(head(pooled))[:, 0] for head in (self.presence, self.handedness))
        pixels = landmarks[..., :2] - 0.5  # MediaPipe counts from the corner of the first pixel
        world = world * 1000
        if self.correction is not None and self.mix_2d is not None and self.mix_3d is not None:
            pixels, world = joint_mix.apply(self.mix_2d[...], pixels), joint_mix.apply(self.mix_3d[...], world)
            world = self.correction(pooled, world)
        return HandReading(pixels, landmarks[..., 2], world, presence, right)


class Correction(nnx.Module):
    """A linear layer that corrects the rotation and the size of a hand, and leaves its pose as it is.

    A few hundred photographs hold few poses. These four numbers per hand cannot learn them, so they hold for others.

    Args:
        width: of the pooled features.
    """

    def __init__(self, width: int):
        self.kernel = nnx.Param(jnp.zeros((width, 4)))
        self.bias = nnx.Param(jnp.zeros(4))

    def __call__(self, pooled, joints):
        """Features (B, width) and joints (B, 21, 3) mm → (B, 21, 3) mm, rotated and scaled about their origin."""
        found = pooled @ self.kernel[...] + self.bias[...]  # (B, 4): axis-angle in radians, log of the scale
        R = axis_angle_to_matrix(found[:, :3]) * jnp.exp(found[:, 3])[:, None, None]
        return jnp.matmul(joints, R.mT, precision="highest")
