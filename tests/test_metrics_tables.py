"""Means by joint and finger against numbers worked out by hand."""

import numpy as np

from jaxhand.metrics import finger_means, joint_means
from jaxhand.metrics.tables import mean_where


def test_only_what_is_valid_counts():
    distances = np.float32([[1, 10, np.nan], [3, np.nan, 7], [5, 20, 9]])
    valid = [[1, 1, 0], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_equal(joint_means(distances, valid), [2, 15, np.nan])
    np.testing.assert_equal(joint_means(distances), [3, np.nan, np.nan])  # nothing that is NaN is hidden
    np.testing.assert_equal(mean_where(distances, valid, 1), [5.5, 3, 20])
    assert mean_where(distances, valid) == 34 / 4
    assert np.isnan(mean_where(distances, np.zeros((3, 3))))


def test_a_million_samples_lose_no_digits():
    distances = np.full((1_000_000, 1), 0.1, np.float32)
    assert abs(joint_means(distances)[0] - np.float64(np.float32(0.1))) < 1e-12
    assert abs(joint_means(distances, np.ones_like(distances))[0] - np.float64(np.float32(0.1))) < 1e-12


def test_fingers():
    joints = np.arange(21.0)
    expected = [0, 2.5, 6.5, 10.5, 14.5, 18.5]  # wrist, then four joints each
    np.testing.assert_allclose(finger_means(joints), expected)
    np.testing.assert_allclose(finger_means(np.stack([joints, 2 * joints])), np.outer([1, 2], expected))
    valid = np.ones(21)
    valid[[0, 3, 4]] = 0
    valid[17:] = 0
    joints[[4, 20]] = np.nan
    np.testing.assert_equal(finger_means(joints, valid), [np.nan, 1.5, 6.5, 10.5, 14.5, np.nan])
    assert np.isnan(finger_means(joints)).tolist() == [False, True, False, False, False, True]


def test_a_mask_of_joints_is_repeated_for_each_sample():
    values = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(joint_means(values, [1, 0, 1]), [4.5, np.nan, 6.5])
    assert mean_where(values, [1, 0, 1]) == values[:, [0, 2]].mean()
