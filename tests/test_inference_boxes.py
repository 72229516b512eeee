"""Files of boxes: all their forms, and what is wrong with a broken one."""

import json

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.inference.boxes import read_boxes

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
    (tmp_path / "boxes" / "b.jpg").touch()  # next to the file; a.jpg is relative to the current folder
    path = tmp_path / "boxes" / "hands.json"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    found = read_boxes(path)
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
    [hands] = read_boxes(path).values()
    assert hands.sides == ["left"]


@pytest.mark.parametrize("text, line", [
    ("{}", r": hand 0: missing key 'bbox'"),
    ("3", "must be a list of hands, or an object with the key hands"),
    ('{"hands": {}}', "must be a list of hands"),
    ("[1]", ": hand 0: a hand must be an object with the key bbox, got 1"),
    ('{"bbox": [1, 2, 3, 4]}', ": hand 0: missing key 'image'"),
    ('{"image": "a", "bbox": [1, 2, 3, 4]}\n{"image": "a", "bbox"', r"boxes:2: not valid JSON \(.*\)"),
    ('{"image": "a", "bbox": [1, 2, 3, 4]}\n\n{"image": "a", "bbox": [1, 2]}', "boxes:3: bbox must be 4 numbers"),
    ('{"image": "a", "bbox": [9, 2, 3, 4]}', "hand 0: bbox must be x0, y0, x1, y1 with x0 < x1"),
    ('{"image": "a", "bbox": [1, 2, 3, NaN]}', "hand 0: bbox must be"),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "hand": "both"}', 'hand must be "right" or "left", got \'both\''),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "K": [[1]]}', "hand 0: K must be 3x3 numbers"),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "score": "high"}', "score must be a finite number, got 'high'"),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "score": NaN}', "score must be a finite number, got nan"),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "hand": ["left"]}', 'hand must be "right" or "left"'),
    ('[{"image": "a", "bbox": [1, 2, 3, 4], "K": [[1,0,1],[0,1,1],[0,0,1]]}, {"image": "./a", "bbox": [1, 2, 3, 4]}]',
     "hand 1: K differs from the K of an earlier hand in ./a; give all hands of an image the same K"),
    ('{"image": "a\\u0000b", "bbox": [1, 2, 3, 4]}', r"hand 0: image 'a\\x00b' is not a path"),
    (json.dumps({"image": "x" * 5000, "bbox": [1, 2, 3, 4]}), "hand 0: image 'xxx.*xxx' is not a path"),
    ('{"image": "\\ud800", "bbox": [1, 2, 3, 4]}', "hand 0: image .* is not a path"),
    ('{"image": "a", "bbox": [1, 2, 3, 4], "score": %s}' % ("9" * 400), "score must be a finite number, got inf"),
    ('{"image": "a", "bbox": [1, 2, 3, %s]}' % ("9" * 400), "hand 0: bbox must be"),
    ('{"image": "a", "bbox": [1, 2, 3, %s]}' % ("9" * 5000), "hand 0: bbox must be"),
    ('[{"image": "a", "bbox": [1, 2, 3, 4], "bbox": [5, 6, 7, 8]}]', "the key 'bbox' occurs twice in an object"),
    ('{"image": "a", "bbox": [1, 2, 3, 4]}\n{"image": "a", "image" : "b", "bbox": [1, 2, 3, 4]}',
     "boxes:2: not valid JSON .the key 'image' occurs twice"),
    ("[" * 100_000, "nested too deeply"),
    ('{"a":' * 100_000, "nested too deeply"),
    ('{"image": "a", "bbox": [1, 2, 3, 4]}\n' + "[" * 100_000, "boxes:2: .*nested too deeply"),
    (json.dumps(["x" * 100_000]), "a hand must be an object with the key bbox, got 'xxx.*xxx'"),
], ids=lambda value: value[:40])  # fmt: skip
def test_broken_files_are_named(tmp_path, text, line):
    path = tmp_path / "boxes"
    path.write_text(text)
    with pytest.raises(UserError, match=line) as error:
        read_boxes(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff\xe0")
    for path, why in (
        (tmp_path / "no", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "picture", "not text"),
    ):
        with pytest.raises(UserError, match=f"{path}: the boxes cannot be read .*{why}"):
            read_boxes(path)
