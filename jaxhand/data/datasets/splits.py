"""Validation splits for data sets without one: complete groups of records are held out, the same for all users."""

import hashlib
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError

SHARE = 0.05  # smallest fraction of the records that is held out
PARTS = 200  # number of groups into which a data set without sequences is divided


def held_out(groups: typing.Sequence | np.ndarray, location: str | Path, *, seed: int = 0) -> np.ndarray:
    """Choose the records that are held out: complete groups, in the order of a seeded hash, until `SHARE` is reached.

    Args:
        groups: (N,) the group of each record, such as its sequence. A group is never divided.
        location: the file or folder, for error messages.
        seed: seed of the hash; other seeds hold out other groups.

    Returns:
        (N,) bool, True for records that are held out.

    Raises:
        UserError: there is only one group.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UserError(f"{location}: only one sequence, so no split val can be made; test on another data set")
    order = np.array(sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}/{names[i]}".encode()).digest()))
    before = np.cumsum(sizes[order]) - sizes[order]  # number of records in all groups before each group
    chosen = np.zeros(len(names), bool)
    chosen[order[:-1]] = before[:-1] < SHARE * len(group)  # never the last group, which is left for training
    return chosen[group]


def blocks(numbers: np.ndarray, count: int) -> np.ndarray:
    """Divide records into groups of neighbours, because neighbouring records are nearly equal.

    Args:
        numbers: (N,) position of each record in the data set, 0 to `count` - 1.
        count: number of positions.

    Returns:
        (N,) the group of each record, 0 to `PARTS` - 1.
    """
    return np.asarray(numbers, np.int64) * PARTS // count


def keep(split: str, groups: typing.Sequence | np.ndarray, location: str | Path, without_val: bool) -> np.ndarray:
    """Choose the records of a split, for data sets whose "val" is a part of "train".

    Args:
        split: "val": only the held-out records. "train" and "test": all records.
        groups, location: as for `held_out`.
        without_val: leave the held-out records out of "train".

    Returns:
        (n,) indices of the records.
    """
    if split == "val" or split == "train" and without_val:
        return np.flatnonzero(held_out(groups, location) == (split == "val"))
    return np.arange(len(groups))
