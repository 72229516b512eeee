"""Errors of two hands against hand-worked numbers and InterHand2.6M's own evaluation."""

import re

import jax
import numpy as np
import pytest

from jaxhand.metrics import PROTOCOLS, handedness_correct, mrrpe, two_hand_distances, two_hand_valid
from jaxhand.metrics.protocols.interhand import from_volumes


def two_hands(count=5, seed=0):
    rng = np.random.default_rng(seed)
    gt = rng.normal(size=(count, 42, 3)) * 40 + [0, 0, 500]
    return np.float32(gt + rng.normal(size=gt.shape) * 10), np.float32(gt)


def test_each_hand_is_relative_to_its_own_wrist():
    pred, gt = two_hands()
    moved = np.concatenate([pred[:, :21] + 100, pred[:, 21:] - 50], 1)
    distance = np.asarray(two_hand_distances(moved, gt))
    for hand, root in ((slice(0, 21), 20), (slice(21, 42), 41)):
        relative = (pred - pred[:, [root]])[:, hand] - (gt - gt[:, [root]])[:, hand]
        np.testing.assert_allclose(distance[:, hand], np.linalg.norm(relative, axis=-1), atol=1e-3)
    np.testing.assert_array_equal(distance[:, [20, 41]], 0)
    wrist_first = two_hand_distances(moved[:, ::-1], gt[:, ::-1], roots=(0, 21))
    np.testing.assert_allclose(wrist_first, distance[:, ::-1], rtol=1e-6)


def test_a_hand_without_a_wrist_is_not_measured():
    valid = np.ones((3, 42), int)
    valid[0, 41], valid[1, [3, 20]], valid[2, 30] = 0, 0, 0
    expected = valid.copy()
    expected[0, 21:], expected[1, :21] = 0, 0
    np.testing.assert_array_equal(two_hand_valid(valid), expected > 0)


def test_mrrpe_is_of_the_vector_between_the_wrists():
    pred, gt = np.zeros((3, 42, 3)), np.zeros((3, 42, 3))
    gt[:, 41], pred[:, 20], pred[:, 41] = [100, 0, 0], [0, 0, 7], [103, 4, 7]
    valid = np.ones((3, 42))
    valid[1, 20], valid[2, 0] = 0, 0
    np.testing.assert_allclose(mrrpe(pred, gt), [5, 5, 5])
    np.testing.assert_equal(np.asarray(mrrpe(pred, gt, valid=valid)), [5, np.nan, 5])
    np.testing.assert_allclose(mrrpe(pred, gt, relative_root=np.tile([100.0, 0, 2], (3, 1))), 2)


def test_gradients_are_finite_where_the_error_is_zero():
    _, gt = two_hands()
    for error in (two_hand_distances, mrrpe):
        assert np.isfinite(jax.grad(lambda pred: error(pred, gt).sum())(gt)).all()


def test_handedness_needs_both_on_the_right_side():
    right, left, both = (1, 0), (0, 1), (1, 1)
    cases = [(right, 0.9, 0.1, True), (right, 0.9, 0.6, False), (left, 0.4, 0.6, True), (both, 0.6, 0.6, True)]
    cases += [(both, 0.6, 0.4, False), (right, 0.5, 0.1, False), (right, 0.9, 0.5, False)]
    gt, first, second, expected = zip(*cases)
    assert handedness_correct(np.stack([first, second], 1), np.array(gt)).tolist() == list(expected)


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden" / "interhand_eval.npz")


@pytest.fixture(scope="module")
def inputs(golden):
    gt = {"joints": golden["gt_cam_mm"], "joint_valid": golden["joint_valid"], "hand_type": golden["hand_type"]}
    depth = golden["gt_cam_mm"][:, [20, 41], 2]
    names = ("pred_joint_hm", "pred_rel_root_hm", "inv_trans", "focal", "princpt")
    pred = from_volumes(*(golden[name] for name in names), depth) | {"hand_type": golden["pred_hand_type"]}
    return pred, gt


def test_networks_outputs_become_the_official_joints(golden, inputs):
    np.testing.assert_allclose(inputs[0]["joints"], golden["pred_cam_mm"], rtol=0, atol=1e-7)


def test_the_official_evaluation(golden, inputs):
    scores = PROTOCOLS["interhand"].score(*inputs)
    for name in ("all", "single", "interacting"):
        official = golden[f"mpjpe_{name}_per_joint_mm"]
        np.testing.assert_allclose(scores.joints[name], official, rtol=0, atol=2e-4)
        assert abs(scores.values[f"MPJPE_{name}"] - official.mean()) < 2e-5
    error = scores.samples["MRRPE"]
    np.testing.assert_allclose(error[~np.isnan(error)], golden["mrrpe_mm"], rtol=0, atol=2e-4)
    assert abs(scores.values["MRRPE"] - golden["mrrpe_mm"].mean()) < 2e-5
    assert scores.values["HandednessAcc"] == golden["handedness_acc"]
    assert scores.units.keys() == (scores.values.keys() | scores.samples.keys()) - {"HandednessAcc"}


def test_what_the_official_code_prints(golden, inputs):
    scores, printed = PROTOCOLS["interhand"].score(*inputs), str(golden["stdout"])
    for name in ("all", "single", "interacting"):
        found = re.search(rf"MPJPE for {name} hand sequences: (.+)", printed).group(1)
        assert f"{scores.values[f'MPJPE_{name}']:.2f}" == found
    tables = re.findall(r"j0: .*", printed)
    for name, table in zip(("all", "single", "interacting"), tables, strict=True):
        numbers = [float(number) for number in re.findall(r"j\d+: ([\d.]+),", table)]
        np.testing.assert_allclose(scores.joints[name], numbers, rtol=0, atol=0.0052)
    accuracy, error = (float(re.search(f"{name}: (.+)", printed).group(1)) for name in ("accuracy", "MRRPE"))
    assert scores.values["HandednessAcc"] == accuracy and abs(scores.values["MRRPE"] - error) < 2e-5


def test_mmpose_averages_over_entries(golden, inputs):
    pred, gt = inputs
    scores = PROTOCOLS["interhand"].score(pred, gt, averaging="mmpose")
    official = PROTOCOLS["interhand"].score(pred, gt)
    valid, single = np.asarray(two_hand_valid(gt["joint_valid"])), golden["hand_type"] != "interacting"
    distance = np.asarray(two_hand_distances(pred["joints"], gt["joints"]))
    for name, rows in (("all", single | True), ("single", single), ("interacting", ~single)):
        expected = np.float64(distance[rows][valid[rows]]).mean()
        assert abs(scores.values[f"MPJPE_{name}"] - expected) < 1e-9
    assert abs(scores.values["MPJPE_all"] - official.values["MPJPE_all"]) > 0.01
    assert scores.values["MRRPE"] == official.values["MRRPE"]


def test_only_what_is_there_is_scored(inputs):
    pred, gt = inputs
    rows = np.flatnonzero(gt["hand_type"] != "interacting")[:7]
    few = {name: values[rows] for name, values in gt.items()}
    few["joint_valid"] = few["joint_valid"].copy()
    few["joint_valid"][:, 5] = 0
    few["joints"] = np.where(few["joint_valid"][..., None] > 0, few["joints"], np.nan)
    scores = PROTOCOLS["interhand"].score({"joints": pred["joints"][rows]}, few)
    assert scores.values.keys() == {"MPJPE_all", "MPJPE_single"}  # no interacting hands, no handedness predicted
    assert np.isfinite(scores.values["MPJPE_all"]) and np.isnan(scores.joints["all"][5])
    assert np.isnan(scores.samples["MRRPE"]).all()
    lost = {"joints": pred["joints"][rows].copy()}
    lost["joints"][0, np.flatnonzero(few["joint_valid"][0])[0]] = np.nan
    assert np.isnan(PROTOCOLS["interhand"].score(lost, few).values["MPJPE_all"])


def test_handedness_counts_where_it_is_known(inputs):
    pred, gt = inputs
    correct = PROTOCOLS["interhand"].score(pred, gt).samples["HandednessAcc"]
    known = np.arange(len(correct)) % 3 == 0
    scores = PROTOCOLS["interhand"].score(pred, gt | {"hand_type_valid": known.astype(int)})
    assert scores.values["HandednessAcc"] == pytest.approx(correct[known].mean())
    assert (np.isnan(scores.samples["HandednessAcc"]) == ~known).all()


def test_a_root_that_is_not_there():
    """JAX itself takes the last joint."""
    hands = np.zeros((2, 42, 3))
    for call in (lambda: mrrpe(hands, hands, roots=(20, 42)), lambda: two_hand_valid(hands[..., 0], roots=(20, 42))):
        with pytest.raises(ValueError, match="one of 42 joints"):
            call()
