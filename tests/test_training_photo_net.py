"""From converted networks to a trained `photo_net`, which finds its palm detector, and to hands of photographs."""

import json

import numpy as np
import pytest

import jaxhand
from jaxhand import config as configs
from jaxhand.config import UserError
from jaxhand.hand.camera import project
from jaxhand.inference.mediapipe_predictor import MediapipePredictor
from jaxhand.training import loop
from jaxhand.training.adaptation import fit_joint_mix
from jaxhand.training.checkpoint import restore_best
from tests.support import mediapipe_files

SETTINGS = ["model.name=photo_net", "data.image_size=224", "data.crop_rule=mediapipe", "training.batch_size=4"]


@pytest.mark.slow
def test_a_training_from_converted_networks_reads_photographs(shared, photographs, tmp_path):
    """One step on rendered hands, then the mix of a data set: two runs later the palm detector is still found."""
    label = json.loads((shared / "real" / "hand_photos" / "test.jsonl").read_text().splitlines()[0])
    converted = mediapipe_files.convert_run(tmp_path / "converted")
    name = f"folder:{photographs}"
    sets = [f"data.train={name}", f"data.test={name}", f"training.init_from={converted}"]
    lengths = ["training.num_epochs=1", "training.epoch_samples=4", "optimizer.rates.backbone/*=0"]
    assert loop.train(configs.load(None, [*SETTINGS, *sets, *lengths]), tmp_path / "run") == 0
    out = fit_joint_mix(tmp_path / "run", name, "train", tmp_path / "adapted", ridge=1)
    start, end = (restore_best(folder) for folder in (converted, out))
    np.testing.assert_array_equal(end.params["backbone"]["stem"]["kernel"], start.params["backbone"]["stem"]["kernel"])
    assert np.abs(end.params["votes"]["bias"]).max() > 0 and end.params["mix_3d"].shape == (21, 21)
    assert 5 < end.params["prior"][0] < 7 and end.params["prior"][1] < 0  # the renders are 300 to 1000 mm away
    path, K = shared / "real" / "hand_photos" / label["image"], np.array(label["K"])
    read = jaxhand.load(out)
    found = read([path], K=[K])
    assert isinstance(read, MediapipePredictor) and found["is_right"].tolist() == [False]
    np.testing.assert_allclose(project(found["keypoints_3d"][0], K), found["keypoints_2d"][0], atol=1e-2)
    assert 150 < found["keypoints_3d"][0, :, 2].mean() < 1200


def test_mirrored_hands_need_a_rule_that_keeps_left_hands(photographs):
    name = f"folder:{photographs}"
    sets = [f"data.train={name}", f"data.test={name}", "training.batch_size=4"]
    config = configs.load(None, [*sets, "data.augment.mirror=0.5"])
    with pytest.raises(UserError, match=r"data.augment.mirror: with data.crop_rule=square all hands .* are right"):
        loop.train(config, photographs / "run")
