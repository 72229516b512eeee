"""Acceleration error and jitter against motions whose derivatives are known."""

import numpy as np
import pytest

from jaxhand.metrics import acceleration_error, jitter

T = np.arange(8.0)[:, None, None]  # frames


def still(joints=4):
    return np.zeros((8, joints, 3))


def test_acceleration_of_a_parabola():
    direction = np.array([3.0, 4, 0])  # 5 mm
    pred = still() + T**2 * direction / 2
    assert acceleration_error(pred, still()) == pytest.approx(5)
    assert acceleration_error(pred, still(), fps=30) == pytest.approx(5 * 900)
    assert acceleration_error(pred + 7 * T - 3, pred) == pytest.approx(0, abs=1e-4)  # neither place nor speed counts


def test_jitter_of_a_cubic():
    assert jitter(still() + T**3 * np.array([0, 0, 2.0]) / 6) == pytest.approx(2)
    assert jitter(still() + T**3 * np.array([0, 0, 2.0]) / 6, fps=30) == pytest.approx(2 * 27000)
    assert jitter(still() + T**2 - 5 * T) == pytest.approx(0, abs=1e-4)


def test_official_formulas_on_noise():
    rng = np.random.default_rng(0)
    pred, gt = rng.normal(size=(2, 3, 8, 21, 3)) * 20  # three sequences
    acceleration = [x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:] for x in (pred, gt)]
    expected = np.linalg.norm(acceleration[0] - acceleration[1], axis=-1).mean((1, 2))
    np.testing.assert_allclose(acceleration_error(pred, gt), expected, rtol=1e-5)
    jerk = pred[:, 3:] - 3 * pred[:, 2:-1] + 3 * pred[:, 1:-2] - pred[:, :-3]
    np.testing.assert_allclose(jitter(pred, fps=25) / 25**3, np.linalg.norm(jerk, axis=-1).mean((1, 2)), rtol=1e-5)


def test_frames_around_a_missing_one_do_not_count():
    rng = np.random.default_rng(0)
    pred, gt = rng.normal(size=(2, 8, 4, 3)) * 20
    valid = np.array([1, 1, 1, 1, 0, 1, 1, 1])
    pred[4], gt[4] = np.nan, np.inf
    error = np.linalg.norm(np.diff(pred - gt, 2, axis=0), axis=-1).mean(-1)
    assert acceleration_error(pred, gt, valid=valid) == pytest.approx(error[[0, 1, 5]].mean(), rel=1e-5)
    size = np.linalg.norm(np.diff(pred, 3, axis=0), axis=-1).mean(-1)
    assert jitter(pred, valid=valid) == pytest.approx(size[0], rel=1e-5)
    assert np.isnan(acceleration_error(pred, gt))
    gaps = np.array([1, 1, 0, 1, 1, 0, 1, 1])
    assert np.isnan(acceleration_error(pred, gt, valid=gaps)) and np.isnan(jitter(pred, valid=gaps))


def test_too_few_frames_are_no_number():
    for frames in (0, 2):
        few, valid = np.zeros((frames, 4, 3)), np.ones(frames)
        for mask in (None, valid):
            assert np.isnan(acceleration_error(few, few, valid=mask)) and np.isnan(jitter(few, valid=mask))
