"""A surface that is fitted to joints: known vertices, noise, sizes, other hand models, degenerate joints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.hand.builtin import body, surface
from jaxhand.hand.fitting import fit
from jaxhand.hand.rotations import axis_angle_to_matrix
from jaxhand.hand.skinned import forward

HAND = surface.builtin()
COUNT, BATCH = 24, 8


@pytest.fixture(scope="module")
def people():
    """Blends of two presets in any orientation at 500 mm: bone frames (COUNT, 16, 3, 3), joints, vertices, shapes."""
    rng = np.random.default_rng(5)
    presets = np.stack(list(body.POSES.values()))
    first, second = presets[rng.integers(len(presets), size=(2, COUNT))]
    share = rng.uniform(size=(COUNT, 1))
    noise = rng.normal(0, 0.05, first.shape)
    poses = np.clip(share * first + (1 - share) * second + noise, *body.LIMITS.T).astype(np.float32)
    shape = np.clip(rng.normal(size=(COUNT, 10)), -2, 2).astype(np.float32)
    turn = axis_angle_to_matrix(jnp.asarray(rng.normal(0, 1.5, (COUNT, 3)), jnp.float32))
    hands = jax.jit(jax.vmap(body.forward))(poses, shape)
    frames = turn[:, None] @ hands.frames
    joints = hands.joints @ turn.mT + np.array([40, -30, 500], np.float32)
    return jax.device_get((frames, joints, surface.vertices_of(frames, joints, shape), shape))


def fitted(joints, hand_model=HAND):
    """Vertices and joints; always of `BATCH` hands at a time, so that one size is compiled."""
    batches = [fit(hand_model, joints[start : start + BATCH]) for start in range(0, len(joints), BATCH)]
    return (np.concatenate(arrays) for arrays in zip(*jax.device_get(batches)))


def errors(points, truth):
    """Mean distance (N,) mm of each hand."""
    return np.linalg.norm(points - truth, axis=-1).mean(-1)


def test_the_surface_of_known_hands(people):
    _, joints, truth, _ = people
    vertices, on_surface = fitted(joints)
    assert np.median(errors(on_surface, joints)) < 1 and errors(on_surface, joints).max() < 2.5
    assert np.median(errors(vertices, truth)) < 1.3 and errors(vertices, truth).max() < 3
    again, _ = fitted(joints)
    np.testing.assert_array_equal(again, vertices)


def test_noise_is_reduced(people):
    """The surface of noisy joints is closer to the true joints than they are, most of all along the rays."""
    _, joints, _, _ = people
    rays = joints / np.linalg.norm(joints, axis=-1, keepdims=True)
    noise = np.random.default_rng(0).normal(0, 2, joints.shape)
    noise += 6 * np.random.default_rng(1).normal(size=(*joints.shape[:2], 1)) * rays
    _, on_surface = fitted((joints + noise).astype(np.float32))
    assert errors(on_surface, joints).mean() < 0.75 * errors(joints + noise, joints).mean()


def test_a_hand_of_any_size(people):
    """Half as large at half the distance: the same photograph, and the same fit."""
    joints = people[1][:BATCH]
    [vertices, _], [half, _] = fitted(joints), fitted(joints / 2)
    np.testing.assert_allclose(2 * half, vertices, atol=0.1)


def test_another_hand_model(people):
    """A hand in MANO's form, with other bones and without a parameter of size."""
    frames, _, _, shape = people
    other = dataclasses.replace(
        HAND,
        name="mano",
        global_scale_per_beta=0.0,
        template=HAND.template * np.array([1.08, 1, 0.95], np.float32),
        mean_pose=HAND.mean_pose + 0.1,
    )
    posed = forward(other, surface.rotations_of(frames[:BATCH]), shape[:BATCH], np.array([0.0, 0, 400], np.float32))
    vertices, on_surface = fitted(posed.joints, other)
    assert errors(on_surface, posed.joints).max() < 2 and errors(vertices, posed.vertices).max() < 3


def test_degenerate_joints_are_finite_and_do_not_disturb_others(people):
    joints = people[1][:BATCH]
    odd = joints.copy()
    odd[1] = np.linspace(0, 1, 21)[:, None] * [100, 50, 20]  # on one line
    odd[2] = 7
    odd[3] = 0
    odd[4, 9, 1] = np.nan
    odd[5, :, 2] = 500  # in one plane
    odd[6] *= 1e-4
    odd[7, 3, 0] = np.inf
    vertices, on_surface = fitted(odd)
    finite = [row for row in range(BATCH) if row not in (4, 7)]
    assert np.isfinite(vertices[finite]).all() and np.isfinite(on_surface[finite]).all()
    assert np.isnan(vertices[[4, 7]]).all() and np.isnan(on_surface[[4, 7]]).all()
    alone, _ = fitted(joints)
    np.testing.assert_allclose(vertices[0], alone[0], atol=1e-3)
