"""Writes tiny InterHand2.6M trees in the layout of version 1.0; this file also documents it.

images/{train,val,test}/Capture0/ROM01_Fist/cam400001/image0000.jpg      512x334 or so
annotations/{train,val,test}/InterHand2.6M_{train,val,test}_data.json    COCO's style: images and annotations
  …_camera.json    {capture: {"campos": {camera: [3]}, "camrot": …, "focal": …, "princpt": …}}
  …_joint_3d.json  {capture: {frame: {"world_coord": 42x3 mm, "joint_valid": 42x1, …}}}, 0-20 right, 21-41 left
  …_MANO_NeuralAnnot.json    {capture: {frame: {"right": null or {"pose": [48], "shape": [10], "trans": [3] m}, …}}}
"""

import json
from pathlib import Path

import cv2
import numpy as np

from tests.support import layouts

CAPTURES, CAMERAS, WIDTH, HEIGHT = (0, 12), ("400001", "400002"), 334, 512
KINDS = ("right", "left", "interacting")  # of the frames, in turn
TO_THEIRS = [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17, 0]  # tips first, the wrist last


def hands(kind: str) -> tuple:
    """The sides of the hands in a kind of frame."""
    return ("right", "left") if kind == "interacting" else (kind,)


def rotation(camera: str) -> np.ndarray:
    """World to camera."""
    return cv2.Rodrigues(np.array([0.1, 0.7, -0.2]) * (1 + CAMERAS.index(camera)))[0]


def position(capture: int, camera: str) -> np.ndarray:
    """Position of the camera in world coordinates, mm."""
    return np.array([100.0 + capture, -30, 50 + 10 * CAMERAS.index(camera)])


def K(camera: str) -> np.ndarray:
    """(3, 3)."""
    return np.array([[600.0 + CAMERAS.index(camera), 0, 160], [0, 601, 250], [0, 0, 1]])


def world(capture: int, frame: int, side: str) -> np.ndarray:
    """(21, 3) mm in our order; chosen so that the hand is 650 mm away from the first camera."""
    at = (-60 if side == "right" else 60, 10, 650)
    joints = layouts.hand(100 * capture + frame, right=side == "right", at=at)
    return joints @ rotation(CAMERAS[0]) + position(capture, CAMERAS[0])


def in_camera(capture: int, frame: int, camera: str, side: str) -> np.ndarray:
    """(21, 3) mm in a camera's frame, our order, joint by joint."""
    R, t = rotation(camera), position(capture, camera)
    return np.array([R @ (point - t) for point in world(capture, frame, side)])


def mano(capture: int, frame: int, side: str) -> dict:
    """Pose as offsets from the mean, in the rotated world frame; the first right hand has none."""
    rng = np.random.default_rng([capture, frame, side == "left"])
    numbers = {"pose": rng.normal(0, 0.5, 48), "shape": rng.normal(0, 1, 10), "trans": rng.normal(0, 1, 3)}
    return {key: value.round(6).tolist() for key, value in numbers.items()}


def write(root: Path, split: str = "test", *, frames: int = 3, images: bool = True, hidden=(), unknown=()) -> Path:
    """Write one split into `root` and return `root`.

    Args:
        hidden: (image number, joint of 42) whose `joint_valid` is 0 in that image's annotation.
        unknown: (capture, frame, joint of 42) that the frame has no label of: `world_coord` is 1 there.
    """
    home = root / f"annotations/{split}"
    home.mkdir(parents=True, exist_ok=True)
    data, cameras, joints, meshes = {"images": [], "annotations": []}, {}, {}, {}
    for capture in CAPTURES:
        cameras[capture] = {
            "campos": {camera: position(capture, camera).tolist() for camera in CAMERAS},
            "camrot": {camera: rotation(camera).tolist() for camera in CAMERAS},
            "focal": {camera: [K(camera)[0, 0], K(camera)[1, 1]] for camera in CAMERAS},
            "princpt": {camera: [K(camera)[0, 2], K(camera)[1, 2]] for camera in CAMERAS},
        }
        joints[capture], meshes[capture] = {}, {}
        for frame in range(frames):
            kind = KINDS[frame % 3]
            valid, places = np.zeros((42, 1), int), np.ones((42, 3))  # 1 where there is no label
            for side in hands(kind):
                part = slice(0, 21) if side == "right" else slice(21, 42)
                valid[part], places[part] = 1, world(capture, frame, side)[TO_THEIRS]
            for joint in (j for c, f, j in unknown if (c, f) == (capture, frame)):
                valid[joint], places[joint] = 0, 1
            labels = {"world_coord": places.tolist(), "joint_valid": valid.tolist()}
            joints[capture][frame] = labels | {"hand_type": kind, "hand_type_valid": True}
            meshes[capture][frame] = {
                side: mano(capture, frame, side) if side in hands(kind) and (side, frame) != ("right", 0) else None
                for side in ("right", "left")
            }
            for camera in CAMERAS:
                _write_image(root, split, data, capture, frame, camera, kind, images, hidden)
    for name, content in (("data", data), ("camera", cameras), ("joint_3d", joints), ("MANO_NeuralAnnot", meshes)):
        (home / f"InterHand2.6M_{split}_{name}.json").write_text(json.dumps(content))
    return root


def _write_image(root, split, data, capture, frame, camera, kind, images, hidden) -> None:
    number, valid = len(data["images"]), np.zeros((42, 1), int)
    points = [layouts.pixels(in_camera(capture, frame, camera, side), K(camera)) for side in hands(kind)]
    for side in hands(kind):
        valid[slice(0, 21) if side == "right" else slice(21, 42)] = 1
    for joint in (j for n, j in hidden if n == number):
        valid[joint] = 0
    name = f"Capture{capture}/ROM01_Fist/cam{camera}/image{frame:04d}.jpg"
    if images:
        layouts.write_image(root / f"images/{split}/{name}", layouts.picture(WIDTH, HEIGHT, *points))
    (x0, y0), (x1, y1) = np.concatenate(points).min(0), np.concatenate(points).max(0)
    size = {"width": WIDTH, "height": HEIGHT}
    place = {"capture": capture, "subject": 1, "seq_name": "ROM01_Fist", "camera": camera, "frame_idx": frame}
    data["images"].append({"id": 500 + number, "file_name": name} | size | place)
    data["annotations"].append(
        {
            "id": number,
            "image_id": 500 + number,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "joint_valid": valid.tolist(),
            "hand_type": kind,
            "hand_type_valid": 1,
        }
    )
