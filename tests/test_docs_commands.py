"""Every command of README, CONTRIBUTING and docs/ runs, on a tiny run and rendered hands; or it says what it needs.

A command that needs other files says so in its comment ("needs the data set"), or by PATH and other words in capitals.
"""

import importlib
import json
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxhand import cli
from jaxhand.exporting import page_files
from tests.support import mediapipe_files
from tests.support.pages import PAGES, commands, needs_something

TINY = [
    *("data.train_samples=16", "data.test_samples=8", "data.threads=1"),
    *("training.batch_size=8", "training.num_epochs=1", "training.epoch_samples=16"),
    *("model.width=32", "model.fine_blocks=0", "model.blocks=0"),  # as the run that all tests use
    *("model.joint_width=32", "model.joint_blocks=0", "model.looks=1"),
]
STANDS_FOR = {"RUN": "runs/quickstart", "OUT": "out", "IMAGE": "photo.jpg"}  # a word → what the test has in its place
NOT_BROUGHT = ("FreiHAND", "runs/freihand", "released", "pred.zip", ".ckpt", ".pth", "MANO_", "--camera", "HOST")
QUICK = "--help"

FOUND = dict.fromkeys(command for page in PAGES for command in commands(page))  # each once, in the order of the pages
RUN = dict.fromkeys(command.partition(" #")[0].strip() for command in FOUND if not needs_something(command))
RUN = [command for command in RUN if len(command.split()) > 2]  # shorter ones are the names of commands


def test_commands_say_what_they_need():
    lacking = [command for command in FOUND if any(name in command for name in NOT_BROUGHT)]
    assert len(lacking) > 8 and [command for command in lacking if not needs_something(command)] == []
    assert len(RUN) > 30


@pytest.fixture(scope="module")
def mediapipe(tmp_path_factory) -> Path:
    """The run that `make photographs` makes."""
    return mediapipe_files.convert_run(tmp_path_factory.mktemp("converted") / "mediapipe")


@pytest.fixture(scope="module")
def folder(trained, photographs, tmp_path_factory) -> Path:
    """A folder in which the commands of the pages run: runs, photographs, videos."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("quickstart", "before", "after", "synthetic_full", "hand_photos"):
        shutil.copytree(trained.workdir, folder / "runs" / name)
    for name in ("rendered", "frames", "data"):
        (folder / name).mkdir()
    (folder / "data" / "hand_photos").symlink_to(photographs)
    picture = np.full((1080, 1920, 3), 90, np.uint8)
    hand = cv2.imread(str(photographs / "images" / "0.png"))
    picture[200:840, 600:1240] = cv2.resize(hand, (640, 640), interpolation=cv2.INTER_CUBIC)
    for name in ("photo.jpg", "rendered/0.jpg"):
        cv2.imwrite(str(folder / name), picture)
    cv2.imwrite(str(folder / "depth.png"), np.full(picture.shape[:2], 500, np.uint16))
    box = {"image": str(folder / "photo.jpg"), "bbox": [600, 200, 1240, 840], "hand": "left"}
    (folder / "hands.jsonl").write_text(json.dumps(box))
    video = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (480, 270))
    for frame in range(3):
        video.write(cv2.resize(picture, (480, 270), interpolation=cv2.INTER_AREA))
        cv2.imwrite(str(folder / "frames" / f"{frame}.png"), picture[::4, ::4])
    video.release()
    return folder


@pytest.mark.parametrize("line", [pytest.param(line, marks=[] if QUICK in line else pytest.mark.slow) for line in RUN])
def test_a_command_runs(line, call, request, monkeypatch):
    main, words = _words(line)
    if QUICK not in line:
        _prepare(line, words, request)
        monkeypatch.chdir(request.getfixturevalue("folder"))
    code, _, errors = call(main, *(name for word in words for name in _expanded(word)))
    assert code == 0, errors


def _words(line: str) -> tuple:
    """The function that a command line calls, and its words, with tiny settings."""
    program, *words = shlex.split(line, comments=True)
    main, command = cli.main, words[0]
    if program == "python":
        module, words = words[1], words[2:]
        main, command = importlib.import_module(module).main, module.removeprefix("jaxhand.")
    words = [STANDS_FOR.get(word, word) for word in words]
    if command == "train":
        words = [word for word in words if "num_epochs" not in word and "batch_size" not in word] + TINY
        words += [] if "--workdir" in words else ["--workdir", f"runs/trained_{RUN.index(line)}"]
    if "synthetic" in words and "--preview" not in words:
        words = [word for word in words if word not in ("--count", "8")] + ["--count", "4"]
    return main, words


def _prepare(line: str, words: list[str], request) -> None:
    """Make what a command needs, or skip it where a package or MediaPipe's networks are missing."""
    folder = request.getfixturevalue("folder")
    photographs = request.getfixturevalue("photographs")
    words[:] = [word.replace("folder:PATH", f"folder:{photographs}") for word in words]
    if "mediapipe" in line or "photographs" in line:
        run = folder / "runs" / "mediapipe"
        if not run.exists():
            run.symlink_to(request.getfixturevalue("mediapipe"))
    words[:] = [str(mediapipe_files.source()) if ".whl" in word else word for word in words]
    if "convert" in words:
        words[-1] = "runs/converted"
    if "onnx" in words or "--web" in words:
        pytest.importorskip("onnxruntime", reason="needs requirements-export.txt")
    if "--web" in words and not (page_files.BUILD / "main.js").is_file():
        pytest.skip("the page is not built: make web")
    if "--rerun" in words:
        pytest.importorskip("rerun", reason="needs requirements-rerun.txt")


def _expanded(word: str) -> list[str]:
    """The files that a pattern names, or the word."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]
