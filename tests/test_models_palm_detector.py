"""The palm detector's candidates and which remain; its network is compared in test_interop_mediapipe_weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxhand.models import palm_detector
from jaxhand.models.palm_detector import decode, overlap, suppress


def palm(x: float, y: float, side: float) -> np.ndarray:
    """Nine points of a palm whose box has its middle at x, y."""
    return np.float32([[x - side / 2, y - side / 2], [x + side / 2, y + side / 2]] + [[x, y]] * 7)


def test_anchors_are_the_middles_of_cells():
    anchors = palm_detector.anchors()
    assert anchors.shape == (2016, 2)
    assert anchors[[0, 1, 2, 48, 1152, 1157, 1158, 2015]].tolist() == [
        [4, 4], [4, 4], [12, 4], [4, 12], [8, 8], [8, 8], [24, 8], [184, 184],
    ]  # fmt: skip


def test_candidates_are_relative_to_their_anchors():
    numbers = np.zeros((1, 2016, 18), np.float32)
    numbers[0, 2, :4] = 1, 2, 20, 10  # centre and extent of the box
    numbers[0, 2, 4:6] = -3, 5  # the first point
    palms = decode(jnp.asarray(numbers), jnp.zeros((1, 2016)).at[0, 2].set(np.log(3)))
    np.testing.assert_allclose(palms.points[0, 2, :3], np.array([[3, 1], [23, 11], [9, 9]]) - 0.5)  # anchor (12, 4)
    assert palms.scores[0, 2] == pytest.approx(0.75) and palms.scores[0, 3] == 0.5


def test_overlapping_candidates_are_averaged_by_score():
    points = np.stack([palm(50, 50, 20), palm(120, 40, 30), palm(53, 50, 20), palm(54, 50, 20), palm(50, 90, 20)])
    found, scores = suppress(points, np.float32([0.6, 0.7, 0.9, 0.3, 0.2]), least=0.25)
    np.testing.assert_allclose(scores, [0.9, 0.7])
    mean = (0.6 * points[0] + 0.9 * points[2] + 0.3 * points[3]) / 1.8
    np.testing.assert_allclose(found, np.stack([mean, points[1]]), rtol=1e-6)


def test_nothing_likely_is_no_palm():
    found, scores = suppress(np.zeros((3, 9, 2), np.float32), np.zeros(3, np.float32), least=0.5)
    assert found.shape == (0, 9, 2) and scores.shape == (0,)


def test_boxes_without_an_area_do_not_divide_by_zero():
    flat = np.zeros((2, 9, 2), np.float32)
    found, _ = suppress(flat, np.float32([0.9, 0.8]), least=0.5)
    assert np.isfinite(found).all()
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    np.testing.assert_allclose(overlap(np.array([0, 0, 2, 2]), boxes), [1, 1 / 7, 0])
