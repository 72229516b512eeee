"""Errors of joints in the image relative to the size of the hand's box: the metrics of HInt, as HaMeR computes them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxhand.metrics.tables import joint_means

BOX_THRESHOLDS = (0.05, 0.1, 0.15)  # of HInt, relative to the box


def box_pck(
    pred: ArrayLike,
    gt: ArrayLike,
    box_size: ArrayLike,
    *,
    valid: ArrayLike | None = None,
    thresholds: Sequence[float] = BOX_THRESHOLDS,
) -> np.ndarray:
    """Percentage of correct keypoints of a set, relative to the size of the hand's box (HaMeR `EvaluatorPCK`).

    Args:
        pred: (N, J, 2) joints, px.
        gt: (N, J, 2) joints, px.
        box_size: (N,) px, the longer side of the hand's box, without margin.
        valid: (N, J) mask of the joints that count; HInt takes those whose confidence is > 0.5.
        thresholds: (T,) fractions of `box_size`.

    Returns:
        (T, J) float64: the fraction of joints with a distance <= threshold * box_size; NaN for a joint that is never
        valid. The benchmark reports the mean over joints.
    """
    distance = np.linalg.norm(np.asarray(pred) - np.asarray(gt), axis=-1)  # (N, J)
    box_size = np.asarray(box_size)[:, None]
    return np.stack([joint_means(distance <= box_size * fraction, valid) for fraction in thresholds])


@jax.jit
def box_squared_error(pred: ArrayLike, gt: ArrayLike, box_size: ArrayLike, confidence: ArrayLike) -> jax.Array:
    """Mean over joints of confidence times squared distance relative to the box: HaMeR's `mode_kpl2`.

    Args:
        pred: (..., J, 2) joints, px.
        gt: (..., J, 2) joints, px.
        box_size: (...,) px, the longer side of the hand's box, without margin.
        confidence: (..., J) weights; a joint of weight 0 counts as error 0, whatever its values.

    Returns:
        (...,) one number per sample, without unit.
    """
    pred, gt, box_size, confidence = map(jnp.asarray, (pred, gt, box_size, confidence))
    squared = jnp.square((pred - gt) / box_size[..., None, None]).sum(-1)
    return jnp.where(confidence > 0, confidence * squared, 0).mean(-1)
