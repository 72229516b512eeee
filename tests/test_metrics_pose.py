"""MPJPE, PCK, meshes and the sums of an epoch against plain numpy and the field's codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxhand.metrics import (
    epoch,
    epoch_metrics,
    epoch_sums,
    mpjpe,
    pa_mpjpe,
    pck,
    pck_auc,
    pose,
    procrustes_align,
)

THRESHOLDS = np.linspace(0, 50, 100)
jitted_sums = jax.jit(epoch_sums)


def epoch_means(sums):
    return epoch.means(epoch_metrics.METRICS, [sums, {}])


def hands(count=16, joints=21, seed=0):
    rng = np.random.default_rng(seed)
    gt = rng.normal(size=(count, joints, 3)) * 40 + [0, 0, 500]
    return np.float32(gt + rng.normal(size=gt.shape) * 12 + 5), np.float32(gt)


def test_mpjpe_and_its_root_and_mask():
    pred, gt = hands()
    distance = np.linalg.norm(pred - gt, axis=-1)
    np.testing.assert_allclose(mpjpe(pred, gt), distance.mean(1), rtol=1e-5)
    for root in (0, 9):
        relative = np.linalg.norm((pred - pred[:, [root]]) - (gt - gt[:, [root]]), axis=-1)
        np.testing.assert_allclose(mpjpe(pred, gt, root=root), relative.mean(1), rtol=1e-4)
    valid = np.ones((16, 21), bool)
    valid[:, 3], valid[0] = False, False
    valid[1, 0] = False
    pred[:, 3] = np.nan
    errors = np.asarray(mpjpe(pred, gt, valid=valid))
    np.testing.assert_allclose(errors[2:], np.delete(distance, 3, 1).mean(1)[2:], rtol=1e-5)
    assert np.isnan(errors).tolist() == [True] + [False] * 15
    assert np.isnan(mpjpe(pred, gt, root=0, valid=valid)).tolist() == [True] * 2 + [False] * 14
    np.testing.assert_allclose(pose.distances(pred, gt, valid=valid), np.where(valid, distance, 0), rtol=1e-5)


def test_integers_and_halves_are_measured_in_float32():
    pred, gt = np.ones((2, 21, 3), int), np.zeros((2, 21, 3), np.float16)
    assert mpjpe(pred, gt).dtype == np.float32
    np.testing.assert_allclose(mpjpe(pred, gt), 3**0.5, rtol=1e-6)


def test_auc_of_known_distances():
    gt = np.zeros((4, 21, 3), np.float32)
    pred = gt + np.float32([0, 0, 1]) * np.float32([0, 25, 50, 60])[:, None, None]
    auc = np.asarray(pck_auc(pred, gt))
    expected = [np.trapezoid(1.0 * (distance <= THRESHOLDS), THRESHOLDS) / 50 for distance in (0, 25, 50, 60)]
    np.testing.assert_allclose(auc, expected, atol=1e-6)
    assert auc[0] == 1 and 0 < auc[2] < 0.01 and auc[3] == 0  # <= meets the last threshold
    pred[0, 0] = np.nan
    np.testing.assert_allclose(pck_auc(pred, gt)[0], 20 / 21, rtol=1e-6)


def test_pck_averages_per_joint_first():
    gt = np.zeros((4, 3, 3), np.float32)
    pred = gt.copy()
    pred[:, 1] = 30
    valid = np.float32([[1, 1, 0]] + 3 * [[1, 0, 0]])  # joint 1 once, joint 2 never
    np.testing.assert_allclose(pck(pred, gt, valid=valid, thresholds=[0, 10, 60]), [0.5, 0.5, 1])


def test_epoch_sums_count_every_sample_once():
    pred, gt = hands(12)
    joint_valid = np.ones((12, 21), np.float32)
    joint_valid[2, 5:9] = 0
    gt[2, 5:9] = 0
    valid = np.float32([1] * 10 + [0] * 2)
    gt[10], pred[11] = np.nan, np.nan  # rows that only fill the batch
    gt[3, 7] = np.nan
    gt[4] = -1  # a placeholder
    joint_valid[5, 0] = 0  # no wrist to be relative to
    good = np.array([0, 1, 2, 6, 7, 8, 9])
    sums = jitted_sums(pred, gt, joint_valid, valid)
    assert (int(sums["count"]), int(sums["nonfinite"]), int(sums["invalid"])) == (7, 0, 3)
    means = epoch_means(sums)
    rows = pred[good], gt[good]
    assert means["mpjpe"] == pytest.approx(float(mpjpe(*rows, root=0, valid=joint_valid[good]).mean()), rel=1e-5)
    assert means["pa_mpjpe"] == pytest.approx(float(pa_mpjpe(*rows, valid=joint_valid[good]).mean()), rel=1e-5)
    assert means["avg_metric"] == pytest.approx((means["mpjpe"] + means["pa_mpjpe"]) / 2)
    devices = jax.devices()[:4]
    split = NamedSharding(Mesh(devices, "data"), PartitionSpec("data"))
    sharded = jitted_sums(*(jax.device_put(array, split) for array in (pred, gt, joint_valid, valid)))
    for name in sums:
        np.testing.assert_allclose(sharded[name], sums[name], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_prediction_that_is_not_finite_is_infinitely_wrong(bad):
    pred, gt = hands(12)
    pred[1, 20], pred[4, 0] = bad, bad  # 1e30 mm is finite, its square is not
    gt[4] = 0
    sums = jitted_sums(pred, gt, np.ones((12, 21), np.float32), np.ones(12, np.float32))
    assert (int(sums["count"]), int(sums["nonfinite"]), int(sums["invalid"])) == (11, 1, 1)
    assert set(epoch_means(sums).values()) == {float("inf")}


def test_nothing_counted_is_no_zero():
    pred, gt = hands(12)
    sums = jitted_sums(pred, gt, np.ones((12, 21), np.float32), np.zeros(12, np.float32))
    assert (int(sums["count"]), float(sums["mpjpe"])) == (0, 0)
    assert set(epoch_means(sums).values()) == {float("inf")}


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden" / "metrics_random.npz")


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 2e-4), (True, 1e-9)])
def test_the_fields_codes_on_joints(golden, x64, tolerance):
    """EvalUtil aligns by all joints, and masks only the mean."""
    visible = golden["vis"]
    with jax.enable_x64(x64):
        pred, gt = jnp.asarray(golden["pred_m"] * 1000), jnp.asarray(golden["gt_m"] * 1000)
        close = {"rtol": 0, "atol": tolerance}
        np.testing.assert_allclose(mpjpe(pred, gt), golden["f64/m/freihand/abs/mpjpe_mm"], **close)
        np.testing.assert_allclose(mpjpe(pred, gt, root=0), golden["f64/m/hamer/rootrel/mpjpe_mm"], **close)
        np.testing.assert_allclose(mpjpe(pred, gt, valid=visible), golden["f64/m_vis/freihand/abs/mpjpe_mm"], **close)
        aligned = procrustes_align(pred, gt)
        masked = mpjpe(aligned, gt, valid=visible)
        np.testing.assert_allclose(masked, golden["f64/m_vis/mmpose/procrustes/mpjpe_mm"], **close)
        share = 1e-6 if x64 else 2.1 / visible.size  # float32 may round two of the joints over a threshold
        for kind, points in (("abs", pred), ("pa", procrustes_align(pred, gt, reflection=True))):
            official = f"f64/m/freihand/{kind}"
            np.testing.assert_allclose(pck_auc(points, gt).mean(), golden[f"{official}/auc"], atol=1e-6)
            np.testing.assert_allclose(pck(points, gt), golden[f"{official}/pck"], rtol=0, atol=share)
            official = f"f64/m_vis/freihand/{kind}"
            curve = pck(points, gt, valid=visible)
            np.testing.assert_allclose(curve, golden[f"{official}/pck"], rtol=0, atol=share)
            np.testing.assert_allclose(np.trapezoid(curve, THRESHOLDS) / 50, golden[f"{official}/auc"], atol=1e-6)
