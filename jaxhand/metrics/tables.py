"""Errors by joint and by finger, in float64 on the host: where a network fails."""

import numpy as np


def joint_means(distances, valid=None) -> np.ndarray:
    """Mean distance of every joint over all samples.

    Args:
        distances: (..., J), any unit.
        valid: (..., J) mask of the entries that count; the values of the others are never read.

    Returns:
        (J,) float64 in the unit of `distances`; NaN for a joint that is never valid.
    """
    distances = np.asarray(distances).reshape(-1, np.shape(distances)[-1])  # (N, J)
    if valid is None:
        return distances.mean(0, dtype=np.float64)
    keep = np.asarray(valid).reshape(distances.shape) > 0
    count = keep.sum(0)
    total = np.where(keep, distances, 0).sum(0, dtype=np.float64)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def finger_means(joints) -> np.ndarray:
    """Wrist, thumb, index, middle, ring and little finger: the mean over the joints of each.

    Args:
        joints: (..., 21) errors of the joints in jaxhand's order, means of a set or distances of samples.

    Returns:
        (..., 6) float64. Joints that are NaN are left out; NaN where all of a finger's are.
    """
    joints = np.asarray(joints, np.float64)
    fingers = joints[..., 1:].reshape(*joints.shape[:-1], 5, 4)
    known = ~np.isnan(fingers)
    count = known.sum(-1)
    total = np.where(known, fingers, 0).sum(-1)
    means = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return np.concatenate([joints[..., :1], means], -1)
