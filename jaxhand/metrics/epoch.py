"""Metrics of an epoch. Every hand has the same weight, also hands whose prediction is not finite.

An `EpochMetric` is one number of an epoch. The eval step, the loop, the console, TensorBoard, `metrics.jsonl` and
`jaxhand.evaluate` use the same list of metrics (`jaxhand.metrics.epoch_metrics`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.config import UserError
from jaxhand.metrics.mesh import f_score, mpvpe
from jaxhand.metrics.pose import mpjpe, pa_mpjpe
from jaxhand.metrics.procrustes import as_points, checked_joint, procrustes_align

ERRORS = {
    "mpjpe": mpjpe,
    "pa_mpjpe": pa_mpjpe,
    "pa_mpjpe_reflection": partial(pa_mpjpe, reflection=True),
}  # name → function (pred, gt, valid=) -> (B,) mm
COUNTS = ("count", "nonfinite", "invalid")  # names of the numbers of hands in `epoch_sums`
F_THRESHOLDS_MM = (5, 15)
MIN_VARIANCE = 1e-8  # mm^2; below this variance all joints coincide, so the label is a placeholder


@dataclasses.dataclass(frozen=True)
class EpochMetric:
    """One metric of an epoch: how it is computed and printed.

    Attributes:
        name: key of the metric in `metrics.jsonl`, `evaluation.json` and TensorBoard (`metric/<name>`).
        unit: "mm", or "" for a fraction of 1.
        sums: function (predictions, batch) → {key: scalar}, traced by `jax.jit`: sums over the hands of a batch. The
            sums of all batches, devices and hosts are added. Padding rows, where `batch["valid"]` is 0, must be left
            out. Metrics with the same function share its sums, and one line on the console.
        mean: function from the added sums to the number; it returns None if nothing was measured.
        label: name on the console; empty: `name`.
        needs: names of predictions, such as "vertices". A model without them is not measured by this metric.
    """

    name: str
    unit: str
    sums: Callable[[Any, Any], dict[str, jax.Array]]
    mean: Callable[[dict[str, float]], float | None]
    label: str = ""
    needs: tuple[str, ...] = ()


def batch_sums(metrics: Sequence[EpochMetric], predictions: Mapping, batch: dict) -> list[dict[str, jax.Array]]:
    """Compute the sums of a batch: one dict per distinct `sums` function, empty if a needed prediction is missing.

    Args:
        metrics: the metrics, whose order is also the order of the dicts.
        predictions: what a model returns, leading axis B.
        batch: the labels, leading axis B.

    Raises:
        UserError: a metric reads a prediction or a label that does not exist; the error names both.
    """
    found = []
    for sums, [metric, *_] in _by_sums(metrics).items():
        try:
            found.append(sums(predictions, batch) if all(key in predictions for key in metric.needs) else {})
        except KeyError as error:
            missing = f"neither the predictions of the model nor the batch contain {error}"
            raise UserError(f"epoch metric {metric.name!r} cannot be computed: {missing}") from error
    return found


def means(metrics: Sequence[EpochMetric], sums: Sequence[dict[str, float]]) -> dict[str, float]:
    """Compute name → value, only for the metrics that measured at least one hand.

    Args:
        metrics: the metrics.
        sums: the dicts of `batch_sums`, added over all batches.
    """
    values = {}
    for shared, arrays in zip(_by_sums(metrics).values(), sums):
        numbers = {key: float(value) for key, value in arrays.items()}
        values |= {metric: metric.mean(numbers) for metric in shared if numbers}
    return {metric.name: values[metric] for metric in metrics if values.get(metric) is not None}


def console_lines(metrics: Sequence[EpochMetric], results: dict[str, float]) -> list[str]:
    """The metrics in `results`, one line per distinct `sums` function: `MPJPE: 12.345 mm, PA-MPJPE: 8.901 mm`."""
    lines = []
    for shared in _by_sums(metrics).values():
        shown = [metric for metric in shared if metric.name in results]
        if shown:
            parts = [formatted(metric.label or metric.name, results[metric.name], metric.unit) for metric in shown]
            lines.append(", ".join(parts))
    return lines


def formatted(label: str, value: float, unit: str) -> str:
    """Text of one metric for the console: `MPJPE: 12.345 mm`."""
    return f"{label}: {value:.3f} {unit}".rstrip()


def _by_sums(metrics: Sequence[EpochMetric]) -> dict[Callable, list[EpochMetric]]:
    groups = {}
    for metric in metrics:
        groups.setdefault(metric.sums, []).append(metric)
    return groups


def sample_errors(
    pred: jax.Array,
    gt: jax.Array,
    joint_valid: jax.Array | None = None,
    *,
    root: int | None = 0,
    keypoints: Sequence[int] | None = None,
    metrics: Sequence[str] = ("mpjpe", "pa_mpjpe"),
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """Errors of every sample, and masks of the samples with a valid label and with a finite prediction.

    Args:
        pred: (B, J, 3) joints, mm.
        gt: (B, J, 3) joints, mm.
        joint_valid: (B, J) mask of labelled joints; None: all joints are labelled.
        root: joint that is subtracted from `pred` and `gt`; 0 is the wrist. None: no joint is subtracted.
        keypoints: indices of the joints that are scored after the subtraction; None: all.
        metrics: names in `ERRORS`.

    Returns:
        Errors `{name: (B,) mm}`: 0 if the label is invalid, inf if only the prediction is not finite.
        `labelled` (B,): False if a valid joint of `gt` is not finite, the root is not valid, or all valid joints
        coincide (variance <= 1e-8 mm^2).
        `finite` (B,): False if the prediction or an error is not finite.

    Raises:
        ValueError: the shapes are not (B, J, 3) and (B, J), or there is no such joint.
    """
    pred, gt = as_points(pred, gt)
    if gt.ndim != 3:
        raise ValueError(f"pred and gt must be (B, J, 3), got {gt.shape}")
    valid = jnp.broadcast_to(True if joint_valid is None else jnp.asarray(joint_valid) > 0, gt.shape[:-1])
    root = None if root is None else checked_joint("root", root, gt.shape[1])
    root_valid = True if root is None else valid[:, root]
    if root is not None:
        pred, gt = (points - points[:, root : root + 1] for points in (pred, gt))
    if keypoints is not None:
        chosen = np.array([checked_joint("each of keypoints", joint, gt.shape[1]) for joint in keypoints], int)
        pred, gt, valid = (values[:, chosen] for values in (pred, gt, valid))
    gt = jnp.where(valid[..., None], gt, 0)
    labelled = root_valid & (gt.var(-2, where=valid[..., None]).sum(-1) > 3 * MIN_VARIANCE)  # False for NaN
    errors = {name: ERRORS[name](pred, gt, valid=valid) for name in metrics}
    finite = jnp.isfinite(pred).all((1, 2))
    for error in errors.values():
        finite &= ~labelled | jnp.isfinite(error)
    errors = {name: jnp.where(labelled, jnp.where(finite, error, jnp.inf), 0) for name, error in errors.items()}
    return errors, labelled, finite


def epoch_sums(pred: jax.Array, gt: jax.Array, joint_valid: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Sums of the wrist-relative errors of a batch, and its numbers of valid, non-finite and invalid hands.

    Args:
        pred: (B, 21, 3) joints, mm.
        gt: (B, 21, 3) joints, mm.
        joint_valid: (B, 21) mask of labelled joints.
        valid: (B,) 0 for padding rows.

    Returns:
        Scalars. `mpjpe` and `pa_mpjpe`: mm, summed over the hands with a valid label (see `sample_errors`); infinite
        if a prediction is not finite. `count`: number of these hands. `nonfinite`: number of these hands whose
        prediction is not finite. `invalid`: number of hands that were left out, because their label is invalid.
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


def mesh_sums(pred: jax.Array, gt: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Sums of mesh errors and F-scores of a batch, over the hands whose mesh is labelled.

    Args:
        pred: (B, V, 3) vertices relative to the wrist, mm.
        gt: (B, V, 3) labelled vertices relative to the wrist, mm.
        valid: (B,) 0 for hands that are left out.

    Returns:
        Scalars, summed: `mpvpe` and `pa_mpvpe` in mm; `f_5` and `f_15`, the F-scores of aligned meshes at 5 and 15 mm.
        If a prediction is not finite, its errors are infinite and its scores 0. `meshes`: number of summed hands.
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
