"""The evaluator agrees with the metrics for any batches, and hides no fault."""

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.evaluation import Evaluator
from jaxhand.metrics import epoch, epoch_metrics, epoch_sums, mpjpe, pa_mpjpe


@pytest.fixture
def hands():
    rng = np.random.default_rng(0)
    gt = rng.normal(size=(24, 21, 3)) * 40 + [0, 0, 500]
    return np.float32(gt + rng.normal(size=gt.shape) * 12), np.float32(gt)


def feed(evaluator, pred, gt, **masks):
    """Add the samples in three batches of 8 rows."""
    for start in range(0, 24, 8):
        rows = slice(start, start + 8)
        evaluator(pred[rows], gt[rows], **{name: mask[rows] for name, mask in masks.items()})
    return evaluator.get_metrics_dict()


def test_agrees_with_the_sums_of_an_epoch(hands):
    pred, gt = hands
    pred[3] *= 3
    gt[9] = 0
    valid, joint_valid = np.ones(24), np.ones((24, 21))
    valid[20:], joint_valid[5, 4:9] = 0, 0
    evaluator = Evaluator(20)
    values = feed(evaluator, pred, gt, valid=valid, joint_valid=joint_valid)
    sums = epoch_sums(pred, gt, joint_valid, valid)
    means = epoch.means(epoch_metrics.METRICS, [sums, {}])
    assert values == pytest.approx(means | {"count": 19, "nonfinite": 0, "invalid": 1}, rel=1e-5)
    assert evaluator.counter == 20


def test_root_keypoints_and_metrics_by_name(hands):
    pred, gt = hands
    metrics = ("mpjpe", "pa_mpjpe", "pa_mpjpe_reflection")
    values = feed(Evaluator(24, keypoint_list=[4, 8, 12, 16, 20], root_joint_idx=9, metrics=metrics), -pred, gt)
    relative = [points - points[:, [9]] for points in (-pred, gt)]
    tips = [points[:, 4::4] for points in relative]
    assert values["mpjpe"] == pytest.approx(float(mpjpe(*tips).mean()), rel=1e-5)
    assert values["pa_mpjpe"] == pytest.approx(float(pa_mpjpe(*tips).mean()), rel=1e-4)
    assert values["pa_mpjpe_reflection"] == pytest.approx(float(pa_mpjpe(*tips, reflection=True).mean()), rel=1e-4)
    assert values["pa_mpjpe_reflection"] < values["pa_mpjpe"]
    alone = feed(Evaluator(24, metrics=["pa_mpjpe"]), pred, gt)
    assert set(alone) == {"pa_mpjpe", "count", "nonfinite", "invalid"}


def test_not_finite_is_infinite_and_said(hands, capsys):
    pred, gt = hands
    pred[7, 3, 1], gt[11, 2] = np.nan, np.nan
    evaluator = Evaluator(24)
    values = feed(evaluator, pred, gt)
    assert values["mpjpe"] == values["pa_mpjpe"] == values["avg_metric"] == float("inf")
    assert (values["count"], values["nonfinite"], values["invalid"]) == (23, 1, 1)
    evaluator.log()
    assert capsys.readouterr().out == (
        "mpjpe: inf mm, pa_mpjpe: inf mm, avg_metric: inf mm over 23 of 24 samples, "
        "1 predictions NOT FINITE, 1 invalid labels left out\n"
    )


def test_predictions_are_kept_in_order(hands):
    pred, gt = hands
    evaluator = Evaluator(23, save_predictions=True)
    valid = np.arange(24) != 10
    feed(evaluator, pred, gt, valid=valid)
    np.testing.assert_array_equal(evaluator.get_predictions_dict()["keypoints_3d"], pred[valid])
    evaluator.reset()
    assert evaluator.counter == 0 and evaluator.get_metrics_dict()["mpjpe"] == float("inf")
    with pytest.raises(UserError, match="save_predictions=True"):
        evaluator.get_predictions_dict()


def test_mistakes_are_named(hands):
    pred, gt = hands
    evaluator = Evaluator(20)
    with pytest.raises(UserError, match="24 samples were added, but dataset_length is 20; call reset"):
        feed(evaluator, pred, gt)
    assert evaluator.counter == 16
    with pytest.raises(UserError, match="unknown metric 'mpjpa'; known metrics: mpjpe, pa_mpjpe"):
        Evaluator(20, metrics=("mpjpa",))
    with pytest.raises(ValueError, match="must both be"):
        evaluator(pred[:8], gt[:8, :20])


def test_joints_that_are_not_there():
    """JAX itself takes the nearest joint, and a mask is taken for the indices 0 and 1."""
    pred, gt = np.ones((2, 21, 3)), np.random.default_rng(0).normal(size=(2, 21, 3))
    for options in ({"keypoint_list": [0, 21]}, {"root_joint_idx": 21}, {"root_joint_idx": -22}):
        with pytest.raises(ValueError, match="one of 21 joints"):
            Evaluator(2, **options)(pred, gt)
    for keypoints in ([True] * 21, [], [0.5]):
        with pytest.raises(UserError, match="indices of joints"):
            Evaluator(2, keypoints)
    for mask in (np.ones((2, 22)), np.ones(2)):
        with pytest.raises(ValueError):
            Evaluator(2, [0, 1, 2])(pred, gt, joint_valid=mask)
    np.testing.assert_array_equal(mpjpe(pred, gt, root=-1), mpjpe(pred, gt, root=20))
    mask = np.full((2, 21), 16, np.uint8)  # 16 * 16 is 0 in this type
    np.testing.assert_allclose(mpjpe(pred, gt, root=0, valid=mask), mpjpe(pred, gt, root=0), rtol=1e-6)
