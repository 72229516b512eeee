"""Mean distances, curves of correct keypoints (PCK), and areas under the curves (AUC), as in the official codes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxhand.metrics import pose
from jaxhand.metrics.tables import mean_where

THRESHOLDS_MM = np.linspace(0, 50, 100)  # thresholds of FreiHAND's PCK curve, with both ends
MMPOSE_THRESHOLDS_MM = np.linspace(0, 150, 31)  # thresholds of mmpose's `keypoint_3d_auc`, from MPI-INF-3DHP


class Measures(NamedTuple):
    """The results of `eval_util`; each joint has the same weight, however often it is valid."""

    mean: float  # mm
    median: float  # mm; the medians of the joints, averaged
    auc: float  # area under `pck`, divided by the range of thresholds; between 0 and 1
    pck: np.ndarray  # (T,) fraction of distances <= each threshold
    thresholds: np.ndarray  # (T,) mm
    joints: np.ndarray  # (J,) mm, mean distance of each joint; NaN for a joint that is never valid


def eval_util(distances: ArrayLike, valid: ArrayLike | None = None, thresholds: ArrayLike = THRESHOLDS_MM) -> Measures:
    """Compute FreiHAND's `EvalUtil.get_measures`, which HO-3D and DexYCB use, too.

    Every measure is computed for each joint and then averaged over the joints.

    Args:
        distances: (N, J), mm. If a distance is not finite, the means are not finite; the PCK curve counts a miss.
        valid: (N, J) mask of the distances to use. A joint that is never valid is left out of the means.
        thresholds: (T,) mm, ascending. FreiHAND uses 100 thresholds from 0 to 50, with both ends, and counts with `<=`.

    Returns:
        `Measures` in float64.
    """
    distances, thresholds = np.asarray(distances), np.asarray(thresholds, np.float64)
    keep = np.ones(distances.shape, bool) if valid is None else np.asarray(valid) > 0
    measured = np.any(keep, axis=0)  # (J,)
    joints, medians = np.full((2, len(measured)), np.nan)
    curves = np.full((len(measured), len(thresholds)), np.nan)
    for joint in np.flatnonzero(measured):
        values = np.sort(distances[keep[:, joint], joint])  # `np.sort` puts NaN at the end
        curves[joint] = np.searchsorted(values, thresholds, "right") / len(values)
        joints[joint], medians[joint] = values.mean(dtype=np.float64), np.median(values)
    mean, median = (float(mean_where(by_joint, measured)) for by_joint in (joints, medians))
    pck = mean_where(curves, np.broadcast_to(measured[:, None], curves.shape), 0)
    auc = float(np.trapezoid(pck, thresholds) / (thresholds[-1] - thresholds[0]))
    return Measures(mean, median, auc, pck, thresholds, joints)


def pck(
    pred: ArrayLike, gt: ArrayLike, *, valid: ArrayLike | None = None, thresholds: ArrayLike = THRESHOLDS_MM
) -> np.ndarray:
    """PCK curve of a set: the fraction of correct keypoints per threshold, as computed by `eval_util`.

    Args:
        pred: (B, N, 3) joints, mm, compared without alignment.
        gt: (B, N, 3) joints, mm.
        valid: (B, N) mask of the joints to measure. A joint that is never valid is left out of the mean.
        thresholds: (T,) mm, ascending.

    Returns:
        (T,) fraction of joints with a distance <= the threshold, between 0 and 1.
    """
    return eval_util(pose.distances(pred, gt), valid, thresholds).pck


@jax.jit
def pck_auc(pred: ArrayLike, gt: ArrayLike, *, valid: ArrayLike | None = None) -> jax.Array:
    """The area under the PCK curve, one number per sample, with the thresholds of FreiHAND's `EvalUtil`.

    The curve is the fraction of joints whose distance is <= each of 100 thresholds, `linspace(0, 50)` mm. The area is
    computed by the trapezoidal rule and divided by 50 mm. A distance that is not finite is a miss. If all joints are
    valid, the mean over samples is FreiHAND's AUC. If joints are missing, FreiHAND averages over samples before
    joints: use `eval_util` on the whole set.

    Args:
        pred: (..., N, 3) joints, mm, compared without alignment; pass aligned points for the AUC after alignment.
        gt: (..., N, 3) joints, mm.
        valid: (..., N) mask of the joints to measure; the other joints do not affect the result.

    Returns:
        (...,) between 0 and 1, one number per sample. NaN where no joint is valid.
    """
    distance = pose.distances(pred, gt)[..., None, :]  # (..., 1, N)
    hits = (distance <= THRESHOLDS_MM[:, None]).astype(distance.dtype)  # (..., 100, N)
    curve = pose.masked_mean(hits, None if valid is None else jnp.asarray(valid)[..., None, :])
    return jnp.trapezoid(curve, dx=1 / (len(THRESHOLDS_MM) - 1))


def keypoint_3d_pck(distances: ArrayLike, valid: ArrayLike | None = None, threshold: float = 150.0) -> float:
    """mmpose's 3DPCK: percentage of the valid distances (..., J), mm, below the threshold; NaN if none is valid."""
    return _per_cent_below(distances, valid, np.array([threshold]))


def keypoint_3d_auc(
    distances: ArrayLike, valid: ArrayLike | None = None, thresholds: ArrayLike = MMPOSE_THRESHOLDS_MM
) -> float:
    """mmpose's 3DAUC: the mean of `keypoint_3d_pck` over the thresholds 0, 5, … 150 mm, a percentage."""
    return _per_cent_below(distances, valid, np.asarray(thresholds))


def _per_cent_below(distances, valid, thresholds) -> float:
    distances = np.asarray(distances)
    distances = distances.ravel() if valid is None else distances[np.asarray(valid) > 0]
    hits = (distances < threshold for threshold in thresholds)
    return 100 * float(np.mean([hit.mean() for hit in hits])) if distances.size else np.nan
