"""Graph convolutions over the vertices of a hand's mesh (Kipf and Welling 2017), pooled by the joints they follow."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.hand.skinned import SkinnedHand


class MeshGraph(nnx.Module):
    """Features of the vertices → features of the 16 joints: each vertex hears its neighbours, each joint what it moves.

    Args:
        hand: whose mesh it is.
        channels_in: of the vertices.
        channels: of the vertices before they hear anything, then after every time.
        dtype: of the products; parameters are float32.
        rngs: draws the parameters.
    """

    def __init__(
        self, hand: SkinnedHand, channels_in: int, channels: Sequence[int], *, dtype="float32", rngs: nnx.Rngs
    ):
        self.hand = hand
        he = jax.nn.initializers.he_normal()
        sizes = zip([channels_in, *channels], channels)
        self.layers = nnx.List([nnx.Linear(a, b, kernel_init=he, dtype=jnp.dtype(dtype), rngs=rngs) for a, b in sizes])

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, V, C) → (B, 16, channels[-1])."""
        shape = x.shape[:2]
        for n, layer in enumerate(self.layers):
            # Spread before the product: after it, XLA:CPU would spread again wherever the ReLU's mask is needed.
            x = spread(x, self.hand) if n else x
            x = jax.nn.relu(layer(x.reshape(-1, x.shape[-1]))).reshape(*shape, -1)  # (B, V, c)
        weights = self.hand.weights[: self.hand.num_vertices]  # (V, 16)
        shares = weights / np.maximum(weights.sum(0), 1e-6)
        return jnp.einsum("bvc,vj->bjc", x, shares.astype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def spread(x: jax.Array, hand: SkinnedHand) -> jax.Array:
    """Mix features (B, V, C) of neighbouring vertices: D^-1/2 (A + I) D^-1/2 x, where A are the edges of the mesh.

    The matrix is symmetric, so the gradient is spread as well: it too only gathers, and never scatters.
    """
    neighbours, weights = neighbourhoods(hand)
    return sum(
        jnp.take(x, n, axis=1, mode="clip") * w[:, None].astype(x.dtype) for n, w in zip(neighbours.T, weights.T)
    )


spread.defvjp(lambda x, hand: (spread(x, hand), None), lambda hand, _, gradient: (spread(gradient, hand),))


@functools.cache
def neighbourhoods(hand: SkinnedHand) -> tuple[np.ndarray, np.ndarray]:
    """Each row of D^-1/2 (A + I) D^-1/2 in short: (V, n) vertices and (V, n) their weights, filled up with weight 0."""
    V, sides = hand.num_vertices, [(0, 1), (1, 2), (2, 0)]
    edges = np.concatenate([hand.faces[:, side] for side in sides] + [np.arange(V)[:, None].repeat(2, 1)])
    edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)  # (E, 2), both ways, sorted, loops too
    degrees = np.bincount(edges[:, 0], minlength=V)
    place = np.arange(len(edges)) - np.repeat(np.cumsum(degrees) - degrees, degrees)  # of an edge in its row
    neighbours = np.zeros((V, degrees.max()), np.int32)
    weights = np.zeros(neighbours.shape, np.float32)
    neighbours[edges[:, 0], place] = edges[:, 1]
    weights[edges[:, 0], place] = 1 / np.sqrt(degrees[edges].prod(1))
    return neighbours, weights
