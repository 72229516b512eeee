"""Small data sets of every reader whose labels can be changed: the same hands, written in the layout of each."""

import json
import os
import pickle
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jaxhand import data
from jaxhand.data.record import Record, Source
from jaxhand.hand.camera import FROM_OPENGL
from jaxhand.hand.skeleton import from_our_order
from tests.support import layouts, layouts_hamer

WIDTH, HEIGHT = 320, 240
COUNT = 12


class Labels(NamedTuple):
    """What is written: N right hands."""

    joints: np.ndarray  # (N, 21, 3) mm, our order, OpenCV camera frame
    K: np.ndarray  # (N, 3, 3) px
    boxes: np.ndarray  # (N, 4) x0, y0, x1, y1 px
    points: np.ndarray  # (N, 21, 2) px


def good() -> Labels:
    """Labels without a mistake; the hands are at different places of their images."""
    rng = np.random.default_rng(0)
    places = np.stack([rng.uniform(-90, 90, COUNT), rng.uniform(-40, 40, COUNT), rng.uniform(650, 750, COUNT)], -1)
    joints = np.array([layouts.hand(seed, at=at) for seed, at in enumerate(places)])
    K = np.tile([[320.0, 0, 159.5], [0, 320, 119.5], [0, 0, 1]], (COUNT, 1, 1))
    points = np.array([layouts.pixels(hand, camera) for hand, camera in zip(joints, K)])
    return Labels(joints, K, np.concatenate([points.min(1) - 4, points.max(1) + 4], -1), points)


def _images(folder: Path, names: list[str]) -> None:
    """Write one grey image, under many names."""
    first = folder / names[0]
    layouts.write_image(first, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    for name in names[1:]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(first, folder / name)


def folder(path: Path, labels: Labels) -> Source:
    """A folder of the user's own."""
    names = [f"images/{i}.jpg" for i in range(COUNT)]
    _images(path, names)
    lines = [
        {"image": names[i], "hand": "right", "K": labels.K[i].tolist(), "joints_3d": labels.joints[i].tolist()}
        | {"bbox": labels.boxes[i].tolist()}
        for i in range(COUNT)
    ]
    (path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return data.read("folder", path, "train")


def coco(path: Path, labels: Labels) -> Source:
    """A COCO-style file in FreiHAND's order, which is ours."""
    names = [f"images/{i}.jpg" for i in range(COUNT)]
    _images(path, names)
    images = [{"id": i, "file_name": names[i], "width": WIDTH, "height": HEIGHT} for i in range(COUNT)]
    annotations = [
        {
            "image_id": i,
            "keypoints": np.hstack([labels.points[i], np.full((21, 1), 2)]).tolist(),
            "joint_cam": labels.joints[i].tolist(),
            "bbox": [*labels.boxes[i, :2], *(labels.boxes[i, 2:] - labels.boxes[i, :2])],
            "cam_param": {
                "focal": labels.K[i][(0, 1), (0, 1)].tolist(),
                "princpt": labels.K[i][:2, 2].tolist(),
            },
        }
        for i in range(COUNT)
    ]
    (path / "train.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return data.read("freihand", path / "train.json", "train")


def freihand(path: Path, labels: Labels) -> Source:
    """FreiHAND's own files, in metres."""
    _images(path, [f"training/rgb/{i:08d}.jpg" for i in range(4 * COUNT)])
    (path / "training_K.json").write_text(json.dumps(labels.K.tolist()))
    (path / "training_xyz.json").write_text(json.dumps((labels.joints / 1000).tolist()))
    return data.read("freihand", path, "train")


def rhd(path: Path, labels: Labels) -> Source:
    """RHD's pickle, in metres; the left hands are not visible."""
    _images(path, [f"training/color/{i:05d}.png" for i in range(COUNT)])
    entries = {}
    for i in range(COUNT):
        xyz = from_our_order(labels.joints[i] / 1000, "rhd")
        uv = np.hstack([from_our_order(labels.points[i], "rhd"), np.ones((21, 1))])
        hidden = np.hstack([np.zeros((21, 2)), np.zeros((21, 1))])
        entries[i] = {"K": labels.K[i], "xyz": np.vstack([xyz, xyz]), "uv_vis": np.vstack([hidden, uv])}
    (path / "training/anno_training.pickle").write_bytes(pickle.dumps(entries, protocol=2))
    return data.read("rhd", path, "train")


def ho3d(path: Path, labels: Labels) -> Source:
    """HO-3D's pickles, in metres and OpenGL's frame."""
    _images(path, [f"train/ABF1/rgb/{i:04d}.jpg" for i in range(COUNT)])
    (path / "train/ABF1/meta").mkdir()
    for i in range(COUNT):
        content = {
            "camMat": labels.K[i],
            "handJoints3D": from_our_order(labels.joints[i] / 1000 * FROM_OPENGL, "ho3d"),
            "handPose": np.zeros(48),
            "handBeta": np.zeros(10),
            "handBoundingBox": labels.boxes[i],
        }
        (path / f"train/ABF1/meta/{i:04d}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    (path / "train.txt").write_text("".join(f"ABF1/{i:04d}\n" for i in range(COUNT)))
    return data.read("ho3d", path, "train")


def dexycb_json(path: Path, labels: Labels) -> Source:
    """DexYCB's JSON, in millimetres."""
    names = [f"subject/sequence{i}/camera/color_0.jpg" for i in range(COUNT)]
    _images(path, names)
    annotations = [
        {
            "image_id": i,
            "hand_type": "right",
            "joints_coord_cam": labels.joints[i].tolist(),
            "cam_param": {"focal": labels.K[i][(0, 1), (0, 1)].tolist(), "princpt": labels.K[i][:2, 2].tolist()},
        }
        for i in range(COUNT)
    ]
    content = {"images": [{"id": i, "file_name": names[i]} for i in range(COUNT)], "annotations": annotations}
    (path / "train.json").write_text(json.dumps(content))
    return data.read("dexycb-json", path / "train.json", "train")


def interhand(path: Path, labels: Labels) -> Source:
    """InterHand2.6M's files: one camera per image, at the origin of the world."""
    names = [f"Capture0/{i}.jpg" for i in range(COUNT)]
    _images(path, [f"images/train/{name}" for name in names])
    (path / "annotations/train").mkdir(parents=True)
    images, annotations, camera = [], [], {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
    frames, none = {}, np.ones((21, 3))
    valid = np.repeat([1, 0], 21)[:, None].tolist()
    for i in range(COUNT):
        images.append({"id": i, "file_name": names[i], "capture": 0, "camera": str(i), "frame_idx": i})
        box = [*labels.boxes[i, :2], *(labels.boxes[i, 2:] - labels.boxes[i, :2])]
        annotations.append({"image_id": i, "hand_type": "right", "joint_valid": valid, "bbox": box})
        camera["campos"][str(i)], camera["camrot"][str(i)] = [0, 0, 0], np.eye(3).tolist()
        camera["focal"][str(i)], camera["princpt"][str(i)] = (
            labels.K[i][(0, 1), (0, 1)].tolist(),
            labels.K[i][:2, 2].tolist(),
        )
        world = np.vstack([from_our_order(labels.joints[i], "interhand"), none])
        frames[str(i)] = {"world_coord": world.tolist(), "joint_valid": valid}
    contents = {
        "data": {"images": images, "annotations": annotations},
        "camera": {"0": camera},
        "joint_3d": {"0": frames},
    }
    for name, content in contents.items():
        (path / f"annotations/train/InterHand2.6M_train_{name}.json").write_text(json.dumps(content))
    return data.read("interhand", path, "train")


def _hamer_hand(labels: Labels, i: int) -> dict:
    box = labels.boxes[i]
    return layouts_hamer.hand(0) | {
        "keypoints_2d": np.hstack([labels.points[i], np.ones((21, 1))]).astype(np.float32),
        "keypoints_3d": np.hstack([labels.joints[i] / 1000, np.ones((21, 1))]).astype(np.float32),
        "center": (box[:2] + box[2:]) / 2,
        "scale": (box[2:] - box[:2]) / 200,
        "right": 1,
    }


def hamer_npz(path: Path, labels: Labels) -> Source:
    """HaMeR's evaluation file; a box is a centre and a size."""
    _images(path, [f"{i}.jpg" for i in range(COUNT)])
    hands = [_hamer_hand(labels, i) for i in range(COUNT)]
    arrays = {key: np.array([hand[key] for hand in hands]) for key in ("center", "right")}
    arrays |= {f"hand_{key}": np.array([hand[key] for hand in hands]) for key in ("keypoints_2d", "keypoints_3d")}
    scale = np.array([hand["scale"] for hand in hands]) * 200
    np.savez(path / "val.npz", imgname=[f"{i}.jpg" for i in range(COUNT)], scale=scale, **arrays)
    return data.read("hamer-npz", path / "val.npz", "test")


def hamer_tars(path: Path, labels: Labels) -> Source:
    """HaMeR's training tars."""
    image = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()
    samples = [(f"rgb/{i:08d}", image, [_hamer_hand(labels, i)]) for i in range(COUNT)]
    layouts_hamer.write_tar(path / "000000.tar", samples)
    return data.read("hamer", path, "train")


def hint(path: Path, labels: Labels) -> Source:
    """HInt's files, with 2D labels alone."""
    home = path / "TRAIN_newdays_img"
    _images(path, [f"{home.name}/{i:02d}_r.jpg" for i in range(COUNT)])
    for i in range(COUNT):
        hand = {"bbox": [labels.boxes[i].tolist()], "keypoints": labels.points[i].tolist(), "occlusion": [0] * 21}
        (home / f"{i:02d}_r.json").write_text(json.dumps([hand]))
    return data.read("hint", path, "train")


class _Outside:
    """A reader from outside the package that only has what a source needs."""

    def __init__(self, labels: Labels):
        self.labels = labels

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Record:
        joints, K, boxes, _ = self.labels
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        return Record(image, K[i], joints[i], np.ones(21), "right", bbox=boxes[i], name=f"hand {i}")


def outside(path: Path, labels: Labels) -> Source:
    """A reader from outside the package."""
    return _Outside(labels)


def packed(path: Path, labels: Labels) -> Source:
    """The same, packed."""
    from jaxhand.data import pack

    manifest = pack.Manifest("folder", COUNT, "0")
    source, out = outside(path, labels), path / "packed"
    out.mkdir()
    manifest.write(out)
    entry = pack._shards("train", source, out, manifest, lambda line: None)
    return pack.PackedSet(out, entry["shards"], np.arange(COUNT))


READERS = {
    reader.__name__: reader
    for reader in (
        *(folder, coco, freihand, rhd, ho3d, dexycb_json, interhand, hamer_npz, hamer_tars, hint, outside, packed),
    )
}
