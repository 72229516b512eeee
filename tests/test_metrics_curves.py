"""EvalUtil's measures and mmpose's against plain loops, the field's codes, and published results."""

import json

import jax
import numpy as np
import pytest

from jaxhand.metrics import (
    eval_util,
    keypoint_3d_auc,
    keypoint_3d_pck,
    procrustes_align,
    scale_align,
    scale_translation_align,
)
from jaxhand.metrics.pose import distances
from jaxhand.metrics.procrustes import aligned_distances
from jaxhand.metrics.tables import mean_where


def plain_eval_util(distances, valid, thresholds):
    """EvalUtil's definition, joint by joint."""
    means, medians, curves, areas = [], [], [], []
    for values, keep in zip(distances.T, valid.T):
        values = values[keep > 0]
        if not values.size:
            continue
        curve = np.array([(values <= threshold).mean() for threshold in thresholds])
        means.append(values.mean())
        medians.append(np.median(values))
        curves.append(curve)
        areas.append(np.trapezoid(curve, thresholds) / np.trapezoid(np.ones_like(thresholds), thresholds))
    return np.mean(means), np.mean(medians), np.mean(areas), np.mean(curves, 0)


@pytest.mark.parametrize("thresholds", [np.linspace(0, 50, 100), np.array([1.0, 10, 30])])
def test_eval_util_is_its_definition(thresholds):
    rng = np.random.default_rng(0)
    distance = rng.gamma(2, 10, (300, 7))
    distance[:40, 2] = rng.choice(thresholds, 40)  # on a threshold is a hit
    valid = rng.random((300, 7)) < np.linspace(0, 1, 7)  # joint 0 never
    measures = eval_util(distance, valid, thresholds)
    mean, median, auc, pck = plain_eval_util(distance, valid, thresholds)
    np.testing.assert_allclose([measures.mean, measures.median, measures.auc], [mean, median, auc], rtol=1e-12)
    np.testing.assert_allclose(measures.pck, pck, rtol=1e-12)
    assert np.isnan(measures.joints).tolist() == [True] + [False] * 6
    assert np.nanmean(measures.joints) == pytest.approx(mean)
    np.testing.assert_array_equal(measures.thresholds, thresholds)


def test_distances_that_are_not_finite_are_misses_and_seen():
    distance = np.zeros((4, 2))
    distance[1, 0], distance[2, 1] = np.nan, np.inf
    measures = eval_util(distance)
    assert not np.isfinite(measures.mean)
    np.testing.assert_allclose(measures.pck, 0.75)
    assert measures.auc == pytest.approx(0.75)
    assert eval_util(distance, np.isfinite(distance)).mean == 0


def test_without_valid_joints_the_error_is_nan():
    measures = eval_util(np.zeros((3, 2)), np.zeros((3, 2)))
    assert np.isnan([measures.mean, measures.median, measures.auc]).all() and np.isnan(measures.pck).all()
    assert np.isnan(keypoint_3d_pck(np.zeros((3, 2)), np.zeros((3, 2))))


def test_mmpose_counts_entries_in_per_cent():
    distance = np.float32([[0, 150], [10, 140], [7, 7]])
    valid = [[1, 1], [1, 1], [1, 0]]
    assert keypoint_3d_pck(distance, valid) == pytest.approx(80)  # 150 itself is a miss
    assert keypoint_3d_pck(distance, threshold=8) == pytest.approx(50)
    hits = [30, 28, 29, 2, 0]  # thresholds 0, 5, … 150 above 0, 10, 7, 140, 150
    assert keypoint_3d_auc(distance, valid) == pytest.approx(100 * np.mean(hits) / 31)


ALIGNMENT = {  # code/alignment of the golden file → ours
    "freihand/abs": "absolute",
    "freihand/pa": "mirroring",
    "ho3d/abs": "absolute",
    "ho3d/pa": "mirroring",
    "ho3d/st": "scale_translation",
    "evalutil/rootrel": "root",
    "dexycb/absolute": "absolute",
    "dexycb/root-relative": "root",
    "dexycb/procrustes": "mirroring",
    "hamer/abs": "absolute",
    "hamer/pa": "rigid",
    "hamer/rootrel": "root",
    "hamer/rootrel_pa": "rigid",
    "utnet/abs": "absolute",
    "utnet/pa": "rigid",
    "utnet/evaluator_rootrel": "root",
    "mmpose/none": "absolute",
    "mmpose/procrustes": "rigid",
    "mmpose/scale": "scale",
    "graphormer/pa": "rigid",
    "mks0601/pa": "rigid",
}
MASKING = ("freihand", "ho3d", "evalutil", "mmpose")  # the other codes score invisible joints too
ADDS_EPSILON = ("freihand", "ho3d", "dexycb", "utnet")  # to norms, or under roots


def all_distances(pred, gt):
    moved = scale_translation_align(pred, gt, scale_joint=4)  # the file's joints are in FreiHAND's order
    found = {
        "absolute": distances(pred, gt),
        "root": distances(pred, gt, root=0),
        "rigid": distances(procrustes_align(pred, gt), gt),
        "mirroring": aligned_distances(pred, gt, reflection=True),
        "scale_translation": distances(moved, gt),
        "scale": distances(scale_align(pred, gt), gt),
    }
    return {name: np.asarray(values) for name, values in found.items()}


@pytest.mark.parametrize(("precision", "x64"), [("f32", False), ("f64", True)])
def test_every_number_of_every_code(shared, precision, x64):
    golden = np.load(shared / "golden" / "metrics_random.npz")
    with jax.enable_x64(x64):
        ours = all_distances(golden["pred_m"] * 1000, golden["gt_m"] * 1000)
    measures, wrong, count = {}, {}, 0
    for key in golden.files:
        if not key.startswith(precision) or key.endswith("as_is_dtype_ok"):  # whether HaMeR's code ran unchanged
            continue
        _, unit, code, alignment, quantity = key.split("/")
        name = "rigid" if quantity == "pa_mpjpe_mm" else ALIGNMENT[f"{code}/{alignment}"]
        distance, valid = ours[name], golden["vis"] if unit == "m_vis" and code in MASKING else None
        if (name, valid is None) not in measures:
            measures[name, valid is None] = eval_util(distance, valid)
        dataset = measures[name, valid is None]
        value = {
            "per_joint_mm": distance,
            "mpjpe_mm": mean_where(distance, valid, 1),
            "pa_mpjpe_mm": mean_where(distance, valid, 1),
            "mean_mm": mean_where(distance, valid) if code == "mmpose" else dataset.mean,
            "mpjpe": dataset.mean,
            "median_mm": dataset.median,
            "auc": dataset.auc,
            "pck": dataset.pck,
        }[quantity]
        tolerance = 2e-4 if not x64 else 2e-6 if code in ADDS_EPSILON else 1e-9
        if quantity == "per_joint_mm" and x64:
            tolerance = 1e-5  # FreiHAND's epsilon at a fingertip
        if quantity == "auc" or (quantity == "pck" and x64):
            tolerance = 2e-6 if not x64 else 1e-9
        error = np.abs(value - golden[key]).max()
        if not error < tolerance:
            wrong[key] = error
        count += 1
    assert wrong == {}
    assert count == (104 if x64 else 102)


def millimetres(uvd, camera):
    fx, fy, u0, v0 = camera
    u, v, depth = np.moveaxis(np.float64(uvd), -1, 0)
    return np.stack([(u - u0) * depth / fx, (v - v0) * depth / fy, depth], -1)


@pytest.mark.parametrize("name", ["nyu", "icvl"])
def test_published_predictions(shared, name):
    """Their authors' means to the digits printed, and the numbers of FreiHAND's and HaMeR's codes for their joints."""
    golden = np.load(shared / "golden" / f"real_{name}.npz")
    table = json.loads((shared / "golden" / "real_table.json").read_text())
    camera = golden["camera_fx_fy_u0_v0"]
    coded = "gt_uvd_milli_framedelta" in golden

    def read(key):
        return np.cumsum(golden[f"{key}_milli_framedelta"], 0) / 1000 if coded else golden[key]

    gt = millimetres(read("gt_uvd"), camera)
    methods = sorted({key.split("/")[0] for key in golden.files if "/" in key})
    assert methods == sorted(key.split("/")[1] for key in table if key.startswith(name))
    for method in methods:
        pred, row = millimetres(read(f"{method}/pred_uvd"), camera), table[f"{name}/{method}"]
        raw, either, rigid = (
            np.asarray(values)
            for values in (
                distances(pred, gt),
                aligned_distances(pred, gt, reflection=True),
                aligned_distances(pred, gt),
            )
        )
        absolute, aligned = eval_util(raw), eval_util(either)
        digits = row["published_mean_mm"]
        assert abs(absolute.mean - float(digits)) < 10.0 ** -len(digits.split(".")[1])
        expected = {
            "mpjpe_mm": raw.mean(1),
            "max_joint_err_mm": raw.max(1),
            "pa_freihand_mm": either.mean(1),
            "pa_hamer_mm": rigid.mean(1),
            "median_mm": absolute.median,
            "auc_0_50": absolute.auc,
            "pck": absolute.pck,
            "pa_auc_0_50": aligned.auc,
            "pa_pck": aligned.pck,
        }
        for key in golden.files:
            if key.startswith(method) and "pred_uvd" not in key:
                quantity = key.split("/")[1]
                close = 1e-6 if "auc" in quantity else 5e-5 if "pck" in quantity else 2e-4
                np.testing.assert_allclose(expected[quantity], golden[key], rtol=0, atol=close, err_msg=key)
        means = {"mean_mm": raw, "pa_freihand_mean_mm": either, "pa_hamer_mean_mm": rigid}
        for key, values in means.items():
            assert abs(values.mean(dtype=np.float64) - row[key]) < 2e-4
        assert abs(absolute.median - row["median_mm"]) < 2e-4 and abs(absolute.auc - row["auc_0_50"]) < 1e-6
        official = golden[f"{method}/pa_hamer_mm"] - golden[f"{method}/pa_freihand_mm"]
        assert ((rigid - either).mean(1) > 1e-2).tolist() == (official > 1e-2).tolist()  # better mirrored
