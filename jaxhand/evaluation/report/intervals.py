"""Bootstrap confidence intervals of means and of paired differences (Efron 1979): the percentile method."""

from typing import NamedTuple

import numpy as np

ROUNDS = 2000  # resamples
SEED = 0  # so that a report is the same each time
_BLOCK = 2**22  # numbers that are drawn at once


class Interval(NamedTuple):
    """A mean with its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def of_mean(values: np.ndarray) -> Interval:
    """The mean of values (N,), and the interval that holds 95 % of the means of N values drawn with replacement."""
    values = np.asarray(values, np.float64)
    rng, count = np.random.default_rng(SEED), len(values)
    rounds = max(1, _BLOCK // count)
    means = []
    for start in range(0, ROUNDS, rounds):
        rows = rng.integers(0, count, (min(rounds, ROUNDS - start), count))
        means.append(values[rows].mean(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def of_difference(before: np.ndarray, after: np.ndarray) -> Interval:
    """The mean of `after - before` over the same N samples, with its interval; below 0: `after` is smaller."""
    return of_mean(np.asarray(after, np.float64) - np.asarray(before, np.float64))
