"""COCO-style files of hands: with 3D and without, and every mistake by file and annotation."""

import json

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.crop_rules import RULES
from jaxhand.data.datasets import coco
from jaxhand.hand.camera import project
from tests.support import layouts
from tests.support import layouts_rhd as layout

HAND = layout.joints("training", 0, "left")
ANNOTATION = {
    "image_id": 7,
    "bbox": [100, 60, 50, 80],
    "keypoints": np.hstack([layouts.pixels(HAND, layout.camera(0)), np.ones((21, 1))])[layout.ORDER].tolist(),
    "joint_cam": HAND[layout.ORDER].tolist(),
    "hand_type": "left",
}
IMAGE = {"id": 7, "file_name": "color/00000.png", "width": 320, "height": 320}
CAMERA = {"cam_param": {"focal": [299, 299], "princpt": [160, 160]}}


def load(file, split="train"):
    return coco.load(file, split, order="rhd")


def coco_file(path, annotation=ANNOTATION, image=IMAGE | CAMERA):
    path.write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    return path


def test_a_coco_file(tmp_path):
    (tmp_path / "annotations").mkdir()
    points = layouts.pixels(HAND, layout.camera(0))
    layouts.write_image(tmp_path / "color/00000.png", layouts.picture(320, 320, points))
    record = load(coco_file(tmp_path / "annotations/rhd_train.json"), "train")[0]
    np.testing.assert_allclose(record.keypoints_3d, HAND, atol=1e-3)
    np.testing.assert_array_equal(record.bbox, [100, 60, 150, 140])
    assert layouts.joints_shown(record.image, project(record.keypoints_3d, record.K)) == list(range(21))
    assert record.name == "color/00000.png#left" and record.keypoints_2d is None and record.joint_valid_2d is None
    hidden = np.array(ANNOTATION["keypoints"])
    hidden[4, 2] = 0  # theirs: the thumb's base
    source = load(coco_file(tmp_path / "hidden.json", ANNOTATION | {"keypoints": hidden.ravel().tolist()}), "train")
    assert np.flatnonzero(source.read_annotation(0).joint_valid == 0).tolist() == [1]
    flat = {key: ANNOTATION[key] for key in ("image_id", "keypoints")}
    label = load(coco_file(tmp_path / "flat.json", flat, IMAGE), "train").read_annotation(0)
    assert label.hand == "right" and label.bbox is None and not label.joint_valid.any() and not label.keypoints_3d.any()
    np.testing.assert_allclose(label.keypoints_2d, points, atol=1e-4)
    np.testing.assert_array_equal(label.K, RULES["hamer"].camera(320, 320))
    assert label.name == "color/00000.png"


COCO_MISTAKES = {
    "annotation 0: image_id 8 is not the id of an image": {"annotation": ANNOTATION | {"image_id": 8}},
    "annotation 0: hand_type must be .* got 'both'": {"annotation": ANNOTATION | {"hand_type": "both"}},
    "annotation 0: joint_cam must be 21x3 numbers": {"annotation": ANNOTATION | {"joint_cam": [[0, 0, 0]] * 42}},
    "annotation 0: keypoints must be 21x3 numbers, got 3 ": {"annotation": ANNOTATION | {"keypoints": [1, 2, 3]}},
    "annotation 0: has joint_cam but no cam_param": {"image": IMAGE},
    "annotation 0: missing key 'width'": {"image": {"id": 7, "file_name": "a.png"} | CAMERA},
    "entry 0 of annotations is not a JSON object": {"annotation": "lost"},
    "annotation 0: keypoints must be 21x3 numbers, got 20": {"annotation": ANNOTATION | {"keypoints": [0] * 20}},
}


@pytest.mark.parametrize("message", COCO_MISTAKES)
def test_a_mistake_in_a_coco_file_is_named(tmp_path, message):
    file = coco_file(tmp_path / "wrong.json", **COCO_MISTAKES[message])
    with pytest.raises(UserError, match=f"wrong.json: {message}"):
        load(file, "train")


def test_a_file_that_is_no_coco(tmp_path):
    for text, message in {
        "[1, 2]": "has no list 'images'; give another file",
        '{"images": []}': "has no list 'annotations'",
        '{"images": [], "annotations": [{"id": 1}, {': "cut off or damaged after 1 annotations|annotation 0",
        '{"images": [], "annotations": []}': "contains no annotation",
    }.items():
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(UserError, match=f"other.json: ({message})"):
            load(tmp_path / "other.json", "train")
