"""Tests of jaxhand.inference.output: which files are written, and which never."""

import json

import numpy as np

from jaxhand.inference.image_files import ImagePrediction
from jaxhand.inference.output import PredictionWriter


def prediction(path):
    joints = np.random.default_rng(0).uniform(5, 25, (1, 21, 3))
    hands = {"keypoints_3d": joints, "keypoints_2d": joints[..., :2], "is_right": np.array([True])}
    rest = {"boxes": np.array([[0, 0, 30, 30]]), "K": np.eye(3)[None], "score": np.array([None])}
    return ImagePrediction(path, np.zeros((30, 30, 3), np.uint8), hands | rest, "given")


def test_a_photograph_is_never_overwritten(tmp_path):
    """The picture of hand.png would be called hand_joints.png, which is another photograph in the same folder."""
    photographs = [tmp_path / "hand.png", tmp_path / "hand_joints.png"]
    for path in photographs:
        path.write_bytes(b"photograph")
    for _ in range(2):
        with PredictionWriter(tmp_path, inputs=photographs) as writer:
            writer.add(prediction(photographs[0]))
    assert [path.read_bytes() for path in photographs] == [b"photograph"] * 2
    [hand] = json.loads((tmp_path / "joints.json").read_text())["hands"]
    assert hand["overlay"] == "hand_2_joints.png" and (tmp_path / hand["overlay"]).is_file()


def test_no_file_outside_the_folder(tmp_path):
    """A joints.json from elsewhere can name any path."""
    (tmp_path / "out").mkdir()
    entry = {"image": str(tmp_path / "a.png"), "overlay": "../b_joints.png"}
    (tmp_path / "out/joints.json").write_text(json.dumps({"hands": [entry]}))
    with PredictionWriter(tmp_path / "out") as writer:
        writer.add(prediction(tmp_path / "a.png"))
    assert not (tmp_path / "b_joints.png").exists() and (tmp_path / "out/a_joints.png").is_file()
