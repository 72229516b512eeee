"""List the metrics of an epoch: the default metrics of every run, and the metrics in `training.metrics`."""

import difflib
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxhand.config import UserError
from jaxhand.io.plugins import load_object
from jaxhand.metrics.curves import pck_auc
from jaxhand.metrics.epoch import EpochMetric, epoch_sums, mesh_sums, sample_errors
from jaxhand.metrics.procrustes import procrustes_align


def chosen(names: Sequence[str]) -> tuple[EpochMetric, ...]:
    """List the default metrics of every run, then the additional ones.

    Args:
        names: additional metrics: keys of `OPTIONAL`, or `module:name` of an `EpochMetric` from outside the package.

    Raises:
        UserError: a name is unknown, is not the name of an `EpochMetric`, or is already in the list.
    """
    metrics = list(METRICS)
    for name in names:
        metric = load_object(name, "training.metrics") if ":" in name else OPTIONAL.get(name)
        if metric is None:
            near = difflib.get_close_matches(name, OPTIONAL, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"training.metrics: unknown metric {name!r}; {hint}known: {', '.join(OPTIONAL)}, or module:name"
            )
        if not isinstance(metric, EpochMetric):
            raise UserError(f"training.metrics {name}: must be an EpochMetric, got {type(metric).__name__}")
        if metric.name in (other.name for other in metrics):
            raise UserError(f"training.metrics {name}: the name {metric.name!r} is already used; rename the metric")
        metrics.append(metric)
    return tuple(metrics)


def _joint_sums(predictions: dict, batch: dict) -> dict[str, jax.Array]:
    return epoch_sums(predictions["keypoints_3d"], batch["keypoints_3d"], batch["joint_valid"], batch["valid"])


def _joint_mean(key: str) -> Callable[[dict[str, float]], float]:
    """Function from the sums to the mean over the counted hands; infinite if no hand was counted."""
    return lambda sums: sums[key] / sums["count"] if sums["count"] else math.inf


def _avg_metric(sums: dict[str, float]) -> float:
    return (_joint_mean("mpjpe")(sums) + _joint_mean("pa_mpjpe")(sums)) / 2


def _mesh_sums(predictions: dict, batch: dict) -> dict[str, jax.Array]:
    labelled = batch["valid"] * batch["has_vertices"] * batch["joint_valid"][:, 0]
    pred, gt = (points["vertices"] - points["keypoints_3d"][:, :1] for points in (predictions, batch))
    return mesh_sums(pred, gt, labelled)


def _mesh_mean(key: str) -> Callable[[dict[str, float]], float | None]:
    """Function from the sums to the mean over the compared meshes; None if no mesh was compared."""
    return lambda sums: sums[key] / sums["meshes"] if sums["meshes"] else None


def _camera_sums(predictions: dict, batch: dict) -> dict[str, jax.Array]:
    pred, gt = predictions["keypoints_3d"], batch["keypoints_3d"]
    errors, labelled, _ = sample_errors(pred, gt, batch["joint_valid"], root=None, metrics=("mpjpe",))
    counted = (batch["valid"] > 0) & labelled
    return {"mpjpe": jnp.where(counted, errors["mpjpe"], 0).sum(), "count": counted.sum()}


def _auc_sums(predictions: dict, batch: dict) -> dict[str, jax.Array]:
    pred, gt, joint_valid = predictions["keypoints_3d"], batch["keypoints_3d"], batch["joint_valid"]
    _, labelled, _ = sample_errors(pred, gt, joint_valid, metrics=("mpjpe",))
    counted = (batch["valid"] > 0) & labelled
    auc = pck_auc(procrustes_align(pred, gt, valid=joint_valid), gt, valid=joint_valid)  # not finite: 0
    return {"auc": jnp.where(counted, auc, 0).sum(), "count": counted.sum()}


MESH = {"sums": _mesh_sums, "needs": ("vertices",)}
METRICS = (
    EpochMetric("mpjpe", "mm", _joint_sums, _joint_mean("mpjpe"), "MPJPE"),  # relative to the wrist
    EpochMetric("pa_mpjpe", "mm", _joint_sums, _joint_mean("pa_mpjpe"), "PA-MPJPE"),
    EpochMetric("avg_metric", "mm", _joint_sums, _avg_metric, "Avg Metric"),  # the best checkpoint has the lowest
    EpochMetric("mpvpe", "mm", mean=_mesh_mean("mpvpe"), label="MPVPE", **MESH),
    EpochMetric("pa_mpvpe", "mm", mean=_mesh_mean("pa_mpvpe"), label="PA-MPVPE", **MESH),
    EpochMetric("f_5", "", mean=_mesh_mean("f_5"), label="F@5", **MESH),
    EpochMetric("f_15", "", mean=_mesh_mean("f_15"), label="F@15", **MESH),
)
_OPTIONAL = (
    # MPJPE in the camera's frame. The wrist is not subtracted, so the error of the hand's distance is included.
    EpochMetric("cs_mpjpe", "mm", _camera_sums, _joint_mean("mpjpe"), "CS-MPJPE"),
    # Area under the PCK curve from 0 to 50 mm (`pck_auc`), after Procrustes alignment as in `pa_mpjpe`.
    EpochMetric("pa_auc", "", _auc_sums, lambda sums: sums["auc"] / sums["count"] if sums["count"] else 0.0, "PA-AUC"),
)
OPTIONAL = {metric.name: metric for metric in _OPTIONAL}
