"""MediaPipe's networks without their weights: sizes, what they return, and what a config may not ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import ConfigError
from jaxhand.hand.camera import project
from jaxhand.models.efficientnet_lite import EfficientNetLite, Features
from jaxhand.models.mediapipe import Correction
from jaxhand.models.palm_detector import PalmDetector

SETTINGS = ["model.name=mediapipe", "data.image_size=224"]


def build(*overrides):
    return models.build(configs.load(None, [*SETTINGS, *overrides]))


def count(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(("size", "expected"), [("full", 2715680), ("lite", 1011712)])
def test_as_many_parameters_as_mediapipes_files_have(size, expected):
    model = nnx.eval_shape(lambda: build(f"model.options.size={size}"))
    assert count(model) == expected
    shared = {"full": 3712, "lite": 2976}[size]  # zeros of the depthwise biases, which the file has once for each width
    palm = nnx.eval_shape(lambda: PalmDetector(size, rngs=nnx.Rngs(0)))
    assert count(palm) == {"full": 1132536, "lite": 960088}[size] + shared


def test_predictions_lie_before_the_camera(monkeypatch):
    """Joints project to the network's pixels; presence and side are between 0 and 1."""
    ones = lambda self, image: Features(None, None, jnp.ones((len(image), self.width)))  # noqa: E731
    monkeypatch.setattr(EfficientNetLite, "__call__", ones)
    model = build("model.options.size=lite")
    K = np.tile(np.float32([[300, 0, 111.5], [0, 300, 111.5], [0, 0, 1]]), (2, 1, 1))
    joints = np.random.default_rng(0).uniform(-0.08, 0.08, (21, 3)).astype(np.float32)  # m
    place = np.float32([20, -30, 400])  # mm
    pixels = project(1000 * joints + place, K[0]) + 0.5  # MediaPipe's count
    for head, values in ((model.world, joints), (model.landmarks, np.pad(pixels, ((0, 0), (0, 1))))):
        head.kernel[...] *= 0
        head.bias[...] = jnp.asarray(values.reshape(63))
    found = model({"image": np.zeros((2, 224, 224, 3), np.float32), "K": K})
    assert found["keypoints_3d"].shape == (2, 21, 3) and found["keypoints_2d"].shape == (2, 21, 2)
    np.testing.assert_allclose(found["keypoints_3d"], np.tile(1000 * joints + place, (2, 1, 1)), atol=0.1)
    np.testing.assert_allclose(project(found["keypoints_3d"], K), found["keypoints_2d"], atol=1e-2)
    assert ((found["presence"] >= 0) & (found["presence"] <= 1)).all() and found["right"].shape == (2,)


def test_configs_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="model.options.size must be one of full, lite, lite0, got 'huge'"):
        build("model.options.size=huge")
    with pytest.raises(ConfigError, match="data.image_size must be 224 for model 'mediapipe', got 64"):
        build("data.image_size=64")
    with pytest.raises(ConfigError, match="size of the palm detector must be one of full, lite, got 'lite0'"):
        PalmDetector("lite0", rngs=nnx.Rngs(0))


def test_the_correction_turns_and_scales():
    correction = Correction(5)
    pooled, joints = jnp.ones((2, 5)), jnp.asarray(np.random.default_rng(0).normal(size=(2, 21, 3)), jnp.float32)
    np.testing.assert_allclose(correction(pooled, joints), joints, atol=1e-6)  # at first, nothing changes
    correction.kernel[...] = jnp.zeros((5, 4)).at[:, 2].set(np.pi / 10).at[0, 3].set(np.log(2))
    turned = jnp.stack([-joints[..., 1], joints[..., 0], joints[..., 2]], -1)  # a quarter turn about z
    np.testing.assert_allclose(correction(pooled, joints), 2 * turned, atol=1e-5)
    correction.bias[...] = jnp.array([0, 0, -np.pi / 2, 0])
    np.testing.assert_allclose(correction(pooled, joints), 2 * joints, atol=1e-5)
