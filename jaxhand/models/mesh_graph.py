"""Graph convolutions (Kipf and Welling 2017) over the vertices of a hand's mesh, and pooling to the joints."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxhand.hand.skinned import SkinnedHand


class MeshGraph(nnx.Module):
    """Features of the vertices → features of the 16 joints.

    A linear layer, then graph convolutions over the vertices. The features of a joint are the mean features of the
    vertices, weighted by their skinning weights for this joint.

    Args:
        hand_model: the hand with the mesh.
        channels_in: number of input channels of a vertex.
        channels: number of channels after the linear layer, and after each graph convolution.
        dtype: type of the matrix products; parameters are float32.
        rngs: draws the parameters.
    """

    def __init__(
        self,
        hand_model: SkinnedHand,
        channels_in: int,
        channels: Sequence[int],
        *,
        dtype: DTypeLike = "float32",
        rngs: nnx.Rngs,
    ):
        self.hand_model = hand_model
        he = jax.nn.initializers.he_normal()
        sizes = zip([channels_in, *channels], channels)
        self.layers = nnx.List([nnx.Linear(a, b, kernel_init=he, dtype=jnp.dtype(dtype), rngs=rngs) for a, b in sizes])

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, V, C) → (B, 16, channels[-1])."""
        shape = x.shape[:2]
        for n, layer in enumerate(self.layers):
            # Propagate before the matrix product: after it, XLA:CPU would propagate again for each use of the ReLU.
            x = propagate(x, self.hand_model) if n else x
            x = jax.nn.relu(layer(x.reshape(-1, x.shape[-1]))).reshape(*shape, -1)  # (B * V, c) → (B, V, c')
        weights = self.hand_model.weights[: self.hand_model.num_vertices]  # (V, 16)
        shares = weights / np.maximum(weights.sum(0), 1e-6)
        return jnp.einsum("bvc,vj->bjc", x, shares.astype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def propagate(x: jax.Array, hand_model: SkinnedHand) -> jax.Array:
    """Multiply features x (B, V, C) by D^-1/2 (A + I) D^-1/2: a weighted sum of each vertex and its neighbours.

    A is the adjacency matrix of the mesh. D is the diagonal matrix with the row sums of A + I.

    The matrix is symmetric, so the same function propagates the gradient: it uses gather operations, no slow scatter.
    """
    neighbours, weights = neighbourhoods(hand_model)
    shares = (jnp.take(x, n, axis=1, mode="clip") * w[:, None].astype(x.dtype) for n, w in zip(neighbours.T, weights.T))
    return jnp.asarray(sum(shares))


propagate.defvjp(
    lambda x, hand_model: (propagate(x, hand_model), None),
    lambda hand_model, _, gradient: (propagate(gradient, hand_model),),
)


@functools.cache
def neighbourhoods(hand_model: SkinnedHand) -> tuple[np.ndarray, np.ndarray]:
    """The matrix of `propagate`, stored sparsely: for each row its column numbers (V, n) and values (V, n).

    Rows with fewer than n neighbours are padded with zeros.
    """
    V, sides = hand_model.num_vertices, [(0, 1), (1, 2), (2, 0)]
    edges = np.concatenate([hand_model.faces[:, side] for side in sides] + [np.arange(V)[:, None].repeat(2, 1)])
    # (E, 2) sorted: both directions of each edge, and (v, v) for each vertex v
    edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    degrees = np.bincount(edges[:, 0], minlength=V)
    # Of each edge: its position among the edges of its first vertex
    column = np.arange(len(edges)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    neighbours = np.zeros((V, degrees.max()), np.int32)
    weights = np.zeros(neighbours.shape, np.float32)
    neighbours[edges[:, 0], column] = edges[:, 1]
    weights[edges[:, 0], column] = 1 / np.sqrt(degrees[edges].prod(1))
    return neighbours, weights
