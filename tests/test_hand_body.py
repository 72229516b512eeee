"""The built-in hand: rigid bones, limits, a prior of plausible poses, random numbers from seed and index alone."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.hand.builtin import body
from jaxhand.hand.skeleton import PARENTS
from tests.support.numbers import assert_summary


@pytest.fixture(scope="module")
def people():
    """(pose, shape, hand, overlap) of 256 sampled hands."""

    @jax.jit
    @jax.vmap
    def sample(index):
        draws = body.Draws(body.random_numbers(7, index))
        shape = body.sample_shape(draws)
        pose = body.sample_pose(draws, shape)
        hand = body.forward(pose, shape)
        return pose, shape, hand, body.overlap(body.body_cones(hand)), body.forward(jnp.zeros(24), shape).joints

    return jax.tree.map(np.asarray, sample(jnp.arange(256, dtype=jnp.uint32)))


def _bone_lengths(joints):
    return np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1)


def test_every_degree_of_freedom_has_a_name_and_limits():
    assert len(body.DOF_NAMES) == len(set(body.DOF_NAMES)) == body.NUM_DOF == len(body.LIMITS) == 24
    assert (body.LIMITS[:, 0] < body.LIMITS[:, 1]).all()
    for name, preset in body.POSES.items():
        assert ((body.LIMITS[:, 0] <= preset + 1e-6) & (preset <= body.LIMITS[:, 1] + 1e-6)).all(), name


def test_finger_bones_keep_their_length_in_every_pose(people):
    pose, shape, hand, _, straight = people
    # the palm arches, so the distance to a knuckle may change a little
    inner = (PARENTS[1:] != 0) | (np.arange(1, 21) == 1)
    np.testing.assert_allclose(_bone_lengths(hand.joints)[:, inner], _bone_lengths(straight)[:, inner], rtol=1e-4)
    np.testing.assert_allclose(_bone_lengths(hand.joints), _bone_lengths(straight), rtol=0.1)


def test_frames_are_rotations_that_point_along_their_bones(people):
    hand = people[2]
    identity = hand.frames @ hand.frames.swapaxes(-1, -2)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(hand.frames), 1, atol=1e-5)
    tip = hand.joints[:, 8] - hand.joints[:, 7]  # the last bone of the index
    np.testing.assert_allclose(hand.frames[:, 6, :, 1], tip / np.linalg.norm(tip, axis=-1, keepdims=True), atol=1e-4)


def test_sampled_poses_are_within_limits_varied_and_seldom_overlap(people):
    pose, shape, _, overlap, _ = people
    assert (pose >= body.LIMITS[:, 0]).all() and (pose <= body.LIMITS[:, 1]).all()
    assert np.abs(shape).max() <= 2
    curl = pose[:, [7, 11, 15, 19]] + pose[:, [8, 12, 16, 20]]  # two flexions of the four fingers
    assert (curl < np.deg2rad(40)).mean() > 0.2 and (curl > np.deg2rad(130)).mean() > 0.2  # open and closed ones
    assert (overlap > 3).mean() < 0.03 and overlap.max() < 12


def test_hands_have_an_adults_size(people):
    straight = people[4]
    length = np.linalg.norm(straight[:, 12] - straight[:, 0], axis=-1)  # wrist to the tip of the middle finger
    assert 170 < length.mean() < 210 and 8 < length.std() < 25


def test_random_numbers_depend_on_seed_and_index_alone():
    first, normal = body.random_numbers(3, 5)
    np.testing.assert_array_equal(first, body.random_numbers(3, 5)[0])
    for other in (body.random_numbers(4, 5), body.random_numbers(3, 6), body.random_numbers(5, 3)):
        assert (np.asarray(other[0]) != np.asarray(first)).all()
    draws = body.Draws((first, normal))
    np.testing.assert_array_equal(draws.uniform(4), first[:4])  # one stream, for any sizes of its parts
    np.testing.assert_array_equal(draws.normal(2, 3).reshape(-1), normal[4:10])
    np.testing.assert_allclose(draws.uniform(2, low=5, high=7), 5 + 2 * first[10:12])
    with pytest.raises(ValueError, match="only 384"):
        draws.uniform(400)


def test_random_numbers_never_change():
    assert np.asarray(body.random_numbers(0, 0)[0][:3] * 2**24).astype(int).tolist() == [765198, 7100619, 3926846]


def test_random_numbers_are_uniform_normal_and_uncorrelated():
    sample = jax.vmap(lambda index: body.random_numbers(1, index, 20))
    uniform, normal = map(np.asarray, sample(jnp.arange(1000, dtype=jnp.uint32)))
    assert 0 < uniform.min() and uniform.max() < 1
    np.testing.assert_allclose(np.histogram(uniform, 10, (0, 1))[0] / 2000, 1, atol=0.12)
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    assert np.abs(np.corrcoef(normal.T) - np.eye(20)).max() < 0.15


# Poses, shapes, joints, frames, overlaps and straight hands of `people`
PEOPLE = [
    [0.393478, 0.414512, 0.268674],
    [0.014398, 0.779774, -0.154258],
    [18.4501, 48.0976, 50.1129],
    [0.154139, 0.443086, -0.608091],
    [0.232663, 0.232663, -0.761961],
    [34.5003, 50.1579, 57.561],
]


def test_sampled_hands_stay(people):
    """The same seed stands for the same hands in every version."""
    pose, shape, hand, overlap, straight = people
    for array, expected in zip((pose, shape, hand.joints, hand.frames, overlap, straight), PEOPLE):
        assert_summary(array, expected)


def test_the_angles_of_the_presets_never_change():
    """They are whole degrees, and scenes of the same seed are blends of them: a degree changes every scene a little."""
    degrees = np.rad2deg(np.stack(list(body.POSES.values())))
    np.testing.assert_allclose(degrees, np.rint(degrees), atol=1e-9)
    assert zlib.crc32(np.rint(degrees).astype(np.int8).tobytes()) == 191285161


def test_presets_limits_and_cones_stay():
    hands = [body.forward(jnp.asarray(pose, jnp.float32), jnp.zeros(10)) for pose in body.POSES.values()]
    assert_summary(np.array([hand.joints for hand in hands]), [18.9224, 46.8976, 7.26463])
    cones = body.body_cones(hands[0])
    assert_summary(np.concatenate([np.ravel(field) for field in cones])[:, None], [18.9519, 32.9881, 1.8509])
    assert_summary(body.LIMITS, [0.439968, 0.60432, 1.45213])
