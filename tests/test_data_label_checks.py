"""Boxes, cameras and joints that cannot be right, each kind by its reason; good ones have none."""

import numpy as np
import pytest

from jaxhand.data import label_checks
from jaxhand.hand.skeleton import from_our_order, to_our_order
from tests.support import layouts

K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])
HANDS = np.array([layouts.hand(seed, right=seed % 2 == 0) for seed in range(20)])
VALID = np.ones((20, 21), bool)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([100, 100, 300, 300], ""),
        ([-40, -30, 100, 90], ""),  # a hand at the border
        ([400, 300, 100, 90], "no area"),
        ([100, 100, 100, 300], "no area"),
        ([0.2, 0.2, 0.6, 0.7], "in 0..1"),
        ([0, 0, 1, 1], "in 0..1"),
        ([700, 100, 900, 300], "outside the image"),
        ([-300, -300, -100, -100], "outside the image"),
        ([-300, -300, 20, 20], "area outside the image"),
        ([np.nan, 0, 10, 10], "not finite"),
        ([0, 0, np.inf, 10], "not finite"),
        ([100, 100, 102, 103], "smaller than 4 px"),
    ],
)
def test_boxes(box, reason):
    found = label_checks.check_box(np.array(box, float), 640, 480)
    assert (not found) if not reason else len(found) == 1 and reason in found[0] and "640x480 px" in found[0]


@pytest.mark.parametrize(
    ("camera", "reason"),
    [
        (K, ""),
        (np.diag([28, 28, 1]) + [[0, 0, 320], [0, 0, 240], [0, 0, 0]], "in mm instead of px"),
        (np.diag([1 / 640, 1 / 480, 1]) @ K, "in 0..1"),
        (np.diag([1e-9, 1e-9, 1]), "in 0..1"),
        (np.diag([0, 0, 1]) @ K, "positive fx and fy"),
        (np.diag([-1, 1, 1]) @ K, "positive fx and fy"),
        (K.T, "not [[fx"),
        (K * np.nan, "not [[fx"),
        (np.diag([3, 3, 1]) @ K, "principal point outside the image"),
        (np.diag([1e9, 1e9, 1]) @ K, "too long"),
        (np.diag([5, 1, 1]) @ K @ [[1, 0, -0.4], [0, 1, 0], [0, 0, 1]], "fx and fy differ"),
    ],
)
def test_cameras(camera, reason):
    found = label_checks.check_camera(camera, 640, 480)
    assert (not found) if not reason else len(found) == 1 and reason in found[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda joints: joints, ""),
        (lambda joints: joints * 0.5, ""),  # a child
        (lambda joints: joints / 1000, "in metres: must be mm"),
        (lambda joints: joints / 10, "in centimetres: must be mm"),
        (lambda joints: joints / 25.4, "in inches: must be mm"),
        (lambda joints: joints * 10, "in tenths of mm: must be mm"),
        (lambda joints: joints * 1e28, "bones of no hand, in any unit"),
        (lambda joints: joints * 0, "behind the camera"),
        (lambda joints: joints * (1, -1, -1), "behind the camera"),
        (lambda joints: joints * np.nan, "not finite"),
        (lambda joints: np.full_like(joints, np.inf), "not finite"),
    ],
)
def test_joints(change, reason):
    joints = HANDS.copy()
    joints[3] = change(joints[3])
    found = {text: mask for text, mask in label_checks.joint_reasons(joints, VALID).items() if mask.any()}
    if not reason:
        assert not found
        return
    [(text, mask)] = found.items()
    assert reason in text and np.flatnonzero(mask).tolist() == [3]
    valid = VALID.copy()
    valid[3] = False  # not labelled: not judged
    assert not any(mask.any() for mask in label_checks.joint_reasons(joints, valid).values())


def test_a_hand_with_few_labelled_joints_has_a_unit():
    valid = np.zeros((20, 21), bool)
    valid[:, [5, 6]] = True  # one bone
    reasons = label_checks.joint_reasons(np.where(valid[..., None], HANDS / 10, np.nan), valid)
    assert [text for text, mask in reasons.items() if mask.all()] == [
        "bones as long as a hand's in centimetres: must be mm"
    ]
    valid[:, 5] = False  # no bone: the unit is unknown
    assert not any(mask.any() for mask in label_checks.joint_reasons(HANDS / 10, valid).values())


def test_joints_and_their_image():
    points = np.array([layouts.pixels(hand, K) for hand in HANDS])
    sizes = np.tile([640.0, 480.0], (20, 1))
    assert label_checks.joints_inside(points, VALID, sizes).all()
    points[2] += 1000
    points[4, :20] += 1000  # one joint is inside
    points[6, 0], points[6, 1] = (-0.6, 100), (639.6, 100)
    sizes[5] = np.nan
    inside = label_checks.joints_inside(points, VALID & (np.arange(21) < 20), sizes).sum(-1)
    assert inside.tolist() == [20, 20, 0, 20, 0, 0, 18] + [20] * 13


def test_single_hands_in_another_order():
    joints = HANDS.copy()
    assert not label_checks.in_another_order(joints).any()
    joints[3], joints[7] = from_our_order(joints[3], "ho3d"), to_our_order(joints[7], "interhand")
    joints[9] /= 10  # another unit is no other order
    assert np.flatnonzero(label_checks.in_another_order(joints)).tolist() == [3, 7]


def test_boxes_and_joints():
    points = np.array([layouts.pixels(hand, K) for hand in HANDS])
    tight = np.concatenate([points.min(1), points.max(1)], -1)
    misses = label_checks.box_misses_joints
    assert not misses(tight, points, VALID).any()
    center, half = (tight[:, :2] + tight[:, 2:]) / 2, (tight[:, 2:] - tight[:, :2]) / 2
    assert not misses(np.concatenate([center - 3 * half, center + 3 * half], -1), points, VALID).any()
    for wrong in (tight / 2, tight / 640, tight[:, [2, 3, 0, 1]], tight * 0, tight * np.nan, tight - 1000):
        assert misses(wrong, points, VALID).all()
    as_sizes = np.concatenate([tight[:, :2], 2 * half], -1)  # x, y, width, height
    assert misses(as_sizes, points, VALID).all()
    few = VALID & (np.arange(21) < label_checks.MIN_JOINTS - 1)
    assert not misses(tight / 2, points, few).any() and misses(tight * 0, points, few).all()
    assert not misses(tight * 0, points, VALID & False).any()  # without joints nothing can replace the box
