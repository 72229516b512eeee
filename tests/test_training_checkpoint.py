"""Checkpoints: which are kept, and on which devices they can be restored."""

import contextlib
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxhand.config import Config, UserError
from jaxhand.training import pytree_checks
from jaxhand.training.checkpoint import CheckpointError, Checkpoints, restore_best
from tests.support.checkpoint_runs import (
    abstract_of,
    assert_same,
    make_trees,
    reopen,
    save,
    saved_run,
    steps_on_disk,
)


def test_best_latest_two_and_every_stay(tmp_path):
    metrics = {10: 9, 20: np.float32(3), 30: 5, 40: jnp.float32(3), 50: math.nan, 60: None, 70: math.inf, 80: 4, 90: 3}
    seen = {}
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=50)) as checkpoints:
        for step, metric in metrics.items():
            seen[step] = save(checkpoints, step, metric)
        assert checkpoints.best()[:2] == (20, 3.0) and checkpoints.latest_step() == 90
    assert [step for step, best in seen.items() if best] == [10, 20]  # the tie at 40 does not win
    assert steps_on_disk(tmp_path / "checkpoints") == [20, 50, 80, 90]
    with reopen(tmp_path, keep_every_steps=50) as checkpoints:  # a resumed run reads everything from the disk
        step, avg_metric, meta = checkpoints.best()
        assert (step, avg_metric, meta["epoch"]) == (20, 3.0, 2)
        assert save(checkpoints, 100, 2.5)
    assert steps_on_disk(tmp_path / "checkpoints") == [50, 90, 100]
    assert restore_best(tmp_path).step == 100


def test_not_finite_never_wins(tmp_path):
    saved_run(tmp_path, {1: math.nan, 2: None, 3: math.inf, 4: math.nan})
    assert steps_on_disk(tmp_path / "checkpoints") == [3, 4]
    with reopen(tmp_path) as checkpoints:
        assert checkpoints.best() is None and checkpoints.latest_step() == 4
    with pytest.raises(CheckpointError, match="no checkpoint in .* has a finite avg_metric"):
        restore_best(tmp_path)


def test_round_trip(tmp_path):
    wanted = make_trees(20)
    data = {"next_index": np.int64(640), "epoch": 1, "nested": {"a": [1, 2.5, "x"]}}
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=0)) as checkpoints:
        assert checkpoints.restore_latest(abstract_of(wanted)) is None
        checkpoints.save(20, **wanted, data=data, meta={"mpjpe": np.float32(2), "x": math.inf}, avg_metric=1.0)
    with reopen(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(abstract_of(wanted))
        assert restored.step == 20
        assert_same({name: getattr(restored, name) for name in wanted}, wanted)
        assert restored.data == {"next_index": 640, "epoch": 1, "nested": {"a": [1, 2.5, "x"]}}
        assert restored.meta["mpjpe"] == 2.0 and restored.meta["x"] == math.inf and restored.meta["avg_metric"] == 1.0
        assert restored.meta["versions"].keys() == {"jaxhand", "jax", "flax", "orbax"}


def test_an_empty_tree_is_fine(tmp_path):
    wanted = make_trees() | {"rest": {}}
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=0)) as checkpoints:
        save(checkpoints, 1, 1.0, named=wanted)
        assert_same(checkpoints.restore_latest(abstract_of(wanted)).rest, {})
    assert restore_best(tmp_path).rest == {}


def test_arrays_may_be_donated_at_once(tmp_path):
    step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    array = jnp.arange(1_000_000.0)
    step.lower(array).compile()
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=0)) as checkpoints:
        checkpoints.save(1, params={"a": array}, rest={}, optimizer={}, data={}, meta={}, avg_metric=1.0)
        for _ in range(5):
            array = step(array)
        jax.block_until_ready(array)
    np.testing.assert_array_equal(restore_best(tmp_path).params["a"], np.arange(1_000_000.0))


@pytest.mark.parametrize("step", [10, 9])
def test_a_step_that_is_not_later_is_an_error(tmp_path, step):
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=0)) as checkpoints:
        save(checkpoints, 10, 1.0)
        with pytest.raises(CheckpointError, match=f"cannot save step {step} .*: step 10 exists already"):
            save(checkpoints, step, 0.5)
        assert checkpoints.best()[:2] == (10, 1.0)


def test_evaluation_reads_no_optimizer(tmp_path):
    folder = saved_run(tmp_path, {10: 1.0})
    shutil.rmtree(folder / "10" / "optimizer")
    restored = restore_best(tmp_path)
    assert_same((restored.params, restored.rest), (make_trees(10)["params"], make_trees(10)["rest"]))
    assert restored.optimizer is None and restored.config == Config() and restored.meta["epoch"] == 1


def test_lists_of_modules_come_back_into_the_model(tmp_path):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])

    graphdef, params = nnx.split(Model(nnx.Rngs(0)))
    params = nnx.to_pure_dict(params)
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=0)) as checkpoints:
        save(checkpoints, 1, 1.0, named={"params": params, "rest": {}, "optimizer": optax.sgd(1.0, 0.9).init(params)})
    restored = restore_best(tmp_path).params
    assert_same(restored, params)
    nnx.merge(graphdef, restored)


def mutated(**changes):
    named = abstract_of(make_trees())
    named["params"]["encoder"] |= changes
    named["params"]["encoder"] = {name: leaf for name, leaf in named["params"]["encoder"].items() if leaf is not None}
    return named


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32)}, "kernel: saved (8,4), the model needs (8,6)"),
        ({"kernel": jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)}, "kernel: saved float32, the model needs bfloat16"),
        ({"gate": jax.ShapeDtypeStruct((3,), jnp.float32)}, "gate: not saved, the model needs (3,)"),
        ({"kernel": None}, "kernel: saved (8,4), but not in the model"),
    ],
)
def test_weights_only_load_into_their_shape(tmp_path, changes, message):
    saved_run(tmp_path, {10: 1.0})
    with reopen(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore_latest(mutated(**changes))
    assert str(error.value) == f"checkpoint {tmp_path}/checkpoints/10 does not fit the model: params/encoder/{message}"


def test_the_optimizer_must_fit_too(tmp_path):
    saved_run(tmp_path, {10: 1.0})
    named = make_trees()
    named["optimizer"] = optax.sgd(1.0, momentum=0.9).init(named["params"])
    line = r"10 has the state of another optimizer. Keep .*training\.ema.* training\.init_from=.* \(optimizer/0/.* more"
    with reopen(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=line):
        checkpoints.restore_latest(abstract_of(named))


def test_any_number_of_devices(tmp_path):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    one = jax.sharding.SingleDeviceSharding(jax.devices()[2])
    wanted = make_trees(1)
    split = jax.device_put(wanted, whole)
    split["params"]["encoder"] = jax.device_put(split["params"]["encoder"], rows)
    with contextlib.closing(Checkpoints(tmp_path / "four", keep_every_steps=0)) as checkpoints:
        save(checkpoints, 1, 1.0, named=split)
        restored = checkpoints.restore_latest(abstract_of(wanted, one))
        assert_same(restored.params, wanted["params"])
        assert restored.params["encoder"]["kernel"].sharding == one
        save(checkpoints, 2, 0.5, named=jax.device_put(wanted, one))
        target = abstract_of(wanted, whole)
        target["params"]["encoder"] = abstract_of(wanted["params"]["encoder"], rows)
        restored = checkpoints.restore_latest(target)
        assert_same(restored.optimizer, wanted["optimizer"])
        assert restored.params["encoder"]["kernel"].sharding == rows
    assert restore_best(tmp_path / "four").params["encoder"]["kernel"].devices() == {jax.devices()[0]}
    everywhere = restore_best(tmp_path / "four", sharding=whole)
    assert_same(everywhere.params, wanted["params"])
    assert len(everywhere.params["encoder"]["kernel"].devices()) == 4


def test_missing_folders_are_one_line(tmp_path):
    with pytest.raises(UserError, match=f"^no run folder at {tmp_path}/nowhere; train: python -m jaxhand.train"):
        restore_best(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"^no checkpoint in {tmp_path}/checkpoints; train: "):
        restore_best(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^cannot write checkpoints to .*/file/checkpoints: Not a directory$"):
        Checkpoints(tmp_path / "file", keep_every_steps=0)


def test_mismatches_are_named_in_order():
    saved = {"a": jnp.zeros((3, 3, 4, 64)), "b": jnp.zeros(2)}
    wanted = {"a": jnp.zeros((3, 3, 4, 96)), "b": jnp.zeros(3)}
    text = "params/a: saved (3,3,4,64), the model needs (3,3,4,96) (and 1 more)"
    assert pytree_checks.mismatch("params", saved, wanted) == text
    assert pytree_checks.mismatch("params", saved, saved) is None
