"""The metrics of an epoch, and the optional ones compared with plain NumPy."""

import jax
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.metrics import epoch, epoch_metrics
from jaxhand.metrics.epoch import EpochMetric
from jaxhand.metrics.epoch_metrics import METRICS, chosen


def make_batch(count=8):
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 40, (count, 21, 3)).astype(np.float32) + np.float32([0, 0, 600])
    batch = {
        "keypoints_3d": joints,
        "joint_valid": np.ones((count, 21), np.float32),
        "valid": np.ones(count, np.float32),
    }
    moved = joints + rng.normal(0, 15, joints.shape).astype(np.float32) + np.float32([0, 0, 80])
    return {"keypoints_3d": moved}, batch


def measured(metrics, predictions, batch):
    sums = jax.jit(lambda *arrays: epoch.batch_sums(metrics, *arrays))(predictions, batch)
    return epoch.means(metrics, sums)


def aligned(pred, gt):
    """Similarity alignment of (N, 3) by SVD, without mirroring."""
    p, g = pred - pred.mean(0), gt - gt.mean(0)
    u, s, vt = np.linalg.svd(p.T @ g)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    return (s * sign).sum() / (p**2).sum() * p @ (u * sign) @ vt + gt.mean(0)


def test_optional_metrics():
    predictions, batch = make_batch()
    batch["joint_valid"][1, 0] = batch["joint_valid"][2, 9:14] = 0  # without a wrist; without one finger
    batch["valid"][7] = 0  # only fills the batch
    batch["keypoints_3d"][3] = 0  # a placeholder, no label
    values = measured(chosen(["cs_mpjpe", "pa_auc"]), predictions, batch)
    pred, gt = (np.float64(points["keypoints_3d"]) for points in (predictions, batch))
    valid = batch["joint_valid"] > 0
    camera = [np.linalg.norm(pred[i] - gt[i], axis=-1)[valid[i]].mean() for i in (0, 1, 2, 4, 5, 6)]
    assert values["cs_mpjpe"] == pytest.approx(np.mean(camera), rel=1e-5) and values["cs_mpjpe"] > 80
    thresholds, areas = np.linspace(0, 50, 100), []
    for i in (0, 2, 4, 5, 6):
        distance = np.linalg.norm(aligned(pred[i][valid[i]], gt[i][valid[i]]) - gt[i][valid[i]], axis=-1)
        areas.append(np.trapezoid((distance <= thresholds[:, None]).mean(1), thresholds) / 50)
    assert values["pa_auc"] == pytest.approx(np.mean(areas), abs=1e-6) and 0.3 < values["pa_auc"] < 0.9


@pytest.mark.parametrize("root", [0, 9, 20])
def test_any_joint_can_be_the_root(root):
    predictions, batch = make_batch()
    pred, gt = predictions["keypoints_3d"], batch["keypoints_3d"]
    errors, _, _ = epoch.sample_errors(pred, gt, root=root, metrics=("mpjpe",))
    relative = [points - points[:, [root]] for points in (pred, gt)]
    np.testing.assert_allclose(errors["mpjpe"], np.linalg.norm(relative[0] - relative[1], axis=-1).mean(1), rtol=1e-5)
    errors, _, _ = epoch.sample_errors(pred, gt, root=root, metrics=("mpjpe",), keypoints=(20, 4))
    chosen = [points[:, [20, 4]] for points in relative]
    np.testing.assert_allclose(errors["mpjpe"], np.linalg.norm(chosen[0] - chosen[1], axis=-1).mean(1), rtol=1e-5)


def test_nothing_that_is_not_finite_is_hidden():
    predictions, batch = make_batch()
    whole = measured(chosen(["cs_mpjpe", "pa_auc"]), predictions, batch)
    predictions["keypoints_3d"][2, 4] = np.nan
    values = measured(chosen(["cs_mpjpe", "pa_auc"]), predictions, batch)
    assert values["cs_mpjpe"] == values["mpjpe"] == np.inf
    assert whole["pa_auc"] * 6 / 8 < values["pa_auc"] < whole["pa_auc"]
    batch["valid"][:] = 0
    values = measured(chosen(["cs_mpjpe", "pa_auc"]), predictions, batch)
    assert (values["cs_mpjpe"], values["pa_auc"]) == (np.inf, 0)


def test_the_list():
    """A run measures the joints and, with a mesh, the vertices; each group of sums is one line of the console."""
    predictions, batch = make_batch()
    values = measured(METRICS, predictions, batch)
    assert list(values) == ["mpjpe", "pa_mpjpe", "avg_metric"]
    [line] = epoch.console_lines(METRICS, values)
    texts = [f"{label}: {values[name]:.3f} mm" for label, name in (("MPJPE", "mpjpe"), ("PA-MPJPE", "pa_mpjpe"))]
    assert line == ", ".join([*texts, f"Avg Metric: {values['avg_metric']:.3f} mm"])
    for points in (predictions, batch):
        points["vertices"] = points["keypoints_3d"].repeat(3, axis=1)
    batch["has_vertices"] = np.float32([1, 0] * 4)
    values = measured(METRICS, predictions, batch)
    assert list(values) == [metric.name for metric in METRICS]
    pred, gt = (points["vertices"] - points["keypoints_3d"][:, :1] for points in (predictions, batch))
    counted = (batch["valid"] > 0) & (batch["has_vertices"] > 0) & (batch["joint_valid"][:, 0] > 0)
    assert counted.sum() > 1
    assert values["mpvpe"] == pytest.approx(np.linalg.norm(pred - gt, axis=-1)[counted].mean(), rel=1e-5)
    assert epoch.console_lines(METRICS, values)[1].startswith(f"MPVPE: {values['mpvpe']:.3f} mm, PA-MPVPE: ")
    assert epoch.console_lines(METRICS, values)[1].endswith(f"F@5: {values['f_5']:.3f}, F@15: {values['f_15']:.3f}")
    batch["has_vertices"][:] = 0
    assert list(measured(METRICS, predictions, batch)) == ["mpjpe", "pa_mpjpe", "avg_metric"]


def test_a_metric_that_cannot_be_computed_is_named():
    predictions, batch = make_batch()
    bad = EpochMetric(
        "bad", "mm", lambda predictions, batch: {"sum": predictions["heat"].sum()}, lambda sums: sums["sum"]
    )
    with pytest.raises(UserError, match="epoch metric 'bad' cannot be computed: neither .* contain 'heat'"):
        measured((*METRICS, bad), predictions, batch)
    assert set(epoch_metrics.OPTIONAL) == {"cs_mpjpe", "pa_auc"}
