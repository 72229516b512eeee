"""Fitted meshes of a predictor: left and right hands, no hands, and that nothing is fitted unless it is asked for."""

import jax
import numpy as np
import pytest

import jaxhand
from jaxhand.config import HandConfig, UserError
from jaxhand.hand.builtin import body, surface
from jaxhand.inference.arguments import ImagePredictor
from jaxhand.inference.fitted_mesh import FittedMeshPredictor

IMAGE = np.zeros((8, 8, 3), np.uint8)


class Known(ImagePredictor):
    """Returns the same joints for all images."""

    model, crop_rule = "known", "square"

    def __init__(self, joints, is_right):
        self.found = {"keypoints_3d": joints, "is_right": is_right, "score": np.arange(len(joints))}

    def predict(self, photographs):
        return dict(self.found)


@pytest.fixture(scope="module")
def joints():
    """The presets (16, 21, 3) mm, half a metre in front of the camera."""
    poses = np.stack(list(body.POSES.values())).astype(np.float32)
    hands = jax.jit(jax.vmap(body.forward, in_axes=(0, None)))(poses, np.zeros(10, np.float32))
    return np.asarray(hands.joints) + np.array([30, 20, 500], np.float32)


def test_left_hands_are_mirrored(joints):
    """Ten hands, more than are fitted at a time. A left hand has the mirrored surface; normals point outward."""
    is_right = np.arange(10) % 2 == 0
    given = (
        np.where(is_right[:, None, None], 1, np.array([-1, 1, 1], np.float32)) * joints[[2, 2, 4, 4, 6, 6, 8, 8, 9, 9]]
    )
    found = FittedMeshPredictor(Known(given, is_right), HandConfig())(IMAGE)
    assert found["vertices"].shape == (10, 956, 3) and found["faces"].shape == (10, len(surface.builtin().faces), 3)
    np.testing.assert_array_equal(found["keypoints_3d"], given)
    for key in ("vertices", "surface_keypoints_3d"):
        np.testing.assert_array_equal(found[key][1::2] * [-1, 1, 1], found[key][::2])
    assert np.linalg.norm(found["surface_keypoints_3d"] - given, axis=-1).mean() < 2
    np.testing.assert_array_equal(found["faces"][1::2, :, ::-1], found["faces"][::2])
    corners = np.stack([points[faces] for points, faces in zip(found["vertices"], found["faces"])])  # (10, F, 3, 3)
    volume = np.einsum("nfc,nfc->n", corners[:, :, 0], np.cross(corners[:, :, 1], corners[:, :, 2])) / 6
    assert (volume > 2e5).all()  # mm³


def test_an_image_without_hands(joints):
    found = FittedMeshPredictor(Known(joints[:0], np.zeros(0, bool)), HandConfig())(IMAGE)
    assert found["vertices"].shape == (0, 956, 3) and len(found["faces"]) == 0


def test_a_run_without_a_mesh(finished, tmp_path):
    """Vertices only where they are asked for; all else is equal."""
    plain, fitted = jaxhand.load(finished)(IMAGE), jaxhand.load(finished, fit_mesh=True)(IMAGE)
    assert set(fitted) - set(plain) == {"vertices", "faces", "surface_keypoints_3d"}
    assert fitted["vertices"].shape == (1, 956, 3)
    for key, values in plain.items():
        np.testing.assert_array_equal(fitted[key], values)
    with pytest.raises(UserError, match="MANO_RIGHT.pkl"):
        jaxhand.load(finished, fit_mesh=tmp_path / "MANO_RIGHT.pkl")
