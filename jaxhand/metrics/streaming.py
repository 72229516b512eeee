"""Errors of any number of samples in fixed memory: exact sums and counts, from which means, quantiles and PCK follow.

Everything added up is an integer, so the result is the same to the bit for any batches, devices, hosts and order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxhand.metrics.curves import THRESHOLDS_MM

BINS, RANGE_MM = 19800, 1000.0
EDGES_MM = np.linspace(0, RANGE_MM, BINS + 1)  # FreiHAND's thresholds and the multiples of 5 mm are edges
DIGITS, BITS = 6, 12  # of a sum in base 4096; the last digit counts 2^-36 mm
LIMIT_MM = 2.0**24  # an error of 16 km counts as not finite
MOST_VALUES = 2**20  # a batch may hold: their digits add up within 32 bits
QUANTILES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class Stream(NamedTuple):
    """What is kept of one error; a pytree, 79 kB. Good for 2^32 values."""

    digits: jax.Array  # (6,) uint32 below 4096, except the first; the sum in mm is sum(digits * 4096.0 ** (2, 1, … -3))
    histogram: jax.Array  # (BINS + 3,) uint32: errors of 0, in (edge, next edge], beyond the range, not finite
    largest: jax.Array  # () float32 mm, of the finite ones


def start(names) -> dict[str, Stream]:
    """The state before any sample, for errors of these names; numpy arrays, so it joins any mesh of devices."""
    return {
        name: Stream(np.zeros(DIGITS, np.uint32), np.zeros(BINS + 3, np.uint32), np.zeros((), np.float32))
        for name in names
    }


@jax.jit
def update(state, errors, valid=None):
    """The state with a batch added; also for use inside `jit` and `scan`, and on batches split over devices.

    Args:
        state: what `start`, `update` or `merge` returned.
        errors: `{name: (B, ...) mm}`, >= 0, with the names of the state: one number per sample, or one per joint.
            Those that are NaN, negative or >= 2^24 mm count as not finite.
        valid: (B, ...) mask of the values that count, of the shape of the errors; None counts all.

    Returns:
        The new state.

    Raises:
        ValueError: more than 2^20 values of a name, or a mask of another shape.
    """
    return {name: _add(state[name], *_masked(name, errors[name], valid)) for name in state}


@jax.jit
def merge(first, second):
    """The state of the samples of both: of two hosts, or two parts of a set. Both have the same names."""
    return {name: _join(stream, second[name]) for name, stream in first.items()}


def summary(state, thresholds=THRESHOLDS_MM) -> dict[str, dict]:
    """What the samples score, by name of the error, as Python numbers.

    Returns:
        For each name `count` of the values and how many are `nonfinite`; `mean` (the exact sum of the values over the
        count, rounded once) and `max`, both infinite with a value that is not finite; `median`, `p90`, `p95` and `p99`
        (within 0.051 mm of numpy's quantiles, infinite beyond 1000 mm); `pck`, the share of values <= each of the
        thresholds, in mm (exact at FreiHAND's 100 and at multiples of 5 mm up to 1000, else interpolated over 0.051
        mm), and its trapezoid `auc`, in 0..1. Where nothing counted errors are infinite and shares 0.
    """
    return {name: _summary(Stream(*map(np.asarray, stream)), thresholds) for name, stream in state.items()}


def _masked(name, values, valid):
    """Flat values, float32 at least, and which count."""
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
    bins = jnp.clip(jnp.ceil(values * (BINS / RANGE_MM)), 1, BINS).astype(jnp.int32)  # one off at most
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
    """(B,) values below 2^24 in base 4096, (6, B), each step exact; a float32 >= 2^-12 mm is represented exactly."""
    digits, rest = [], values * 2.0 ** (-2 * BITS)
    for _ in range(DIGITS):
        digit = jnp.floor(rest)
        digits.append(digit.astype(jnp.uint32))
        rest = (rest - digit) * 2**BITS
    return jnp.stack(digits)


def _carry(digits):
    """Digits (6,) below 4096 but for the first, of the same number."""
    for i in range(DIGITS - 1, 0, -1):
        digits = digits.at[i - 1].add(digits[i] >> BITS).at[i].set(digits[i] & (2**BITS - 1))
    return digits


def _summary(stream, thresholds) -> dict:
    counts = stream.histogram.astype(np.int64)
    count, nonfinite = int(counts.sum()), int(counts[-1])
    total = sum(int(digit) << BITS * (DIGITS - 1 - i) for i, digit in enumerate(stream.digits))  # in 2^-36 mm
    known = count > 0 and nonfinite == 0
    share = counts[: BINS + 1].cumsum() / max(count, 1)  # of values <= each edge
    pck = np.interp(thresholds, EDGES_MM, share)
    return {
        "count": count,
        "nonfinite": nonfinite,
        "mean": total / (count << BITS * 3) if known else np.inf,
        **{name: _quantile(counts, count, quantile) for name, quantile in QUANTILES.items()},
        "max": float(stream.largest) if known else np.inf,
        "pck": pck,
        "auc": float(np.trapezoid(pck, thresholds) / np.ptp(thresholds)),
    }


def _quantile(counts, count, quantile) -> float:
    """Between the values of the two ranks around it, as numpy does; a bin's values are spread evenly over it."""
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
