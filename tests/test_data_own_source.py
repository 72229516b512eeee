"""A data set from outside the package whose code fails, or returns something else than records."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from jaxhand import data
from jaxhand.config import UserError, limits
from jaxhand.data import set_checks
from jaxhand.data.crop import crop
from jaxhand.data.mix import Mix
from jaxhand.data.record import Record, read_annotation

HAND = Record(
    np.zeros((48, 64, 3), np.uint8),
    np.array([[500, 0, 32], [0, 500, 24], [0, 0, 1.0]]),
    np.random.default_rng(0).normal(0, 30, (21, 3)) + [0, 0, 600],
    np.ones(21),
    "right",
    name="a",
)


class Hands:
    """Hands of which the third is the result of a function."""

    def __init__(self, third):
        self._third = third

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self._third() if index == 2 else HAND


@pytest.fixture
def opened(monkeypatch):
    """A function that opens a data set whose function is the argument."""

    def opened(load):
        monkeypatch.setitem(sys.modules, "own_hands", types.SimpleNamespace(load=load))
        return data.read("own_hands:load", "somewhere", "train")

    return opened


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "error, line",
    [
        (KeyError("x"), r"KeyError: 'x' \(test_data_own_source.py, line \d+\)"),
        (RuntimeError("a\nb"), "RuntimeError: a b"),
        (StopIteration(), "StopIteration"),
        (SystemExit(0), "SystemExit: 0"),  # the command would end without a word
        (AssertionError(), "AssertionError"),
    ],
)
def test_an_error_of_its_code_is_one_line_with_the_record(opened, error, line):
    with pytest.raises(UserError, match=f"^data set own_hands:load failed: {line}") as found:
        opened(lambda *_, **__: raise_(error))
    assert found.value.__cause__ is error
    source = opened(lambda *_, **__: Hands(lambda: raise_(error)))
    with pytest.raises(UserError, match=f"^data set own_hands:load: record 2 failed: {line}") as found:
        source[2]
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"image": "a.png"}, "image must be an array .* got str"),
        ({"image": None}, "has no image"),
        ({"image": HAND.image[..., 0]}, r"image must be .* got uint8 \(48, 64\)"),
        ({"depth": [[1.0]]}, r"depth must be .*"),
        ({"hand": "Right"}, "hand must be"),
        ({"name": 5}, "name must be a text, got 5"),
        ({"joint_valid": np.full(21, np.nan)}, "joint_valid must be 1 or 0"),
        ({"keypoints_3d": HAND.keypoints_3d[:20]}, r"keypoints_3d must be numbers of shape \(21, 3\)"),
    ],
)
def test_a_record_of_another_form_is_named_wherever_it_is_read(opened, change, line):
    source = opened(lambda *_, **__: Hands(lambda: dataclasses.replace(HAND, **change)))
    with pytest.raises(UserError, match=f"^data set own_hands:load: record 2: {line}"):
        source[2]
    assert source[1] is HAND and len(source) == 4


def test_what_is_no_source_or_has_no_number_of_records(opened):
    hands = Hands(lambda: HAND)
    for returned, line in ((Hands, "must return a source .* got the class Hands"), (iter([]), "got list_iterator")):
        with pytest.raises(UserError, match=line):
            opened(lambda *_, **__: returned)
    for count, line in (
        (22.0, r"len\(\) failed: TypeError"),
        (-1, r"len\(\) failed: ValueError"),
        (0, "train has 0 records, not 1 to 100,000,000"),
        (10**9, "train has 1,000,000,000 records"),  # their order alone would fill 8 GB
    ):
        counted = type("Counted", (Hands,), {"__len__": lambda self: count})
        with pytest.raises(UserError, match=line):
            opened(lambda *_, **__: counted(None))
    mix = Mix({"a": hands}, {"a": 1.0})
    assert limits.RECORDS == 10**8 and opened(lambda *_, **__: mix) is mix


def test_optional_methods_are_those_of_the_source(opened):
    class Annotated(Hands):
        left_out = ["a sentence"]

        def read_annotation(self, index):
            return dataclasses.replace(self[index], image=None)

        def encoded(self, index):
            raise OSError("gone")

    source = opened(lambda *_, **__: Annotated(lambda: HAND))
    assert read_annotation(source, 2).image is None and source.left_out == ["a sentence"]
    with pytest.raises(UserError, match=r"^data set own_hands:load: encoded\(\) failed: OSError: gone"):
        source.encoded(1)
    assert not hasattr(source, "read_encoded") and [record.name for record in source] == list("aaaa")


def test_sets_without_labelled_joints_and_boxes_without_an_end():
    unlabelled = [dataclasses.replace(HAND, joint_valid=np.zeros(21))] * 4
    assert set_checks.check({"data.test": unlabelled}) == []  # of a leaderboard
    with pytest.raises(UserError, match="^data.train: no joint is labelled in the 4 hands checked, so nothing is"):
        set_checks.check({"data.train": unlabelled})
    endless = dataclasses.replace(HAND, bbox=np.array([0, 0, np.inf, np.inf]))
    np.testing.assert_array_equal(crop(endless, 32, 1.4)["keypoints_2d"], crop(HAND, 32, 1.4)["keypoints_2d"])
    negative = dataclasses.replace(HAND, depth=np.full((48, 64), -500.0))
    with pytest.raises(UserError, match="depth must be at least 0"):
        set_checks.check({"data.train": [negative] * 4})
