"""What one labelled hand is, whatever it was read from.

A *source* is any object with `__len__` and `__getitem__(i) -> Record`: NumPy only, safe to call from many threads.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled hand: millimetres in the OpenCV camera frame, RGB, integer pixel coordinates are pixel centres."""

    image: np.ndarray  # (H, W, 3) uint8
    K: np.ndarray  # (3, 3)
    keypoints_3d: np.ndarray  # (21, 3) mm
    joint_valid: np.ndarray  # (21,) 1 where the joint is labelled
    hand: str  # "right" or "left"
    depth: np.ndarray | None = None  # (H, W) mm, 0 where unknown
    bbox: np.ndarray | None = None  # (4,) x0, y0, x1, y1 px
    vertices: np.ndarray | None = None  # (V, 3) mm
    mano_pose: np.ndarray | None = None  # (48,) axis-angle
    mano_shape: np.ndarray | None = None  # (10,)
    name: str = ""


class WithoutDepth:
    """A source whose depth is hidden."""

    def __init__(self, source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(self._source[index], depth=None)


def labels(source, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Joints of at most `most` records, evenly spread over a source, left hands mirrored: (N,21,3) mm, (N,21) valid."""
    indices = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int))
    records = [source[int(i)] for i in indices]
    mirror = np.float32([[1 if record.hand == "right" else -1, 1, 1] for record in records])  # (N, 3)
    joints = np.stack([record.keypoints_3d for record in records]).astype(np.float32) * mirror[:, None]
    return joints, np.stack([record.joint_valid for record in records]).astype(np.float32)
