"""MediaPipe's detector on real photographs, if it is installed, and the error messages if it is not."""

import importlib.util
import json
import sys

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.images.encoded import read_image
from jaxhand.hand.camera import project
from jaxhand.inference.detection import load_detector
from jaxhand.interop import mediapipe

NAME = "jaxhand.interop.mediapipe:detect"
IMAGE = np.zeros((90, 120, 3), np.uint8)


@pytest.fixture
def no_cached_networks():
    """The networks are loaded again, before and after."""
    mediapipe._networks.cache_clear()
    yield
    mediapipe._networks.cache_clear()


def test_what_is_missing_is_named(no_cached_networks, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(
        UserError, match="needs LiteRT and MediaPipe's networks; install them: pip install ai-edge-litert, then pip"
    ):
        load_detector(NAME)(IMAGE)


def test_a_mediapipe_without_the_files_is_named(no_cached_networks, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs MediaPipe's file palm_detection_full.tflite; install it: pip install"):
        load_detector(NAME)(IMAGE)


def test_hands_of_photographs(no_cached_networks, shared):
    """Left hands are detected around their joints and as left; in the mirrored photograph they are right hands."""
    pytest.importorskip("ai_edge_litert")
    try:
        mediapipe._networks()
    except UserError as error:
        pytest.skip(str(error))
    detect = load_detector(NAME)
    folder = shared / "real" / "hand_photos"
    for line in (folder / "test.jsonl").read_text().splitlines()[::16]:
        label = json.loads(line)
        image = read_image(folder / label["image"])
        pixels = project(np.array(label["joints_3d"]), np.array(label["K"]))
        truth = np.concatenate([pixels.min(0), pixels.max(0)])
        mirrored = truth[[2, 1, 0, 3]] * [-1, 1, -1, 1] + np.array([1, 0, 1, 0]) * (image.shape[1] - 1)
        wide = np.pad(image, ((300, 100), (40, 700), (0, 0)))  # far smaller, and not in the middle
        for picture, box, side in (
            (image, truth, "left"),
            (np.ascontiguousarray(image[:, ::-1]), mirrored, "right"),
            (wide, truth + [40, 300, 40, 300], "left"),
        ):
            hands = detect(picture)
            assert hands.sides == [side] and 0.5 < hands.scores[0] <= 1
            assert mediapipe._overlap(hands.boxes[0], box) > 0.75
    assert detect(IMAGE).boxes.shape == (0, 4)
