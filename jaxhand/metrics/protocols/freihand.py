"""FreiHAND's `eval.py` and HO-3D's, which adds an alignment by scale and translation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics.align import align_by_joints, scale_translation_align
from jaxhand.metrics.curves import eval_util
from jaxhand.metrics.mesh import f_score
from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import aligned_distances, procrustes_align
from jaxhand.metrics.protocols.base import Protocol, Scores, in_mm, in_pieces

PIECE = 256  # samples at a time; their meshes fill a few megabytes
F_THRESHOLDS_MM = (5, 15)
MIDDLE_BASE = 4  # joint of HO-3D's order whose distance from the wrist sets the scale
ARRAYS = {"xyz": (21, 3)}
MESHES = {"verts": (None, 3)}


@jax.jit
def _joint_distances(pred, gt):
    """Errors (B, 21) mm: not aligned, aligned by Procrustes, and aligned by scale and translation."""
    moved = scale_translation_align(pred, gt, scale_joint=MIDDLE_BASE)
    return distances(pred, gt), aligned_distances(pred, gt, reflection=True), distances(moved, gt)


@partial(jax.jit, static_argnames="imitate_missing_scale")
def _mesh_errors(pred, gt, pred_xyz, gt_xyz, imitate_missing_scale):
    """Errors (B, V) mm of raw and aligned vertices, none if V differs, and F-scores (B, 2) of both."""
    if pred.shape == gt.shape:
        aligned = procrustes_align(pred, gt, reflection=True)
        errors = {"mesh": distances(pred, gt), "mesh_al": distances(aligned, gt)}
    else:
        aligned = align_by_joints(pred, pred_xyz, gt_xyz, imitate_missing_scale=imitate_missing_scale)
        errors = {}
    raw_and_aligned = f_score(jnp.stack([pred, aligned]), jnp.stack([gt, gt]), F_THRESHOLDS_MM)  # (2, B, 2)
    return errors, *raw_and_aligned


def _score(pred, gt, alignments, imitate_missing_scale: bool) -> Scores:
    def piece(pred_xyz, gt_xyz, *meshes):
        points = in_mm(1000, gt_xyz[:, :1], pred_xyz, gt_xyz, *meshes)
        found = dict(zip(alignments, _joint_distances(*points[:2])))
        if meshes:
            errors, raw, aligned = _mesh_errors(*points[2:], *points[:2], imitate_missing_scale)
            found |= errors
            for k, threshold in enumerate(F_THRESHOLDS_MM):
                found |= {f"f_score_{threshold}": raw[:, k], f"f_al_score_{threshold}": aligned[:, k]}
        return found

    meshes = [pred["verts"], gt["verts"]] if "verts" in pred and "verts" in gt else []
    found = in_pieces(piece, PIECE, pred["xyz"], gt["xyz"], *meshes)
    values, samples, joints, curves = {}, {}, {}, {}
    for name, errors in found.items():
        if errors.ndim == 1:
            values[name], samples[name] = float(errors.mean(dtype=np.float64)), errors
            continue
        measures = eval_util(errors)
        values |= {f"{name}_mean3d": measures.mean / 10, f"{name}_auc3d": measures.auc}
        samples[name], curves[name] = errors.mean(1), np.stack([measures.thresholds, measures.pck])
        if name in alignments:
            joints[name] = measures.joints
    units = {name: "cm" for name in values if name.endswith("mean3d")} | {name: "mm" for name in curves}
    return Scores(values, samples, units, joints, curves)


def freihand(pred: dict, gt: dict, *, imitate_missing_scale: bool = False) -> Scores:
    """Absolute and Procrustes-aligned errors of joints and vertices; `scores.txt` in cm.

    Args:
        pred: `xyz` (N, 21, 3) m, and optional `verts` (N, V, 3) m.
        gt: the labels, in the same form. Where V differs, the vertices are aligned by the joints, not by themselves,
            and only their F-scores are measured.
        imitate_missing_scale: in that case, align by the joints exactly as the official code does, see
            `align_by_joints`.
    """
    return _score(pred, gt, ("xyz", "xyz_al"), imitate_missing_scale)


def ho3d(pred: dict, gt: dict, *, imitate_missing_scale: bool = False) -> Scores:
    """Errors as `freihand`, and of joints aligned by scale and translation; HO-3D's joint order and OpenGL frame."""
    return _score(pred, gt, ("xyz", "xyz_procrustes_al", "xyz_scale_trans_al"), imitate_missing_scale)


def _protocol(measure, order, source) -> Protocol:
    kinds = {"pred": ARRAYS, "gt": ARRAYS, "pred_optional": MESHES, "gt_optional": MESHES}
    return Protocol(measure.__name__, measure, source=source, unit_mm=1000, joint_order=order, **kinds)


FREIHAND = _protocol(freihand, "freihand", "lmb-freiburg/freihand eval.py")
HO3D = _protocol(ho3d, "ho3d", "shreyashampali/ho3d eval.py")
