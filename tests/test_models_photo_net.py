"""Our heads next to MediaPipe's: what their share does, what the distance head does, and where a training starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxhand import config as configs
from jaxhand import models
from jaxhand.config import ConfigError
from jaxhand.hand.camera import focal_length, project
from jaxhand.models.efficientnet_lite import Features
from tests.support.numbers import assert_summary

SETTINGS = ["data.image_size=224", "model.options.size=lite"]
K = np.tile(np.float32([[0, 300, 111.5], [-300, 0, 111.5], [0, 0, 1]]), (2, 1, 1))  # of a rotated crop


def build(*overrides, name="photo_net"):
    return models.build(configs.load(None, [f"model.name={name}", *SETTINGS, *overrides]))


def features():
    """Features of two crops, as the backbone returns them."""
    draw = np.random.default_rng(0)
    shapes = (2, 14, 14, 64), (2, 7, 7, 112), (2, 672)
    return Features(*(jnp.float32(draw.uniform(0, 0.3, shape)) for shape in shapes))


def with_hand(model):
    """The model, whose two kinds of heads predict hands; returns both, (21, 3) mm around their mean."""
    draw = np.random.default_rng(1)
    hands = [hand - hand.mean(0) for hand in draw.uniform(-80, 80, (2, 21, 3)).astype(np.float32)]
    pixels = project(hands[0] + np.float32([0, 0, 400]), K[0])
    for head in (model.world, model.landmarks):
        head.kernel[...] *= 0
    model.world.bias[...] = jnp.asarray(hands[0].reshape(63) / 1000)
    model.landmarks.bias[...] = jnp.asarray(np.pad(pixels + 0.5, ((0, 0), (0, 1))).reshape(63))
    model.votes.bias[...] = jnp.asarray(np.concatenate([np.zeros((21, 2)), hands[1]], 1).reshape(105) / 50)
    return hands


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_joints_are_a_mean_of_both_heads(share):
    model = build(f"model.options.share={share}")
    mediapipes, own = with_hand(model)
    reading = model.read_features(features())
    np.testing.assert_allclose(reading.world[0], share * own + (1 - share) * mediapipes, atol=1e-3)
    found = model.placed(reading, jnp.asarray(K))
    np.testing.assert_allclose(project(found["keypoints_3d"], K), found["keypoints_2d"], atol=0.01)
    np.testing.assert_allclose(found["guesses_3d"][:, -1] - own, 0, atol=1e-3)


def test_the_distance_is_a_mean_by_inverse_variance():
    model = build("model.options.share=0")
    with_hand(model)
    model.distance.bias[...] = jnp.log(jnp.float32([2.0]))  # 600 mm at 300 px
    alone = build(name="mediapipe")
    with_hand_of = {"world": model.world, "landmarks": model.landmarks}
    for name, head in with_hand_of.items():
        nnx.update(getattr(alone, name), nnx.state(head))
    closed_form = alone.placed(alone.read_features(features()), jnp.asarray(K))["keypoints_3d"][..., 2].mean(1)
    for variances, weight in (((1e-3, 1e-3), 0.5), ((1e-3, 3e-3), 0.25), ((1e-9, 1e-3), 0.0)):
        model.variances[...] = jnp.log(jnp.float32(variances))
        found = model.placed(model.read_features(features()), jnp.asarray(K))
        expected = np.exp((1 - weight) * np.log(closed_form) + weight * np.log(600))
        np.testing.assert_allclose(found["keypoints_3d"][..., 2].mean(1), expected, rtol=1e-3)
        np.testing.assert_allclose(found["root_depth"], 600, rtol=1e-5)


def test_a_refinement_stage_reads_the_maps_at_the_joints():
    """At first it changes nothing. Then a joint changes with the cells around it, and not with cells far away."""
    model, maps = build("model.options.looks=1"), features()
    before = model.read_features(maps).guesses
    np.testing.assert_array_equal(before[:, 0], before[:, 1])
    stage = model.stages[0]
    stage.correction.kernel[...] = jnp.ones_like(stage.correction.kernel[...])
    stage.mixer.down[...] = jnp.zeros_like(stage.mixer.down[...])  # no exchange between joints
    read = lambda fine: model.read_features(maps._replace(fine=fine)).guesses[:, -1]  # noqa: E731
    base = read(maps.fine)  # all joints are at the centre of the crop, between the cells 6 and 7
    assert not np.allclose(read(maps.fine.at[:, 7, 6].add(1)), base)
    np.testing.assert_array_equal(read(maps.fine.at[:, 0, 13].add(1)), base)


def test_a_wrong_share_is_named():
    with pytest.raises(ConfigError, match=r"model.options.share_2d must be 0 to 1, got 1.5"):
        nnx.eval_shape(lambda: build("model.options.share_2d=1.5"))


def test_focal_length_of_a_rotated_camera():
    np.testing.assert_allclose(focal_length(K), 300)
    assert isinstance(focal_length(jnp.asarray(K)), jax.Array)


# Predictions of untrained heads with one refinement stage for `features`
UNTRAINED = {
    "keypoints_3d": [76.0051, 93.0717, 137.239],
    "keypoints_2d": [64.1137, 64.5642, 28.3873],
    "world": [-8.89339e-08, 115.34, 17.6789],
    "presence": [0.564528, 0.564528, -0.000661757],
    "right": [0.491848, 0.491848, -0.00437472],
    "root_depth": [319.307, 319.307, -1.43929],
    "guesses_3d": [16.6494, 50.4698, 28.8008],
    "guesses_2d": [161.266, 161.992, 110.008],
}


def untrained():
    """Heads whose votes and corrections are not 0."""
    model = build("model.options.looks=1", "model.options.share=0.4", "model.options.share_2d=0.3")
    draw = np.random.default_rng(5)
    for parameter in (model.votes.bias, model.stages[0].correction.kernel, model.distance.bias):
        parameter[...] = jnp.float32(draw.normal(0, 0.3, parameter[...].shape))
    return model


def test_untrained_heads_stay():
    """The same seed stands for the same parameters, and they for the same predictions, in every version."""
    model = untrained()
    found = model.placed(model.read_features(features()), jnp.asarray(K))
    assert found.keys() == UNTRAINED.keys()
    for name, value in found.items():
        assert_summary(value, UNTRAINED[name])
