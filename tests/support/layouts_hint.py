"""Writes tiny HInt folders in the layout of the released ones; this file also documents it.

HInt_annotation/  or  HInt_annotation_partial/ (without the frames of Ego4D)
  {TRAIN,VAL,TEST}_{newdays,epick,ego4d}_img/  {VAL,TEST}_ego4d_seq/
    <name>_r.jpg  <name>_r.json     [{"bbox": [[x0, y0, x1, y1]], "keypoints": [[x, y], … 21], "occlusion": [21]}]
"""

import json
from pathlib import Path

import numpy as np

from tests.support import layouts

WIDTH, HEIGHT = 320, 240


def keypoints(seed: int, side: str) -> np.ndarray:
    """(21, 2) px."""
    joints = layouts.hand(seed, right=side == "r", at=(0, 0, 600))
    return layouts.pixels(joints, [[500, 0, 160], [0, 500, 120], [0, 0, 1]]).round(2)


def occluded(seed: int) -> np.ndarray:
    """(21,) of 0 and 1, 1 for a hidden joint."""
    return (np.arange(21) % (seed + 3) == 0).astype(int)


def bbox(seed: int, side: str) -> np.ndarray:
    """x0, y0, x1, y1."""
    points = keypoints(seed, side)
    return np.concatenate([points.min(0) - 3, points.max(0) + 4])


def write(folder: Path, homes=("TEST_newdays_img", "TEST_epick_img"), count: int = 3, *, corners=True) -> Path:
    """Write `count` right and `count` left hands into each folder; without `corners`, boxes are a corner and a size."""
    for home in homes:
        for seed in range(count):
            for side in "rl":
                file, points, box = folder / home / f"clip_{seed}_{side}.jpg", keypoints(seed, side), bbox(seed, side)
                layouts.write_image(file, layouts.picture(WIDTH, HEIGHT, points))
                box = box if corners else np.concatenate([box[:2], box[2:] - box[:2]])
                labels = {"bbox": [box.tolist()], "keypoints": points.tolist(), "occlusion": occluded(seed).tolist()}
                file.with_suffix(".json").write_text(json.dumps([labels]))
    return folder
