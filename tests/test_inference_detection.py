"""Detectors that a user names as module:function: what they return, and one clear line for each way to fail."""

import types

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.inference import detection
from jaxhand.inference.detection import load_detector

DETECTOR = """
import numpy as np
def hands(image):
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    return [{"bbox": np.float32([1, 2, 30, 40]), "hand": "left", "score": np.float32(0.5)}, {"bbox": (3, 4, 5, 6)}]
def none(image): return []
def number(image): return 3
def forgets_to_return(image): pass
def no_box(image): return [{"hand": "left"}]
def backwards(image): return [{"bbox": (1, 2, 3, 4)}, {"bbox": (5, 2, 3, 4), "hand": "left"}]
def boxes_only(image): return [(1, 2, 3, 4)]
def nan_box(image): return [{"bbox": (1, 2, 3, np.nan)}]
def nan_score(image): return [{"bbox": (1, 2, 3, 4), "score": np.nan}]
def text_score(image): return [{"bbox": (1, 2, 3, 4), "score": "high"}]
def both(image): return [{"bbox": (1, 2, 3, 4), "hand": np.array(["left", "right"])}]
def fails(image): raise RuntimeError("no model file:\\n  weights.bin")
NOT_A_FUNCTION = 3
def leaves(image):
    import sys
    sys.exit()
def takes_nothing(): return []
def generator(image): yield {"bbox": (1, 2, 3, 4)}
def huge_score(image): return [{"bbox": (1, 2, 3, 4), "score": 10 ** 400}]
def a_picture(image): return [image]
"""
IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the detectors in `my_hands.py`."""
    (tmp_path / "my_hands.py").write_text(DETECTOR)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_detector_is_a_function_in_a_module(folder):
    found = load_detector("my_hands:hands")(IMAGE)
    np.testing.assert_array_equal(found.boxes, [[1, 2, 30, 40], [3, 4, 5, 6]])
    assert found.sides == ["left", "right"] and found.scores == [0.5, None] and found.K is None
    assert load_detector("my_hands:none")(IMAGE).boxes.shape == (0, 4)


@pytest.mark.parametrize(("function", "message"), [
    ("number", "detector my_hands:number must return a list of hands, got int"),
    ("forgets_to_return", "detector my_hands:forgets_to_return must return a list of hands, got NoneType"),
    ("no_box", "detector my_hands:no_box, hand 0: missing key 'bbox'"),
    ("backwards", "detector my_hands:backwards, hand 1: bbox must be"),
    ("boxes_only", r"hand 0: a hand must be an object with the key bbox, got \(1, 2, 3, 4\)"),
    ("nan_box", "hand 0: bbox must be"),
    ("nan_score", "hand 0: score must be a finite number, got nan"),
    ("text_score", "hand 0: score must be a finite number, got 'high'"),
    ("both", 'hand 0: hand must be "right" or "left"'),
    ("fails", r"detector my_hands:fails failed: RuntimeError: no model file: weights.bin \(my_hands.py, line 16\)"),
    ("leaves", r"detector my_hands:leaves failed: SystemExit:  \(my_hands.py, line 20\)"),
    ("takes_nothing", "detector my_hands:takes_nothing failed: TypeError: takes_nothing\\(\\) takes 0 positional"),
    ("generator", "detector my_hands:generator must return a list of hands, got generator"),
    ("huge_score", "hand 0: score must be a finite number, got 1000"),
    ("a_picture", "hand 0: a hand must be an object with the key bbox, got array"),
])  # fmt: skip
def test_wrong_results_are_named(folder, function, message):
    detect = load_detector(f"my_hands:{function}")
    with pytest.raises(UserError, match=message) as error:
        detect(IMAGE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("spec", "message"), [
    ("my_hands", "detector must be module:name, such as my_module:load, got 'my_hands'"),
    (":hands", "must be module:name"),
    ("my_hands:", "must be module:name"),
    ("my_hands:absent", "my_hands has no absent"),
    ("my_hands:NOT_A_FUNCTION", "my_hands:NOT_A_FUNCTION must be a function, got int"),
    ("no_such_module:f", r"cannot import no_such_module \(ModuleNotFoundError: No module named 'no_such_module'\)"),
    ("broken_syntax:f", r"cannot import broken_syntax \(SyntaxError: .*broken_syntax.py, line 1"),
    ("broken_import:f", r"cannot import broken_import \(ZeroDivisionError: division by zero\)"),
])  # fmt: skip
def test_what_cannot_be_loaded_is_named(folder, spec, message):
    (folder / "broken_syntax.py").write_text("def f(:\n")
    (folder / "broken_import.py").write_text("\n1 / 0\n")
    with pytest.raises(UserError, match=message) as error:
        load_detector(spec)
    assert "\n" not in str(error.value)


def test_where_mediapipes_networks_are_looked_for(monkeypatch, tmp_path):
    """In runs/mediapipe, then in the installed package."""
    monkeypatch.setattr(detection.Pipeline, "load", lambda folder: ("loaded", folder))
    monkeypatch.setattr(detection.Pipeline, "convert", lambda folder: ("converted", folder))
    monkeypatch.setattr(detection, "RUN", tmp_path / "none")
    for package in (None, types.SimpleNamespace(submodule_search_locations=None)):
        monkeypatch.setattr(detection.importlib.util, "find_spec", lambda name, found=package: found)
        with pytest.raises(UserError, match="--detector mediapipe needs its networks in .*none: `make photographs`"):
            detection._pipeline()
    package = types.SimpleNamespace(submodule_search_locations=["/site/mediapipe", "/other"])
    monkeypatch.setattr(detection.importlib.util, "find_spec", lambda name: package)
    assert detection._pipeline() == ("converted", "/site/mediapipe")
    monkeypatch.setattr(detection, "RUN", tmp_path)
    assert detection._pipeline() == ("loaded", tmp_path)


def test_hands_of_mediapipes_networks():
    hands = {"boxes": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), "right": np.array([0.5, 0.51])}
    found = detection._of_pipeline(lambda images: [hands | {"score": np.array([0.25, 0.75])}])(IMAGE)
    assert found.boxes.tolist() == hands["boxes"].tolist() and found.boxes.dtype == np.float64
    assert found.sides == ["left", "right"] and found.scores == [0.25, 0.75]
