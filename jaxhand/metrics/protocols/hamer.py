"""HaMeR's evaluation: 3D joints, and on HInt 2D joints."""

from functools import partial

import jax
import numpy as np

from jaxhand.config import UserError
from jaxhand.metrics.pixels import BOX_THRESHOLDS, box_pck, box_squared_error
from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import aligned_distances
from jaxhand.metrics.protocols.base import Protocol, Scores, in_mm, in_pieces
from jaxhand.metrics.tables import joint_means, mean_where

PIECE = 8192  # number of samples computed at once


@partial(jax.jit, static_argnames="keypoints")
def _distances(pred, gt, keypoints):
    """Distances (B, J) mm of the listed joints: relative to the wrist, and Procrustes-aligned."""
    pred, gt = ((points - points[:, :1])[:, np.array(keypoints)] for points in (pred, gt))
    return distances(pred, gt), aligned_distances(pred, gt)


def hamer(pred: dict, gt: dict, *, keypoint_list: tuple[int, ...] | None = None) -> Scores:
    """Mean errors in mm: wrist-relative (`mode_mpjpe`), and Procrustes-aligned without mirroring (`mode_re`).

    Every sample is used, as in the official code. Remove samples without 3D labels before the call.

    Args:
        pred: `keypoints_3d` (N, 21, 3) m.
        gt: `keypoints_3d` (N, 21, 3) m, or (N, 21, 4) with a confidence, which is not used.
        keypoint_list: joints to score; None scores all.

    Raises:
        UserError: the list is empty, or contains a number outside 0 to 20.
    """
    keypoints = tuple(range(21) if keypoint_list is None else keypoint_list)
    if not keypoints or not set(keypoints) <= set(range(21)):
        raise UserError(f"hamer: keypoint_list must contain joints from 0 to 20, got {keypoint_list}")

    def piece(pred, gt):
        return dict(zip(("mode_mpjpe", "mode_re"), _distances(*in_mm(1000, gt[:, :1], pred, gt), keypoints)))

    found = in_pieces(piece, PIECE, pred["keypoints_3d"], gt["keypoints_3d"][..., :3])
    samples = {name: errors.mean(1) for name, errors in found.items()}
    values = {name: float(errors.mean(dtype=np.float64)) for name, errors in samples.items()}
    joints = {name: np.full(21, np.nan) for name in found}
    for name, errors in found.items():
        joints[name][list(keypoints)] = joint_means(errors)
    return Scores(values, samples, dict.fromkeys(found, "mm"), joints)


def hint(pred: dict, gt: dict) -> Scores:
    """PCK of the 2D joints with a confidence > 0.5; distances are divided by the longer side of the annotated box.

    Points are in pixels of the uncropped image; left hands are not mirrored. `box_size` is in pixels, without the
    margin of the crop: the maximum of `scale` in HaMeR's files. A joint that is never valid (NaN in the official code)
    is left out of the mean over joints.
    """
    points, target, confidence = pred["keypoints_2d"], gt["keypoints_2d"][..., :2], gt["keypoints_2d"][..., 2]
    valid = confidence > 0.5
    squared = np.asarray(box_squared_error(points, target, gt["box_size"], confidence))
    values, samples = {"mode_kpl2": float(squared.mean(dtype=np.float64))}, {"mode_kpl2": squared}
    for part, pck in zip(BOX_THRESHOLDS, box_pck(points, target, gt["box_size"], valid=valid)):
        measured = ~np.isnan(pck)
        values |= {f"kp{joint}_pck_{part}": float(pck[joint]) for joint in np.flatnonzero(measured)}
        values[f"kpAvg_pck_{part}"] = float(mean_where(pck, measured))
    samples["distance"] = mean_where(np.linalg.norm(points - target, axis=-1), valid, 1)
    return Scores(values, samples, {"mode_kpl2": "box^2", "distance": "px"})


HAMER = Protocol(
    "hamer",
    hamer,
    pred={"keypoints_3d": (21, 3)},
    gt={"keypoints_3d": (21, (3, 4))},
    unit_mm=1000,
    joint_order="hamer",
    source="geopavlakos/hamer hamer/utils/pose_utils.py Evaluator",
)
HINT = Protocol(
    "hint",
    hint,
    pred={"keypoints_2d": (21, 2)},
    gt={"keypoints_2d": (21, 3), "box_size": ()},
    joint_order="hint",
    source="geopavlakos/hamer hamer/utils/pose_utils.py EvaluatorPCK",
)
