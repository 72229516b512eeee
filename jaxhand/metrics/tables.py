"""Mean errors by joint and by finger, in float64 on the host."""

import typing

import numpy as np
from numpy.typing import ArrayLike


def mean_where(values: ArrayLike, valid: ArrayLike | None = None, axis: int | None = None) -> np.ndarray:
    """Mean of the valid entries.

    Args:
        values: array of any shape and unit; entries that are not valid do not affect the result.
        valid: mask, > 0 for valid entries, whose shape broadcasts to that of the values; None takes all.
        axis: axis to average over; None averages over all.

    Returns:
        float64 array without that axis, or a scalar; NaN where no entry is valid.
    """
    if valid is None:
        return typing.cast(np.ndarray, np.mean(np.asarray(values), axis, dtype=np.float64))
    keep = np.broadcast_to(np.asarray(valid) > 0, np.shape(values))
    count = keep.sum(axis)
    total = np.where(keep, values, 0).sum(axis, dtype=np.float64)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


def joint_means(distances: ArrayLike, valid: ArrayLike | None = None) -> np.ndarray:
    """Mean distance of each joint over the samples.

    Args:
        distances: (N, J), any unit.
        valid: (N, J) mask of the entries that count.

    Returns:
        (J,) in the unit of `distances`; NaN for a joint that is never valid.
    """
    return mean_where(distances, valid, 0)


def finger_means(joints: ArrayLike, valid: ArrayLike | None = None) -> np.ndarray:
    """Mean over the joints of the wrist, the thumb, the index, middle, ring and little finger.

    Args:
        joints: (..., 21) errors in jaxhand's joint order, any unit: means of a set, or distances of samples.
        valid: (..., 21) mask of the entries that count.

    Returns:
        (..., 6) in the unit of `joints`; NaN where no joint is valid.
    """
    joints = np.asarray(joints)
    valid = np.ones(joints.shape) if valid is None else np.asarray(valid)
    fingers, keep = (array[..., 1:].reshape(*array.shape[:-1], 5, 4) for array in (joints, valid))
    wrist = mean_where(joints[..., :1], valid[..., :1], -1)
    return np.concatenate([wrist[..., None], mean_where(fingers, keep, -1)], -1)
