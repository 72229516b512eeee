"""What a test set scores: every sample counts once, and nothing that is not finite is hidden."""

import math
from functools import partial

import jax.numpy as jnp

from jaxhand.metrics.mesh import f_score, mpvpe
from jaxhand.metrics.pose import mpjpe, pa_mpjpe
from jaxhand.metrics.procrustes import as_points, procrustes_align

ERRORS = {
    "mpjpe": mpjpe,
    "pa_mpjpe": pa_mpjpe,
    "pa_mpjpe_reflection": partial(pa_mpjpe, reflection=True),
}  # by name, each (pred, gt, valid=) -> (B,) mm
F_THRESHOLDS_MM = (5, 15)
MESH_METRICS = ("mpvpe", "pa_mpvpe", "f_5", "f_15")
LEAST_VARIANCE = 1e-8  # mm^2; a hand whose joints coincide is a placeholder, not a label


def sample_errors(pred, gt, joint_valid=None, *, root: int = 0, keypoints=None, metrics=("mpjpe", "pa_mpjpe")):
    """Root-relative errors of every sample, and which samples can be measured.

    Args:
        pred: (B, J, 3) joints, mm.
        gt: (B, J, 3) joints, mm.
        joint_valid: (B, J) mask of labelled joints; None takes all.
        root: joint subtracted from both, the wrist.
        keypoints: indices of the joints to score after that; None scores all.
        metrics: names in `ERRORS`.

    Returns:
        `{name: (B,) mm}`, 0 where the label is invalid, else inf where the prediction is not finite; `labelled` (B,),
        False where a valid joint of `gt` is not finite, the root is not valid, or all valid joints coincide (variance
        <= 1e-8 mm^2); `finite` (B,), False where a prediction or its error is not.
    """
    pred, gt = as_points(pred, gt)
    valid = jnp.ones(gt.shape[:-1], bool) if joint_valid is None else joint_valid > 0
    root_valid = valid[:, root]
    pred, gt = (points - points[:, root : root + 1] for points in (pred, gt))
    if keypoints is not None:
        pred, gt, valid = (values[:, jnp.asarray(keypoints)] for values in (pred, gt, valid))
    gt = jnp.where(valid[..., None], gt, 0)
    labelled = root_valid & (gt.var(-2, where=valid[..., None]).sum(-1) > 3 * LEAST_VARIANCE)  # False for NaN
    errors = {name: ERRORS[name](pred, gt, valid=valid) for name in metrics}
    finite = jnp.isfinite(pred).all((1, 2))
    for error in errors.values():
        finite &= ~labelled | jnp.isfinite(error)
    errors = {name: jnp.where(labelled, jnp.where(finite, error, jnp.inf), 0) for name, error in errors.items()}
    return errors, labelled, finite


def epoch_sums(pred, gt, joint_valid, valid) -> dict:
    """Sums of a batch that add up over batches, devices and hosts; a jitted test step returns them.

    Args:
        pred: (B, 21, 3) joints, mm.
        gt: (B, 21, 3) joints, mm.
        joint_valid: (B, 21) mask of labelled joints.
        valid: (B,) 0 for rows that only fill the batch.

    Returns:
        Scalars: `mpjpe` and `pa_mpjpe` (mm, wrist-relative, summed over the samples that count, infinite with a
        prediction that is not finite), `count` of these samples, how many of them are `nonfinite`, and how many were
        left out for an `invalid` label (see `sample_errors`).
    """
    errors, labelled, finite = sample_errors(pred, gt, joint_valid)
    real = valid > 0
    counted = real & labelled
    sums = {name: jnp.where(counted, error, 0).sum() for name, error in errors.items()}
    return sums | {
        "count": counted.sum(),
        "nonfinite": (counted & ~finite).sum(),
        "invalid": (real & ~labelled).sum(),
    }


def mesh_sums(pred, gt, valid) -> dict:
    """Sums of a batch over the hands whose mesh is labelled, as those of `epoch_sums`.

    Args:
        pred: (B, V, 3) vertices relative to the wrist, mm.
        gt: the same of the labels.
        valid: (B,) 0 for rows that do not count.

    Returns:
        Scalars: `mpvpe`, `pa_mpvpe` in mm, `f_5` and `f_15`, the F-scores of aligned meshes at 5 and 15 mm, summed, infinite
        or 0 with a prediction that is not finite; `meshes`, how many were counted.
    """
    counted = valid > 0
    finite = jnp.isfinite(pred).all((1, 2))
    gt = jnp.where(counted[:, None, None], gt, pred)
    aligned = procrustes_align(pred, gt)
    scores = f_score(aligned, gt, F_THRESHOLDS_MM)  # (B, 2)
    errors = {"mpvpe": mpvpe(pred, gt), "pa_mpvpe": mpvpe(aligned, gt)}
    errors = {name: jnp.where(finite & jnp.isfinite(error), error, jnp.inf) for name, error in errors.items()}
    scores = {name: jnp.nan_to_num(scores[:, k]) for k, name in enumerate(("f_5", "f_15"))}
    sums = {name: jnp.where(counted, value, 0).sum() for name, value in (errors | scores).items()}
    return sums | {"meshes": counted.sum()}


def epoch_means(sums: dict) -> dict[str, float]:
    """Means of `epoch_sums`, mm: `mpjpe`, `pa_mpjpe` and their mean `avg_metric`; infinite if nothing counted.

    With `mesh_sums` also theirs, if a mesh counted.
    """
    count, meshes = int(sums["count"]), int(sums.get("meshes", 0))
    means = {name: float(sums[name]) / count if count else math.inf for name in ("mpjpe", "pa_mpjpe")}
    means["avg_metric"] = (means["mpjpe"] + means["pa_mpjpe"]) / 2
    return means | {name: float(sums[name]) / meshes for name in MESH_METRICS if meshes}
