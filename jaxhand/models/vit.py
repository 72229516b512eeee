"""Vision transformer (Dosovitskiy et al. 2021), with the details of ViTPose and HaMeR: no class token, any input size."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import ConfigError, ViTConfig
from jaxhand.models import dense

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "H": (1280, 32, 16)}  # width, depth, heads
_DRAW = jax.nn.initializers.truncated_normal(0.02)


def sized(config: ViTConfig) -> ViTConfig:
    """The config with `width`, `depth` and `heads` of its `size`, where it has one.

    Raises:
        ConfigError: the size is unknown, or the heads cannot share the width.
    """
    if config.size:
        if config.size not in SIZES:
            raise ConfigError(f"model.vit.size must be one of {', '.join(SIZES)}, got {config.size!r}")
        width, depth, heads = SIZES[config.size]
        config = dataclasses.replace(config, size="", width=width, depth=depth, heads=heads)
    if config.width % config.heads:
        raise ConfigError(f"model.vit.width {config.width} cannot be shared by model.vit.heads {config.heads}")
    return config


class ViT(nnx.Module):
    """Image → tokens: patches, learned positions, blocks, a last norm.

    Args:
        config: sizes.
        image_size: (H, W) in px that the learned positions are for; others are taken too.
        padding: px of zeros around the image.
        eps: of the layer norms.
        dtype: of the products; parameters, norms and what goes from block to block are float32.
        remat: compute the activations of a block again in the backward pass.
    """

    def __init__(
        self,
        config: ViTConfig,
        image_size: tuple[int, int],
        *,
        channels: int = 3,
        padding: int = 0,
        eps: float = 1e-6,
        dtype="float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        config = sized(config)
        self.patch_embed = PatchEmbed(channels, config.width, config.patch, padding, rngs=rngs, dtype=dtype)
        self.grid = self.patch_embed.grid(*image_size)
        self.positions = nnx.Param(_DRAW(rngs.params(), (self.grid[0] * self.grid[1], config.width)))
        self.encoder = Encoder(config, eps=eps, dtype=dtype, remat=remat, rngs=rngs)

    def __call__(self, image: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, H, W, C) → (B, T, E), row by row of the grid; `key` draws the drop-path, None is test mode."""
        return self.encoder(self.embed(image), key)

    def embed(self, image: jax.Array) -> jax.Array:
        """(B, H, W, C) → what the blocks take, (B, T, E): patches with their positions."""
        grid = self.patch_embed.grid(*image.shape[1:3])
        return self.patch_embed(image) + resize_positions(self.positions[...], self.grid, grid)


class PatchEmbed(nnx.Module):
    """A convolution whose stride is its width, as a product: `proj.kernel` is (patch * patch * channels, width)."""

    def __init__(self, channels: int, width: int, patch: int, padding: int = 0, *, rngs: nnx.Rngs, dtype="float32"):
        self.patch, self.padding = patch, padding
        self.proj = _Linear(patch * patch * channels, width, rngs, dtype)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches along the height and the width of an image in px; what does not fill a patch is cut off.

        Raises:
            ConfigError: the image is smaller than a patch.
        """
        rows, columns = ((side + 2 * self.padding) // self.patch for side in (height, width))
        if not rows or not columns:
            raise ConfigError(f"an image of {height}x{width} px is smaller than a patch of {self.patch} px")
        return rows, columns

    def __call__(self, image: jax.Array) -> jax.Array:
        """(B, H, W, C) → (B, T, E) float32."""
        rows, columns = self.grid(*image.shape[1:3])
        around = (self.padding, self.padding)
        image = jnp.pad(image, ((0, 0), around, around, (0, 0)))
        image = dense.patches(image[:, : rows * self.patch, : columns * self.patch], self.patch)
        return self.proj(image.reshape(len(image), rows * columns, -1)).astype(jnp.float32)  # (B, T, patch*patch*C) in


class Encoder(nnx.Module):
    """Blocks and a last norm on tokens. Each parameter of `blocks` holds that of all blocks, along its first axis.

    Args: as of `ViT`.
    """

    def __init__(self, config: ViTConfig, *, eps: float = 1e-6, dtype="float32", remat: bool = False, rngs: nnx.Rngs):
        config = sized(config)
        self.depth, self.drop_path, self.remat = config.depth, config.drop_path, remat
        build = nnx.vmap(lambda key: Block(config, eps, dtype, nnx.Rngs(key)))
        self.blocks = build(jax.random.split(rngs.params(), config.depth))
        self.norm = _norm(config.width, eps, rngs)

    def __call__(self, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(B, T, E) → (B, T, E) float32; `key` draws which samples skip which half of a block, None skips nothing."""
        graphdef, parameters = nnx.split(self.blocks)

        def body(x, block):
            parameters, kept = block
            return nnx.merge(graphdef, parameters)(x, kept), None

        # All but these products is cheap to compute again: training takes a third of the memory, and no longer. The loop
        # unrolled by 2, 4 or 12 is no faster on a CPU, at batch 1, 8 and in training, and compiles up to 5 times as long.
        policies = jax.checkpoint_policies
        policy = policies.nothing_saveable if self.remat else policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
        kept = None if key is None or not self.drop_path else self._kept(key, len(tokens))
        return self.norm(jax.lax.scan(body, tokens.astype(jnp.float32), (parameters, kept))[0])

    def _kept(self, key, rows: int):
        """Factors (depth, 2, B) of the residuals: 0 where a sample skips one, else what keeps its expectation."""
        keep = 1 - jnp.linspace(0, self.drop_path, self.depth)[:, None, None]
        return jax.random.bernoulli(key, keep, (self.depth, 2, rows)) / keep


class Block(nnx.Module):
    """Attention among the tokens, then a perceptron on each; both take normed tokens and add to what comes in."""

    def __init__(self, config: ViTConfig, eps: float, dtype, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (_norm(config.width, eps, rngs) for _ in range(2))
        self.attn = Attention(config.width, config.heads, rngs, dtype)
        self.mlp = Mlp(config.width, int(config.mlp_ratio * config.width), rngs, dtype)

    def __call__(self, x, kept=None):
        """(B, T, E) → the same; `kept` (2, B) are factors of the two residuals."""
        first, second = (1, 1) if kept is None else kept[:, :, None, None]
        x = x + first * self.attn(self.norm1(x))
        return x + second * self.mlp(self.norm2(x))


class Attention(nnx.Module):
    """Multi-head self-attention; `qkv` gives queries, keys and values of all heads, in this order."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs, dtype):
        self.heads = heads
        self.qkv, self.proj = _Linear(width, 3 * width, rngs, dtype), _Linear(width, width, rngs, dtype)

    def __call__(self, x):
        """(B, T, E) → the same."""
        B, T, E = x.shape
        query, key, value = (part.reshape(B, T, self.heads, -1) for part in jnp.split(self.qkv(x), 3, axis=-1))
        # JAX does not choose by itself; cuDNN takes half precision only, and heads of a multiple of 8.
        fused = query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and jax.default_backend() == "gpu"
        mixed = jax.nn.dot_product_attention(query, key, value, implementation="cudnn" if fused else "xla")
        return self.proj(mixed.reshape(B, T, E))


class Mlp(nnx.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs, dtype):
        self.fc1, self.fc2 = _Linear(width, hidden, rngs, dtype), _Linear(hidden, width, rngs, dtype)

    def __call__(self, x):
        """(B, T, E) → the same."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class _Linear(dense.Linear):
    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, dtype):
        nnx.Linear.__init__(self, inputs, outputs, kernel_init=_DRAW, dtype=jnp.dtype(dtype), rngs=rngs)


def resize_positions(positions: jax.Array, old: tuple[int, int], new: tuple[int, int]) -> jax.Array:
    """Positions (T, E) of a grid of `old` (rows, columns), made bicubically for a grid of `new`."""
    if old == new:
        return positions
    width = positions.shape[-1]
    return jax.image.resize(positions.reshape(*old, width), (*new, width), "bicubic").reshape(-1, width)  # (T', E)


def _norm(width: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, rngs=rngs)
