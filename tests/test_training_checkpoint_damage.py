"""Checkpoints after a damaged file, on a full disk or after a killed process."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from jaxhand.training import checkpoint_damage, checkpoint_files
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
    """Damage a step that plain Orbax wrote: it has no manifest, so Orbax itself must fail."""

    def damage_plain(step):
        (step / checkpoint_files.MANIFEST).unlink()
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
    "no meta, plain": plain(lambda step: (step / "meta" / "metadata").unlink()),
    "cut manifest": lambda step: os.truncate(step / checkpoint_files.MANIFEST, 100),
    "cut metrics": lambda step: os.truncate(step / "metrics" / "metrics", 3),
    "bare folder": empty,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_latest_step_is_replaced_by_the_one_before(tmp_path, damage, capfd):
    folder = saved_run(tmp_path, {10: 1.0, 20: 2.0, 30: 3.0})
    damage(folder / "30")
    warnings = []
    with reopen(tmp_path, warnings) as checkpoints:
        restored = checkpoints.restore_latest(abstract_of(make_trees()))
        assert restored.step == 20 and restored.data == {"next_index": 20}
        assert_same(restored.params, make_trees(20)["params"])
        assert len(warnings) == 1 and "\n" not in warnings[0] and len(warnings[0]) < 500
        assert f"{folder}/30 is damaged (" in warnings[0] and "training continues from step 20" in warnings[0]
        assert (folder / "damaged-30").is_dir() and checkpoints.latest_step() == 20
        save(checkpoints, 30, 0.5)  # its step number can be used again
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
    (folder / "40.orbax-checkpoint-tmp").mkdir()  # a training that runs at the same time
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    warnings = []
    assert restore_best(tmp_path, warn=warnings.append).step == 20
    assert len(warnings) == 1 and "step 20 is used instead" in warnings[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def fail_with_full_disk(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_save_is_reported_once_and_keeps_the_last_good_one(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "checkpoints"
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=0)) as checkpoints:
        for step in (10, 20, 30):
            save(checkpoints, step, step)
        checkpoints.wait()
        monkeypatch.setattr(checkpoint_files, "write_manifest", fail_with_full_disk)
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
        monkeypatch.setattr(checkpoint_files, "write_manifest", fail_with_full_disk)
        save(checkpoints, 60, 1.0)
        with pytest.raises(CheckpointError, match="60: disk full"):
            checkpoints.close()
    assert steps_on_disk(folder) == [30, 50]
    assert capfd.readouterr() == ("", "")


def test_a_full_disk(disk_of, capfd):
    small_disk = disk_of("3m")
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
        checkpoint.checkpoint_files.write_manifest = stall
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
        from jaxhand.training.checkpoint import Checkpoints, restore_best
        from jaxhand.training.checkpoint_damage import agree
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
        agree(True)
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
    sums = json.loads((folder / "10" / checkpoint_files.MANIFEST).read_text())
    items = {"params", "rest", "optimizer", "data", "meta", "metrics"}
    assert {name.split("/")[0] for name in sums} == items | {"_CHECKPOINT_METADATA", checkpoint_files.MANIFEST}
    assert checkpoint_files.damage(folder / "10", ("params",)) is None


def test_long_messages_are_shortened(capsys):
    """TensorStore's errors have a hundred lines; one of at most 200 characters is shown."""
    line = checkpoint_damage.first_line
    assert line(ValueError("  one\ntwo")) == "one" and line(ValueError()) == "ValueError"
    assert line(ValueError("x" * 199)) == "x" * 199 and line(ValueError("x" * 201)) == "x" * 200 + "…"
    checkpoint_damage.warn("a line")
    assert capsys.readouterr().err == "warning: a line\n"


def test_another_process_waits_until_it_finds_the_files(tmp_path, monkeypatch):
    """A network file system can show a step to the first process only, for a while."""
    saved_run(tmp_path, {10: 1.0})
    step, hidden = tmp_path / "checkpoints" / "10", tmp_path / "hidden"
    verify, waits = checkpoint_damage.verify, []
    monkeypatch.setattr(checkpoint_damage.jax, "process_index", lambda: 1)

    def appear(seconds):
        waits.append(seconds)
        if hidden.exists():
            hidden.rename(step / "params" / "_METADATA" if (step / "params").exists() else step)

    monkeypatch.setattr(checkpoint_damage.time, "sleep", appear)
    verify(step, ("params",))
    assert waits == []
    for path in (step / "params" / "_METADATA", step):
        path.rename(hidden)
        verify(step, ("params",))
    assert len(waits) == 2
    (step / "params" / "_METADATA").unlink()
    monkeypatch.setattr(checkpoint_damage, "VISIBLE_S", 0.0)
    verify(step, ("params",))  # the restore that follows finds out
