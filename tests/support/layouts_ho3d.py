"""Writes tiny HO-3D trees in the layout of the released ones, in the OpenGL frame; this file also documents it.

HO3D_v2|HO3D_v3/
  train.txt evaluation.txt           the frames that count, as ABF10/0000
  train/SEQ/rgb/ID.png|jpg           640x480; .png in version 2, .jpg in version 3
  train/SEQ/depth/ID.png             8 bits: red holds the low byte, green the high; 0.125 mm a step
  train/SEQ/meta/ID.pkl              labels, of frames that do not count all None
  evaluation/SEQ/{rgb,depth,meta}/   its pickles hold the wrist and a box instead of joints, pose and shape
  evaluation_{xyz,verts}.json        released later: lists of 21x3 and 778x3, in the order of evaluation.txt
"""

import json
import pickle
from pathlib import Path

import numpy as np

from tests.support import layouts

WIDTH, HEIGHT = 640, 480
TRAIN = ("ABF10", "ABF11", "MC1", "MC2")  # the last digit is the camera's: ABF10 and ABF11 show the same moments
EVALUATION = ("SM1", "AP10")
ORDER = (  # of handJoints3D: MANO's 16 joints, then the tips from the thumb on
    *("wrist", "index1", "index2", "index3", "middle1", "middle2", "middle3", "little1", "little2", "little3"),
    *("ring1", "ring2", "ring3", "thumb1", "thumb2", "thumb3", "thumb4", "index4", "middle4", "ring4", "little4"),
)
OURS = ("wrist", *(f"{finger}{n}" for finger in ("thumb", "index", "middle", "ring", "little") for n in range(1, 5)))
DEPTH_SCALE = 0.00012498664727900177  # m per step
CAMERA = np.array([[614.6, 0, 320.3], [0, 614.9, 241.2], [0, 0, 1]])


def joints(sequence: str, frame: int) -> np.ndarray:
    """(21, 3) mm, OpenCV frame, our order: the expected output of a reader."""
    return layouts.hand(sum(map(ord, sequence)) * 10 + frame, at=(20 * frame, -10, 650))


def stored(points) -> np.ndarray:
    """Points (N, 3) mm in the OpenCV frame → as HO-3D stores them: metres, y up, z backwards."""
    return np.asarray(points) * (1, -1, -1) / 1000


def in_their_order(points) -> np.ndarray:
    """Joints (21, 3) in our order → in theirs."""
    return points[[OURS.index(name) for name in ORDER]]


def vertices(sequence: str, frame: int) -> np.ndarray:
    """(778, 3) mm, OpenCV frame: points at the hand's position, not a real mesh."""
    return joints(sequence, frame)[9] + np.random.default_rng(frame).normal(0, 30, (778, 3)).round(3)


def pose(sequence: str, frame: int) -> np.ndarray:
    """(48,) axis-angle, absolute, of the OpenGL frame."""
    return np.random.default_rng(sum(map(ord, sequence)) + frame).normal(0, 0.8, 48)


def box(sequence: str, frame: int) -> list[int]:
    """x0, y0, x1, y1 px around the hand."""
    points = layouts.pixels(joints(sequence, frame), CAMERA)
    return [*(points.min(0).astype(int) - 5).tolist(), *(points.max(0).astype(int) + 6).tolist()]


def depth(sequence: str, frame: int) -> np.ndarray:
    """(480, 640) steps, uint16: a wall that leans, a hole, and the hand's joints."""
    image = np.tile(np.linspace(1000, 30000, WIDTH).astype(np.uint16), (HEIGHT, 1))
    image[:20] = 0
    points = joints(sequence, frame)
    for (x, y), z in zip(layouts.pixels(points, CAMERA).round().astype(int), points[:, 2]):
        image[y, x] = round(z / 1000 / DEPTH_SCALE)
    return image


def labels(part: str, sequence: str, frame: int, *, labelled: bool = True) -> dict:
    """The content of a frame's pickle."""
    hand = in_their_order(stored(joints(sequence, frame)))
    thing = {"objRot": np.zeros((3, 1)), "objTrans": np.zeros(3), "objName": "021_bleach_cleanser", "objLabel": 12}
    thing |= {"objCorners3D": np.zeros((8, 3)), "objCorners3DRest": np.zeros((8, 3)), "camMat": CAMERA}
    if part == "evaluation":
        return thing | {"handJoints3D": hand[0], "handBoundingBox": box(sequence, frame)}
    thing |= {"handJoints3D": hand, "handPose": pose(sequence, frame), "handBeta": np.arange(10.0)}
    thing |= {"handTrans": hand[0], "handVertContact": np.zeros(778, bool)}
    return thing if labelled else dict.fromkeys(thing)


def write(root: Path, *, version: int = 3, frames: int = 3, released: bool = False) -> Path:
    """Write HO3D_v2 or HO3D_v3 into `root`; returns its folder.

    Frame 1 of ABF10 is in the list but has no labels. Every training sequence has one further frame that is not in the
    list and has no labels. evaluation.txt is not sorted.
    """
    folder = root / f"HO3D_v{version}"
    lists = {
        "train": [(sequence, frame) for sequence in TRAIN for frame in range(frames)],
        "evaluation": [(sequence, frame) for frame in reversed(range(frames)) for sequence in EVALUATION],
    }
    for part, listed in lists.items():
        more = [(sequence, frames) for sequence in TRAIN] if part == "train" else []
        for sequence, frame in listed + more:
            labelled = (sequence, frame) != ("ABF10", 1) and (sequence, frame) not in more
            _write_frame(folder / part / sequence, frame, labels(part, sequence, frame, labelled=labelled), version)
        (folder / f"{part}.txt").write_text("".join(f"{sequence}/{frame:04d}\n" for sequence, frame in listed))
    if released:
        xyz = [in_their_order(stored(joints(*frame))).tolist() for frame in lists["evaluation"]]
        verts = [stored(vertices(*frame)).tolist() for frame in lists["evaluation"]]
        (folder / "evaluation_xyz.json").write_text(json.dumps(xyz))
        (folder / "evaluation_verts.json").write_text(json.dumps(verts))
    return folder


def _write_frame(folder: Path, frame: int, content: dict, version: int) -> None:
    image = layouts.picture(WIDTH, HEIGHT, layouts.pixels(joints(folder.name, frame), CAMERA))
    layouts.write_image(folder / f"rgb/{frame:04d}.{'png' if version == 2 else 'jpg'}", image)
    steps = depth(folder.name, frame)
    packed = np.stack([steps % 256, steps // 256, np.zeros_like(steps)], -1).astype(np.uint8)  # red, green, blue
    layouts.write_image(folder / f"depth/{frame:04d}.png", packed)
    (folder / "meta").mkdir(exist_ok=True)
    (folder / f"meta/{frame:04d}.pkl").write_bytes(pickle.dumps(content, protocol=2))
