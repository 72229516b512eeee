"""Averaged parameters: with those of the start, or over the steps; and parameters that are frozen."""

import jax
import numpy as np
import pytest

from jaxhand import config as configs
from jaxhand import data
from jaxhand.config import ConfigError, UserError
from jaxhand.data import pipeline
from jaxhand.training import loop
from jaxhand.training.checkpoint import Checkpoints, restore_best
from jaxhand.training.sharding import make_mesh, to_global
from jaxhand.training.step import Trainer

WEIGHT = 0.75


@pytest.fixture(scope="module")
def config(trained):
    tuned = [f"training.init_from={trained.workdir}", f"training.average_with_init={WEIGHT}", "training.num_epochs=2"]
    return configs.load(trained.config, [*tuned, "optimizer.rates.stem/*=0", "optimizer.weight_decay=0.1"])


@pytest.fixture(scope="module")
def tuned(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    assert loop.train(config, workdir) == 0
    return workdir


def latest(workdir, config):
    """Everything the latest checkpoint holds."""
    abstract = Trainer(config, make_mesh(), total_steps=24).abstract_state
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore_latest({item: abstract[key] for item, key in loop.ITEMS.items()})
    checkpoints.close()
    return restored


def test_a_run_holds_the_average(trained, tuned, config):
    start, end = restore_best(trained.workdir).params, latest(tuned, config)
    start, params, optimizer = (jax.device_get(tree) for tree in (start, end.params, end.optimizer))
    moved = optimizer["trained"]
    jax.tree.map(np.testing.assert_array_equal, optimizer["start"], start)
    expected = jax.tree.map(lambda one, other: WEIGHT * one + (1 - WEIGHT) * other, start, moved)
    jax.tree.map(lambda have, want: np.testing.assert_allclose(have, want, atol=1e-6), params, expected)
    farthest = max(jax.tree.leaves(jax.tree.map(lambda one, other: np.abs(one - other).max(), start, moved)))
    assert farthest > 1e-3


def test_frozen_parameters_stay_to_the_bit(trained, tuned, config):
    start, end = restore_best(trained.workdir).params, latest(tuned, config)
    jax.tree.map(np.testing.assert_array_equal, end.params["stem"], start["stem"])
    jax.tree.map(np.testing.assert_array_equal, end.optimizer["trained"]["stem"], start["stem"])


def test_stopped_and_resumed_it_ends_alike(tuned, config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Interruption, "reached", lambda self, step: step == 7)
        assert loop.train(config, tmp_path / "run") == loop.TERMINATED
    assert latest(tmp_path / "run", config).step == 7
    assert loop.train(config, tmp_path / "run") == 0
    one, other = latest(tuned, config), latest(tmp_path / "run", config)
    assert one.step == other.step == 24
    for item in ("params", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, item), getattr(other, item))


def test_without_a_start_there_is_nothing_to_average_with():
    with pytest.raises(ConfigError, match="training.average_with_init needs a start"):
        configs.load(None, ["training.average_with_init=0.5"])
    with pytest.raises(UserError, match="training.average_with_init must be below 1"):
        configs.load(None, ["training.average_with_init=1", "training.init_from=runs/x"])


def test_the_moving_average_of_the_steps_is_what_is_tested_and_saved(tiny_yaml):
    decay = 0.3
    config = configs.load(tiny_yaml, [f"training.ema={decay}"])
    trainer = Trainer(config, make_mesh(), total_steps=36)
    source = data.load("synthetic", "train", config.data, config.seed)
    state, batches = trainer.init(), pipeline.train_iterator(source, config)
    average = jax.device_get(state["params"])
    jax.tree.map(np.testing.assert_array_equal, average, jax.device_get(state["optimizer"]["trained"]))
    for step, batch in zip(range(4), batches):
        state, _ = trainer.train_step(state, to_global(batch, trainer.device_mesh))
        now = min(decay, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.3
        trained = jax.device_get(state["optimizer"]["trained"])
        average = jax.tree.map(lambda old, new: now * old + (1 - now) * new, average, trained)
        close = lambda have, want: np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)  # noqa: E731
        jax.tree.map(close, jax.device_get(state["params"]), average)
    farthest = max(jax.tree.leaves(jax.tree.map(lambda one, other: np.abs(one - other).max(), average, trained)))
    assert farthest > 1e-4


def test_two_ways_to_average_are_one_too_many():
    with pytest.raises(ConfigError, match="are two ways to average"):
        configs.load(None, ["training.average_with_init=0.5", "training.init_from=runs/x", "training.ema=0.9"])
