"""Augmentation: the random draws on the host, and colour on the device."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.config import AugmentConfig
from jaxhand.data.augment import color, draw


def test_drawn_changes_fill_their_ranges():
    config = AugmentConfig(rotation_deg=30, scale=0.2, shift=0.1)
    changes = draw(np.random.default_rng(0), config, 2000)
    for values, low, high in (
        ([c["rotation"] for c in changes], -np.pi / 6, np.pi / 6),
        ([c["scale"] for c in changes], 0.8, 1.2),
        ([c["shift"][0] for c in changes], -0.1, 0.1),
        ([c["shift"][1] for c in changes], -0.1, 0.1),
    ):
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high


def test_nothing_is_drawn_by_default():
    for change in draw(np.random.default_rng(0), AugmentConfig(), 5):
        assert change["rotation"] == 0 and change["scale"] == 1 and not change["shift"].any()


def test_a_fraction_of_the_hands_is_mirrored():
    changes = [AugmentConfig(scale=0.1, mirror=mirror) for mirror in (0.0, 0.25)]
    plain, mirrored = (draw(np.random.default_rng(0), config, 1000) for config in changes)
    assert not any("mirror" in change for change in plain)
    assert 200 < sum(change.pop("mirror") for change in mirrored) < 300
    assert [change["scale"] for change in mirrored] == [change["scale"] for change in plain]  # drawn as before


def test_color_changes_every_image_in_its_own_way():
    image = jnp.full((3, 4, 4, 3), 0.5)
    jitted = jax.jit(color, static_argnums=2)
    changed = jitted(jax.random.key(0), image, AugmentConfig(color=0.2))
    assert changed.shape == image.shape and changed.dtype == image.dtype
    assert np.ptp(changed, axis=(1, 2)).max() < 1e-6  # no noise: the same change everywhere in an image
    assert np.ptp(changed[:, 0, 0], axis=0).min() > 0 and np.ptp(changed[:, 0, 0], axis=1).min() > 0
    assert np.abs(changed - 0.5).max() <= 0.1 * 1.2 + 0.2 + 1e-6
    np.testing.assert_array_equal(changed, jitted(jax.random.key(0), image, AugmentConfig(color=0.2)))


def test_color_is_gain_then_contrast_about_mid_grey_then_brightness():
    """One step at a time, with the same random numbers, each in its range."""
    key, image = jax.random.key(3), jax.random.uniform(jax.random.key(1), (3, 4, 5, 3), minval=0.4, maxval=0.6)
    change = 0.2 * np.asarray(jax.random.uniform(jax.random.split(key)[0], (5, 3, 1, 1), minval=-1, maxval=1))
    expected = np.array(image)
    for row in range(3):
        for channel in range(3):
            expected[row, ..., channel] *= 1 + change[channel, row, 0, 0]
        expected[row] = (expected[row] - 0.5) * (1 + change[3, row, 0, 0]) + 0.5
        expected[row] += change[4, row, 0, 0]
    np.testing.assert_allclose(color(key, image, AugmentConfig(color=0.2)), expected, atol=1e-6)


def test_color_off_leaves_the_image():
    image = jax.random.uniform(jax.random.key(1), (2, 4, 4, 3))
    np.testing.assert_array_equal(color(jax.random.key(0), image, AugmentConfig(color=0)), image)


def test_noise_has_its_deviation_and_stays_in_range():
    image = jnp.full((4, 16, 16, 3), 0.5)
    noisy = color(jax.random.key(0), image, AugmentConfig(color=0, noise=0.1))
    assert abs(float(jnp.std(noisy)) - 0.1) < 0.01
    extreme = color(jax.random.key(0), image, AugmentConfig(color=1, noise=1))
    assert extreme.min() >= 0 and extreme.max() <= 1
