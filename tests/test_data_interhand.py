"""InterHand2.6M: from world to camera, two hands of an image, which joints count, MANO's rotation; real images."""

import json
import shutil

import cv2
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.datasets import interhand
from jaxhand.data.datasets.base import ManoLabels
from jaxhand.hand.camera import project
from jaxhand.hand.skeleton import BONES
from tests.support import layouts
from tests.support import layouts_interhand as tree

MEAN = np.random.default_rng(0).normal(0, 0.3, (2, 45))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tree.write(tmp_path_factory.mktemp("interhand"))


def wanted():
    """(capture, frame, camera, side) of every record."""
    images = [(c, f, camera) for c in tree.CAPTURES for f in range(3) for camera in tree.CAMERAS]
    return [(c, f, camera, side) for c, f, camera in images for side in tree.hands(tree.KINDS[f])]


def test_hands_come_from_the_world_to_the_camera(root):
    source = interhand.load(root, "test")
    assert len(source) == len(wanted()) == 16
    for i, (capture, frame, camera, side) in enumerate(wanted()):
        record = source.read_annotation(i)
        np.testing.assert_allclose(record.keypoints_3d, tree.in_camera(capture, frame, camera, side), atol=1e-3)
        np.testing.assert_array_equal(record.K, tree.K(camera))
        name = f"images/test/Capture{capture}/ROM01_Fist/cam{camera}/image{frame:04d}.jpg"
        assert record.name == f"{name}#{side}" and record.hand == side and record.joint_valid.all()
        assert record.mano_pose is None and record.mano_shape is None


def test_two_hands_of_an_image_are_two_records(root):
    source = interhand.load(root, "test")
    for i, (_, frame, camera, _) in enumerate(wanted()):
        if camera == tree.CAMERAS[0]:  # it shows complete hands
            record = source[i]
            points = project(record.keypoints_3d, record.K)
            shown = layouts.joints_shown(record.image, points)
            assert np.mean(np.array(shown) == np.arange(21)) > 0.9  # the other hand may cover some
            if frame == 2:
                assert record.bbox is None  # the set's box contains both hands
            else:
                np.testing.assert_allclose(record.bbox, [*points.min(0), *points.max(0)], atol=0.01)
    assert source.encoded(0)[0] == (root / source.read_annotation(0).name.split("#")[0]).read_bytes()


def test_a_joint_counts_if_valid_in_image_and_frame_and_if_its_wrist_counts(tmp_path):
    """Image 4 is capture 0, frame 2, first camera, with both hands; frame 1 is a left hand in images 2 and 3."""
    hidden = [(4, 0), (4, 21 + 20), (0, 3)]  # thumb tip of the right hand, wrist of the left one; thumb 1 of image 0
    root = tree.write(tmp_path, images=False, hidden=hidden, unknown=[(0, 2, 16), (12, 1, 21 + 20)])
    source = interhand.load(root, "test")
    records = [source.read_annotation(i) for i in range(len(source))]
    first = records[0]
    assert np.flatnonzero(first.joint_valid == 0).tolist() == [1] and not first.keypoints_3d[1].any()
    of_image_4 = [r for r in records if "Capture0" in r.name and "400001/image0002" in r.name]
    assert [r.hand for r in of_image_4] == ["right"]  # without its wrist the left hand has no position
    assert np.flatnonzero(of_image_4[0].joint_valid == 0).tolist() == [4, 20]  # its thumb's tip; 16 of theirs
    of_image_5 = [r for r in records if "Capture0" in r.name and "400002/image0002" in r.name]
    assert [r.hand for r in of_image_5] == ["right", "left"]
    assert np.flatnonzero(of_image_5[0].joint_valid == 0).tolist() == [20] and of_image_5[1].joint_valid.all()
    assert not any("Capture12" in r.name and "image0001" in r.name for r in records)
    assert len(records) == 16 - 1 - 2


def test_poses_are_turned_to_the_camera_and_get_their_mean(root):
    source = interhand.load(root, "test", mano=ManoLabels(MEAN))
    for i, (capture, frame, camera, side) in enumerate(wanted()):
        record = source.read_annotation(i)
        if (side, frame) == ("right", 0):
            assert record.mano_pose is None and record.mano_shape is None
            continue
        mano = tree.mano(capture, frame, side)
        np.testing.assert_allclose(record.mano_pose[3:], mano["pose"][3:] + MEAN[int(side == "left")], atol=1e-5)
        np.testing.assert_allclose(record.mano_shape, mano["shape"], atol=1e-6)
        by_hand = tree.rotation(camera) @ cv2.Rodrigues(np.array(mano["pose"][:3]))[0]
        np.testing.assert_allclose(cv2.Rodrigues(record.mano_pose[:3].astype(float))[0], by_hand, atol=1e-5)
    right_only = interhand.load(root, "test", mano=ManoLabels(MEAN[0]))
    assert [right_only.read_annotation(i).mano_pose is not None for i in range(5)] == [False] * 4 + [True]


def test_mistakes_are_named(tmp_path, root):
    with pytest.raises(UserError, match="none: no such folder"):
        interhand.load(tmp_path / "none", "test")
    with pytest.raises(UserError, match="interhand, dev: unknown; use train, val or test"):
        interhand.load(root, "dev")
    with pytest.raises(UserError, match="train/InterHand2.6M_train_data.json: no such file"):
        interhand.load(root, "train")
    copy = shutil.copytree(root, tmp_path / "copy")
    record = interhand.load(copy, "test").read_annotation(0)
    (copy / record.name.split("#")[0]).unlink()
    with pytest.raises(UserError, match="Capture0/ROM01_Fist/cam400001/image0000.jpg does not exist"):
        interhand.load(copy, "test")[0]

    def edited(kind, edit):
        file = copy / f"annotations/test/InterHand2.6M_test_{kind}.json"
        whole = file.read_text()
        file.write_text(edit(whole) if kind != "joint_3d" else json.dumps(edit(json.loads(whole))))
        return file, whole

    def in_metres(content):
        for capture in content.values():
            for frame in capture.values():
                frame["world_coord"] = (np.array(frame["world_coord"]) / 1000 + [0, 0, 20]).tolist()
        return content

    version = "all files must be from one version"
    for kind, edit, match in (
        ("data", lambda text: text[: len(text) // 2], "_data.json: cut off or damaged after"),
        ("data", lambda text: text.replace('"camera": "400002"', '"camera": "41"', 1), f"'41'.*{version}"),
        ("data", lambda text: text.replace('"frame_idx": 2', '"frame_idx": 7', 1), f"'7'.*{version}"),
        ("data", lambda text: text.replace('"image_id": 501', '"image_id": 1'), "annotation 1 is malformed"),
        ("camera", lambda text: text[:-1], "_camera.json: not JSON or cut off"),
        ("camera", lambda text: text.replace('"focal"', '"f"', 1), "_camera.json: capture 0 is malformed"),
        ("joint_3d", lambda content: content | {"0": {"0": {}}}, "_joint_3d.json: frame 0 of .* malformed .KeyError"),
        ("joint_3d", in_metres, "_joint_3d.json: world_coord must be in mm, but hands are 0"),
        ("joint_3d", lambda content: [1], "_joint_3d.json: must be a JSON object"),
    ):
        file, whole = edited(kind, edit)
        with pytest.raises(UserError, match=match):
            interhand.load(copy, "test")
        file.write_text(whole)
    assert len(interhand.load(copy, "test")) == 16
    (copy / "annotations/test/InterHand2.6M_test_MANO_NeuralAnnot.json").unlink()
    with pytest.raises(UserError, match="MANO_NeuralAnnot.json: no such file"):
        interhand.load(copy, "test", mano=ManoLabels(MEAN))


def test_real_images(shared, tmp_path):
    """Four images, two of them with both hands: all joints lie in the box of the set, bones are a hand's."""
    real = shared / "real/interhand2.6m"
    (tmp_path / "images").mkdir()
    (tmp_path / "images/test").symlink_to(real)
    (tmp_path / "annotations/test").mkdir(parents=True)
    for kind in ("data", "camera", "joint_3d"):
        name = f"annotations/test/InterHand2.6M_test_{kind}.json"
        (tmp_path / name).write_text((real / f"test_interhand2.6m_{kind}.json").read_text())
    source = interhand.load(tmp_path, "test")
    names = [source.read_annotation(i).name.removeprefix("images/test/") for i in range(len(source))]
    assert names == [
        *("image69148.jpg#right", "image69148.jpg#left", "image44669.jpg#right", "image44669.jpg#left"),
        *("image29590.jpg#left", "image2017.jpg#right"),
    ]
    data = json.loads((real / "test_interhand2.6m_data.json").read_text())
    pairs = zip(data["images"], data["annotations"], strict=True)
    boxes = {image["file_name"]: annotation["bbox"] for image, annotation in pairs}
    for i, name in enumerate(names):
        record = source[i]
        assert record.image.shape[:2] in ((512, 334), (334, 512)) and record.joint_valid.all()
        x, y, width, height = boxes[name.split("#")[0]]
        points = project(record.keypoints_3d, record.K)
        assert (points > (x - 1, y - 1)).all() and (points < (x + width + 1, y + height + 1)).all()
        bones = np.array([np.linalg.norm(record.keypoints_3d[a] - record.keypoints_3d[b]) for a, b in BONES])
        assert (bones > 12).all() and (bones < 130).all() and bones[[4, 8, 12, 16]].min() > 60  # of the palm
