"""Errors in fixed memory against exact arithmetic and numpy on all samples at once."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxhand.metrics import pck, pck_auc
from jaxhand.metrics.streaming import BINS, EDGES_MM, QUANTILES, merge, start, summary, update

THRESHOLDS = np.linspace(0, 50, 100)
BATCH = 4096


@pytest.fixture(scope="module")
def errors():
    """Of 4 batches, a long tail: 0.0002 to 900 mm."""
    return np.float32(np.minimum(np.random.default_rng(0).lognormal(2.5, 1.2, 4 * BATCH), 900))


def exact_mean(values):
    """Correctly rounded."""
    return float(sum(map(Fraction, values.tolist())) / len(values))


def stream(values, valid=None, name="mpjpe"):
    """State after all batches of the values."""
    state = start([name])
    for i in range(0, len(values), BATCH):
        rows = slice(i, i + BATCH)
        state = update(state, {name: values[rows]}, None if valid is None else valid[rows])
    return state


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_means_are_exact_and_quantiles_close(errors):
    found = summary(stream(errors))["mpjpe"]
    assert found["mean"] == pytest.approx(exact_mean(errors), rel=1e-12)
    assert (found["count"], found["nonfinite"], found["max"]) == (len(errors), 0, errors.max())
    for name, quantile in QUANTILES.items():
        assert found[name] == pytest.approx(np.quantile(errors.astype(np.float64), quantile), abs=0.051), name
    large = errors[errors >= 2**-12]  # all their bits are kept
    assert summary(stream(large[:BATCH]))["mpjpe"]["mean"] == exact_mean(large[:BATCH])


def test_order_batches_and_devices_change_no_bit(errors):
    whole = bits(stream(errors))
    order = np.random.default_rng(1).permutation(len(errors))
    assert bits(stream(errors[order])) == whole
    assert bits(merge(stream(errors[:BATCH]), stream(errors[BATCH:]))) == whole
    sharding = NamedSharding(Mesh(jax.devices()[:4], "data"), PartitionSpec("data"))
    state = start(["mpjpe"])
    for batch in errors.reshape(4, BATCH):
        state = update(state, {"mpjpe": jax.device_put(batch, sharding)})
    assert bits(state) == whole
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
    batches = errors.reshape(4, BATCH)
    scanned = jax.lax.scan(lambda state, batch: (update(state, {"mpjpe": batch}), 0), start(["mpjpe"]), batches)[0]
    assert bits(scanned) == whole


def test_a_billion_samples_lose_nothing(errors):
    state = stream(errors)
    for _ in range(16):  # 2^14 values, 2^30 in the end
        state = merge(state, state)
    found = summary(state)["mpjpe"]
    assert found["count"] == 2**30
    assert found["mean"] == summary(stream(errors))["mpjpe"]["mean"]


def test_the_largest_batch_and_values_do_not_overflow():
    values = np.full(2**20, np.nextafter(np.float32(2**24), np.float32(0)))
    state = update(start(["far"]), {"far": values})
    for _ in range(11):
        state = merge(state, state)
    found = summary(state)["far"]
    assert (found["count"], found["mean"], found["max"]) == (2**31, values[0], values[0])
    assert found["median"] == math.inf and found["pck"].max() == 0
    with pytest.raises(ValueError, match=r"far has shape \(1048577,\).*at most 2\^20"):
        update(state, {"far": np.ones(2**20 + 1, np.float32)})


def test_pck_of_joints_is_exact():
    distance = np.float32(np.abs(np.random.default_rng(0).normal(size=(64, 21)) * 20))
    distance[0, :4] = [0, 50, THRESHOLDS[7], np.nextafter(np.float32(THRESHOLDS[7]), np.float32(99))]
    state = update(start(["joints"]), {"joints": distance})
    found = summary(state)["joints"]
    hits = distance <= np.float32(THRESHOLDS)[:, None, None]
    np.testing.assert_allclose(found["pck"], hits.mean((1, 2)), atol=1e-12)
    points = distance[..., None] * np.float32([0, 0, 1]), np.zeros((64, 21, 3), np.float32)
    np.testing.assert_allclose(found["pck"], pck(*points), atol=1e-6)
    assert found["auc"] == pytest.approx(float(pck_auc(*points).mean()), abs=1e-6)
    fives = np.arange(0, 151, 5)  # mmpose's
    found = summary(state, fives)["joints"]
    np.testing.assert_allclose(found["pck"], (distance <= fives[:, None, None]).mean((1, 2)), atol=1e-12)


def test_every_edge_falls_into_its_own_bin():
    edges = np.float32(EDGES_MM)
    above = np.nextafter(edges[1:], np.float32(2e3))
    at, past = (np.asarray(update(start(["mm"]), {"mm": mm})["mm"].histogram).tolist() for mm in (edges, above))
    assert at == [1] * (BINS + 1) + [0, 0]
    assert past == [0, 0] + [1] * BINS + [0]


def test_masked_values_count_nothing_and_bad_ones_are_not_hidden(errors):
    values, valid = errors[:BATCH].copy(), np.ones(BATCH)
    values[:3], valid[:3] = [np.nan, np.inf, 1e9], 0
    found = summary(stream(values, valid))["mpjpe"]
    assert (found["count"], found["nonfinite"]) == (BATCH - 3, 0)
    assert found["mean"] == pytest.approx(exact_mean(values[3:]), rel=1e-12)
    values[3:6] = [np.nan, -1, 2**24]
    found = summary(stream(values, valid))["mpjpe"]
    assert (found["count"], found["nonfinite"], found["mean"], found["max"]) == (BATCH - 3, 3, math.inf, math.inf)
    expected = np.quantile(np.append(np.float64(values[6:]), [1e9] * 3), 0.9)
    assert found["p90"] == pytest.approx(expected, abs=0.051)
    with pytest.raises(ValueError, match=r"mpjpe has shape \(5,\) and its mask \(4,\)"):
        update(start(["mpjpe"]), {"mpjpe": np.ones(5)}, np.ones(4))


def test_small_sets_and_the_end_of_the_range():
    nothing = summary(start(["mpjpe"]))["mpjpe"]
    assert [nothing[name] for name in ("mean", "median", "p99", "max")] == [math.inf] * 4
    assert (nothing["count"], nothing["auc"]) == (0, 0)
    few = summary(update(start(["mpjpe"]), {"mpjpe": np.float32([7, 0, 1200])}))["mpjpe"]
    assert few["median"] == pytest.approx(7, abs=0.051) and few["p90"] == math.inf
    assert (few["mean"], few["max"]) == (1207 / 3, 1200)
    zeros = summary(update(start(["mpjpe"]), {"mpjpe": np.zeros(3, np.float32)}))["mpjpe"]
    assert (zeros["mean"], zeros["median"], zeros["p99"], zeros["max"], zeros["auc"]) == (0, 0, 0, 0, 1)


def test_in_float64():
    values = np.random.default_rng(3).uniform(0, 60, 500)
    with jax.enable_x64(True):
        state = update(start(["mpjpe"]), {"mpjpe": values})
    assert summary(state)["mpjpe"]["mean"] == pytest.approx(exact_mean(values), abs=2e-11)
    assert np.asarray(state["mpjpe"].digits).dtype == np.uint32 and state["mpjpe"].largest.dtype == np.float32
