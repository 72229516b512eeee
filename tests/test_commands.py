"""`evaluate` on the tiny run: what it prints, writes and refuses; for `predict` see test_commands_predict.py."""

import dataclasses
import json
import re
import types
from pathlib import Path

import numpy as np
import pytest

from jaxhand import evaluate, predict
from jaxhand.data.record import Record
from jaxhand.evaluation import run_scores
from jaxhand.training import checkpoint_files, eval_loop


def best_meta(workdir):
    metas = checkpoint_files.metas(workdir / "checkpoints")
    return metas[checkpoint_files.best(metas)]


def test_evaluate(finished, call):
    """Without an optimizer, on four devices after training on one: the epoch's numbers, and those without depth."""
    meta = best_meta(finished)
    code, output, errors = call(evaluate.main, finished)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"Best model of {finished}: Epoch {meta['epoch']}, step {meta['step']}"
    assert lines[1] == "synthetic, 22 hands:"
    assert re.fullmatch(r"  RGB-D: MPJPE: \S+ mm, PA-MPJPE: \S+ mm, Avg Metric: \S+ mm", lines[2])
    assert re.fullmatch(r"  RGB: MPJPE: \S+ mm, PA-MPJPE: \S+ mm, Avg Metric: \S+ mm", lines[3])
    assert re.fullmatch(r"    mean pose: MPJPE: \S+ mm; one rigid hand, aligned: PA-MPJPE: \S+ mm", lines[5])
    worse = r"  RGB: Worse than the mean pose: MPJPE (\S+) mm, without any network (\S+) mm\. The network learned .*"
    mpjpe, baseline = re.fullmatch(worse, lines[6]).groups()  # three epochs, most of them with depth
    assert f"  RGB: MPJPE: {mpjpe} mm" in lines[3] and f"mean pose: MPJPE: {baseline} mm" in lines[5]
    assert lines[7:] == [f"Written to {finished / 'evaluation.json'}"]

    report = json.loads((finished / "evaluation.json").read_text())
    assert (report["step"], report["epoch"]) == (meta["step"], meta["epoch"])
    with_depth, without = report["results"]
    assert (with_depth["input"], without["input"]) == ("RGB-D", "RGB")
    for key in ("test_loss", "mpjpe", "pa_mpjpe", "avg_metric"):
        assert with_depth[key] == pytest.approx(meta[key], abs=1e-3)
        assert without[key] != with_depth[key]
    assert f"MPJPE: {with_depth['mpjpe']:.3f} mm" in lines[2]
    assert with_depth["count"] == without["count"] == 22


def test_evaluate_a_folder_of_photographs(finished, photographs, call):
    """The same hands read from files have the same scores, next to the synthetic set."""
    code, output, errors = call(evaluate.main, finished, "--data", "synthetic", f"folder:{photographs}")
    assert (code, errors) == (0, "")
    results = json.loads((finished / "evaluation.json").read_text())["results"]
    assert [result["data"] for result in results] == ["synthetic"] * 2 + [f"folder:{photographs}"] * 2
    for built_in, read in zip(results[:2], results[2:]):
        for key in ("test_loss", "mpjpe", "pa_mpjpe"):
            assert read[key] == pytest.approx(built_in[key], abs=1e-3), key


def refused(call, main, *arguments):
    code, output, errors = call(main, *arguments)
    assert code == 2 and re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors


@pytest.mark.parametrize("main", [evaluate.main, predict.main])
def test_a_folder_without_a_run(call, photographs, tmp_path, main):
    images = [photographs / "images" / "0.png"] if main is predict.main else []
    assert f"no run folder at {tmp_path / 'no'}" in refused(call, main, tmp_path / "no", *images)
    assert f"no checkpoint in {tmp_path}" in refused(call, main, tmp_path, *images)


def test_evaluate_refuses(finished, call, tmp_path):
    assert "unknown data set 'rhd'" in refused(call, evaluate.main, finished, "--data", "rhd")
    assert "no such data folder" in refused(call, evaluate.main, finished, "--data", f"folder:{tmp_path / 'no'}")
    assert not (finished / "evaluation.json").exists()
    (finished / "evaluation.json").mkdir()
    assert "cannot write" in refused(call, evaluate.main, finished)


def test_evaluate_names_what_does_not_fit(finished, call):
    """A config that does not fit the parameters is an error before anything is computed."""
    step = finished / "checkpoints" / str(best_meta(finished)["step"])
    path = step / "meta" / "metadata"
    path.write_text(path.read_text().replace('"width": 32', '"width": 48'))
    checkpoint_files.write_manifest(step)
    line = refused(call, evaluate.main, finished)
    assert "does not fit the model of its config: params/" in line and "the model needs" in line


def test_no_optimizer_is_built(finished, monkeypatch):
    monkeypatch.setattr("jaxhand.training.optimizer.build", lambda *_, **__: pytest.fail("an optimizer was built"))
    eval_model, best = eval_loop.load_best(finished)
    assert best.optimizer is None and not hasattr(eval_model, "tx")


def test_a_run_on_a_read_only_disk(finished, call, monkeypatch, tmp_path):
    """All numbers are printed, and the exit code is 0; --output FOLDER writes them, of a protocol too."""
    monkeypatch.setattr(run_scores.os, "access", lambda path, mode: False)
    before = sorted(finished.rglob("*"))
    code, output, errors = call(evaluate.main, finished, "--protocol", "hamer")
    assert (code, errors) == (0, "") and "RGB-D: MPJPE: " in output and "mode_mpjpe" in output
    assert output.splitlines()[-1].startswith(f"Not written: {finished} is read-only; --output FOLDER writes")
    assert sorted(finished.rglob("*")) == before
    monkeypatch.undo()
    code, output, _ = call(evaluate.main, finished, "--protocol", "hamer", "--output", tmp_path / "scores")
    assert code == 0 and output.splitlines()[-1] == f"Written to {tmp_path / 'scores' / 'evaluation.json'}"
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {
        *("evaluation.json", "hamer_synthetic_RGB", "hamer_synthetic_RGB-D")
    }
    assert sorted(finished.rglob("*")) == before


def test_results_of_other_questions_are_kept(tmp_path):
    """By data set, split, input and protocol; the new ones come first, and each has the step that it is of."""
    about = {"workdir": "run", "step": 48, "epoch": 3}

    def result(data="synthetic", split="test", protocol=None, mpjpe=9.0):
        return {"data": data, "split": split, "input": "RGB", "protocol": protocol, "mpjpe": mpjpe}

    def written():
        return json.loads((tmp_path / "evaluation.json").read_text())["results"]

    old = {"data": "synthetic", "input": "RGB", "mpjpe": 8.0}  # of an earlier version
    (tmp_path / "evaluation.json").write_text(json.dumps(about | {"step": 16, "epoch": 1, "results": [old]}))
    run_scores.write(tmp_path, about, [result("folder:a"), result("folder:a", protocol="hamer")])
    assert [(each["data"], each["step"]) for each in written()] == [("folder:a", 48)] * 2 + [("synthetic", 16)]
    run_scores.write(tmp_path, about | {"step": 64}, [result(), result(split="val"), result("folder:a", mpjpe=np.inf)])
    assert [(each["data"], each.get("protocol"), each["mpjpe"], each["step"]) for each in written()] == [
        *(("synthetic", None, 9.0, 64), ("synthetic", None, 9.0, 64), ("folder:a", None, None, 64)),
        ("folder:a", "hamer", 9.0, 48),
    ]
    run_scores.write(tmp_path, about | {"workdir": "other"}, [result()])
    assert [each["workdir"] for each in written()] == ["other", *["run"] * 4]
    (tmp_path / "evaluation.json").write_text('{"results": [')
    run_scores.write(tmp_path, about, [result()])
    assert len(written()) == 1
    assert (tmp_path / "evaluation.json.damaged").read_text() == '{"results": ['
    (tmp_path / "evaluation.json").write_text("7")
    run_scores.write(tmp_path, about, [result()])
    assert (tmp_path / "evaluation.json.damaged").read_text() == "7"
    assert (tmp_path / "evaluation.json.before.damaged").read_text() == '{"results": ['


def test_scores_of_two_sets_have_two_folders(tmp_path):
    def folder(data, run="run"):
        files = {"pred_files": [Path(run)], "gt_files": [Path(data)]}
        pair = types.SimpleNamespace(protocol=types.SimpleNamespace(name="hamer"), **files)
        found = run_scores._scores_folder(tmp_path, "folder_RGB", pair)
        found.mkdir(exist_ok=True)
        (found / "scores.json").write_text(json.dumps({"predictions": [run], "ground_truth": [data]}))
        return found.name

    names = [folder(data) for data in ("folder:/a", "folder:/b", "folder:/a", "folder:/c", "folder:/b")]
    assert names == ["hamer_folder_RGB", "hamer_folder_RGB_2", "hamer_folder_RGB", "hamer_folder_RGB_3", names[1]]
    assert folder("folder:/a", run="other") == "hamer_folder_RGB_4"
    (tmp_path / "hamer_folder_RGB" / "scores.json").write_text("{}")  # of another program
    assert folder("folder:/a", run="third") == "hamer_folder_RGB_5"


def test_an_infinite_metric_is_null_in_json(finished, call, monkeypatch):
    """JSON has no word for infinity."""
    load_best = eval_loop.load_best

    def broken(workdir, **options):
        eval_model, best = load_best(workdir, **options)
        best.params["stem"]["kernel"] = best.params["stem"]["kernel"] * np.nan
        return eval_model, best

    monkeypatch.setattr(eval_loop, "load_best", broken)
    code, output, _ = call(evaluate.main, finished)
    assert code == 0 and "22 predictions not finite" in output and "MPJPE: inf mm" in output
    text = (finished / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=lambda _: pytest.fail(text))["results"][0]["mpjpe"] is None


def test_output_that_nobody_reads_on(finished, start):
    process = start("evaluate", finished)
    process.stdout.close()
    process.wait(240)
    assert process.returncode == 1
    assert process.stderr.read() == "error: the output cannot be written (Broken pipe), and is not complete\n"


def test_hands_without_a_usable_label_are_named():
    sound = Record(np.zeros((4, 4, 3), np.uint8), np.eye(3), np.arange(63.0).reshape(21, 3), np.ones(21), "right")
    bad = {"a": np.full((21, 3), np.nan), "b": np.ones((21, 3))}
    records = [dataclasses.replace(sound, name=name, keypoints_3d=bad.get(name, sound.keypoints_3d)) for name in "cab"]
    assert run_scores._unusable(records) == " (a, b)" and run_scores._unusable(records[:1]) == ""
    assert run_scores._unusable(records[1:2] * 6) == " (a, a, a, a, a, …)"
