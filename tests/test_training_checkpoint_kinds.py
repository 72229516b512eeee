"""Every kind of damage to the best step: it is named, the next best step is used, and nothing is deleted."""

import json
import os
import shutil

import pytest

from jaxhand.training import checkpoint_files
from jaxhand.training.checkpoint import CheckpointError, Checkpoints, restore_best
from tests.support.checkpoint_runs import abstract_of, assert_same, make_trees, reopen, save, saved_run, steps_on_disk

FILES = {
    "weights": "params/d/*",
    "weights of a process": "params/ocdbt.process_0/d/*",
    "index": "params/manifest.ocdbt",
    "index of a process": "params/ocdbt.process_0/manifest.ocdbt",
    "tree": "params/_METADATA",
    "shardings": "params/_sharding",
    "statistics": "rest/d/*",
    "tree of the statistics": "rest/_METADATA",
    "meta": "meta/metadata",
    "data": "data/metadata",
    "Orbax's metadata": "_CHECKPOINT_METADATA",
    "checksums": "sha256.json",
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path):
    """A change after which a JSON file is still JSON."""
    text = path.read_bytes()
    changed = text.replace(b"1", b"2")
    assert changed != text
    path.write_bytes(changed)


def become(what):
    def change(path):
        path.unlink()
        what(path)

    return change


WAYS = {
    "flip": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "delete": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n{}"),
}


def of_file(pattern, way):
    def damage(step):
        way(max(step.glob(pattern), key=lambda path: path.stat().st_size))

    return damage


def manifest(change):
    """Change the checksums as JSON; a manifest of an older run has no checksum of its own."""

    def damage(step):
        path = step / checkpoint_files.MANIFEST
        sums = json.loads(path.read_text())
        del sums[checkpoint_files.MANIFEST]
        path.write_text(json.dumps(change(sums)))

    return damage


def meta(change):
    """Change `meta` of a step without checksums: such a step is not ours, or its manifest is gone."""

    def damage(step):
        path = step / "meta" / "metadata"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        checkpoint_files.write_manifest(step)

    return damage


def replaced_by_file(step):
    shutil.rmtree(step)
    step.write_text("no folder")


def only(step):
    shutil.rmtree(step)
    step.mkdir()


KINDS = {f"{what}, {how}": of_file(pattern, way) for what, pattern in FILES.items() for how, way in WAYS.items()}
KINDS |= {f"{what}, edit": of_file(FILES[what], edit) for what in ("meta", "data", "checksums", "tree")}
KINDS |= {f"{what}, {name}": of_file(FILES[what], become(made))
          for what in ("weights", "meta", "checksums", "Orbax's metadata")
          for name, made in {"pipe": os.mkfifo, "folder": os.mkdir}.items()}  # fmt: skip
KINDS |= {
    f"{name} gone": lambda step, name=name: shutil.rmtree(step / name) for name in ("params", "rest", "meta", "data")
}
KINDS |= {
    f"{what} is {text}": lambda step, what=what, text=text: (step / what).write_text(text)
    for what in ("meta/metadata", "sha256.json", "_CHECKPOINT_METADATA")
    for text in ("[]", "7", "null", "[" * 100_000)
}
KINDS |= {
    "checksums of nothing": manifest(lambda sums: {}),
    "checksums without meta": manifest(lambda sums: {k: v for k, v in sums.items() if not k.startswith("meta/")}),
    "checksums without weights": manifest(lambda sums: {k: v for k, v in sums.items() if not k.startswith("params/")}),
    "a device in the checksums": manifest(lambda sums: sums | {"/dev/zero": "0" * 64}),
    "a way out in the checksums": manifest(lambda sums: sums | {"params/../../../../../../dev/zero": "0" * 64}),
    "numbers in the checksums": manifest(lambda sums: dict.fromkeys(sums, 7)),
    "avg_metric is text": meta(lambda tree: tree | {"avg_metric": "low"}),
    "meta is a list": meta(lambda tree: [tree]),
    "a copy of another step": meta(lambda tree: tree | {"step": 9}),
    "an empty folder": only,
    "a file in its place": replaced_by_file,
    "a link to a device": lambda step: (
        (step / "params" / "_METADATA").unlink() or (step / "params" / "_METADATA").symlink_to("/dev/zero")
    ),
}

FOREIGN = {
    "notes": lambda folder: (folder / "notes.txt").write_text("x"),
    "a folder": lambda folder: (folder / "backup").mkdir(),
    "a copy": lambda folder: shutil.copytree(folder / "10", folder / "10 (copy)"),
    "a number with a zero": lambda folder: (folder / "007").mkdir(),
    "digits that are no ASCII": lambda folder: (folder / "٣").mkdir(),
    "a file in a step": lambda folder: (folder / "10" / ".DS_Store").write_text("x"),
    "a file in an item": lambda folder: (folder / "10" / "params" / ".nfs0001").write_text("x"),
    "a broken link": lambda folder: (folder / "latest").symlink_to("nowhere"),
    "an aside that is a file": lambda folder: (folder / "damaged-10").write_text("x"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Checkpoints of which 10 is the best, 20 the next best, and 30 the latest."""
    workdir = tmp_path_factory.mktemp("sound")
    saved_run(workdir, {10: 1.0, 20: 2.0, 30: 3.0}, keep_every_steps=10)
    return workdir


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "run", symlinks=True) / "checkpoints"


def content(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


ITEMS = ("params", "rest", "optimizer", "data", "meta")
WHOLE = ("meta, flip", "checksums, delete", "weights, flip", "a device in the checksums", "a file in its place")
EACH = [pytest.param(kind, marks=[] if kind in WHOLE else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("damage", KINDS.values(), ids=KINDS)
def test_a_kind_is_named(folder, damage):
    damage(folder / "10")
    words = checkpoint_files.damage(folder / "10", ITEMS) or checkpoint_files.read_metas(folder)[1][10]
    assert words and "\n" not in words and len(words) < 300
    assert checkpoint_files.damage(folder / "20", ITEMS) is None


@pytest.mark.parametrize("kind", EACH)
def test_the_next_best_is_used(folder, kind):
    KINDS[kind](folder / "10")
    warnings, before = [], content(folder)
    restored = restore_best(folder.parent, warn=warnings.append)
    assert restored.step == 20 and content(folder) == before
    [warning] = warnings
    assert warning.startswith(f"checkpoint {folder}/10 is damaged (") and warning.endswith("; step 20 is used instead")
    assert "\n" not in warning and len(warning) < 500


@pytest.mark.parametrize("kind", WHOLE[:3])
def test_a_resumed_run_keeps_the_damaged_best_aside(folder, kind):
    KINDS[kind](folder / "10")
    (folder / "damaged-10").write_text("from an earlier start")
    lost, warnings = content(folder / "10"), []
    with reopen(folder.parent, warnings) as checkpoints:
        assert checkpoints.restore_latest(abstract_of(make_trees())).step == 30
        assert checkpoints.best()[:2] == (20, 2.0)
        save(checkpoints, 40, 4.0)
        save(checkpoints, 50, 5.0)
    [warning] = warnings
    assert f"{folder}/10 is damaged (" in warning
    assert "was renamed to damaged-10-2; the best is now step 20; training continues from step 30" in warning
    assert content(folder / "damaged-10-2") == lost
    assert (folder / "damaged-10").read_text() == "from an earlier start"
    assert checkpoint_files.steps(folder) == [20, 40, 50]


def test_foreign_files_do_no_harm(folder):
    for add in FOREIGN.values():
        add(folder)
    assert restore_best(folder.parent, warn=pytest.fail).step == 10
    assert checkpoint_files.steps(folder) == [10, 20, 30]


def test_a_run_goes_on_next_to_foreign_files(folder):
    for add in FOREIGN.values():
        add(folder)
    with reopen(folder.parent, keep_every_steps=10) as checkpoints:
        assert_same(checkpoints.restore_latest(abstract_of(make_trees())).params, make_trees(30)["params"])
        save(checkpoints, 40, 0.5)
    assert checkpoint_files.steps(folder) == [10, 20, 30, 40]
    assert {"notes.txt", "backup", "10 (copy)", "007", "٣", "latest"} <= set(os.listdir(folder))


def test_a_best_step_that_is_gone_is_missed(folder):
    shutil.rmtree(folder / "10")
    warnings = []
    assert restore_best(folder.parent, warn=warnings.append).step == 20
    gone = f"step 10, the best until step 30 (avg_metric=1.000 mm), is gone from {folder}"
    assert warnings == [f"{gone}; step 20 is used instead"]
    with reopen(folder.parent, resumed := []) as checkpoints:
        checkpoints.restore_latest(abstract_of(make_trees()))
    assert resumed == [gone]


def test_a_step_that_turns_unreadable_is_not_deleted(folder):
    """Retention keeps what it cannot read, even before a resumed run renames it."""
    (folder / "10" / "meta" / "metadata").write_text("{")
    with reopen(folder.parent) as checkpoints:
        save(checkpoints, 40, 0.5)
        save(checkpoints, 50, 0.4)
    assert checkpoint_files.steps(folder) == [10, 40, 50]


@pytest.mark.parametrize("name", ["[!a]{b,c}*?[1]", "per%20cent#1 line\nfeed ü"])
def test_a_path_is_not_a_pattern(tmp_path, name):
    warnings = []
    saved_run(tmp_path / name, {10: 1.0, 20: 2.0})
    with reopen(tmp_path / name, warnings) as checkpoints:
        assert_same(checkpoints.restore_latest(abstract_of(make_trees())).params, make_trees(20)["params"])
    assert restore_best(tmp_path / name).step == 10 and warnings == []


@pytest.mark.parametrize("name", ["back\\slash", "gs:"])
def test_a_path_that_cannot_hold_checkpoints_is_refused_at_once(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot write checkpoints to .*: the path contains"):
        Checkpoints(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("lost", ["params/manifest.ocdbt", "rest/_METADATA"])
def test_a_save_without_all_its_files_is_not_called_saved(tmp_path, monkeypatch, lost):
    write, told = checkpoint_files.write_manifest, []

    def lose(step):
        write(step)
        if step.name.startswith("20"):
            (step / lost).unlink()

    monkeypatch.setattr(checkpoint_files, "write_manifest", lose)
    checkpoints = Checkpoints(tmp_path, on_best=lambda *best: told.append(best))
    save(checkpoints, 10, 2.0)
    save(checkpoints, 20, 1.0)
    with pytest.raises(CheckpointError, match=f"cannot write checkpoint .*/20: {lost} is missing after it was written"):
        checkpoints.wait()
    assert told == [(10, 2.0)] and steps_on_disk(tmp_path / "checkpoints") == [10]
    checkpoints.close()


def test_a_save_that_shrinks_after_its_rename_is_not_called_saved(tmp_path):
    told = []
    checkpoints = Checkpoints(tmp_path, on_best=lambda *best: told.append(best))
    save(checkpoints, 10, 2.0)
    checkpoints._manager.wait_until_finished()
    victim = max((tmp_path / "checkpoints" / "10" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(victim, 3)
    with pytest.raises(CheckpointError, match="/10: .* has 3 bytes in place of [0-9]+ after it was written"):
        checkpoints.wait()
    assert told == []
    checkpoints.close()
