"""Bootstrap intervals: their numbers for known values, whatever memory is used at a time."""

import numpy as np
import pytest

from jaxhand.evaluation.report import intervals


def test_an_interval_is_the_same_each_time():
    """For the normal distribution, 1.96 standard errors on both sides."""
    values = np.random.default_rng(0).normal(10, 2, 400)
    found = intervals.of_mean(values)
    assert found.mean == values.mean()
    np.testing.assert_allclose([found.low, found.high], values.mean() + np.array([-1.96, 1.96]) * 0.1, atol=0.02)
    assert found == intervals.of_mean(values)
    assert (found.low, found.high) == pytest.approx((9.73251914883033, 10.121912880267747), abs=1e-9)


def test_the_block_size_changes_nothing(monkeypatch):
    values = np.arange(50.0)
    whole = intervals.of_mean(values)
    for block in (50, 50 * 700, 1):
        monkeypatch.setattr(intervals, "_BLOCK", block)
        assert intervals.of_mean(values) == whole


def test_no_more_numbers_are_drawn_at_once_than_a_block(monkeypatch):
    sizes, draw = [], np.random.default_rng

    class Counted:
        def __init__(self, seed):
            self.rng = draw(seed)

        def integers(self, low, high, size):
            sizes.append(size)
            return self.rng.integers(low, high, size)

    monkeypatch.setattr(intervals, "_BLOCK", 50 * 900)
    monkeypatch.setattr(np.random, "default_rng", Counted)
    intervals.of_mean(np.arange(50.0))
    assert sizes == [(900, 50), (900, 50), (200, 50)]


def test_a_difference_is_paired():
    before, after = np.arange(9.0), np.arange(9.0) - 2
    assert intervals.of_difference(before, after) == (-2, -2, -2)
