"""HaMeR's transformer decoder: one query token, with self-attention and with cross-attention to the image tokens.

Attribute names are the parameter paths of saved checkpoints: do not change them.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxhand.config import HamerConfig
from jaxhand.models.layers import layer_norm, normal_param

NORM_EPSILON = 1e-5


class Decoder(nnx.Module):
    """Decoder of a single query token. The first axis of each array in `layers` is the layer index.

    Args:
        config: `width` (channels of the query token), `depth` (number of layers), `heads` (number of attention heads),
            `head_width` (channels of a head), `mlp` (hidden channels).
        context: number of channels of the image tokens.
        dtype: type of the matrix products; parameters, norms and residuals are float32.
        rngs: draws the parameters.
    """

    def __init__(self, config: HamerConfig, context: int, dtype: str, rngs: nnx.Rngs):
        self.depth = config.depth
        self.to_token_embedding = nnx.Linear(1, config.width, rngs=rngs)
        self.pos_embedding = normal_param(rngs, (1, 1, config.width), 0.02)
        build = nnx.vmap(lambda key: Layer(config, context, jnp.dtype(dtype), nnx.Rngs(key)))
        self.layers = build(jax.random.split(rngs.params(), config.depth))

    def __call__(self, context: jax.Array) -> jax.Array:
        """Image tokens (B, T, E) → query token after the last layer, (B, width) float32."""
        graphdef, parameters = nnx.split(self.layers)
        token = self.to_token_embedding(jnp.zeros((context.shape[0], 1))) + self.pos_embedding[0]
        return jax.lax.scan(lambda x, layer: (nnx.merge(graphdef, layer)(x, context), None), token, parameters)[0]


class Layer(nnx.Module):
    """Pre-norm decoder layer: self-attention, cross-attention and an MLP, each with a residual connection."""

    def __init__(self, config: HamerConfig, context: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.self_attention = SelfAttention(config, dtype, rngs)
        self.cross_attention = CrossAttention(config, context, dtype, rngs)
        self.feed_forward = FeedForward(config, dtype, rngs)

    def __call__(self, token: jax.Array, context: jax.Array) -> jax.Array:
        """(B, width), (B, T, E) → (B, width)."""
        token = token + self.self_attention(token)
        token = token + self.cross_attention(token, context)
        return token + self.feed_forward(token)


class SelfAttention(nnx.Module):
    """Self-attention of a single token. The attention weight is always 1, so query and key are not needed."""

    def __init__(self, config: HamerConfig, dtype: DTypeLike, rngs: nnx.Rngs):
        inner = config.heads * config.head_width
        self.norm = layer_norm(config.width, NORM_EPSILON, rngs)
        self.to_qkv = _linear(config.width, 3 * inner, dtype, rngs, bias=False)
        self.to_out = _linear(inner, config.width, dtype, rngs)

    def __call__(self, token: jax.Array) -> jax.Array:
        """(B, width) → (B, width)."""
        return self.to_out(jnp.split(self.to_qkv(self.norm(token)), 3, axis=-1)[2])


class CrossAttention(nnx.Module):
    """Multi-head cross-attention from the query token to the image tokens.

    The projections of keys and values (`to_kv`) are not applied to the image tokens. For a single query, it is cheaper
    to apply the first to the query and the second to the output of the attention.
    """

    def __init__(self, config: HamerConfig, context: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads, self.head_width, self.dtype = config.heads, config.head_width, dtype
        inner = config.heads * config.head_width
        self.norm = layer_norm(config.width, NORM_EPSILON, rngs)
        self.to_q = _linear(config.width, inner, dtype, rngs, bias=False)
        self.to_kv = _linear(context, 2 * inner, dtype, rngs, bias=False)
        self.to_out = _linear(inner, config.width, dtype, rngs)

    def __call__(self, token: jax.Array, context: jax.Array) -> jax.Array:
        """(B, width), (B, T, E) → (B, width)."""
        B, E, context = token.shape[0], context.shape[-1], context.astype(self.dtype)
        weights = self.to_kv.kernel[...].astype(self.dtype).reshape(E, 2, self.heads, self.head_width)  # keys, values
        query = self.to_q(self.norm(token)).reshape(B, self.heads, self.head_width)
        query = jnp.einsum("bhd,ehd->bhe", query, weights[:, 0])  # (B, heads, E)
        scores = jnp.einsum("bhe,bte->bht", query, context, preferred_element_type=jnp.float32)  # (B, heads, T)
        attention = jax.nn.softmax(scores * self.head_width**-0.5, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bht,bte->bhe", attention, context)  # (B, heads, E)
        return self.to_out(jnp.einsum("bhe,ehd->bhd", mixed, weights[:, 1]).reshape(B, -1))  # (B, heads * head_width)


class FeedForward(nnx.Module):
    """MLP of two layers with the exact GELU, after a layer norm."""

    def __init__(self, config: HamerConfig, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = layer_norm(config.width, NORM_EPSILON, rngs)
        self.fc1 = _linear(config.width, config.mlp, dtype, rngs)
        self.fc2 = _linear(config.mlp, config.width, dtype, rngs)

    def __call__(self, token: jax.Array) -> jax.Array:
        """(B, width) → (B, width)."""
        return self.fc2(jax.nn.gelu(self.fc1(self.norm(token)), approximate=False))


def _linear(inputs: int, outputs: int, dtype, rngs: nnx.Rngs, bias: bool = True) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=bias, dtype=dtype, rngs=rngs)
