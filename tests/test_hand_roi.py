"""The turned squares around palms and joints: formulas, and that they follow a turned, scaled and moved hand."""

import numpy as np
import pytest

from jaxhand.hand import roi
from jaxhand.hand.roi import Roi


def moved(points, angle, scale, shift):
    """Points (N, 2) turned, enlarged and moved."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def test_an_upright_palm():
    points = np.zeros((9, 2))
    points[:2] = [[10, 20], [50, 50]]
    points[2], points[4] = [30, 50], [30, 20]  # the wrist below the middle finger's base
    square = roi.of_palm(points)
    np.testing.assert_allclose(square.center, [30, 35 - 0.5 * 40])
    np.testing.assert_allclose(square.up, [0, -1])
    assert square.side == 2.6 * 40


def test_a_square_around_joints_follows_the_hand():
    joints = np.random.default_rng(0).uniform(0, 100, (21, 2))
    before, after = roi.of_joints(joints), roi.of_joints(moved(joints, 0.7, 1.5, [30, -20]))
    np.testing.assert_allclose(after.center, moved(before.center[None], 0.7, 1.5, [30, -20])[0])
    np.testing.assert_allclose(after.up, moved(before.up[None], 0.7, 1, 0)[0])
    np.testing.assert_allclose(after.side, 1.5 * before.side)


def test_joints_that_fall_together_have_a_square():
    for square in (roi.of_joints(np.ones((21, 2))), roi.of_palm(np.ones((9, 2)))):
        assert np.isfinite(square.matrix(224)).all() and square.side >= 2


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5])
def test_the_matrix_of_a_square(angle):
    up = np.array([np.sin(angle), -np.cos(angle)])
    square = Roi(np.array([40.0, 30.0]), 56.0, up)
    A = square.matrix(224)
    ends = np.array([square.center, square.center + 28 * up])  # the middle, and the middle of the upper edge
    pixels = ends @ A[:2, :2].T + A[:2, 2]
    np.testing.assert_allclose(pixels, [[111.5, 111.5], [111.5, -0.5]], atol=1e-9)
    np.testing.assert_allclose(roi.to_image(pixels, A), ends)
    np.testing.assert_allclose(square.rotation()[:2, :2], A[:2, :2] / 4)  # the crop is enlarged 4 times
    assert np.linalg.det(square.rotation()) == pytest.approx(1)


def test_the_square_of_a_whole_image():
    corners = np.array([[0, 10], [100, 60], [50, 35]])  # of an image of 101 x 51 px, moved by 10 px
    A = roi.whole(101, 51).matrix(202)
    np.testing.assert_allclose(
        (corners - [0, 10]) @ A[:2, :2].T + A[:2, 2], [[0.5, 50.5], [200.5, 150.5], [100.5, 100.5]]
    )
