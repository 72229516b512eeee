"""Labels kept as arrays: parsed once, again when a file changes, repaired after damage; large files in pieces."""

import json
import time

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.datasets import label_cache

VALUES = np.random.default_rng(0).normal(size=(50, 21, 3)) * 10.0 ** np.arange(-9, 12).reshape(21, 1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A separate cache folder, and the names of the files that were parsed."""
    parsed, parse = [], label_cache._parse
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(label_cache, "_parse", lambda file, shape: parsed.append(file.name) or parse(file, shape))
    return tmp_path, parsed


def write(file, values):
    file.write_text(json.dumps(values.tolist()))
    return file


def test_a_file_is_parsed_once_and_again_when_it_changes(home):
    folder, parsed = home
    file = write(folder / "a.json", VALUES)
    for _ in range(2):
        values = label_cache.numbers(file, (21, 3))
        np.testing.assert_array_equal(values, VALUES.astype(np.float32))
        assert isinstance(values.base.base, np.memmap) and not values.flags.writeable
    assert parsed == ["a.json"]
    write(file, VALUES + 1)
    np.testing.assert_array_equal(label_cache.numbers(file, (21, 3)), (VALUES + 1).astype(np.float32))
    write(folder / "b.json", VALUES)
    np.testing.assert_array_equal(label_cache.numbers(folder / "b.json", (21, 3)), VALUES.astype(np.float32))
    assert parsed == ["a.json", "a.json", "b.json"]


def test_a_damaged_cache_is_built_again(home):
    folder, parsed = home
    file = write(folder / "a.json", VALUES)
    label_cache.numbers(file, (21, 3))
    (kept,) = (folder / "cache/jaxhand/index").iterdir()
    for damage in (kept.read_bytes()[:-4], kept.read_bytes()[:-1] + b"?", b""):
        kept.write_bytes(damage)
        np.testing.assert_array_equal(label_cache.numbers(file, (21, 3)), VALUES.astype(np.float32))
    assert len(parsed) == 4


def test_a_cache_that_cannot_be_written_is_done_without(home, monkeypatch):
    folder, parsed = home
    file = write(folder / "a.json", VALUES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    for _ in range(2):
        np.testing.assert_array_equal(label_cache.numbers(file, (21, 3)), VALUES.astype(np.float32))
    assert len(parsed) == 2


def test_a_folder_has_changed_when_a_file_is_added(home):
    folder, built = home[0] / "labels", []
    folder.mkdir()

    def build():
        built.append(len(list(folder.iterdir())))
        return {"count": np.array(built[-1:])}

    assert [int(label_cache.cached([folder], build)["count"][0]) for _ in range(2)] == [0, 0]
    (folder / "one").touch()
    assert int(label_cache.cached([folder], build)["count"][0]) == 1 and built == [0, 1]
    with pytest.raises(UserError, match="none: no such file or directory; check the path, or download"):
        label_cache.cached([folder, folder / "none"], build)


MODULE = """
# built {built}: a comment
def build():
    '''{docstring}'''
    calls.append(1)
    return {{"value": np.array([{value}])}}
"""


def test_only_what_the_code_computes_builds_again(home):
    """A changed comment, docstring or empty line does not; a changed number does."""
    folder, _ = home
    file, calls = write(folder / "a.json", VALUES), []
    for built, docstring, value, count in ((1, "One", 7, 1), (2, "Another", 7, 1), (2, "Another\n", 8, 2)):
        module, space = folder / "builder.py", {"calls": calls, "np": np}
        module.write_text(MODULE.format(built=built, docstring=docstring, value=value))
        exec(compile(module.read_text(), module, "exec"), space)
        assert int(label_cache.cached([file], space["build"])["value"][0]) == value
        assert len(calls) == count


def slow(seconds):
    def build():
        time.sleep(seconds)
        return {"value": np.zeros(1)}

    return build


def test_slow_building_is_announced_once(home, monkeypatch, capsys):
    """One line for all parts, once they have together taken too long; none if building is quick or cached."""
    folder, _ = home
    parts = [([write(folder / f"{name}.json", VALUES)], slow(0.2)) for name in "abc"]
    label_cache.cached(*parts[0])
    monkeypatch.setattr(label_cache, "PATIENCE_S", 0.3)
    assert capsys.readouterr().err == ""
    label_cache.cached_parts(folder, parts[1:2])
    assert capsys.readouterr().err == ""
    more = [([write(folder / f"more-{name}.json", VALUES)], slow(0.2)) for name in "abcd"]
    label_cache.cached_parts(folder / "a set", more)
    line = f"reading the labels of {folder / 'a set'}; they are kept in {folder / 'cache/jaxhand/index'}\n"
    assert capsys.readouterr().err == line
    label_cache.cached_parts(folder / "a set", more)
    assert capsys.readouterr().err == ""


def test_the_announcement_comes_before_building_ends(home, monkeypatch, capsys):
    folder, _ = home
    monkeypatch.setattr(label_cache, "PATIENCE_S", 0.0)
    printed = []

    def build():
        while not printed:
            printed.extend(capsys.readouterr().err.splitlines())
            time.sleep(0.01)
        return {"value": np.zeros(1)}

    label_cache.cached([write(folder / "a.json", VALUES)], build)
    assert printed == [f"reading the labels of {folder / 'a.json'}; they are kept in {folder / 'cache/jaxhand/index'}"]


def test_pieces_of_any_size_and_any_spacing(monkeypatch, tmp_path):
    for piece, indent in ((7, None), (64, None), (1000, 1), (2**20, 2)):
        monkeypatch.setattr(label_cache, "_PIECE", piece)
        (tmp_path / "values.json").write_text(json.dumps(VALUES.tolist(), indent=indent))
        np.testing.assert_array_equal(label_cache._parse(tmp_path / "values.json", (21, 3)), VALUES.astype(np.float32))
    np.testing.assert_array_equal(label_cache._parse(write(tmp_path / "flat.json", np.arange(5)), ()), np.arange(5))


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_truncated_file_is_never_accepted(tmp_path, length):
    text = json.dumps(VALUES[:3, :2, :2].tolist())
    (tmp_path / "cut.json").write_text(text[: min(length, len(text) - 1)])
    with pytest.raises(UserError, match="cut.json: (cut off after|does not end with)"):
        label_cache._parse(tmp_path / "cut.json", (2, 2))
