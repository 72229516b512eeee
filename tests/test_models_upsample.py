"""Upsampling against sums written out, bilinear sampling, and graph convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxhand.hand.skinned import SkinnedHand
from jaxhand.models.mesh_graph import MeshGraph, neighbourhoods, propagate
from jaxhand.models.upsample import Upsampler, sample_bilinear


def transposed(x, kernel):
    """A transposed convolution of stride 2, padding 1 as PyTorch defines it: every pixel adds its kernel."""
    B, h, w, _ = x.shape
    out = np.zeros((B, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    for i in range(h):
        for j in range(w):
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("bc,ijcd->bijd", x[:, i, j], kernel)
    return out[:, 1:-1, 1:-1]


@pytest.mark.parametrize("branched", [False, True])
def test_maps(branched):
    model = Upsampler(5, 8, 3, nnx.Rngs(0), branched=branched)
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(np.float32)
    maps = model(jnp.asarray(x))
    assert [image.shape for image in maps] == [(2, 3, 2, 8), (2, 6, 4, 4), (2, 12, 8, 2)]
    assert [len(chain) for chain in model.chains] == ([1, 2] if branched else [1, 1])
    want = [x @ np.asarray(model.first.kernel[...])]
    for chain in model.chains:
        y = want[0 if branched else -1]
        for step in chain:  # the kernel is rotated by 180°; the statistics are still 0 and 1
            y = transposed(y, np.asarray(step.conv.kernel[...])[::-1, ::-1]) / np.sqrt(1 + 1e-5)
            y = np.maximum(y, 0)
        want.append(y)
    for image, expected in zip(maps, want):
        np.testing.assert_allclose(image, expected, atol=1e-5)


def test_statistics_are_of_the_batch_in_training_and_kept_for_tests():
    model, x = Upsampler(3, 4, 2, nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (4, 5, 5, 3)) * 3
    norm = model.chains[0][0].norm
    before = model(x)[1]
    np.testing.assert_array_equal(norm.mean[...], 0)  # evaluation does not change the state
    first = model(x, train=True)[1]
    assert np.abs(norm.mean[...]).max() > 0
    for _ in range(150):
        model(x, train=True)
    np.testing.assert_allclose(model(x)[1], first, atol=1e-3)
    assert np.abs(before - first).max() > 0.1


def test_a_ramp_is_sampled_at_its_position():
    ramp = jnp.stack(jnp.meshgrid(jnp.arange(7.0), jnp.arange(5.0)), axis=-1)[None]  # (1, 5, 7, 2) x, y
    places = jnp.array([[[0, 0], [6, 4], [2.25, 3.5], [5.9, 0.1], [3, 2]]], jnp.float32)
    np.testing.assert_allclose(sample_bilinear(ramp, places), places, atol=1e-6)


def test_beyond_the_edge_there_are_zeros():
    ones, places = jnp.ones((1, 5, 7, 1)), [[-0.25, 2], [6.5, 2], [3, 4.75], [-0.5, -0.5], [-1, 1], [99, 2], [3, -1e6]]
    seen = sample_bilinear(ones, jnp.array([places], jnp.float32))[0, :, 0]
    np.testing.assert_allclose(seen, [0.75, 0.5, 0.25, 0.25, 0, 0, 0], atol=1e-6)


def test_gradients_of_a_lookup():
    image, places = jax.random.normal(jax.random.key(0), (1, 4, 4, 1)), jnp.array([[[1.25, 2.5]]])
    to_image, to_place = jax.grad(lambda *a: sample_bilinear(*a).sum(), argnums=(0, 1))(image, places)
    want = np.zeros((4, 4))
    want[2:4, 1:3] = [[0.375, 0.125], [0.375, 0.125]]
    np.testing.assert_allclose(to_image[0, ..., 0], want, atol=1e-6)
    rows = image[0, 2:4, 1:3, 0]
    np.testing.assert_allclose(to_place[0, 0, 0], (rows[:, 1] - rows[:, 0]).mean(), rtol=1e-4)


def pyramid() -> SkinnedHand:
    """Five vertices: the top 0 has four neighbours, the corners of the ground 1-4 have each other, 1 and 3 twice."""
    faces = np.int32([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [1, 3, 2], [1, 4, 3]])
    weights = np.zeros((10, 16), np.float32)
    weights[:5, 0], weights[:5, 1] = 1, [0, 1, 3, 0, 0]
    empty = np.zeros((26, 3))
    return SkinnedHand(
        "builtin",
        "right",
        empty,
        empty[..., None].repeat(10, 2),
        empty[..., None].repeat(135, 2),
        0.0,
        weights,
        faces,
        np.zeros(45),
        np.eye(45),
    )


def test_propagation_uses_the_normalised_adjacency_with_loops():
    hand = pyramid()
    A = np.float32([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]])
    degree = A.sum(1)
    matrix = A / np.sqrt(degree[:, None] * degree)
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    value, back = jax.vjp(lambda x: propagate(x, hand), x)
    np.testing.assert_allclose(value, np.einsum("uv,bvc->buc", matrix, x), atol=1e-6)
    np.testing.assert_allclose(back(x)[0], np.einsum("uv,buc->bvc", matrix, x), atol=1e-6)
    neighbours, weights = neighbourhoods(hand)
    assert neighbours.shape == weights.shape == (5, 5) and (weights[2] == 0).sum() == 1


def test_a_joint_pools_what_it_moves():
    hand = pyramid()
    graph = MeshGraph(hand, 3, (6, 4), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    vertices = np.maximum(graph.layers[1](propagate(np.maximum(graph.layers[0](x), 0), hand)), 0)
    joints = graph(x)
    assert joints.shape == (2, 16, 4)
    np.testing.assert_allclose(joints[:, 0], vertices.mean(1), atol=1e-6)
    np.testing.assert_allclose(joints[:, 1], (vertices[:, 1] + 3 * vertices[:, 2]) / 4, atol=1e-6)
    np.testing.assert_array_equal(joints[:, 2:], 0)  # joints that move nothing
