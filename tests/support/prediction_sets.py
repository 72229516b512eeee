"""Plausible hands and predictions of them, without a renderer or a model."""

import numpy as np

BASES = np.array([[-25, 25, -5], [-25, 88, 2], [-4, 91, 4], [15, 85, 2], [32, 75, -3]])  # mm, thumb to little
LENGTHS = np.array([[42, 30, 26], [42, 26, 23], [47, 30, 25], [43, 28, 25], [34, 21, 21]])
SPREAD = np.deg2rad([50, 6, 0, -5, -12])


def hands(count: int, seed: int = 0) -> np.ndarray:
    """(count, 21, 3) mm in our order, OpenCV camera frame: curled and turned at random, 0.5 to 0.9 m away."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((count, 21, 3))
    for finger in range(5):
        joint, bend = np.broadcast_to(BASES[finger], (count, 3)), np.zeros(count)
        joints[:, 1 + 4 * finger] = joint
        for level in range(3):
            bend = bend + rng.uniform(0, 1.2, count)
            along = np.cos(bend) * LENGTHS[finger, level]
            down = -np.sin(bend) * LENGTHS[finger, level]
            joint = joint + np.stack([-np.sin(SPREAD[finger]) * along, np.cos(SPREAD[finger]) * along, down], -1)
            joints[:, 2 + 4 * finger + level] = joint
    return joints @ rotations(count, rng) + rng.uniform((-80, -80, 500), (80, 80, 900), (count, 1, 3))


def rotations(count: int, rng) -> np.ndarray:
    """(count, 3, 3) random rotations."""
    q = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    return q * np.linalg.det(q)[:, None, None]


def predicted(gt: np.ndarray, seed: int = 1, error_mm: float = 5) -> np.ndarray:
    """Points near (N, P, 3) mm: noise on every point, and a small translation of the hand."""
    rng = np.random.default_rng(seed)
    return gt + rng.normal(size=gt.shape) * error_mm + rng.normal(size=(len(gt), 1, 3)) * 2 * error_mm


def meshes(joints: np.ndarray, per_bone: int = 3) -> np.ndarray:
    """(N, 20 * per_bone, 3) points on the bones, for vertices."""
    parents = np.array([0 if i % 4 == 0 else i for i in range(20)])
    share = (np.arange(per_bone) + 0.5)[:, None] / per_bone
    start, end = joints[:, parents, None], joints[:, 1:, None]  # (N, 20, 1, 3)
    return (start + (end - start) * share).reshape(len(joints), -1, 3)
