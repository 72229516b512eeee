"""WiLoR's refinement: what the image shows where the coarse mesh projects to corrects the hand.

Potamias et al., "WiLoR: End-to-end 3D Hand Localization and Reconstruction in-the-wild" (2024).
"""

import jax.numpy as jnp
from flax import nnx

from jaxhand.models.hamer import CAMERA_PX, readout
from jaxhand.models.upsample import Upsampler, sample

SCALES = 3


class RefineNet(nnx.Module):
    """Image tokens, coarse vertices and camera → corrections. Attributes are named as in WiLoR's checkpoint.

    WiLoR's code takes the projection, in parts of the crop's side from its centre, for pixels: all vertices look around
    the first pixel of a map, or beside it where there are zeros. Its weights have learned so, and it is done here too.

    Args:
        channels: of the tokens, a multiple of 8.
        dtype: of the convolutions; parameters, norms and the readout are float32.
        rngs: draws the parameters.
    """

    def __init__(self, channels: int, dtype: str, rngs: nnx.Rngs):
        self.deconv = Upsampler(channels, channels // 2, SCALES, rngs, branched=True, dtype=dtype)
        sampled = sum(channels >> scale for scale in range(1, SCALES + 1))
        self.dec_pose, self.dec_shape, self.dec_cam = (readout(sampled, numbers, rngs) for numbers in (96, 10, 3))

    def __call__(self, features, vertices, camera, *, train: bool = False):
        """Correct a hand.

        Args:
            features: (B,h,w,C) of the backbone.
            vertices: (B,V,3) of the coarse hand before a camera moves it, metres.
            camera: (B,3) s, tx, ty of the coarse hand.
            train: normalise by this batch's statistics, and keep running ones.

        Returns:
            What to add to six numbers a joint (B,96), shape (B,10) and camera (B,3).
        """
        found = []
        for image in reversed(self.deconv(features, train=train)):  # the finest first
            focal = CAMERA_PX / image.shape[1]
            move = jnp.stack([camera[:, 1], camera[:, 2], 2 * focal / (camera[:, 0] + 1e-9)], axis=-1)
            points = vertices + move[:, None]  # (B, V, 3)
            found.append(sample(image, focal * points[..., :2] / points[..., 2:]).max(1))
        found = jnp.concatenate(found, axis=-1).astype(jnp.float32)  # (B, C/8 + C/4 + C/2)
        return self.dec_pose(found), self.dec_shape(found), self.dec_cam(found)
