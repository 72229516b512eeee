"""The linear mix of joints: between two conventions that differ by one, and towards the identity with few hands."""

import numpy as np
import pytest

from jaxhand.hand import joint_mix


def conventions(hands=200, dimensions=3):
    """Joints of random hands in one convention, the mix to another one, and the joints in that one."""
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(hands, 21, dimensions)) * 40 + rng.normal(size=(hands, 1, dimensions)) * 300
    mix = np.eye(21) + 0.1 * rng.normal(size=(21, 21))
    mix += (1 - mix.sum(1, keepdims=True)) / 21  # a translation of all joints stays one
    return joints, mix, mix @ joints


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_mix_is_found_again(dimensions):
    joints, mix, target = conventions(dimensions=dimensions)
    found = joint_mix.fit(joints, target, ridge=0)
    np.testing.assert_allclose(found, mix, atol=1e-8)
    np.testing.assert_allclose(joint_mix.apply(found, joints), target, atol=1e-6)


def test_a_translation_of_every_hand_does_not_matter():
    joints, _, target = conventions()
    moved = target + np.random.default_rng(1).normal(size=(len(target), 1, 3)) * 500
    found, of_moved = (joint_mix.fit(joints, points, ridge=0, translated=True) for points in (target, moved))
    np.testing.assert_allclose(of_moved, found, atol=1e-9)
    mixed = joint_mix.apply(of_moved, joints)
    np.testing.assert_allclose(mixed - mixed.mean(1, keepdims=True), target - target.mean(1, keepdims=True), atol=1e-6)


def test_each_row_sums_to_one():
    joints, _, target = conventions(hands=3)
    for translated in (False, True):
        np.testing.assert_allclose(joint_mix.fit(joints, target, translated=translated).sum(1), 1, atol=1e-9)


def test_a_large_ridge_and_no_difference_are_the_identity():
    joints, _, target = conventions()
    np.testing.assert_allclose(joint_mix.fit(joints, target, ridge=1e9), np.eye(21), atol=1e-6)
    np.testing.assert_allclose(joint_mix.fit(joints, joints), joint_mix.identity(), atol=1e-9)


def test_hands_that_are_not_valid_are_left_out():
    joints, mix, target = conventions()
    valid = np.arange(len(joints)) % 3 > 0
    target[~valid] += 1000
    np.testing.assert_allclose(joint_mix.fit(joints, target, valid, ridge=0), mix, atol=1e-8)
