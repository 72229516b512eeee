"""`jaxhand pack` on a folder of photographs: its output, its files and its errors."""

import json

import cv2
import numpy as np
import pytest

from jaxhand import convert, data, pack

COUNT = 22


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder set, equal for train and test, with a depth image for every photograph."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    lines = []
    for i in range(COUNT):
        cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
        cv2.imwrite(str(folder / f"{i}_depth.png"), rng.integers(0, 2000, (40, 60), dtype=np.uint16))
        joints = rng.uniform((-80, -80, 450), (80, 80, 550), (21, 3))
        labels = {"hand": "left", "K": [[90, 0, 30], [0, 90, 20], [0, 0, 1]], "joints_3d": joints.tolist()}
        lines.append(json.dumps({"image": f"{i}.jpg", "depth": f"{i}_depth.png"} | labels))
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def test_pack(photographs, call, tmp_path):
    out = tmp_path / "packed"
    code, output, errors = call(pack.main, "folder", photographs, out, "--shard-size", 8)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith("train 1/3: 8 records, ") and lines[2].startswith("train 3/3: 6 records, ")
    assert lines[-1] == f"train 22, val 4, test 22 records: read folder:{out}"
    for split, count in (("train", COUNT), ("val", COUNT // 5), ("test", COUNT)):
        source, packed = data.read("folder", photographs, split), data.read("folder", out, split)
        assert len(packed) == len(source) == count
        for i in range(count):
            for key, value in vars(source[i]).items():
                np.testing.assert_array_equal(vars(packed[i])[key], value, err_msg=key)
    # the same command by its older name, which finds the packed set finished
    code, output, _ = call(convert.main, "data", "folder", photographs, out, "--shard-size", 8)
    assert code == 0 and output.count("kept") == 6


def test_mistakes_are_one_line(photographs, call, tmp_path):
    for arguments, message in [
        (("freihnd", photographs, tmp_path / "a"), "unknown data set 'freihnd'; did you mean 'freihand'?"),
        (("folder", tmp_path / "none", tmp_path / "a"), f"{tmp_path / 'none'}: no such data folder"),
        (("folder", photographs, photographs), f"{photographs}: is not empty and contains no packed set"),
    ]:
        code, _, errors = call(pack.main, *arguments)
        assert code == 2 and errors.startswith(f"error: {message}") and errors.count("\n") == 1
    assert not (tmp_path / "a").exists()
