"""Folders of photographs: what is read, every mistake by file and line, and real photographs."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import DataConfig, UserError
from jaxhand.data.crop import crop
from jaxhand.data.datasets.folder import load
from jaxhand.hand.camera import project

JOINTS = np.random.default_rng(0).uniform((-80, -80, 450), (80, 80, 550), (21, 3)).round(2)
LINE = {
    "image": "images/a.png",
    "hand": "left",
    "K": [[120, 0, 40], [0, 120, 30], [0, 0, 1]],
    "joints_3d": JOINTS.tolist(),
}
PIXELS = np.random.default_rng(1).integers(0, 255, (61, 83, 3), dtype=np.uint8)  # RGB


@pytest.fixture
def folder(tmp_path):
    """Write the lines of a folder; a line is a dict or text."""

    def write(*lines, file="train.jsonl"):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images/a.png"), PIXELS[..., ::-1])
        (tmp_path / file).write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
        return tmp_path

    return write


def test_a_line_becomes_a_record(folder):
    valid = [1] * 20 + [0]
    joints = LINE["joints_3d"][:20] + [[None, None, None]]
    line = LINE | {"joint_valid": valid, "joints_3d": joints, "bbox": [1, 2, 30, 40], "depth": "d.png", "note": "mine"}
    path = folder("", LINE, "", line)
    depth = np.arange(61 * 83, dtype=np.uint16).reshape(61, 83)
    cv2.imwrite(str(path / "d.png"), depth)
    plain, full = load(path, "train")
    np.testing.assert_array_equal(plain.image, PIXELS)
    np.testing.assert_array_equal(plain.keypoints_3d, JOINTS)
    np.testing.assert_array_equal(plain.K, LINE["K"])
    assert plain.hand == "left" and plain.name == "images/a.png" and plain.joint_valid.all()
    assert plain.depth is None and plain.bbox is None
    np.testing.assert_array_equal(full.depth, depth)
    np.testing.assert_array_equal(full.joint_valid, valid)
    np.testing.assert_array_equal(full.bbox, [1, 2, 30, 40])
    assert not full.keypoints_3d[20].any()


@pytest.mark.parametrize(
    "stored, shown",
    [
        (PIXELS[..., 0], np.repeat(PIXELS[..., :1], 3, -1)),  # grey
        (np.dstack([PIXELS[..., ::-1], PIXELS[..., 0]]), PIXELS),  # alpha
        (PIXELS[..., ::-1].astype(np.uint16) * 256 + 7, PIXELS),  # 16 bits
        (PIXELS[:1, :1, ::-1], PIXELS[:1, :1]),  # one pixel
    ],
)
def test_any_kind_of_image_is_rgb_of_8_bits(folder, stored, shown):
    path = folder(LINE | {"image": "images/b.png", "K": [[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, 1]]})
    cv2.imwrite(str(path / "images/b.png"), stored)
    record = load(path, "train")[0]
    assert record.image.dtype == np.uint8
    assert record.image.shape == shown.shape and np.abs(record.image.astype(int) - shown).max() <= 1
    assert crop(record, 32, 1.4)["image"].shape == (32, 32, 3)


def changed(**fields):
    return LINE | fields


MISTAKES = {
    "not valid JSON": '{"image": "images/a.png", ',
    "not a JSON object": "[1, 2]",
    "missing key 'K'": {key: value for key, value in LINE.items() if key != "K"},
    "image .*images/b.png does not exist": changed(image="images/b.png"),
    "image must be a path, got 3": changed(image=3),
    "hand must be .*got 'both'": changed(hand="both"),
    "hand must be .*got \\['left'\\]": changed(hand=["left"]),
    "joints_3d must be 21x3 numbers, got shape 20x3": changed(joints_3d=LINE["joints_3d"][:20]),
    "joints_3d must be 21x3 numbers, got something else": changed(joints_3d=[[0, 0]] + LINE["joints_3d"][1:]),
    "joints_3d is not finite": changed(joints_3d=[[0, 0, None]] + LINE["joints_3d"][1:]),
    "a joint is behind the camera": changed(joints_3d=(-JOINTS).tolist()),
    "joints_3d must be in millimetres.*multiply by 1000": changed(joints_3d=(JOINTS / 1000).tolist()),
    "K must be 3x3 numbers, got shape 2x3": changed(K=LINE["K"][:2]),
    "K must be .*in px, got": changed(K=[[0, 0, 40], [0, 120, 30], [0, 0, 1]]),
    "K must be \\[\\[fx, skew, cx\\]": changed(K=np.transpose(LINE["K"]).tolist()),
    "joint_valid must be 21 numbers": changed(joint_valid=[1, 1]),
    "no joint is valid": changed(joint_valid=[0] * 21),
    "bbox must be x0, y0, x1, y1": changed(bbox=[30, 2, 1, 40]),
    "bbox must be 4 numbers": changed(bbox="all"),
    "depth .*d.png does not exist": changed(depth="d.png"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named_with_file_and_line(folder, message):
    path = folder(LINE, "", MISTAKES[message])
    with pytest.raises(UserError, match=f"train.jsonl:3: {message}") as caught:
        load(path, "train")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(folder, tmp_path):
    with pytest.raises(UserError, match="none: no such data folder"):
        load(tmp_path / "none", "train")
    with pytest.raises(UserError, match="test.jsonl: no such file"):
        load(folder(LINE), "test")
    with pytest.raises(UserError, match="train.jsonl: empty"):
        load(folder("", ""), "train")
    with pytest.raises(UserError, match="too few lines for a split val"):
        load(folder(*[LINE] * 4), "val")
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="train.jsonl: cannot be read as text"):
        load(tmp_path, "train")


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_a_cut_off_image_is_named_when_it_is_read(folder, ending, share):
    path = folder(LINE, LINE | {"image": f"images/cut.{ending}"})
    content = cv2.imencode(f".{ending}", PIXELS)[1].tobytes()
    (path / f"images/cut.{ending}").write_bytes(content[: int(share * len(content))])
    source = load(path, "train")
    assert source[0].image.shape == (61, 83, 3)
    with pytest.raises(UserError, match=f"train.jsonl:2: image .*cut.{ending} is not an image or is cut off"):
        source[1]


@pytest.mark.parametrize("depth", [np.zeros((61, 83), np.uint8), np.zeros((30, 83), np.uint16)])
def test_depth_of_another_kind_is_refused(folder, depth):
    path = folder(LINE | {"depth": "d.png"})
    cv2.imwrite(str(path / "d.png"), depth)
    with pytest.raises(UserError, match="train.jsonl:1: depth .*d.png: must be a 16-bit grey PNG of 83x61 px"):
        load(path, "train")[0]


def test_camera_of_another_image_is_refused(folder):
    path = folder(LINE | {"K": [[1200, 0, 4000], [0, 1200, 3000], [0, 0, 1]]})
    with pytest.raises(UserError, match="train.jsonl:1: no joint lies in the 83x61 px image; K must be of this image"):
        load(path, "train")[0]


def test_every_fifth_line_is_held_out(folder):
    path = folder(*[LINE | {"bbox": [0, 0, i + 1, 1]} for i in range(12)])

    def lines(source):
        return [int(source[i].bbox[2]) - 1 for i in range(len(source))]

    assert lines(load(path, "val")) == [4, 9]
    assert lines(load(path, "train", without_val=True)) == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert lines(load(path, "train")) == list(range(12))
    config = DataConfig(test_split="val")
    assert len(data.load(f"folder:{path}", "train", config, 0)) == 10
    assert len(data.load(f"folder:{path}", "val", config, 0)) == 2
    assert len(data.load(f"folder:{path}", "train", dataclasses.replace(config, test_split="test"), 0)) == 12


def test_real_photographs(shared):
    path = shared / "real" / "hand_photos"
    sets = {split: load(path, split) for split in ("train", "test", "val")}
    assert {split: len(source) for split, source in sets.items()} == {"train": 320, "test": 80, "val": 64}
    for source in (sets["test"], sets["val"]):
        for i in range(0, len(source), 5):
            record = source[i]
            pixels = project(record.keypoints_3d, record.K)
            assert record.image.shape == (256, 256, 3) and record.hand == "left"
            assert (pixels > -1).all() and (pixels < 256).all()
            sample = crop(record, 64, 1.4)
            assert (sample["keypoints_2d"] > 0).all() and (sample["keypoints_2d"] < 63).all()
            assert sample["is_right"] == 0 and sample["image"].any()
