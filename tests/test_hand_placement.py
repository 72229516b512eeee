"""Where a hand is before the camera: exact without noise, the least-squares solution with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.hand.camera import project
from jaxhand.hand.placement import place_on_rays, rays, translation

K = np.array([[[500, 0.3, 120], [0, 480, 130], [0, 0, 1]], [[300, 40, 100], [-40, 300, 90], [0, 0, 1]]], np.float64)


@pytest.fixture
def hands():
    """Two hands (2, 21, 3) mm around their middle, and where they are (2, 3)."""
    rng = np.random.default_rng(0)
    return rng.uniform(-80, 80, (2, 21, 3)), np.array([[30.0, -20, 400], [-60, 50, 700]])


def test_exact_pixels_return_the_place(hands):
    joints, place = hands
    points = joints + place[:, None]
    pixels = project(points, K)
    np.testing.assert_allclose(translation(joints, pixels, K), place, rtol=1e-9)
    np.testing.assert_allclose(place_on_rays(joints, pixels, K), points, rtol=1e-9)
    np.testing.assert_allclose(project(rays(pixels, K), K), pixels)


def test_noisy_pixels_have_the_least_weighted_error(hands):
    joints, place = hands
    pixels = project(joints + place[:, None], K) + np.random.default_rng(1).normal(size=(2, 21, 2))
    found = translation(joints, pixels, K)
    u = rays(pixels, K)[..., :2]
    weight = 1 / (joints[..., 2:] + found[:, None, 2:])  # the last round's differ in the seventh digit

    def error(t):
        moved = joints + t[:, None]
        return ((weight * (moved[..., :2] - u * moved[..., 2:])) ** 2).sum((1, 2))

    for axis in range(3):
        for step in (-1e-2, 1e-2):
            assert (error(found + step * np.eye(3)[axis]) > error(found)).all()
    on_rays = place_on_rays(joints, pixels, K)
    np.testing.assert_allclose(project(on_rays, K), pixels)
    assert np.abs(on_rays[..., 2] - (joints + place[:, None])[..., 2]).max() < 10  # 1 px of 480 at 700 mm is 1.5 mm


def test_jax_equals_numpy_and_has_a_gradient(hands):
    joints, place = hands
    pixels = project(joints + place[:, None], K)
    arrays = [jnp.asarray(array, jnp.float32) for array in (joints, pixels, K)]
    found = jax.jit(place_on_rays)(*arrays)
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, place_on_rays(joints, pixels, K), atol=0.1)
    gradient = jax.grad(lambda joints: place_on_rays(joints, *arrays[1:])[..., 2].mean())(arrays[0])
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
