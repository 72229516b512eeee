"""Vision transformer (Dosovitskiy et al. 2021) as in ViTPose and HaMeR: no class token, images of any size.

Attribute names are the parameter paths of saved checkpoints: do not change them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxhand.config import Config, ConfigError, ViTConfig
from jaxhand.models.layers import Linear, layer_norm, patchify

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "H": (1280, 32, 16)}  # width, depth, heads
PADDING = 2  # zero padding around the image in ViTPose and HaMeR, px
_INIT = jax.nn.initializers.truncated_normal(0.02)


def resolve_size(config: ViTConfig) -> ViTConfig:
    """If `size` is set, replace `size` by the width, depth and number of heads of this size.

    Raises:
        ConfigError: the size is unknown, or the width is not a multiple of the number of heads.
    """
    if config.size:
        if config.size not in SIZES:
            raise ConfigError(f"model.vit.size must be one of {', '.join(SIZES)}, got {config.size!r}")
        width, depth, heads = SIZES[config.size]
        config = dataclasses.replace(config, size="", width=width, depth=depth, heads=heads)
    if config.width % config.heads:
        raise ConfigError(f"model.vit.width must be a multiple of model.vit.heads {config.heads}, got {config.width}")
    return config


def center_crop_arguments(config: Config, *, padding: int = PADDING) -> dict:
    """The arguments of a `ViT` whose input is the output of `preprocess.center_crop`.

    Raises:
        ConfigError: three quarters of the crop's side are not a whole number of patches.
    """
    size, patch = config.data.image_size, config.model.vit.patch
    if size % (4 * patch) or size % 8:
        raise ConfigError(
            f"data.image_size must be a multiple of {np.lcm(4 * patch, 8)} for model {config.model.name!r} and "
            f"model.vit.patch {patch}, got {size}"
        )
    return {
        "config": config.model.vit,
        "image_size": (size, size * 3 // 4),
        "padding": padding,
        "eps": 1e-6,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
    }


class ViT(nnx.Module):
    """Image → tokens: patch embedding, learned position embedding, transformer blocks, final norm.

    Args:
        config: sizes of the transformer.
        image_size: (H, W) px, image size of the position embedding, which is resized for images of other sizes.
        channels: number of channels of the image.
        padding: zero padding around the image, px.
        eps: epsilon of the layer norms.
        dtype: type of the matrix products; parameters, norms and residuals are float32.
        remat: rematerialisation: compute the activations of a block again in the backward pass.
        rngs: draws the parameters.
    """

    def __init__(
        self,
        config: ViTConfig,
        image_size: tuple[int, int],
        *,
        channels: int = 3,
        padding: int = 0,
        eps: float = 1e-6,
        dtype: DTypeLike = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        config = resolve_size(config)
        self.patch_embed = PatchEmbed(channels, config.width, config.patch, padding, rngs=rngs, dtype=dtype)
        self.grid = self.patch_embed.grid(*image_size)
        self.positions = nnx.Param(_INIT(rngs.params(), (self.grid[0] * self.grid[1], config.width)))
        self.encoder = Encoder(config, eps=eps, dtype=dtype, remat=remat, rngs=rngs)

    def __call__(self, image: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) → (B, T, E), row by row; `key` is the random key of stochastic depth, None: test mode."""
        return self.encoder(self.embed(image), key)

    def embed(self, image: jax.Array) -> jax.Array:
        """Embed the patches of images, and add the position embedding: (B, H, W, C) → (B, T, E)."""
        grid = self.patch_embed.grid(*image.shape[1:3])
        return self.patch_embed(image) + resize_positions(self.positions[...], self.grid, grid)


class PatchEmbed(nnx.Module):
    """Patch embedding: a convolution with stride = kernel size, computed as a matrix product.

    `proj.kernel` is (patch * patch * channels, width).
    """

    def __init__(
        self, channels: int, width: int, patch: int, padding: int = 0, *, rngs: nnx.Rngs, dtype: DTypeLike = "float32"
    ):
        self.patch, self.padding = patch, padding
        self.proj = _linear(patch * patch * channels, width, rngs, dtype)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Number of patches along the height and the width (px) of an image; incomplete patches are cut off.

        Raises:
            ConfigError: the image is smaller than a patch.
        """
        rows, columns = ((side + 2 * self.padding) // self.patch for side in (height, width))
        if not rows or not columns:
            raise ConfigError(f"an image of {height}x{width} px is smaller than a patch of {self.patch} px")
        return rows, columns

    def __call__(self, image: jax.Array) -> jax.Array:
        """(B, H, W, C) → (B, T, E) float32."""
        B = image.shape[0]
        rows, columns = self.grid(*image.shape[1:3])
        around = (self.padding, self.padding)
        image = jnp.pad(image, ((0, 0), around, around, (0, 0)))
        patches = patchify(
            image[:, : rows * self.patch, : columns * self.patch], self.patch
        )  # (B, rows, columns, p*p*C)
        return self.proj(patches.reshape(B, rows * columns, -1)).astype(jnp.float32)


class Encoder(nnx.Module):
    """Transformer blocks and a final norm. The first axis of each array in `blocks` is the block index.

    Args: as for `ViT`.
    """

    def __init__(
        self, config: ViTConfig, *, eps: float = 1e-6, dtype: DTypeLike = "float32", remat: bool = False, rngs: nnx.Rngs
    ):
        config = resolve_size(config)
        self.depth, self.drop_path, self.remat = config.depth, config.drop_path, remat
        build = nnx.vmap(lambda key: Block(config, eps, dtype, nnx.Rngs(key)))
        self.blocks = build(jax.random.split(rngs.params(), config.depth))
        self.norm = layer_norm(config.width, eps, rngs)

    def __call__(self, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, T, E) → (B, T, E) float32; `key` is the random key of stochastic depth, None: test mode."""
        graphdef, parameters = nnx.split(self.blocks)

        def body(x, block):
            parameters, kept = block
            return nnx.merge(graphdef, parameters)(x, kept), None

        # The backward pass keeps only the results of matrix products and computes the rest again. So training needs one
        # third of the memory, and no more time. Unrolling the loop by 2, 4 or 12 is not faster on a CPU (prediction at
        # batch 1 and 8, training), and compilation takes up to 5 times as long.
        policies = jax.checkpoint_policies
        policy = policies.nothing_saveable if self.remat else policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
        kept = None if key is None or not self.drop_path else self._kept(key, len(tokens))
        return self.norm(jax.lax.scan(body, tokens.astype(jnp.float32), (parameters, kept))[0])

    def _kept(self, key, rows: int):
        """Stochastic depth: factors (depth, 2, B) of the residual branches: 0, or 1 / (probability of keeping it)."""
        keep = 1 - jnp.linspace(0, self.drop_path, self.depth)[:, None, None]
        return jax.random.bernoulli(key, keep, (self.depth, 2, rows)) / keep


class Block(nnx.Module):
    """Pre-norm transformer block: self-attention, then an MLP, each with a residual connection."""

    def __init__(self, config: ViTConfig, eps: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (layer_norm(config.width, eps, rngs) for _ in range(2))
        self.attn = Attention(config.width, config.heads, rngs, dtype)
        self.mlp = Mlp(config.width, int(config.mlp_ratio * config.width), rngs, dtype)

    def __call__(self, x: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """(B, T, E) → (B, T, E); `kept` (2, B) are the stochastic-depth factors of the two residual branches."""
        first, second = (1, 1) if kept is None else kept[:, :, None, None]
        x = x + first * self.attn(self.norm1(x))
        return x + second * self.mlp(self.norm2(x))


class Attention(nnx.Module):
    """Multi-head self-attention. The layer `qkv` returns all queries, then all keys, then all values."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs, dtype: DTypeLike):
        self.heads = heads
        self.qkv, self.proj = _linear(width, 3 * width, rngs, dtype), _linear(width, width, rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, E) → (B, T, E)."""
        B, T, E = x.shape
        # (B, T, heads, E / heads) each
        query, key, value = (part.reshape(B, T, self.heads, -1) for part in jnp.split(self.qkv(x), 3, axis=-1))
        # JAX does not choose cuDNN's fused kernel by itself. This kernel needs half precision and head widths that are
        # multiples of 8.
        fused = query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and jax.default_backend() == "gpu"
        mixed = jax.nn.dot_product_attention(query, key, value, implementation="cudnn" if fused else "xla")
        return self.proj(mixed.reshape(B, T, E))


class Mlp(nnx.Module):
    """MLP of two layers with the exact GELU."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs, dtype: DTypeLike):
        self.fc1, self.fc2 = _linear(width, hidden, rngs, dtype), _linear(hidden, width, rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, T, E) → (B, T, E)."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs, dtype) -> Linear:
    return Linear(inputs, outputs, rngs, kernel_init=_INIT, dtype=jnp.dtype(dtype))


def resize_positions(positions: jax.Array, old: tuple[int, int], new: tuple[int, int]) -> jax.Array:
    """Resize a position embedding bicubically: (T, E) of grid `old` (rows, columns) → (T', E) of grid `new`."""
    if old == new:
        return positions
    width = positions.shape[-1]
    positions = jax.image.resize(positions.reshape(*old, width), (*new, width), "bicubic")  # (rows, columns, E)
    return positions.reshape(-1, width)  # (T', E)
