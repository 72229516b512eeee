"""Checkpoints: what is kept, what a damaged disk, a full one or a killed process leaves, and what restores where."""

import contextlib
import errno
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxhand.config import Config, UserError, to_dict
from jaxhand.training import step_files, trees
from jaxhand.training.checkpoint import CheckpointError, Checkpoints, restore_best


def make_trees(seed=0, width=4):
    params = {
        "encoder": {"kernel": jax.random.normal(jax.random.key(seed), (8, width)), "bias": jnp.zeros((width,))},
        "layers": {0: {"kernel": jnp.full((2, 2), seed, jnp.float32)}, 1: {"kernel": jnp.ones((2, 2))}},
    }
    rest = {"mean": jnp.full((3,), seed, jnp.float32), "rng": jax.random.key(seed)}
    return {"params": params, "rest": rest, "optimizer": optax.adamw(1e-3).init(params)}


def abstract_of(named, sharding=None):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), named)


def save(checkpoints, step, avg_metric, named=None, **meta):
    meta = {"epoch": step // 10, "config": to_dict(Config())} | meta
    named = make_trees(step) if named is None else named
    return checkpoints.save(step, **named, data={"next_index": step}, meta=meta, avg_metric=avg_metric)


def saved_run(workdir, metrics, keep_every_steps=0):
    """A closed run with the steps and metrics of a dict."""
    with contextlib.closing(Checkpoints(workdir, keep_every_steps=keep_every_steps)) as checkpoints:
        for step, metric in metrics.items():
            save(checkpoints, step, metric)
    return workdir / "checkpoints"


def reopen(workdir, warnings=None, keep_every_steps=0):
    warn = pytest.fail if warnings is None else warnings.append
    return contextlib.closing(Checkpoints(workdir, keep_every_steps=keep_every_steps, warn=warn))


def assert_same(restored, wanted):
    def numbers(leaf):
        return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(numbers(a), numbers(b)), restored, wanted)


def steps_on_disk(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_best_latest_two_and_every_stay(tmp_path):
    metrics = {10: 9, 20: np.float32(3), 30: 5, 40: jnp.float32(3), 50: math.nan, 60: None, 70: math.inf, 80: 4, 90: 3}
    seen = {}
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=50)) as checkpoints:
        for step, metric in metrics.items():
            seen[step] = save(checkpoints, step, metric)
        assert checkpoints.best()[:2] == (20, 3.0) and checkpoints.latest_step() == 90
    assert [step for step, best in seen.items() if best] == [10, 20]  # the tie at 40 does not win
    assert steps_on_disk(tmp_path / "checkpoints") == [20, 50, 80, 90]
    with reopen(tmp_path, keep_every_steps=50) as checkpoints:  # what a resumed run knows, it reads from the disk
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
        with pytest.raises(CheckpointError, match=f"cannot save step {step} .*: step 10 is there already"):
            save(checkpoints, step, 0.5)
        assert checkpoints.best()[:2] == (10, 1.0)


def flip(step):
    """Flip a byte in the middle of the largest data file of the parameters."""
    path = max((step / "params").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(step):
    for path in step.rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


def plain(damage):
    """The same to a step that plain Orbax wrote: no manifest tells, Orbax must fail."""
    def damage_plain(step):
        (step / step_files.MANIFEST).unlink()
        damage(step)

    return damage_plain


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = {
    "flipped byte": flip,
    "truncated": truncate,
    "truncated, plain": plain(truncate),
    "no _METADATA": lambda step: (step / "params" / "_METADATA").unlink(),
    "no _METADATA, plain": plain(lambda step: (step / "params" / "_METADATA").unlink()),
    "no item": lambda step: shutil.rmtree(step / "optimizer"),
    "no meta, plain": plain(lambda step: (step / "meta" / "meta.json").unlink()),
    "cut manifest": lambda step: os.truncate(step / step_files.MANIFEST, 100),
    "cut metrics": lambda step: os.truncate(step / "metrics" / "metrics", 3),
    "bare folder": empty,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_latest_step_gives_way_to_the_one_before(tmp_path, damage, capfd):
    folder = saved_run(tmp_path, {10: 1.0, 20: 2.0, 30: 3.0})
    damage(folder / "30")
    warnings = []
    with reopen(tmp_path, warnings) as checkpoints:
        restored = checkpoints.restore_latest(abstract_of(make_trees()))
        assert restored.step == 20 and restored.data == {"next_index": 20}
        assert_same(restored.params, make_trees(20)["params"])
        assert len(warnings) == 1 and "\n" not in warnings[0] and len(warnings[0]) < 500
        assert f"{folder}/30 is damaged (" in warnings[0] and "goes on from step 20" in warnings[0]
        assert (folder / "damaged-30").is_dir() and checkpoints.latest_step() == 20
        save(checkpoints, 30, 0.5)  # its number is free again
    assert restore_best(tmp_path).step == 30
    assert capfd.readouterr() == ("", "")


def test_a_damaged_best_step_is_moved_too(tmp_path):
    folder = saved_run(tmp_path, {10: 1.0, 20: 1.5, 30: 2.0, 40: 3.0}, keep_every_steps=10)
    flip(folder / "10")
    warnings = []
    with reopen(tmp_path, warnings) as checkpoints:
        assert checkpoints.restore_latest(abstract_of(make_trees())).step == 40
        assert checkpoints.best()[:2] == (20, 1.5)
    assert len(warnings) == 1 and f"{folder}/10 is damaged" in warnings[0]


def test_all_steps_damaged_is_an_error_and_moves_nothing(tmp_path):
    folder = saved_run(tmp_path, {10: 1.0, 20: 2.0})
    flip(folder / "10")
    flip(folder / "20")
    with reopen(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="no checkpoint in .* can be read .20: "):
        checkpoints.restore_latest(abstract_of(make_trees()))
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be read"):
        restore_best(tmp_path)
    assert steps_on_disk(folder) == [10, 20]


def test_evaluation_passes_over_damage_and_writes_nothing(tmp_path):
    folder = saved_run(tmp_path, {10: 1.0, 20: 2.0, 30: 3.0})
    flip(folder / "10")
    (folder / "40.orbax-checkpoint-tmp").mkdir()  # a training that runs beside it
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    warnings = []
    assert restore_best(tmp_path, warn=warnings.append).step == 20
    assert len(warnings) == 1 and "step 20 is read in its place" in warnings[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


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
        ({"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32)}, "kernel: saved (8,4), model wants (8,6)"),
        ({"kernel": jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)}, "kernel: saved float32, model wants bfloat16"),
        ({"gate": jax.ShapeDtypeStruct((3,), jnp.float32)}, "gate: not saved, model wants (3,)"),
        ({"kernel": None}, "kernel: saved (8,4), model has none"),
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
    with reopen(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="optimizer/0/.* more"):
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


def fail_with_full_disk(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_save_is_told_once_and_leaves_the_last_good_one(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "checkpoints"
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=0)) as checkpoints:
        for step in (10, 20, 30):
            save(checkpoints, step, step)
        checkpoints.wait()
        monkeypatch.setattr(step_files, "write_manifest", fail_with_full_disk)
        assert not save(checkpoints, 40, 40.0)
        with pytest.raises(CheckpointError, match=f"cannot write checkpoint {folder}/40: disk full .*; step 30 is "):
            save(checkpoints, 50, 5.0)
        assert steps_on_disk(folder) == [10, 20, 30] and checkpoints.best()[0] == 10
        save(checkpoints, 50, 5.0)
        with pytest.raises(CheckpointError, match=f"cannot write checkpoint {folder}/50: disk full"):
            checkpoints.wait()
        checkpoints.wait()
        monkeypatch.undo()
        assert save(checkpoints, 50, 5.0)
        assert checkpoints.restore_latest(abstract_of(make_trees())).step == 50
        monkeypatch.setattr(step_files, "write_manifest", fail_with_full_disk)
        save(checkpoints, 60, 1.0)
        with pytest.raises(CheckpointError, match="60: disk full"):
            checkpoints.close()
    assert steps_on_disk(folder) == [30, 50]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if not shutil.which("mount") or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk, capfd):
    params = {"a": jax.random.normal(jax.random.key(0), (300_000,))}
    named = {"params": params, "rest": {}, "optimizer": {}}
    with contextlib.closing(Checkpoints(small_disk, keep_every_steps=0)) as checkpoints:
        for step in (10, 20):
            save(checkpoints, step, step, named=named)
        checkpoints.wait()
        save(checkpoints, 30, 5.0, named=named)
        with pytest.raises(CheckpointError, match=f"{small_disk}/checkpoints/30: disk full .*; step 20 is still there"):
            checkpoints.wait()
        assert_same(checkpoints.restore_latest(abstract_of(named)).params, params)
    assert restore_best(small_disk).step == 10
    assert capfd.readouterr() == ("", "")


def test_kill_in_mid_save(tmp_path):
    code = """
        import sys, time
        import numpy as np
        from jaxhand.training import checkpoint
        def stall(path):
            print("saving", flush=True)
            time.sleep(60)
        checkpoints = checkpoint.Checkpoints(sys.argv[1], keep_every_steps=0)
        item = dict(params={"a": np.arange(9.0)}, rest={}, optimizer={}, data={}, meta={})
        checkpoints.save(10, **item, avg_metric=1.0)
        checkpoints.wait()
        checkpoint.step_files.write_manifest = stall
        checkpoints.save(20, **item, avg_metric=0.5)
        checkpoints.wait()
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"saving\n"
        process.send_signal(signal.SIGKILL)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "20.orbax-checkpoint-tmp"]
    assert restore_best(tmp_path).step == 10
    abstract = {"params": {"a": jax.ShapeDtypeStruct((9,), np.float64)}, "rest": {}, "optimizer": {}}
    named = {"params": {"a": np.arange(9.0)}, "rest": {}, "optimizer": {}}
    with reopen(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(abstract).step == 10
        save(checkpoints, 20, 0.5, named=named)
    assert steps_on_disk(tmp_path / "checkpoints") == [10, 20]


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both write their rows, agree on what is damaged, and restore the same step."""
    code = """
        import os, sys
        os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        workdir, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
        import jax, numpy as np
        jax.distributed.initialize(f"localhost:{port}", 2, index, shutdown_timeout_seconds=10)
        from pathlib import Path
        from jax.sharding import NamedSharding, PartitionSpec
        from jaxhand.training.checkpoint import Checkpoints, restore_best, _agree
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
        def named(step):
            make = lambda shape, place: jax.make_array_from_callback(
                shape, place, lambda at: np.full(shape, step, np.float32)[at])
            params, rest = {"a": make((8, 3), rows)}, {"b": make((2,), whole)}
            return {"params": params, "rest": rest, "optimizer": {"a": make((8,), rows)}}
        checkpoints = Checkpoints(workdir, keep_every_steps=0)
        for step, metric in {10: 1.0, 20: 2.0, 30: 3.0, 40: 4.0}.items():
            checkpoints.save(step, **named(step), data={}, meta={"epoch": 1}, avg_metric=metric)
        checkpoints.wait()
        if index == 0:
            path = max((Path(workdir) / "checkpoints/40/params").rglob("d/*"), key=lambda file: file.stat().st_size)
            os.truncate(path, 10)
        _agree(True)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), named(0))
        restored = checkpoints.restore_latest(abstract)
        local = [np.unique(shard.data).tolist() for shard in restored.params["a"].addressable_shards]
        checkpoints.save(40, **named(40), data={}, meta={"epoch": 1}, avg_metric=0.5)
        checkpoints.close()
        best = restore_best(workdir)
        print(restored.step, local, best.step, np.unique(best.params["a"]).tolist(), best.params["a"].shape, flush=True)
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run = [sys.executable, "-c", textwrap.dedent(code), tmp_path, port]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*run, index], **pipes) for index in ("0", "1")]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [out.splitlines()[-1:] for out, _ in outputs] == [["30 [[30.0], [30.0]] 40 [40.0] (8, 3)"]] * 2, outputs
    assert outputs[0][1].count("is damaged") == 1 and "is damaged" not in outputs[1][1]


def test_the_manifest_is_json_over_the_items(tmp_path):
    folder = saved_run(tmp_path, {10: 1.0})
    sums = json.loads((folder / "10" / step_files.MANIFEST).read_text())
    assert {name.split("/")[0] for name in sums} == {"params", "rest", "optimizer", "data", "meta", "metrics"}
    assert step_files.damage(folder / "10", ("params",)) is None


def test_mismatches_are_named_in_order():
    saved = {"a": jnp.zeros((3, 3, 4, 64)), "b": jnp.zeros(2)}
    wanted = {"a": jnp.zeros((3, 3, 4, 96)), "b": jnp.zeros(3)}
    text = "params/a: saved (3,3,4,64), model wants (3,3,4,96) (and 1 more)"
    assert trees.mismatch("params", saved, wanted) == text
    assert trees.mismatch("params", saved, saved) is None
