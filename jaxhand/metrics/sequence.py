"""Motion of joints over time: acceleration error and jitter."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import norm


@partial(jax.jit, static_argnames="fps")
def acceleration_error(
    pred: ArrayLike, gt: ArrayLike, *, fps: float | None = None, valid: ArrayLike | None = None
) -> jax.Array:
    """Mean distance between the accelerations of prediction and label (HMMR, VIBE `compute_error_accel`).

    Args:
        pred: (..., T, J, 3) joints of T frames, mm.
        gt: (..., T, J, 3) joints, mm.
        fps: frames per second; None keeps the unit mm / frame^2, as VIBE prints it.
        valid: (..., T) mask of labelled frames. Only three valid frames in a row count; the others do not affect the
            result.

    Returns:
        (...,) mm / s^2, or mm / frame^2, one number per sequence. NaN where no three frames in a row are valid.
    """
    error = distances(_difference(pred, 2), _difference(gt, 2)).mean(-1)  # (..., T - 2)
    return _mean_over_time(error, valid, 3) * (1 if fps is None else fps**2)


@partial(jax.jit, static_argnames="fps")
def jitter(joints: ArrayLike, *, fps: float | None = None, valid: ArrayLike | None = None) -> jax.Array:
    """Mean norm of the jerk, the third derivative in time (TransPose, WHAM `compute_jitter`).

    Both print it in 10 m / s^3: divide the result in mm / s^3 by 1e4.

    Args:
        joints: (..., T, J, 3) joints of T frames, mm.
        fps: frames per second; None keeps the unit mm / frame^3.
        valid: (..., T) mask of frames. Only four valid frames in a row count; the others do not affect the
            result.

    Returns:
        (...,) mm / s^3, or mm / frame^3, one number per sequence. NaN where no four frames in a row are valid.
    """
    size = norm(jnp.moveaxis(_difference(joints, 3), -1, 0)).mean(-1)  # (..., T - 3)
    return _mean_over_time(size, valid, 4) * (1 if fps is None else fps**3)


def _difference(joints, order: int):
    """Differences of (..., T, J, 3) joints between frames, taken `order` times: (..., T - order, J, 3)."""
    return jnp.diff(joints, order, axis=-3)


def _mean_over_time(values, valid, window: int):
    """Mean of (..., T - window + 1) values whose `window` frames are all valid."""
    if valid is None:
        return values.mean(-1)
    valid = jnp.asarray(valid) > 0
    if values.shape[-1] and valid.shape[-1] != values.shape[-1] + window - 1:
        raise ValueError(f"valid must have {values.shape[-1] + window - 1} frames, got {valid.shape[-1]}")
    run = jnp.stack([valid[..., k : k + values.shape[-1]] for k in range(window)]).all(0)
    return jnp.where(run, values, 0).sum(-1) / run.sum(-1)
