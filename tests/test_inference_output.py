"""Tests of jaxhand.inference.output: which files are written, and which never."""

import json

import cv2
import numpy as np
import pytest

from jaxhand.config import UserError
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


def test_files_of_the_user_stay(tmp_path):
    """An image gets other names for all its files if one of them would replace a file that predict did not write."""
    image, contents = tmp_path / "a.png", {}
    for name in ("a.obj", "a_2_joints.png"):
        (tmp_path / name).write_text("of the user")
    for _ in range(3):
        with PredictionWriter(tmp_path) as writer:
            writer.add(with_mesh(image))
        assert {(tmp_path / name).read_text() for name in ("a.obj", "a_2_joints.png")} == {"of the user"}
        contents = {path.name for path in tmp_path.iterdir()}
        written = {"a_3_joints.png", "a_3_mesh.png", "a_3.obj", "a_3.glb", "joints.json"}
        assert contents == written | {"a.obj", "a_2_joints.png"}  # its own files are replaced


def test_a_file_of_the_user_that_comes_later_stays(tmp_path):
    with PredictionWriter(tmp_path, mesh_kinds=()) as writer:
        writer.add(prediction(tmp_path / "a.png"))
    (tmp_path / "a.glb").write_text("of the user")
    with PredictionWriter(tmp_path) as writer:
        writer.add(with_mesh(tmp_path / "a.png"))
    assert (tmp_path / "a.glb").read_text() == "of the user" and (tmp_path / "a_2.glb").is_file()


def test_no_file_outside_the_folder(tmp_path):
    """A joints.json from elsewhere can name any path."""
    (tmp_path / "out").mkdir()
    entry = {"image": str(tmp_path / "a.png"), "overlay": "../b_joints.png"}
    (tmp_path / "out/joints.json").write_text(json.dumps({"hands": [entry]}))
    with PredictionWriter(tmp_path / "out") as writer:
        writer.add(prediction(tmp_path / "a.png"))
    assert not (tmp_path / "b_joints.png").exists() and (tmp_path / "out/a_joints.png").is_file()


def with_mesh(path, count=2):
    """Hands with all arrays, whose numbers have many digits; each mesh is a pyramid 300 mm away."""
    rng = np.random.default_rng(1)
    corners = np.array([[0.0, 0, 0], [40, 0, 0], [0, 40, 0], [0, 0, 40]]) + [0, 0, 300]
    hands = {
        "keypoints_3d": rng.uniform(-50, 50, (count, 21, 3)) + [0, 0, 300],
        "keypoints_2d": rng.uniform(5, 25, (count, 21, 2)),
        "is_right": np.array([True, False][:count]),
        "boxes": rng.uniform(0, 30, (count, 4)),
        "K": np.array([[100 / 3, 0, 15], [0, 100 / 3, 15], [0, 0, 1]])[None].repeat(count, 0),
        "score": np.array([None] * count),
        "camera_translation": rng.uniform(0, 9, (count, 3)),
        "mano_pose": rng.normal(size=(count, 48)),
        "mano_shape": rng.normal(size=(count, 10)),
        "vertices": corners + np.array([[-60.0, 0, 0], [60, 0, 0]])[:count, None],
        "faces": np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])[None].repeat(count, 0),
    }
    return ImagePrediction(path, np.full((30, 30, 3), 90, np.uint8), hands, "given")


def test_numbers_in_joints_json_are_rounded(tmp_path):
    prediction = with_mesh(tmp_path / "a.png")
    prediction.hands["score"][1] = 0.25
    with PredictionWriter(tmp_path / "out", ("obj",)) as writer:
        writer.add(prediction)
    entries = json.loads((tmp_path / "out/joints.json").read_text())["hands"]
    decimals = {"bbox": 3, "K": 6, "joints_2d": 2, "joints_3d": 2, "camera_translation": 2}
    decimals |= {"mano_pose": 5, "mano_shape": 5}
    names = {"bbox": "boxes", "joints_2d": "keypoints_2d", "joints_3d": "keypoints_3d"}
    for row, entry in enumerate(entries):
        for key, places in decimals.items():
            values = prediction.hands[names.get(key, key)][row]
            assert np.abs(np.array(entry[key]) - values).max() <= 0.5001 * 10**-places, key
            assert np.array_equal(np.round(entry[key], places), entry[key]), key
        assert len(json.dumps(entry["K"])) < 80  # no more digits than these
    assert [entry["hand"] for entry in entries] == ["right", "left"]
    assert [entry.get("score", "none") for entry in entries] == ["none", 0.25]


def test_a_small_picture_is_enlarged_and_shows_all_meshes(tmp_path):
    with PredictionWriter(tmp_path / "out", ("obj",)) as writer:
        writer.add(with_mesh(tmp_path / "a.png"))
    overlay, mesh = (cv2.imread(str(tmp_path / "out" / f"a_{name}.png")) for name in ("joints", "mesh"))
    assert overlay.shape == mesh.shape == (510, 510, 3)  # 17 times as large: at most 512 px
    drawn = (mesh != 90).any(-1)
    assert drawn[:, :255].any() and drawn[:, 255:].any()  # both hands
    text = (tmp_path / "out/a.obj").read_text()
    assert text.count("\no ") + text.startswith("o ") == 2 and "right_0" in text and "left_1" in text


def test_a_file_that_was_not_written_by_predict_stays(tmp_path):
    for content in ("[]", '{"hands": [{}]}', '{"hands": [{"image": 3}]}', '{"hands": [{"image": "a\\u0000"}]}', "x"):
        (tmp_path / "joints.json").write_text(content)
        with pytest.raises(UserError, match="joints.json: damaged, or not written by"):
            PredictionWriter(tmp_path)
        assert (tmp_path / "joints.json").read_text() == content


def test_hands_from_before_are_counted(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        with PredictionWriter(tmp_path / "out") as writer:
            writer.add(prediction(tmp_path / name))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"1 hands of 1 images -> {tmp_path / 'out/joints.json'}"
    assert lines[3].endswith("joints.json (it has 2 hands, with those from before)")
    with PredictionWriter(tmp_path / "none"):
        pass
    assert capsys.readouterr().out == "" and not (tmp_path / "none/joints.json").exists()


def test_joints_that_are_not_finite_are_refused(tmp_path):
    broken = with_mesh(tmp_path / "a.png")
    broken.hands["keypoints_3d"][1, 5, 2] = np.inf
    with (
        PredictionWriter(tmp_path / "out") as writer,
        pytest.raises(UserError, match="a.png: the predicted joints are"),
    ):
        writer.add(broken)
