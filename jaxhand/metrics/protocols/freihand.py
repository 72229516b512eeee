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


@partial(jax.jit, static_argnames="scale_translation")
def _joint_distances(pred, gt, scale_translation):
    """(B, 21) mm for every alignment, by the name it has in scores.txt."""
    found = {"xyz": distances(pred, gt), "xyz_al": aligned_distances(pred, gt, reflection=True)}
    if scale_translation:
        aligned = scale_translation_align(pred, gt, scale_joint=MIDDLE_BASE)
        found = {"xyz": found["xyz"], "xyz_procrustes_al": found["xyz_al"]}
        found["xyz_scale_trans_al"] = distances(aligned, gt)
    return found


@partial(jax.jit, static_argnames="imitate_missing_scale")
def _mesh_errors(pred, gt, pred_xyz, gt_xyz, imitate_missing_scale):
    """(B, V) mm of raw and aligned vertices where the topology is the same, and (B,) F-scores of both."""
    same, found = pred.shape == gt.shape, {}
    if same:
        aligned = procrustes_align(pred, gt, reflection=True)
        found = {"mesh": distances(pred, gt), "mesh_al": distances(aligned, gt)}
    else:
        aligned = align_by_joints(pred, pred_xyz, gt_xyz, imitate_missing_scale=imitate_missing_scale)
    for threshold in F_THRESHOLDS_MM:
        found[f"f_score_{threshold}"] = f_score(pred, gt, threshold)
        found[f"f_al_score_{threshold}"] = f_score(aligned, gt, threshold)
    return found


def _score(pred, gt, *, scale_translation: bool, imitate_missing_scale: bool) -> Scores:
    def piece(pred_xyz, gt_xyz, *meshes):
        origin = np.asarray(gt_xyz[:, :1], np.float64)
        points = in_mm(1000, origin, pred_xyz, gt_xyz, *meshes)
        found = _joint_distances(*points[:2], scale_translation)
        if meshes:
            found |= _mesh_errors(*points[2:], *points[:2], imitate_missing_scale)
        return found

    meshes = [pred["verts"], gt["verts"]] if "verts" in pred and "verts" in gt else []
    found = in_pieces(piece, PIECE, pred["xyz"], gt["xyz"], *meshes)
    values, samples, joints, curves = {}, {}, {}, {}
    for name, errors in found.items():
        if errors.ndim == 1:
            values[name], samples[name] = errors.mean(dtype=np.float64), errors
            continue
        measures = eval_util(errors)
        values |= {f"{name}_mean3d": measures.mean / 10, f"{name}_auc3d": measures.auc}
        samples[name], curves[name] = errors.mean(1), np.stack([measures.thresholds, measures.pck])
        if name.startswith("xyz"):
            joints[name] = measures.joints
    units = {name: "cm" for name in values if name.endswith("mean3d")} | {name: "mm" for name in curves}
    return Scores({name: float(value) for name, value in values.items()}, samples, units, joints, curves)


def freihand(pred, gt, *, imitate_missing_scale: bool = False) -> Scores:
    """Absolute and Procrustes-aligned errors of joints and vertices; `scores.txt` in cm.

    Vertices are aligned by themselves where both meshes have as many, else by the joints, and then only F-scores are
    measured. `imitate_missing_scale` does that as the official code, see `align_by_joints`.
    """
    return _score(pred, gt, scale_translation=False, imitate_missing_scale=imitate_missing_scale)


def ho3d(pred, gt, *, imitate_missing_scale: bool = False) -> Scores:
    """As `freihand`, and joints aligned by scale and translation; HO-3D's joint order, OpenGL frame, `scores.txt` in cm."""
    return _score(pred, gt, scale_translation=True, imitate_missing_scale=imitate_missing_scale)


def _protocol(measure, order, source) -> Protocol:
    kinds = {"pred": ARRAYS, "gt": ARRAYS, "pred_optional": MESHES, "gt_optional": MESHES}
    return Protocol(measure.__name__, measure, source=source, unit_mm=1000, joint_order=order, **kinds)


FREIHAND = _protocol(freihand, "freihand", "lmb-freiburg/freihand eval.py")
HO3D = _protocol(ho3d, "ho3d", "shreyashampali/ho3d eval.py")
