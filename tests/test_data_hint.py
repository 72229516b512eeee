"""HInt: hands labelled in 2D only, hidden joints, boxes whose form is detected, and Ego4D's missing frames."""

import json

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.crop import crop
from jaxhand.data.datasets import hint
from tests.support import layouts
from tests.support import layouts_hint as tree


@pytest.mark.parametrize("corners", [True, False])
def test_records_have_2d_labels_only(tmp_path, corners):
    source = hint.load(tree.write(tmp_path, corners=corners), "test")
    assert len(source) == 12
    for i, (home, seed, side) in enumerate((h, n, s) for h in ("newdays", "epick") for n in range(3) for s in "lr"):
        record = source[i]
        assert record.name == f"TEST_{home}_img/clip_{seed}_{side}.jpg"
        assert record.hand == {"r": "right", "l": "left"}[side]
        np.testing.assert_allclose(record.keypoints_2d, tree.keypoints(seed, side), atol=1e-4)
        np.testing.assert_allclose(record.bbox, tree.bbox(seed, side), atol=1e-4)
        assert record.joint_valid_2d.all() and not record.joint_valid.any() and not record.keypoints_3d.any()
        focal = 5000 / 256 * 320
        np.testing.assert_allclose(record.K, [[focal, 0, 160], [0, focal, 120], [0, 0, 1]])
        assert layouts.joints_shown(record.image, record.keypoints_2d) == list(range(21))
        label = source.read_annotation(i)
        assert label.image is None and label.name == record.name
        np.testing.assert_array_equal(label.K, record.K)
    assert source.encoded(0)[0] == (tmp_path / source.read_annotation(0).name).read_bytes()


@pytest.mark.parametrize("corners", [True, False])
def test_one_wrong_box_does_not_decide_the_form_of_all(corners):
    keypoints = np.random.default_rng(0).uniform(100, 160, (5, 21, 2))
    tight = np.concatenate([keypoints.min(1), keypoints.max(1)], -1)
    boxes = tight if corners else np.concatenate([tight[:, :2], tight[:, 2:] - tight[:, :2]], -1)
    boxes[3] = [0, 0, 60, 60] if corners else [100, 100, 5000, 5000]  # fits the other form, or none
    read = hint._corners(boxes, keypoints)
    np.testing.assert_allclose(np.delete(read, 3, 0), np.delete(tight, 3, 0))


def test_crops_keep_the_2d_labels(tmp_path):
    """A left hand becomes a right one, with its keypoints at the dots."""
    source = hint.load(tree.write(tmp_path), "test")
    for i in range(2):
        cut = crop(source[i], 256, 1.4)
        assert cut["joint_valid_2d"].all() and not cut["joint_valid"].any()
        shown = layouts.joints_shown(cut["image"], cut["keypoints_2d"])
        assert np.mean(np.array(shown) == np.arange(21)) > 0.9


@pytest.mark.parametrize("joints", ["all", "visible", "occluded"])
def test_which_joints_count(tmp_path, joints):
    source = hint.load(tree.write(tmp_path), "test", joints=joints)
    for i in range(6):
        hidden = tree.occluded(i // 2)
        wanted = {"all": np.ones(21), "visible": 1 - hidden, "occluded": hidden}[joints]
        np.testing.assert_array_equal(source.read_annotation(i).joint_valid_2d, wanted)


def test_splits_and_sources(tmp_path):
    homes = [f"{split}_{source}_img" for split in ("TRAIN", "VAL", "TEST") for source in ("newdays", "epick", "ego4d")]
    tree.write(tmp_path, homes, 1)
    tree.write(tmp_path, ["VAL_ego4d_seq", "TEST_ego4d_seq"], 2)
    assert [len(hint.load(tmp_path, split)) for split in ("train", "val", "test")] == [6, 6, 6]
    assert len(hint.load(tmp_path, "val", variant="ego4d_seq")) == 4
    source = hint.load(tmp_path, "train", variant="epick")
    assert [source.read_annotation(i).name for i in range(len(source))] == [
        f"TRAIN_epick_img/clip_0_{side}.jpg" for side in "lr"
    ]


def test_mistakes_are_named(tmp_path):
    for arguments, match in (
        ({"split": "test"}, "contains none of TEST_newdays_img, TEST_epick_img, TEST_ego4d_img; give"),
        ({"split": "test", "variant": "ego5d"}, "hint-ego5d: unknown; the sources are newdays"),
        ({"split": "dev"}, "hint, dev, all: unknown"),
        ({"split": "test", "joints": "vis"}, "hint, test, vis: unknown"),
    ):
        with pytest.raises(UserError, match=match):
            hint.load(tmp_path, **arguments)
    (tmp_path / "TEST_ego4d_img").mkdir()
    with pytest.raises(UserError, match="TEST_ego4d_img: contains no .json file"):
        hint.load(tmp_path, "test")
    tree.write(tmp_path, ["TEST_ego4d_img"])
    source = hint.load(tmp_path, "test")
    (tmp_path / source.read_annotation(0).name).unlink()
    with pytest.raises(UserError, match=r"clip_0_l\.jpg does not exist"):
        source[0]
    with pytest.raises(UserError, match=r"clip_0_l\.jpg does not exist"):
        source.read_annotation(0)

    whole = json.loads((tmp_path / "TEST_ego4d_img/clip_1_r.json").read_text())[0]
    for number, (content, match) in enumerate((
        ([], "not labels of one hand"),
        ([whole, whole], "not labels of one hand"),
        ([whole | {"keypoints": whole["keypoints"][:20]}], "not labels of one hand"),
        ([{key: whole[key] for key in ("bbox", "keypoints")}], "not labels of one hand .KeyError..occlusion"),
        ([whole | {"bbox": [[0, 0, 1, None]]}], "bbox or keypoints are not finite"),
    )):  # fmt: skip
        file = tmp_path / f"TEST_ego4d_img/a{number}_r.json"
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match=f"a{number}_r.json: {match}"):
            hint.load(tmp_path, "test")
        file.unlink()
    (tmp_path / "TEST_ego4d_img/b.json").write_text("[]")
    with pytest.raises(UserError, match="b.json: the name must end in _r or _l"):
        hint.load(tmp_path, "test")
