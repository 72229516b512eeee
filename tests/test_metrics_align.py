"""Alignments against hand-worked cases, least squares and the field's codes, degenerate hands included."""

import json

import jax
import numpy as np
import pytest

from jaxhand.hand.skeleton import from_our_order, to_our_order
from jaxhand.metrics import (
    align_by_joints,
    f_score,
    mpjpe,
    mpvpe,
    pa_mpjpe,
    procrustes_align,
    scale_align,
    scale_translation_align,
)


def hands(count=16, joints=21, seed=0):
    rng = np.random.default_rng(seed)
    gt = rng.normal(size=(count, joints, 3)) * 40 + [0, 0, 500]
    return np.float32(gt * 1.3 + rng.normal(size=gt.shape) * 12 + 5), np.float32(gt)


def test_scale_and_translation_by_one_bone():
    pred, gt = np.zeros((1, 21, 3)), np.zeros((1, 21, 3))
    gt[:, 0], gt[:, 9] = [1, 2, 3], [1, 2, 93]
    pred[:, 0], pred[:, 9], pred[:, 4] = [5, 5, 5], [5, 35, 5], [15, 5, 5]
    aligned = np.asarray(scale_translation_align(pred, gt))[0]
    np.testing.assert_allclose(aligned[[0, 9, 4]], [[1, 2, 3], [1, 92, 3], [31, 2, 3]], rtol=1e-6)


def test_ho3ds_order_has_its_own_middle_finger():
    pred, gt = hands()
    ours = scale_translation_align(pred, gt)
    theirs = scale_translation_align(from_our_order(pred, "ho3d"), from_our_order(gt, "ho3d"), scale_joint=4)
    np.testing.assert_array_equal(to_our_order(np.asarray(theirs), "ho3d"), ours)
    other = scale_translation_align(pred, gt, root=5, scale_joint=6)
    np.testing.assert_allclose(other[:, 5], gt[:, 5], rtol=1e-6)


def test_a_bone_without_length_leaves_the_scale():
    pred, gt = hands(3)
    pred[0, 9], pred[1], pred[2, 9] = pred[0, 0], 7, np.nan
    aligned = np.asarray(scale_translation_align(pred, gt))
    np.testing.assert_allclose(aligned[0], pred[0] - pred[0, 0] + gt[0, 0], rtol=1e-5)
    np.testing.assert_allclose(aligned[1], np.broadcast_to(gt[1, 0], (21, 3)))
    assert np.isnan(aligned[2]).all()
    slope = jax.grad(lambda points: mpjpe(scale_translation_align(points, gt[:2]) + 1, gt[:2]).sum())(pred[:2])
    assert np.isfinite(slope).all()


def test_scale_alone_is_least_squares():
    pred, gt = hands()
    expected = [p * np.linalg.lstsq(p.reshape(-1, 1), g.ravel())[0] for p, g in zip(np.float64(pred), np.float64(gt))]
    np.testing.assert_allclose(scale_align(pred, gt), expected, rtol=1e-5, atol=1e-3)
    assert not np.asarray(scale_align(0 * pred, gt)).any()


def test_a_mesh_moves_with_its_joints():
    pred, gt = hands()
    rng = np.random.default_rng(1)
    mix = rng.dirichlet(np.ones(21), 30).astype(np.float32)  # vertices that are means of joints move as those do
    aligned = np.asarray(procrustes_align(pred, gt, reflection=True))
    moved = align_by_joints(np.einsum("vj,bjc->bvc", mix, pred), pred, gt)
    np.testing.assert_allclose(moved, np.einsum("vj,bjc->bvc", mix, aligned), atol=2e-3)
    mirrored = gt * np.float32([-1, 1, 1])
    np.testing.assert_allclose(align_by_joints(mirrored, mirrored, gt), gt, atol=2e-3)
    assert np.abs(align_by_joints(mirrored, mirrored, gt, reflection=False) - gt).max() > 5


def test_the_missing_scale_of_the_official_codes(shared):
    golden = np.load(shared / "golden" / "metrics_mesh.npz")
    names = ("pred_verts_m", "gt_verts_m", "pred_joints_m", "gt_joints_m")
    vertices, target, pred, gt = (np.float64(golden[name]) * 1000 for name in names)
    with jax.enable_x64(True):
        wrong = align_by_joints(vertices, pred, gt, imitate_missing_scale=True)
        right = align_by_joints(vertices, pred, gt)
        for code in ("freihand", "ho3d"):
            official = f"{code}/pa_by_joints"
            np.testing.assert_allclose(mpvpe(wrong, target), golden[f"{official}/mpvpe_mm"], rtol=0, atol=1e-4)
            for threshold in (5, 15):
                np.testing.assert_allclose(
                    f_score(wrong, target, threshold), golden[f"{official}/F@{threshold}"][:, 0], rtol=0, atol=1e-9
                )
        assert abs(mpvpe(wrong, target).mean() - 39.92) < 0.005
        assert abs(mpvpe(right, target).mean() - 12.22) < 0.005


FEELS_EPSILON = ("pred_scale_1e-6", "both_scale_1e-6", "pred_scale_1e-12", "both_scale_1e-9")
OURS = {  # code/alignment of the file → error of (pred, gt); PA against them is tested with procrustes
    "freihand/abs": mpjpe,
    "ho3d/st": lambda pred, gt: mpjpe(scale_translation_align(pred, gt, scale_joint=4), gt),
    "hamer/abs": mpjpe,
    "utnet/abs": mpjpe,
    "mmpose/none": mpjpe,
    "mmpose/scale": lambda pred, gt: mpjpe(scale_align(pred, gt), gt),
    "dexycb/absolute": mpjpe,
    "dexycb/root-relative": lambda pred, gt: mpjpe(pred, gt, root=0),
    **dict.fromkeys(
        ("hamer/pa", "hamer/pa(default_dtype=f64)", "utnet/pa", "utnet/evaluator_rootrel_pa", "mmpose/pa")
        + ("graphormer/pa", "mks0601/pa"),
        pa_mpjpe,
    ),
    **dict.fromkeys(
        ("freihand/pa", "ho3d/pa", "dexycb/procrustes"), lambda pred, gt: pa_mpjpe(pred, gt, reflection=True)
    ),
}


def on_purpose_different(case, code):
    """Where an official code's finite number is not ours."""
    if code.startswith("utnet"):  # makes numbers of NaN, drops labels of zeros, adds 1e-8 under roots and to variances
        return case == "gt_all_zero" or any(word in case for word in ("nan", "inf_", "1e-"))
    if case == "thumbtip_equals_wrist_pred":  # HO-3D scales by metres then
        return code == "ho3d/st"
    return code in ("freihand/pa", "ho3d/pa", "dexycb/procrustes") and case in FEELS_EPSILON


@pytest.mark.parametrize(("precision", "x64"), [("f32", False), ("f64", True)])
def test_every_degenerate_case_of_every_code(shared, precision, x64):
    expected = json.loads((shared / "golden" / "metrics_degenerate.json").read_text())
    inputs = np.load(shared / "golden" / "metrics_degenerate_inputs.npz")
    pred, gt = (np.stack([inputs[f"{case}/{name}"] for case in expected]) * 1000 for name in ("pred_m", "gt_m"))
    with jax.enable_x64(x64):
        ours = {code: np.asarray(error(pred, gt)) for code, error in OURS.items()}
    wrong, seen = {}, set()
    for index, (case, codes) in enumerate(expected.items()):
        for code, result in codes[precision].items():
            official, value = result.get("value_mm"), ours[code][index]
            seen.add(code)
            if official is None or on_purpose_different(case, code):
                continue
            tolerance = 5e-6 if x64 else 2e-4
            tolerance += 1e-6 * abs(official)
            if not x64:
                tolerance += {"both_offset_10m": 3e-3, "pred_offset_10m": 3e-3, "both_offset_1000m": 0.1}.get(case, 0)
            if not abs(value - official) < tolerance:
                wrong[case, code] = official, float(value)
    assert wrong == {}
    assert seen >= set(OURS) - {"hamer/pa(default_dtype=f64)"}
    not_finite = ["pred_nan_one_joint", "gt_nan_one_joint", "pred_inf_one_joint"]
    for code, errors in ours.items():
        assert [case for case, error in zip(expected, errors) if not np.isfinite(error)] == not_finite, code
