"""YAML as text: keys that are there twice, anchors, hostile files, and what a plain text means."""

import pytest

from jaxhand.config import ConfigError, limits, load, yaml_text
from tests.test_config_loading import message, write


def test_a_key_that_is_there_twice(tmp_path):
    text = "training:\n  num_epochs: 3\ndata: {view: all}\ntraining:\n  batch_size: 8\n"
    assert "'training' is there twice, in lines 1 and 4; keep one of them" in message(path=write(tmp_path, text))
    text = "data:\n  augment: {noise: 0.1,\n    noise: 0.2}\n"
    assert "'data.augment.noise' is there twice, in lines 2 and 3" in message(path=write(tmp_path, text))
    assert "twice, in line 1" in message("optimizer.rates={a: 1, a: 2}")


def test_anchors_and_merges(tmp_path):
    text = "data: {augment: &a {noise: 0.1, shift: 0.2}}\nmodel: {options: {<<: *a, noise: 1, of: *a}}\n"
    config = load(write(tmp_path, text))
    assert config.model.options == {"noise": 1, "shift": 0.2, "of": {"noise": 0.1, "shift": 0.2}}
    assert "<< must be followed by a section" in message(path=write(tmp_path, "model: {options: {<<: 3}}"))


def nested(kind: str, depth: int = 100_000) -> str:
    return {"flow": "[" * depth, "block": "- " * depth, "map": "{a: " * (depth // 2)}[kind]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh")
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (nested("flow"), "nested too deeply"),
        (nested("block"), "nested too deeply"),
        (nested("map"), "nested too deeply"),
        (BOMB, "more than 20,000 values after its aliases are replaced"),
        ("model: {options: {a: &a [*a]}}", "nested too deeply"),
        ("seed: " + "9" * 2_000_000, "is too long for a config"),
        ("seed: !!python/object:os.system [x]", "line 1: the tag tag:yaml.org,2002:python/object:os.system"),
        ("? [a, b]\n: 3", "line 1: a key must be a text"),
        ("data: {train: freihand: }", "not valid YAML"),
        ("data:\n  train:\n    freihand:", "there is nothing after 'freihand'"),
        ("data: {train: \0}", "not valid YAML"),
        ("x" * 100_000, "must have keys and values, got a str"),
        ("? " + "x" * 100_000 + "\n: 1", "unknown key"),
    ],
    ids=lambda value: value[:20] if len(value) < 300 else value[:4],
)
def test_a_hostile_file_is_a_short_line(tmp_path, text, words):
    line = message(path=write(tmp_path, text))
    assert words in line and len(line) < 700


def test_plain_texts_become_what_they_look_like():
    text = "[1, -2, +3, 010, 1.5, .5, 2e3, 1E-2, yes, OFF, .inf, -.INF, ~, null, '7', 1_0, 0x1, 1:30, a b]"
    values = yaml_text.typed(yaml_text.parse(text, "x"))
    inf = float("inf")
    expected = [
        1,
        -2,
        3,
        10,
        1.5,
        0.5,
        2000.0,
        0.01,
        True,
        False,
        inf,
        -inf,
        None,
        None,
        "7",
        "1_0",
        "0x1",
        "1:30",
        "a b",
    ]
    assert values == expected and [type(each) for each in values] == [type(each) for each in expected]
    assert yaml_text.typed({"a": yaml_text.Plain("3"), "b": [yaml_text.Plain("no")]}) == {"a": 3, "b": [False]}
    assert yaml_text.parse("", "x") is None


def test_texts_are_shortened_in_the_middle():
    assert yaml_text.shortened("abcdefghijk", 11) == "abcdefghijk"
    assert yaml_text.shortened("abcdefghijkl", 11) == "abcd...ijkl"
    assert yaml_text.shown("x" * 100) == "'" + "x" * 37 + "..." + "x" * 37 + "'"


def test_limits_of_a_document(monkeypatch):
    assert limits.YAML_CHARACTERS == 2**19 and limits.YAML_VALUES == 20_000
    monkeypatch.setattr(limits, "YAML_CHARACTERS", 2000)
    monkeypatch.setattr(limits, "YAML_VALUES", 50)
    longest = "# " + "x" * (limits.YAML_CHARACTERS - 2)
    assert yaml_text.parse(longest, "x") is None
    with pytest.raises(ConfigError, match="x is too long for a config: 2,001 characters"):
        yaml_text.parse(longest + "x", "x")
    most = "[" + ",".join("1" * (limits.YAML_VALUES - 1)) + "]"  # the list is a value, too
    assert len(yaml_text.parse(most, "x")) == limits.YAML_VALUES - 1
    with pytest.raises(ConfigError, match="x has more than 50 values"):
        yaml_text.parse(most[:-1] + ",1]", "x")


def test_faults_are_named_with_their_line():
    for text, words in (
        ("a: 1\nb: !x 2", r"x: line 2: the tag !x has no meaning"),
        ("a: 1\n? [1]\n: 2", r"x: line 2: a key must be a text"),
        ("a:\n  <<: [{b: 1}, 3]", r"x: line 2: << must be followed by a section"),
        ("a: {b: 1,\n  c: 2, b: 3}", r"x: 'a.b' is there twice, in lines 1 and 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            yaml_text.parse(text, "x")


def test_of_several_merged_sections_the_first_counts_and_a_key_of_its_own_before_all():
    parsed = yaml_text.typed(yaml_text.parse("{a: &a {x: 1, y: 1}, b: &b {x: 2, z: 2}, c: {<<: [*a, *b], z: 3}}", "x"))
    assert parsed["c"] == {"x": 1, "y": 1, "z": 3}
    assert yaml_text.typed(yaml_text.parse("{'<<': 3}", "x")) == {"<<": 3}  # in quotes, a key like any other
