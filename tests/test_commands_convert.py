"""`convert data` on a folder of photographs: what it prints, what it leaves, what it refuses."""

import numpy as np

from jaxhand import convert, data


def test_convert_data(photographs, call, tmp_path):
    out = tmp_path / "packed"
    code, output, errors = call(convert.main, "data", "folder", photographs, out, "--shard-size", 8)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith("train 1/3: 8 records, ") and lines[2].startswith("train 3/3: 6 records, ")
    assert lines[-1] == f"train 22, val 4, test 22 records: read folder:{out}"
    for split, count in (("train", 22), ("val", 4), ("test", 22)):
        source, packed = data.read("folder", photographs, split), data.read("folder", out, split)
        assert len(packed) == len(source) == count
        for i in range(count):
            for key, value in vars(source[i]).items():
                np.testing.assert_array_equal(vars(packed[i])[key], value, err_msg=key)
    code, output, _ = call(convert.main, "data", "folder", photographs, out, "--shard-size", 8)
    assert code == 0 and output.count("kept") == 6


def test_mistakes_are_one_line(photographs, call, tmp_path):
    for arguments, message in [
        (("freihnd", photographs, tmp_path / "a"), "unknown data set 'freihnd'; did you mean 'freihand'?"),
        (("folder", tmp_path / "none", tmp_path / "a"), f"{tmp_path / 'none'}: no such data folder"),
        (("folder", photographs, photographs), f"{photographs} is not empty and holds no packed set"),
    ]:
        code, _, errors = call(convert.main, "data", *arguments)
        assert code == 2 and errors.startswith(f"error: {message}") and errors.count("\n") == 1
    assert not (tmp_path / "a").exists()
