"""HaMeR: a vision transformer encodes the crop; a transformer decoder with one query token predicts MANO parameters.

Pavlakos et al., "Reconstructing Hands in 3D with Transformers" (2024). Attributes are named as in HaMeR's checkpoint.
"""

import typing

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import Config
from jaxhand.hand.rotations import axis_angle_to_matrix, rotation_6d_to_matrix
from jaxhand.hand.skinned import NUM_JOINTS, SkinnedHand
from jaxhand.models import vit
from jaxhand.models.contract import Predictions
from jaxhand.models.decoder import Decoder
from jaxhand.models.discriminator import Discriminator, discriminator_outputs
from jaxhand.models.layers import output_layer
from jaxhand.models.mano_head import mano_predictions, mean_mano_params
from jaxhand.models.preprocess import center_crop_normalize

CAMERA_PX = 5000.0  # focal length that HaMeR assumes, px, for a crop of 256 px
FOCAL = CAMERA_PX / 256  # focal length / side of the crop
LOSS_TERMS = ("keypoints_2d", "keypoints_3d", "global_orient", "hand_pose", "betas")
ADVERSARIAL_TERMS = ("adversarial", "discriminator")


class Hamer(nnx.Module):
    """RGB crop → pose, shape and camera of a hand.

    Args:
        config: the config. Used: `model.vit`, `model.hamer`, `model.dtype` (type of the matrix products),
            `model.remat`, `data.image_size`. The network uses the middle three quarters of the image's width, so the
            image size must be a multiple of 4 patches.
        hand_model: the hand whose parameters are predicted.
        rngs: draws the parameters.

    Raises:
        ConfigError: the sizes do not fit.
        UserError: the file of the mean parameters cannot be read.
    """

    has_mesh = True

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        self.hand_model = hand_model
        self._build(config, rngs)
        self.discriminator = Discriminator(rngs) if config.model.hamer.discriminator else None
        self.loss_terms = LOSS_TERMS + (ADVERSARIAL_TERMS if self.discriminator else ())

    def _build(self, config: Config, rngs: nnx.Rngs) -> None:
        self.backbone = vit.ViT(**vit.center_crop_arguments(config), rngs=rngs)
        self.mano_head = ManoHead(config, self.hand_model, rngs)

    def __call__(self, batch: dict, key: jax.Array | None = None) -> Predictions:
        """Predict a hand.

        Args:
            batch: `image` (B,S,S,3) in 0..1 and `K` (B,3,3) of the crop; with a key and a discriminator also the
                arguments of `real_hands`.
            key: random key of stochastic depth (drop-path); None: test mode.

        Returns:
            The predictions of `mano_predictions`; with a key and a discriminator also `discriminator_outputs`.
        """
        pose, shape, camera = self.predict_params(center_crop_normalize(batch["image"]), key)
        rotations = rotation_6d_to_matrix(pose.reshape(-1, NUM_JOINTS, 6))  # (B, 96) → (B, 16, 3, 3)
        predictions = mano_predictions(self.hand_model, rotations, shape, camera, batch, focal=FOCAL)
        if self.discriminator is not None and key is not None:
            predictions |= discriminator_outputs(self.discriminator, rotations, shape, *real_hands(batch))
        return typing.cast(Predictions, predictions)

    def predict_params(self, image: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Preprocessed image (B, S, 3S/4, 3) → 6D rotations (B, 96), shape (B, 10), camera (B, 3) s, tx, ty."""
        return self.mano_head(self.backbone(image, key))


class ManoHead(nnx.Module):
    """Transformer decoder over the image tokens. Its outputs are added to the mean MANO parameters.

    The output layers and these sums are always float32. In bfloat16, fingertips would move by tenths of a millimetre;
    and the wrist rotation of HaMeR's mean parameters depends on a value of only 1.5e-7.
    """

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        head = config.model.hamer
        self.transformer = Decoder(head, vit.resolve_size(config.model.vit).width, config.model.dtype, rngs)
        self.decpose, self.decshape, self.deccam = (output_layer(head.width, size, rngs) for size in (96, 10, 3))
        self.init_hand_pose, self.init_betas, self.init_cam = mean_mano_params(head.init, hand_model)

    def __call__(self, context: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Image tokens (B, T, E) → 6D rotations (B, 96), shape (B, 10), camera (B, 3)."""
        token = self.transformer(context)  # (B, width)
        return (
            self.init_hand_pose[...] + self.decpose(token),
            self.init_betas[...] + self.decshape(token),
            self.init_cam[...] + self.deccam(token),
        )


def real_hands(batch: dict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Real hands for the discriminator: from `data.mocap`, as in HaMeR, if set, else the labelled hands of the batch.

    Args:
        batch: `mocap_pose` (B,R,48) axis-angle vectors, first that of the whole hand, and `mocap_shape` (B,R,10); or
            `mano_pose` (B,48), `mano_shape` (B,10) and `has_pose` (B,), with R = 1.

    Returns:
        Rotations of the digits' joints (B,R,15,3,3), shapes (B,R,10), and a mask (B,R): 0 where there is no hand.
    """
    B = len(batch["image"])
    pose, shape, real = batch["mano_pose"], batch["mano_shape"], batch["has_pose"]
    if "mocap_pose" in batch:
        pose, shape, real = batch["mocap_pose"], batch["mocap_shape"], jnp.ones(batch["mocap_pose"].shape[:-1])
    digits = pose.reshape(B, -1, NUM_JOINTS, 3)[:, :, 1:]  # (B, R, 48) → (B, R, 15, 3)
    return axis_angle_to_matrix(digits), shape.reshape(B, -1, 10), real.reshape(B, -1)
