"""Writes tiny sets in the two formats of HaMeR; this file also documents them.

dataset_tars/freihand-train/%06d.tar    a sample is <key>.jpg (jpeg, png) and <key>.data.pyd, a pickled list:
    keypoints_2d (21,3) px and confidence · keypoints_3d (21,4) m and confidence · center (2,) px ·
    scale (2,) px / 200 · hand_pose (48,) · betas (10,) · right, has_hand_pose, has_betas ·
    extra_info, which may have {"fitting_loss": array of {"reprojection_loss": number}}
freihand_val.npz    imgname (N,) · center (N,2) px · scale (N,2) or (N,) px, not / 200 · right (N,) or missing ·
    hand_keypoints_2d (N,21,3) · hand_keypoints_3d (N,21,4) · hand_pose (N,48), betas (N,10), has_hand_pose, …
"""

import io
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np

from tests.support import layouts

WIDTH, HEIGHT = 224, 160
ORIGIN = np.array([0.3, -0.2, 0.1])  # m, arbitrary: readers may not use it


def K() -> np.ndarray:
    """The camera that a reader must assume: f = 5000 / 256 of the longer side."""
    return np.array([[4375.0, 0, 112], [0, 4375, 80], [0, 0, 1]])


def joints(seed: int) -> np.ndarray:
    """(21, 3) mm, in the view of `K`; every third hand is a left one."""
    return layouts.hand(seed, right=is_right(seed), at=(20, -10 + seed, 6500.0 + 10 * seed))


def is_right(seed: int) -> bool:
    """Whether a hand is a right one."""
    return seed % 3 != 2


def pixels(seed: int) -> np.ndarray:
    """(21, 2)."""
    return layouts.pixels(joints(seed), K())


def hand(seed: int, **changed) -> dict:
    """A hand as in a pickle; `changed` replaces its fields."""
    rng, points = np.random.default_rng(seed), pixels(seed)
    metres = (joints(seed) - joints(seed)[0]) / 1000 + ORIGIN
    fields = {
        "keypoints_2d": np.column_stack([points, np.ones(21)]).astype(np.float32),
        "keypoints_3d": np.column_stack([metres, np.ones(21)]).astype(np.float32),
        "center": (points.min(0) + points.max(0)) / 2,
        "scale": np.ptp(points, axis=0) / 200,
        "hand_pose": rng.normal(0, 0.5, 48).astype(np.float32),
        "betas": rng.uniform(-1, 1, 10).astype(np.float32),
        "right": np.array(float(is_right(seed))),
        "has_hand_pose": 1.0,
        "has_betas": np.array(1.0),
        "extra_info": {"fitting_loss": np.array({"reprojection_loss": np.float32(100.0)})},
    }
    return fields | changed


def flat(seed: int) -> dict:
    """A hand labelled in 2D only, as in COCO-WholeBody."""
    none = {"has_hand_pose": 0.0, "has_betas": 0.0, "hand_pose": np.zeros(48), "betas": np.zeros(10), "extra_info": {}}
    return hand(seed, keypoints_3d=np.zeros((21, 4), np.float32), **none)


def image(*seeds: int, ending: str = "jpg") -> bytes:
    """An image file with the dots of the hands."""
    picture = layouts.picture(WIDTH, HEIGHT, *map(pixels, seeds))
    flags = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(f".{ending}", picture[..., ::-1], flags)[1].tobytes()


def write_tar(file: Path, samples: list[tuple[str, bytes, object]]) -> Path:
    """Write samples, each a key such as "training/rgb/00000000", an image file and a list of hands (or bytes)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for key, content, hands in samples:
            labels = hands if isinstance(hands, bytes) else pickle.dumps(hands, protocol=2)
            ending = "png" if content.startswith(b"\x89PNG") else "jpg"
            for name, member in ((f"{key}.{ending}", content), (f"{key}.data.pyd", labels)):
                info = tarfile.TarInfo(name)
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return file


def write_tars(folder: Path, tars: int = 2, samples: int = 4) -> Path:
    """Write tars of samples with one hand each, numbered across tars."""
    for t in range(tars):
        seeds = range(t * samples, (t + 1) * samples)
        write_tar(folder / f"{t:06d}.tar", [(f"rgb/{seed:08d}", image(seed), [hand(seed)]) for seed in seeds])
    return folder


def write_npz(file: Path, count: int = 4, **changed) -> Path:
    """Write an evaluation file and its images; `changed` replaces arrays, None leaves one out."""
    hands = [hand(seed) for seed in range(count)]
    for seed in range(count):
        place = file.parent / f"rgb/{seed:08d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image(seed))
    arrays = {
        "imgname": np.array([f"rgb/{seed:08d}.jpg" for seed in range(count)]),
        "center": np.array([h["center"] for h in hands]),
        "scale": np.array([h["scale"] for h in hands]) * 200,
        "right": np.array([h["right"] for h in hands]),
        "hand_keypoints_2d": np.array([h["keypoints_2d"] for h in hands]),
        "hand_keypoints_3d": np.array([h["keypoints_3d"] for h in hands]),
        "hand_pose": np.array([h["hand_pose"] for h in hands]),
        "has_hand_pose": np.ones(count),
        "betas": np.array([h["betas"] for h in hands]),
        "has_betas": np.ones(count),
        "extra_info": np.array([{} for _ in range(count)], object),
    }
    np.savez(file, **{key: value for key, value in (arrays | changed).items() if value is not None})
    return file
