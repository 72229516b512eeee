"""Steps: the same numbers on one device and on four, and an evaluation in which every sample counts once."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import ConfigError
from jaxhand.data import pipeline
from jaxhand.evaluation import Evaluator
from jaxhand.training import sharding
from jaxhand.training.eval_loop import batches_of, evaluate_dataset
from jaxhand.training.step import Trainer

STEPS = 5


@pytest.fixture(scope="module")
def train_set(tiny):
    return data.load("synthetic", "train", tiny.data, tiny.seed)


@pytest.fixture(scope="module")
def test_set(tiny):
    return data.load("synthetic", "test", tiny.data, tiny.seed)


def make_trainer(config, devices):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    return Trainer(config, mesh, total_steps=36)  # as the tiny run has


def train(trainer, source):
    """The losses of the first steps, and the state after them."""
    batches, state, losses = pipeline.train_iterator(source, trainer.config), trainer.init(), []
    for _, batch in zip(range(STEPS), batches):
        state, loss = trainer.train_step(state, sharding.to_global(batch, trainer.device_mesh))
        losses.append(float(loss))
    return losses, state


@pytest.fixture(scope="module")
def on_one(tiny, train_set):
    trainer = make_trainer(tiny, 1)
    return trainer, *train(trainer, train_set)


@pytest.fixture(scope="module")
def on_four(tiny, train_set):
    trainer = make_trainer(tiny, 4)
    return trainer, *train(trainer, train_set)


def test_the_first_step_uses_the_program_that_was_prepared(tiny, train_set, tmp_path, caplog):
    np.savez(tmp_path / "mocap.npz", hand_pose=np.zeros((3, 48), np.float32), betas=np.zeros((3, 10), np.float32))
    config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, mocap=str(tmp_path / "mocap.npz")))
    trainer = make_trainer(config, 1)
    compiled, state = trainer.prepare(), trainer.init()
    batch = sharding.to_global(next(iter(pipeline.train_iterator(train_set, config))), trainer.device_mesh)
    compiled.result(timeout=120)
    with jax.log_compiles():
        trainer.train_step(state, batch)
        assert "_train_step" not in caplog.text
        jax.jit(lambda x: x + 1).lower(1.0).compile()
        assert "lambda" in caplog.text  # such lines are logged


def test_one_device_and_four_train_alike(on_one, on_four):
    (_, losses, state), (_, others, other_state) = on_one, on_four
    np.testing.assert_allclose(losses, others, atol=1e-4)
    assert losses[-1] != losses[0]
    for key, value in state["sums"].items():
        np.testing.assert_allclose(value, other_state["sums"][key], atol=1e-3, err_msg=key)
    assert int(state["step"]) == int(other_state["step"]) == STEPS
    assert float(state["sums"]["loss"]) == pytest.approx(sum(losses), rel=1e-5)


def test_one_device_and_four_test_alike(on_one, on_four, test_set):
    trainer, _, state = on_one
    four = on_four[0]
    params, batch_stats = (jax.device_get(state[name]) for name in ("params", "batch_stats"))
    one_result, _ = evaluate_dataset(trainer, params, batch_stats, pipeline.eval_batches(test_set, trainer.config, 8))
    four_result, _ = evaluate_dataset(four, params, batch_stats, pipeline.eval_batches(test_set, four.config, 8))
    for key in ("test_loss", "mpjpe", "pa_mpjpe", "avg_metric"):
        assert four_result[key] == pytest.approx(one_result[key], abs=1e-4), key
    assert one_result["count"] == four_result["count"] == len(test_set)


def test_state_is_whole_on_every_device_and_batches_are_split(on_four):
    trainer, _, state = on_four
    assert all(leaf.is_fully_replicated and len(leaf.devices()) == 4 for leaf in jax.tree.leaves(state))
    array = sharding.to_global({"x": np.arange(8)}, trainer.device_mesh)["x"]
    assert [len(shard.data) for shard in array.addressable_shards] == [2] * 4
    np.testing.assert_array_equal(sharding.local_rows(array), np.arange(8))


def test_the_learning_rate_runs_its_course(on_one, tiny):
    rates = [float(on_one[0].learning_rate(step)) for step in range(37)]
    assert rates[0] == 0 and np.argmax(rates) == tiny.scheduler.warmup_steps
    assert max(rates) == pytest.approx(tiny.optimizer.learning_rate)
    assert rates[-1] == pytest.approx(tiny.scheduler.eta_min, abs=1e-9)


@pytest.mark.parametrize("batch_size", [8, 24])  # neither divides 22
def test_every_test_sample_counts_once(on_four, test_set, batch_size):
    """The result is that of an `Evaluator` fed by hand, sample by sample, whatever the size of a batch."""
    trainer, _, state = on_four
    config = trainer.config
    seen, predicted, truth = [], [], []

    def collect(batch, predictions):
        real = batch["valid"] > 0
        seen.extend(batch["index"][real].tolist())
        predicted.append(predictions["keypoints_3d"][real])
        truth.append(batch["keypoints_3d"][real])

    batches = pipeline.eval_batches(test_set, config, batch_size)
    result, samples = evaluate_dataset(
        trainer, state["params"], state["batch_stats"], batches, samples=5, collect=collect
    )
    assert seen == list(range(len(test_set))) and result["count"] == len(test_set)
    assert len(test_set) % batch_size != 0

    evaluator = Evaluator(len(test_set))
    for prediction, joints in zip(np.concatenate(predicted), np.concatenate(truth)):
        evaluator(prediction[None], joints[None])
    expected = evaluator.get_metrics_dict()
    for key in ("mpjpe", "pa_mpjpe", "avg_metric"):
        assert result[key] == pytest.approx(expected[key], abs=1e-3), key
    np.testing.assert_array_equal(np.concatenate(truth)[3], test_set[3].keypoints_3d)
    assert samples["image"].shape == (5, 64, 64, 3) and samples["predicted_2d"].shape == (5, 21, 2)

    batches = pipeline.eval_batches(test_set, config, 32 - batch_size)
    other, _ = evaluate_dataset(trainer, state["params"], state["batch_stats"], batches)
    assert result["test_loss"] == pytest.approx(other["test_loss"], abs=1e-5)
    assert result["losses"].keys() == {"loss", *trainer.loss_terms}


def test_invalid_labels_and_predictions_are_counted(on_four, test_set):
    trainer, _, state = on_four

    class Damaged:
        def __len__(self):
            return len(test_set)

        def __getitem__(self, i):
            joints = np.zeros((21, 3), np.float32) if i == 4 else test_set[i].keypoints_3d
            return dataclasses.replace(test_set[i], keypoints_3d=joints)

    result, _ = evaluate_dataset(
        trainer, state["params"], state["batch_stats"], pipeline.eval_batches(Damaged(), trainer.config, 8)
    )
    assert (result["count"], result["invalid"], result["nonfinite"]) == (21, 1, 0) and np.isfinite(result["mpjpe"])

    broken = jax.tree.map(lambda leaf: leaf * np.nan, state["params"])
    result, _ = evaluate_dataset(
        trainer, broken, state["batch_stats"], pipeline.eval_batches(test_set, trainer.config, 8)
    )
    assert (result["count"], result["nonfinite"]) == (22, 22) and result["avg_metric"] == np.inf


def test_test_batches_fit_all_devices(on_four, test_set):
    trainer = on_four[0]
    assert jax.device_count() == 4
    odd = dataclasses.replace(trainer.config.training, batch_size=6)
    trainer_like = type("", (), {"config": dataclasses.replace(trainer.config, training=odd), "hand_model": None})
    assert {len(batch["valid"]) for batch in batches_of(test_set, trainer_like)} == {8}


@pytest.mark.parametrize(("batch_size", "hint"), [(6, 8), (1, 4), (63, 64)])
def test_a_batch_that_devices_cannot_share(batch_size, hint):
    with pytest.raises(ConfigError, match=f"batch_size {batch_size} cannot be split over 4 devices; try {hint}"):
        sharding.check_batch_size(batch_size)
    sharding.check_batch_size(hint)
