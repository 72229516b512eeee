"""The default network: inputs, outputs, and changes that must not affect the outputs."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from jaxhand import models
from jaxhand.config import Config, ConfigError, ModelConfig, load
from jaxhand.hand.camera import project
from tests.support.numbers import assert_summary

SIZE = 64
ROWS = 3


@pytest.fixture(scope="module")
def predict():
    """A tiny network as a compiled function of a batch."""
    config = Config(model=ModelConfig(width=32, fine_blocks=1, blocks=1, joint_width=32, joint_blocks=1))
    graphdef, state = nnx.split(models.build(config))
    return jax.jit(lambda batch: nnx.merge(graphdef, state)(batch))


def make_batch(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.uniform(0, 1, (rows, SIZE, SIZE, 3)).astype(np.float32),
        "depth": rng.uniform(-1, 1, (rows, SIZE, SIZE)).astype(np.float32),
        "has_depth": np.ones(rows, np.float32),
        "depth_center": np.full(rows, 450, np.float32),
        "K": np.tile(np.float32([[90, 0, 31], [0, 95, 33], [0, 0, 1]]), (rows, 1, 1)),
        "is_right": np.ones(rows, np.float32),
    }


def without_depth(batch):
    """As the pipeline returns a sample without depth."""
    return batch | {key: np.zeros_like(batch[key]) for key in ("depth", "has_depth", "depth_center")}


def test_predictions(predict):
    batch = make_batch()
    got = predict(batch)
    assert got["keypoints_3d"].shape == (ROWS, 21, 3) and got["keypoints_2d"].shape == (ROWS, 21, 2)
    assert got["root_depth"].shape == (ROWS,)
    assert all(np.isfinite(value).all() for value in got.values())
    assert (np.asarray(got["keypoints_3d"])[..., 2] > 0).all() and (np.asarray(got["root_depth"]) > 0).all()
    assert got["guesses_3d"].shape[1:] == (2, 21, 3)
    for name, K in (("keypoints", batch["K"]), ("guesses", batch["K"][:, None])):
        pixels = project(np.asarray(got[f"{name}_3d"]), K)  # pixels are the projections of the joints
        np.testing.assert_allclose(got[f"{name}_2d"], pixels, atol=0.05)


def test_an_untrained_hand_is_near_the_measured_distance(predict):
    joints = np.asarray(predict(make_batch())["keypoints_3d"])
    assert abs(joints[..., 2].mean() - 450) < 150
    assert (abs(joints[..., :2]) < 1000).all()


def test_rows_do_not_see_each_other(predict):
    batch, other = make_batch(), make_batch(seed=1)
    mixed = {key: np.concatenate([batch[key][:1], other[key][1:]]) for key in batch}
    np.testing.assert_allclose(
        predict(mixed)["keypoints_3d"][0], predict(batch)["keypoints_3d"][0], rtol=1e-5, atol=1e-3
    )


def test_is_right_does_not_change_predictions(predict):
    batch = make_batch()
    got, other = predict(batch), predict(batch | {"is_right": np.zeros(ROWS, np.float32)})
    for key in got:
        np.testing.assert_array_equal(got[key], other[key])


def test_hidden_depth_does_not_change_predictions(predict):
    """A row whose depth the pipeline hides is the row of a set that never had depth, next to rows with depth."""
    first, second = make_batch(), make_batch()
    second["depth"], second["depth_center"] = -first["depth"], first["depth_center"] * 2
    first, second = without_depth(first), without_depth(second)
    got, other = predict(first), predict(second)
    for key in got:
        np.testing.assert_array_equal(got[key], other[key])
    mixed = make_batch()
    for key in ("depth", "has_depth", "depth_center"):
        mixed[key][0] = 0
    np.testing.assert_allclose(predict(mixed)["keypoints_3d"][0], got["keypoints_3d"][0], rtol=1e-5, atol=1e-3)
    assert np.abs(np.asarray(predict(mixed)["keypoints_3d"][1] - got["keypoints_3d"][1])).max() > 1  # depth is used


def test_without_depth_the_centre_that_was_measured_cannot_matter(predict):
    batch = without_depth(make_batch())
    got, other = predict(batch), predict(batch | {"depth_center": np.full(ROWS, 9e3, np.float32)})
    np.testing.assert_array_equal(got["keypoints_3d"], other["keypoints_3d"])


def test_the_seed_draws_the_parameters():
    def flat(seed):
        params = nnx.to_pure_dict(nnx.split(models.build(load(None, [f"seed={seed}", "model.width=32"])), nnx.Param)[1])
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])

    once, again, other = flat(0), flat(0), flat(1)
    np.testing.assert_array_equal(once, again)
    assert (once != other).mean() > 0.5 and np.isfinite(once).all()


@pytest.mark.parametrize("size", [8, 60, 66])
def test_image_sizes_that_do_not_fit(size):
    with pytest.raises(ConfigError, match=f"data.image_size must be .*, got {size}"):
        nnx.eval_shape(lambda: models.build(load(None, [f"data.image_size={size}"])))


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="model.name must be one of dense, .*wilor, got 'dens'"):
        models.build(load(None, ["model.name=dens"]))


# Predictions of the untrained tiny network for `make_batch`
UNTRAINED = {
    "guesses_2d": [31.5223, 31.5223, -2.58361],
    "guesses_3d": [148.51, 154.307, -22.4853],
    "keypoints_2d": [31.2465, 31.2465, 25.0876],
    "keypoints_3d": [146.903, 153.997, 409.396],
    "root_depth": [419.408, 419.408, 149.302],
}


def test_an_untrained_network_stays(predict):
    """The same seed stands for the same parameters, and they for the same predictions, in every version."""
    got = predict(make_batch())
    assert got.keys() == UNTRAINED.keys()
    for name, value in got.items():
        assert_summary(value, UNTRAINED[name])


@pytest.mark.parametrize("name", ["dense", "fast_mesh"])
def test_bfloat16_is_near_float32(name):
    """The products are rounded, the predictions are not."""
    sizes = ModelConfig(name=name, width=32, fine_blocks=1, blocks=1, joint_width=32, joint_blocks=1)
    exact, rounded = (
        jax.jit(models.build(Config(model=dataclasses.replace(sizes, dtype=dtype))))(make_batch())
        for dtype in ("float32", "bfloat16")
    )
    for key, values in rounded.items():
        assert values.dtype == np.float32
        off = np.abs(values - exact[key]).max() / np.abs(exact[key]).max()
        assert 0 < off < 0.02, key
