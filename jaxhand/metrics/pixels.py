"""Errors of joints in the image, in parts of the hand's box: HInt's numbers, as HaMeR's evaluation counts them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics.tables import joint_means

BOX_THRESHOLDS = (0.05, 0.1, 0.15)  # of HInt


def box_pck(pred, gt, box_size, *, valid=None, thresholds=BOX_THRESHOLDS) -> np.ndarray:
    """Percentage of correct keypoints of a whole set by the size of the hand's box (HaMeR `EvaluatorPCK`).

    Args:
        pred: (N, J, 2) px.
        gt: (N, J, 2) px.
        box_size: (N,) px, the longer side of the hand's box, without margin.
        valid: (N, J) mask of the joints that count; HInt takes those whose confidence is > 0.5.
        thresholds: (T,) parts of `box_size`.

    Returns:
        (T, J) float64 share of joints with a distance <= threshold * box_size; NaN for a joint that is never valid. The
        benchmark's number is the mean over joints.
    """
    distance = np.linalg.norm(np.asarray(pred) - np.asarray(gt), axis=-1)  # (N, J)
    return np.stack([joint_means(distance <= np.asarray(box_size)[:, None] * part, valid) for part in thresholds])


@jax.jit
def box_squared_error(pred, gt, box_size, confidence):
    """Mean over joints of confidence times squared distance in parts of the box, HaMeR's `mode_kpl2`.

    Args:
        pred: (..., J, 2) px.
        gt: (..., J, 2) px.
        box_size: (...,) px, the longer side of the hand's box, without margin.
        confidence: (..., J) weights; a joint of weight 0 counts as no error, and its values are never read.

    Returns:
        (...,) one number a sample.
    """
    squared = jnp.square((pred - gt) / box_size[..., None, None]).sum(-1)
    return jnp.where(confidence > 0, confidence * squared, 0).mean(-1)
