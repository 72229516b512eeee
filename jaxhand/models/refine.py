"""WiLoR's refinement: image features sampled at the projected vertices of the coarse hand correct its parameters.

Potamias et al., "WiLoR: End-to-end 3D Hand Localization and Reconstruction in-the-wild" (2024).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.models.hamer import CAMERA_PX
from jaxhand.models.layers import output_layer
from jaxhand.models.upsample import Upsampler, sample_bilinear

SCALES = 3


class RefineNet(nnx.Module):
    """Image tokens, coarse vertices and camera → corrections. Attributes are named as in WiLoR's checkpoint.

    WiLoR's code uses the projection, in parts of the crop's side from its centre, as if it were pixels: all vertices
    sample close to the first pixel of a map, or in the zero padding next to it. Its weights were trained so, and this
    code does the same.

    Args:
        channels: of the tokens, a multiple of 8.
        dtype: of the convolutions; parameters, norms and the output layers are float32.
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
            features: (B,h,w,C) of the backbone.
            vertices: (B,V,3) of the coarse hand before the camera's translation, metres.
            camera: (B,3) s, tx, ty of the coarse hand.
            train: normalise by the statistics of this batch, and update the running ones.

        Returns:
            Corrections to add to the 6D rotations (B,96), the shape (B,10) and the camera (B,3).
        """
        sampled = []
        for feature_map in reversed(self.deconv(features, train=train)):  # the finest first
            focal = CAMERA_PX / feature_map.shape[1]
            translation = jnp.stack([camera[:, 1], camera[:, 2], 2 * focal / (camera[:, 0] + 1e-9)], axis=-1)
            points = vertices + translation[:, None]  # (B, V, 3)
            pixels = focal * points[..., :2] / points[..., 2:]  # (B, V, 2)
            sampled.append(sample_bilinear(feature_map, pixels).max(1))  # (B, c)
        sampled = jnp.concatenate(sampled, axis=-1).astype(jnp.float32)  # (B, C/8 + C/4 + C/2)
        return self.dec_pose(sampled), self.dec_shape(sampled), self.dec_cam(sampled)
