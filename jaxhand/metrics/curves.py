"""Means, curves of correct keypoints (PCK) and areas under them (AUC) of distances, by the field's definitions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics import pose
from jaxhand.metrics.tables import mean_where

THRESHOLDS_MM = np.linspace(0, 50, 100)  # of FreiHAND's PCK curve, both ends included
MMPOSE_THRESHOLDS_MM = np.linspace(0, 150, 31)  # of mmpose's `keypoint_3d_auc`, after MPI-INF-3DHP


class Measures(NamedTuple):
    """What `eval_util` returns; every joint has the same weight, however often it is valid."""

    mean: float  # mm
    median: float  # mm, mean over the joints of each joint's median
    auc: float  # area under `pck` divided by the range of the thresholds, 0 to 1
    pck: np.ndarray  # (T,) share of distances <= each threshold
    thresholds: np.ndarray  # (T,) mm
    joints: np.ndarray  # (J,) mm, mean of each joint; NaN if it is never valid


def eval_util(distances, valid=None, thresholds=THRESHOLDS_MM) -> Measures:
    """FreiHAND's `EvalUtil.get_measures`, which HO-3D and DexYCB use too: per joint first, then the mean over joints.

    Args:
        distances: (N, J), mm. One that is not finite makes the means not finite, and is a miss in the curve.
        valid: (N, J) mask of the entries that count. A joint that is never valid is left out of the means.
        thresholds: (T,) mm, ascending. Theirs are 100 from 0 to 50, both ends included, met by `<=`.

    Returns:
        `Measures` in float64.
    """
    distances, thresholds = np.asarray(distances), np.asarray(thresholds, np.float64)
    keep = np.ones(distances.shape, bool) if valid is None else np.asarray(valid) > 0
    measured = keep.any(0)  # (J,)
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
    """Share of correct keypoints of a complete set, as `eval_util` counts it.

    Args:
        pred: (B, N, 3) joints, mm, compared as they are.
        gt: (B, N, 3) joints, mm.
        valid: (B, N) mask of the joints to measure. A joint that is never valid is left out of the mean.
        thresholds: (T,) mm, ascending.

    Returns:
        (T,) share of joints with a distance <= the threshold, between 0 and 1.
    """
    return eval_util(pose.distances(pred, gt), valid, thresholds).pck


@jax.jit
def pck_auc(pred, gt, *, valid=None):
    """Area under the curve of correct keypoints, as FreiHAND's `EvalUtil` counts it, of every sample.

    The curve is the share of joints whose distance is <= each of 100 thresholds, `linspace(0, 50)` mm; the area is
    its trapezoid over 50 mm. A distance that is not finite is a miss. The mean over samples is FreiHAND's AUC where all
    joints are valid; with joints missing FreiHAND averages per joint first: use `eval_util` over the complete set.

    Args:
        pred: (..., N, 3) joints, mm, compared as they are; pass aligned points for the aligned figure.
        gt: (..., N, 3) joints, mm.
        valid: (..., N) mask of the joints to measure; the values of the others are never read.

    Returns:
        (...,) between 0 and 1, one number per sample. NaN where no joint is valid.
    """
    distance = pose.distances(pred, gt)[..., None, :]  # (..., 1, N)
    hits = (distance <= THRESHOLDS_MM[:, None]).astype(distance.dtype)  # (..., 100, N)
    curve = pose.masked_mean(hits, None if valid is None else valid[..., None, :])
    return jnp.trapezoid(curve, dx=1 / (len(THRESHOLDS_MM) - 1))


def keypoint_3d_pck(distances, valid=None, threshold: float = 150.0) -> float:
    """mmpose's 3DPCK: per cent of all valid distances (..., J) in mm that are < the threshold; NaN if there is none."""
    return _per_cent_below(distances, valid, np.array([threshold]))


def keypoint_3d_auc(distances, valid=None, thresholds=MMPOSE_THRESHOLDS_MM) -> float:
    """mmpose's 3DAUC: the plain mean of `keypoint_3d_pck` over thresholds 0, 5, … 150 mm, in per cent."""
    return _per_cent_below(distances, valid, np.asarray(thresholds))


def _per_cent_below(distances, valid, thresholds) -> float:
    distances = np.asarray(distances)
    distances = distances.ravel() if valid is None else distances[np.asarray(valid) > 0]
    hits = (distances < threshold for threshold in thresholds)
    return 100 * float(np.mean([hit.mean() for hit in hits])) if distances.size else np.nan
