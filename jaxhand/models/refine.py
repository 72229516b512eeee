"""WiLoR's refinement net: corrects MANO parameters with image features at the projected vertices of the coarse hand.

Potamias et al., "WiLoR: End-to-end 3D Hand Localization and Reconstruction in-the-wild" (2024).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.models.hamer import CAMERA_PX
from jaxhand.models.layers import output_layer
from jaxhand.models.upsample import Upsampler, sample_bilinear

SCALES = 3  # number of feature maps


class RefineNet(nnx.Module):
    """Image tokens, coarse vertices and camera → corrections. Attributes are named as in WiLoR's checkpoint.

    The projected positions are fractions of the crop's side, from its centre. WiLoR's code uses them as if they were
    pixels, so all samples are close to the first pixel of a map, or in the zero padding next to it. WiLoR's weights
    were trained with this code, so this class does the same.

    Args:
        channels: number of channels of the tokens, a multiple of 8.
        dtype: type of the convolutions; parameters, norms and the output layers are float32.
        rngs: draws the parameters.
    """

    def __init__(self, channels: int, dtype: str, rngs: nnx.Rngs):
        self.deconv = Upsampler(channels, channels // 2, SCALES, rngs, branched=True, dtype=dtype)
        sampled = sum(channels >> scale for scale in range(1, SCALES + 1))
        self.dec_pose, self.dec_shape, self.dec_cam = (output_layer(sampled, size, rngs) for size in (96, 10, 3))

    def __call__(
        self, features: jax.Array, vertices: jax.Array, camera: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Predict corrections of the parameters of a hand.

        Args:
            features: (B,h,w,C) image tokens of the backbone.
            vertices: (B,V,3) metres, vertices of the coarse hand before the translation by the camera.
            camera: (B,3) s, tx, ty of the coarse hand.
            train: batch norms use the statistics of this batch, and update the running statistics.

        Returns:
            Corrections to add to the 6D rotations (B,96), the shape (B,10) and the camera (B,3).
        """
        sampled = []
        for feature_map in reversed(self.deconv(features, train=train)):  # the finest map first
            focal = CAMERA_PX / feature_map.shape[1]
            translation = jnp.stack([camera[:, 1], camera[:, 2], 2 * focal / (camera[:, 0] + 1e-9)], axis=-1)
            points = vertices + translation[:, None]  # (B, V, 3)
            pixels = focal * points[..., :2] / points[..., 2:]  # (B, V, 2)
            sampled.append(sample_bilinear(feature_map, pixels).max(1))  # (B, c)
        sampled = jnp.concatenate(sampled, axis=-1).astype(jnp.float32)  # (B, C/8 + C/4 + C/2)
        return self.dec_pose(sampled), self.dec_shape(sampled), self.dec_cam(sampled)
