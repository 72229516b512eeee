"""Pairs of files: scores equal to hand-computed ones, and common mistakes are named."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.evaluation import scoring
from jaxhand.evaluation.prediction_files import write_dexycb, write_freihand
from jaxhand.hand.skeleton import JOINT_ORDERS, from_our_order
from tests.support.prediction_sets import hands, meshes, predicted

COUNT = 24
FREIHAND, HO3D, DEXYCB, HAMER = (scoring.protocol_of(name) for name in ("freihand", "ho3d", "dexycb", "hamer"))


@pytest.fixture(scope="module")
def gt():
    return hands(COUNT)


@pytest.fixture(scope="module")
def pred(gt):
    return predicted(gt)


def pair_of(folder, pred, gt, protocol=FREIHAND, verts=None, gt_verts=None):
    """Load arrays in mm as a pair of .npz in the protocol's unit."""
    name = next(iter(protocol.pred))
    for file, joints, vertices in (("pred.npz", pred, verts), ("gt.npz", gt, gt_verts)):
        more = {} if vertices is None else {"verts": vertices / protocol.unit_mm}
        np.savez(folder / file, **{name: joints / protocol.unit_mm}, **more)
    return scoring.load_pair(folder / "pred.npz", folder / "gt.npz", protocol)


def test_numbers_table_and_files(tmp_path, gt, pred):
    """From pred.json to every place where a number is shown, compared with numbers computed here."""
    write_freihand(tmp_path / "pred.json", pred / 1000, meshes(pred) / 1000)
    for name, points in (("xyz", gt), ("verts", meshes(gt))):
        (tmp_path / f"evaluation_{name}.json").write_text(json.dumps((points / 1000).tolist()))
    pair = scoring.load_pair(tmp_path / "pred.json", tmp_path, FREIHAND)
    assert pair.warnings == [] and pair.ids.tolist() == list(range(COUNT))
    scores = FREIHAND.score(pair.pred, pair.gt)
    distances = np.linalg.norm(pred - gt, axis=-1)  # (N, 21) mm
    assert scores.values["xyz_mean3d"] == pytest.approx(distances.mean() / 10, abs=1e-5)
    np.testing.assert_allclose(scores.samples["xyz"], distances.mean(1), atol=1e-4)

    lines = scoring.table(pair, scores).splitlines()
    assert lines[0] == f"freihand, {COUNT} samples, as lmb-freiburg/freihand eval.py:"
    assert lines[1].split() == ["xyz_mean3d", f"{distances.mean() / 10:.4f}", "cm", f"{distances.mean():.3f}", "mm"]
    assert lines[2].split()[0] == "xyz_auc3d" and len(lines[2].split()) == 2  # a share has no unit
    fingers = lines.index("By finger, mm:")
    assert lines[fingers + 1].split() == ["wrist", "thumb", "index", "middle", "ring", "little"]
    means = [distances[:, 0].mean(), *(distances[:, 1 + 4 * f : 5 + 4 * f].mean() for f in range(5))]
    assert lines[fingers + 2].split() == ["xyz", *(f"{mean:.2f}" for mean in means)]
    worst = lines.index("Worst samples by xyz_al:")
    order = np.argsort(-scores.samples["xyz_al"])[:5]
    assert [int(line.split()[0]) for line in lines[worst + 2 :]] == order.tolist()
    assert lines[worst + 2].split()[1] == f"{distances[order[0]].mean():.2f}"

    paths = scoring.write(pair, scores, {"imitate_missing_scale": False}, tmp_path / "new" / "folder")
    report = json.loads(paths[0].read_text())
    assert report["values"] == pytest.approx(scores.values) and report["units"]["xyz_mean3d"] == "cm"
    assert report["protocol"] == "freihand" and report["samples"] == report["scored"] == COUNT
    assert report["warnings"] == [] and report["source"].endswith("freihand eval.py")
    assert report["predictions"] == [str(tmp_path / "pred.json")] and len(report["ground_truth"]) == 2
    assert report["joints_mm"]["xyz"]["index1"] == pytest.approx(distances[:, 5].mean(), abs=1e-4)
    assert len(report["curves"]["xyz"]["mm"]) == len(report["curves"]["xyz"]["share"]) == 100
    assert report["worst_samples"] == {"xyz_al": order.tolist()}
    rows = list(csv.DictReader(paths[1].open()))
    assert [row["sample"] for row in rows] == list(map(str, range(COUNT))) and "f_al_score_15" in rows[0]
    np.testing.assert_allclose([float(row["xyz_mm"]) for row in rows], distances.mean(1), rtol=1e-5)


def test_dexycb_by_id(tmp_path, gt, pred):
    """Lines may be in any order, and more than the labels; a label without a hand needs no line."""
    ids, rng = np.arange(COUNT) * 5, np.random.default_rng(0)
    order = rng.permutation(COUNT)[:-1]
    write_dexycb(tmp_path / "pred.txt", [*ids[order], 999], np.concatenate([pred[order], pred[:1]]))
    left_out = np.setdiff1d(np.arange(COUNT), order)
    labels = gt.copy()
    labels[left_out] = -1
    write_dexycb(tmp_path / "gt.txt", ids, labels)
    pair = scoring.load_pair(tmp_path / "pred.txt", tmp_path / "gt.txt", DEXYCB)
    shown = np.delete(np.arange(COUNT), left_out)
    assert pair.ids.tolist() == ids[shown].tolist()
    assert pair.warnings == [f"1 of {COUNT} predictions are left out: {tmp_path / 'gt.txt'} has no sample 999"]
    scores = DEXYCB.score(pair.pred, pair.gt)
    expected = np.linalg.norm(pred - gt, axis=-1).mean(1)[shown]
    np.testing.assert_allclose(scores.samples["absolute"], expected, atol=1e-4)
    main, worst, scored = scoring._worst(scores)
    assert scored == COUNT - 1
    assert main == "procrustes" and f"\n  {pair.ids[worst[0]]} " in scoring.table(pair, scores)
    write_dexycb(tmp_path / "gt.txt", ids, gt)
    with pytest.raises(UserError, match=f"pred.txt: lacks sample {ids[left_out[0]]} .1 of {COUNT} samples are missing"):
        scoring.load_pair(tmp_path / "pred.txt", tmp_path / "gt.txt", DEXYCB)
    np.savez(tmp_path / "gt.npz", joints=np.repeat(gt, 5, axis=0))  # without ids, they are the rows
    write_dexycb(tmp_path / "pred.txt", np.arange(5 * COUNT)[::-1], np.repeat(pred, 5, axis=0)[::-1])
    pair = scoring.load_pair(tmp_path / "pred.txt", tmp_path / "gt.npz", DEXYCB)
    np.testing.assert_array_equal(pair.pred["joints"][::5], pred)


def test_what_is_missing_or_not_finite_is_named(tmp_path, gt, pred):
    def refused(match, *arguments, **options):
        with pytest.raises(UserError, match=match):
            pair_of(tmp_path, *arguments, **options)

    refused(f"pred.npz: has {COUNT - 1} samples, but .*gt.npz has {COUNT}", pred[1:], gt)
    refused("pred.npz: contains no samples", pred[:0], gt)
    refused(r"freihand: arrays of .*pred.npz 'xyz' must be .N, 21, 3., got .24, 20, 3.", pred[:, 1:], gt)
    refused(r"freihand: arrays of .*gt.npz 'xyz' must be .N, 21, 3., got .24, 63.", pred, gt.reshape(COUNT, 63))
    refused("pred.npz 'verts' must be", pred, gt, verts=meshes(pred)[..., 0], gt_verts=meshes(gt))
    np.savez(tmp_path / "a.npz", joints=np.ones((3, 42, 3)))
    with pytest.raises(UserError, match="interhand: the arrays of .*a.npz lack 'joint_valid'"):
        scoring.load_pair(tmp_path / "a.npz", tmp_path / "a.npz", scoring.protocol_of("interhand"))
    refused("pred.npz: xyz has 24 samples but verts has 23", pred, gt, verts=meshes(pred)[1:], gt_verts=meshes(gt))
    for side, file in ((pred, "pred.npz"), (gt, "gt.npz")):
        for bad, text in ((np.nan, "nan"), (np.inf, "inf")):
            points = side.copy()
            points[7:9, 4, 1] = bad
            arrays = (points, gt) if side is pred else (pred, points)
            refused(f"{file}: sample 7 of xyz, point 4, is not finite .{text}.; 2 of 24 samples have", *arrays)
    verts = meshes(pred)
    verts[3, 50] = np.nan
    refused("pred.npz: sample 3 of verts, point 50, is not finite", pred, gt, verts=verts, gt_verts=meshes(gt))
    pair = pair_of(tmp_path, pred, gt, verts=meshes(pred))
    assert pair.warnings == [f"no scores of verts: only {tmp_path / 'pred.npz'} contains this array"]


def test_units(tmp_path, gt, pred):
    def refused(match, *arguments):
        with pytest.raises(UserError, match=match):
            pair_of(tmp_path, *arguments)

    refused("pred.npz: seems to be in millimetres, but the protocol needs metres; multiply by 0.001", pred * 1000, gt)
    refused("pred.npz: seems to be in centimetres, but the protocol needs metres; multiply by 0.01", pred * 100, gt)
    refused("gt.npz: seems to be in millimetres, but the protocol needs metres; multiply by 0.001", pred, gt * 1000)
    refused("gt.npz: seems to be in millimetres", pred * 1000, gt * 1000)
    refused("pred.npz: seems to be in metres, but the protocol needs millimetres; .* 1000", pred / 1000, gt, DEXYCB)
    refused("gt.npz: seems to be in metres, but the protocol needs millimetres", pred, gt / 1000, DEXYCB)
    mixed = pred.copy()
    mixed[11:13] *= 1000
    refused(
        r"pred.npz: sample 11 is \S+ times as large as its ground truth .2 of 24 samples have a wrong size", mixed, gt
    )
    flat = np.repeat(pred[:, :1], 21, axis=1)  # all joints at one point: a bad prediction, not a wrong unit
    assert "millimetres" not in "".join(pair_of(tmp_path, flat, gt).warnings)


@pytest.mark.parametrize("protocol", [FREIHAND, HO3D], ids=lambda protocol: protocol.name)
def test_the_order_of_another_data_set(tmp_path, gt, pred, protocol):
    own = protocol.joint_order
    for name, order in JOINT_ORDERS.items():
        sign = (1, -1, -1) if protocol is HO3D else (1, 1, 1)
        pair = pair_of(tmp_path, from_our_order(pred, name) * sign, from_our_order(gt, own) * sign, protocol)
        if order == JOINT_ORDERS[own]:
            assert pair.warnings == []
        else:
            [warning] = pair.warnings
            same = " and ".join(other for other in JOINT_ORDERS if JOINT_ORDERS[other] == order)
            assert warning.startswith(f"the predicted joints seem to be in the order of {same}, not of {own}: ")


def test_files_of_another_data_set(tmp_path, gt, pred):
    """Both files agree with each other, but not with the protocol."""
    order, frame = pair_of(tmp_path, pred, gt, HO3D).warnings
    assert order.startswith("the ground truth's joints seem to be in the order of freihand and dexycb and hint")
    assert frame == "the ground truth is in OpenCV's camera frame (z > 0), which is not that of ho3d"
    pred, gt = (from_our_order(points, "ho3d") * (1, -1, -1) for points in (pred, gt))
    order, frame = pair_of(tmp_path, pred, gt).warnings
    assert "in the order of ho3d and mano, not of freihand" in order and "OpenGL's camera frame (z < 0)" in frame


def test_camera_frames_and_mirrors(tmp_path, gt, pred):
    def warned(pred, protocol=FREIHAND):
        return pair_of(tmp_path, pred, gt, protocol).warnings

    for axes, match in (
        ((1, -1, -1), "y and z are negated: one file is in OpenGL's camera frame"),
        ((-1, 1, 1), "x is negated: left and right hands"),
        ((1, 1, -1), "z is negated"),
        ((1, -1, 1), "y is negated"),
    ):
        [warning] = warned(pred * axes)
        assert warning.startswith(match) and "wrist-relative RMS error" in warning
    both = warned(from_our_order(pred, "mano") * (1, -1, -1))
    assert "the order of ho3d and mano" in both[0] and "OpenGL" in both[1]
    both = warned(from_our_order(pred, "rhd") * (-1, 1, 1))
    assert "the order of rhd" in both[0] and both[1].startswith("x is negated")
    some = pred.copy()
    some[6::4] *= (-1, 1, 1)  # the left hands of a set with both, not mirrored back
    [warning] = warned(some, DEXYCB)
    assert warning.startswith("5 of the 24 hands checked are mirrored, first in sample 6: are left and right swapped?")


def test_other_samples_and_positions(tmp_path, gt, pred):
    [warning] = pair_of(tmp_path, np.roll(pred, 5, axis=0), gt).warnings
    assert warning.startswith("predicted hands are not nearer to their own ground truth")
    centred = pred - pred[:, :1]
    [warning] = pair_of(tmp_path, centred, gt).warnings
    assert warning.startswith("all predicted wrists are at the origin")
    assert pair_of(tmp_path, centred, gt, HAMER).warnings == []  # it compares only wrist-relative hands
    [_, warning] = pair_of(tmp_path, centred, gt, verts=meshes(pred), gt_verts=meshes(gt)).warnings
    assert "pred.npz: joints and vertices lie" in warning and "same camera frame" in warning


def test_a_good_prediction_raises_no_suspicion(tmp_path):
    """Nor does a prediction with the errors of a weak network."""
    gt = hands(60, seed=5)
    for error in (0.1, 3, 12):
        assert pair_of(tmp_path, predicted(gt, error_mm=error), gt).warnings == [], error


def test_two_hands(tmp_path, gt, pred):
    """Only complete hands are compared; joints without a label may have any value."""
    interhand = scoring.protocol_of("interhand")
    both = [from_our_order(p, "interhand").reshape(COUNT // 2, 42, 3) for p in (pred, gt)]
    valid = np.ones((COUNT // 2, 42))
    valid[:3, 21:] = 0
    both[1][:3, 21:] = np.nan
    kinds = np.where(valid.all(1), "interacting", "right")
    np.savez(tmp_path / "pred.npz", joints=both[0])
    np.savez(tmp_path / "gt.npz", joints=both[1], joint_valid=valid, hand_type=kinds)
    pair = scoring.load_pair(tmp_path / "pred.npz", tmp_path / "gt.npz", interhand)
    assert pair.warnings == []
    scores = interhand.score(pair.pred, pair.gt)
    rows = [line.split()[:2] for line in scoring.table(pair, scores).splitlines() if line.startswith("  all")]
    assert rows == [["all", "right"], ["all", "left"]]
    report = json.loads(scoring.write(pair, scores, {}, tmp_path)[0].read_text())
    relative = [p.reshape(-1, 2, 21, 3)[3:, 1] - p.reshape(-1, 2, 21, 3)[3:, 1, 20:] for p in both]
    expected = np.linalg.norm(relative[0] - relative[1], axis=-1).mean(0)
    assert report["joints_mm"]["interacting"]["left_index4"] == pytest.approx(expected[4], abs=1e-3)
    assert report["joints_mm"]["interacting"]["left_wrist"] == pytest.approx(0, abs=1e-5)


def test_protocols_and_options_by_name():
    known = "known protocols: freihand, ho3d, dexycb, interhand, hamer, hint"
    with pytest.raises(UserError, match=f"unknown protocol 'frehand'; did you mean 'freihand'. {known}"):
        scoring.protocol_of("frehand")
    with pytest.raises(UserError, match=f"unknown protocol '3'; {known}"):
        scoring.protocol_of("3")
    assert scoring.options_of(FREIHAND, ["imitate_missing_scale=true"]) == {"imitate_missing_scale": True}
    assert scoring.options_of(HAMER, ["keypoint_list=0,4,8"]) == {"keypoint_list": (0, 4, 8)}
    for protocol, text, match in (
        (FREIHAND, "missing_scale=true", "no option 'missing_scale=true' of freihand; its options .*: imitate_m"),
        (FREIHAND, "imitate_missing_scale", "no option 'imitate_missing_scale' of freihand"),
        (FREIHAND, "imitate_missing_scale=2", "must be a bool such as False, got '2'"),
        (HAMER, "keypoint_list=a", "must be whole numbers such as 0,4,8, got 'a'"),
        (DEXYCB, "a=1", "its options .*: none"),
    ):
        with pytest.raises(UserError, match=match):
            scoring.options_of(protocol, [text])
    assert len(scoring.described()) == len(scoring.PROTOCOLS)


def test_labels_that_a_protocol_leaves_out(tmp_path, gt, pred):
    """They are reported on the console, empty in the CSV, and never among the worst samples."""
    labels = gt.copy()
    labels[[2, 9]] = -1
    pair = pair_of(tmp_path, pred, labels, DEXYCB)
    scores = DEXYCB.score(pair.pred, pair.gt)
    write_dexycb(tmp_path / "pred.txt", np.arange(COUNT), pred)
    np.savez(tmp_path / "none.npz", joints=np.full_like(gt, -1))
    nothing = scoring.load_pair(tmp_path / "pred.txt", tmp_path / "none.npz", DEXYCB)
    with pytest.raises(UserError, match="dexycb: there are no samples"):
        DEXYCB.score(nothing.pred, nothing.gt)
    assert pair.warnings == [] and scoring.table(pair, scores).startswith(f"dexycb, {COUNT - 2} of {COUNT} samples, as")
    paths = scoring.write(pair, scores, {}, tmp_path)
    assert json.loads(paths[0].read_text())["scored"] == COUNT - 2
    assert paths[1].read_text().splitlines()[3] == "2,,,"


def test_float16_has_no_false_warning(tmp_path, gt, pred):
    """The same warnings as in float32, and the scores of the rounded joints."""
    for dtype in (np.float16, np.float32):
        rounded = (pred / 1000).astype(np.float16).astype(dtype)
        np.savez(tmp_path / "pred.npz", xyz=rounded)
        np.savez(tmp_path / "gt.npz", xyz=(gt / 1000).astype(dtype))
        pair = scoring.load_pair(tmp_path / "pred.npz", tmp_path / "gt.npz", FREIHAND)
        assert pair.warnings == [] and pair.pred["xyz"].dtype == np.float32


def test_ids_that_do_not_fit(tmp_path, gt, pred):
    """An id that stands twice would be scored twice with the first prediction."""
    files, ids = (tmp_path / "pred.npz", tmp_path / "gt.npz"), np.arange(COUNT)
    for pred_ids, gt_ids, fault in (
        (np.r_[ids, 3], ids, "pred.npz: 1 ids are not unique, such as 3"),
        (ids, np.r_[ids[1:], 5], "gt.npz: 1 ids are not unique, such as 5"),
        (ids[:, None], ids, "pred.npz: array 'id' must have one entry per sample"),
    ):
        for file, joints, of_file in zip(files, (pred, gt), (pred_ids, gt_ids)):
            np.savez(file, joints=np.resize(joints, (len(of_file), 21, 3)), id=of_file)
        with pytest.raises(UserError, match=fault):
            scoring.load_pair(*files, DEXYCB)
    np.savez(files[0], joints=pred.astype(np.longdouble), id=ids)  # JAX has no such floats
    np.savez(files[1], joints=gt[:-2], id=ids[:-2])
    pair = scoring.load_pair(*files, DEXYCB)
    assert pair.pred["joints"].dtype == np.float64
    left_out = f"2 of {COUNT} predictions are left out: {files[1]} has no sample {COUNT - 2}, {COUNT - 1}"
    assert pair.warnings == [left_out]
    np.savez(files[0], joints=pred[:-2])
    by_position = f"{files[1]} has ids, but {files[0]} has none: samples are matched by their position"
    assert scoring.load_pair(*files, DEXYCB).warnings == [by_position]


def test_labels_that_cannot_be_scored(tmp_path):
    """In HInt's protocol an error is divided by the box; without a labelled joint all scores would be perfect."""
    points = np.random.default_rng(0).uniform(5, 90, (4, 21, 2))
    for scale, confidence, size, fault in (
        (1, 1, 0, "box_size of sample 0 must be positive, in px"),
        (1, 0, 80, "no joint of keypoints_2d has a confidence > 0.5"),
        (0.01, 1, 80, "pred.npz: seems to be in 0..1"),
    ):
        labels = np.concatenate([points, np.full((4, 21, 1), confidence)], -1)
        np.savez(tmp_path / "pred.npz", keypoints_2d=points * scale)
        np.savez(tmp_path / "gt.npz", keypoints_2d=labels, box_size=np.full(4, size))
        with pytest.raises(UserError, match=fault):
            scoring.load_pair(tmp_path / "pred.npz", tmp_path / "gt.npz", scoring.protocol_of("hint"))
    no_joint = {"joints": np.ones((2, 42, 3)), "joint_valid": np.zeros((2, 42)), "hand_type": np.array(["right"] * 2)}
    with pytest.raises(UserError, match="no labelled joint"):
        scoring.protocol_of("interhand").score({"joints": np.ones((2, 42, 3))}, no_joint)


def test_names_of_any_characters(tmp_path, gt, pred):
    """Commas stay inside a cell of the CSV, and bytes that are not UTF-8 do not end the command."""
    pair = pair_of(tmp_path, pred, gt, HAMER)
    names = np.array([f'a,b "{i}" \udcff' for i in range(COUNT)])
    odd = dataclasses.replace(pair, ids=names, pred_files=[tmp_path / "\udcff"])
    paths = scoring.write(odd, HAMER.score(pair.pred, pair.gt), {}, tmp_path)
    rows = list(csv.reader(paths[1].read_text().splitlines()))
    assert rows[2][0] == 'a,b "1" ?' and {len(row) for row in rows} == {len(rows[0])}
    assert json.loads(paths[0].read_text())["predictions"] == [f"{tmp_path}/?"]
