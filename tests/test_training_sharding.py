"""A state that is split over the devices, and batches in parts: the same numbers with less memory per device."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxhand import config as configs
from jaxhand import data
from jaxhand.config import ConfigError
from jaxhand.data import pipeline
from jaxhand.training import loop, losses, sharding
from jaxhand.training.checkpoint import Checkpoints, restore_best
from jaxhand.training.step import Trainer

STEPS = 4
FSDP = ["training.sharding=fsdp"]


@pytest.fixture(scope="module", autouse=True)
def split_small_arrays():
    """The arrays of the tiny network are smaller than those that are worth splitting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SPLIT_FROM", 512)
        yield


@pytest.fixture(scope="module")
def steps(tiny_yaml):
    """The losses of the first steps with some overrides, the state after them, and the trainer."""
    known = {}

    def steps(*overrides):
        if overrides not in known:
            config = configs.load(tiny_yaml, [*overrides, "data.augment.noise=0.02"])
            trainer = Trainer(config, sharding.make_mesh(config.training), total_steps=36)
            source = data.load("synthetic", "train", config.data, config.seed)
            batches, state, values = pipeline.train_iterator(source, config), trainer.init(), []
            for _, batch in zip(range(STEPS), batches):
                state, loss = trainer.train_step(state, sharding.to_global(batch, trainer.device_mesh))
                values.append(float(loss))
            known[overrides] = values, state, trainer
        return known[overrides]

    return steps


def assert_alike(one, other):
    """Losses and parameters agree; Adam may turn round where a gradient is nearly 0."""
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    assert one[0][0] != one[0][-1]
    trees = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(run[1]["params"]))])
        for run in (one, other)
    )
    apart = np.abs(np.subtract(*trees))
    assert apart.mean() < 1e-5 and (apart > 1e-4).mean() < 0.01


def test_a_split_state_trains_as_a_copied_one(steps):
    split, copied = steps(*FSDP), steps()
    assert_alike(split, copied)
    on_one = [
        sharding.bytes_per_device({key: run[1][key] for key in ("params", "optimizer")}) for run in (split, copied)
    ]
    assert on_one[0] < on_one[1] * (1 / 4 + 0.1)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(split[1]["params"]))
    assert held == sharding.bytes_per_device(split[1]["params"])


def test_a_batch_in_parts_trains_as_a_whole_one_on_a_mesh_of_two_axes(steps):
    in_parts = steps(*FSDP, "training.mesh.data=2", "training.accumulate=2")
    assert in_parts[2].device_mesh.shape == {"data": 2, "fsdp": 2}
    assert_alike(in_parts, steps())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_parts_of_a_loss_add_up(reduction):
    weights = configs.load(None, [f"loss.reduction={reduction}"]).loss
    values = np.random.default_rng(0).random((3, 8))
    terms = dict(zip(("joints_3d", "joints_2d", "adversarial"), values))
    halves = [losses.reduced({name: value[half::2] for name, value in terms.items()}, weights, 2) for half in (0, 1)]
    for name, whole in losses.reduced(terms, weights).items():
        np.testing.assert_allclose(halves[0][name] + halves[1][name], whole, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((64, 32), PartitionSpec("fsdp")),
        ((32, 64), PartitionSpec(None, "fsdp")),
        ((3, 3, 64, 64), PartitionSpec(None, None, "fsdp")),
        ((1001, 12), PartitionSpec(None, "fsdp")),
        ((1001, 13), PartitionSpec()),
        ((4, 4), PartitionSpec()),
        ((), PartitionSpec()),
    ],
)
def test_the_longest_axis_that_fits_is_split(shape, spec):
    device_mesh = sharding.make_mesh(configs.load(None, FSDP).training)
    assert sharding.of_state(device_mesh, shape) == jax.sharding.NamedSharding(device_mesh, spec)
    assert sharding.of_state(sharding.make_mesh(), shape).is_fully_replicated


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([*FSDP, "training.mesh.fsdp=3"], "data 1 times fsdp 3 must be the number of devices, 4"),
        (["training.mesh.data=2"], "data 2 times fsdp 1 must be the number of devices, 4"),
        (["training.mesh.fsdp=2"], "set both"),
        ([*FSDP, "training.mesh.data=0"], "data 0 times fsdp 4"),
        ([*FSDP, "training.mesh.data=8"], "data 8 times fsdp 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_an_error(overrides, line):
    with pytest.raises(ConfigError, match=line):
        sharding.make_mesh(configs.load(None, overrides).training)


def test_a_batch_that_cannot_be_parted_is_an_error():
    with pytest.raises(ConfigError, match=r"batch_size 12 .* in 2 parts \(training.accumulate\); try 16"):
        sharding.check_batch_size(12, parts=2)
    sharding.check_batch_size(16, parts=2)


def test_a_split_state_is_saved_and_restored_onto_any_mesh(tiny_yaml, tmp_path):
    """Also by a reader that knows nothing of the mesh, such as `evaluate` on one device."""
    config = configs.load(tiny_yaml, FSDP)
    trainer = Trainer(config, sharding.make_mesh(config.training), total_steps=36)
    state, checkpoints = trainer.init(), Checkpoints(tmp_path)
    trees = {item: state[key] for item, key in loop.ITEMS.items()}
    checkpoints.save(12, **trees, data={}, meta={"epoch": 0, "config": configs.to_dict(config)}, avg_metric=1.0)
    checkpoints.wait()
    for axes in ([*FSDP, "training.mesh.data=2"], []):
        other = configs.load(tiny_yaml, axes)
        abstract = Trainer(other, sharding.make_mesh(other.training), total_steps=36).abstract_state
        restored = checkpoints.restore_latest({item: abstract[key] for item, key in loop.ITEMS.items()})
        for item, key in loop.ITEMS.items():
            have, want = getattr(restored, item), abstract[key]
            assert jax.tree.map(lambda leaf: leaf.sharding, have) == sharding.shardings(want)
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(have), jax.device_get(state[key]))
    checkpoints.close()
    on_one = restore_best(tmp_path, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])).params
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(on_one), jax.device_get(state["params"]))
