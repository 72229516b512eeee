"""A run scored by a protocol: equal to the run's own numbers, to its leaderboard file's, and in the image."""

import json

import numpy as np
import pytest

from jaxhand import data, evaluate
from jaxhand.config import UserError
from jaxhand.data import pipeline
from jaxhand.data.datasets import freihand, ho3d
from jaxhand.data.datasets.base import ManoLabels
from jaxhand.data.record import Record
from jaxhand.evaluation.run_predictions import PredictionCollector, to_ho3d, to_protocol, to_wrist
from jaxhand.evaluation.submission import Submission
from jaxhand.metrics import PROTOCOLS
from tests.support import layouts_freihand, layouts_hint, layouts_ho3d
from tests.test_evaluation_submission import Blank, score


def predicted(source, tiny, vertices=0):
    """Noisy predictions of a source in batches, the last one filled up; with a mesh of `vertices` random points."""
    collector, rng = PredictionCollector(), np.random.default_rng(0)
    for batch in pipeline.eval_batches(source, tiny, 4):
        joints = batch["keypoints_3d"] + rng.normal(0, 5, batch["keypoints_3d"].shape).astype(np.float32)
        pixels = batch["keypoints_2d"] + rng.normal(0, 4, batch["keypoints_2d"].shape).astype(np.float32)
        mesh = (
            {"vertices": joints[:, rng.integers(21, size=vertices)] + rng.normal(0, 5, (1, vertices, 3))}
            if vertices
            else {}
        )
        collector.collect(batch, {"keypoints_3d": joints, "keypoints_2d": pixels} | mesh)
    return collector


def annotations(source):
    return [source.read_annotation(i) for i in range(len(source))]


def scores(protocol, collector, source, **options):
    found = to_protocol(protocol, collector, annotations(source), "run", "set:PATH")
    return PROTOCOLS[protocol].score(found.pred, found.gt, **options).values


def test_as_its_leaderboard_file_scores(tmp_path, tiny):
    folder = layouts_freihand.write(tmp_path, evaluations=5, released=True)
    source = freihand.load(folder, "test")
    submission = Submission(f"freihand:{folder}", source, tmp_path / "pred.json")
    collector = predicted(Blank(source), tiny)
    submission.write(collector, annotations(source))
    official = score(tmp_path / "pred.json", tmp_path / "FreiHAND_pub_v2_eval", "freihand")
    ours = scores("freihand", collector, source)
    assert ours.keys() < official.keys()  # which has the joints in place of a mesh
    assert ours == pytest.approx({name: official[name] for name in ours}, abs=1e-5)


@pytest.mark.parametrize("vertices", [778, 100])
def test_meshes_count_as_in_its_leaderboard_file(tmp_path, tiny, vertices):
    folder = layouts_freihand.write(tmp_path, evaluations=5, released=True)
    source = freihand.load(folder, "test", mano=ManoLabels(vertices=True))
    submission = Submission(f"freihand:{folder}", source, tmp_path / "pred.json")
    collector = predicted(Blank(source), tiny, vertices)
    submission.write(collector, annotations(source))
    official = score(tmp_path / "pred.json", tmp_path / "FreiHAND_pub_v2_eval", "freihand")
    ours = scores("freihand", collector, source)
    assert ("mesh_al_mean3d" in ours) == (vertices == 778) and "f_al_score_5" in ours
    assert ours == pytest.approx(official, abs=1e-5)


def test_as_its_leaderboard_file_scores_in_opengl(tmp_path, tiny):
    folder = layouts_ho3d.write(tmp_path, released=True)
    source = ho3d.load(folder, "test")
    submission = Submission(f"ho3d:{folder}", source, tmp_path / "pred.json")
    collector = predicted(Blank(source), tiny)
    submission.write(collector, annotations(source))
    official, ours = score(tmp_path / "pred.json", folder, "ho3d"), scores("ho3d", collector, source)
    assert "xyz_scale_trans_al_mean3d" in ours
    assert ours == pytest.approx({name: official[name] for name in ours}, abs=5e-4)  # a joint on a threshold's edge


def test_hands_without_all_labels_are_left_out(tmp_path, tiny):
    source = ho3d.load(layouts_ho3d.write(tmp_path), "test")  # the wrists alone
    with pytest.raises(UserError, match="no hand has the labels that protocol ho3d needs"):
        scores("ho3d", predicted(Blank(source), tiny), source)
    with pytest.raises(UserError, match="both hands of an image"):
        scores("interhand", predicted(Blank(source), tiny), source)


def test_crops_score_in_the_image(tmp_path, tiny):
    """PCK relative to the box does not depend on the crop: it equals the PCK of the crop's pixels."""
    source = data.read("hint-newdays", layouts_hint.write(tmp_path), "test")
    collector, rng, hits = PredictionCollector(), np.random.default_rng(0), []
    for batch in pipeline.eval_batches(source, tiny, 4):
        noise = rng.normal(size=batch["keypoints_2d"].shape, scale=4).astype(np.float32)
        joints = {"keypoints_3d": batch["keypoints_3d"] + [0, 0, 500.0], "keypoints_2d": batch["keypoints_2d"] + noise}
        collector.collect(batch, joints)
        box = tiny.data.image_size / tiny.data.crop_scale  # px of the crop
        distance = np.linalg.norm(noise, axis=-1)[batch["valid"] > 0]
        hits += [[distance <= part * box for part in (0.05, 0.1, 0.15)]]
    expected = np.concatenate(hits, axis=1).mean((1, 2))
    found = scores("hint", collector, source)
    assert [found[f"kpAvg_pck_{part}"] for part in (0.05, 0.1, 0.15)] == pytest.approx(expected, abs=1e-6)
    assert 0.05 < expected[0] < expected[2] < 1


def test_the_command(trained, copy_of, call, tmp_path):
    run = copy_of(trained)
    code, output, errors = call(evaluate.main, run, "--protocol", "hamer", "--option", "keypoint_list=0,4,8")
    assert (code, errors) == (0, "") and "mode_re" in output
    results = json.loads((run / "evaluation.json").read_text())["results"]
    assert {result["input"] for result in results} == {"RGB-D", "RGB"}
    code, output, errors = call(evaluate.main, run, "--protocol", "hamer")
    for result in json.loads((run / "evaluation.json").read_text())["results"]:
        assert result["hamer"]["mode_mpjpe"] == pytest.approx(result["mpjpe"], abs=1e-3)
        assert result["hamer"]["mode_re"] == pytest.approx(result["pa_mpjpe"], abs=1e-3)
    assert (run / "hamer_synthetic_RGB" / "samples.csv").read_text().count("\n") == 23
    folder = layouts_hint.write(tmp_path)
    code, output, errors = call(evaluate.main, run, "--data", f"hint:{folder}")
    assert (code, errors) == (0, "") and "use --protocol hint to score 2D joints" in output and "inf" not in output
    code, output, errors = call(evaluate.main, run, "--data", f"hint:{folder}", "--protocol", "hint")
    assert (code, errors) == (0, "") and "kpAvg_pck_0.05" in output


def test_mistakes_are_named(trained, copy_of, call, tmp_path):
    run, folder = copy_of(trained), layouts_hint.write(tmp_path)
    for arguments, fault in (
        (("--protocol", "interhand"), "protocol interhand: needs both hands"),
        (("--protocol", "hamr"), "did you mean 'hamer'?"),
        (("--option", "a=1"), "--option: has no effect without a protocol; add --protocol NAME"),
        (("--data", f"hint:{folder}", "--protocol", "freihand"), "needs"),
        (("--data", f"hint:{folder}", "--split", "train"), "TRAIN"),
        (("--split", "val", "--submit", "pred.json"), "leave out --split val"),
    ):
        code, _, errors = call(evaluate.main, run, *arguments)
        assert code == 2 and fault in errors and errors.count("\n") == 1, errors
    code, output, _ = call(evaluate.main, run, "--data", "synthetic", "--split", "train")
    assert code == 0 and "synthetic, 96 hands:" in output


def test_predictions_are_moved_to_the_labelled_wrist():
    rng = np.random.default_rng(0)
    joints, labels, points = rng.normal(size=(2, 21, 3)), rng.normal(size=(2, 21, 3)), rng.normal(size=(2, 5, 3))
    valid = np.ones((2, 21))
    valid[1, 1:] = 0  # only the wrist is needed
    records = [Record(None, np.eye(3), labels[i], valid[i], "right", name=f"hand {i}") for i in range(2)]
    moved = to_wrist(points, joints, records)
    np.testing.assert_allclose(moved, points + labels[:, :1] - joints[:, :1], atol=1e-6)
    valid[1, 0] = 0
    with pytest.raises(UserError, match="hand 1: the wrist has no label, which HO-3D needs"):
        to_wrist(points, joints, records)
    order = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]  # ours → HO-3D's place
    np.testing.assert_allclose(to_ho3d(joints)[:, order], joints * [1, -1, -1], atol=1e-6)
