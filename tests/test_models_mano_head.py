"""From MANO parameters to predictions: the place of a hand, its projection, and the mean parameters."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.hand import skinned
from jaxhand.hand.camera import project
from jaxhand.hand.rotations import axis_angle_to_matrix, rotation_6d_to_matrix
from jaxhand.models import mano_head
from tests.support.hamer_models import toy_hand

HAND = toy_hand()
K = np.float32([[[600, 0, 30], [0, 600, 34], [0, 0, 1]]]).repeat(2, 0)


def predictions(**options):
    rng = np.random.default_rng(0)
    pose = rng.normal(0, 0.4, (2, 16, 3)).astype(np.float32)
    shape = rng.normal(0, 1, (2, 10)).astype(np.float32)
    camera = np.float32([[8.0, 0.01, -0.02], [5.0, -0.03, 0.0]])
    batch = {"image": np.zeros((2, 64, 64, 3), np.float32), "K": K}
    found = mano_head.mano_predictions(HAND, axis_angle_to_matrix(pose), shape, camera, batch, **options)
    return found, pose, shape, camera


def test_the_hand_is_moved_by_its_weak_perspective_camera():
    found, pose, shape, camera = predictions()
    posed = skinned.forward(HAND, axis_angle_to_matrix(pose), shape)
    z = 1000 * 2 * 600 / (64 * camera[:, 0])
    pixels = 32 + 32 * camera[:, :1] * camera[:, 1:]  # of the hand's origin
    move = np.concatenate([(pixels - K[:, :2, 2]) * z[:, None] / 600, z[:, None]], 1)[:, None]
    np.testing.assert_allclose(found["keypoints_3d"], posed.joints + move, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found["vertices"], posed.vertices + move, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found["keypoints_2d"], project(found["keypoints_3d"], K), atol=1e-3)
    np.testing.assert_allclose(found["mano_pose"], pose.reshape(2, 48), atol=1e-4)
    np.testing.assert_array_equal(found["mano_shape"], shape)
    np.testing.assert_array_equal(found["camera"], camera)


def test_another_focal_length_projects_about_the_middle_of_the_crop():
    """As HaMeR: 5000 px for 256 px; the joints in 3D stay those of the camera K."""
    (found, *_, camera), (plain, *_) = predictions(focal=5000 / 256), predictions()
    np.testing.assert_array_equal(found["keypoints_3d"], plain["keypoints_3d"])
    focal = 5000 / 256 * 64
    own = np.array([[focal, 0, 32], [0, focal, 32], [0, 0, 1]])
    move = np.stack([camera[:, 1] * 1000, camera[:, 2] * 1000, 2000 * focal / (64 * camera[:, 0])], -1)[:, None]
    origin = found["keypoints_3d"] - mano_head.weak_perspective_translation(camera, K, 64)[:, None]
    np.testing.assert_allclose(found["keypoints_2d"], project(origin + move, own), atol=1e-3)


def test_points_behind_the_camera_are_raised():
    points = jnp.array([[1.0, 2, -5], [3, 4, 0.5], [5, 6, 1.5]])
    np.testing.assert_array_equal(mano_head.clamp_depth(points), [[1, 2, 1], [3, 4, 1], [5, 6, 1.5]])


def test_the_flat_hand_is_in_the_middle_of_the_crop_and_shows_its_palm():
    pose, shape, camera = mano_head.mean_mano_params("", HAND)
    assert pose.shape == (1, 96) and not np.any(shape[...]) and shape.shape == (1, 10)
    rotations = np.asarray(rotation_6d_to_matrix(pose[...].reshape(1, 16, 6)))[0]
    np.testing.assert_array_equal(rotations[1:], np.eye(3)[None].repeat(15, 0))
    np.testing.assert_array_equal(rotations[0], [[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert camera[0, 0] == pytest.approx(2 / 0.28)  # a crop is 280 mm wide
    image = {"image": np.zeros((1, 64, 64, 3), np.float32), "K": np.float32([[[6e5, 0, 32], [0, 6e5, 32], [0, 0, 1]]])}
    found = mano_head.mano_predictions(HAND, rotations[None], shape[...], camera[...], image)
    pixels = project(np.asarray(found["vertices"]), image["K"])[0]  # by a camera far away
    np.testing.assert_allclose((pixels.min(0) + pixels.max(0)) / 2, 32, atol=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pose": np.zeros(95)}, "pose must be 96 finite numbers"),
        ({"shape": np.full(10, np.nan)}, "shape must be 10 finite numbers"),
        ({"cam": np.zeros(4)}, "cam must be 3 finite numbers"),
        ({"cam": None}, "cam; the file must contain pose, shape and cam"),
        ({"pose": np.array(["x"] * 96)}, "not a readable mano_mean_params.npz"),
    ],
)
def test_files_of_mean_parameters(tmp_path, changed, message):
    arrays = {"pose": np.arange(96.0), "shape": np.ones(10), "cam": np.array([0.9, 0, 0])}
    np.savez(tmp_path / "mean.npz", **arrays)
    found = mano_head.mean_mano_params(str(tmp_path / "mean.npz"), HAND)
    np.testing.assert_array_equal(found[0][...], np.arange(96)[None])
    np.savez(tmp_path / "mean.npz", **{k: v for k, v in (arrays | changed).items() if v is not None})
    with pytest.raises(UserError, match=message):
        mano_head.mean_mano_params(str(tmp_path / "mean.npz"), HAND)
