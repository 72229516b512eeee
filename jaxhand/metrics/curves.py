"""Means, PCK curves and areas under them of a set of distances, by the definitions of the field's benchmarks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics import pose
from jaxhand.metrics.tables import mean_where

THRESHOLDS_MM = np.linspace(0, 50, 100)  # of FreiHAND's PCK curve, both ends included
MMPOSE_THRESHOLDS_MM = np.linspace(0, 150, 31)  # of mmpose's `keypoint_3d_auc`, after MPI-INF-3DHP


class Measures(NamedTuple):
    """The results of `eval_util`; each joint has the same weight, however often it is valid."""

    mean: float  # mm
    median: float  # mm, mean over the joints of each joint's median
    auc: float  # area under `pck`, divided by the range of thresholds, 0 to 1
    pck: np.ndarray  # (T,) fraction of distances <= each threshold
    thresholds: np.ndarray  # (T,) mm
    joints: np.ndarray  # (J,) mm, mean of each joint; NaN if it is never valid


def eval_util(distances, valid=None, thresholds=THRESHOLDS_MM) -> Measures:
    """FreiHAND's `EvalUtil.get_measures`, which HO-3D and DexYCB use too: per joint first, then the mean over joints.

    Args:
        distances: (N, J), mm. A value that is not finite makes the means not finite, and counts as a miss in the curve.
        valid: (N, J) mask of the entries that count. A joint that is never valid is left out of the means.
        thresholds: (T,) mm, ascending. FreiHAND takes 100 from 0 to 50, both ends included, and counts with `<=`.

    Returns:
        `Measures` in float64.
    """
    distances, thresholds = np.asarray(distances), np.asarray(thresholds, np.float64)
    keep = np.ones(distances.shape, bool) if valid is None else np.asarray(valid) > 0
    measured = np.any(keep, axis=0)  # (J,)
    joints, medians = np.full((2, len(measured)), np.nan)
    curves = np.full((len(measured), len(thresholds)), np.nan)
    for joint in np.flatnonzero(measured):
        values = np.sort(distances[keep[:, joint], joint])  # NaN last
        curves[joint] = np.searchsorted(values, thresholds, "right") / len(values)
        joints[joint], medians[joint] = values.mean(dtype=np.float64), np.median(values)
    mean, median = (float(mean_where(by_joint, measured)) for by_joint in (joints, medians))
    pck = mean_where(curves, np.broadcast_to(measured[:, None], curves.shape), 0)
    auc = float(np.trapezoid(pck, thresholds) / (thresholds[-1] - thresholds[0]))
    return Measures(mean, median, auc, pck, thresholds, joints)


def pck(pred, gt, *, valid=None, thresholds=THRESHOLDS_MM) -> np.ndarray:
    """Percentage of correct keypoints of a set, as `eval_util` counts it.

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
def pck_auc(pred, gt, *, valid=None):
    """Area under the PCK curve of each sample, as in FreiHAND's `EvalUtil`.

    The curve is the fraction of joints whose distance is <= each of 100 thresholds, `linspace(0, 50)` mm; the area is
    computed with the trapezoidal rule and divided by 50 mm. A distance that is not finite is a miss. If all joints are
    valid, the mean over samples is FreiHAND's AUC. If joints are missing, FreiHAND averages per joint first: use
    `eval_util` on the whole set.

    Args:
        pred: (..., N, 3) joints, mm, compared without alignment; pass aligned points for the aligned value.
        gt: (..., N, 3) joints, mm.
        valid: (..., N) mask of the joints to measure; the others do not affect the result.

    Returns:
        (...,) between 0 and 1, one number per sample. NaN where no joint is valid.
    """
    distance = pose.distances(pred, gt)[..., None, :]  # (..., 1, N)
    hits = (distance <= THRESHOLDS_MM[:, None]).astype(distance.dtype)  # (..., 100, N)
    curve = pose.masked_mean(hits, None if valid is None else valid[..., None, :])
    return jnp.trapezoid(curve, dx=1 / (len(THRESHOLDS_MM) - 1))


def keypoint_3d_pck(distances, valid=None, threshold: float = 150.0) -> float:
    """mmpose's 3DPCK: per cent of the valid distances (..., J), mm, that are < the threshold; NaN if none is valid."""
    return _per_cent_below(distances, valid, np.array([threshold]))


def keypoint_3d_auc(distances, valid=None, thresholds=MMPOSE_THRESHOLDS_MM) -> float:
    """mmpose's 3DAUC: the plain mean of `keypoint_3d_pck` over thresholds 0, 5, … 150 mm, in per cent."""
    return _per_cent_below(distances, valid, np.asarray(thresholds))


def _per_cent_below(distances, valid, thresholds) -> float:
    distances = np.asarray(distances)
    distances = distances.ravel() if valid is None else distances[np.asarray(valid) > 0]
    hits = (distances < threshold for threshold in thresholds)
    return 100 * float(np.mean([hit.mean() for hit in hits])) if distances.size else np.nan
