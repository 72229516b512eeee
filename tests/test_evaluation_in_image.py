"""Joints in the image: the same PCK in crops as HInt's protocol finds in whole images, and the command that prints it."""

import numpy as np
import pytest

from jaxhand import data, evaluate
from jaxhand.data.crop import crop, uncrop
from jaxhand.evaluation.in_image import BoxPCK
from jaxhand.metrics import PROTOCOLS
from tests import layouts_hint

SIZE, CROP_SCALE = 64, 1.4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return layouts_hint.write(tmp_path_factory.mktemp("hint"))


def test_crops_score_as_whole_images(folder):
    source, rng = data.read("hint-newdays", folder, "test"), np.random.default_rng(0)
    records = [source[i] for i in range(len(source))]
    samples = [crop(record, SIZE, CROP_SCALE) for record in records]
    batch = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    batch["joint_valid_2d"][:, 3] = 0
    pred = batch["keypoints_2d"] + rng.normal(size=batch["keypoints_2d"].shape, scale=4).astype(np.float32)
    batch["valid"] = np.ones(len(records))
    pck = BoxPCK(CROP_SCALE)
    for rows in (slice(0, 2), slice(2, 4), slice(4, None)):
        pck.collect({key: value[rows] for key, value in batch.items()}, {"keypoints_2d": pred[rows]})
    fill = {key: value[:1] for key, value in batch.items()} | {"valid": np.zeros(1)}
    pck.collect(fill, {"keypoints_2d": pred[:1] + 1000})

    K = np.stack([record.K for record in records])
    pixels, _ = uncrop(pred, np.zeros((*pred.shape[:2], 3)), batch["K"], K, batch["is_right"])
    target = np.stack([record.keypoints_2d for record in records])
    box_size = np.array([max(record.bbox[2:] - record.bbox[:2]) for record in records])
    target = np.concatenate([target, batch["joint_valid_2d"][..., None]], -1)  # (N, 21, 3)
    ground_truth = {"keypoints_2d": target, "box_size": box_size}
    official = PROTOCOLS["hint"].score({"keypoints_2d": pixels}, ground_truth).values
    for part, share in pck.values().items():
        assert 0.05 < share < 1
        assert share == pytest.approx(official[f"kpAvg_{part}"], abs=1e-6)


def test_nothing_labelled_is_no_number():
    pck = BoxPCK(CROP_SCALE)
    points, image = np.zeros((2, 21, 2)), np.zeros((2, SIZE, SIZE, 3))
    batch = {"keypoints_2d": points, "joint_valid_2d": np.zeros((2, 21)), "valid": np.ones(2), "image": image}
    pck.collect(batch, {"keypoints_2d": points})
    assert list(pck.values()) == ["pck_0.05", "pck_0.1", "pck_0.15"] and np.isnan(list(pck.values().values())).all()


def test_evaluate_says_what_share_is_right(folder, trained, copy_of, call):
    code, output, errors = call(evaluate.main, copy_of(trained), "--data", f"hint:{folder}")
    assert (code, errors) == (0, "")
    assert "RGB: no 3D ground truth; pck_0.05 " in output and "inf" not in output and "nan" not in output


def test_another_split(folder, trained, copy_of, call):
    run = copy_of(trained)
    code, output, _ = call(evaluate.main, run, "--data", "synthetic", "--split", "train")
    assert code == 0 and "synthetic, 96 hands:" in output
    code, _, errors = call(evaluate.main, run, "--data", f"hint:{folder}", "--split", "train")
    assert code == 2 and "TRAIN" in errors and errors.count("\n") == 1
    code, _, errors = call(evaluate.main, run, "--data", f"hint:{folder}", "--split", "val", "--submit", "pred.json")
    assert code == 2 and "leave out --split val" in errors
