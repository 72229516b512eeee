"""WiLoR: a vision transformer with tokens for joints, shape and camera predicts a hand; a refinement net corrects it.

Potamias et al., "WiLoR: End-to-end 3D Hand Localization and Reconstruction in-the-wild" (2024). Attributes are named as
in WiLoR's checkpoint.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import Config, ConfigError
from jaxhand.hand import skinned
from jaxhand.hand.rotations import rotation_6d_to_matrix
from jaxhand.hand.skinned import NUM_JOINTS, SkinnedHand
from jaxhand.models import vit
from jaxhand.models.hamer import Hamer
from jaxhand.models.layers import output_layer
from jaxhand.models.mano_head import mean_mano_params
from jaxhand.models.refine import RefineNet


class Wilor(Hamer):
    """RGB crop → pose, shape and camera of a hand, with the inputs and outputs of `Hamer`.

    Args:
        config: as for `Hamer`, but of `model.hamer` only `init` and `discriminator` are used. `model.vit.width` must
            be a multiple of 8.
        hand_model: the hand whose parameters are predicted. The refinement net samples image features at its vertices.
        rngs: draws the parameters.

    Raises:
        ConfigError: the sizes do not fit.
        UserError: the file of the mean parameters cannot be read.
    """

    def _build(self, config: Config, rngs: nnx.Rngs) -> None:
        width = vit.resolve_size(config.model.vit).width
        if width % 8:
            raise ConfigError(f"model.vit.width must be a multiple of 8 for model 'wilor', got {width}")
        self.backbone = Backbone(config, self.hand_model, rngs)
        self.refine_net = RefineNet(width, config.model.dtype, rngs)

    def predict_params(self, image: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As `Hamer.predict_params`. With a key, batch norms of the refinement net use the statistics of the batch."""
        *coarse, features = self.backbone(image, key)
        pose, shape, camera = coarse
        rotations = rotation_6d_to_matrix(pose.reshape(-1, NUM_JOINTS, 6))  # (B, 96) → (B, 16, 3, 3)
        vertices = skinned.forward(self.hand_model, rotations, shape).vertices  # (B, V, 3) mm
        corrections = self.refine_net(features, vertices / 1000, camera, train=key is not None)
        pose, shape, camera = (params + correction for params, correction in zip(coarse, corrections))
        return pose, shape, camera


class Backbone(vit.ViT):
    """A `ViT` with 18 more input tokens: the mean MANO parameters. Their outputs become the coarse MANO parameters."""

    def __init__(self, config: Config, hand_model: SkinnedHand, rngs: nnx.Rngs):
        super().__init__(**vit.center_crop_arguments(config), rngs=rngs)
        width, dtype = vit.resolve_size(config.model.vit).width, jnp.dtype(config.model.dtype)
        self.init_hand_pose, self.init_betas, self.init_cam = mean_mano_params(config.model.hamer.init, hand_model)
        self.pose_emb, self.shape_emb, self.cam_emb = (nnx.Linear(n, width, dtype=dtype, rngs=rngs) for n in (6, 10, 3))
        self.decpose, self.decshape, self.deccam = (output_layer(width, size, rngs) for size in (6, 10, 3))

    def __call__(
        self, image: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(B, H, W, 3) → 6D rotations (B, 96), shape (B, 10), camera (B, 3), and image tokens (B, h, w, E)."""
        B, grid = image.shape[0], self.patch_embed.grid(*image.shape[1:3])
        pose, shape, camera = (value[...] for value in (self.init_hand_pose, self.init_betas, self.init_cam))
        param_tokens = self.pose_emb(pose.reshape(NUM_JOINTS, 6)), self.shape_emb(shape), self.cam_emb(camera)
        param_tokens = jnp.concatenate(param_tokens)  # (18, E)
        param_tokens = jnp.broadcast_to(param_tokens, (B, *param_tokens.shape))
        tokens = jnp.concatenate([param_tokens, self.embed(image)], axis=1)
        tokens = self.encoder(tokens, key)  # (B, 18 + h * w, E)
        return (
            pose + self.decpose(tokens[:, :NUM_JOINTS]).reshape(B, -1),  # (B, 16, 6) → (B, 96)
            shape + self.decshape(tokens[:, NUM_JOINTS]),
            camera + self.deccam(tokens[:, NUM_JOINTS + 1]),
            tokens[:, NUM_JOINTS + 2 :].reshape(B, *grid, -1),  # (B, h * w, E) → (B, h, w, E)
        )
