"""Depthwise convolutions as shifted products equal XLA's own, and so do their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.models import depthwise


@pytest.mark.parametrize(
    ("extent", "size", "stride"), [((9, 6), 3, 1), ((8, 10), 5, 2), ((7, 9), 3, 2), ((6, 5), 5, 1)]
)
def test_shifted_products_equal_the_native_convolution(extent, size, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *extent, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)

    def both(function):
        return jax.jit(jax.value_and_grad(lambda x, kernel: (function(x, kernel) ** 3).sum(), (0, 1)))(x, kernel)

    shifted, native = (functools.partial(form, stride) for form in (depthwise._shifted, depthwise._native))
    np.testing.assert_allclose(shifted(x, kernel), native(x, kernel), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(both(shifted)), jax.tree.leaves(both(native))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    chosen = jax.jit(functools.partial(depthwise.depthwise, stride=stride))(x, kernel)
    np.testing.assert_allclose(chosen, native(x, kernel), rtol=1e-5, atol=1e-5)
    assert both(lambda x, kernel: depthwise.depthwise(x, kernel, stride))[1][0].shape == x.shape


@pytest.mark.parametrize(("extent", "size", "stride"), [((8, 10), 3, 2), ((7, 9), 5, 2), ((6, 5), 3, 1)])
def test_a_product_of_patches_equals_the_native_convolution(extent, size, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *extent, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 6)), jnp.float32)
    expected = depthwise._native(stride, x, kernel, groups=1)
    for function in (depthwise._patches, lambda stride, *arrays: depthwise.convolve(*arrays, stride)):
        np.testing.assert_allclose(function(stride, x, kernel), expected, rtol=1e-4, atol=1e-4)


def test_each_image_equals_the_whole_batch():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    function = lambda images: (images.sum(2), {"square": images**2})  # noqa: E731
    for batch in (images, images[:1]):
        found = jax.jit(lambda batch: depthwise.each_image(function, batch))(batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, function(batch))
        gradient = jax.grad(lambda batch: depthwise.each_image(function, batch)[1]["square"].sum())(batch)
        np.testing.assert_allclose(gradient, 2 * batch, rtol=1e-6)
