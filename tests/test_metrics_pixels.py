"""Errors in the image against hand-worked numbers and HaMeR's formula."""

import numpy as np
import pytest

from jaxhand.metrics import PROTOCOLS, box_pck, box_squared_error


def images(count=200, seed=0):
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0, 500, (count, 21, 3))
    gt[..., 2] = rng.choice([0, 0.5, 0.51, 1], (count, 21))
    box = rng.uniform(60, 300, count)
    return gt[..., :2] + rng.normal(size=(count, 21, 2)) * box[:, None, None] * 0.07, gt, box


def test_pck_by_box():
    gt = np.zeros((2, 3, 2))
    pred = gt + np.array([[[6, 8], [0, 11], [0, 1]], [[0, 21], [0, 19], [0, 1]]])
    pck = box_pck(pred, gt, np.array([100, 200]), thresholds=(0.1,))
    np.testing.assert_allclose(pck, [[0.5, 0.5, 1]])  # 10 px of 10, 21 of 20; 11 of 10, 19 of 20
    pred[1, 0] = np.nan
    pck = box_pck(pred, gt, np.array([100, 200]), valid=[[1, 0, 0], [0, 1, 0]], thresholds=(0.1, 0.05))
    np.testing.assert_equal(pck, [[1, 1, np.nan], [0, 0, np.nan]])


def test_squared_error_by_box():
    gt = np.zeros((1, 2, 2))
    pred = np.array([[[30.0, 40], [np.nan, 0]]])
    np.testing.assert_allclose(
        box_squared_error(pred, gt, np.array([100]), np.array([[0.8, 0]])), 0.8 * 0.25 / 2, rtol=1e-6
    )
    np.testing.assert_equal(np.asarray(box_squared_error(pred, gt, np.array([100]), np.array([[0.8, 1]]))), np.nan)


@pytest.mark.parametrize("expand", [2.0, 1.7])
def test_hint_is_hamers_formula(expand):
    """HaMeR works in boxes `expand` times as large: pixels = crop * box_size + center, scale = box_size / expand."""
    points, gt, box = images()
    box_size, center = box * expand, gt[..., :2].mean(1)
    crop = (points - center[:, None]) / box_size[:, None, None]
    restored = crop * box_size[:, None, None] + center[:, None]
    confident = gt[..., 2] > 0.5
    distance = np.sqrt(np.square(restored - gt[..., :2]).sum(2))
    scores = PROTOCOLS["hint"].score({"keypoints_2d": points}, {"keypoints_2d": gt, "box_size": box}).values
    for part in (0.05, 0.1, 0.15):
        correct = (distance <= (box_size / expand)[:, None] * part) & confident
        pck = correct.sum(0) / confident.sum(0)
        np.testing.assert_allclose([scores[f"kp{joint}_pck_{part}"] for joint in range(21)], pck, rtol=1e-12)
        assert scores[f"kpAvg_pck_{part}"] == pytest.approx(pck.mean(), rel=1e-12)
    target = (gt[..., :2] - center[:, None]) / box_size[:, None, None]
    squared = (gt[..., 2] * np.square((crop - target) * expand).sum(-1)).mean(1)
    assert scores["mode_kpl2"] == pytest.approx(squared.mean(), rel=1e-5)


def test_hint_leaves_out_a_joint_that_is_never_valid():
    points, gt, box = images(40)
    gt[:, 3, 2] = 0.5
    gt[5, :, 2] = 0
    scores = PROTOCOLS["hint"].score({"keypoints_2d": points}, {"keypoints_2d": gt, "box_size": box})
    assert "kp3_pck_0.1" not in scores.values
    others = [scores.values[f"kp{joint}_pck_0.1"] for joint in range(21) if joint != 3]
    assert scores.values["kpAvg_pck_0.1"] == pytest.approx(np.mean(others), rel=1e-12)
    assert np.flatnonzero(np.isnan(scores.samples["distance"])).tolist() == [5]
    valid = gt[0, :, 2] > 0.5
    expected = np.linalg.norm(points - gt[..., :2], axis=-1)[0, valid].mean()
    assert scores.samples["distance"][0] == pytest.approx(expected)
    assert scores.units["distance"] == "px"
