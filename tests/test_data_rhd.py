"""RHD: two hands per image, tips before bases, packed depth, and three real images."""

import json
import pickle
import shutil

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.crop import crop
from jaxhand.data.datasets import rhd
from jaxhand.hand.camera import project
from jaxhand.hand.skeleton import PARENTS
from tests.support import layouts
from tests.support import layouts_rhd as layout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layout.write(tmp_path_factory.mktemp("rhd"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "RHD_published_v2")


def names(source):
    return [source.read_annotation(i).name for i in range(len(source))]


@pytest.mark.parametrize(("split", "part"), [("train", "training"), ("test", "evaluation")])
def test_records_are_in_our_units_and_order(folder, split, part):
    source = rhd.load(folder, split)
    for i in range(len(source)):
        record = source[i]
        number = int(record.name.split("/")[-1][:5])
        np.testing.assert_allclose(record.keypoints_3d, layout.joints(part, number, record.hand), atol=1e-3)
        np.testing.assert_allclose(record.K, layout.camera(number))
        assert record.joint_valid.all()  # hidden joints are labelled too
        assert layouts.joints_shown(record.image, project(record.keypoints_3d, record.K)) == list(range(21))


def test_both_hands_of_an_image_are_records_if_they_are_seen(folder):
    images = [(0, "left"), (0, "right"), (1, "right"), (2, "left"), (2, "right"), (3, "left"), (3, "right")]
    source = rhd.load(folder, "train")
    assert names(source) == [f"training/color/{number:05d}.png#{hand}" for number, hand in images]
    assert [source.read_annotation(i).hand for i in range(len(source))] == [hand for _, hand in images]
    assert names(rhd.load(folder, "test"))[0] == "evaluation/color/00000.png#left"
    left, right = (crop(source[i], 64, 1.4) for i in (0, 1))
    assert (left["is_right"], right["is_right"]) == (0, 1)
    across = [sample["keypoints_3d"][1, 0] - sample["keypoints_3d"][17, 0] for sample in (left, right)]
    assert across[0] * across[1] > 0  # the mirrored left hand has its thumb on the same side


def test_depth_is_millimetres(folder):
    """The high byte is red; in HO-3D it is the low byte."""
    record = rhd.load(folder, "train")[0]
    np.testing.assert_allclose(record.depth, layout.depth("training", 0) * (5000 / 65535), rtol=1e-6)
    x, y = project(record.keypoints_3d, record.K).round().astype(int).T
    np.testing.assert_allclose(record.depth[y, x], record.keypoints_3d[:, 2], atol=0.05)
    assert record.depth.max() == pytest.approx(5000)


def test_depth_can_be_left_out(copy):
    assert rhd.load(copy, "train", depth=False)[0].depth is None
    layouts.write_image(copy / "training/depth/00000.png", np.zeros((320, 320), np.uint8))
    with pytest.raises(UserError, match="training/depth/00000.png: not a complete depth image .3 channels"):
        rhd.load(copy, "train")[0]
    shutil.rmtree(copy / "training/depth")
    assert rhd.load(copy, "train")[0].depth is None


def test_hands_of_one_image_are_held_out_together(folder):
    val, train = rhd.load(folder, "val"), rhd.load(folder, "train", without_val=True)
    images = [{name.partition("#")[0] for name in names(source)} for source in (val, train)]
    assert len(images[0]) == 1 and len(images[1]) == 3 and not images[0] & images[1]


def test_label_is_the_record_without_image(folder):
    source = rhd.load(folder, "train")
    record, label = source[2], source.read_annotation(2)
    assert label.image is None and label.depth is None and label.name == record.name
    np.testing.assert_array_equal(label.keypoints_3d, record.keypoints_3d)
    assert source.encoded(2) == ((folder / "training/color/00001.png").read_bytes(), None)
    with pytest.raises(IndexError):
        source.read_annotation(len(source))


ENTRY = layout.annotation("training", 0)
MISTAKES = {
    "every xyz must be 42x3 numbers": {0: ENTRY | {"xyz": ENTRY["xyz"][:21]}},
    "every uv_vis must be 42x3 numbers": {0: {key: ENTRY[key] for key in ("K", "xyz")}},
    "every K must be 3x3 numbers": {0: ENTRY, 1: ENTRY | {"K": np.full((3, 3), np.nan)}},
    "joints must be in metres.* median z is 5..\\.": {0: ENTRY | {"xyz": ENTRY["xyz"] * 1000}},
    "must be a dict": [ENTRY],
    "must be a dict: image number → annotation": {"00000": ENTRY},
    "damaged or incomplete pickle": b"\x80\x02}",
    "refers to os.system": b"cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named(tmp_path, message):
    content = MISTAKES[message]
    (tmp_path / "training").mkdir()
    file = tmp_path / "training/anno_training.pickle"
    file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=f"anno_training.pickle: .*{message}"):
        rhd.load(tmp_path, "train")


def test_files_that_are_not_there(copy, tmp_path):
    with pytest.raises(UserError, match="none: no such folder"):
        rhd.load(tmp_path / "none", "train")
    with pytest.raises(UserError, match="rhd-v2: unknown"):
        rhd.load(copy, "train", variant="v2")
    (copy / "training/color/00000.png").unlink()
    with pytest.raises(UserError, match="training/color/00000.png does not exist"):
        rhd.load(copy, "train")[1]
    (copy / "evaluation/anno_evaluation.pickle").unlink()
    with pytest.raises(UserError, match="anno_evaluation.pickle: no such file"):
        rhd.load(copy, "test")


def test_real_images(shared):
    """Three real images: the joints' order (its file names them in reverse), units, camera and hand."""
    source = rhd.load(shared / "real/rhd/test_rhd.json", "test")
    content = json.loads((shared / "real/rhd/test_rhd.json").read_text())
    assert [source.read_annotation(i).hand for i in range(len(source))] == ["left", "left", "right"]
    for i, annotation in enumerate(content["annotations"]):
        record = source[i]
        assert record.image.shape == (320, 320, 3) and record.joint_valid.all()
        stated = np.array(annotation["keypoints"])[layout.ORDER][:, :2]
        np.testing.assert_allclose(project(record.keypoints_3d, record.K), stated, atol=1.0)
        joints = record.keypoints_3d
        bones = np.linalg.norm(joints[1:] - joints[PARENTS[1:]], axis=-1).reshape(5, 4)  # (finger, bone)
        assert (bones[1:, 0] > 60).all() and (bones[1:, 0] < 120).all()  # the palm
        assert (bones[1:, 1:] < 60).all() and (bones[1:, 1:] > 12).all()  # the fingers
        assert crop(record, 64, 1.4)["image"].std() > 5
