"""Fingerprints of data sets: they notice other records and labels, and neither another place nor rounding."""

import dataclasses

import numpy as np
import pytest

from jaxhand import hand
from jaxhand.config import HandConfig
from jaxhand.data import fingerprint
from jaxhand.data.mix import Mix
from jaxhand.data.record import Record


def records(count, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        joints = rng.normal([0, 0, 500], 50, (21, 3)).astype(np.float32)
        yield Record(np.zeros((4, 4, 3), np.uint8), np.eye(3), joints, np.ones(21), "right", name=f"images/{i}.png")


def changed(source, index, **changes):
    return [dataclasses.replace(record, **changes) if i == index else record for i, record in enumerate(source)]


def difference(before, now):
    return fingerprint.difference(fingerprint.of_source(before), fingerprint.of_source(now))


@pytest.fixture
def source():
    return list(records(30))


def test_the_same_records_are_the_same(source):
    assert difference(source, list(records(30))) is None
    rounded = [dataclasses.replace(r, keypoints_3d=r.keypoints_3d * np.float32(1 + 2e-7)) for r in source]
    assert difference(source, rounded) is None


def test_what_differs_is_named(source):
    moved = source[3].keypoints_3d + np.float32([[0, 0, 1]] * 21)
    assert difference(source, source[:-1]) == "30 records before, 29 now"
    assert difference(source, source[::-1]) == "30 records as before, but with other names"
    assert difference(source, changed(source, 3, hand="left")) == "30 records as before, but with other names"
    assert difference(source, changed(source, 3, keypoints_3d=moved)) == "other labels (keypoints_3d)"
    assert difference(source, changed(source, 3, K=2 * np.eye(3))) == "other labels (K)"
    assert difference(source, changed(source, 3, mano_pose=np.ones(48))) == "other labels (mano_pose)"
    assert difference(source, changed(source, 3, joint_valid=np.zeros(21))) == "other labels (joint_valid)"


def test_labels_that_are_no_numbers_are_compared_too(source):
    odd = changed(source, 3, keypoints_3d=np.full((21, 3), np.nan))
    assert difference(odd, odd) is None and difference(source, odd) == "other labels (keypoints_3d)"


def test_a_mix_is_compared_set_by_set(source):
    mix = Mix({"a": source, "b": source[:5]}, {"a": 1, "b": 2})
    assert difference(mix, mix) is None
    assert difference(mix, Mix({"a": source, "b": source[:4]}, {"a": 1, "b": 2})) == (
        "set 2 of 2: 5 records before, 4 now"
    )
    assert difference(mix, source) == "2 sets before, 1 now"


def test_few_records_are_read_and_fewer_with_their_images(monkeypatch):
    class Large:
        def __init__(self):
            self.read = []

        def __len__(self):
            return 130_240

        def __getitem__(self, index):
            self.read.append(index)
            return next(records(1))

    class Annotated(Large):
        def read_annotation(self, index):
            return self[index]

    images, labels = Large(), Annotated()
    assert fingerprint.of_source(images)[0]["records"] == 130_240
    fingerprint.of_source(labels)
    assert len(images.read) == 50 and len(labels.read) == fingerprint.MAX_RECORDS
    assert {0, 130_239} < set(images.read) and {0, 130_239} < set(labels.read)


def test_a_hand_model(monkeypatch):
    built_in = hand.load(HandConfig())
    other = dataclasses.replace(built_in, template=built_in.template * 1.01 + 1)
    before = fingerprint.of_hand(built_in)
    assert fingerprint.difference(before, fingerprint.of_hand(built_in)) is None
    assert fingerprint.difference(before, fingerprint.of_hand(other)) == "other labels (template)"
    assert fingerprint.of_hand(None) == [] and fingerprint.difference([], []) is None


def test_fingerprints_stay(source):
    """They stand in checkpoints: another way to compute them would refuse the data of every run."""
    [found] = fingerprint.of_source(source)
    labels = found.pop("labels")
    assert found == {"records": 30, "names": "1eb528667800c4d1"}
    assert labels == {
        key: pytest.approx(value, abs=1e-6)
        for key, value in {"K": -1.00030367, "keypoints_3d": 6.75697003, "joint_valid": -0.68498263}.items()
    }


def test_records_are_evenly_spread_with_both_ends(source, monkeypatch):
    class Annotated(list):
        read_annotation = list.__getitem__

    monkeypatch.setattr(fingerprint, "MAX_RECORDS", 4)  # 0, 9, 19 and 29
    monkeypatch.setattr(fingerprint, "_MAX_IMAGES", 3)  # 0, 14 and 29
    for kind, read in ((Annotated, (0, 9, 19, 29)), (list, (0, 14, 29))):
        before = fingerprint.of_source(kind(source))
        for index in range(30):
            now = fingerprint.of_source(kind(changed(source, index, hand="left")))
            assert (fingerprint.difference(before, now) is not None) == (index in read), index


def test_rounding_is_no_difference(source):
    before = fingerprint.of_source(source)
    for change, same in ((0.9e-5, True), (1.1e-5, False)):
        now = [before[0] | {"labels": before[0]["labels"] | {"K": before[0]["labels"]["K"] + change}}]
        assert (fingerprint.difference(before, now) is None) == same
    assert fingerprint.MAX_RECORDS == 10_000 and fingerprint._MAX_IMAGES == 50
    assert fingerprint.of_hand(None) == []


def test_infinite_and_missing_numbers_count_as_0():
    zeros, odd = np.array([0.0, 0, 0, 2]), np.array([np.inf, -np.inf, np.nan, 2])
    assert fingerprint._weighted_sum([odd]) == fingerprint._weighted_sum([zeros]) != 0
    assert fingerprint._weighted_sum([np.zeros(3)]) == 0
