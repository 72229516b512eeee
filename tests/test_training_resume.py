"""A run that is stopped or killed and started again ends like an uninterrupted run."""

import json

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxhand.training import checkpoint_files, loop
from jaxhand.training.checkpoint import Checkpoints
from jaxhand.training.sharding import make_mesh
from jaxhand.training.step import Trainer

BEFORE_STEP = """
import os, pathlib, signal, time
from jaxhand.training import loop
real, calls = loop.Feed.take, []
def take(*arguments):
    calls.append(0)
    if len(calls) == {count}:
        while {wait_for!r} and not pathlib.Path({wait_for!r}).exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.{signal})
    return real(*arguments)
loop.Feed.take = take
"""
BEFORE = """
import os, signal
from jaxhand import data
from jaxhand.training import checkpoint, loop
real, calls = {place}, []
def patched(*arguments, **options):
    calls.append(0)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.{signal})
    return real(*arguments, **options)
{place} = patched
"""


def read_curves(workdir):
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    curves = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in curves:
        if tag.startswith("speed/"):
            curves[tag] = [(step, None) for step, _ in curves[tag]]
    return curves | {"samples": [e.step for e in events.Images("samples")] if events.Tags()["images"] else []}


def read_lines(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if "per_second" not in key and not key.endswith("_share")}
        for line in lines
    ]


def read_state(workdir, config):
    """The content of the latest checkpoint."""
    trainer = Trainer(config, make_mesh(), total_steps=36)
    abstract = trainer.abstract_state
    checkpoints = Checkpoints(workdir, keep_every_steps=0)
    restored = checkpoints.restore_latest({item: abstract[key] for item, key in loop.ITEMS.items()})
    checkpoints.close()
    return restored


def assert_same_end(workdir, trained, config):
    """Assert bit for bit that a run equals the uninterrupted one: parameters, optimizer, data, curves, lines."""
    got, wanted = read_state(workdir, config), read_state(trained.workdir, config)
    assert got.step == wanted.step == 36 and got.data == wanted.data
    for name in ("params", "rest", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(got, name), getattr(wanted, name))
    assert read_lines(workdir) == read_lines(trained.workdir)
    assert read_curves(workdir) == read_curves(trained.workdir)
    assert checkpoint_files.metas(workdir / "checkpoints") == checkpoint_files.metas(trained.workdir / "checkpoints")
    assert sorted(p.name for p in (workdir / "samples").iterdir()) == [f"epoch_00{i}.png" for i in range(3)]
    for path in (workdir / "samples").iterdir():
        assert path.read_bytes() == (trained.workdir / "samples" / path.name).read_bytes()


def epochs_printed(output):
    """{epoch: its two lines}"""
    lines = output.splitlines()
    return {line.split(":")[0]: lines[i : i + 2] for i, line in enumerate(lines) if line.startswith("Epoch ")}


def assert_same_lines(output, trained, *epochs):
    printed = epochs_printed(output)
    assert list(printed) == [f"Epoch {epoch}" for epoch in epochs]
    for epoch, lines in printed.items():
        assert lines == epochs_printed(trained.output)[epoch]


def test_killed_and_stopped_again_and_again(trained, tiny, command, tmp_path):
    """kill -9 in mid-epoch, SIGTERM in mid-epoch, in the test and while saving: every time it continues exactly."""
    workdir = tmp_path / "run"

    def run(patch="", **options):
        patch = patch.format(**options) if patch else ""
        return command("train", "--config", trained.config, "--workdir", workdir, patch=patch)

    def steps():
        return checkpoint_files.steps(workdir / "checkpoints")

    code, output, errors = run(BEFORE_STEP, count=17, signal="SIGKILL", wait_for=str(workdir / "checkpoints" / "12"))
    assert code == -9 and steps() == [12]
    assert_same_lines(output, trained, 0)

    code, output, errors = run(BEFORE_STEP, count=8, signal="SIGTERM", wait_for="")
    assert (code, errors) == (143, "") and steps() == [12, 20]
    assert output.splitlines()[2] == "Going on from step 12 of 36"
    stopped = "Stopped by a signal at step 20, all is saved; the same command goes on from there"
    assert output.splitlines()[-1] == stopped
    assert_same_lines(output, trained)
    assert [step for step, _ in read_curves(workdir)["loss/step"]] == [20]  # of this very epoch, flushed

    code, output, errors = run(BEFORE, place="loop.evaluate_dataset", count=1, signal="SIGTERM")
    assert (code, errors) == (143, "") and 24 in steps()
    assert_same_lines(output, trained, 1)  # its Train Loss is of the complete epoch, over three starts

    code, output, errors = run(BEFORE, place="checkpoint.Checkpoints.save", count=1, signal="SIGTERM")
    assert (code, errors) == (143, "") and 36 in steps()
    assert_same_lines(output, trained, 2)

    code, output, errors = run()
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1] == trained.output.splitlines()[-1]
    kept = set(checkpoint_files.steps(trained.workdir / "checkpoints"))
    assert set(steps()) == kept
    assert_same_end(workdir, trained, tiny)


@pytest.mark.parametrize(
    "place",
    [
        "data.load",
        pytest.param("loop.Trainer", marks=pytest.mark.slow),
        pytest.param("checkpoint.Checkpoints.restore_latest", marks=pytest.mark.slow),
    ],
)
def test_stopped_before_the_first_step(trained, tiny, command, tmp_path, place):
    """While hands are rendered or a checkpoint is read, nothing can be lost: SIGTERM ends the run at once."""
    arguments = ("train", "--config", trained.config, "--workdir", tmp_path / "run")
    code, output, errors = command(*arguments, patch=BEFORE.format(place=place, count=1, signal="SIGTERM"))
    assert (code, output, errors) == (-15, "", "")
    assert checkpoint_files.steps(tmp_path / "run" / "checkpoints") == []


def test_ctrl_c_is_one_line(trained, command, tmp_path):
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background jobs
    patch = heard + BEFORE_STEP.format(count=5, signal="SIGINT", wait_for="")
    code, output, errors = command("train", "--config", trained.config, "--workdir", tmp_path / "run", patch=patch)
    assert (code, errors) == (130, "interrupted; run the same command to continue from the last checkpoint\n")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 12, 13, 24, 35, 36])
def test_killed_at_any_step(trained, tiny, command, tmp_path, count):
    """Also at an epoch's first and last step, whether or not the previous save had ended."""
    arguments = ("train", "--config", trained.config, "--workdir", tmp_path / "run")
    code, _, _ = command(*arguments, patch=BEFORE_STEP.format(count=count, signal="SIGKILL", wait_for=""))
    assert code == -9
    assert command(*arguments)[0] == 0
    assert_same_end(tmp_path / "run", trained, tiny)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["loop.write_png", "checkpoint.Checkpoints.save", "loop.evaluate_dataset"])
def test_killed_between_training_and_saving(trained, tiny, command, tmp_path, place):
    """The lines of an epoch are written before its checkpoint; a kill in between neither loses nor repeats them."""
    arguments = ("train", "--config", trained.config, "--workdir", tmp_path / "run")
    assert command(*arguments, patch=BEFORE.format(place=place, count=2, signal="SIGKILL"))[0] == -9
    assert command(*arguments)[0] == 0
    assert_same_end(tmp_path / "run", trained, tiny)
