"""Means by joint and by finger, in float64 on the host: where a network fails."""

import numpy as np


def mean_where(values, valid=None, axis: int | None = None) -> np.ndarray:
    """Mean of the entries whose mask is > 0 over an axis, or over all: NaN where there is none.

    Args:
        values: array; those that are masked are never read.
        valid: mask of its shape; None takes all.
    """
    if valid is None:
        return np.mean(values, axis, dtype=np.float64)
    keep = np.asarray(valid) > 0
    count = keep.sum(axis)
    total = np.where(keep, values, 0).sum(axis, dtype=np.float64)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


def joint_means(distances, valid=None) -> np.ndarray:
    """Mean distance of every joint over the samples.

    Args:
        distances: (N, J), any unit.
        valid: (N, J) mask of the entries that count.

    Returns:
        (J,) in the unit of `distances`; NaN for a joint that is never valid.
    """
    return mean_where(distances, valid, 0)


def finger_means(joints, valid=None) -> np.ndarray:
    """Wrist, thumb, index, middle, ring and little finger: the mean over the joints of each.

    Args:
        joints: (..., 21) errors of the joints in jaxhand's order, means of a set or distances of samples.
        valid: (..., 21) mask of the entries that count.

    Returns:
        (..., 6) in the unit of `joints`; NaN where nothing counts.
    """
    joints = np.asarray(joints)
    valid = np.ones(joints.shape) if valid is None else np.asarray(valid)
    fingers, keep = (array[..., 1:].reshape(*array.shape[:-1], 5, 4) for array in (joints, valid))
    wrist = mean_where(joints[..., :1], valid[..., :1], -1)
    return np.concatenate([wrist[..., None], mean_where(fingers, keep, -1)], -1)
