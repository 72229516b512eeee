"""Motion of joints over time: how far its acceleration is off, and how much it jitters."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import length


@partial(jax.jit, static_argnames="fps")
def acceleration_error(pred, gt, *, fps: float | None = None, valid=None):
    """Mean distance between the accelerations of prediction and label (HMMR, VIBE `compute_error_accel`).

    Args:
        pred: (..., T, J, 3) joints of T frames, mm.
        gt: (..., T, J, 3) joints, mm.
        fps: frames a second; None leaves the unit mm / frame^2, as VIBE prints it.
        valid: (..., T) mask of labelled frames. Only three valid frames in a row count, the values of the others are
            never read.

    Returns:
        (...,) mm / s^2, or mm / frame^2, one number a sequence. NaN where no three frames in a row are valid.
    """
    error = distances(_difference(pred, 2), _difference(gt, 2)).mean(-1)  # (..., T - 2)
    return _mean_over_time(error, valid, 3) * (1 if fps is None else fps**2)


@partial(jax.jit, static_argnames="fps")
def jitter(joints, *, fps: float | None = None, valid=None):
    """Mean size of the third difference in time, the jerk (TransPose, WHAM `compute_jitter`).

    Those print it in 10 m / s^3: divide the result in mm / s^3 by 1e4.

    Args:
        joints: (..., T, J, 3) joints of T frames, mm.
        fps: frames a second; None leaves the unit mm / frame^3.
        valid: (..., T) mask of frames. Only four valid frames in a row count, the values of the others are never read.

    Returns:
        (...,) mm / s^3, or mm / frame^3, one number a sequence. NaN where no four frames in a row are valid.
    """
    size = length(jnp.moveaxis(_difference(joints, 3), -1, 0)).mean(-1)  # (..., T - 3)
    return _mean_over_time(size, valid, 4) * (1 if fps is None else fps**3)


def _difference(joints, order: int):
    """Differences of (..., T, J, 3) joints between frames, taken `order` times: (..., T - order, J, 3)."""
    return jnp.diff(joints, order, axis=-3)


def _mean_over_time(values, valid, window: int):
    """Mean of (..., T - window + 1) values whose `window` frames are all valid."""
    if valid is None:
        return values.mean(-1)
    valid = valid > 0
    run = jnp.stack([valid[..., k : k + values.shape[-1]] for k in range(window)]).all(0)
    return jnp.where(run, values, 0).sum(-1) / run.sum(-1)
