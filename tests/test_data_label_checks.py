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


def test_limits_of_a_box():
    """Just inside and just outside of each limit, in an image of 640x480 px."""
    for box, reason in (
        ([10, 10, 14, 11], None),
        ([10, 10, 13.9, 11], "smaller than 4 px"),
        ([-300, 10, 100, 20], None),  # a quarter is inside
        ([-301, 10, 100, 20], "area outside"),
        ([540, 470, 640 + 299, 480], None),
        ([-0.5, -0.5, 1.5, 1.5], "in 0..1"),
        ([-0.6, -0.5, 1.5, 1.5], "smaller than 4 px"),
        ([-0.5, -0.5, 1.6, 1.5], "smaller than 4 px"),
        ([0, 0, 1, 0], "no area"),
    ):
        found = label_checks.check_box(np.array(box, float), 640, 480)
        assert (not found) if reason is None else (len(found) == 1 and reason in found[0]), box
    for side, doubtful in ((8, False), (9, True)):  # in an image of a few pixels, such a box can be right
        assert bool(label_checks.check_box(np.array([0, 0, 1, 1.2]), side, 5)) == doubtful
    unknown = label_checks.box_reasons(np.array([[900, 900, 950, 950.0]]), np.array([[np.nan, np.nan]]))
    assert not any(mask.any() for mask in unknown.values())


def test_limits_of_a_camera():
    for fx, fy, cx, cy, reason in (
        (128, 128, 320, 240, None),
        (127, 128, 320, 240, "too short"),
        (64_000, 64_000, 320, 240, None),
        (64_001, 64_000, 320, 240, "too long"),
        (600, 300, 320, 240, None),
        (601, 300, 320, 240, "factor of 2"),
        (300, 601, 320, 240, "factor of 2"),
        (600, 600, -0.5, 479.5, None),
        (600, 600, -0.6, 240, "outside the image"),
        (600, 600, 320, 479.6, "outside the image"),
        (1.2, 1.2, 1.5, 1.5, "in 0..1"),
        (1.2, 1.2, 1.6, 0.5, "in mm"),
        (0, 600, 320, 240, "positive fx and fy"),
    ):
        found = label_checks.check_camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], float), 640, 480)
        assert (not found) if reason is None else (len(found) == 1 and reason in found[0]), (fx, fy, cx, cy)
    wrong = np.stack([K] * 4)
    wrong[1, 1, 0], wrong[2, 2, 0], wrong[3, 0, 1] = 1, 0.1, 5  # the last is skewed, as allowed
    assert label_checks.valid_cameras(wrong).tolist() == [True, False, False, True]


def test_limits_of_bones():
    """Bones of a quarter of an adult's to five times as long are those of a small or a drawn hand."""
    hand = HANDS[:1] / label_checks.anatomy.hand_scale(HANDS[:1])
    found = {}
    for scale in (0.24, 0.26, 4.9, 5.1, 0.001 / 2.6, 0.001 / 2.4, 0.001 * 2.4):
        reasons = label_checks.bone_reasons(hand * scale, VALID[:1])
        found[scale] = [reason for reason, mask in reasons.items() if mask.any()]
    assert found[0.26] == found[4.9] == []
    assert found[0.24] == ["bones as long as a hand's in centimetres: must be mm"]
    assert found[5.1] == ["bones as long as a hand's in tenths of mm: must be mm"]
    assert found[0.001 / 2.6] == ["bones of no hand, in any unit"]
    assert found[0.001 / 2.4] == found[0.001 * 2.4] == ["bones as long as a hand's in metres: must be mm"]


def test_limits_of_a_box_around_joints():
    """A quarter of at least five joints are inside the box, which is made square and enlarged by half."""
    box, points = np.array([[100.0, 100, 200, 140]]), np.full((1, 21, 2), 1000.0)
    misses = lambda count: bool(  # noqa: E731
        label_checks.box_misses_joints(box, points, (np.arange(21) < count)[None])[0]
    )
    assert misses(20) and misses(5) and not misses(4)
    points[:, :5] = [[75, 45], [225, 195], [150, 120], [75, 195], [225, 45]]  # the corners of the larger square
    assert not misses(20) and misses(21)
    points[0, 0, 0] -= 0.1
    assert misses(20) and not misses(16)


def test_hands_that_are_left_out_are_counted_once():
    reasons = {"a": np.array([True, False, False, True]), "b": np.array([False] * 4), "c": np.arange(4) == 1}
    mask, sentences = label_checks.left_out(reasons, lambda i: f"hand {i}")
    assert mask.tolist() == [True, True, False, True]
    assert sentences == ["2 of 4 hands are left out: a, first hand 0", "1 of 4 hands are left out: c, first hand 1"]
    both = label_checks._first_only({"a": np.array([True, False]), "b": np.array([True, True])})
    assert both["a"].tolist() == [True, False] and both["b"].tolist() == [False, True]
