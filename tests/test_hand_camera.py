"""Cameras: projection and its inverse, focal lengths, the way back from a crop, HaMeR's weak perspective."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.hand import camera

PLAIN = np.array([[400.0, 0, 31.5], [0, 500, 23.5], [0, 0, 1]])
SKEWED = np.array([[400.0, 30, 31.5], [-20, 500, 23.5], [0, 0, 1]])  # as of a crop that is rotated
POINTS = np.array([[10.0, -20, 500], [0, 0, 800], [-60, 40, 650]])


def test_projection_of_known_points():
    np.testing.assert_allclose(camera.project(POINTS[:2], PLAIN), [[39.5, 3.5], [31.5, 23.5]])
    x, y, z = POINTS.T
    expected = np.stack([(400 * x + 30 * y) / z + 31.5, (500 * y - 20 * x) / z + 23.5], 1)
    np.testing.assert_allclose(camera.project(POINTS, SKEWED), expected)
    np.testing.assert_allclose(camera.project(jnp.asarray(POINTS), jnp.asarray(SKEWED)), expected, rtol=1e-5)


@pytest.mark.parametrize("K", [PLAIN, SKEWED])
def test_unprojection_inverts_projection(K):
    several = np.stack([POINTS, POINTS + [5, 6, 70]])
    cameras = np.stack([K, K * [[1.1], [0.9], [1]]])
    pixels = camera.project(several, cameras)
    np.testing.assert_allclose(camera.unproject(pixels, several[..., 2], cameras), several, atol=1e-9)
    found = camera.unproject(jnp.asarray(pixels), jnp.asarray(several[..., 2]), jnp.asarray(cameras))
    np.testing.assert_allclose(found, several, atol=2e-3)


def test_focal_length():
    assert camera.focal_length(PLAIN) == pytest.approx(np.sqrt(400 * 500))
    cos, sin = np.cos(0.7), np.sin(0.7)
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([300.0, 300, 1])
    assert camera.focal_length(turned) == pytest.approx(300)
    np.testing.assert_allclose(camera.focal_length(np.stack([turned, np.diag([-2.0, 8, 1])])), [300, 4])
    assert camera.focal_length(jnp.asarray(PLAIN)) == pytest.approx(np.sqrt(200_000), rel=1e-6)


@pytest.mark.parametrize("is_right", [0, 1])
@pytest.mark.parametrize("rotation", [0.0, 0.6])
def test_uncrop_leads_back_to_the_image(is_right, rotation):
    """A crop rotates the camera about its axis, clockwise, after it mirrors a left hand."""
    K_crop = np.array([[900.0, 0, 64], [0, 900, 60], [0, 0, 1]])
    cos, sin = np.cos(rotation), np.sin(rotation)
    R = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([1 if is_right else -1, 1, 1])
    in_crop = POINTS @ R.T
    pixels, points = camera.uncrop(camera.project(in_crop, K_crop), in_crop, K_crop, PLAIN, is_right, rotation)
    np.testing.assert_allclose(points, POINTS, atol=1e-9)
    np.testing.assert_allclose(pixels, camera.project(POINTS, PLAIN), atol=1e-9)
    both = [np.stack([array, array]) for array in (camera.project(in_crop, K_crop), in_crop, K_crop, PLAIN)]
    pixels, points = camera.uncrop(*both, np.full(2, is_right), np.full(2, rotation))
    np.testing.assert_allclose(points, np.stack([POINTS, POINTS]), atol=1e-9)
    np.testing.assert_allclose(pixels[1], camera.project(POINTS, PLAIN), atol=1e-9)


def test_a_crop_is_not_rotated_if_nothing_is_said():
    pixels, points = camera.uncrop(camera.project(POINTS, PLAIN), POINTS, PLAIN, PLAIN, 1)
    np.testing.assert_allclose(points, POINTS)
    np.testing.assert_allclose(pixels, camera.project(POINTS, PLAIN))


def test_weak_perspective():
    """The hand's origin is projected to the same place as by the formula: centre + (0 + t) s / 2 of the crop's side."""
    size, K = 224, np.array([[4000.0, 0, 100], [0, 4000, 120], [0, 0, 1]])
    weak = np.array([[0.9, 0.02, -0.05], [6.0, 0.1, 0.2]])
    moved = camera.weak_perspective_translation(weak, np.stack([K, K]), size)
    pixels = camera.project(moved[:, None], np.stack([K, K]))[:, 0]
    np.testing.assert_allclose(pixels, size / 2 + size * weak[:, :1] / 2 * weak[:, 1:], atol=1e-6)
    np.testing.assert_allclose(moved[:, 2], 1000 * 2 * 4000 / (224 * weak[:, 0]), rtol=1e-8)  # 1 m is s·112 px
    # A camera of scale 0 is infinitely far, but finite in float64
    assert np.isfinite(camera.weak_perspective_translation(np.zeros((1, 3)), K[None], size)).all()


def test_frames_and_ranges():
    assert camera.FROM_OPENGL.tolist() == [1, -1, -1] and camera.DEPTH_RANGE_MM == 150
