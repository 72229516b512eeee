"""Leaderboard files of a run: order, frame, unit, both hands, and the same scores from the file."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from jaxhand import evaluate
from jaxhand.config import UserError
from jaxhand.data import pipeline
from jaxhand.data.crop import crop
from jaxhand.data.datasets import dexycb, freihand, ho3d
from jaxhand.evaluation import Evaluator, prediction_files, scoring
from jaxhand.evaluation.run_predictions import PredictionCollector
from jaxhand.evaluation.submission import Submission
from jaxhand.metrics.protocols import PROTOCOLS
from tests.support import layouts_dexycb, layouts_freihand, layouts_ho3d

SUBJECTS = ("20200709-subject-01", "20200813-subject-02", "20200820-subject-03")


class Blank:
    """A source whose images are black: only its labels matter here."""

    def __init__(self, source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i):
        return dataclasses.replace(self._source.read_annotation(i), image=np.zeros((480, 640, 3), np.uint8))


def submit(tiny, name, source, file, *, mesh=False):
    """Write the file of noisy predictions: these (N,21,3), their meshes, in the camera frame, and the run's scores."""
    submission, evaluator = Submission(name, source, file), Evaluator(len(source), save_predictions=True)
    collector, rng, right, meshes = PredictionCollector(), np.random.default_rng(0), [], []
    for batch in pipeline.eval_batches(Blank(source), tiny, 4):
        noise = rng.normal(0, 5, batch["keypoints_3d"].shape) + rng.normal(0, 30, (4, 1, 3))
        joints = batch["keypoints_3d"] + noise.astype(np.float32)
        predictions = {"keypoints_3d": joints, "keypoints_2d": batch["keypoints_2d"]}
        if mesh:
            predictions["vertices"] = joints[:, :1] + rng.normal(0, 50, (4, 778, 3)).astype(np.float32)
            meshes.append(predictions["vertices"][batch["valid"] > 0])
        evaluator(joints, batch["keypoints_3d"], batch["valid"], batch["joint_valid"])
        collector.collect(batch, predictions)
        right.append(batch["is_right"][batch["valid"] > 0])
    records = [source.read_annotation(i) for i in range(len(source))]
    said, scores = submission.write(collector, records), evaluator.get_metrics_dict()
    joints = evaluator.get_predictions_dict()["keypoints_3d"]
    joints = np.where(np.concatenate(right)[:, None, None] > 0, joints, joints * (-1, 1, 1))
    return joints, np.concatenate(meshes) if mesh else None, scores, said


def score(predictions, ground_truth, protocol) -> dict[str, float]:
    pair = scoring.load_pair(predictions, ground_truth, PROTOCOLS[protocol])
    return PROTOCOLS[protocol].score(pair.pred, pair.gt).values


def test_freihand(tmp_path, tiny):
    folder = layouts_freihand.write(tmp_path, evaluations=5, released=True)
    source, file, labels = freihand.load(folder, "test"), tmp_path / "pred.zip", tmp_path / "FreiHAND_pub_v2_eval"
    file.write_text("of the user")
    joints, _, scores, said = submit(tiny, f"freihand:{folder}", source, file)
    assert said == (
        f"{file}: 5 hands for the leaderboard of freihand; the model has no mesh, so the file contains joints "
        "instead of vertices: ignore the mesh scores"
    )
    assert (tmp_path / "pred.before.zip").read_text() == "of the user"
    xyz, verts = json.loads(zipfile.ZipFile(file).read("pred.json"))
    np.testing.assert_allclose(np.array(xyz) * 1000, joints, atol=1e-3)  # absolute, in metres, in our order
    assert verts == xyz
    truth = np.array([1000 * layouts_freihand.joints("evaluation", k) for k in range(5)])
    official, wrist_relative = score(file, labels, "freihand"), score(file, labels, "hamer")
    assert official["xyz_mean3d"] * 10 == pytest.approx(np.linalg.norm(joints - truth, axis=-1).mean(), abs=1e-3)
    assert official["xyz_al_mean3d"] * 10 == pytest.approx(scores["pa_mpjpe"], abs=1e-3)
    assert wrist_relative["mode_mpjpe"] == pytest.approx(scores["mpjpe"], abs=1e-3)
    assert wrist_relative["mode_re"] == pytest.approx(scores["pa_mpjpe"], abs=1e-3)


@pytest.mark.parametrize("mesh", [False, True])
def test_ho3d(tmp_path, tiny, mesh):
    folder = layouts_ho3d.write(tmp_path, released=True)
    source, file = ho3d.load(folder, "test", depth=False), tmp_path / "pred.json"
    joints, meshes, scores, said = submit(tiny, f"ho3d:{folder}", source, file, mesh=mesh)
    assert ("the model has no mesh" in said) != mesh and said.startswith(f"{file}: 6 hands for the leaderboard of ho3d")
    xyz, verts = (np.array(points) for points in json.loads(file.read_text()))
    listed = (folder / "evaluation.txt").read_text().split()
    for i, frame in enumerate(listed):  # as layouts_ho3d stores a hand, for a prediction moved to the labelled wrist
        wrist = layouts_ho3d.joints(frame.partition("/")[0], int(frame.partition("/")[2]))[0]
        moved = joints[i] - joints[i, 0] + wrist
        expected = layouts_ho3d.in_their_order(layouts_ho3d.stored(moved))
        np.testing.assert_allclose(xyz[i], expected, atol=1e-6)
        if mesh:
            np.testing.assert_allclose(verts[i], layouts_ho3d.stored(meshes[i] - joints[i, 0] + wrist), atol=1e-6)
        else:
            np.testing.assert_array_equal(verts[i], xyz[i])
    if not mesh:
        official = score(file, folder, "ho3d")
        assert official["xyz_mean3d"] * 10 == pytest.approx(scores["mpjpe"], abs=1e-3)
        assert official["xyz_procrustes_al_mean3d"] * 10 == pytest.approx(scores["pa_mpjpe"], abs=1e-3)


def test_ho3d_before_its_labels_were_released(tmp_path, tiny):
    """Results are moved to the wrists in the pickles."""
    folder = layouts_ho3d.write(tmp_path)
    _, _, scores, _ = submit(tiny, f"ho3d:{folder}", ho3d.load(folder, "test", depth=False), tmp_path / "pred.json")
    assert scores["count"] == 0  # a wrist alone cannot be scored
    xyz = np.array(json.loads((tmp_path / "pred.json").read_text())[0])
    wrists = [layouts_ho3d.joints(sequence, frame)[0] for frame in (2, 1, 0) for sequence in layouts_ho3d.EVALUATION]
    np.testing.assert_allclose(xyz[:, 0], layouts_ho3d.stored(np.array(wrists)), atol=1e-6)
    assert len(xyz) == 6 and (xyz[:, 0, 2] < 0).all()


def test_dexycb(tmp_path, tiny):
    folder = layouts_dexycb.write(tmp_path, 10, images=False, subjects=SUBJECTS)
    tree = {"subjects": SUBJECTS, "serials": layouts_dexycb.SERIALS, "sequences": 10}
    source, file = dexycb.load(folder, "test", depth=False, **tree), tmp_path / "results.txt"
    joints, _, scores, said = submit(tiny, "dexycb-s0:PATH", source, file)
    assert said == f"{file}: 4 hands for the leaderboard of dexycb"
    rows = np.loadtxt(file, delimiter=",")
    frames = [(q, c, f) for q in (4, 9) for c in range(2) for f in range(2)]  # the toolkit's order, of subject 3
    assert rows.shape == (4, 64) and rows[:, 0].tolist() == [i for i, (_, _, f) in enumerate(frames) if f]
    truth = [layouts_dexycb.joints(2, *frame) if frame[2] else np.full((21, 3), -1000.0) for frame in frames]
    assert {record.hand for record in map(source.read_annotation, range(4))} == {"right", "left"}
    np.testing.assert_allclose(rows[:, 1:].reshape(4, 21, 3), joints, atol=1e-3)  # mm, absolute, left hands left
    np.testing.assert_allclose(joints.mean(1), np.array(truth)[1::2].mean(1), atol=150)
    np.savez(tmp_path / "truth.npz", joints=np.array(truth), id=np.arange(8))
    official = score(file, tmp_path / "truth.npz", "dexycb")
    assert official["root-relative/mpjpe"] == pytest.approx(scores["mpjpe"], abs=1e-3)
    assert official["procrustes/mpjpe"] == pytest.approx(scores["pa_mpjpe"], abs=1e-3)
    absolute = np.linalg.norm(joints - np.array(truth)[1::2], axis=-1).mean()
    assert official["absolute/mpjpe"] == pytest.approx(absolute, abs=1e-3)


def test_user_errors_are_named(tmp_path, tiny):
    source = freihand.load(layouts_freihand.write(tmp_path), "test")
    for name, file, fault in (
        ("rhd:PATH", "pred.json", "rhd:PATH: has no leaderboard file, only freihand, ho3d, dexycb have one"),
        ("synthetic", "pred.json", "synthetic: has no leaderboard file"),
        ("freihand:PATH", "pred.txt", "pred.txt: the file for freihand must end in .json or .zip"),
        ("dexycb-s1:PATH", "pred.zip", "pred.zip: the file for dexycb must end in .txt or .csv"),
        ("freihand:PATH", "no/pred.zip", "no: no such folder for pred.zip"),
        ("freihand:a.json", "pred.zip", "a.json: not the evaluation set; pass the folder FreiHAND_pub_v2"),
        ("dexycb-s1:PATH", "pred.txt", "dexycb-s1:PATH: a packed set has no image ids for --submit"),
    ):
        with pytest.raises(UserError, match=fault):
            Submission(name, source, tmp_path / file)
    submission = Submission("freihand:PATH", source, tmp_path / "pred.zip")
    sample = {key: np.array([value]) for key, value in crop(Blank(source)[0], 64, 1.4).items()}
    joints = np.full((1, 21, 3), np.nan, np.float32)
    predictions = {"keypoints_3d": joints, "keypoints_2d": joints[..., :2]}
    collector = PredictionCollector()
    collector.collect(sample | {"valid": np.array([1])}, predictions)
    with pytest.raises(UserError, match="pred.zip: not written, sample 0 of xyz is not finite"):
        submission.write(collector, [source.read_annotation(0)])
    assert not (tmp_path / "pred.zip").exists()


def test_the_command(tmp_path, copy_of, trained, call):
    """A run with depth: one file per kind of input, with the run's scores; and a set without labels."""
    workdir, folder = copy_of(trained), layouts_ho3d.write(tmp_path, released=True)
    code, output, errors = call(evaluate.main, workdir, "--data", f"ho3d:{folder}", "--submit", tmp_path / "pred.zip")
    assert code == 0, errors
    assert f"{tmp_path / 'pred_rgbd.zip'}: 6 hands for the leaderboard of ho3d; the model has no mesh" in output
    results = json.loads((workdir / "evaluation.json").read_text())["results"]
    for result, file in zip(results, ("pred_rgbd.zip", "pred.zip")):
        official = score(tmp_path / file, folder, "ho3d")
        assert official["xyz_mean3d"] * 10 == pytest.approx(result["mpjpe"], abs=1e-3)
        assert official["xyz_procrustes_al_mean3d"] * 10 <= result["pa_mpjpe"] + 1e-3  # theirs may mirror
    assert results[0]["mpjpe"] != results[1]["mpjpe"]
    folder = layouts_freihand.write(tmp_path)
    code, output, errors = call(
        evaluate.main, workdir, "--data", f"freihand:{folder}", "--submit", tmp_path / "pred.json"
    )
    assert code == 0, errors
    assert "RGB: not scored, because no hand has 3D labels" in output and "inf" not in output
    assert prediction_files.read(tmp_path / "pred.json", ["xyz", "verts"])[0]["xyz"].shape == (3, 21, 3)
    code, _, errors = call(evaluate.main, workdir, "--data", "synthetic", "synthetic", "--submit", "pred.json")
    assert code == 2 and errors == (
        "error: --submit: writes predictions for one data set only; give one NAME after --data\n"
    )
    code, _, errors = call(evaluate.main, "--submit", "a.zip", "--predictions", "pred.json")
    assert code == 2 and "give either a run folder" in errors
