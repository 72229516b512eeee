"""Files of boxes in all their forms, detectors that a user plugs in, and what is wrong with either."""

import json

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.inference import boxes

K = [[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]
HANDS = [
    {"image": "b.jpg", "bbox": [1, 2, 30, 40], "hand": "left", "K": K, "score": 0.25},
    {"image": "a.jpg", "bbox": [5, 6, 70.5, 80]},
    {"image": "b.jpg", "bbox": [2, 3, 31, 41], "hand": "right", "K": K},
]


@pytest.mark.parametrize("text", [
    json.dumps(HANDS),
    json.dumps({"hands": HANDS, "units": "px"}, indent=2),
    "\ufeff" + "\n\n".join(map(json.dumps, HANDS)) + "\n",
])  # fmt: skip
def test_all_forms_of_a_file(tmp_path, monkeypatch, text):
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "b.jpg").touch()  # beside the file; a.jpg is looked for from here
    path = tmp_path / "boxes" / "hands.json"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    found = boxes.read(path)
    assert list(found) == [str(tmp_path / "boxes" / "b.jpg"), str(tmp_path / "a.jpg")]
    two, one = found.values()
    np.testing.assert_array_equal(two.boxes, [[1, 2, 30, 40], [2, 3, 31, 41]])
    np.testing.assert_array_equal(two.K, K)
    assert two.sides == ["left", "right"] and two.scores == [0.25, None]
    np.testing.assert_array_equal(one.boxes, [[5, 6, 70.5, 80]])
    assert one.sides == ["right"] and one.scores == [None] and one.K is None


def test_a_file_of_one_line(tmp_path):
    path = tmp_path / "hands.jsonl"
    path.write_text(json.dumps(HANDS[0]))
    [hands] = boxes.read(path).values()
    assert hands.sides == ["left"]


@pytest.mark.parametrize("text, line", [
    ("{}", r": hand 0: missing key 'bbox'"),
    ("3", "neither a list of hands nor an object with `hands`"),
    ('{"hands": {}}', "neither a list of hands"),
    ("[1]", ": hand 0: a hand must be an object with bbox, got 1"),
    ('{"bbox": [1, 2, 3, 4]}', ": hand 0: missing key 'image'"),
    ('{"image": "a", "bbox": [1, 2, 3, 4]}\n{"image": "a", "bbox"', r"boxes:2: not valid JSON \(.*\)"),
    (
        '{"image": "a", "bbox": [1, 2, 3, 4]}\n\n{"image": "a", "bbox": [1, 2, 3]}',
        "boxes:3: bbox must be 4 numbers, got shape 3",
    ),
    ('{"image": "a", "bbox": [9, 2, 3, 4]}', "hand 0: bbox must be x0, y0, x1, y1 with x0 < x1"),
    ('{"image": "a", "bbox": [1, 2, 3, NaN]}', "hand 0: bbox must be"),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "hand": "both"}', 'hand must be "right" or "left", got \'both\''),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "K": [[1]]}', "hand 0: K must be 3x3 numbers"),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "score": "high"}', "score must be a number, got 'high'"),
    ('[{"image": "a", "bbox": [1, 2, 3, 4], "K": [[1,0,1],[0,1,1],[0,0,1]]}, {"image": "./a", "bbox": [1, 2, 3, 4]}]',
     "hand 1: K is not that of an earlier hand of ./a: an image has one camera"),
])  # fmt: skip
def test_garbled_files_are_named(tmp_path, text, line):
    path = tmp_path / "boxes"
    path.write_text(text)
    with pytest.raises(UserError, match=line) as error:
        boxes.read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff\xe0")
    for path, why in (
        (tmp_path / "no", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "picture", "not text"),
    ):
        with pytest.raises(UserError, match=f"cannot read boxes {path}: .*{why}"):
            boxes.read(path)


DETECTOR = """
import numpy as np
def hands(image):
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    return [{"bbox": np.float32([1, 2, 30, 40]), "hand": "left", "score": np.float32(0.5)}, {"bbox": (3, 4, 5, 6)}]
def none(image): return []
def number(image): return 3
def nobody(image): return [{"hand": "left"}]
def backwards(image): return [{"bbox": (1, 2, 3, 4)}, {"bbox": (5, 2, 3, 4), "hand": "left"}]
"""


def test_a_detector_is_a_function_in_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_hands.py").write_text(DETECTOR)
    monkeypatch.chdir(tmp_path)
    image = np.zeros((48, 64, 3), np.uint8)
    found = boxes.detector("my_hands:hands")(image)
    np.testing.assert_array_equal(found.boxes, [[1, 2, 30, 40], [3, 4, 5, 6]])
    assert found.sides == ["left", "right"] and found.scores == [0.5, None] and found.K is None
    assert boxes.detector("my_hands:none")(image).boxes.shape == (0, 4)
    for name, line in (
        ("number", "detector my_hands:number must return a list of hands, got int"),
        ("nobody", "detector my_hands:nobody, hand 0: missing key 'bbox'"),
        ("backwards", "detector my_hands:backwards, hand 1: bbox must be"),
    ):
        with pytest.raises(UserError, match=line):
            boxes.detector(f"my_hands:{name}")(image)
    for name, line in (
        ("my_hands", "must be module:function"),
        ("my_hands:absent", "my_hands has no absent"),
        ("no_such_module:f", "cannot import no_such_module"),
    ):
        with pytest.raises(UserError, match=line):
            boxes.detector(name)
