"""Our heads on MediaPipe's or ImageNet's backbone: model.name=photo_net.

The joints are voted in metric 3D: a linear layer on the pooled features, which is the mean of the votes of all cells.
Refinement stages then sample the backbone's maps at the joints, exchange the features of all joints, and correct them.
Where MediaPipe's heads are there too, the joints are a weighted mean of both: their errors differ.

A hand's distance has two estimates as well. The closed form (`hand.placement`) compares the joints in mm with those in
px. The distance head predicts it from the image: the features contain the hand's proportions and how it is
foreshortened. The two are averaged in proportion to the inverse of their variances, which are learned.
`jaxhand evaluate --fit-joint-mix` adds the distances of a data set as a prior.
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
from jaxhand.models.efficientnet_lite import FINE_STAGE, SIZES, STRIDE, Features
from jaxhand.models.layers import NUM_KEYPOINTS, Linear, MlpBlock, TokenMlp, normal_param
from jaxhand.models.mediapipe import CROP, HandReading, Mediapipe
from jaxhand.models.upsample import sample_bilinear

UNIT = 50.0  # px and mm: the unit of the joints inside of the heads, about the standard deviation of a joint
# Initial standard deviations, of the logarithm of the distance: of the closed form, and of the distance head
CLOSED_FORM, DISTANCE_HEAD = 0.066, 0.043
NO_PRIOR = 400.0, 100.0  # mm, and a variance of the logarithm that is so large that the prior has no weight


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
    optional_parameters = (*Mediapipe.optional_parameters, "votes", "names", "stages", "distance", "variances", "prior")

    @dataclasses.dataclass(frozen=True)
    class Options(Mediapipe.Options):
        """Settings of this model, and those of `Mediapipe`."""

        share: float = 0.5  # of our heads in the joints in mm, 0 to 1; MediaPipe's heads have the rest
        share_2d: float = 0.0  # the same for the joints in px
        looks: int = 0  # number of refinement stages
        joint_width: int = 64  # channels of a joint in a refinement stage

    def __init__(self, config: Config, hand_model: None, rngs: nnx.Rngs):
        super().__init__(config, hand_model, rngs)
        options = typing.cast(PhotoNet.Options, config.model.options)
        for name in ("share", "share_2d"):
            if not 0 <= getattr(options, name) <= 1:
                raise ConfigError(f"model.options.{name} must be 0 to 1, got {getattr(options, name)}")
        self.share, self.share_2d = options.share, options.share_2d
        width, pooled = options.joint_width, self.backbone.width
        sampled = sum(SIZES[options.size].stages[FINE_STAGE : FINE_STAGE + 2])
        self.votes = Linear(pooled, NUM_KEYPOINTS * 5, rngs, kernel_init=jax.nn.initializers.zeros)
        self.names = normal_param(rngs, (NUM_KEYPOINTS, width), 0.5) if options.looks else None  # joint embedding
        self.stages = nnx.List([RefinementStage(sampled, width, rngs) for _ in range(options.looks)])
        self.distance = Linear(pooled, 1, rngs, kernel_init=jax.nn.initializers.zeros)
        self.variances = nnx.Param(2 * jnp.log(jnp.array([CLOSED_FORM, DISTANCE_HEAD])))  # their logarithms
        self.prior = nnx.Param(jnp.log(jnp.array(NO_PRIOR)))  # logarithms of a distance in mm, and of a variance

    def placed(self, reading: HandReading, K: jax.Array) -> Predictions:
        """As `Mediapipe.placed`, with the distance head; and what its loss terms need."""
        assert reading.log_distance is not None and reading.guesses is not None, "`read_features` sets them"
        found = super().placed(reading, K)
        found["keypoints_3d"] = place_at_distance(
            reading.world, reading.pixels, K, reading.log_distance, reading.variances, reading.prior
        )
        found["root_depth"] = focal_length(K) * jnp.exp(reading.log_distance)
        found["guesses_3d"], found["guesses_2d"] = reading.guesses[..., 2:], reading.guesses[..., :2]
        return found

    def read_features(self, features: Features) -> HandReading:
        """What the network reads, from the features of the backbone."""
        base, guesses = super().read_features(features), self._guesses(features)
        pixels, world = guesses[:, -1, :, :2], guesses[:, -1, :, 2:]
        log_distance = self.distance(features.pooled)[:, 0]
        rows = lambda values: jnp.broadcast_to(values, (log_distance.shape[0], 2))  # noqa: E731
        return base._replace(
            pixels=self.share_2d * pixels + (1 - self.share_2d) * base.pixels,
            world=self.share * _centred(world) + (1 - self.share) * _centred(base.world),
            log_distance=log_distance,
            variances=rows(jnp.exp(self.variances[...])),
            prior=rows(jnp.stack([self.prior[0], jnp.exp(self.prior[1])])),
            guesses=guesses,
        )

    def _guesses(self, features: Features) -> jax.Array:
        """Joints after the vote and after every stage: (B, G, 21, 5), x, y px and x, y, z mm."""
        joints = self.votes(features.pooled).reshape(-1, NUM_KEYPOINTS, 5)
        guesses, tokens = [joints], self.names and self.names[...]
        for stage in self.stages:
            tokens, joints = stage(tokens, joints, features)
            guesses.append(joints)
        middle = jnp.array([(CROP - 1) / 2, (CROP - 1) / 2, 0, 0, 0])
        return jnp.stack(guesses, 1) * UNIT + middle


class RefinementStage(nnx.Module):
    """Correct every joint, from both maps at the joint and from the features of all joints.

    Args:
        sampled: channels of both maps together.
        width: channels of a joint.
        rngs: draws the parameters.
    """

    def __init__(self, sampled: int, width: int, rngs: nnx.Rngs):
        self.enter, self.sampled = nnx.RMSNorm(sampled, rngs=rngs), Linear(sampled, width, rngs)
        self.placed = Linear(5, width, rngs)
        self.mixer, self.block = TokenMlp(NUM_KEYPOINTS, width, rngs), MlpBlock(width, 2 * width, rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.correction = Linear(width, 5, rngs, kernel_init=jax.nn.initializers.zeros)

    def __call__(self, tokens, joints: jax.Array, features: Features) -> tuple[jax.Array, jax.Array]:
        """Refine the joints.

        Args:
            tokens: (B, 21, width) or (21, width) features of the joints.
            joints: (B, 21, 5) in units of the heads, pixels from the crop's centre.
            features: of the backbone.

        Returns:
            New features (B, 21, width) and joints (B, 21, 5).
        """
        pixels, found = jax.lax.stop_gradient(joints[..., :2]) * UNIT, []  # from the crop's centre
        for cells, stride in ((features.fine, STRIDE / 2), (features.coarse, STRIDE)):
            found.append(sample_bilinear(cells.astype(jnp.float32), pixels / stride + (cells.shape[1] - 1) / 2))
        found = self.sampled(self.enter(jnp.concatenate(found, -1)))  # (B, 21, width)
        tokens = self.block(self.mixer(tokens + self.placed(joints) + found))
        return tokens, joints + self.correction(self.norm(tokens))


def _centred(joints: jax.Array) -> jax.Array:
    """Joints (B, 21, 3) around their mean."""
    return joints - joints.mean(1, keepdims=True)
