"""Writes tiny DexYCB trees in the layout of the released one; this file also documents it.

    20200709-subject-01/ … 20201022-subject-10/
      20200709_141754/ …                                     100 a subject
        meta.yml                                             num_frames, mano_sides, mano_calib, serials, …
        836212060125/ …                                      8 cameras
          color_%06d.jpg  aligned_depth_to_color_%06d.png    640x480; 16 bits, 1 mm a step
          labels_%06d.npz                                    joint_3d (1,21,3) m, pose_m (1,51); without a hand -1 and 0
    calibration/intrinsics/836212060125_640x480.yml          color: {fx, fy, ppx, ppy}, depth: …
    calibration/mano_20200709_140042_subject-01_right/mano.yml     betas

and the COCO-style files that papers' code makes of it: annotations/DEX_YCB_s0_{train,test}_data.json.
"""

import json
from pathlib import Path

import numpy as np
import yaml

from tests.support import layouts

SUBJECTS, SERIALS = ("20200709-subject-01", "20200813-subject-02"), ("836212060125", "839512060362")
FRAMES = 2  # of every sequence but the first, which has one more
WIDTH, HEIGHT = 640, 480


def frames(q: int) -> int:
    """Number of frames of sequence q."""
    return FRAMES + (q == 0)


def side(s: int, q: int) -> str:
    """Side of the hand in a sequence: subjects use both."""
    return "left" if (s + q) % 2 else "right"


def has_hand(f: int) -> bool:
    """Whether a frame has a hand: the first one does not."""
    return f > 0


def name(s: int, q: int, c: int, f: int) -> str:
    """Name of a colour image."""
    return f"{SUBJECTS[s]}/{SUBJECTS[s][:8]}_{140000 + q}/{SERIALS[c]}/color_{f:06d}.jpg"


def camera(c: int) -> dict:
    """Intrinsics of a camera."""
    return {"fx": 613.0 + c, "fy": 612.0 + c, "ppx": 313.5, "ppy": 245.25}


def K(c: int) -> np.ndarray:
    """(3, 3)."""
    return np.array([[613.0 + c, 0, 313.5], [0, 612.0 + c, 245.25], [0, 0, 1]])


def joints(s: int, q: int, c: int, f: int) -> np.ndarray:
    """(21, 3) mm of a frame with a hand."""
    return layouts.hand(1000 * s + 10 * q + 2 * c + f, right=side(s, q) == "right", at=(10 * c, -5 * f, 700 + q))


def pose(s: int, q: int, c: int, f: int) -> np.ndarray:
    """(51,): 3 angles, 45 coefficients of MANO's components, translation."""
    return np.random.default_rng([s, q, c, f]).normal(0, 1, 51).astype(np.float32)


def betas(s: int, hand: str) -> list[float]:
    """(10,) of a subject's hand."""
    return np.random.default_rng([s, hand == "left"]).normal(0, 1, 10).round(4).tolist()


def depth(s: int, q: int) -> np.ndarray:
    """(480, 640) mm."""
    return (np.arange(HEIGHT)[:, None] + np.arange(WIDTH) + 300 + 10 * s + q).astype(np.uint16)


def write(root: Path, sequences: int = 5, *, images: bool = True, subjects=SUBJECTS, serials=SERIALS) -> Path:
    """Write the tree into `root` and return `root`."""
    for c, serial in enumerate(serials):
        _yaml(root / f"calibration/intrinsics/{serial}_640x480.yml", {"color": camera(c), "depth": camera(c + 50)})
    for s, subject in enumerate(subjects):
        for hand in ("right", "left"):
            _yaml(root / f"calibration/mano_{subject}_{hand}/mano.yml", {"betas": betas(s, hand)})
        for q in range(sequences):
            home = root / subject / f"{subject[:8]}_{140000 + q}"
            hand = side(s, q)
            meta = {"serials": list(serials), "num_frames": frames(q), "ycb_ids": [1, 2], "ycb_grasp_ind": 0}
            meta |= {"mano_sides": [hand], "mano_calib": [f"{subject}_{hand}"], "extrinsics": "20200702_151821"}
            _yaml(home / "meta.yml", meta)
            for c, serial in enumerate(serials):
                for f in range(frames(q)):
                    _write_frame(home / serial, s, q, c, f, images)
    return root


def write_json(root: Path, sequences: int = 5, *, unit: float = 0.001, none: float = -1.0) -> Path:
    """Write the COCO-style file next to the tree; HandOccNet's unit is 0.001 (metres), KeypointFusion's is 1."""
    images, annotations, number = [], [], 0
    for s in range(len(SUBJECTS)):
        for q in range(sequences):
            for c in range(len(SERIALS)):
                for f in range(frames(q)):
                    images.append({"id": number, "file_name": name(s, q, c, f), "width": WIDTH, "height": HEIGHT})
                    xyz = joints(s, q, c, f) * unit if has_hand(f) else np.full((21, 3), none)
                    k, angles = camera(c), pose(s, q, c, f)
                    annotations.append(
                        {
                            "id": number,
                            "image_id": number,
                            "joints_coord_cam": xyz.tolist(),
                            "joints_img": layouts.pixels(xyz, K(c)).tolist(),
                            "hand_type": side(s, q),
                            "cam_param": {"focal": [k["fx"], k["fy"]], "princpt": [k["ppx"], k["ppy"]]},
                            "mano_param": {"pose": angles[:48].tolist(), "shape": betas(s, side(s, q))},  # no mean
                            "bbox": [0, 0, 10, 10],
                        }
                    )
                    number += 1
    file = root / "annotations/DEX_YCB_s0_train_data.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    return file


def _write_frame(folder: Path, s: int, q: int, c: int, f: int, images: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    xyz = joints(s, q, c, f) if has_hand(f) else None
    np.savez(
        folder / f"labels_{f:06d}.npz",
        seg=np.zeros((HEIGHT, WIDTH) if images else (1, 1), np.uint8),
        pose_y=np.zeros((2, 3, 4), np.float32),
        pose_m=(np.zeros(51, np.float32) if xyz is None else pose(s, q, c, f))[None],
        joint_3d=np.full((1, 21, 3), -1, np.float32) if xyz is None else np.float32(xyz / 1000)[None],
        joint_2d=np.full((1, 21, 2), -1, np.float32) if xyz is None else np.float32(layouts.pixels(xyz, K(c)))[None],
    )
    if images:
        points = [] if xyz is None else [layouts.pixels(xyz, K(c))]
        layouts.write_image(folder / f"color_{f:06d}.jpg", layouts.picture(WIDTH, HEIGHT, *points))
        layouts.write_image(folder / f"aligned_depth_to_color_{f:06d}.png", depth(s, q))


def _yaml(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
