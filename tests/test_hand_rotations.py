"""Rotations: equal to HaMeR's, conversions invert each other, gradients are correct at angles 0 and pi."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.hand import rotations

to_matrix, to_axis_angle, from_6d = (
    jax.jit(function)
    for function in (rotations.axis_angle_to_matrix, rotations.matrix_to_axis_angle, rotations.rotation_6d_to_matrix)
)


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden/hamer_geometry.npz")


def axis_angles() -> np.ndarray:
    """Axis-angles (n, 3) float32: random ones, and angles near 0 and pi about random axes and the coordinate axes."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(60, 3))
    axes = np.concatenate([axes / np.linalg.norm(axes, axis=1, keepdims=True), np.eye(3), -np.eye(3)])
    angles = np.r_[0, 1e-20, 1e-6, 1e-4, 3e-3, 0.01, 1, 3, np.pi - 1e-2, np.pi - 1e-4]
    return np.concatenate([rng.normal(size=(100, 3)), *(axes * angle for angle in angles)]).astype(np.float32)


def rodrigues(axis_angle: np.ndarray) -> np.ndarray:
    """The matrix exponential of one axis-angle, as its series in float64."""
    x, y, z = np.float64(axis_angle)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    total = term = np.eye(3)
    for n in range(1, 40):
        term = term @ cross / n
        total = total + term
    return total


def test_equal_to_hamer(golden):
    matrices = to_matrix(golden["aa"])
    np.testing.assert_allclose(matrices, golden["aa_to_rotmat"], atol=1e-6)
    np.testing.assert_allclose(from_6d(golden["rot6d"]), golden["rot6d_to_rotmat"], atol=1e-6)


def test_axis_angle_there_and_back():
    given = axis_angles()
    matrices = np.asarray(to_matrix(given))
    np.testing.assert_allclose(matrices, [rodrigues(each) for each in given], atol=1e-6)
    back = np.asarray(to_axis_angle(matrices))
    length = np.linalg.norm(given, axis=1, keepdims=True)
    same = given * np.where(length > np.pi, 1 - 2 * np.pi / np.maximum(length, 1), 1)  # the shorter rotation
    np.testing.assert_allclose(back, same, atol=2e-5)  # float32 matrices determine angles near pi to a few 1e-6
    np.testing.assert_allclose(back[np.linalg.norm(given, axis=1) < 1e-5], 0, atol=1.1e-6)


def test_a_rotation_by_pi_keeps_its_axis():
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, -0.6, 0.8], [1 / 3, -2 / 3, 2 / 3]])
    matrices = 2 * axes[:, :, None] * axes[:, None] - np.eye(3)
    found = np.asarray(to_axis_angle(matrices.astype(np.float32))) / np.pi
    np.testing.assert_allclose(np.abs(np.sum(found * axes, 1)), 1, atol=1e-6)


def test_gradients_are_right_everywhere():
    """Both conversions in turn are the identity, so that their Jacobian is too, also at angles of 0 and near pi."""
    given = axis_angles()[100:]
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda x: to_axis_angle(to_matrix(x)))))
    np.testing.assert_allclose(jacobian(given), np.broadcast_to(np.eye(3), (len(given), 3, 3)), atol=2e-3)
    exact = jax.jit(jax.vmap(jax.jacrev(to_axis_angle)))
    half = np.stack([np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1]), np.eye(3)])
    assert np.isfinite(exact(half.astype(np.float32))).all()


def test_6d_vectors():
    matrices = np.asarray(to_matrix(axis_angles()))
    rotation_6d = rotations.matrix_to_rotation_6d(matrices)
    np.testing.assert_array_equal(rotation_6d, np.concatenate([matrices[:, :, 0], matrices[:, :, 1]], 1))
    np.testing.assert_allclose(from_6d(rotation_6d), matrices, atol=1e-6)
    scaled = rotation_6d * np.array([2, 2, 2, 0.5, 0.5, 0.5], np.float32)
    np.testing.assert_allclose(from_6d(scaled), matrices, atol=1e-6)


def test_hamers_mean_wrist_rotation_needs_the_last_bits():
    mean = jnp.array([1, 0, 0, -1.0000005, 0, 1.5e-7], jnp.float32)
    np.testing.assert_allclose(from_6d(mean), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-6)


def test_6d_vectors_of_length_zero_have_finite_gradients():
    gradient = jax.jit(jax.grad(lambda numbers: jnp.sum(rotations.rotation_6d_to_matrix(numbers)[..., 0])))
    assert np.isfinite(gradient(jnp.zeros(6))).all() and np.isfinite(gradient(jnp.ones(6))).all()


def test_mirrored_rotations():
    mirror = np.diag([-1.0, 1, 1])
    mirrored = to_matrix(rotations.mirror_axis_angle(axis_angles()))
    np.testing.assert_allclose(mirrored, mirror @ np.asarray(to_matrix(axis_angles())) @ mirror, atol=1e-6)
