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


def test_the_square_of_an_upright_hand():
    """Its palm's box is 60 px wide and 80 px high; the square is twice as large, and shifted by a tenth to the tips."""
    joints = np.zeros((21, 2))
    joints[:] = 50, 150  # of the wrist's place: inside the box
    joints[[1, 17]] = [[20, 120], [80, 120]]
    joints[[6, 10, 14]] = [[44, 70], [50, 70], [56, 70]]
    joints[[4, 7, 8, 11, 12, 15, 16, 19, 20]] = 0, -500  # the upper joints do not count
    square = roi.of_joints(joints)
    np.testing.assert_allclose(square.up, [0, -1], atol=1e-12)
    assert square.side == pytest.approx(160)
    np.testing.assert_allclose(square.center, [50, 110 - 8])
    for joint in roi.PALM_JOINTS:
        changed = joints.copy()
        changed[joint] += [0, 50] if joint == 0 else [-200, 0]
        assert roi.of_joints(changed).side > 161, joint
    for joint in sorted(set(range(21)) - set(roi.PALM_JOINTS) - {14}):
        changed = joints.copy()
        changed[joint] += [-100, 100]
        np.testing.assert_array_equal(roi.of_joints(changed).center, square.center)


def test_the_direction_of_a_hand_is_from_its_wrist_to_three_middle_joints():
    joints = np.random.default_rng(1).uniform(0, 100, (21, 2))
    up = (joints[6] + 2 * joints[10] + joints[14]) / 4 - joints[0]
    np.testing.assert_allclose(roi.of_joints(joints).up, up / np.linalg.norm(up))


def test_a_square_around_a_box():
    square = roi.of_box(np.array([10.0, 20, 70, 50]))
    assert square.side == 90 and square.center.tolist() == [40, 35] and square.up.tolist() == [0, -1]
    assert roi.of_box(np.array([10.0, 20, 10.5, 20])).side == 1.5  # at least 1 px
    assert roi.of_palm(np.ones((9, 2))).side == 2.6 and roi.of_joints(np.ones((21, 2))).side == 2
    assert roi._unit(np.array([0, 2e-6])).tolist() == [0, 1] and roi._unit(np.array([0, 1e-6])).tolist() == [0, -1]
