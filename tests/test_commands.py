"""`evaluate` and `predict` on the tiny run: what they print, write and refuse."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from jaxhand import evaluate, predict
from jaxhand.hand.skeleton import JOINT_NAMES
from jaxhand.training import step_files, testing


@pytest.fixture
def finished(trained, copy_of):
    """The run, without its optimizer: nothing here may need it."""
    workdir = copy_of(trained)
    for path in (workdir / "checkpoints").glob("*/optimizer"):
        shutil.rmtree(path)
    return workdir


def best_meta(workdir):
    metas = step_files.metas(workdir / "checkpoints")
    return metas[step_files.best(metas)]


def read_joints(folder):
    hands = json.loads((folder / "joints.json").read_text())["hands"]
    return [(np.array(hand["joints_2d"]), np.array(hand["joints_3d"])) for hand in hands]


def test_evaluate(finished, call):
    """Without an optimizer, on four devices where one trained: the epoch's numbers again, and those without depth."""
    meta = best_meta(finished)
    code, output, errors = call(evaluate.main, finished)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"Best model of {finished}: Epoch {meta['epoch']}, step {meta['step']}"
    assert lines[1] == "synthetic, 22 hands:"
    assert re.fullmatch(r"  RGB-D: MPJPE: \S+ mm, PA-MPJPE: \S+ mm, Avg Metric: \S+ mm", lines[2])
    assert re.fullmatch(r"  RGB: MPJPE: \S+ mm, PA-MPJPE: \S+ mm, Avg Metric: \S+ mm", lines[3])
    assert re.fullmatch(r"    mean pose: MPJPE: \S+ mm; one rigid hand, aligned: PA-MPJPE: \S+ mm", lines[5])
    assert lines[6:] == [f"Written to {finished / 'evaluation.json'}"]

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
    """The same hands read from files score the same, beside the built-in set."""
    code, output, errors = call(evaluate.main, finished, "--data", "synthetic", f"folder:{photographs}")
    assert (code, errors) == (0, "")
    results = json.loads((finished / "evaluation.json").read_text())["results"]
    assert [result["data"] for result in results] == ["synthetic"] * 2 + [f"folder:{photographs}"] * 2
    for built_in, read in zip(results[:2], results[2:]):
        for key in ("test_loss", "mpjpe", "pa_mpjpe"):
            assert read[key] == pytest.approx(built_in[key], abs=1e-3), key


def test_predict(finished, photographs, call):
    images = [photographs / "images" / f"{i}.png" for i in range(3)]
    code, output, errors = call(predict.main, finished, *images)
    assert (code, errors) == (0, "")
    folder = finished / "predictions"
    content = json.loads((folder / "joints.json").read_text())
    assert content["joint_names"] == list(JOINT_NAMES) and "mm" in content["units"]
    for hand, image in zip(content["hands"], images, strict=True):
        assert hand["image"] == str(image) and hand["hand"] == "right"
        assert np.shape(hand["joints_2d"]) == (21, 2) and np.shape(hand["joints_3d"]) == (21, 3)
        overlay = cv2.imread(str(folder / hand["overlay"]))
        assert overlay.shape == (512, 512, 3)
        assert f"{image} -> {folder / hand['overlay']}" in output
        pixels = np.array(hand["joints_3d"]) @ np.array(hand["K"]).T  # the two agree about the camera
        np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], hand["joints_2d"], atol=0.1)


def test_predict_a_left_hand(finished, photographs, call, tmp_path):
    """A mirrored image called left gives the mirrored hand."""
    path, mirrored = photographs / "images" / "4.png", tmp_path / "left.png"
    image = cv2.imread(str(path))
    cv2.imwrite(str(mirrored), image[:, ::-1])
    width = image.shape[1]
    for bbox, mirrored_bbox in (((), ()), ((10, 12, 50, 60), (width - 1 - 50, 12, width - 1 - 10, 60))):
        joints = {}
        for hand, source, box in (("right", path, bbox), ("left", mirrored, mirrored_bbox)):
            box = ("--bbox", *box) if box else ()
            arguments = (finished, source, "--hand", hand, *box, "--out", tmp_path / hand)
            assert call(predict.main, *arguments)[0] == 0
            [joints[hand]] = read_joints(tmp_path / hand)
        (pixels, points), (left_pixels, left_points) = joints["right"], joints["left"]
        mirrored_pixels = np.stack([width - 1 - pixels[:, 0], pixels[:, 1]], axis=1)
        alike = np.abs(left_pixels - mirrored_pixels).max(1) < 0.02
        # A look at a joint starts at a whole pixel: where rounding decides which, that joint may be seen from another
        assert alike.sum() >= 19 and np.abs(left_pixels - mirrored_pixels).max() < 1
        np.testing.assert_allclose(left_points[alike], points[alike] * [-1, 1, 1], atol=0.02)


def test_predict_images_of_one_name(finished, photographs, call, tmp_path):
    paths = []
    for i, name in enumerate(["a/hand.png", "b/hand.png", "b/hand.jpg", "c/hand_2.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), cv2.imread(str(photographs / "images" / f"{i}.png")))
        paths.append(path)
    assert call(predict.main, finished, *paths)[0] == 0
    content = json.loads((finished / "predictions" / "joints.json").read_text())
    overlays = [hand["overlay"] for hand in content["hands"]]
    assert len(set(overlays)) == 4 and all((finished / "predictions" / name).is_file() for name in overlays)
    assert [hand["image"] for hand in content["hands"]] == [str(path) for path in paths]


def test_predict_more_images_than_a_batch(finished, photographs, call):
    """In their order, and each as if it were alone."""
    images = [photographs / "images" / f"{i}.png" for i in range(11)]
    assert call(predict.main, finished, *images)[0] == 0
    together = read_joints(finished / "predictions")
    assert call(predict.main, finished, images[9])[0] == 0
    [(pixels, points)] = read_joints(finished / "predictions")
    np.testing.assert_allclose(together[9][0], pixels, atol=0.02)
    np.testing.assert_allclose(together[9][1], points, atol=0.02)


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
    """A config that is not that of the parameters: said before anything is computed."""
    path = finished / "checkpoints" / str(best_meta(finished)["step"]) / "meta" / "meta.json"
    text = path.read_text().replace('"width": 32', '"width": 48')
    for manifest in (finished / "checkpoints").glob("*/sha256.json"):
        manifest.unlink()
    path.write_text(text)
    line = refused(call, evaluate.main, finished)
    assert "does not fit its model: params/" in line and "model wants" in line


def test_predict_refuses(finished, photographs, call, tmp_path):
    image = photographs / "images" / "0.png"
    assert "no.png does not exist" in refused(call, predict.main, finished, tmp_path / "no.png")
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png is not an image" in refused(call, predict.main, finished, image, tmp_path / "text.png")
    assert "--bbox must be" in refused(call, predict.main, finished, image, "--bbox", 9, 9, 3, 20)
    assert "--focal must be positive" in refused(call, predict.main, finished, image, "--focal", 0)
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(call, predict.main, finished, image, "--out", tmp_path / "file")


def test_no_optimizer_is_built(finished, monkeypatch):
    monkeypatch.setattr("jaxhand.training.optimizer.build", lambda *_, **__: pytest.fail("an optimizer was built"))
    tester, best = testing.load_best(finished)
    assert best.optimizer is None and not hasattr(tester, "tx")


def test_an_infinite_metric_is_null_in_json(finished, call, monkeypatch):
    """JSON has no word for infinity."""
    load_best = testing.load_best

    def broken(workdir):
        tester, best = load_best(workdir)
        best.params["stem"]["kernel"] = best.params["stem"]["kernel"] * np.nan
        return tester, best

    monkeypatch.setattr(testing, "load_best", broken)
    code, output, _ = call(evaluate.main, finished)
    assert code == 0 and "22 predictions not finite" in output and "MPJPE: inf mm" in output
    text = (finished / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=lambda _: pytest.fail(text))["results"][0]["mpjpe"] is None


def test_output_that_nobody_reads_on(finished, start):
    process = start("evaluate", finished)
    process.stdout.close()
    process.wait(240)
    assert process.returncode == 1 and process.stderr.read() == ""
