"""Which files of a folder are photographs."""

import json
from pathlib import Path

from jaxhand.inference.image_files import image_paths, named_first
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


def test_a_file_that_is_named_twice(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "link.png").symlink_to("a.png")
    monkeypatch.chdir(tmp_path)
    given = [Path("b.png"), tmp_path / "a.png", Path("./b.png"), tmp_path / "x" / ".." / "a.png", Path("link.png")]
    assert named_first([*given, *image_paths([Path()])]) == [0, 1]
    assert named_first([tmp_path / "a.png", tmp_path / "b.png"]) == [0, 1] and named_first([]) == []
