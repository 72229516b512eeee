"""Validation splits for sets without one: complete groups of records are held out, the same for every user."""

import hashlib
import typing
from pathlib import Path

import numpy as np

from jaxhand.config import UserError

SHARE = 0.05  # least share of the records that is held out
PARTS = 200  # groups that a set without sequences is cut into


def held_out(groups: typing.Sequence | np.ndarray, location: str | Path, *, seed: int = 0) -> np.ndarray:
    """Choose the records that are held out: complete groups, in the order of a seeded hash, until `SHARE` is reached.

    Args:
        groups: (N,) the group of each record, such as its sequence: groups are never divided.
        location: the file or folder that errors name.
        seed: another seed holds other groups out.

    Returns:
        (N,) bool, True where a record is held out.

    Raises:
        UserError: there is only one group.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UserError(f"{location}: a single sequence, nothing can be held out of it; test on another set")
    order = np.array(sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}/{names[i]}".encode()).digest()))
    before = np.cumsum(sizes[order]) - sizes[order]  # records in the groups before each
    chosen = np.zeros(len(names), bool)
    chosen[order[:-1]] = before[:-1] < SHARE * len(group)  # never the last group: training needs one
    return chosen[group]


def blocks(numbers: np.ndarray, count: int) -> np.ndarray:
    """Cut records into groups of neighbours, which are near copies of each other.

    Args:
        numbers: (N,) the position of each record in the set, 0 to `count` - 1.
        count: number of positions.

    Returns:
        (N,) groups, 0 to `PARTS` - 1.
    """
    return np.asarray(numbers, np.int64) * PARTS // count


def keep(split: str, groups: typing.Sequence | np.ndarray, location: str | Path, without_val: bool) -> np.ndarray:
    """Choose the records of a split, where "val" is held out of the records that are read for "train".

    Args:
        split: "val" keeps the held-out records; the others keep all, "train" without them if `without_val`.
        groups, location: as for `held_out`.
        without_val: leave the held-out records out of "train".

    Returns:
        (n,) indices of the records.
    """
    if split == "val" or split == "train" and without_val:
        return np.flatnonzero(held_out(groups, location) == (split == "val"))
    return np.arange(len(groups))
