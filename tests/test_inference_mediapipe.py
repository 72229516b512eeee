"""From photographs to hands, with converted networks: both sides, several hands, and the same as through LiteRT."""

import json

import jax
import numpy as np
import pytest

from jaxhand import convert
from jaxhand.config import UserError
from jaxhand.data.images.encoded import read_image
from jaxhand.hand import roi
from jaxhand.hand.camera import project
from jaxhand.inference import mediapipe_pipeline
from jaxhand.inference.mediapipe_pipeline import Pipeline
from jaxhand.interop.mediapipe_weights import HAND, PALM
from jaxhand.models.palm_detector import anchors, overlap
from tests.support import mediapipe_files
from tests.support.mediapipe_files import LiteRT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run folder that the command writes."""
    return mediapipe_files.convert_run(tmp_path_factory.mktemp("converted") / "run")


@pytest.fixture(scope="module")
def pipeline(run):
    return Pipeline.load(run, batch_size=4)


@pytest.fixture(scope="module")
def photographs(shared):
    """Four photographs of left hands, their cameras, and the labelled joints in mm and in px."""
    folder = shared / "real" / "hand_photos"
    labels = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()[::20]]
    images = [read_image(folder / label["image"]) for label in labels]
    K, joints = (np.array([label[key] for label in labels]) for key in ("K", "joints_3d"))
    return images, K, joints, project(joints, K)


def test_the_run_folder(run):
    report = (run / convert.REPORT).read_text()
    assert "backbone/stages/5/3/project" in report and report.startswith("used: 51\n")
    assert "name: mediapipe" in (run / "config.yaml").read_text()
    assert "name: palm_detector" in (run / "palm_detector" / "config.yaml").read_text()
    with pytest.raises(UserError, match="no run folder at"):
        Pipeline.load(run / "nowhere")
    with pytest.raises(UserError, match="batch_size must be a power of two, such as 32, got 3"):
        Pipeline.load(run, batch_size=3)


def test_hands_of_photographs(pipeline, photographs):
    images, K, joints, pixels = photographs
    found = pipeline(images, K)
    mirrored = pipeline([np.ascontiguousarray(image[:, ::-1]) for image in images])
    for number, (hands, flipped) in enumerate(zip(found, mirrored)):
        assert len(hands["score"]) == len(flipped["score"]) == 1
        assert hands["right"][0] < 0.5 < flipped["right"][0]
        assert np.linalg.norm(hands["keypoints_2d"][0] - pixels[number], axis=-1).mean() < 15
        np.testing.assert_allclose(project(hands["keypoints_3d"], K[number]), hands["keypoints_2d"], atol=1e-3)
        assert abs(hands["keypoints_3d"][0, :, 2].mean() - joints[number, :, 2].mean()) < 100  # mm
        assert "keypoints_3d" not in flipped
        back = flipped["keypoints_2d"][0] * [-1, 1] + [images[number].shape[1] - 1, 0]
        assert np.linalg.norm(hands["keypoints_2d"][0] - back, axis=-1).mean() < 8


def test_several_hands_and_none(pipeline, photographs):
    """Two hands next to each other, one mirrored and turned over; an empty picture next to it in the same call."""
    images, *_ = photographs
    height = images[0].shape[0]
    both = np.concatenate([images[0], np.zeros((height, 60, 3), np.uint8), images[1][::-1]], axis=1)
    hands, nothing, alone = pipeline([both, np.zeros((90, 120, 3), np.uint8), images[0]])
    assert len(hands["score"]) == 2 and len(nothing["score"]) == 0 and nothing["keypoints_2d"].shape == (0, 21, 2)
    left_first = np.argsort(hands["boxes"][:, 0])
    assert (hands["right"][left_first] > 0.5).tolist() == [False, True]  # a picture upside down is mirrored once
    assert overlap(alone["boxes"][0], hands["boxes"]).max() > 0.8
    assert pipeline([]) == []


def test_a_turned_photograph_has_the_turned_hand(pipeline, photographs):
    """World landmarks are in the axes of the image, not in those of the crop."""
    images, *_ = photographs
    [upright], [turned] = pipeline(images[:1]), pipeline([np.ascontiguousarray(np.rot90(images[0]))])
    width = images[0].shape[1]
    x, y = turned["keypoints_2d"][0].T
    assert np.linalg.norm(np.stack([width - 1 - y, x], 1) - upright["keypoints_2d"][0], axis=-1).max() < 10
    x, y, z = turned["world"][0].T
    assert np.linalg.norm(np.stack([-y, x, z], 1) - upright["world"][0], axis=-1).max() < 20  # mm


def test_the_whole_way_equals_litert(pipeline, photographs):
    """The same crops through LiteRT, with this test's own decoding of the best palm."""
    images, *_ = photographs
    palm, hand = LiteRT(PALM, "full"), LiteRT(HAND, "full")
    for image, hands in zip(images, pipeline(images)):
        square = roi.whole(*image.shape[1::-1])
        numbers, logits = (array[0] for array in palm(_crop(image, square, 192)))
        boxes = numbers.reshape(-1, 9, 2).copy()
        boxes[:, 0] += anchors()
        boxes[:, 2:] += anchors()[:, None]
        corners = np.concatenate([boxes[:, 0] - boxes[:, 1] / 2, boxes[:, 0] + boxes[:, 1] / 2], 1)
        score = 1 / (1 + np.exp(-logits[:, 0]))
        same = (overlap(corners[score.argmax()], corners) > 0.3) & (score > 0.5)
        points = np.average(np.concatenate([corners.reshape(-1, 2, 2), boxes[:, 2:]], 1)[same], 0, score[same]) - 0.5
        square = roi.of_palm(roi.to_image(points, square.matrix(192)))
        looks = []
        for _ in range(2):
            landmarks, presence, right, world = (array[0] for array in hand(_crop(image, square, 224)))
            A = square.matrix(224)
            joints, R = roi.to_image(landmarks.reshape(21, 3)[:, :2] - 0.5, A), square.rotation()
            square = roi.of_joints(joints)
            looks.append((joints, 1000 * world.reshape(21, 3) @ R))
        joints, world = (np.mean(values, axis=0) for values in zip(*looks))
        # a square moved by 1e-4 px rounds a few pixels of the crop to the next of 256 levels
        np.testing.assert_allclose(hands["keypoints_2d"][0], joints, atol=0.1)
        np.testing.assert_allclose(hands["world"][0], world, atol=0.2)
        np.testing.assert_allclose([hands["score"][0], hands["right"][0]], [presence[0], right[0]], atol=1e-3)


def test_a_hand_that_fills_the_picture_is_found(pipeline, shared):
    """No palm is found at first; the photograph is then looked at from further away."""
    image = read_image(shared / "real" / "hand_photos" / "images" / "00284.jpg")
    assert len(pipeline._palms([image], [roi.whole(*image.shape[1::-1])])[0]) == 0
    [hands] = pipeline([image])
    assert len(hands["score"]) == 1 and hands["right"][0] < 0.5


def test_a_network_is_compiled_for_few_sizes(pipeline, photographs):
    images, *_ = photographs
    one = pipeline.read(images[:1], [roi.whole(256, 256)])
    three = pipeline.read(images[:3], [roi.whole(256, 256)] * 3)
    np.testing.assert_allclose(one[0]["keypoints_2d"], three[0]["keypoints_2d"], atol=1e-2)
    assert len(pipeline.read([], [])) == 0


def test_weights_are_arguments_of_the_compiled_function(pipeline):
    """As constants they would be compiled in: slow to compile, and held twice."""
    batch = np.zeros((1, 224, 224, 3), np.uint8)
    text = pipeline._hand.func.lower(*pipeline._hand.args, batch).as_text()
    assert len(text) < 2_000_000 and jax.tree.leaves(pipeline._hand.args)


def _crop(image, square, size):
    out = np.empty((size, size, 3), np.uint8)
    mediapipe_pipeline.cut(image, square, out)
    return np.float32(out)[None] / 255
