"""HaMeR's evaluation files: units, missing arrays, and the place of a hand whose camera is unknown."""

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.datasets import hamer_npz, hamer_tars
from jaxhand.hand.camera import project
from tests.support import layouts
from tests.support import layouts_hamer as tree
from tests.test_data_hamer_tars import check


@pytest.mark.parametrize("names", [str, bytes, object])
def test_npz_has_scale_in_pixels(tmp_path, names):
    imgname = np.array([f"rgb/{seed:08d}.jpg" for seed in range(4)]).astype("S" if names is bytes else names)
    source = hamer_tars.load(tree.write_npz(tmp_path / "freihand_val.npz", imgname=imgname), "test", variant="npz")
    assert len(source) == 4
    for seed in range(4):
        name = f"rgb/{seed:08d}.jpg#{seed}"
        check(source.read_annotation(seed), seed, name)
        check(source[seed], seed, name)
        assert layouts.joints_shown(source[seed].image, tree.pixels(seed)) == list(range(21))
    assert source.encoded(2) == (tree.image(2), None)


def test_npz_with_less(tmp_path):
    """No `right`, one number for both sides, no 3D and no MANO, as in HInt's files; and 3D without known pixels."""
    gone = dict.fromkeys(("right", "hand_keypoints_3d", "hand_pose", "has_hand_pose", "betas", "has_betas"))
    file = tree.write_npz(tmp_path / "TEST_newdays_img_vis.npz", scale=np.full(4, 120.0), extra_info=None, **gone)
    record = hamer_tars.load(file, "test", variant="npz").read_annotation(2)
    assert record.hand == "right" and record.mano_pose is None and record.mano_shape is None
    assert not record.joint_valid.any() and record.joint_valid_2d.all()
    np.testing.assert_allclose(record.bbox[2:] - record.bbox[:2], 120, atol=1e-4)

    file = tree.write_npz(tmp_path / "a.npz", hand_keypoints_2d=np.zeros((4, 21, 3)))
    record = hamer_tars.load(file, "test", variant="npz").read_annotation(1)
    assert record.joint_valid.all() and not record.joint_valid_2d.any()
    points = project(record.keypoints_3d, record.K)
    assert abs(points - tree.pixels(1)).max() < 3  # the box determines it nearly as well
    extent, side = (np.ptp(x[:, :2], axis=0).max() for x in (tree.joints(1), tree.pixels(1)))
    np.testing.assert_allclose(record.keypoints_3d[0, 2], 4375 * extent / side, rtol=1e-5)
    from_wrist = tree.joints(1) - tree.joints(1)[0]
    np.testing.assert_allclose(record.keypoints_3d - record.keypoints_3d[0], from_wrist, atol=1e-2)


def test_mistakes_in_npz_are_named(tmp_path):
    for arrays, match in (
        ({"scale": np.full((4, 2), 0.4)}, "the median of scale is 0.4; it must be in pixels"),
        ({"imgname": None}, "has no key 'imgname', only center, scale"),
        ({"right": np.ones(3)}, "right must have 4 rows of numbers"),
        ({"betas": np.array([{}] * 4, object)}, "betas must have 4 rows of numbers"),
        ({"hand_keypoints_3d": np.ones((4, 21, 3))}, "an array has the wrong shape"),
    ):
        with pytest.raises(UserError, match=f"a.npz: {match}"):
            hamer_tars.load(tree.write_npz(tmp_path / "a.npz", **arrays), "test", variant="npz")
    file = tree.write_npz(tmp_path / "a.npz")
    source = hamer_tars.load(file, "test", variant="npz")
    (tmp_path / "rgb/00000001.jpg").unlink()
    with pytest.raises(UserError, match="rgb/00000001.jpg does not exist"):
        source[1]
    with pytest.raises(UserError, match="rgb/00000001.jpg does not exist"):
        source.read_annotation(1)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(UserError, match="a.npz: damaged or incomplete .npz file"):
        hamer_tars.load(file, "test", variant="npz")
    with pytest.raises(UserError, match="b.npz: cannot be read"):
        hamer_tars.load(tmp_path / "b.npz", "test", variant="npz")


def test_scale_must_be_in_pixels(tmp_path):
    """Below 10 px in the median, it is HaMeR's unit of the training tars."""
    for scale, good in ((9.9, False), (10.0, True)):
        file = tree.write_npz(tmp_path / "a.npz", scale=np.array([[scale] * 2] * 3 + [[500.0] * 2]))
        if good:
            assert len(hamer_tars.load(file, "test", variant="npz")) == 4
        else:
            with pytest.raises(UserError, match="the median of scale is 9.9"):
                hamer_tars.load(file, "test", variant="npz")
    assert hamer_npz.BOX_UNIT == 200


def test_parts_of_a_file(tmp_path):
    """Any split is read from any file; val is a part of the hands, which training leaves out."""
    file = tree.write_npz(tmp_path / "a.npz")
    parts = {split: hamer_npz.load(file, split, without_val=True) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 3, "val": 1, "test": 4}
    images = hamer_npz.load(file, "test", images=tmp_path / "elsewhere")
    assert images.file(1) == tmp_path / "elsewhere" / "rgb/00000001.jpg"
    assert parts["test"].file(1) == tmp_path / "rgb/00000001.jpg"


def test_labels_that_are_switched_off(tmp_path):
    off, left = np.array([1.0, 0, 1, 1]), np.array([1.0, 0, 1, 0])
    source = hamer_npz.load(tree.write_npz(tmp_path / "a.npz", has_hand_pose=off, right=left), "test")
    records = [source.read_annotation(i) for i in range(4)]
    assert [record.mano_pose is None for record in records] == [False, True, False, False]
    assert all(record.mano_shape is not None for record in records)
    assert [record.hand for record in records] == ["right", "left", "right", "left"]


def test_impossible_hands_are_found_by_reason():
    center, scale = np.full((5, 2), 50.0), np.full((5, 2), 80.0)
    center[0, 1], scale[1, 0], scale[2, 1], scale[3] = np.nan, np.inf, 0, (80, -1)
    wrong_bones = np.array([True, False, False, False, True])
    no_box, bones = hamer_npz.hand_reasons(center, scale, wrong_bones).values()
    assert no_box.tolist() == [True, True, True, True, False] and bones.tolist() == [False] * 4 + [True]


def test_bones_are_judged_only_if_complete():
    """In millimetres, they are a thousand times too long; a hand with a missing joint or all 0 is not judged."""
    metres = np.column_stack([tree.joints(0) / 1000, np.ones(21)])
    hands = np.stack([metres, *[metres * [1000, 1000, 1000, 1]] * 4])
    hands[2, 7, 3], hands[3, 5, 0], hands[4, :, :3] = 0, np.nan, 0
    assert hamer_npz.bones_are_wrong(hands).tolist() == [False, True, False, False, False]


def placed(labelled: int, joints=None, pixels=None):
    """The hand of the layout, of whose pixels some are labelled."""
    joints, pixels = tree.joints(1) if joints is None else joints, tree.pixels(1) if pixels is None else pixels
    low, high = pixels.min(0), pixels.max(0)
    mask = np.arange(21) < labelled
    return hamer_npz._placed(joints + [9, -8, 7], pixels, mask, tree.K(), (low + high) / 2, high - low)


def test_a_hand_is_placed_by_its_pixels_or_by_its_box():
    np.testing.assert_allclose(placed(21), tree.joints(1), atol=1e-6)
    np.testing.assert_allclose(placed(4), tree.joints(1), atol=1e-6)
    by_box = placed(3)  # too few pixels
    extent, side = (np.ptp(x[:, :2], axis=0).max() for x in (tree.joints(1), tree.pixels(1)))
    np.testing.assert_allclose(by_box[0, 2], 4375 * extent / side)
    np.testing.assert_allclose(by_box - by_box[0], tree.joints(1) - tree.joints(1)[0], atol=1e-9)
    middle = by_box[0] + [*((by_box[:, :2].min(0) + by_box[:, :2].max(0)) / 2 - by_box[0, :2]), 0]
    points = tree.pixels(1)
    np.testing.assert_allclose(project(middle[None], tree.K())[0], (points.min(0) + points.max(0)) / 2)
    mirrored = tree.K()[:2, 2] - (tree.pixels(1) - tree.K()[:2, 2])  # as if the hand were behind the camera
    np.testing.assert_allclose(placed(21, pixels=mirrored)[0, 2], by_box[0, 2])
    assert placed(0, joints=np.zeros((21, 3)))[0, 2] == pytest.approx(4375 / side)  # of no extent: 1 mm
