"""HaMeR's tars and evaluation files: units, filters, random access, hands with 2D labels only, hostile pickles."""

import os
import pickle

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.datasets import hamer_tars
from jaxhand.hand.camera import project
from tests.support import layouts
from tests.support import layouts_hamer as tree


def one(folder, *hands, content=None, name="000000.tar"):
    """A tar of one sample."""
    content = tree.image(0) if content is None else content
    tree.write_tar(folder / name, [("rgb/a.b/00000000", content, list(hands))])
    return folder


def check(record, seed, name):
    """A hand of the layout, moved so that K projects it to its pixels."""
    np.testing.assert_allclose(record.keypoints_2d, tree.pixels(seed), atol=1e-3)
    np.testing.assert_allclose(record.K, tree.K())
    np.testing.assert_allclose(record.keypoints_3d, tree.joints(seed), atol=0.5)
    np.testing.assert_allclose(np.ptp(record.keypoints_3d, 0), np.ptp(tree.joints(seed), 0), atol=1e-2)
    np.testing.assert_allclose(project(record.keypoints_3d, record.K), record.keypoints_2d, atol=0.05)
    points = tree.pixels(seed)
    np.testing.assert_allclose(record.bbox, [*points.min(0), *points.max(0)], atol=1e-3)
    assert record.joint_valid.all() and record.joint_valid_2d.all() and record.name == name
    assert record.hand == ("right" if tree.is_right(seed) else "left")
    np.testing.assert_array_equal(record.mano_pose, tree.hand(seed)["hand_pose"])
    np.testing.assert_array_equal(record.mano_shape, tree.hand(seed)["betas"])


def test_any_record_of_a_tar_can_be_read(tmp_path):
    source = hamer_tars.load(tree.write_tars(tmp_path), "train")
    assert len(source) == 8
    for i in (5, 0, 7, 2, -1):
        seed = i % 8
        name = f"{seed // 4:06d}.tar/rgb/{seed:08d}.jpg#0"
        check(source.read_annotation(i), seed, name)
        check(source[i], seed, name)
        assert source.read_annotation(i).image is None and source.encoded(i) == (tree.image(seed), None)
        assert layouts.joints_shown(source[i].image, tree.pixels(seed)) == list(range(21))
    with pytest.raises(IndexError):
        source.read_annotation(8)


def test_two_hands_of_an_image_and_other_kinds_of_images(tmp_path):
    png = tree.image(0, 2, ending="png")
    source = hamer_tars.load(one(tmp_path, tree.hand(0), tree.hand(2), content=png), "train")
    assert [source.read_annotation(i).hand for i in range(2)] == ["right", "left"]
    assert [source.read_annotation(i).name for i in range(2)] == [
        f"000000.tar/rgb/a.b/00000000.png#{i}" for i in range(2)
    ]
    assert source[1].image.shape == (160, 224, 3)


def test_hands_with_2d_labels_only(tmp_path):
    record = hamer_tars.load(one(tmp_path, tree.flat(1)), "train").read_annotation(0)
    assert not record.joint_valid.any() and not record.keypoints_3d.any() and record.joint_valid_2d.all()
    assert record.mano_pose is None and record.mano_shape is None
    some = tree.hand(1)["keypoints_3d"].copy()
    some[[3, 20], 3] = 0
    some[20] = np.nan
    record = hamer_tars.load(one(tmp_path / "a", tree.hand(1, keypoints_3d=some)), "train").read_annotation(0)
    assert np.flatnonzero(record.joint_valid == 0).tolist() == [3, 20] and not record.keypoints_3d[[3, 20]].any()
    np.testing.assert_allclose(record.keypoints_3d[4], tree.joints(1)[4], atol=0.5)
    claims = tree.hand(1, keypoints_3d=np.tile(np.float32([0, 0, 0, 1]), (21, 1)))  # confident zeros
    record = hamer_tars.load(one(tmp_path / "b", claims), "train").read_annotation(0)
    assert not record.joint_valid.any()


def confidences(*values):
    points = tree.hand(0)["keypoints_2d"].copy()
    points[:, 2] = [*values, *[0] * (21 - len(values))]
    return points


def test_filters_are_hamers_own(tmp_path):
    """For each hand: whether it is left out, and which labels count; each filter can be set."""
    loss = lambda value: {"fitting_loss": np.array({"reprojection_loss": np.float32(value)})}  # noqa: E731
    big = np.full(10, 0.5, np.float32)
    big[3] = -3.5
    hands = [
        tree.hand(0, keypoints_2d=confidences(1, 0.3, 0.31, 0.5, 0.9, 0.29)),  # five count
        tree.hand(0, keypoints_2d=confidences(1, 1, 1, 1, 0.29, 0.29)),  # four count
        tree.hand(0, extra_info=loss(30999)),
        tree.hand(0, extra_info=loss(31000)),
        tree.hand(0, extra_info={}),
        tree.hand(0, betas=big),
        tree.hand(0, has_betas=0.0),
        tree.hand(0, has_hand_pose=np.array(0.0)),
    ]

    def read(**filters):
        source = hamer_tars.load(one(tmp_path, *hands), "train", **filters)
        records = [source.read_annotation(i) for i in range(len(source))]
        return {int(r.name[-1]): (r.mano_pose is not None, r.mano_shape is not None) for r in records}, records

    found, records = read()
    assert found == {0: (True, True), 2: (True, True), 4: (True, True)} | dict.fromkeys((5, 6, 7), (False, False))
    assert np.flatnonzero(records[0].joint_valid_2d).tolist() == [0, 1, 2, 3, 4] and records[0].joint_valid.all()
    assert set(read(least_keypoints=4)[0]) == {0, 1, 2, 4, 5, 6, 7}
    assert set(read(least_confidence=0.0)[0]) == {0, 1, 2, 4, 5, 6, 7}
    assert set(read(most_reprojection_loss=40000)[0]) == {0, 2, 3, 4, 5, 6, 7}
    assert read(most_beta=4)[0][5] == (True, True)
    apart = read(pose_and_shape_together=False)[0]
    assert [apart[i] for i in (5, 6, 7)] == [(True, False), (True, False), (False, True)]
    zeros = read(zero_shape=True)[1]
    assert not zeros[3].mano_shape.any() and zeros[3].mano_pose is None and zeros[0].mano_shape.any()
    with pytest.raises(UserError, match="all hands of train are removed by the filters"):
        read(least_keypoints=22)


def test_val_is_held_out_by_blocks(tmp_path):
    tree.write_tars(tmp_path, 3, 4)
    parts = [hamer_tars.load(tmp_path, split, without_val=True) for split in ("train", "val")]
    names = [{part.read_annotation(i).name for i in range(len(part))} for part in parts]
    assert len(names[1]) == 1 and len(names[0]) == 11 and not names[0] & names[1]


def test_hostile_pickles_are_refused_by_name(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    tree.write_tar(tmp_path / "000000.tar", [("a", tree.image(0), [tree.hand(0)]), ("b", tree.image(0), [Runs()])])
    with pytest.raises(UserError, match=r"000000\.tar: b\.data\.pyd: refers to posix\.system: refused"):
        hamer_tars.load(tmp_path, "train")
    arrays = {"extra_info": np.array([Runs()], object)}
    file = tree.write_npz(tmp_path / "a.npz", 1, **arrays)
    with pytest.raises(UserError, match=r"a\.npz: extra_info\.npy: refers to posix\.system: refused"):
        hamer_tars.load(file, "test", variant="npz")
    assert not (tmp_path / "ran").exists()


def test_cut_off_tars_are_named(tmp_path):
    """Cut at every kind of position: in a member, in a header, between members, in the zeros at the end."""
    whole = tree.write_tars(tmp_path, 1, 3).joinpath("000000.tar").read_bytes()
    size = len(whole.rstrip(b"\0"))
    size += -size % 512  # of the members alone
    second = whole.index(b"rgb/00000001.jpg")
    for end in (0, 100, 700, second - 1, second, second + 512, size - 600, size):
        (tmp_path / "000000.tar").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"000000\.tar: (cut off|contains no)"):
            hamer_tars.load(tmp_path, "train")
    damaged = bytearray(whole)
    damaged[second : second + 512] = b"x" * 512
    (tmp_path / "000000.tar").write_bytes(damaged)
    with pytest.raises(UserError, match=r"000000\.tar: cut off or damaged after 1 samples"):
        hamer_tars.load(tmp_path, "train")


def test_mistakes_in_tars_are_named(tmp_path):
    for path, split, match in (
        (tmp_path / "none", "train", "none: no such folder"),
        (tmp_path, "train", "contains no tar; give the folder with 000000.tar"),
        (tmp_path, "test", "hamer, test: unknown; use hamer for train or val, hamer-npz for test"),
    ):
        with pytest.raises(UserError, match=match):
            hamer_tars.load(path, split)
    tree.write_tars(tmp_path / "freihand-train", 1, 1)
    with pytest.raises(UserError, match="contains no tar; give one of its folders: freihand-train"):
        hamer_tars.load(tmp_path, "train")

    points, joints = tree.hand(0)["keypoints_2d"], tree.hand(0)["keypoints_3d"]
    for number, (hands, content, match) in enumerate((
        ([tree.hand(0, scale=np.array([80.0, 90.0]))], None, "scale must be pixels / 200, but its median is 85"),
        ([tree.hand(0, keypoints_3d=joints * [1000, 1000, 1000, 1])], None, "keypoints_3d must be in metres"),
        ([tree.hand(0, keypoints_3d=joints * [8, 8, 8, 1])], None, "keypoints_3d must be in metres, but hands are 1"),
        ([tree.hand(0, keypoints_2d=points[:20])], None, "a.b/00000000.data.pyd: hand 0 is malformed"),
        ([tree.hand(0), {"right": 1}], None, "a.b/00000000.data.pyd: hand 1 is malformed"),
        ([tree.hand(0)], b"GIF89a", "a.b/00000000.jpg is no JPEG or PNG"),
        ([], None, "contains no hand"),
        (pickle.dumps({"right": 1}), None, "must be a list of hands, got dict"),
        (pickle.dumps([1])[:-3], None, "a.b/00000000.data.pyd: damaged or incomplete pickle"),
    )):  # fmt: skip
        content = tree.image(0) if content is None else content
        tree.write_tar(tmp_path / f"{number}/000000.tar", [("rgb/a.b/00000000", content, hands)])
        with pytest.raises(UserError, match=rf"{number}/000000\.tar: .*{match}"):
            hamer_tars.load(tmp_path / f"{number}", "train")

    cut = tree.image(0)[:700]
    with pytest.raises(UserError, match=r"000000\.tar/rgb/a\.b/00000000\.jpg#0 is not an image or is cut off"):
        hamer_tars.load(one(tmp_path / "cut", tree.hand(0), content=cut), "train")[0]
