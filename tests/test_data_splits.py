"""Held-out parts: complete groups, the same every time, of about the requested share."""

import numpy as np
import pytest

from jaxhand.config import UserError
from jaxhand.data.datasets.splits import PARTS, SHARE, blocks, held_out, keep

GROUPS = np.repeat([f"S{i}" for i in range(40)], np.arange(40) * 5 + 20)


def test_groups_are_never_divided():
    held = held_out(GROUPS, "here")
    assert not set(GROUPS[held]) & set(GROUPS[~held])
    assert SHARE <= held.mean() < SHARE + 0.05
    shuffled = np.random.default_rng(0).permutation(len(GROUPS))
    np.testing.assert_array_equal(held_out(GROUPS[shuffled], "here"), held[shuffled])


def test_the_choice_never_changes():
    """Other numbers would change a published split."""
    assert sorted(set(GROUPS[held_out(GROUPS, "here")])) == ["S19", "S24"]
    assert set(GROUPS[held_out(GROUPS, "here", seed=1)]) != {"S19", "S24"}


def test_something_is_left_to_train_on():
    for few, many in ("ab", "ba"):  # the first in the hash's order
        assert 0 < held_out([few] + [many] * 99, "here").sum() < 100
    with pytest.raises(UserError, match="here: only one sequence, so no split val can be made"):
        held_out(["a", "a"], "here")


def test_blocks_of_neighbours():
    parts = blocks(np.arange(32560), 32560)
    assert (np.diff(parts) >= 0).all() and len(set(parts)) == PARTS
    assert set(np.bincount(parts)) == {162, 163}
    assert held_out(parts, "here").mean() == pytest.approx(SHARE, abs=1e-3)
    np.testing.assert_array_equal(blocks([3, 1], 4), [150, 50])


def test_what_a_split_keeps():
    everything = np.arange(len(GROUPS))
    held = np.flatnonzero(held_out(GROUPS, "here"))
    np.testing.assert_array_equal(keep("val", GROUPS, "here", False), held)
    np.testing.assert_array_equal(keep("train", GROUPS, "here", True), np.setdiff1d(everything, held))
    for split, without_val in (("train", False), ("test", False), ("test", True)):
        np.testing.assert_array_equal(keep(split, GROUPS, "here", without_val), everything)
