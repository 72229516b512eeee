"""WiLoR: tokens for the joints, shape and camera go through the transformer with the image, and are then refined.

Potamias et al., "WiLoR: End-to-end 3D Hand Localization and Reconstruction in-the-wild" (2024). Attributes are named as
in its checkpoint.
"""

import jax.numpy as jnp
from flax import nnx

from jaxhand.config import Config, ConfigError
from jaxhand.hand import skinned
from jaxhand.hand.rotations import rotation_6d_to_matrix
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.models import vit
from jaxhand.models.hamer import JOINTS, Hamer, mean_hand, readout, vit_arguments
from jaxhand.models.refine import RefineNet


class Wilor(Hamer):
    """Colour crop → pose, shape and camera of a hand, as `Hamer`.

    Args:
        config: as of `Hamer`, but of `model.hamer` it has `init` and `discriminator` alone. `model.vit.width` is a
            multiple of 8.
        hand: whose mesh it is, and whose vertices are looked up.
        rngs: draws the parameters.
    """

    def _build(self, config: Config, rngs: nnx.Rngs) -> None:
        width = vit.sized(config.model.vit).width
        if width % 8:
            raise ConfigError(f"model.vit.width must be a multiple of 8 for model 'wilor', got {width}")
        self.backbone = Backbone(config, self.hand, rngs)
        self.refine_net = RefineNet(width, config.model.dtype, rngs)

    def numbers(self, image, key=None):
        """As of `Hamer`; a key also makes the refinement normalise by this batch's statistics."""
        *coarse, features = self.backbone(image, key)
        pose, shape, camera = coarse
        surface = skinned.forward(self.hand, rotation_6d_to_matrix(pose.reshape(-1, JOINTS, 6)), shape).vertices
        corrections = self.refine_net(features, surface / 1000, camera, train=key is not None)
        return tuple(number + correction for number, correction in zip(coarse, corrections))


class Backbone(vit.ViT):
    """A `ViT` that takes the numbers of a mean hand as 18 further tokens, and reads a coarse hand from them."""

    def __init__(self, config: Config, hand: SkinnedHand, rngs: nnx.Rngs):
        super().__init__(**vit_arguments(config), rngs=rngs)
        width, dtype = vit.sized(config.model.vit).width, jnp.dtype(config.model.dtype)
        self.init_hand_pose, self.init_betas, self.init_cam = mean_hand(config.model.hamer.init, hand)
        self.pose_emb, self.shape_emb, self.cam_emb = (nnx.Linear(n, width, dtype=dtype, rngs=rngs) for n in (6, 10, 3))
        self.decpose, self.decshape, self.deccam = (readout(width, numbers, rngs) for numbers in (6, 10, 3))

    def __call__(self, image, key=None):
        """(B, H, W, 3) → six numbers a joint (B, 96), shape (B, 10), camera (B, 3), and image tokens (B, h, w, E)."""
        B, grid = len(image), self.patch_embed.grid(*image.shape[1:3])
        pose, shape, camera = (value[...] for value in (self.init_hand_pose, self.init_betas, self.init_cam))
        first = self.pose_emb(pose.reshape(JOINTS, 6)), self.shape_emb(shape), self.cam_emb(camera)
        first = jnp.concatenate(first)  # (18, E)
        tokens = jnp.concatenate([jnp.broadcast_to(first, (B, *first.shape)), self.embed(image)], axis=1)
        tokens = self.encoder(tokens, key)  # (B, 18 + h * w, E)
        return (
            pose + self.decpose(tokens[:, :JOINTS]).reshape(B, -1),  # (B, 16, 6) in
            shape + self.decshape(tokens[:, JOINTS]),
            camera + self.deccam(tokens[:, JOINTS + 1]),
            tokens[:, JOINTS + 2 :].reshape(B, *grid, -1),
        )
