"""The evaluator without samples agrees with the one that keeps them, on any devices."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxhand.config import UserError
from jaxhand.evaluation import Evaluator, StreamingEvaluator

COUNTS = ("count", "nonfinite", "invalid")
METRICS = ("mpjpe", "pa_mpjpe")
MASKED = {"valid": np.arange(64) < 60, "joint_valid": np.arange(21) != 5 + np.zeros((64, 1), int)}


@pytest.fixture
def hands():
    rng = np.random.default_rng(0)
    gt = rng.normal(size=(64, 21, 3)) * 40 + [0, 0, 500]
    return np.float32(gt + rng.normal(size=gt.shape) * rng.gamma(2, 8, (64, 1, 1))), np.float32(gt)


def feed(evaluator, pred, gt, put=lambda batch: batch, **masks):
    """Add the samples in 4 batches of 16 rows, which `put` moves to devices."""
    for start in range(0, 64, 16):
        rows = slice(start, start + 16)
        evaluator(*put((pred[rows], gt[rows])), **{name: put(mask[rows]) for name, mask in masks.items()})
    return evaluator


def test_agrees_with_the_evaluator_that_keeps_samples(hands):
    pred, gt = hands
    gt[9] = 0
    gt[61] = np.nan
    values = feed(StreamingEvaluator(), pred, gt, **MASKED).get_metrics_dict()
    kept = feed(Evaluator(60), pred, gt, **MASKED)
    expected = kept.get_metrics_dict()
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert [values[name] for name in COUNTS] == [59, 0, 1]
    for name in METRICS:
        errors = kept._errors[name][kept._labelled]
        for key, quantile in (("median", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
            assert values[f"{name}_{key}"] == pytest.approx(np.quantile(errors, quantile), abs=0.051)
        assert values[f"{name}_max"] == pytest.approx(errors.max(), rel=1e-6)


def test_root_and_keypoints(hands):
    options = {"keypoint_list": [4, 8, 12], "root_joint_idx": 9, "metrics": ["mpjpe", "pa_mpjpe_reflection"]}
    values = feed(StreamingEvaluator(**options), *hands).get_metrics_dict()
    expected = feed(Evaluator(64, **options), *hands).get_metrics_dict()
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert "avg_metric" not in values
    with pytest.raises(UserError, match="unknown metric 'mpjpa'; known metrics: mpjpe, pa_mpjpe"):
        StreamingEvaluator(metrics=("mpjpa",))


def test_not_finite_is_infinite_and_said(hands, capsys):
    pred, gt = hands
    pred[7, 3, 1], gt[11, 2] = np.nan, np.nan
    evaluator = feed(StreamingEvaluator(metrics=["mpjpe"]), pred, gt)
    values = evaluator.get_metrics_dict()
    assert values["mpjpe"] == values["mpjpe_max"] == float("inf")
    assert 0 < values["mpjpe_median"] < values["mpjpe_p95"] < 100
    assert [values[name] for name in COUNTS] == [63, 1, 1]
    evaluator.log()
    spread = ", ".join(f"{key} {values[f'mpjpe_{key}']:.2f}" for key in ("median", "p90", "p95", "p99"))
    assert capsys.readouterr().out == (
        f"mpjpe: inf mm ({spread}, max inf)\nover 63 samples, 1 predictions NOT FINITE, 1 invalid labels left out\n"
    )
    evaluator.reset()
    assert evaluator.get_metrics_dict()["count"] == 0 and evaluator.get_metrics_dict()["mpjpe"] == float("inf")


def test_batches_split_over_devices_and_processes(hands):
    sharding = NamedSharding(Mesh(jax.devices()[:4], "data"), PartitionSpec("data"))
    one = feed(StreamingEvaluator(), *hands, **MASKED)
    split = feed(StreamingEvaluator(), *hands, put=lambda batch: jax.device_put(batch, sharding), **MASKED)
    assert split.get_metrics_dict() == pytest.approx(one.get_metrics_dict(), rel=1e-5)
    parts = [StreamingEvaluator(), StreamingEvaluator()]
    for i in range(4):
        rows = slice(16 * i, 16 * i + 16)
        parts[i % 2](*(points[rows] for points in hands), **{name: mask[rows] for name, mask in MASKED.items()})
    parts[0].add(jax.device_get(parts[1].state))
    assert parts[0].get_metrics_dict() == one.get_metrics_dict()


def test_a_batch_reads_nothing_back_and_memory_stays(hands):
    def state_after(pred, gt):
        evaluator = StreamingEvaluator()
        evaluator(pred, gt)
        evaluator(pred, gt)
        return evaluator.state

    states = jax.eval_shape(state_after, *hands)  # fails when a value is read
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states)) < 2 * 80_000
