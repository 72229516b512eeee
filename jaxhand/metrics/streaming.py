"""Statistics of the errors of any number of samples in fixed memory: means, quantiles and PCK by exact sums and counts.

All sums are sums of integers, so that the result is bit-identical for any batches, devices, hosts and order.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxhand.metrics.curves import THRESHOLDS_MM

Array = jax.Array | np.ndarray
BINS, RANGE_MM = 19800, 1000.0  # of the histogram
EDGES_MM = np.linspace(0, RANGE_MM, BINS + 1)  # FreiHAND's thresholds and the multiples of 5 mm are edges
DIGITS, BITS = 6, 12  # a sum has 6 digits of 12 bits (base 4096); the unit of the last digit is 2^-36 mm
LIMIT_MM = 2.0**24  # an error of 16 km or more counts as not finite
MOST_VALUES = 2**20  # in one batch, so that sums of their digits fit into 32 bits
QUANTILES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class Stream(NamedTuple):
    """The statistics of one error, for up to 2^32 values; a pytree of 79 kB."""

    digits: Array  # (6,) uint32, < 4096 except the first; the sum in mm is sum(digits * 4096.0 ** (2, 1, … -3))
    histogram: Array  # (BINS + 3,) uint32 counts: errors of 0, in (edge, next edge], above the range, not finite
    largest: Array  # () float32 mm, the largest finite error


def start(names: Iterable[str]) -> dict[str, Stream]:
    """Create the state before the first sample.

    Args:
        names: names of the errors.

    Returns:
        `{name: Stream}` of zeros, as numpy arrays, so that it can be used with any device mesh.
    """
    return {
        name: Stream(np.zeros(DIGITS, np.uint32), np.zeros(BINS + 3, np.uint32), np.zeros((), np.float32))
        for name in names
    }


@jax.jit
def update(state: dict[str, Stream], errors: dict[str, ArrayLike], valid: ArrayLike | None = None) -> dict[str, Stream]:
    """Add a batch to the state; also inside `jit` and `scan`, and for batches that are split over devices.

    Args:
        state: a result of `start`, `update` or `merge`.
        errors: `{name: (B, ...) mm}`, >= 0, with the names of the state: one number per sample or joint. Values that
            are NaN, negative or >= 2^24 mm count as not finite.
        valid: (B, ...) mask of the values that count, of the shape of the errors; None counts all.

    Returns:
        The new state.

    Raises:
        ValueError: an error has more than 2^20 values, or the mask has another shape.
    """
    return {name: _add(state[name], *_masked(name, errors[name], valid)) for name in state}


@jax.jit
def merge(first: dict[str, Stream], second: dict[str, Stream]) -> dict[str, Stream]:
    """Merge two states, of two hosts or of two parts of a set.

    Args:
        first: a state.
        second: another state with the same names.

    Returns:
        The state of the samples of both.
    """
    return {name: _join(stream, second[name]) for name, stream in first.items()}


def summary(state: dict[str, Stream], thresholds: ArrayLike = THRESHOLDS_MM) -> dict[str, dict]:
    """Compute the statistics of all samples.

    Args:
        state: a result of `start`, `update` or `merge`.
        thresholds: (T,) mm, ascending, of the PCK curve.

    Returns:
        `{name: statistics}`, each a dictionary of
        `count`: number of values; `nonfinite`: how many of them are not finite;
        `mean` (the exact sum over the count, rounded once) and `max`, mm, both infinite if a value is not finite;
        `median`, `p90`, `p95`, `p99`, mm, within 0.051 mm of numpy's quantiles, infinite above 1000 mm;
        `pck`: (T,) fraction of values <= each threshold, exact at FreiHAND's 100 and at multiples of 5 mm up to 1000,
        else interpolated over 0.051 mm;
        `auc`: area under it by the trapezoidal rule, 0 to 1.
        Without values the errors are infinite and the fractions 0.
    """
    return {name: _summary(Stream(*map(np.asarray, stream)), thresholds) for name, stream in state.items()}


def _masked(name, values, valid):
    """Values, at least float32, and their mask, both flattened."""
    values = jnp.asarray(values)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    valid = jnp.ones(values.shape, bool) if valid is None else jnp.asarray(valid) > 0
    if valid.shape != values.shape or values.size > MOST_VALUES:
        raise ValueError(f"{name} has shape {values.shape} and its mask {valid.shape}: must agree, at most 2^20 values")
    return values.ravel(), valid.ravel()


def _add(stream, values, valid):
    finite = (values >= 0) & (values < LIMIT_MM)
    values = jnp.where(finite, values, 0)
    edges = jnp.asarray(EDGES_MM, values.dtype)
    bins = jnp.clip(jnp.ceil(values * (BINS / RANGE_MM)), 1, BINS).astype(jnp.int32)  # off by at most one
    bins += (values > edges[bins]).astype(jnp.int32) - (values <= edges[bins - 1])
    bins = jnp.where(finite, bins, BINS + 2)
    counted = jnp.where(finite & valid, values, 0)
    return Stream(
        _carry(stream.digits + _digits(counted).sum(1, dtype=jnp.uint32)),
        stream.histogram.at[bins].add(valid.astype(jnp.uint32)),
        jnp.maximum(stream.largest, counted.max(initial=0).astype(jnp.float32)),
    )


def _join(one, two):
    digits, histogram = one.digits + two.digits, one.histogram + two.histogram
    return Stream(_carry(digits), histogram, jnp.maximum(one.largest, two.largest))


def _digits(values):
    """(6, B) digits in base 4096 of (B,) values < 2^24. Each step is exact; so is the result for float32 >= 2^-12."""
    digits, remainder = [], values * 2.0 ** (-2 * BITS)
    for _ in range(DIGITS):
        digit = jnp.floor(remainder)
        digits.append(digit.astype(jnp.uint32))
        remainder = (remainder - digit) * 2**BITS
    return jnp.stack(digits)


def _carry(digits):
    """The digits (6,) of the same number with all but the first < 4096."""
    for i in range(DIGITS - 1, 0, -1):
        digits = digits.at[i - 1].add(digits[i] >> BITS).at[i].set(digits[i] & (2**BITS - 1))
    return digits


def _summary(stream, thresholds) -> dict:
    counts = stream.histogram.astype(np.int64)
    count, nonfinite = int(counts.sum()), int(counts[-1])
    total = sum(int(digit) << BITS * (DIGITS - 1 - i) for i, digit in enumerate(stream.digits))  # in 2^-36 mm
    finite = count > 0 and nonfinite == 0
    fraction = counts[: BINS + 1].cumsum() / max(count, 1)  # of values <= each edge
    pck = np.interp(thresholds, EDGES_MM, fraction)
    return {
        "count": count,
        "nonfinite": nonfinite,
        "mean": total / (count << BITS * 3) if finite else np.inf,
        **{name: _quantile(counts, count, quantile) for name, quantile in QUANTILES.items()},
        "max": float(stream.largest) if finite else np.inf,
        "pck": pck,
        "auc": float(np.trapezoid(pck, thresholds) / np.ptp(thresholds)),
    }


def _quantile(counts, count, quantile) -> float:
    """The quantile between the two nearest ranks, as in numpy; the values of a bin are taken as evenly spaced in it."""
    if not count:
        return np.inf
    rank = quantile * (count - 1)
    ranks = np.array([np.floor(rank), np.ceil(rank)])
    up_to = counts.cumsum()
    bins = np.searchsorted(up_to, ranks, side="right")
    if bins[1] > BINS:
        return np.inf
    within = (ranks - (up_to - counts)[bins] + 0.5) / counts[bins]
    low, high = EDGES_MM[bins] - (1 - within) * np.where(bins > 0, RANGE_MM / BINS, 0)
    return float(low + (rank - ranks[0]) * (high - low))
