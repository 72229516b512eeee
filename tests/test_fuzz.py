"""No content of a file leads to a traceback: values of any kind (hypothesis), and damaged files for every reader.

A few examples in `make test`, many in `make test-slow`.
"""

import json
import pickle
import pickletools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxhand import config as configs
from jaxhand.config import UserError, yaml_text
from jaxhand.config.json_text import parse_json
from jaxhand.data.datasets import folder
from jaxhand.evaluation import prediction_files
from jaxhand.inference.boxes import read_boxes
from jaxhand.io import pickles
from tests.support import fuzz

COUNTS = [40, pytest.param(1000, marks=pytest.mark.slow)]
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 10**400, 2**63, 1e308, 1e-320]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(["right", "left", "\0"]))
JSON = st.recursive(
    SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=5), each, max_size=3)
)
SECTIONS = configs.to_dict(configs.Config())
KEYS = st.sampled_from([key for section in SECTIONS.values() if isinstance(section, dict) for key in section])


def check(strategy, count: int, function) -> None:
    """Call `function` with `count` examples of a strategy, always the same ones; a UserError in one line is right."""

    @settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(strategy)
    def run(value):
        try:
            function(value)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000

    run()


@pytest.fixture
def home():
    """A folder for files; one for all examples of a test."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.mark.parametrize("count", COUNTS)
def test_any_config(count, home):
    values = st.one_of(JSON, st.dictionaries(KEYS, JSON, max_size=3))

    def read(tree):
        (home / "a.yaml").write_text(json.dumps(tree))
        configs.load(home / "a.yaml")

    check(st.dictionaries(st.sampled_from([*SECTIONS, "x"]), values, max_size=3), count, read)
    check(st.tuples(KEYS, st.text(max_size=20)), count, lambda pair: configs.load(None, [f"data.{pair[0]}={pair[1]}"]))


@pytest.mark.parametrize("count", COUNTS)
def test_any_text(count):
    pieces = st.sampled_from(
        [token.decode("latin1") for token in fuzz.TOKENS] + ["a: 1\n", "&a ", "*a", "- ", "? ", "\n  "]
    )

    def read(parse):
        def parsed(text):
            try:
                parse(text)
            except ValueError as error:
                raise UserError(" ".join(str(error).split())[:900]) from None

        return parsed

    check(
        st.lists(pieces, max_size=6).map("".join), count, lambda text: yaml_text.typed(yaml_text.parse(text, "a text"))
    )
    check(st.lists(pieces, max_size=12).map("".join), count, read(parse_json))
    check(st.binary(max_size=60), count, read(parse_json))


@pytest.mark.parametrize("count", COUNTS)
def test_any_label_line(count, home):
    (home / "a.jpg").write_bytes(b"")
    joints = (np.arange(63.0).reshape(21, 3) + 500).tolist()
    line = {"image": "a.jpg", "hand": "right", "K": [[500, 0, 32], [0, 500, 24], [0, 0, 1]], "joints_3d": joints}

    def read(change):
        (home / "train.jsonl").write_text(json.dumps(line | change))
        folder.load(home, "train").read_annotation(0)

    check(st.dictionaries(st.sampled_from([*line, "bbox", "depth", "joint_valid"]), JSON, max_size=2), count, read)
    points = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=21, max_size=21)
    check(points.map(lambda joints_3d: {"joints_3d": joints_3d}), count // 4, read)


@pytest.mark.parametrize("count", COUNTS)
def test_any_box(count, home):
    hand = {
        "image": "a.jpg",
        "bbox": [1, 2, 30, 40],
        "hand": "left",
        "score": 0.5,
        "K": [[9, 0, 3], [0, 9, 2], [0, 0, 1]],
    }

    def read(content):
        (home / "boxes.json").write_text(json.dumps(content))
        read_boxes(home / "boxes.json")

    changed = st.dictionaries(st.sampled_from(list(hand)), JSON, max_size=2).map(lambda change: hand | change)
    check(st.one_of(JSON, changed, st.lists(changed, max_size=3), changed.map(lambda one: {"hands": one})), count, read)


@pytest.mark.parametrize("count", COUNTS)
def test_any_predictions(count, home):
    pieces = st.sampled_from(
        ["[", "[[", "[[[", "]", "]]", "]]]", ",", "1", "1.5", "NaN", "null", '"a"', "1e999", " ", "\n", "{}"]
    )
    lines = st.lists(
        st.lists(st.sampled_from(["1", "2.5", "nan", "", "[2", "{}", "1e999", '"5"']), max_size=65), max_size=3
    )

    def read(name):
        def write_and_read(text):
            (home / name).write_text(text)
            prediction_files.read(home / name, ["xyz", "verts"])

        return write_and_read

    check(st.lists(pieces, max_size=30).map("".join), count, read("pred.json"))
    check(JSON.map(json.dumps), count, read("pred.json"))
    check(lines.map(lambda rows: "\n".join(map(",".join, rows))), count, read("pred.txt"))
    full = st.lists(
        st.sampled_from(["1", "2.5", "nan", "1e999", "[2", "{}", '"5"', "9" * 400]), min_size=64, max_size=64
    )
    check(full.map(",".join), count, read("pred.txt"))


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
PICKLED = st.recursive(
    PLAIN,
    lambda each: st.lists(each) | st.tuples(each, each) | st.dictionaries(st.text(), each) | st.sets(PLAIN, max_size=3),
    max_leaves=15,
)


@pytest.mark.parametrize("count", COUNTS)
def test_pickles_of_plain_values_are_read_exactly(count):
    def read(value):
        for protocol in range(6):
            assert pickles.load(pickle.dumps(value, protocol), "a") == value

    check(PICKLED, count, read)


@pytest.mark.parametrize("count", COUNTS)
def test_any_opcodes(count):
    arguments = st.sampled_from(
        [b"\0", b"\1", b"\xff\xff\xff\x7f", b"1\n", b"numpy\nndarray\n", b"numpy\ndtype\n", b"\2f8"]
    )
    opcodes = st.sampled_from([opcode.code.encode("latin1") for opcode in pickletools.opcodes])
    programs = st.lists(st.one_of(opcodes, arguments), max_size=20)
    check(programs.map(lambda parts: b"".join(parts) + b"."), 5 * count, lambda content: pickles.load(content, "a"))


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """All formats with valid contents, and the folder of the files."""
    path = tmp_path_factory.mktemp("formats")
    return fuzz.kinds(path), path


NAMES = [
    *(
        "pickle",
        "frame",
        "rhd",
        "hands",
        "mano",
        "npz",
        "hamer",
        "npy",
        "torch",
        "legacy",
        "safetensors",
        "tflite",
        "task",
    ),
    *(
        "image",
        "depth",
        "tar",
        "predictions",
        "prediction archive",
        "lines",
        "labels",
        "boxes",
        "coco",
        "numbers",
        "config",
    ),
    "hands file",
    "packed record",
    "packed shard",
    "packed manifest",
    "arrays",
]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(formats, name):
    kinds, path = formats
    assert list(kinds) == NAMES
    result = fuzz.run(kinds[name], path, seed=7, count=100)
    assert not result.faults and result.refused > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files_in_little_memory(name):
    result = fuzz.run_limited(name, seed=11, seconds=20)
    assert not result.faults and result.refused > 100


def test_a_fault_is_reported(formats):
    """The loop notices another exception than the documented one."""
    kinds, path = formats
    broken = kinds["boxes"]._replace(readers=[lambda file: json.loads(file.read_bytes())])
    assert fuzz.run(broken, path, seed=7, count=100).faults
