"""Writes tiny FreiHAND trees in the layout of the released ones, in metres; this file also documents it.

FreiHAND_pub_v2/
  training_{K,xyz,verts,mano,scale}.json     lists of N entries: 3x3, 21x3, 778x3, 1x61, a number
  training/rgb/%08d.jpg                      4 N images: number k + N v is annotation k before background v
  training/mask/%08d.jpg                     N
  evaluation_{K,scale}.json  evaluation/rgb/%08d.jpg
FreiHAND_pub_v2_eval/                        released later
  evaluation_{K,xyz,verts,mano,scale}.json  evaluation/rgb/%08d.jpg
"""

import json
from pathlib import Path

import numpy as np

from tests.support import layouts

SIZE = 224


def camera(k: int) -> np.ndarray:
    """K of annotation k."""
    return np.array([[480.0 + k, 0, 112], [0, 481.0 + k, 111], [0, 0, 1]])


def joints(part: str, k: int) -> np.ndarray:
    """(21, 3) metres, OpenCV frame, our order."""
    return layouts.hand(k + (1000 if part == "evaluation" else 0), at=(5, -8, 620 + k)) / 1000


def vertices(part: str, k: int) -> np.ndarray:
    """(778, 3) metres: points at the hand's position, not a real mesh."""
    return joints(part, k)[9] + np.random.default_rng(k).normal(0, 0.03, (778, 3)).round(6)


def mano(k: int) -> np.ndarray:
    """(1, 61): rotation of the hand, 45 angles as offsets from MANO's mean, 10 of shape, root px, scale."""
    return np.random.default_rng(k).normal(0, 0.5, (1, 61)).round(6)


def write(root: Path, annotations: int = 5, evaluations: int = 3, *, released: bool = False) -> Path:
    """Write FreiHAND_pub_v2 and, if `released`, FreiHAND_pub_v2_eval into `root`; return the folder of the former."""
    folder, later = root / "FreiHAND_pub_v2", root / "FreiHAND_pub_v2_eval"
    _write_labels(folder, "training", annotations, ("K", "xyz", "verts", "mano", "scale"))
    _write_labels(folder, "evaluation", evaluations, ("K", "scale"))
    for k in range(annotations):
        points = layouts.pixels(joints("training", k), camera(k))
        image = layouts.picture(SIZE, SIZE, points)
        for version in range(4):
            image[:4, :4] = version * 80  # the corner marks the background
            layouts.write_image(folder / f"training/rgb/{k + annotations * version:08d}.jpg", image)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        (x0, y0), (x1, y1) = points.min(0).astype(int), points.max(0).astype(int) + 1
        mask[y0 : y1 + 1, x0 : x1 + 1] = 255
        layouts.write_image(folder / f"training/mask/{k:08d}.jpg", mask)
    places = [folder, later] if released else [folder]
    for place in places:
        for k in range(evaluations):
            image = layouts.picture(SIZE, SIZE, layouts.pixels(joints("evaluation", k), camera(k)))
            layouts.write_image(place / f"evaluation/rgb/{k:08d}.jpg", image)
    if released:
        _write_labels(later, "evaluation", evaluations, ("K", "xyz", "verts", "mano", "scale"))
    return folder


def _write_labels(folder: Path, part: str, count: int, kinds: tuple) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        entries = {
            "K": lambda k: camera(k).tolist(),
            "xyz": lambda k: joints(part, k).tolist(),
            "verts": lambda k: vertices(part, k).tolist(),
            "mano": lambda k: mano(k).tolist(),
            "scale": lambda k: float(np.linalg.norm(joints(part, k)[9] - joints(part, k)[10])),  # a bone, m
        }[kind]
        (folder / f"{part}_{kind}.json").write_text(json.dumps([entries(k) for k in range(count)]))
