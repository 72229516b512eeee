"""Where a command may write: files of other programs stay, and nothing is written among the checkpoints of a run."""

import argparse
import inspect
import re

import cv2
import numpy as np
import pytest

from jaxhand import cli, convert, evaluate, export, pack, predict, report, train
from jaxhand import inspect as inspector
from jaxhand.config import UserError
from jaxhand.data.images.encoded import EncodedImage
from jaxhand.data.synthetic import __main__ as synthetic
from jaxhand.data.synthetic import clip, dataset, photo_preview
from jaxhand.io import console, output_files

MARK = b"jaxhand test"


@pytest.fixture
def run(tmp_path):
    """A run folder with the checkpoint 24."""
    (tmp_path / "run" / "checkpoints" / "24" / "params").mkdir(parents=True)
    return tmp_path / "run"


@pytest.mark.parametrize("place", ["", "24", "24/params/new.png", "damaged-24", "../checkpoints/24", "new/.."])
def test_among_the_checkpoints_of_a_run(run, place, monkeypatch):
    path = run / "checkpoints" / place
    assert output_files.run_around(path) == run
    line = f"{re.escape(str(path))}: is among the checkpoints of the run {run}, which deletes old ones"
    with pytest.raises(argparse.ArgumentTypeError, match=line):
        console.output_path(str(path))
    with pytest.raises(argparse.ArgumentTypeError, match="is among the checkpoints"):
        console.output_file(".png")(str(path / "a.png"))
    monkeypatch.chdir(run / "checkpoints" / "24")
    assert output_files.run_around(output_files.Path(place or ".")) == run


def test_links_do_not_lead_among_checkpoints(run, tmp_path):
    (tmp_path / "link").symlink_to(run / "checkpoints" / "24")
    assert output_files.run_around(tmp_path / "link" / "out") == run
    (run / "checkpoints").rename(tmp_path / "disk")
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    assert output_files.run_around(run / "checkpoints" / "24") == run


@pytest.mark.parametrize(
    "place", ["run", "run/predictions", "run/checkpoints/../a.png", "checkpoints", "checkpoints/a"]
)
def test_other_places_are_free(run, tmp_path, place):
    (tmp_path / "checkpoints" / "notes").mkdir(parents=True)  # without a step
    assert output_files.run_around(tmp_path / place) is None
    assert console.output_path(str(tmp_path / place)) == tmp_path / place


OUTPUTS = {  # command → its `main`, and its arguments before each path that it writes
    "train": (train.main, ["--workdir"]),
    "evaluate": (
        evaluate.main,
        ["RUN --output", "RUN --submit", "RUN --data folder:x --fit-joint-mix", "--predictions x --report"],
    ),
    "report": (report.main, ["RUN --out"]),
    "predict": (predict.main, ["RUN a.png --out", "RUN a.mp4 --rerun"]),
    "synthetic": (synthetic.main, ["--preview", "--photographs", "--clip"]),
    "synthetic-photo": (photo_preview.main, ["--preview"]),
    "inspect": (inspector.main, ["freihand x --sheet"]),
    "pack": (pack.main, ["freihand x"]),
    "convert": (convert.main, ["hamer x", "mediapipe x", "efficientnet_lite0 x", "data freihand x"]),
    "export": (export.main, ["RUN", "RUN --web"]),
    "summary": (None, []),  # writes no file
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_no_command_writes_among_checkpoints(command, run, call):
    assert set(OUTPUTS) == set(cli.COMMANDS)
    main, lines = OUTPUTS[command]
    endings = {"--report": ".html", "--out": ".html", "--preview": ".png", "--sheet": ".png"}
    for line in lines:
        words = line.replace("RUN", str(run)).split()
        path = run / "checkpoints" / "24" / f"new{endings.get(words[-1], '')}"
        code, _, errors = call(main, *words, path)
        assert code == 2 and f"{path}: is among the checkpoints of the run {run}" in errors.splitlines()[-1], line
    assert [path.name for path in (run / "checkpoints").rglob("*")] == ["24", "params"]


def test_every_path_that_a_command_writes_is_checked():
    """An option with a path that the module reads is in this list; every other one is an output."""
    read = (
        "workdir path checkpoint source --config --mano --detector --predictions --ground-truth images --boxes --depth"
    )
    read = {*read.split(), "--video"}
    modules = (train, evaluate, report, predict, inspector, pack, convert, export, clip, dataset, photo_preview)
    for module in modules:
        names = re.findall(r'add_argument\(\s*"([\w-]+)",\s*type=console\.path\b', inspect.getsource(module))
        assert set(names) <= read, module


# ---- files of other programs
def test_only_own_and_empty_files_are_replaced(tmp_path):
    file, other = tmp_path / "a.json", tmp_path / "a.csv"
    output_files.check_own(file, MARK, other)  # nothing is there
    other.touch()
    output_files.check_own(file, MARK, other)
    file.touch()
    output_files.check_own(file, MARK, other)
    file.write_bytes(b"head" + MARK + b"tail")
    other.write_text("rows")
    output_files.check_own(file, MARK, other)
    file.write_bytes(b"head" + MARK[:-1])
    with pytest.raises(UserError, match=r"^\S+a.json: exists, was not written by this command, and would be replaced"):
        output_files.check_own(file, MARK, other)
    file.unlink()
    with pytest.raises(UserError, match="a.csv: exists, was not written"):
        output_files.check_own(file, MARK, other)
    other.unlink()
    file.mkdir()  # writing reports it
    output_files.check_own(file, MARK, other)


def test_files_are_kept_aside_under_new_names(tmp_path):
    for content in ("1", "2", "3"):
        (tmp_path / "pred.zip").write_text(content)
        output_files.keep_aside(tmp_path / "pred.zip")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"pred.before.zip": "1", "pred.before-2.zip": "2", "pred.before-3.zip": "3"}
    (tmp_path / "logs").mkdir()
    (tmp_path / "pred.zip").touch()
    for name in ("none", "pred.zip", "logs"):  # missing or empty
        assert output_files.keep_aside(tmp_path / name) is None
    (tmp_path / "logs" / "a").touch()
    assert output_files.keep_aside(tmp_path / "logs") == tmp_path / "logs.before"


@pytest.mark.parametrize("ending, marked", [(".png", output_files.marked_png), (".jpg", output_files.marked_jpeg)])
def test_a_mark_changes_no_pixel(tmp_path, ending, marked):
    image = np.random.default_rng(0).integers(0, 255, (24, 16, 3), np.uint8)
    content = cv2.imencode(ending, image)[1].tobytes()
    (tmp_path / "a").write_bytes(marked(content, MARK))
    output_files.check_own(tmp_path / "a", MARK)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a")), cv2.imdecode(np.frombuffer(content, np.uint8), 1))
    assert EncodedImage.read(tmp_path / "a").size == (16, 24)
    pillow = pytest.importorskip("PIL.Image")
    with pillow.open(tmp_path / "a") as opened:  # another decoder, which checks the PNG's checksums
        opened.load()
        assert MARK in (opened.info.get("comment", b""), opened.info.get("Software", "").encode())


def test_own_pictures_alone_are_replaced(tmp_path, capsys):
    """Both commands refuse before they render."""
    for main, options, name in (
        (dataset.main, ["--photographs", tmp_path, "--count", "2"], "hand_1.jpg"),
        (dataset.main, ["--preview", tmp_path / "a.png"], "a.png"),
        (photo_preview.main, ["--preview", tmp_path / "b.png"], "b.png"),
        (clip.main, ["--clip", tmp_path / "c.mp4"], "c.mp4"),
        (clip.main, ["--clip", tmp_path / "d.mp4"], "d.jsonl"),
    ):
        (tmp_path / name).write_text("of the user")
        assert main(list(map(str, options))) == 2
        assert f"error: {tmp_path / name}: exists, was not written" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "of the user"
    assert not (tmp_path / "hand_0.jpg").exists()
