"""HO-3D: OpenGL frame, joint order, packed depth, frames without labels, the evaluation before and after release."""

import pickle
import shutil

import cv2
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.crop import crop
from jaxhand.data.datasets import ho3d
from jaxhand.data.datasets.base import ManoLabels
from jaxhand.hand.camera import project
from tests.support import layouts
from tests.support import layouts_ho3d as layout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layout.write(tmp_path_factory.mktemp("ho3d"))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return layout.write(tmp_path_factory.mktemp("released"), version=2, frames=2, released=True)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "HO3D_v3")


def names(source):
    return [source.read_annotation(i).name for i in range(len(source))]


def frame_of(record):
    _, sequence, _, file = record.name.split("/")
    return sequence, int(file[:4])


def test_records_are_in_our_frame_units_and_order(folder):
    source = ho3d.load(folder, "train")
    for i in range(len(source)):
        record = source[i]
        frame = frame_of(record)
        np.testing.assert_allclose(record.keypoints_3d, layout.joints(*frame), atol=1e-3)
        np.testing.assert_allclose(record.K, layout.CAMERA, rtol=1e-6)
        assert (record.keypoints_3d[:, 2] > 0).all() and record.joint_valid.all() and record.hand == "right"
        assert record.bbox is None  # the training pickles have none: the crop takes the joints
        shown = project(record.keypoints_3d, record.K)
        assert layouts.joints_shown(record.image, shown) == list(range(21))
    assert crop(source[0], 64, 1.4)["has_depth"] == 1


def test_joint_4_of_the_set_is_the_middle_knuckle(folder):
    content = pickle.loads((folder / "train/MC1/meta/0002.pkl").read_bytes())
    source = ho3d.load(folder, "train")
    record = source.read_annotation(names(source).index("train/MC1/rgb/0002.jpg"))
    np.testing.assert_allclose(record.keypoints_3d[9], content["handJoints3D"][4] * (1000, -1000, -1000), atol=1e-3)


def test_depth_is_millimetres(folder):
    """The low byte is red: as 8-bit numbers, high * 256 overflows."""
    source = ho3d.load(folder, "train")
    record = source[0]
    steps = layout.depth(*frame_of(record))
    assert record.depth.dtype == np.float32 and record.depth.shape == (480, 640)
    np.testing.assert_allclose(record.depth, steps * layout.DEPTH_SCALE * 1000, rtol=1e-6)
    assert not record.depth[:20].any() and record.depth.max() > 3700
    x, y = project(record.keypoints_3d, record.K).round().astype(int).T
    np.testing.assert_allclose(record.depth[y, x], record.keypoints_3d[:, 2], atol=0.07)


def test_depth_can_be_left_out(folder, copy):
    assert ho3d.load(folder, "train", depth=False)[0].depth is None
    (copy / "train/ABF10/depth/0000.png").write_bytes(b"")
    with pytest.raises(UserError, match="ABF10/depth/0000.png: not a complete depth image"):
        ho3d.load(copy, "train")[0]
    (copy / "train/ABF10/depth/0000.png").unlink()
    with pytest.raises(UserError, match="ABF10/depth/0000.png: no such file"):
        ho3d.load(copy, "train")[0]
    shutil.rmtree(copy / "train/ABF10/depth")
    assert ho3d.load(copy, "train")[0].depth is None


def test_frames_without_labels_are_left_out(folder):
    listed = [f"train/{sequence}/rgb/{frame:04d}.jpg" for sequence in layout.TRAIN for frame in range(3)]
    listed.remove("train/ABF10/rgb/0001.jpg")
    assert names(ho3d.load(folder, "train")) == listed


def test_a_frame_with_a_camera_but_no_hand_is_left_out_too(copy):
    change(copy / "train/MC1/meta/0002.pkl", handJoints3D=None)
    (copy / "train/MC1/meta/0009.pkl").write_bytes(b"")  # a folder that changes is read again
    source = ho3d.load(copy, "train")
    assert len(source) == 10 and "train/MC1/rgb/0002.jpg" not in names(source)


def test_version_2_has_png(released):
    source = ho3d.load(released, "train")
    assert names(source)[0] == "train/ABF10/rgb/0000.png"
    record = source[0]
    assert layouts.joints_shown(record.image, project(record.keypoints_3d, record.K)) == list(range(21))


def test_the_pose_turns_with_its_hand(folder):
    source = ho3d.load(folder, "train")
    for i in range(len(source)):
        record = source.read_annotation(i)
        stored = layout.pose(*frame_of(record))
        turned = cv2.Rodrigues(record.mano_pose[:3].astype(float))[0]
        np.testing.assert_allclose(turned, np.diag([1, -1, -1]) @ cv2.Rodrigues(stored[:3])[0], atol=1e-6)
        np.testing.assert_allclose(record.mano_pose[3:], stored[3:], rtol=1e-6)  # relative to the palm
        np.testing.assert_array_equal(record.mano_shape, np.arange(10))


def test_the_evaluation_has_only_a_wrist_and_a_box(folder):
    source = ho3d.load(folder, "test")
    assert names(source) == [f"evaluation/{s}/rgb/{f:04d}.jpg" for f in (2, 1, 0) for s in ("SM1", "AP10")]
    for i in range(len(source)):
        record = source.read_annotation(i)
        frame = frame_of(record)
        np.testing.assert_array_equal(record.joint_valid, [1] + [0] * 20)
        np.testing.assert_allclose(record.keypoints_3d[0], layout.joints(*frame)[0], atol=1e-3)
        assert not record.keypoints_3d[1:].any() and record.mano_pose is None and record.vertices is None
        np.testing.assert_array_equal(record.bbox, layout.box(*frame))
    assert crop(source[0], 64, 1.4)["joint_valid"].sum() == 1


def test_the_evaluation_with_its_labels(released):
    source = ho3d.load(released, "test", mano=ManoLabels(vertices=True))
    assert ho3d.load(released, "test")[0].vertices is None
    for i in range(len(source)):
        record = source[i]
        frame = frame_of(record)
        np.testing.assert_allclose(record.keypoints_3d, layout.joints(*frame), atol=1e-3)
        np.testing.assert_allclose(record.vertices, layout.vertices(*frame), atol=1e-3)
        np.testing.assert_array_equal(record.bbox, layout.box(*frame))
        assert record.joint_valid.all()
        assert layouts.joints_shown(record.image, project(record.keypoints_3d, record.K)) == list(range(21))


def test_all_cameras_of_a_sequence_are_held_out_together(folder):
    val, train = ho3d.load(folder, "val"), ho3d.load(folder, "train", without_val=True)
    groups = [{name.split("/")[1][:-1] for name in names(source)} for source in (val, train)]
    assert len(groups[0]) == 1 and not groups[0] & groups[1] and groups[0] | groups[1] == {"ABF1", "MC"}
    assert sorted(names(val) + names(train)) == sorted(names(ho3d.load(folder, "train")))


def test_label_is_the_record_without_image(folder):
    source = ho3d.load(folder, "train")
    record, label = source[4], source.read_annotation(4)
    assert label.image is None and label.depth is None and label.name == record.name
    np.testing.assert_array_equal(label.keypoints_3d, record.keypoints_3d)
    assert source.encoded(4) == ((folder / record.name).read_bytes(), None)
    with pytest.raises(IndexError):
        source.read_annotation(len(source))


def change(file, **fields):
    file.write_bytes(pickle.dumps(pickle.loads(file.read_bytes()) | fields, protocol=2))


JOINTS = layout.labels("train", "MC1", 0)["handJoints3D"]
MISTAKES = {
    "MC1/meta/0000.pkl: handJoints3D must be 21x3 numbers": {"handJoints3D": JOINTS[:20]},
    "MC1/meta/0000.pkl: camMat must be 3x3 numbers": {"camMat": "lost"},
    "MC1/meta/0000.pkl: handJoints3D must have z < 0 .*, but the wrist has z > 0": {"handJoints3D": -JOINTS},
    "MC1/meta/0000.pkl: handPose must be 48 numbers": {"handPose": np.zeros(45)},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_a_pickle_is_named(copy, message):
    change(copy / "train/MC1/meta/0000.pkl", **MISTAKES[message])
    with pytest.raises(UserError, match=message):
        ho3d.load(copy, "train")


def test_files_that_are_damaged_or_not_there(copy, tmp_path):
    with pytest.raises(UserError, match="none: no such folder"):
        ho3d.load(tmp_path / "none", "train")
    with pytest.raises(UserError, match="ho3d-v2: unknown"):
        ho3d.load(copy, "train", variant="v2")
    source = ho3d.load(copy, "train")
    (copy / "train/ABF10/rgb/0000.jpg").unlink()
    for one in (source, ho3d.load(copy, "train")):
        with pytest.raises(UserError, match="train/ABF10/rgb/0000.jpg does not exist"):
            one[0]
    (copy / "train/MC2/meta/0001.pkl").unlink()
    (copy / "train/MC2/meta/0002.pkl").unlink()
    with pytest.raises(UserError, match="train/MC2/meta/0001.pkl: 2 of 12 files are missing"):
        ho3d.load(copy, "train")
    shutil.rmtree(copy / "train/MC2")
    with pytest.raises(UserError, match="train/MC2/meta: no such file or directory"):
        ho3d.load(copy, "train")
    (copy / "train.txt").write_text("ABF10/0000\nABF10\n")
    with pytest.raises(UserError, match="train.txt: entry 2 must look like ABF10/0000, got 'ABF10'"):
        ho3d.load(copy, "train")
    (copy / "train.txt").write_text("\n")
    with pytest.raises(UserError, match="train.txt: empty"):
        ho3d.load(copy, "train")
    (copy / "train.txt").write_text("ABF10/0000\r\n")
    assert len(ho3d.load(copy, "train")) == 1
    with pytest.raises(UserError, match="only one sequence, so no split val can be made"):
        ho3d.load(copy, "val")
    (copy / "train/ABF10/meta/0000.pkl").write_bytes((copy / "train/ABF10/meta/0002.pkl").read_bytes()[:200])
    (copy / "train/ABF10/meta/0009.pkl").write_bytes(b"")  # a folder that changes is read again
    with pytest.raises(UserError, match="ABF10/meta/0000.pkl: damaged or incomplete pickle"):
        ho3d.load(copy, "train")


def test_labels_of_another_evaluation(released, tmp_path):
    copy = shutil.copytree(released, tmp_path / "HO3D_v2")
    text = (copy / "evaluation_xyz.json").read_text()
    lines = (copy / "evaluation.txt").read_text().splitlines()
    (copy / "evaluation.txt").write_text("\n".join(reversed(lines)))
    with pytest.raises(UserError, match="evaluation_xyz.json: its wrists are .* mm from those in evaluation"):
        ho3d.load(copy, "test")
    (copy / "evaluation.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match="evaluation_xyz.json: 4 entries, but evaluation.txt has 3"):
        ho3d.load(copy, "test")
    (copy / "evaluation.txt").write_text("\n".join(lines))
    (copy / "evaluation_xyz.json").write_text(text.replace("-", ""))
    with pytest.raises(UserError, match="its wrists are"):
        ho3d.load(copy, "test")
    (copy / "evaluation_xyz.json").unlink()
    change(copy / "evaluation/SM1/meta/0000.pkl", camMat=None)
    (copy / "evaluation/SM1/meta/0009.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="evaluation: frame SM1/0000 has no camMat"):
        ho3d.load(copy, "test")
