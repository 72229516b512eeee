"""Labels that cannot be right, each kind in each reader: refused, left out and counted, or named before training."""

import dataclasses
import re
import time

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data import label_sample, set_checks
from jaxhand.data.crop import crop
from jaxhand.data.mix import Mix
from jaxhand.data.record import Record
from jaxhand.hand.skeleton import from_our_order
from tests.support import layouts, wrong_labels
from tests.support.exif import with_exif
from tests.support.wrong_labels import COUNT, HEIGHT, READERS, WIDTH, Labels

WITH_CAMERA = ("folder", "coco", "freihand", "rhd", "ho3d", "dexycb_json", "interhand", "outside", "packed")
WITH_BOX = ("folder", "coco", "ho3d", "interhand", "hamer_npz", "hamer_tars", "hint", "outside", "packed")
WITH_3D = (*WITH_CAMERA, "hamer_npz", "hamer_tars")
SIZE = np.array([WIDTH, HEIGHT])


def joints(change):
    """Labels whose joints of all hands are changed; the 2D labels stay."""
    return lambda labels: labels._replace(joints=change(labels.joints))


def one_hand(change):
    """Labels whose joints of hand 5 are changed."""
    return lambda labels: labels._replace(
        joints=np.array([change(j) if i == 5 else j for i, j in enumerate(labels.joints)])
    )


def cameras(change):
    return lambda labels: labels._replace(K=np.array([change(K.copy()) for K in labels.K]))


def boxes(change):
    return lambda labels: labels._replace(boxes=np.array([change(box[:2], box[2:]) for box in labels.boxes]))


def scaled(K, x, y):
    return np.diag([x, y, 1]) @ K


def one_focal_length_of_0(labels):
    return labels._replace(K=np.array([scaled(K, 0, 0) if i == 5 else K for i, K in enumerate(labels.K)]))


def one_pose(labels):
    moved = labels.joints[:1] - labels.joints[0, 9] + labels.joints[:, 9:10]
    return labels._replace(joints=moved, points=np.array([layouts.pixels(j, K) for j, K in zip(moved, labels.K)]))


KINDS = {  # kind → (readers, change, what the user reads)
    "metres": (WITH_3D, joints(lambda j: j / 1000), "in metres|length of no hand|must be in m"),
    "centimetres": (WITH_3D, joints(lambda j: j / 10), "in centimetres|length of no hand|must be in m"),
    "1e30": (WITH_3D, joints(lambda j: j * 1e28), "bones of no hand|length of no hand|must be in m"),
    "behind": (WITH_CAMERA, joints(lambda j: j * (1, -1, -1)), "behind the camera|z forward|in the OpenGL|must be in m"),
    "another order": (WITH_3D, joints(lambda j: from_our_order(j, "ho3d")), "ordered as in ho3d"),
    "one in centimetres": (WITH_3D, one_hand(lambda j: j / 10), "jsonl:6.*in centimetres|(in centimetres|length of no hand).*5"),
    "one in another order": (WITH_3D, one_hand(lambda j: from_our_order(j, "interhand")), "order of another data set.*5"),
    "one outside its image": (WITH_CAMERA, one_hand(lambda j: j + (2000, 0, 0)), "(no joint|none) lies in the image.*[56]"),
    "one focal length of 0": (WITH_CAMERA, one_focal_length_of_0, "(K must be|focal length must be positive).*"),
    "K in 0..1": (WITH_CAMERA, cameras(lambda K: scaled(K, 1 / WIDTH, 1 / HEIGHT)), "K: in 0..1 instead of px"),
    "focal length in mm": (WITH_CAMERA, cameras(lambda K: K @ np.diag([0.08, 0.08, 1])), "K: focal length too short"),
    "K of half the size": (WITH_CAMERA, cameras(lambda K: scaled(K, 0.5, 0.5)), "K of another size"),
    "K of thrice the size": (WITH_CAMERA, cameras(lambda K: scaled(K, 3, 3)), "K of another size|K must be of this image"),
    "one pose": (WITH_3D, one_pose, "same pose"),
    "boxes without area": (WITH_BOX, boxes(lambda low, high: [*high, *low]), "no area|scale|x0 < x1"),
    "boxes outside": (WITH_BOX, boxes(lambda low, high: [*low + 900, *high + 900]), "outside the image 12"),
    "negative boxes": (WITH_BOX, boxes(lambda low, high: [*-high, *-low]), "outside the image 12"),
    "boxes in 0..1": (WITH_BOX, boxes(lambda low, high: [*low / SIZE, *high / SIZE]), "in 0..1 instead of px|in pixels"),
    "boxes as x y w h": (WITH_BOX, boxes(lambda low, high: [*low, *high - low]), "x, y, width, height|x0 < x1|scale"),
    "boxes of half the size": (WITH_BOX, boxes(lambda low, high: [*low / 2, *high / 2]), "image of (half|twice) the size"),
}  # fmt: skip
ALLOWED = {  # what a reader converts by itself
    ("metres", "dexycb_json"),
    ("boxes as x y w h", "hint"),
    ("boxes of half the size", "hint"),
}


def outcome(reader: str, path, labels: Labels) -> str:
    """What the user reads before training on these labels: the error, or the notes."""
    try:
        return " / ".join(set_checks.check({"data.train": READERS[reader](path, labels)}))
    except UserError as error:
        assert "\n" not in str(error)
        return f"error: {error}"


@pytest.mark.parametrize("reader", READERS)
def test_good_labels_are_not_doubted(reader, tmp_path):
    assert outcome(reader, tmp_path, wrong_labels.good()) == ""


@pytest.mark.parametrize(
    ("kind", "reader"),
    [(kind, reader) for kind in KINDS for reader in KINDS[kind][0] if (kind, reader) not in ALLOWED],
)
def test_each_kind_is_named_in_each_reader(kind, reader, tmp_path):
    _, change, text = KINDS[kind]
    assert re.search(text, outcome(reader, tmp_path, change(wrong_labels.good())))
