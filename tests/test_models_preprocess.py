"""Preprocessing of crops: the middle of a crop, colours, and depth relative to the hand."""

import jax.numpy as jnp
import numpy as np

from jaxhand.models import preprocess


def test_the_middle_three_quarters_of_a_crop():
    image = jnp.arange(2 * 16 * 16.0).reshape(2, 16, 16)
    np.testing.assert_array_equal(preprocess.center_crop(image), image[:, :, 2:14])


def test_colours_are_those_of_imagenet():
    image = jnp.ones((1, 8, 8, 3)) * jnp.array([0.485 + 0.229, 0.456, 0.406 - 0.225])
    found = preprocess.center_crop_normalize(image)
    assert found.shape == (1, 8, 6, 3)
    np.testing.assert_allclose(found[0, 0, 0], [1, 0, -1], atol=1e-6)
    half = preprocess.center_crop_normalize(jnp.zeros((1, 8, 8, 3)))[0, 0, 0]
    np.testing.assert_allclose(half, np.divide([-0.485, -0.456, -0.406], [0.229, 0.224, 0.225]), rtol=1e-6)


def test_relative_depth_is_clipped_at_a_third_of_the_range():
    measured = jnp.array([-0.9, -0.2, 0.0, 0.1, 0.3, 0.4])
    found = preprocess.relative_depth(measured, jnp.array(0.05))
    np.testing.assert_allclose(found, [-1, -0.75, -0.15, 0.15, 0.75, 1], atol=1e-6)
    assert preprocess.CROP_MM == 280  # a hand is about 200 mm long, and a crop 1.4 times as large
