"""HaMeR's cross-attention decoder: one token that starts from nothing reads the tokens of an image."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxhand.config import HamerConfig


class Decoder(nnx.Module):
    """Each parameter of `layers` holds that of all layers, along its first axis.

    Args:
        config: `width` of the token, `depth`, `heads` of `head_width`, hidden channels `mlp`.
        context: channels of the image's tokens.
        dtype: of the products; parameters, norms and what goes from layer to layer are float32.
        rngs: draws the parameters.
    """

    def __init__(self, config: HamerConfig, context: int, dtype: str, rngs: nnx.Rngs):
        self.depth = config.depth
        self.to_token_embedding = nnx.Linear(1, config.width, rngs=rngs)
        self.pos_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, config.width)))
        build = nnx.vmap(lambda key: Layer(config, context, jnp.dtype(dtype), nnx.Rngs(key)))
        self.layers = build(jax.random.split(rngs.params(), config.depth))

    def __call__(self, context):
        """Tokens of the image (B, T, E) → the token (B, width) float32."""
        graphdef, parameters = nnx.split(self.layers)
        token = self.to_token_embedding(jnp.zeros((len(context), 1))) + self.pos_embedding[0]
        return jax.lax.scan(lambda x, layer: (nnx.merge(graphdef, layer)(x, context), None), token, parameters)[0]


class Layer(nnx.Module):
    """The token looks at itself, at the image, and thinks; each adds to what comes in."""

    def __init__(self, config: HamerConfig, context: int, dtype, rngs: nnx.Rngs):
        self.self_attention = SelfAttention(config, dtype, rngs)
        self.cross_attention = CrossAttention(config, context, dtype, rngs)
        self.feed_forward = FeedForward(config, dtype, rngs)

    def __call__(self, token, context):
        """(B, width), (B, T, E) → (B, width)."""
        token = token + self.self_attention(token)
        token = token + self.cross_attention(token, context)
        return token + self.feed_forward(token)


class SelfAttention(nnx.Module):
    """Of a single token: whatever it asks, all it can hear is its own value."""

    def __init__(self, config: HamerConfig, dtype, rngs: nnx.Rngs):
        inner = config.heads * config.head_width
        self.norm = _norm(config.width, rngs)
        self.to_qkv = _linear(config.width, 3 * inner, dtype, rngs, bias=False)
        self.to_out = _linear(inner, config.width, dtype, rngs)

    def __call__(self, token):
        """(B, width) → the same."""
        return self.to_out(jnp.split(self.to_qkv(self.norm(token)), 3, axis=-1)[2])


class CrossAttention(nnx.Module):
    """What the token asks of the image.

    With one question it is cheaper to bring it through `to_kv` to the image's tokens than all of them to it.
    """

    def __init__(self, config: HamerConfig, context: int, dtype, rngs: nnx.Rngs):
        self.heads, self.head_width, self.dtype = config.heads, config.head_width, dtype
        inner = config.heads * config.head_width
        self.norm = _norm(config.width, rngs)
        self.to_q = _linear(config.width, inner, dtype, rngs, bias=False)
        self.to_kv = _linear(context, 2 * inner, dtype, rngs, bias=False)
        self.to_out = _linear(inner, config.width, dtype, rngs)

    def __call__(self, token, context):
        """(B, width), (B, T, E) → (B, width)."""
        B, E, context = len(token), context.shape[-1], context.astype(self.dtype)
        weights = self.to_kv.kernel[...].astype(self.dtype).reshape(E, 2, self.heads, self.head_width)
        query = self.to_q(self.norm(token)).reshape(B, self.heads, self.head_width)
        query = jnp.einsum("bhd,ehd->bhe", query, weights[:, 0])
        scores = jnp.einsum("bhe,bte->bht", query, context, preferred_element_type=jnp.float32)
        attention = jax.nn.softmax(scores * self.head_width**-0.5, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bht,bte->bhe", attention, context)
        return self.to_out(jnp.einsum("bhe,ehd->bhd", mixed, weights[:, 1]).reshape(B, -1))  # (B, heads * head_width)


class FeedForward(nnx.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, config: HamerConfig, dtype, rngs: nnx.Rngs):
        self.norm = _norm(config.width, rngs)
        self.fc1 = _linear(config.width, config.mlp, dtype, rngs)
        self.fc2 = _linear(config.mlp, config.width, dtype, rngs)

    def __call__(self, token):
        """(B, width) → the same."""
        return self.fc2(jax.nn.gelu(self.fc1(self.norm(token)), approximate=False))


def _norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


def _linear(inputs: int, outputs: int, dtype, rngs: nnx.Rngs, bias: bool = True) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=bias, dtype=dtype, rngs=rngs)
