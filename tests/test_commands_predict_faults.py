"""`predict` with broken photographs, odd boxes, full disks and damaged models: what is refused or left out."""

import json
import re

import numpy as np

from jaxhand import predict
from jaxhand.inference import image_files, predictor
from tests.support.predict_command import read_joints, refused


def test_user_errors_are_named(finished, photographs, call, tmp_path):
    image = photographs / "images" / "0.png"
    assert "no.png does not exist" in refused(call, finished, tmp_path / "no.png")
    (tmp_path / "text.png").write_text("not an image")
    assert "text.png is not an image" in refused(call, finished, tmp_path / "text.png")
    assert "--bbox must be" in refused(call, finished, image, "--bbox", 9, 9, 3, 20)
    assert f"{image}: the box" in refused(call, finished, image, "--bbox", 90, 9, 99, 20)
    assert "--focal must be positive" in refused(call, finished, image, "--focal", 0)
    assert "--K must be FX FY CX CY" in refused(call, finished, image, "--K", 0, 1, 2, 3)
    assert "name at least one image" in refused(call, finished)
    assert "--depth must name a file for each of the 1 images" in refused(
        call, finished, image, "--depth", image, image
    )
    assert "must be a 16-bit grey PNG" in refused(call, finished, image, "--depth", image)
    assert "--mesh none writes no mesh" in refused(call, finished, image, "--mesh", "none", "--mano", "hand.pkl")
    assert "hand.pkl" in refused(call, finished, image, "--mano", tmp_path / "hand.pkl")
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(call, finished, image, "--out", tmp_path / "file")
    boxes = tmp_path / "boxes.json"
    boxes.write_text('[{"image": "other.png", "bbox": [1, 2, 3')
    assert f"{boxes}:1: not valid JSON" in refused(call, finished, image, "--boxes", boxes)
    boxes.write_text('[{"image": "other.png", "bbox": [1, 2, 3, 4]}]')
    assert f"{boxes} has no hand of {image}" in refused(call, finished, image, "--boxes", boxes)
    assert "--hand is for one hand per image" in refused(call, finished, image, "--boxes", boxes, "--hand", "left")
    assert "detector must be module:name" in refused(call, finished, image, "--detector", "hands")


def test_a_broken_photograph_is_left_out(finished, photographs, call, tmp_path, monkeypatch):
    """The others are predicted, before it and after it, in the same batch and in others; the exit code is 1."""
    monkeypatch.setattr(image_files, "IMAGES_IN_MEMORY", 2)
    text, empty, missing = tmp_path / "text.png", tmp_path / "empty.jpg", tmp_path / "no.png"
    text.write_text("not an image")
    empty.touch()
    images = [photographs / "images" / f"{i}.png" for i in range(4)]
    code, output, errors = call(predict.main, finished, images[0], text, empty, missing, *images[1:])
    assert code == 1 and "4 hands of 4 images" in output
    assert errors.splitlines() == [
        "3 images or hands are left out:",
        f"  image {text} is not an image or is cut off",
        f"  image {empty} is not an image or is cut off",
        f"  image {missing} does not exist",
    ]
    hands = read_joints(finished / "predictions")
    assert [hand["image"] for hand in hands] == list(map(str, images))
    assert call(predict.main, finished, *images, "--out", tmp_path / "whole")[0] == 0
    for hand, alone in zip(hands, read_joints(tmp_path / "whole"), strict=True):
        np.testing.assert_allclose(hand["joints_3d"], alone["joints_3d"], atol=0.02)


def test_an_odd_box_is_left_out(finished, photographs, call, tmp_path):
    image, other = (photographs / "images" / f"{i}.png" for i in range(2))
    boxes = [[4, 5, 50, 55], [90, 9, 99, 20], [10, 8, 60, 50]]
    entries = [{"image": str(image), "bbox": box, "hand": "left", "score": i / 4} for i, box in enumerate(boxes)]
    entries += [{"image": str(other), "bbox": [-50, -60, -4, -5]}, {"image": str(other), "bbox": [90, 0, 99, 9]}]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    code, output, errors = call(predict.main, finished, "--boxes", tmp_path / "boxes.json")
    assert code == 1 and "2 hands of 1 images" in output
    first, *lines = errors.splitlines()
    assert first == "2 images or hands are left out:"
    assert lines[0].startswith(f"  {image}: the box [90.0, 9.0, 99.0, 20.0] ") and lines[0].endswith("(hand 1)")
    assert lines[1].startswith(f"  {other}: the box [-50.0") and "(hand 1)" in lines[1]
    hands = read_joints(finished / "predictions")
    assert [(hand["bbox"], hand["score"]) for hand in hands] == [(boxes[0], 0.0), (boxes[2], 0.5)]


def test_a_full_disk(finished, photographs, call, disk_of):
    disk = disk_of("16k")
    line = refused(call, finished, photographs / "images" / "0.png", "--out", disk / "out")
    assert re.search(r"cannot write .*/out/.*: No space left", line)


def test_a_broken_model(finished, photographs, call, monkeypatch):
    """Joints that are not finite are an error, and no file has a NaN."""
    load_best = predictor.load_best

    def broken(workdir):
        tester, best = load_best(workdir)
        best.params["stem"]["kernel"] = best.params["stem"]["kernel"] * np.nan
        return tester, best

    monkeypatch.setattr(predictor, "load_best", broken)
    image = photographs / "images" / "0.png"
    assert f"{image}: the predicted joints are not finite" in refused(call, finished, image)
    assert not (finished / "predictions" / "joints.json").exists()
