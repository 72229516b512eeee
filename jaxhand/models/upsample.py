"""Upsampling of feature maps by transposed convolutions, and bilinear sampling of feature maps."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class Upsampler(nnx.Module):
    """Feature map → a list of maps, each with twice the resolution and half the channels of the map before.

    A 1x1 convolution computes the first map. A transposed 4x4 convolution of stride 2 (PyTorch's padding 1), batch
    normalisation and ReLU compute each next map. A kernel is (4, 4, in, out): PyTorch's kernel (in, out, 4, 4), flipped
    vertically and horizontally.
    Attribute names are the parameter paths of saved checkpoints: do not change them.

    Args:
        channels_in: number of channels of the input map.
        channels: number of channels of the first output map.
        scales: number of output maps.
        rngs: draws the parameters.
        branched: True: every map is computed from the first map, by layers of its own, as in WiLoR. False: every map is
            computed from the map before.
        dtype: type of the convolutions and the maps; parameters and statistics are float32.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        scales: int,
        rngs: nnx.Rngs,
        *,
        branched: bool = False,
        dtype: DTypeLike = "float32",
    ):
        self.branched, dtype = branched, jnp.dtype(dtype)
        self.first = nnx.Linear(channels_in, channels, dtype=dtype, rngs=rngs)
        steps = [[*range(scale + 1)] if branched else [scale] for scale in range(scales - 1)]
        self.chains = nnx.List([nnx.List([_Step(channels >> step, dtype, rngs) for step in chain]) for chain in steps])

    def __call__(self, x: jax.Array, *, train: bool = False) -> list[jax.Array]:
        """(B, h, w, C) → maps (B, h, w, c), (B, 2h, 2w, c/2), …; `train`: batch norms use the batch's statistics."""
        maps = [self.first(x)]
        for chain in self.chains:
            x = maps[0 if self.branched else -1]
            for step in chain:
                x = step(x, train)
            maps.append(x)
        return maps


class _Step(nnx.Module):
    """Transposed convolution, batch norm and ReLU."""

    def __init__(self, channels: int, dtype, rngs: nnx.Rngs):
        self.conv = nnx.ConvTranspose(
            channels, channels // 2, kernel_size=(4, 4), strides=(2, 2), use_bias=False, dtype=dtype, rngs=rngs
        )
        self.norm = nnx.BatchNorm(channels // 2, momentum=0.9, dtype=dtype, rngs=rngs)

    def __call__(self, x, train):
        """(B, h, w, c) → (B, 2h, 2w, c/2)."""
        return jax.nn.relu(self.norm(self.conv(x), use_running_average=not train))


def sample_bilinear(image: jax.Array, positions: jax.Array) -> jax.Array:
    """Sample maps bilinearly, with zero padding: PyTorch's `grid_sample`.

    Args:
        image: (B, h, w, C) maps.
        positions: (B, N, 2) x, y in px of the map; integers are pixel centres.

    Returns:
        (B, N, C).
    """
    B, h, w, C = image.shape
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(B, (h + 2) * (w + 2), C)
    positions = jnp.clip(positions + 1, 0, jnp.array([w + 1, h + 1], positions.dtype))  # px of the padded map
    corner = jnp.clip(positions.astype(jnp.int32), 0, jnp.array([w, h]))  # (B, N, 2) upper left of the four neighbours
    right, down = jnp.moveaxis((positions - corner).astype(image.dtype), -1, 0)[..., None]  # (B, N, 1) each
    at = lambda i, j: jnp.take_along_axis(
        padded, ((corner[..., 1] + i) * (w + 2) + corner[..., 0] + j)[..., None], axis=1
    )
    above = at(0, 0) * (1 - right) + at(0, 1) * right
    below = at(1, 0) * (1 - right) + at(1, 1) * right
    return above * (1 - down) + below * down
