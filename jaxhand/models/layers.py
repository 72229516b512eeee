"""Layers and initialisers that several networks share.

Attribute names are the parameter paths of saved checkpoints: do not change them.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from jaxhand.hand.skeleton import JOINT_NAMES

NUM_KEYPOINTS = len(JOINT_NAMES)  # 21


class Linear(nnx.Linear):
    """A linear layer over the last axis of (..., C).

    All other axes are flattened to one: on a CPU, XLA computes the gradient of the kernel 1.5 times faster than for
    axes (B, h, w).

    Args:
        inputs, outputs: number of channels.
        rngs: draws the kernel.
        scale: standard deviation of the initial kernel * sqrt(inputs).
        kernel_init: replaces the initialiser that `scale` describes.
        dtype: type of the matrix product; None: the type of the inputs and parameters.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rngs: nnx.Rngs,
        scale: float = 1.0,
        *,
        kernel_init: Initializer | None = None,
        dtype: jnp.dtype | None = None,
    ):
        kernel_init = kernel_init or jax.nn.initializers.variance_scaling(scale**2, "fan_in", "normal")
        super().__init__(inputs, outputs, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) → (..., outputs)."""
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.out_features)


class MlpBlock(nnx.Module):
    """Residual MLP of two layers over the channels, after an RMS norm.

    Args:
        width: number of channels.
        hidden: number of channels between the two layers.
        rngs: draws the parameters.
        dtype: type of the matrix products. The sum with the input has the type of the input.
    """

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs, dtype: str = "float32"):
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = Linear(width, hidden, rngs, scale=1.4, dtype=jnp.dtype(dtype))
        self.down = Linear(hidden, width, rngs, scale=0.3, dtype=jnp.dtype(dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) → (..., C)."""
        return x + self.down(jax.nn.relu(self.up(self.norm(x))))


class ShiftMlpBlock(MlpBlock):
    """`MlpBlock` on a grid. A fifth of its input channels comes from each of the four neighbour cells."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) → (B, h, w, C)."""
        return x + self.down(jax.nn.relu(self.up(shift_channels(self.norm(x)))))


class TokenMixer(nnx.Module):
    """Residual linear layer over all cells of a grid, with the same weights for all channels: global context.

    Args:
        tokens: number of cells T.
        width: number of channels.
        rngs: draws the parameters.
        dtype: type of the matrix product, as of `MlpBlock`.
    """

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs, dtype: str = "float32"):
        self.dtype, self.norm = dtype, nnx.RMSNorm(width, rngs=rngs)
        self.mix = normal_param(rngs, (tokens, tokens), 0.3 * tokens**-0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, C) → (B, h, w, C), where h * w = T."""
        tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])  # (B, T, C)
        mixed = product("btc,ts->bsc", tokens, self.mix[...], self.dtype)
        return x + mixed.reshape(x.shape)  # (B, T, C) → (B, h, w, C)


class TokenMlp(nnx.Module):
    """Residual MLP of two layers over the tokens, such as the joints, with the same weights for all channels.

    Args:
        tokens: number of tokens T; the hidden layer has 2 T tokens.
        width: number of channels.
        rngs: draws the parameters.
        dtype: type of the matrix products, as of `MlpBlock`.
    """

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs, dtype: str = "float32"):
        self.dtype, self.norm = dtype, nnx.RMSNorm(width, rngs=rngs)
        self.up = normal_param(rngs, (tokens, 2 * tokens), tokens**-0.5)
        self.down = normal_param(rngs, (2 * tokens, tokens), 0.3 * (2 * tokens) ** -0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, C) → (B, T, C)."""
        hidden = jax.nn.relu(product("bjc,jk->bkc", self.norm(x), self.up[...], self.dtype))  # (B, 2 * T, C)
        return x + product("bkc,kj->bjc", hidden, self.down[...], self.dtype)


def product(axes: str, x: jax.Array, matrix: jax.Array, dtype: str) -> jax.Array:
    """`jnp.einsum(axes, x, matrix)` of both in another type."""
    return jnp.einsum(axes, x.astype(dtype), matrix.astype(dtype))


def patchify(x: jax.Array, side: int) -> jax.Array:
    """Split a grid into square patches: (B, h, w, C) → (B, h/side, w/side, side*side*C)."""
    B, h, w, C = x.shape
    x = x.reshape(B, h // side, side, w // side, side, C).transpose(0, 1, 3, 2, 4, 5)  # (B, h/s, w/s, s, s, C)
    return x.reshape(B, h // side, w // side, side * side * C)


def shift_channels(x: jax.Array) -> jax.Array:
    """Shift channels of a grid (B, h, w, C) by one cell: one fifth in each of four directions, with zero padding."""
    C, h, w = x.shape[-1], *x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Upper left corners of the windows from which the five fifths of the channels are cut
    corners = ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))
    return jnp.concatenate(
        [padded[:, i : i + h, j : j + w, C * k // 5 : C * (k + 1) // 5] for k, (i, j) in enumerate(corners)], axis=-1
    )


def output_layer(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A float32 linear layer, at full precision, for the outputs of a network. Its initial weights are near zero."""
    kernel_init = jax.nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform")
    return nnx.Linear(inputs, outputs, kernel_init=kernel_init, precision="highest", rngs=rngs)


def layer_norm(width: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm that computes the variance from the differences to the mean, as PyTorch does."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def normal_param(rngs: nnx.Rngs, shape: tuple[int, ...], scale: float) -> nnx.Param:
    """A parameter whose values are drawn from a normal distribution of standard deviation `scale`."""
    return nnx.Param(scale * jax.random.normal(rngs.params(), shape))
