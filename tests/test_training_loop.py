"""A complete run: its console, its files, its checkpoints and its initial parameters."""

import gzip
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxhand import config as configs
from jaxhand import train
from jaxhand.training import checkpoint_files
from jaxhand.training.checkpoint import restore_best

STEPS = 12  # an epoch


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def metrics_on_disk(workdir):
    return checkpoint_files.metas(workdir / "checkpoints")


def test_console(trained):
    """Every line that a run prints."""
    number = r"(\d+\.\d{3})"
    lines = trained.output.splitlines()
    assert re.fullmatch(rf"Baseline \(mean pose of the training set\): MPJPE = {number} mm", lines[0])
    assert re.fullmatch(rf"Baseline \(one rigid hand, aligned\): PA-MPJPE = {number} mm", lines[1])
    best, best_epoch, rest = np.inf, None, iter(lines[2:])
    for line in lines_of(trained.workdir):
        epoch, average, step = line["epoch"], line["avg_metric"], line["step"]
        assert next(rest) == (
            f"Epoch {epoch}: Train Loss = {line['train_loss']:.4f}, Test Loss = {line['test_loss']:.4f}, "
            f"LR = {line['learning_rate']:.2e}"
        )
        assert next(rest) == (
            f"  MPJPE: {line['mpjpe']:.3f} mm, PA-MPJPE: {line['pa_mpjpe']:.3f} mm, Avg Metric: {average:.3f} mm"
        )
        if average < best:
            best, best_epoch = average, epoch
            place = trained.workdir / "checkpoints" / str(step)
            assert next(rest) == f"  ✓ Saved best model (avg_metric={average:.3f} mm) to {place}"
    assert next(rest) == f"Best model: Epoch {best_epoch}, Avg Metric = {best:.3f} mm"
    assert list(rest) == []


def test_an_epoch_is_tested_and_written_down(trained):
    lines = lines_of(trained.workdir)
    assert [(line["epoch"], line["step"]) for line in lines] == [(0, 12), (1, 24), (2, 36)]
    for line in lines:
        assert line["avg_metric"] == pytest.approx((line["mpjpe"] + line["pa_mpjpe"]) / 2)
        assert (line["count"], line["nonfinite"], line["invalid"]) == (22, 0, 0)
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


def test_curves(trained):
    events = EventAccumulator(str(trained.workdir / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    names = ("loss", "joints_3d", "joints_2d", "depth", "distance", "size", "guesses")
    wanted = {f"loss_{kind}/{name}" for kind in ("train", "test") for name in names}
    wanted |= {"metric/mpjpe", "metric/pa_mpjpe", "metric/avg_metric"}
    wanted |= {"speed/images_per_second", "speed/test_images_per_second"}
    wanted |= {"speed/data_wait", "speed/test", "speed/save"}
    assert set(tags["scalars"]) == wanted | {"loss/step", "learning_rate"}
    for tag in wanted:
        assert [event.step for event in events.Scalars(tag)] == [12, 24, 36], tag
    assert [event.step for event in events.Scalars("loss/step")] == [20]
    assert [event.step for event in events.Images("samples")] == [12, 24, 36]
    for event, line in zip(events.Scalars("metric/mpjpe"), lines_of(trained.workdir)):
        assert event.value == pytest.approx(line["mpjpe"], rel=1e-6)
    for event, line in zip(events.Scalars("loss_train/loss"), lines_of(trained.workdir)):
        assert event.value == pytest.approx(line["train_loss"], rel=1e-6)


def test_pictures(trained):
    paths = sorted((trained.workdir / "samples").iterdir())
    assert [path.name for path in paths] == ["epoch_000.png", "epoch_001.png", "epoch_002.png"]
    assert min(cv2.imread(str(paths[-1])).shape[:2]) > 500


def test_the_folder_describes_its_run(trained, tiny):
    """Best and latest two checkpoints; the whole config in the folder and in every checkpoint."""
    assert configs.load(trained.workdir / "config.yaml") == tiny
    metas, lines = metrics_on_disk(trained.workdir), {line["step"]: line for line in lines_of(trained.workdir)}
    best = min(lines, key=lambda step: lines[step]["avg_metric"])
    assert set(metas) == {best, 24, 36}
    for step, meta in metas.items():
        assert configs.from_dict(meta["config"]) == tiny
        assert meta["versions"].keys() == {"jaxhand", "jax", "flax", "orbax"}
        assert meta["step"] == meta["schedule_step"] == step
        for key in ("epoch", "train_loss", "test_loss", "mpjpe", "pa_mpjpe", "avg_metric"):
            assert meta[key] == lines[step][key]
    assert restore_best(trained.workdir).step == best


def test_a_finished_run_says_so_and_changes_nothing(trained, copy_of, call):
    workdir = copy_of(trained)
    before = lines_of(workdir)
    code, output, errors = call(train.main, "--config", trained.config, "--workdir", workdir)
    assert (code, errors) == (0, "")
    assert output.splitlines()[2:] == ["Going on from step 36 of 36", trained.output.splitlines()[-1]]
    assert lines_of(workdir) == before and set(metrics_on_disk(workdir)) == set(metrics_on_disk(trained.workdir))


def test_test_freq_and_other_free_keys_change_nothing(trained, copy_of, call):
    """Every epoch is evaluated whatever `test_freq` is, and its value may change between starts of a run."""
    free = ["training.test_freq=5", "data.threads=2", "training.profile=[3, 5]"]
    code, output, _ = call(train.main, "--config", trained.config, "--workdir", copy_of(trained), *free)
    assert code == 0 and output.splitlines()[2] == "Going on from step 36 of 36"
    assert output.splitlines()[3] == "training.profile: no trace is written, because step 5 is over"


def test_another_config_is_refused(trained, copy_of, call):
    workdir = copy_of(trained)
    changes = ["optimizer.learning_rate=0.1", "training.num_epochs=4"]
    code, output, errors = call(train.main, "--config", trained.config, "--workdir", workdir, *changes)
    assert code == 2 and output == ""
    assert errors == (
        f"error: {workdir}: contains a run with another config (optimizer.learning_rate: 0.003 -> 0.1; "
        "training.num_epochs: 3 -> 4); choose another --workdir, or use the config of that run; --allow config goes on "
        "with the new one\n"
    )
    assert set(metrics_on_disk(workdir)) == set(metrics_on_disk(trained.workdir))
    assert configs.load(workdir / "config.yaml").training.num_epochs == 3


def test_a_folder_without_checkpoints_takes_another_config(tiny_yaml, tmp_path, call, monkeypatch):
    from jaxhand.training import loop

    (tmp_path / "config.yaml").write_text("training: {num_epochs: 1}\n")
    monkeypatch.setattr(loop, "Run", lambda config, workdir, *_: loop.run_dir.prepare(workdir, config) or exit(0))
    assert call(train.main, "--config", tiny_yaml, "--workdir", tmp_path)[0] == 0
    assert configs.load(tmp_path / "config.yaml") == configs.load(tiny_yaml)


def test_init_from_starts_at_the_best_parameters(trained, tmp_path, command):
    """With next to no learning rate, fine-tuning stays at the best parameters of the run it starts from."""
    overrides = [f"training.init_from={trained.workdir}", "optimizer.learning_rate=1e-12", "training.num_epochs=1"]
    overrides += ["training.profile=[3, 6]"]
    code, output, errors = command("train", "--config", trained.config, "--workdir", tmp_path / "tuned", *overrides)
    assert code == 0, errors
    assert output.startswith("Baseline (mean pose of the training set): MPJPE = ")
    best = restore_best(trained.workdir)
    [line] = lines_of(tmp_path / "tuned")
    assert line["step"] == STEPS and line["mpjpe"] == pytest.approx(best.meta["mpjpe"], abs=1e-3)
    tuned = restore_best(tmp_path / "tuned")
    np.testing.assert_allclose(tuned.params["stem"]["kernel"], best.params["stem"]["kernel"], atol=1e-6)
    assert tuned.config.training.init_from == str(trained.workdir)

    # the trace of the steps 3 to 6: another thread reads and puts the batches
    [place] = re.findall(r"^Wrote a trace of steps 3 to 6 to (\S+) ", output, re.MULTILINE)
    [content] = Path(place).glob("*.trace.json.gz")
    events = json.loads(gzip.decompress(content.read_bytes()))["traceEvents"]
    threads = {name: {event["tid"] for event in events if event.get("name") == name} for name in ("train", "put batch")}
    assert all(map(len, threads.values())) and threads["train"].isdisjoint(threads["put batch"])
