"""Writes tiny RHD v2 trees in the layout of the released one; this file also documents it.

    RHD_published_v2/
      training/anno_training.pickle          {number: {"K": 3x3, "uv_vis": 42x3, "xyz": 42x3}}: px, visible, metres
      training/{color,depth,mask}/%05d.png   320x320; depth: red holds the high byte, green the low, 65535 is 5 m
      evaluation/anno_evaluation.pickle      and so on

Joints 0-20 are the left hand, 21-41 the right: the wrist, then every finger from the thumb on, each from tip to base.
"""

import pickle
from pathlib import Path

import numpy as np

from tests.support import layouts

SIZE = 320
ORDER = [0, *(4 * finger + level for finger in range(5) for level in (4, 3, 2, 1))]  # theirs, as joints of ours


def camera(number: int) -> np.ndarray:
    """K of an image."""
    return np.array([[299.0 + number, 0, 160], [0, 299.0 + number, 160], [0, 0, 1]])


def joints(part: str, number: int, hand: str) -> np.ndarray:
    """(21, 3) mm, OpenCV frame, our order."""
    seed = 2 * number + (hand == "right") + (500 if part == "evaluation" else 0)
    return layouts.hand(seed, right=hand == "right", at=(-130 if hand == "right" else 130, 10, 560))


def depth(part: str, number: int) -> np.ndarray:
    """(320, 320) steps, uint16: a wall that leans, and the joints of both hands."""
    image = np.tile(np.linspace(20000, 65535, SIZE).astype(np.uint16), (SIZE, 1))
    for hand in ("left", "right"):
        points = joints(part, number, hand)
        for (x, y), z in zip(layouts.pixels(points, camera(number)).round().astype(int), points[:, 2]):
            image[y, x] = round(z / 5000 * 65535)
    return image


def annotation(part: str, number: int, visible=(True, True)) -> dict:
    """One entry of the pickle; `visible`: whether any joint of the left and of the right hand is visible."""
    uv_vis, xyz = [], []
    for hand, any_visible in zip(("left", "right"), visible):
        points = joints(part, number, hand)[ORDER]
        flags = np.zeros((21, 1)) if not any_visible else (np.arange(21) != 7)[:, None]  # the other hand hides one
        uv_vis.append(np.hstack([layouts.pixels(points, camera(number)), flags]))
        xyz.append(points / 1000)
    return {"K": camera(number), "uv_vis": np.vstack(uv_vis), "xyz": np.vstack(xyz)}


def write(root: Path, training: int = 4, evaluation: int = 2) -> Path:
    """Write RHD_published_v2 into `root` and return its folder. In training image 1 only the right hand is visible."""
    folder = root / "RHD_published_v2"
    for part, count in (("training", training), ("evaluation", evaluation)):
        (folder / part).mkdir(parents=True)
        entries = {}
        for number in range(count):
            entries[number] = annotation(part, number, visible=((part, number) != ("training", 1), True))
            points = [layouts.pixels(joints(part, number, hand), camera(number)) for hand in ("left", "right")]
            layouts.write_image(folder / part / f"color/{number:05d}.png", layouts.picture(SIZE, SIZE, *points))
            steps = depth(part, number)
            packed = np.stack([steps // 256, steps % 256, np.zeros_like(steps)], -1)  # red, green, blue
            layouts.write_image(folder / part / f"depth/{number:05d}.png", packed.astype(np.uint8))
        (folder / part / f"anno_{part}.pickle").write_bytes(pickle.dumps(entries, protocol=2))
    return folder
