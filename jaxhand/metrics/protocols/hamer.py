"""HaMeR's evaluator: joints in 3D, and on HInt in the image."""

from functools import partial

import jax
import numpy as np

from jaxhand.metrics.pixels import BOX_THRESHOLDS, box_pck, box_squared_error
from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import aligned_distances
from jaxhand.metrics.protocols.base import Protocol, Scores, in_mm, in_pieces
from jaxhand.metrics.tables import joint_means, mean_where

PIECE = 8192  # samples at a time


@partial(jax.jit, static_argnames="keypoint_list")
def _distances(pred, gt, keypoint_list):
    """(B, J) mm about the wrist and after alignment, of the joints in the list."""
    pred, gt = (points - points[:, :1] for points in (pred, gt))
    if keypoint_list is not None:
        pred, gt = (points[:, np.array(keypoint_list)] for points in (pred, gt))
    return distances(pred, gt), aligned_distances(pred, gt)


def hamer(pred, gt, *, keypoint_list: tuple[int, ...] | None = None) -> Scores:
    """Wrist-relative errors and Procrustes-aligned ones without mirroring (`mode_re`), mm, of the joints in a list.

    Every sample counts, as there: leave out those without a 3D label before.
    """

    joints = None if keypoint_list is None else tuple(keypoint_list)

    def piece(pred, gt):
        return dict(zip(("mode_mpjpe", "mode_re"), _distances(*in_mm(1000, gt[:, :1], pred, gt), joints)))

    found = in_pieces(piece, PIECE, pred["keypoints_3d"], gt["keypoints_3d"][..., :3])
    samples = {name: errors.mean(1) for name, errors in found.items()}
    values = {name: float(errors.mean(dtype=np.float64)) for name, errors in samples.items()}
    return Scores(values, samples, dict.fromkeys(found, "mm"), {name: joint_means(d) for name, d in found.items()})


def hint(pred, gt) -> Scores:
    """PCK of the joints in the image whose confidence is > 0.5, by the longer side of the annotated box.

    The mean over joints leaves out one that is never valid (NaN in the official code).
    """
    points, target, confidence = pred["keypoints_2d"], gt["keypoints_2d"][..., :2], gt["keypoints_2d"][..., 2]
    valid = confidence > 0.5
    squared = np.asarray(box_squared_error(points, target, gt["box_size"], confidence))
    values, samples = {"mode_kpl2": float(squared.mean(dtype=np.float64))}, {"mode_kpl2": squared}
    for part, pck in zip(BOX_THRESHOLDS, box_pck(points, target, gt["box_size"], valid=valid)):
        known = ~np.isnan(pck)
        values |= {f"kp{joint}_pck_{part}": float(pck[joint]) for joint in np.flatnonzero(known)}
        values[f"kpAvg_pck_{part}"] = float(mean_where(pck, known))
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
