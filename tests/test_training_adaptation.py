"""The mix of joints that is fitted on a data set and written with the network, and the correction next to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxhand import config as configs
from jaxhand import data, evaluate, models
from jaxhand.models.efficientnet_lite import EfficientNetLite, Features
from jaxhand.models.mediapipe import Correction
from jaxhand.training import eval_loop
from jaxhand.training.adaptation import distance_prior
from jaxhand.training.checkpoint import Checkpoints, restore_best

SETTINGS = ["model.name=mediapipe", "data.image_size=224", "model.options.size=lite", "training.batch_size=8"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A converted network whose features are the same for every image: it always predicts the same hand."""
    ones = lambda self, image: Features(None, None, jnp.ones((len(image), self.width)))  # noqa: E731
    monkeypatch.setattr(EfficientNetLite, "__call__", ones)
    config = configs.load(None, SETTINGS)
    params = nnx.to_pure_dict(nnx.state(models.build(config), nnx.Param))
    hand = np.random.default_rng(0).uniform(-0.08, 0.08, (21, 3))  # m
    for name, values in (("world", hand), ("landmarks", 112 + 1000 * hand)):
        params[name] = {
            "kernel": jnp.zeros_like(params[name]["kernel"]),
            "bias": jnp.float32(values.reshape(63)),
        }
    checkpoints = Checkpoints(tmp_path / "run")
    meta = {"epoch": 0, "config": configs.to_dict(config), "converted": {"kind": "mediapipe", "file": "made up"}}
    checkpoints.save(0, params=params, rest={}, optimizer={}, data={}, meta=meta, avg_metric=None)
    checkpoints.close()
    return tmp_path / "run"


def losses(run, name):
    """The mean losses of a run's network on a data set."""
    eval_model, best = eval_loop.load_best(run)
    source = data.load(name, "train", best.config.data, best.config.seed)
    batches = eval_loop.batches_of(source, eval_model)
    return eval_loop.evaluate_dataset(eval_model, best.params, best.rest, batches)[0]["losses"]


def test_the_mix_brings_the_joints_closer(run, photographs, tmp_path, call):
    name, out = f"folder:{photographs}", tmp_path / "adapted"
    arguments = (run, "--data", name, "--split", "train", "--fit-joint-mix", out)
    code, output, errors = call(evaluate.main, *arguments)
    assert code == 0, errors
    assert f"training.init_from={out}" in output
    best = restore_best(out)
    assert best.config.model.options["adapt"] and best.config.data.crop_rule == "mediapipe"
    for key in ("mix_2d", "mix_3d"):
        np.testing.assert_allclose(best.params[key].sum(1), 1, atol=1e-5)
        assert np.abs(best.params[key] - np.eye(21)).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, best.params["world"], restore_best(run).params["world"])
    after, before = losses(out, name), losses(run, name)
    assert after["joints_2d"] < 0.8 * before["joints_2d"]
    code, _, errors = call(evaluate.main, *arguments)
    assert code == 2 and "holds checkpoints already" in errors


def test_the_distances_of_a_set_are_a_prior():
    joints = np.random.default_rng(0).normal(0, 20, (500, 21, 3))
    joints += np.array([0, 0, 1.0]) * np.exp(np.random.default_rng(1).normal(np.log(600), 0.05, (500, 1, 1)))
    mean, variance = distance_prior(joints)
    assert abs(mean - np.log(600)) < 0.01 and abs(np.exp(variance) - 0.05**2) < 3e-4


def test_another_model_has_no_mix(trained, photographs, tmp_path, call):
    name = f"folder:{photographs}"
    code, _, errors = call(evaluate.main, trained.workdir, "--data", name, "--fit-joint-mix", tmp_path / "out")
    assert code == 2 and "is a run of model 'dense': only 'mediapipe' and 'photo_net' have mixes of joints" in errors
    code, _, errors = call(evaluate.main, trained.workdir, "--fit-joint-mix", tmp_path / "out")
    assert code == 2 and "--fit-joint-mix needs a run folder and one --data" in errors


def test_a_correction_rotates_and_scales():
    correction, joints = Correction(2), jnp.float32(np.random.default_rng(0).normal(size=(3, 21, 3)))
    features = jnp.ones((3, 2))
    np.testing.assert_allclose(correction(features, joints), joints, atol=1e-6)
    correction.bias[...] = jnp.float32([0, 0, np.pi / 2, np.log(2)])  # a quarter turn about z, twice as large
    x, y, z = np.moveaxis(2 * np.asarray(joints), -1, 0)
    np.testing.assert_allclose(correction(features, joints), np.stack([-y, x, z], -1), atol=1e-5)
