"""A run that is continued with other data, another config or more epochs: refused or said, never silent."""

import dataclasses
import json

import pytest
import yaml

from jaxhand import config as configs
from jaxhand import train
from jaxhand.config import UserError
from jaxhand.training import checkpoint_files, run_dir
from jaxhand.training.checkpoint import restore_best
from jaxhand.training.epochs import Epochs


def change_meta(workdir, change):
    """Change the metadata of all checkpoints, as if the run had been another one."""
    for step in checkpoint_files.steps(workdir / "checkpoints"):
        folder = workdir / "checkpoints" / str(step)
        meta = checkpoint_files.read_json(folder, "meta")
        change(meta)
        (folder / "meta" / "metadata").write_text(json.dumps(meta))
        checkpoint_files.write_manifest(folder)


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def resume(trained, copy_of, call):
    """Continue a copy of the finished run, after a change of it, in this process: its folder, exit code and output."""

    def resume(change, *arguments):
        workdir = copy_of(trained)
        change(workdir)
        return workdir, *call(train.main, "--config", trained.config, "--workdir", workdir, *arguments)

    return resume


def larger(meta):
    meta["fingerprints"]["train"][0]["records"] = 100
    meta["fingerprints"]["test"][0]["labels"]["K"] += 1


def test_other_data_are_refused(resume):
    workdir, code, output, errors = resume(lambda workdir: change_meta(workdir, larger))
    assert (code, output) == (2, "") and errors == (
        f"error: {workdir}: contains a run on other data (the training set has changed: 100 records before, 96 now; "
        "the test set has changed: other labels (K)). Choose another --workdir, or bring the old data back; --allow "
        "data goes on with the new data\n"
    )
    assert [line["step"] for line in lines_of(workdir)] == [12, 24, 36]


def test_a_deleted_config_is_compared_with_the_checkpoint(resume):
    workdir, code, output, errors = resume(
        lambda workdir: (workdir / "config.yaml").unlink(), "optimizer.learning_rate=0.1"
    )
    assert (code, output) == (2, "") and "another config (optimizer.learning_rate: 0.003 -> 0.1)" in errors
    assert not (workdir / "config.yaml").exists()


def test_another_config_can_be_allowed(resume):
    workdir, code, output, errors = resume(
        lambda workdir: None, "optimizer.learning_rate=0.1", "training.num_epochs=2", "--allow", "config"
    )
    assert (code, errors) == (0, "")
    changes = "optimizer.learning_rate: 0.003 -> 0.1; training.num_epochs: 3 -> 2"
    assert f"Going on with another config: {changes}\n" in output and "Going on from step 36 of 24\n" in output


def test_an_old_run_has_no_fingerprints(resume):
    """That is said once; it goes on as before."""

    def old(meta):
        del meta["fingerprints"], meta["epochs"], meta["best"]

    workdir, code, output, errors = resume(lambda workdir: change_meta(workdir, old))
    assert (code, errors) == (0, "") and output.count("The checkpoint has no fingerprints of the data") == 1
    assert output.splitlines()[-2].startswith("Going on from step 36 of 36")


def test_the_files_of_jsons_have_an_older_name(resume):
    """Runs of earlier versions have meta/meta.json in place of meta/metadata."""

    def rename(workdir):
        for step in (workdir / "checkpoints").iterdir():
            for item in ("meta", "data"):
                (step / item / "metadata").rename(step / item / f"{item}.json")
            checkpoint_files.write_manifest(step)

    workdir, code, output, errors = resume(rename)
    assert (code, errors) == (0, "") and "Going on from step 36 of 36" in output


def test_a_run_is_prolonged(trained, copy_of, command):
    workdir = copy_of(trained)
    arguments = ("train", "--config", trained.config, "--workdir", workdir, "training.num_epochs=4")
    code, output, errors = command(*arguments)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[2:5] == [
        "training.num_epochs is 4 (before: 3)",
        "The schedule of the learning rate now ends at step 48 (before: 36); the rate of the next step is not 0.00e+00 "
        f"but {rate_of(trained, 36, 48):.2e}",
        "Going on from step 36 of 48",
    ]
    assert [line["epoch"] for line in lines_of(workdir)] == [0, 1, 2, 3]
    assert configs.load(workdir / "config.yaml").training.num_epochs == 4


def rate_of(trained, step, total):
    from jaxhand.training import optimizer

    config = configs.load(trained.config)
    return float(optimizer.schedule(config.optimizer, config.scheduler, total)(step))


def test_other_data_that_are_allowed(trained, copy_of, command):
    """An epoch had 18 steps, so step 36 ended epoch 1: epoch 2 has 12 steps, and the best is chosen anew."""

    def other(meta):
        larger(meta)
        meta["epochs"]["steps"] = 18

    workdir = copy_of(trained)
    change_meta(workdir, other)
    kept = checkpoint_files.steps(workdir / "checkpoints")
    arguments = ("train", "--config", trained.config, "--workdir", workdir, "--allow", "data")
    code, output, errors = command(*arguments)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[2:8] == [
        "The training set has changed: 100 records before, 96 now",
        "The test set has changed: other labels (K)",
        "Epoch 2 begins at step 36, with 12 steps per epoch (before: 18); it is counted from there",
        "The best step is chosen anew, among the steps from here on: earlier ones had another test set",
        "The schedule of the learning rate now ends at step 48 (before: 54); the rate of the next step is not "
        f"{rate_of(trained, 36, 54):.2e} but {rate_of(trained, 36, 48):.2e}",
        "Going on from step 36 of 48",
    ]
    assert (
        lines[8].startswith("Epoch 2: ")
        and "Saved best model" in output
        and lines[-1].startswith("Best model: Epoch 2")
    )
    assert checkpoint_files.steps(workdir / "checkpoints") == [*kept, 48]  # nothing of before is deleted
    code, output, errors = command(*arguments[:-2])
    assert (code, errors) == (0, "") and "Going on from step 48 of 48" in output


def test_epochs_are_counted_from_where_they_changed():
    epochs = Epochs(steps=12, count=5)
    assert [epochs.number(step) for step in (0, 11, 12, 59)] == [0, 0, 1, 4]
    assert (epochs.begin(2), epochs.end(2), epochs.last) == (24, 36, 60)
    changed = epochs.restarted(30, 5)  # in the middle of epoch 2, which begins again
    assert changed == Epochs(5, 5, 2, 30)
    assert [changed.number(step) for step in (30, 34, 35, 44)] == [2, 2, 3, 4]
    assert (changed.begin(2), changed.end(2), changed.last) == (30, 35, 45)


def run_with(workdir, tiny, fingerprints=True, **data):
    """A folder that looks like a run on these data sets."""
    config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, **data))
    step = workdir / "checkpoints" / "12"
    (step / "meta").mkdir(parents=True)
    (step / "_CHECKPOINT_METADATA").write_text("{}")
    meta = {"config": configs.to_dict(config)} | ({"fingerprints": {}} if fingerprints else {})
    (step / "meta" / "metadata").write_text(json.dumps(meta))
    (workdir / "config.yaml").write_text(yaml.safe_dump(configs.to_dict(config)))
    return config


def other(config, **data):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


MOVED = [
    ("freihand:/a", "freihand:/b"),
    ("mine:load:/a", "mine:load:/b"),
    ({"freihand:/a": 1.0, "hamer-x:/a": 2.0}, {"freihand:/z": 1.0, "hamer-x:/z": 2.0}),
]
ANOTHER = [
    ("freihand:/a", "rhd:/a"),
    ("freihand:/a", "freihand-gs:/a"),
    ("mine:load:/a", "mine:other:/a"),
    ({"freihand:/a": 1.0, "rhd:/a": 2.0}, {"freihand:/a": 2.0, "rhd:/a": 1.0}),
]


@pytest.mark.parametrize("before, now", MOVED)
def test_data_may_lie_elsewhere(tmp_path, tiny, before, now):
    config = run_with(tmp_path, tiny, train=before)
    assert run_dir.check(tmp_path, other(config, train=now)) == []


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/24", "checkpoints/24/new"])
def test_no_run_among_the_checkpoints_of_another(tmp_path, tiny, place):
    (tmp_path / "checkpoints" / "24").mkdir(parents=True)
    with pytest.raises(UserError, match=f"among the checkpoints of the run {tmp_path}, which deletes old ones"):
        run_dir.check(tmp_path / place, tiny)
    with pytest.raises(UserError, match=f"no checkpoint in .*; give the run folder, {tmp_path}$"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        restore_best(tmp_path / place)


def test_a_config_of_the_user_is_kept(tmp_path, tiny, capsys):
    path, kept = tmp_path / "config.yaml", tmp_path / "config.before.yaml"
    path.write_text("# my experiment\nseed: 3\n")
    for said in (f"{path} is not of a run: it is now {kept}\n", "", ""):  # then it is that of a run
        assert run_dir.prepare(tmp_path, tiny) == [] and capsys.readouterr().out == said
        assert kept.read_text() == "# my experiment\nseed: 3\n" and configs.load(path) == tiny
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.before.yaml", "config.yaml", "samples"]


def test_a_start_that_has_no_effect_is_said(tmp_path, tiny):
    config = run_with(tmp_path, tiny, train="synthetic")
    started = dataclasses.replace(config, training=dataclasses.replace(config.training, init_from="elsewhere"))
    [differs, without_effect] = run_dir.check(tmp_path, started, allow=("config",))
    assert "init_from" in differs and without_effect.startswith("training.init_from has no effect")


@pytest.mark.parametrize("before, now", [*ANOTHER, MOVED[0]])
def test_another_set_is_another_config(tmp_path, tiny, before, now):
    config = run_with(tmp_path, tiny, fingerprints=(before, now) != MOVED[0], train=before)
    with pytest.raises(UserError, match="another config .data.train: "):
        run_dir.check(tmp_path, other(config, train=now))


def test_the_file_of_mano_may_lie_elsewhere(tmp_path, tiny):
    config = run_with(tmp_path, dataclasses.replace(tiny, hand=configs.HandConfig(mano_path="/a/MANO_RIGHT.pkl")))
    elsewhere = dataclasses.replace(config, hand=configs.HandConfig(mano_path="/b"))
    assert run_dir.check(tmp_path, elsewhere) == []
    with pytest.raises(UserError, match="hand.mano_path: /a/MANO_RIGHT.pkl -> "):
        run_dir.check(tmp_path, dataclasses.replace(config, hand=configs.HandConfig()))


def test_more_epochs_need_no_permission_and_fewer_do(tmp_path, tiny):
    config = run_with(tmp_path, tiny)
    epochs = lambda count: dataclasses.replace(config, training=dataclasses.replace(config.training, num_epochs=count))  # noqa: E731
    assert run_dir.check(tmp_path, epochs(9)) == []
    with pytest.raises(UserError, match="training.num_epochs: 3 -> 2"):
        run_dir.check(tmp_path, epochs(2))
