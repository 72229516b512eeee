"""The alignment in NumPy: equal to the field's codes and to `procrustes`, also where points are missing or broken."""

import numpy as np
import pytest

from jaxhand.metrics import procrustes_align
from jaxhand.metrics.numpy_align import aligned


def hands(count=40, seed=0):
    """Hands half a metre away, and turned, scaled and noisy copies of them; mm."""
    rng = np.random.default_rng(seed)
    gt = rng.normal(size=(count, 21, 3)) * 40 + [0, 0, 500]
    turn, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))  # half of them mirror
    return (rng.uniform(0.5, 2, (count, 1, 1)) * gt @ turn + rng.normal(size=gt.shape) * 10), gt


def test_the_fields_codes(shared):
    golden = np.load(shared / "golden" / "metrics_random.npz")
    pred, gt = golden["pred_m"] * 1000, golden["gt_m"] * 1000
    for code, reflection, atol in (("hamer", False, 1e-9), ("freihand", True, 2e-6), ("ho3d", True, 2e-6)):
        errors = np.linalg.norm(aligned(pred, gt, reflection=reflection) - gt, axis=-1).mean(-1)
        np.testing.assert_allclose(errors, golden[f"f64/m/{code}/pa/mpjpe_mm"], rtol=0, atol=atol)


@pytest.mark.parametrize("reflection", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equal_to_the_metric(reflection, masked):
    pred, gt = hands()
    valid = (np.random.default_rng(1).random(gt.shape[:2]) < 0.7).astype(np.float32) if masked else None
    ours = aligned(pred, gt, valid=valid, reflection=reflection)
    theirs = procrustes_align(np.float32(pred), np.float32(gt), valid=valid, reflection=reflection)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3)


def test_broken_points_spoil_their_own_hand_only():
    pred, gt = hands(4)
    pred[1, 5, 0], gt[2, 3, 1] = np.nan, np.inf
    found = aligned(pred, gt)
    assert np.isfinite(found[[0, 3]]).all() and np.isnan(found[[1, 2]]).all()


def test_points_in_one_place_move_to_the_centre():
    _, gt = hands(2)
    center = np.broadcast_to(gt.mean(1, keepdims=True), gt.shape)
    np.testing.assert_allclose(aligned(np.full_like(gt, 7.0), gt), center, atol=1e-9)
    assert not aligned(gt, gt, valid=np.zeros((2, 21))).any()
