"""Rendered clips of two hands: joints, cameras and frames fit together."""

import json
import sys

import numpy as np
import pytest

from jaxhand.data.synthetic import __main__ as synthetic
from jaxhand.inference.video_files import open_source


@pytest.mark.slow
def test_synthetic_clip(tmp_path, monkeypatch, capsys):
    path = tmp_path / "clip.mp4"
    monkeypatch.setattr(sys, "argv", ["synthetic", "--clip", str(path), "--size", "96", "--count", "6", "--fps", "5"])
    assert synthetic.main() == 0
    lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    images = [frame.image for frame in open_source(path, None)]
    assert len(lines) == len(images) == 6 and [hand["hand"] for hand in lines[0]["hands"]] == ["right", "left"]
    for number, side in enumerate((1, -1)):
        joints = np.array([line["hands"][number]["joints_3d"] for line in lines])  # (6, 21, 3)
        pixels = np.array([line["hands"][number]["joints_2d"] for line in lines])
        projected = joints @ np.array(lines[0]["K"]).T
        np.testing.assert_allclose(projected[..., :2] / projected[..., 2:], pixels, atol=0.05)
        assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 120  # mm in 1/5 s
        lengths = np.linalg.norm(joints[:, 2:5] - joints[:, 1:4], axis=-1)
        np.testing.assert_allclose(lengths, lengths[:1].repeat(6, 0), atol=0.05)  # one shape
        assert side * (joints[0, :, 0].mean() - joints[-1, :, 0].mean()) > 0  # towards the other hand
    wrists = np.array([hand["joints_2d"][0] for hand in lines[0]["hands"]]).round().astype(int)
    assert all(images[0][y - 1 : y + 2, x - 1 : x + 2].mean() > images[0][:20].mean() + 15 for x, y in wrists)
    assert (
        synthetic_error(monkeypatch, capsys, "--clip", "clip.avi") == "error: --clip must end in .mp4, got clip.avi\n"
    )


def synthetic_error(monkeypatch, capsys, *words) -> str:
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["synthetic", *words])
    assert synthetic.main() == 2
    return capsys.readouterr().err
