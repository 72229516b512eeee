"""`evaluate --predictions`: from files to the console, scores.json and samples.csv, without a model."""

import json
import re

import numpy as np
import pytest

from jaxhand import evaluate
from jaxhand.evaluation import prediction_files, scoring
from jaxhand.evaluation.prediction_files import write_freihand
from jaxhand.hand.skeleton import from_our_order
from tests.support.prediction_sets import hands, meshes, predicted

COUNT = 24  # as in test_evaluation_scoring: one program for both


@pytest.fixture
def folder(tmp_path):
    """A folder with pred.zip and the two files of FreiHAND's labels in `labels`."""
    gt = hands(COUNT)
    pred = predicted(gt)
    write_freihand(tmp_path / "pred.zip", pred / 1000, meshes(pred) / 1000)
    (tmp_path / "labels").mkdir()
    for name, points in (("xyz", gt), ("verts", meshes(gt))):
        (tmp_path / "labels" / f"evaluation_{name}.json").write_text(json.dumps((points / 1000).tolist()))
    return tmp_path


def arguments(folder, protocol="freihand", predictions="pred.zip"):
    files = ["--predictions", folder / predictions, "--ground-truth", folder / "labels"]
    return [*files, "--protocol", protocol]


def refused(call, *arguments):
    code, _, errors = call(evaluate.main, *arguments)
    assert code == 2 and re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


def test_from_pred_zip_to_the_table(folder, call):
    code, output, errors = call(evaluate.main, *arguments(folder))
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"Reading {folder / 'pred.zip'} and {folder / 'labels'}"
    assert lines[1] == f"freihand, {COUNT} samples, as lmb-freiburg/freihand eval.py:"
    assert re.fullmatch(r"  xyz_mean3d +\d\.\d{4} cm +\d+\.\d{3} mm", lines[2])
    written = folder / "pred_freihand"
    assert lines[-1] == f"Written to {written / 'scores.json'} and {written / 'samples.csv'}"
    assert sorted(path.name for path in written.iterdir()) == ["samples.csv", "scores.json"]
    report = json.loads((written / "scores.json").read_text())
    assert report["values"]["xyz_mean3d"] == pytest.approx(float(lines[2].split()[1]), abs=1e-4)
    assert max(map(len, lines[1:-1])) <= 120


def test_an_option_and_a_folder(folder, call):
    options = ["--output", folder / "mine", "--option", "keypoint_list=4,8"]
    code, output, _ = call(evaluate.main, *arguments(folder, "hamer"), *options)
    report = json.loads((folder / "mine" / "scores.json").read_text())
    assert code == 0 and report["options"] == {"keypoint_list": [4, 8]}
    assert call(evaluate.main, *arguments(folder, "hamer"), *options)[0] == 0  # its own files are replaced
    for name in ("scores.json", "samples.csv"):
        (folder / name).write_text("{}")
        line = f"{folder / name}: exists, was not written by this command"
        assert line in refused(call, *arguments(folder, "hamer"), "--output", folder)
        assert (folder / name).read_text() == "{}"
        (folder / name).unlink()
    kept = [name for name, mean in report["joints_mm"]["mode_mpjpe"].items() if mean is not None]
    assert kept == ["thumb4", "index4"] and re.search(r"mode_mpjpe +nan +\d", output)


def test_a_warning_is_printed_and_kept(folder, call):
    xyz = from_our_order(predicted(hands(COUNT)), "ho3d") / 1000
    np.savez(folder / "pred.npz", xyz=xyz)
    code, output, errors = call(evaluate.main, *arguments(folder, predictions="pred.npz"))
    assert (code, errors) == (0, "")
    warnings = [line.removeprefix("warning: ") for line in output.splitlines() if line.startswith("warning: ")]
    assert warnings[0].startswith("no scores of verts") and "the order of ho3d and mano, not of freihand" in warnings[1]
    assert json.loads((folder / "pred_freihand" / "scores.json").read_text())["warnings"] == warnings


def test_help_lists_the_protocols():
    assert evaluate.PROTOCOLS.splitlines() == scoring.described()
    assert evaluate.SUFFIXES == prediction_files.SUFFIXES


def test_user_errors_are_named(folder, call, tmp_path):
    files = arguments(folder)
    assert "give a run folder, or --predictions" in refused(call)
    assert "give either a run folder" in refused(call, tmp_path, *files)
    assert "give either a run folder" in refused(call, *files, "--data", "synthetic")
    assert "give a run folder, or --predictions" in refused(call, "--output", tmp_path)
    assert "is a file, not a run folder; to score a file of predictions: --pred" in refused(call, folder / "pred.zip")
    assert "must be given together (protocols: freihand, ho3d" in refused(call, *files[:4])
    assert "unknown protocol 'freihnd'; did you mean 'freihand'?" in refused(call, *arguments(folder, "freihnd"))
    assert "no option 'a=1'" in refused(call, *files, "--option", "a=1")
    assert "no.json: no such file" in refused(call, *arguments(folder, predictions="no.json"))
    xyz = hands(COUNT) / 1000
    xyz[5, 2] = np.nan
    np.savez(folder / "pred.npz", xyz=xyz)
    assert "sample 5 of xyz, point 2, is not finite" in refused(call, *arguments(folder, predictions="pred.npz"))
    assert not (folder / "pred_freihand").exists()
    (folder / "file").write_text("")
    assert "choose another folder with --output" in refused(call, *files, "--output", folder / "file")


def test_no_library_of_models_is_loaded(folder, command):
    """For a small set, most of the time is the start of the process."""
    loaded = "print([name for name in ('orbax', 'flax', 'grain', 'cv2') if name in sys.modules])"
    patch = f"import atexit, sys; atexit.register(lambda: {loaded})"
    code, output, errors = command("evaluate", *arguments(folder, "hamer"), patch=patch)
    assert code == 0, errors
    assert output.splitlines()[-1] == "[]"
