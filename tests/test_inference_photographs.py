"""Photographs in, hands in mm out: MediaPipe's networks through `jaxhand.load`, `predict` and as a detector."""

import importlib.util
import json

import cv2
import numpy as np
import pytest

import jaxhand
from jaxhand import convert, predict
from jaxhand.config import UserError
from jaxhand.data.images.encoded import read_image
from jaxhand.hand.camera import project
from jaxhand.hand.placement import SKIN_MM
from jaxhand.inference.detection import OLD_NAME, load_detector
from jaxhand.inference.mediapipe_pipeline import Pipeline
from jaxhand.inference.mediapipe_predictor import MediapipePredictor
from jaxhand.interop.mediapipe_weights import HAND, MODULES
from jaxhand.models.palm_detector import overlap
from tests.support import mediapipe_files
from tests.support.exif import FOCAL_35MM, with_exif


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of converted networks."""
    return mediapipe_files.convert_run(tmp_path_factory.mktemp("converted") / "run")


@pytest.fixture(scope="module")
def read(run):
    return jaxhand.load(run, batch_size=4)


@pytest.fixture(scope="module")
def labels(shared):
    """Four labelled photographs of left hands: path, image, K, joints in mm and in px, and the box around them."""
    folder, found = shared / "real" / "hand_photos", []
    for line in (folder / "test.jsonl").read_text().splitlines()[::20]:
        label = json.loads(line)
        joints, K = np.array(label["joints_3d"]), np.array(label["K"])
        pixels, path = project(joints, K), folder / label["image"]
        found.append((path, read_image(path), K, joints, pixels, np.concatenate([pixels.min(0), pixels.max(0)])))
    return found


def test_hands_of_photographs_without_boxes(read, labels):
    """Files and arrays alike; two images of different sizes, and one without a hand, in one call."""
    (path, image, K, joints, pixels, _), (_, other, *_) = labels[:2]
    empty = np.zeros((90, 120, 3), np.uint8)
    wide = np.pad(other, ((0, 0), (0, 100), (0, 0)))
    found = read([path, empty, wide, image], K=[K, None, None, K])
    assert isinstance(read, MediapipePredictor) and found["image"].tolist() == [0, 2, 3]
    assert found["is_right"].tolist() == [False] * 3 and (found["score"] > 0.5).all()
    for key in ("keypoints_3d", "keypoints_2d", "boxes"):
        np.testing.assert_allclose(found[key][0], found[key][2], atol=0.05)
    assert np.linalg.norm(found["keypoints_2d"][0] - pixels, axis=-1).mean() < 15
    np.testing.assert_allclose(project(found["keypoints_3d"][0], K), found["keypoints_2d"][0], atol=1e-2)
    assert np.linalg.norm(found["keypoints_3d"][0].mean(0) - joints.mean(0)) < 100
    np.testing.assert_array_equal(found["K"][1], [[1.2 * 356, 0, 177.5], [0, 1.2 * 356, 127.5], [0, 0, 1]])
    nothing = read(empty)
    assert {key: len(value) for key, value in nothing.items()} == dict.fromkeys(found, 0)
    assert nothing["keypoints_3d"].shape == (0, 21, 3)


def test_boxes_and_sides_that_are_given_are_used(read, labels):
    """Upside down, too: the second look is turned along the hand. An image without boxes is next to it."""
    _, image, K, _, pixels, box = labels[0]
    end = np.array(image.shape[1::-1]) - 1
    turned = np.ascontiguousarray(image[::-1, ::-1])
    turned_box = np.concatenate([end - box[2:], end - box[:2]])
    boxes = [[box, [5, 5, 60, 70]], None, turned_box]
    found = read([image, image, turned], boxes, [["left", "right"], None, None], [K, K, K])
    assert found["image"].tolist() == [0, 0, 1, 2]
    assert found["is_right"].tolist() == [False, True, False, False]
    np.testing.assert_array_equal(found["boxes"][[0, 1, 3]], [box, [5, 5, 60, 70], turned_box])
    for row, truth in ((0, pixels), (2, pixels), (3, end - pixels)):
        assert np.linalg.norm(found["keypoints_2d"][row] - truth, axis=-1).mean() < 15
    assert read(image, hands="right")["is_right"].tolist() == [True]


def test_two_hands_of_a_photograph_stand_rightly_to_each_other(read, labels):
    """The same hand at half its size is twice as far; a mirrored one is a right hand on the other side."""
    _, image, *_ = labels[0]
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    canvas = np.full((256, 420, 3), 120, np.uint8)
    canvas[:, :256] = image
    canvas[128:, 280:408] = half[:, ::-1]
    K = np.array([[480.0, 0, 209.5], [0, 480, 127.5], [0, 0, 1]])
    found = read(canvas, K=K)
    assert len(found["score"]) == 2
    near, far = np.argsort(found["keypoints_2d"][..., 0].mean(1))
    assert found["is_right"][[near, far]].tolist() == [False, True]
    near, far = found["keypoints_3d"][[near, far]].mean(1)
    assert far[2] / near[2] == pytest.approx(2, rel=0.1) and near[0] < 0 < far[0]


def test_depth_decides_the_distance(read, labels):
    """A flat depth image: the skin of the hand is there, whatever K alone says. Without measured depth K decides."""
    _, image, K, *_ = labels[0]
    alone = read(image, K=K)["keypoints_3d"]
    for distance in (350.0, 600.0):
        depth = np.full(image.shape[:2], distance)
        depth[:, 200:] = 1500
        found = read(image, K=K, depth=depth)
        skin = found["keypoints_3d"][0, :, 2] - SKIN_MM
        assert abs(np.median(skin) - distance) < 15
        np.testing.assert_allclose(project(found["keypoints_3d"][0], K), found["keypoints_2d"][0], atol=1e-2)
    np.testing.assert_array_equal(read(image, K=K, depth=np.zeros(image.shape[:2]))["keypoints_3d"], alone)


def test_exif_data_of_a_photograph(read, labels, tmp_path):
    """The focal length of the file, and a photograph that is stored turned: the hand is that of the upright one."""
    path, image, *_ = labels[0]
    stored = np.ascontiguousarray(np.rot90(image))  # counter-clockwise; orientation 6 turns it back
    turned = tmp_path / "turned.jpg"
    content = cv2.imencode(".jpg", stored[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    turned.write_bytes(with_exif(content, {FOCAL_35MM: 43}, orientation=6))
    upright, found = read(path), read(turned)
    focal = 43 * np.hypot(256, 256) / np.hypot(36, 24)
    np.testing.assert_allclose(found["K"][0], [[focal, 0, 127.5], [0, focal, 127.5], [0, 0, 1]])
    assert np.linalg.norm(found["keypoints_2d"] - upright["keypoints_2d"], axis=-1).mean() < 3
    ratio = found["keypoints_3d"][0, :, 2].mean() / upright["keypoints_3d"][0, :, 2].mean()
    assert ratio == pytest.approx(focal / (1.2 * 256), rel=0.1)  # the guess is 1.2 times the side


def test_the_command(run, labels, call, tmp_path):
    (path, image, *_), (other, *_) = labels[:2]
    turned = tmp_path / "phone.jpg"
    turned.write_bytes(with_exif(path.read_bytes(), {FOCAL_35MM: 30}))
    cv2.imwrite(str(tmp_path / "empty.png"), np.zeros((90, 120, 3), np.uint8))
    images = [turned, tmp_path / "empty.png", other]
    code, output, errors = call(predict.main, run, *images, "--out", tmp_path / "out")
    assert (code, errors) == (0, "") and f"{images[1]}: no hand" in output
    assert "the focal length of 1 images is that of their EXIF data" in output
    assert "the camera of 2 images is not known" in output
    content = json.loads((tmp_path / "out" / "joints.json").read_text())
    assert [hand["image"] for hand in content["hands"]] == [str(turned), str(other)]
    for hand, name in zip(content["hands"], ("phone", other.stem)):
        assert hand["hand"] == "left" and hand["score"] > 0.5 and np.shape(hand["joints_3d"]) == (21, 3)
        assert cv2.imread(str(tmp_path / "out" / f"{name}_joints.png")).shape == (512, 512, 3)
    # joints.json is a file of boxes
    boxes = ("--boxes", tmp_path / "out" / "joints.json", "--out", tmp_path / "again")
    assert call(predict.main, run, *boxes)[0] == 0
    again = json.loads((tmp_path / "again" / "joints.json").read_text())["hands"]
    for one, two in zip(content["hands"], again, strict=True):
        assert one["bbox"] == two["bbox"] and one["hand"] == two["hand"]
        assert np.abs(np.subtract(one["joints_2d"], two["joints_2d"])).max() < 10
    depth = tmp_path / "depth.png"
    cv2.imwrite(str(depth), np.full(image.shape[:2], 400, np.uint16))
    code, output, _ = call(
        predict.main, run, path, "--depth", depth, "--focal", 480, "--hand", "right", "--out", tmp_path
    )
    [hand] = json.loads((tmp_path / "joints.json").read_text())["hands"]
    assert code == 0 and "camera" not in output and hand["hand"] == "right"
    assert abs(np.median(np.array(hand["joints_3d"])[:, 2] - SKIN_MM) - 400) < 15
    assert hand["mesh"] == "fitted" and {hand["obj"], hand["glb"]} <= {file.name for file in tmp_path.iterdir()}


def test_a_detector_for_other_models(run, labels, finished, call, tmp_path, monkeypatch):
    """Named by its folder, as "mediapipe" in runs/mediapipe, and by the name it had when it ran through LiteRT."""
    monkeypatch.chdir(tmp_path)
    path = labels[0][0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mediapipe").symlink_to(run)
    found = []
    for name in (run, "mediapipe", OLD_NAME):
        code, _, errors = call(predict.main, finished, path, "--detector", name, "--out", tmp_path / "out")
        assert (code, errors) == (0, "")
        found += json.loads((tmp_path / "out" / "joints.json").read_text())["hands"]
    assert len(found) == 3 and found[0] == found[1] == found[2]
    assert found[0]["hand"] == "left" and 0.5 < found[0]["score"] <= 1
    assert overlap(np.array(found[0]["bbox"]), labels[0][5][None])[0] > 0.75


def test_the_detector_on_photographs(run, labels):
    """Left hands are detected around their joints and as left; in the mirrored photograph they are right hands."""
    detect = load_detector(str(run))
    for _, image, _, _, _, truth in labels:
        mirrored = truth[[2, 1, 0, 3]] * [-1, 1, -1, 1] + np.array([1, 0, 1, 0]) * (image.shape[1] - 1)
        wide = np.pad(image, ((300, 100), (40, 700), (0, 0)))  # far smaller, and not in the middle
        for picture, box, side in (
            (image, truth, "left"),
            (np.ascontiguousarray(image[:, ::-1]), mirrored, "right"),
            (wide, truth + [40, 300, 40, 300], "left"),
        ):
            hands = detect(picture)
            assert hands.sides == [side] and 0.5 < hands.scores[0] <= 1
            assert overlap(hands.boxes[0], box[None])[0] > 0.75
    assert detect(np.zeros((90, 120, 3), np.uint8)).boxes.shape == (0, 4)


def test_networks_of_the_installed_package(labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_loader("mediapipe", None, is_package=True)
    spec.submodule_search_locations = [str(mediapipe_files.source())]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert load_detector("mediapipe")(labels[0][1]).sides == ["left"]


def test_what_is_missing_is_named(tmp_path, monkeypatch, finished):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("mediapipe", OLD_NAME):
        with pytest.raises(UserError, match="--detector mediapipe needs its networks in runs/mediapipe: `make photogr"):
            load_detector(name)
    with pytest.raises(UserError, match="has the model dense, not mediapipe's networks: jaxhand convert mediapipe"):
        load_detector(str(finished))
    with pytest.raises(UserError, match="no run folder at"):
        Pipeline.load(tmp_path / "nowhere")


def test_a_run_without_a_palm_detector(run, labels, tmp_path, monkeypatch):
    """That of the run it started from is taken, or that in runs/mediapipe. Without any, boxes are needed."""
    monkeypatch.chdir(tmp_path)
    file = mediapipe_files.source() / "modules" / MODULES[HAND].format("full")
    for name, options in (("alone", ()), ("tuned", ("--set", f"training.init_from={run}"))):
        monkeypatch.setattr("sys.argv", ["convert", "mediapipe", str(file), str(tmp_path / name), *options])
        assert convert.main() == 0
    _, image, *_, box = labels[0]
    alone = Pipeline.load(tmp_path / "alone")
    with pytest.raises(UserError, match="no palm detector: give boxes, or a --detector. jaxhand convert mediapipe"):
        alone([image])
    assert len(alone.in_boxes([image], [box[None]])[0]["score"]) == 1
    assert len(Pipeline.load(tmp_path / "tuned")([image])[0]["score"]) == 1
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mediapipe").symlink_to(run)
    assert len(Pipeline.load(tmp_path / "alone")([image])[0]["score"]) == 1
