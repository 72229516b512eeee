"""Faults of a run: each ends in one line that names the cause, and no saved step is lost."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxhand import train
from jaxhand.data.record import Record
from jaxhand.training import checkpoint_files, loop, runtime
from jaxhand.training.checkpoint import restore_best
from jaxhand.training.checkpoint_damage import SaveError

PATCH_STEP = """
from jaxhand.training import loop
import os, numpy as np
real, calls = loop.to_global, []
def to_global(batch, mesh):
    calls.append(0)
    if len(calls) == {count}:
        {action}
    return real(batch, mesh)
loop.to_global = to_global
"""


def one_line(errors):
    assert re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


@pytest.fixture
def refused(call, tiny_yaml, tmp_path):
    """Start a run that must fail at its start: returns the one line of its error."""

    def refused(*overrides, config=tiny_yaml, workdir=tmp_path / "run"):
        code, output, errors = call(train.main, "--config", config, "--workdir", workdir, *overrides)
        assert code == 2 and output == ""
        return one_line(errors)

    return refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batch_sise=8", "Did you mean 'training.batch_size'?"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate must be positive"),
        ("training.batch_size=6", "training.batch_size 6 cannot be split over 4 devices; try 8"),
        ("training.batch_size=128", "training.batch_size is 128, but the training set has 96 samples; lower"),
        ("data.train=freihand", "unknown data set 'freihand'"),
        ("data.train=folder:/no/such", "/no/such: no such data folder"),
        ("data.image_size=60", "data.image_size must be a multiple of 8"),
        ("model.name=resnet", "model.name must be one of dense, fast_mesh"),
        ("training.init_from=/no/such/run", "no run folder at /no/such/run"),
    ],
)
def test_configs_that_cannot_be_run(refused, override, words, tmp_path, monkeypatch):
    if "image_size" in override:  # a size that other tests use, so nothing new is rendered
        monkeypatch.setattr(loop.data, "load", lambda *_: [None] * 96)
    assert words in refused(override)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.name=resnet", "model.name must be one of dense, fast_mesh"),
        ("data.image_size=8", "data.image_size must be a multiple of 8, at least 16, for model 'dense', got 8"),
        ("data.train=freihand:", "unknown data set 'freihand:'; give its path, freihand:PATH"),
        ("data.test=synthetic:/x", "data set synthetic takes no path: its hands are rendered"),
        ("data.train={synthetic: 1, frehand:/x: 2}", "unknown data set 'frehand'; did you mean 'freihand'?"),
        ("training.init_from=/no/such/run", "no run folder at /no/such/run"),
    ],
)
def test_a_config_is_checked_before_anything_is_written(refused, override, words, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.data, "load", lambda *_: pytest.fail("a data set was opened"))
    assert words in refused(override)
    assert not (tmp_path / "run").exists()


def test_a_missing_config(refused, tmp_path):
    assert f"cannot read config {tmp_path / 'no.yaml'}" in refused(config=tmp_path / "no.yaml")


def test_run_folders_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("precious")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        assert f"cannot write to the run folder {workdir}: " in refused(workdir=workdir)
    (tmp_path / "blocked").mkdir()
    for name in ("checkpoints", "tensorboard"):
        blocked = tmp_path / name
        blocked.mkdir()
        (blocked / name).write_text("")
        assert str(blocked) in refused(workdir=blocked)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_run_folder_whose_config_is_broken(refused, trained, copy_of):
    workdir = copy_of(trained)
    (workdir / "config.yaml").write_text("training: {num_epoch: 1}")
    assert f"{workdir / 'config.yaml'}: unknown key 'training.num_epoch'" in refused(workdir=workdir)


def test_parameters_of_another_shape(refused, trained):
    line = refused(f"training.init_from={trained.workdir}", "model.width=48")
    assert f"training.init_from {trained.workdir} does not fit: params/" in line and "the model needs (" in line


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(trained, copy_of, command):
    workdir = copy_of(trained)
    victim = max((workdir / "checkpoints" / "36" / "params").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    code, output, errors = command("train", "--config", trained.config, "--workdir", workdir)
    assert code == 0
    assert re.fullmatch(
        r"warning: checkpoint \S+/36 is damaged \(.*\) and was renamed to damaged-36; .* step 24\n", errors
    )
    lines = output.replace(str(workdir), str(trained.workdir)).splitlines()
    assert lines[2] == "Going on from step 24 of 36"
    assert lines[3].startswith("Epoch 2: ") and lines[3:] == trained.output.splitlines()[-len(lines[3:]) :]
    assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()] == [12, 24, 36]


def test_a_full_disk(trained, command, disk_of):
    """The error comes in the next epoch, the earlier checkpoint is kept, and with free space the run continues."""
    small_disk = disk_of("64m")
    workdir, ballast = small_disk / "run", small_disk / "ballast"
    written = f"while [ ! -d {workdir}/checkpoints/12 ]; do sleep 0.05; done"  # a write in the background
    fill = f"os.system('{written}; head -c 100M /dev/zero > {ballast} 2> /dev/null; truncate -s -65536 {ballast}')"
    arguments = ("train", "--config", trained.config, "--workdir", workdir)
    code, output, errors = command(*arguments, patch=PATCH_STEP.format(count=20, action=fill))
    assert code == 2
    line = one_line(errors)
    assert "No space left" in line and str(workdir) in line
    assert checkpoint_files.steps(workdir / "checkpoints") == [12]
    assert restore_best(workdir).step == 12
    ballast.unlink()
    code, output, errors = command(*arguments)
    assert (code, errors) == (0, "")
    assert output.splitlines()[2] == "Going on from step 12 of 36"
    assert output.splitlines()[-1] == trained.output.splitlines()[-1]


def test_a_loss_that_is_not_finite(trained, command, tmp_path):
    """The run stops at the step and names its records; the checkpoint before it is kept."""
    patch = PATCH_STEP.format(count=17, action="batch['keypoints_3d'][3, 5] = np.nan")
    code, _, errors = command("train", "--config", trained.config, "--workdir", tmp_path / "run", patch=patch)
    assert code == 2
    line = one_line(errors)
    assert "is not finite (nan) at step 17; nothing was saved since step 12" in line
    assert len(re.findall(r"synthetic-front-train/\d+", line)) == 8
    assert checkpoint_files.steps(tmp_path / "run" / "checkpoints") == [12]
    assert restore_best(tmp_path / "run").meta["epoch"] == 0


@pytest.mark.slow
def test_a_disk_without_inodes(disk_of):
    """Whichever file of a checkpoint cannot be made: one line, nothing of asyncio, and the process ends."""
    code = """
        import sys
        import numpy as np
        from jaxhand.training import checkpoint, runtime
        def main():
            checkpoints = checkpoint.Checkpoints(sys.argv[1])
            item = dict(params={"a": np.arange(9.0)}, rest={}, optimizer={"b": np.ones(3)}, data={}, meta={})
            checkpoints.save(10, **item, avg_metric=1.0)
            checkpoints.wait()
            left = os.statvfs(sys.argv[1]).f_ffree - int(sys.argv[2])
            for i in range(left):
                open(f"{sys.argv[1]}/{i}", "w").close()
            checkpoints.save(20, **item, avg_metric=0.5)
            checkpoints.wait()
        import os
        runtime.run(main)
    """
    disk = disk_of("50m,nr_inodes=120")
    for free in (0, 3, 8, 15):
        shutil.rmtree(disk / "checkpoints", ignore_errors=True)
        for path in disk.glob("[0-9]*"):
            path.unlink()
        run = [sys.executable, "-c", textwrap.dedent(code), disk, str(free)]
        ended = subprocess.run(run, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2
        assert re.match(f"error: cannot write checkpoint {disk}/checkpoints/20: disk full", one_line(ended.stderr))


def test_after_a_failed_save_the_process_does_not_wait_for_threads(monkeypatch, capsys):
    def main():
        raise SaveError("cannot write checkpoint")

    monkeypatch.setattr("os._exit", lambda code: sys.exit(code + 100))
    with pytest.raises(SystemExit) as end:
        runtime.run(main)
    assert end.value.code == 102 and capsys.readouterr().err == "error: cannot write checkpoint\n"


@pytest.mark.slow
def test_a_learning_rate_that_blows_up(trained, command, tmp_path):
    overrides = ["optimizer.learning_rate=1e35", "scheduler.warmup_steps=0"]
    patch = "from jaxhand.config import ranges\nranges.Range.__contains__ = lambda *_: True"  # else it is refused
    arguments = ("train", "--config", trained.config, "--workdir", tmp_path / "run", *overrides)
    code, output, errors = command(*arguments, patch=patch)
    assert code == 2 and "Lower optimizer.learning_rate" in one_line(errors)
    assert checkpoint_files.steps(tmp_path / "run" / "checkpoints") == []


def test_suspects_are_the_records_with_a_number_that_is_not_finite():
    sound = Record(np.zeros((4, 4, 3), np.uint8), np.eye(3), np.zeros((21, 3)), np.ones(21), "right", name="sound")
    records = [dataclasses.replace(sound, name=f"sound{i}") for i in range(20)]
    assert loop._suspects(records) == ", ".join(f"sound{i}" for i in range(8)) + " and 12 more"
    records[7] = dataclasses.replace(sound, name="far", keypoints_3d=np.full((21, 3), np.inf))
    records[9] = dataclasses.replace(sound, name="holes", depth=np.full((4, 4), np.nan))
    assert loop._suspects(records) == "far, holes"


def test_an_image_that_breaks_in_mid_training(photographs, command, trained, tmp_path):
    """A reading thread finds it: the error is still one line that names the file."""
    folder = tmp_path / "photographs"
    shutil.copytree(photographs, folder)
    (folder / "images" / "11.png").write_bytes(b"cut off")
    overrides = [f"data.train=folder:{folder}", f"data.test=folder:{folder}"]
    patch = "from jaxhand.training import loop\nloop.BASELINE_HANDS = 1\n"
    arguments = ("train", "--config", trained.config, "--workdir", tmp_path / "run", *overrides)
    code, _, errors = command(*arguments, patch=patch)
    assert code == 2
    assert one_line(errors).endswith("images/11.png is not an image or is cut off\n")


def test_a_run_leaves_nothing_else_behind(trained):
    assert {path.name for path in trained.workdir.iterdir()} == {
        "config.yaml",
        "checkpoints",
        "tensorboard",
        "metrics.jsonl",
        "samples",
    }  # and no lock
    assert not [path for path in os.listdir(trained.workdir / "checkpoints") if not path.isdecimal()]
