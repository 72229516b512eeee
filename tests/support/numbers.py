"""Arrays in three numbers each, so that a test can state what came out, and notices another outcome."""

import numpy as np
import pytest


def summary(rows) -> list[float]:
    """Mean, mean absolute value and a mean with random weights of an array (N, ...), whose pixels are averaged.

    Single pixels that are rounded differently on another machine change it little, another formula changes it clearly.
    """
    values = np.nan_to_num(np.asarray(rows, np.float64)).reshape(len(rows), -1)
    if values.shape[1] > 1000:  # an image: 16 parts of it
        values = values[:, : values.shape[1] // 16 * 16].reshape(len(rows), 16, -1).mean(-1)
    weights = np.random.default_rng(0).standard_normal(values.shape)
    numbers = values.mean(), np.abs(values).mean(), (weights * values).mean() * np.sqrt(values.size)
    return [float(f"{number:.6g}") for number in numbers]


def assert_summary(rows, expected: list[float], tolerance: float = 1e-3) -> None:
    """Check the `summary` of an array; `tolerance` is relative to the size of its values."""
    found, scale = summary(rows), max(abs(expected[1]), 1e-6)
    assert found == pytest.approx(expected, abs=tolerance * scale), found
