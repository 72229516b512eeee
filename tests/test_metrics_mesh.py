"""Errors of meshes against plain numpy and the field's codes."""

import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxhand import metrics
from jaxhand.metrics import f_score, mpvpe, pa_mpvpe, procrustes_align
from jaxhand.metrics.mesh import BLOCK_SAMPLES

LIMITS = (5, 15)


def meshes(count=2, vertices=778, others=None, seed=1):
    """Two surfaces some millimetres apart, half a metre from the camera; `others` vertices in the second."""
    rng = np.random.default_rng(seed)
    gt = rng.normal(size=(count, max(vertices, others or 0), 3)) * 30 + [0, 0, 500]
    pred = gt + rng.normal(size=gt.shape) * 9
    return np.float32(pred[:, :vertices]), np.float32(gt[:, : others or vertices])


def plain_f_scores(pred, gt, limits=LIMITS):
    """Of one sample, in float64."""
    distance = np.linalg.norm(pred[:, None].astype(np.float64) - gt[None].astype(np.float64), axis=-1)
    scores = []
    for limit in limits:
        precision, recall = (distance.min(1) < limit).mean(), (distance.min(0) < limit).mean()
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    return scores


def test_f_score_with_one_and_many_thresholds():
    pred, gt = meshes(3)
    expected = [plain_f_scores(*pair) for pair in zip(pred, gt)]
    assert 0.1 < np.min(expected) < np.max(expected)
    np.testing.assert_allclose(f_score(pred, gt, LIMITS), expected, rtol=1e-6)
    np.testing.assert_allclose(f_score(pred, gt, 5), np.transpose(expected)[0], rtol=1e-6)
    np.testing.assert_allclose(f_score(pred[:, None], gt[:, None], LIMITS), np.expand_dims(expected, 1), rtol=1e-6)
    np.testing.assert_allclose(f_score(pred[0], gt[0], LIMITS), expected[0], rtol=1e-6)


@pytest.mark.parametrize(("vertices", "others"), [(3, None), (17, None), (40, 778), (778, 195)])
def test_f_score_of_any_topology_runs_in_time(vertices, others):
    pred, gt = meshes(2, vertices, others)
    start = time.perf_counter()
    scores = f_score(pred, gt, LIMITS)
    assert time.perf_counter() - start < 10  # XLA:CPU has fusions that all but hang at some sizes
    np.testing.assert_allclose(scores, [plain_f_scores(*pair) for pair in zip(pred, gt)], rtol=1e-6)


def test_f_score_over_more_samples_than_a_block():
    pred, gt = meshes(BLOCK_SAMPLES + 3, 21)
    expected = [plain_f_scores(*pair) for pair in zip(pred, gt)]
    assert len(np.unique(expected)) > 5
    np.testing.assert_allclose(f_score(pred, gt, LIMITS), expected, rtol=1e-6)
    sharding = NamedSharding(Mesh(jax.devices()[:4], "data"), PartitionSpec("data"))
    pred, gt, expected = pred[:64], gt[:64], expected[:64]
    np.testing.assert_allclose(f_score(*jax.device_put((pred, gt), sharding), LIMITS), expected, rtol=1e-6)


def test_f_score_is_strict_and_hides_nothing():
    gt = np.zeros((4, 20, 3), np.float32)
    pred = gt + np.float32([3, 0, 4])
    pred[1, 7, 2], gt[2, 3, 0], pred[3, 5] = np.nan, np.inf, 1e30
    scores = np.asarray(f_score(pred, gt, (5, 5.001)))
    assert scores[0].tolist() == [0, 1]
    assert np.isnan(scores[1:3]).all()
    np.testing.assert_allclose(scores[3], [0, 2 * 0.95 / 1.95], rtol=1e-6)


def test_points_that_fill_a_block_are_nobodys_neighbours():
    gt = np.full((1, 20, 3), 900, np.float32)
    pred = gt * (np.arange(20) < 10)[:, None]  # half of them at the origin
    np.testing.assert_allclose(f_score(pred, gt, 5), 2 * 0.5 / 1.5, rtol=1e-6)


def test_f_score_in_float64():
    with jax.enable_x64(True):
        pred, gt = (np.float64(points) for points in meshes(1, 60))
        limit = np.linalg.norm(pred[0, 0] - gt[0], axis=-1).min()
        met = f_score(pred, gt, (limit, np.nextafter(limit, 99)))
        assert met.dtype == np.float64
        np.testing.assert_allclose(met[0], plain_f_scores(pred[0], gt[0], (limit, np.nextafter(limit, 99))), rtol=1e-12)
        assert met[0, 0] < met[0, 1]


@pytest.mark.parametrize("shapes", [((2, 5, 2), (2, 5, 3)), ((2, 5, 3), (3, 5, 3)), ((3,), (5, 3))])
def test_f_score_refuses_other_shapes(shapes):
    with pytest.raises(ValueError, match=r"\(\.\.\., V, 3\) and \(\.\.\., W, 3\), got"):
        f_score(*(np.zeros(shape, np.float32) for shape in shapes), 5)


def test_vertex_errors():
    pred, gt = meshes(2, 50)
    distance = np.linalg.norm(pred - gt, axis=-1)
    np.testing.assert_allclose(mpvpe(pred, gt), distance.mean(1), rtol=1e-5)
    valid = np.arange(50) < np.array([[50], [20]])
    np.testing.assert_allclose(mpvpe(pred, gt, valid=valid)[1], distance[1, :20].mean(), rtol=1e-5)
    mirrored = gt * np.float32([-2, 2, 2]) + 7
    assert pa_mpvpe(mirrored, gt, reflection=True).max() < 1e-3
    assert pa_mpvpe(mirrored, gt).min() > 1


@pytest.mark.parametrize("code", ["freihand", "ho3d"])
def test_golden_meshes(shared, code):
    golden = np.load(shared / "golden" / "metrics_mesh.npz")
    pred, gt = (np.float32(golden[f"{name}_verts_m"] * 1000.0) for name in ("pred", "gt"))
    np.testing.assert_allclose(mpvpe(pred, gt), golden[f"{code}/abs/mpvpe_mm"], atol=2e-4)
    np.testing.assert_allclose(pa_mpvpe(pred, gt, reflection=True), golden[f"{code}/pa/mpvpe_mm"], atol=2e-4)
    joints = [golden[f"{name}_joints_m"][:, :1] * 1000 for name in ("pred", "gt")]
    poses = {
        "abs": (pred, gt),
        "pa": (procrustes_align(pred, gt, reflection=True), gt),
        "rootrel": [np.float32(points - root) for points, root in zip((pred, gt), joints)],
    }
    np.testing.assert_allclose(mpvpe(*poses["rootrel"]), golden[f"{code}/rootrel/mpvpe_mm"], atol=2e-4)
    for name, pair in poses.items():
        official = [golden[f"{code}/{name}/F@{limit}"][:, 0] for limit in LIMITS]
        np.testing.assert_allclose(f_score(*pair, LIMITS), np.transpose(official), atol=1e-6)


def test_sums_of_an_epoch_count_labelled_meshes_only():
    rng = np.random.default_rng(3)
    gt = rng.normal(size=(4, 60, 3)).astype(np.float32) * 50
    pred = gt + rng.normal(size=gt.shape).astype(np.float32) * 4
    pred[2] = np.nan  # not counted
    gt[2] = 0
    valid = np.float32([1, 1, 0, 1])
    sums = metrics.mesh_sums(pred, gt, valid)
    keep = [0, 1, 3]
    assert sums["meshes"] == 3
    np.testing.assert_allclose(sums["mpvpe"], metrics.mpvpe(pred[keep], gt[keep]).sum(), rtol=1e-6)
    np.testing.assert_allclose(sums["pa_mpvpe"], metrics.pa_mpvpe(pred[keep], gt[keep]).sum(), rtol=1e-5)
    aligned = metrics.procrustes_align(pred[keep], gt[keep])
    np.testing.assert_allclose(sums["f_5"], metrics.f_score(aligned, gt[keep], 5).sum(), rtol=1e-5)
    joints, meshes = {"count": 1, "mpjpe": 3.0, "pa_mpjpe": 1.0}, {key: float(value) for key, value in sums.items()}
    means = metrics.epoch.means(metrics.epoch_metrics.METRICS, [joints, meshes])
    assert means["avg_metric"] == 2 and means["f_15"] == pytest.approx(float(sums["f_15"]) / 3)
    broken = metrics.mesh_sums(np.where(valid[:, None, None] > 0, np.nan, pred), gt, valid)
    assert np.isinf(broken["mpvpe"]) and broken["f_15"] == 0 and broken["meshes"] == 3
