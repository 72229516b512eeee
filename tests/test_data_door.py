"""A data set from outside the package: named as module:function:PATH, inspected, trained on, packed, scored."""

import json

import numpy as np
import pytest

from jaxhand import data, evaluate, inspect
from jaxhand.config import DataConfig, HandConfig, UserError
from jaxhand.data import pack
from jaxhand.data.record import Source
from jaxhand.io.plugins import load_object
from tests.support import mano_file

TOY = '''
"""Hands in one .npz file per split: what a user would write."""
import dataclasses

import numpy as np

from jaxhand.config import UserError
from jaxhand.data.record import Record

opened = []


def load(path, split, *, without_val, mano):
    opened.append((path, split, without_val, mano))
    if not (path / f"{split}.npz").is_file():
        raise UserError(f"{path / split}.npz: no such file")
    with np.load(path / f"{split}.npz") as arrays:
        images, K, joints = arrays["image"], arrays["K"], arrays["joints"]
    return [Record(images[i], K[i], joints[i], np.ones(21), "right", name=f"{split}/{i}") for i in range(len(images))]


def wrong(path, split, *, without_val, mano):
    return 3
'''


@pytest.fixture
def toy(tmp_path, monkeypatch, tiny):
    """The current folder has the module `toy_hands`, and `sets` has two splits for it; the module."""
    (tmp_path / "toy_hands.py").write_text(TOY)
    (tmp_path / "sets").mkdir()
    for split, count in (("train", 16), ("test", 3)):
        hands = data.load("synthetic", split, tiny.data, tiny.seed)
        columns = {"image": "image", "K": "K", "joints": "keypoints_3d"}
        arrays = {name: np.array([getattr(hands[i], key) for i in range(count)]) for name, key in columns.items()}
        np.savez(tmp_path / f"sets/{split}.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    opened = load_object("toy_hands:opened", "test")
    opened.clear()
    return opened


def test_the_function_gets_the_path_and_what_is_wanted(toy, tmp_path):
    name = f"toy_hands:load:{tmp_path / 'sets'}"
    source = data.load(name, "train", DataConfig(test_split="val"), 0)
    assert isinstance(source, Source) and len(source) == 16 and source[1].name == "train/1"
    assert toy == [(tmp_path / "sets", "train", True, None)]
    numbers = mano_file.model()
    file = mano_file.write(tmp_path / "MANO_RIGHT.pkl", numbers)
    data.load(name, "test", DataConfig(), 0, HandConfig(mano_path=str(file)))
    _, split, without_val, mano = toy[-1]
    assert (split, without_val, mano.vertices) == ("test", False, True)
    np.testing.assert_allclose(mano.mean_of("right"), numbers["hands_mean"])
    assert mano.components_of("right").shape == (45, 45) and mano.mean_of("left") is None


def test_it_is_one_of_a_mix(toy, tmp_path, tiny):
    mix = data.load({"toy_hands:load:sets": 1.0, "synthetic": 3.0}, "train", tiny.data, tiny.seed)
    assert len(mix) == 16 + tiny.data.train_samples and mix[len(mix) - 1].name == "train/15"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("toy_hands:load", "unknown data set 'toy_hands'; known: .*, or module:function:PATH of your own"),
        ("toy_hands:load:", "'toy_hands:load:'; give its path, toy_hands:load:PATH"),
        ("toy_hands:lode:sets", "data set toy_hands:lode: toy_hands has no lode"),
        (
            "no_such_module:load:sets",
            "data set no_such_module:load: cannot import no_such_module \\(ModuleNotFoundError: No module named",
        ),
        ("broken:load:sets", "data set broken:load: cannot import broken \\(SyntaxError: invalid syntax"),
        ("toy_hands:wrong:sets", "data set toy_hands:wrong: must return a source \\(__len__, __getitem__\\), got int"),
        ("freihnad:/some:/where", "unknown data set 'freihnad'; did you mean 'freihand'"),
        ("synthetic:/x", "data set synthetic takes no path: its hands are rendered; write synthetic alone"),
        ("synthetic:", "data set synthetic takes no path"),
    ],
)
def test_a_wrong_name_is_one_clear_line(toy, tmp_path, name, line):
    (tmp_path / "broken.py").write_text("def load(:")
    with pytest.raises(UserError, match=line) as found:
        data.load(name, "train", DataConfig(), 0)
    assert "\n" not in str(found.value)


def test_the_form_of_an_object_from_outside(toy):
    assert load_object("os.path:join", "test")("a", "b") == "a/b"
    for spec in ("toy_hands", "toy_hands:", ":load", "toy hands:load", "toy_hands:load:more", "..os:path"):
        with pytest.raises(UserError, match="detector must be module:name, such as my_module:"):
            load_object(spec, "detector")


def test_it_is_inspected_and_packed(toy, tmp_path, capsys):
    assert inspect.main(["toy_hands:load", "sets", "--split", "train", "test"]) == 0
    assert "train: 16 hands in 16 images" in capsys.readouterr().out
    assert inspect.main(["toy_hands:load", "sets"]) == 1
    output = capsys.readouterr().out
    assert "val: cannot be read, so --split should name the others: sets/val.npz: no such file" in output
    assert inspect.main(["toy_hands:lode", "sets"]) == 2
    assert capsys.readouterr().err == "error: data set toy_hands:lode: toy_hands has no lode\n"
    assert inspect.main(["synthetic", "sets"]) == 2
    assert "synthetic takes no path" in capsys.readouterr().err
    pack.pack("toy_hands:load", "sets", tmp_path / "packed", say=lambda line: None)
    packed = data.load("toy_hands:load:packed", "train", DataConfig(), 0)
    np.testing.assert_array_equal(packed[5].image, data.read("toy_hands:load", "sets", "train")[5].image)


def test_it_is_trained_on_and_scored(toy, tmp_path, command, call, tiny_yaml):
    sets = ("data.train=toy_hands:load:sets", "data.test=toy_hands:load:sets", "training.num_epochs=1")
    code, output, errors = command("train", "--config", tiny_yaml, "--workdir", tmp_path / "run", *sets)
    assert (code, errors) == (0, "") and "Best model: Epoch 0" in output
    code, output, errors = call(evaluate.main, tmp_path / "run", "--data", "toy_hands:load:sets", "--split", "train")
    assert (code, errors) == (0, "") and "toy_hands:load:sets, 16 hands:" in output
    (found,) = json.loads((tmp_path / "run/evaluation.json").read_text())["results"]
    assert found["data"] == "toy_hands:load:sets" and found["count"] == 16
