"""The evaluations of FreiHAND and HO-3D (`eval.py`). HO-3D adds an alignment by scale and translation."""

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

PIECE = 256  # number of samples computed at once; their meshes take a few megabytes
F_THRESHOLDS_MM = (5, 15)
MIDDLE_BASE = 4  # joint in HO-3D's order; its distance from the wrist sets the scale
ARRAYS = {"xyz": (21, 3)}
MESHES = {"verts": (None, 3)}


@jax.jit
def _joint_distances(pred, gt):
    """Errors (B, 21) mm: not aligned, aligned by Procrustes, and aligned by scale and translation."""
    moved = scale_translation_align(pred, gt, scale_joint=MIDDLE_BASE)
    return distances(pred, gt), aligned_distances(pred, gt, reflection=True), distances(moved, gt)


@partial(jax.jit, static_argnames="imitate_missing_scale")
def _mesh_errors(pred, gt, pred_xyz, gt_xyz, imitate_missing_scale):
    """Errors (B, V) mm of vertices, raw and aligned, or {} if V differs; F-scores (B, 2) raw; F-scores aligned."""
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
    """Absolute and Procrustes-aligned errors of joints and vertices, in cm as in FreiHAND's `scores.txt`.

    Args:
        pred: `xyz` (N, 21, 3) m, and optional `verts` (N, V, 3) m.
        gt: the labels, with the same names, shapes and units. If their V differs from the predictions' V, the vertices
            are aligned by the joints, and only F-scores are measured for them.
        imitate_missing_scale: if V differs, align by the joints exactly as the official code, see `align_by_joints`.
    """
    return _score(pred, gt, ("xyz", "xyz_al"), imitate_missing_scale)


def ho3d(pred: dict, gt: dict, *, imitate_missing_scale: bool = False) -> Scores:
    """The errors of `freihand`, and of joints after alignment by scale and translation. Inputs as HO-3D's files."""
    return _score(pred, gt, ("xyz", "xyz_procrustes_al", "xyz_scale_trans_al"), imitate_missing_scale)


def _protocol(measure, order, source) -> Protocol:
    kinds = {"pred": ARRAYS, "gt": ARRAYS, "pred_optional": MESHES, "gt_optional": MESHES}
    return Protocol(measure.__name__, measure, source=source, unit_mm=1000, joint_order=order, **kinds)


FREIHAND = _protocol(freihand, "freihand", "lmb-freiburg/freihand eval.py")
HO3D = _protocol(ho3d, "ho3d", "shreyashampali/ho3d eval.py")
