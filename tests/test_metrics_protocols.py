"""Protocols from the official codes' inputs to their printed numbers, and the mistakes a user can make."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.hand.skeleton import JOINT_ORDERS, from_our_order
from jaxhand.metrics import PROTOCOLS, f_score, mpjpe, pa_mpjpe, procrustes_align
from jaxhand.metrics.protocols.base import in_pieces

SCORES_TXT = ["mesh_mean3d", "mesh_auc3d", "mesh_al_mean3d", "mesh_al_auc3d"]
SCORES_TXT += ["f_score_5", "f_al_score_5", "f_score_15", "f_al_score_15"]
XYZ = {"freihand": ["xyz", "xyz_al"], "ho3d": ["xyz", "xyz_procrustes_al", "xyz_scale_trans_al"]}


def hands(count=9, vertices=40, seed=0):
    """Predictions and ground truth in FreiHAND's form: metres, half a metre away."""
    rng = np.random.default_rng(seed)
    gt = {"xyz": rng.normal(size=(count, 21, 3)) * 0.04, "verts": rng.normal(size=(count, vertices, 3)) * 0.04}
    gt = {name: points + [0.1, -0.1, 0.6] for name, points in gt.items()}
    return {name: points * 1.1 + rng.normal(size=points.shape) * 0.008 for name, points in gt.items()}, gt


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden" / "metrics_random.npz")


@pytest.fixture(scope="module")
def meshes(shared):
    return np.load(shared / "golden" / "metrics_mesh.npz")


@pytest.mark.parametrize("name", ["freihand", "ho3d"])
def test_scores_txt_of_meshes(meshes, name):
    pred, gt = ({"xyz": meshes[f"{side}_joints_m"], "verts": meshes[f"{side}_verts_m"]} for side in ("pred", "gt"))
    scores = PROTOCOLS[name].score(pred, gt)
    names = [f"{alignment}_{kind}3d" for alignment in XYZ[name] for kind in ("mean", "auc")] + SCORES_TXT
    assert list(scores.values) == names
    for kind, ours in (("abs", "mesh"), ("pa", "mesh_al")):
        official = f"{name}/{kind}"
        np.testing.assert_allclose(scores.samples[ours], meshes[f"{official}/mpvpe_mm"], rtol=0, atol=2e-4)
        assert abs(scores.values[f"{ours}_mean3d"] - meshes[f"{official}/mpvpe_mm"].mean() / 10) < 2e-6  # cm
        assert abs(scores.values[f"{ours}_auc3d"] - meshes[f"{official}/auc"]) < 1e-6
        np.testing.assert_allclose(scores.curves[ours][1], meshes[f"{official}/pck"], rtol=0, atol=2e-4)
        for threshold in (5, 15):
            f_name = ("f_score" if kind == "abs" else "f_al_score") + f"_{threshold}"
            fscore, precision, recall = meshes[f"{official}/F@{threshold}"].T
            np.testing.assert_allclose(scores.samples[f_name], fscore, rtol=0, atol=1e-6)
            np.testing.assert_allclose(fscore * (precision + recall), 2 * precision * recall, atol=1e-12)
            assert abs(scores.values[f_name] - fscore.mean()) < 1e-7
    assert {scores.units[key] for key in names if key.endswith("mean3d")} == {"cm"}
    assert {scores.units[key] for key in (*XYZ[name], "mesh", "mesh_al")} == {"mm"}
    assert list(scores.joints) == XYZ[name] and not {"f_score_5", "xyz_auc3d"} & scores.units.keys()


def test_every_file_of_meshes_is_covered(meshes):
    """No protocol has root-relative meshes, but the functions compute them; alignment by joints is tested elsewhere."""
    kinds = {"abs", "pa", "pa_by_joints", "rootrel"}
    assert {key.split("/")[1] for key in meshes.files if "/" in key} == kinds
    pred, gt = (
        np.float64(meshes[f"{side}_verts_m"] - meshes[f"{side}_joints_m"][:, :1]) * 1e3 for side in ("pred", "gt")
    )
    for code in ("freihand", "ho3d"):
        np.testing.assert_allclose(mpjpe(pred, gt), meshes[f"{code}/rootrel/mpvpe_mm"], rtol=0, atol=2e-4)
        official = np.stack([meshes[f"{code}/rootrel/F@{threshold}"][:, 0] for threshold in (5, 15)], 1)
        np.testing.assert_allclose(f_score(pred, gt, (5, 15)), official, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("x64", "cm", "area"), [(False, 2e-6, 2e-6), (True, 2e-7, 1e-9)])
def test_printed_numbers_of_joints(golden, x64, cm, area):
    pred, gt = golden["pred_m"], golden["gt_m"]
    with jax.enable_x64(x64):
        freihand, ho3d = (PROTOCOLS[name].score({"xyz": pred}, {"xyz": gt}) for name in ("freihand", "ho3d"))
        hamer = PROTOCOLS["hamer"].score({"keypoints_3d": pred}, {"keypoints_3d": gt})
        dexycb = PROTOCOLS["dexycb"].score({"joints": pred * 1000}, {"joints": gt * 1000})
    pairs = [(freihand, "xyz", "freihand/abs"), (freihand, "xyz_al", "freihand/pa"), (ho3d, "xyz", "ho3d/abs")]
    pairs += [(ho3d, "xyz_procrustes_al", "ho3d/pa"), (ho3d, "xyz_scale_trans_al", "ho3d/st")]
    for scores, name, official in pairs:
        official = f"f64/m/{official}"
        assert abs(scores.values[f"{name}_mean3d"] - golden[f"{official}/mean_mm"] / 10) < cm
        assert abs(scores.values[f"{name}_auc3d"] - golden[f"{official}/auc"]) < area
        np.testing.assert_allclose(scores.samples[name], golden[f"{official}/mpjpe_mm"], rtol=0, atol=100 * cm)
        np.testing.assert_allclose(scores.curves[name][1], golden[f"{official}/pck"], rtol=0, atol=2e-4)
        np.testing.assert_allclose(scores.curves[name][0], np.linspace(0, 50, 100))
    per_joint = golden["f64/m/freihand/abs/per_joint_mm"].mean(0)
    np.testing.assert_allclose(freihand.joints["xyz"], per_joint, rtol=0, atol=1e-4)
    assert list(dexycb.values) == [
        f"{alignment}/{quantity}"
        for alignment in ("absolute", "root-relative", "procrustes")
        for quantity in ("mpjpe", "auc")
    ]
    for name, value in dexycb.values.items():
        assert abs(value - golden[f"f64/mm/dexycb/{name}"]) < (area if name.endswith("auc") else 10 * cm)
    for name, official in (("mode_mpjpe", "rootrel"), ("mode_re", "rootrel_pa")):
        official = golden[f"f64/m/hamer/{official}/mpjpe_mm"]
        np.testing.assert_allclose(hamer.samples[name], official, rtol=0, atol=100 * cm)
        assert abs(hamer.values[name] - official.mean()) < 10 * cm


def test_a_predictor_of_zeros(golden):
    """FreiHAND prints 4.73 cm and HO-3D 5.19 for it on their sets: the spread of the joints of a hand."""
    gt = golden["gt_m"]
    scores = PROTOCOLS["ho3d"].score({"xyz": np.zeros_like(gt)}, {"xyz": gt})
    away = np.linalg.norm(gt - gt.mean(1, keepdims=True), axis=-1).mean()
    assert 0.04 < away < 0.07
    assert scores.values["xyz_procrustes_al_mean3d"] == pytest.approx(100 * away, rel=1e-6)
    assert scores.values["xyz_mean3d"] == pytest.approx(100 * np.linalg.norm(gt, axis=-1).mean(), rel=1e-6)
    from_wrist = np.linalg.norm(gt - gt[:, :1], axis=-1).mean()
    assert scores.values["xyz_scale_trans_al_mean3d"] == pytest.approx(100 * from_wrist, rel=1e-6)


def test_a_set_is_scored_in_pieces_of_one_shape():
    shapes = []

    def function(first, second):
        shapes.append(first.shape)
        return {"sum": first.sum(1) + second, "first": first}

    first, second = np.arange(18.0).reshape(9, 2), np.arange(9.0)
    found = in_pieces(function, 4, first, second)
    assert shapes == [(4, 2)] * 3 and list(found) == ["sum", "first"]
    np.testing.assert_array_equal(found["sum"], first.sum(1) + second)
    np.testing.assert_array_equal(found["first"], first)
    in_pieces(function, 100, first, second)
    assert shapes[3:] == [(9, 2)]


def test_a_mesh_of_another_topology_goes_by_its_joints():
    pred, gt = hands()
    pred["verts"] = pred["verts"][:, :30]
    scores = PROTOCOLS["freihand"].score(pred, gt)
    assert not [name for name in scores.values if name.startswith("mesh")]
    joints, target = pred["xyz"] * 1000, gt["xyz"] * 1000
    points = np.concatenate([joints, pred["verts"] * 1000], 1)
    padded = np.concatenate([target, np.zeros((9, 30, 3))], 1)
    moved = procrustes_align(points, padded, reflection=True, valid=np.arange(51) < 21 + np.zeros((9, 1)))[:, 21:]
    for threshold in (5, 15):
        expected = f_score(moved, gt["verts"] * 1000, threshold)
        np.testing.assert_allclose(scores.samples[f"f_al_score_{threshold}"], expected, atol=0.02)
        np.testing.assert_allclose(
            scores.samples[f"f_score_{threshold}"],
            f_score(pred["verts"] * 1000, gt["verts"] * 1000, threshold),
            atol=1e-6,
        )
    official = PROTOCOLS["freihand"].score(pred, gt, imitate_missing_scale=True)
    assert official.values["f_al_score_15"] < scores.values["f_al_score_15"] / 2
    assert official.values["xyz_al_mean3d"] == scores.values["xyz_al_mean3d"]
    only = PROTOCOLS["freihand"].score({"xyz": pred["xyz"]}, gt)
    assert list(only.values) == ["xyz_mean3d", "xyz_auc3d", "xyz_al_mean3d", "xyz_al_auc3d"]


def test_dexycb_drops_images_without_a_hand():
    pred, gt = (points["xyz"] * 1000 for points in hands())
    expected = PROTOCOLS["dexycb"].score({"joints": pred[2:]}, {"joints": gt[2:]})
    gt[0], gt[1], pred[:2] = -1, -1000, np.nan  # as it is in the file, and changed to mm
    scores = PROTOCOLS["dexycb"].score({"joints": pred}, {"joints": gt})
    for name, value in expected.values.items():
        assert scores.values[name] == pytest.approx(value, rel=1e-6)
    for name, errors in scores.samples.items():
        assert np.isnan(errors).tolist() == [True] * 2 + [False] * 7
        np.testing.assert_allclose(errors[2:], expected.samples[name], rtol=1e-5)
    with pytest.raises(UserError, match="every sample of the ground truth is -1"):
        PROTOCOLS["dexycb"].score({"joints": pred}, {"joints": np.full_like(gt, -1)})


def test_hamer_scores_the_joints_of_a_list_about_the_wrist():
    pred, gt = (np.float32(points["xyz"] * 1000) for points in hands())
    labelled = np.concatenate([gt / 1000, np.ones((9, 21, 1))], -1)  # with confidence, which HaMeR ignores
    scores = PROTOCOLS["hamer"].score(
        {"keypoints_3d": pred / 1000}, {"keypoints_3d": labelled}, keypoint_list=[8, 4, 1]
    )
    relative = [(points - points[:, :1])[:, [8, 4, 1]] for points in (pred, gt)]
    np.testing.assert_allclose(scores.samples["mode_mpjpe"], mpjpe(*relative), atol=1e-3)
    np.testing.assert_allclose(scores.samples["mode_re"], pa_mpjpe(*relative), atol=1e-3)
    assert np.flatnonzero(~np.isnan(scores.joints["mode_re"])).tolist() == [1, 4, 8]
    distance = np.linalg.norm(relative[0] - relative[1], axis=-1).mean(0)
    np.testing.assert_allclose(scores.joints["mode_mpjpe"][[8, 4, 1]], distance, rtol=1e-4)
    for wrong in ((), (3, 21), (-1,)):
        with pytest.raises(UserError, match="keypoint_list must contain joints from 0 to 20"):
            PROTOCOLS["hamer"].score({"keypoints_3d": pred}, {"keypoints_3d": gt}, keypoint_list=wrong)


def test_nothing_that_is_not_finite_is_hidden():
    pred, gt = hands()
    pred["xyz"][3, 5, 1], pred["verts"][4, 0, 0] = np.nan, np.inf
    scores = PROTOCOLS["ho3d"].score(pred, gt)
    assert not np.isfinite([value for name, value in scores.values.items() if "mean" in name or "f_" in name]).any()
    for name, errors in scores.samples.items():
        assert np.flatnonzero(~np.isfinite(errors)).tolist() == [3 if name.startswith("xyz") else 4], name


def test_protocols_describe_their_arrays():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.joint_order in JOINT_ORDERS and "/" in protocol.source
        assert not set(protocol.pred) & set(protocol.pred_optional)
        assert {next(iter(shapes.values()))[0] for shapes in (protocol.pred, protocol.gt)} == {protocol.joints}
    units = {name: protocol.unit_mm for name, protocol in PROTOCOLS.items()}
    assert units == {"freihand": 1000, "ho3d": 1000, "dexycb": 1, "interhand": 1, "hamer": 1000, "hint": 1}
    assert PROTOCOLS["interhand"].options == {"averaging": "interhand"}
    assert PROTOCOLS["ho3d"].options == {"imitate_missing_scale": False}
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROTOCOLS["hint"].name = "other"


def test_ho3d_reads_its_own_joint_order():
    pred, gt = (points["xyz"] for points in hands())
    ordered = [{"xyz": from_our_order(points, "ho3d")} for points in (pred, gt)]
    scale = np.linalg.norm(gt[:, 9] - gt[:, 0], axis=-1) / np.linalg.norm(pred[:, 9] - pred[:, 0], axis=-1)
    moved = (pred - pred[:, :1]) * scale[:, None, None] + gt[:, :1]
    error = np.linalg.norm(moved - gt, axis=-1).mean(1) * 1000
    np.testing.assert_allclose(PROTOCOLS["ho3d"].score(*ordered).samples["xyz_scale_trans_al"], error, rtol=1e-5)


MISTAKES = [  # (protocol, changes of pred, changes of gt, options, error message)
    ("freihand", {"xyz": None}, {}, {}, r"freihand: the predictions lack 'xyz' with shape \(N, 21, 3\)"),
    ("freihand", {}, {"xyz": None}, {}, r"freihand: the ground truth lack"),
    ("freihand", {"xyz": np.zeros((9, 20, 3))}, {}, {}, r"'xyz' must be \(N, 21, 3\), got \(9, 20, 3\)"),
    ("freihand", {"verts": np.zeros((9, 40))}, {}, {}, r"'verts' must be \(N, any, 3\), got \(9, 40\)"),
    ("freihand", {"xyz": [[[0, 0, 0]] * 21, [[0, 0, 0]]]}, {}, {}, r"'xyz' must be \(N, 21, 3\); the shapes differ"),
    ("freihand", {"xyz": np.zeros((8, 21, 3))}, {}, {}, "xyz has 8 samples but verts has 9"),
    ("freihand", {}, {"xyz": np.zeros((7, 21, 3))}, {}, "xyz has 9 samples but ground truth xyz has 7"),
    ("freihand", {}, {}, {"imitate": True}, "no option 'imitate'; its options: imitate_missing_scale"),
    ("dexycb", {}, {}, {"root": 0}, "no option 'root'; its options: none"),
    ("hamer", {}, {"keypoints_3d": np.zeros((9, 21, 5))}, {}, r"must be \(N, 21, 3\|4\), got"),
    ("hint", {}, {"box_size": np.zeros((9, 2))}, {}, r"'box_size' must be \(N\), got \(9, 2\)"),
    ("interhand", {}, {}, {"averaging": "joints"}, "averaging must be interhand or mmpose, not 'joints'"),
    ("interhand", {}, {"hand_type": np.array(["left"] * 8 + ["both"])}, {}, "hand_type of sample 8 is 'both'"),
]


@pytest.mark.parametrize(("name", "pred_change", "gt_change", "options", "message"), MISTAKES)
def test_mistakes_are_named(name, pred_change, gt_change, options, message):
    pred, gt = hands()
    protocol = PROTOCOLS[name]
    if name != "freihand":
        pred, gt = (
            {key: np.zeros((9, *(s[0] if isinstance(s, tuple) else s for s in shape))) for key, shape in side.items()}
            for side in (protocol.pred, protocol.gt)
        )
    if "hand_type" in gt:
        gt["hand_type"] = np.array(["left"] * 9)
    with pytest.raises(UserError, match=message):
        protocol.score(pred | pred_change, gt | gt_change, **options)


def test_a_set_without_samples_is_a_mistake():
    empty = {"joints": np.zeros((0, 21, 3))}
    with pytest.raises(UserError, match="dexycb: there are no samples"):
        PROTOCOLS["dexycb"].score(empty, empty)
