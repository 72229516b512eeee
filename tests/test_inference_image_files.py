"""Which files of a folder are photographs."""

import json

from jaxhand.inference.image_files import image_paths
from jaxhand.inference.output import PredictionWriter


def test_pictures_that_predict_wrote_are_not_photographs(tmp_path):
    for name in ("a.png", "a_joints.png", "a_mesh.png", "b_joints.png"):
        (tmp_path / name).touch()
    hand = {"image": str(tmp_path / "a.png"), "overlay": "a_joints.png", "mesh_overlay": "a_mesh.png"}
    (tmp_path / "joints.json").write_text(json.dumps({"hands": [hand]}))
    names = [path.name for path in image_paths([tmp_path])]
    assert names == ["a.png", "b_joints.png"]  # the second is of the user
    PredictionWriter(tmp_path, inputs=[tmp_path / name for name in names])  # the format is that of the writer
    assert image_paths([tmp_path / "a_joints.png"]) == [tmp_path / "a_joints.png"]  # named on purpose
    for content in (b"{}", b"[1]", b"\xff", b'{"hands": [1]}'):
        (tmp_path / "joints.json").write_bytes(content)
        assert len(image_paths([tmp_path])) == 4
