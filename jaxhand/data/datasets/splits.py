"""Held-out parts of sets that have none: whole groups of records that belong together, the same for everyone."""

import hashlib

import numpy as np

from jaxhand.config import UserError

SHARE = 0.05  # of the records that are held out, at least
PARTS = 200  # that a set without sequences is cut into


def held_out(groups, where, *, seed: int = 0) -> np.ndarray:
    """Which records are held out: whole groups in the order of a seeded hash, until `SHARE` of all is reached.

    Args:
        groups: (N,) the group of every record, such as its sequence: groups are never divided.
        where: the file or folder that errors name.
        seed: another one holds others out.

    Returns:
        (N,) bool.

    Raises:
        UserError: there is only one group.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UserError(f"{where}: a single sequence, nothing can be held out of it; test on another set")
    order = np.array(sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}/{names[i]}".encode()).digest()))
    before = np.cumsum(sizes[order]) - sizes[order]  # records of the groups that come earlier
    chosen = np.zeros(len(names), bool)
    chosen[order[:-1]] = before[:-1] < SHARE * len(group)  # some are left to train on
    return chosen[group]


def blocks(numbers, count: int) -> np.ndarray:
    """The part, 0 to `PARTS` - 1, of each of `numbers` (N,) out of 0 to `count` - 1: neighbours are near copies."""
    return np.asarray(numbers, np.int64) * PARTS // count


def keep(split: str, groups, where, without_val: bool) -> np.ndarray:
    """The indices (n,) of the records of a split, where "val" is held out of what is read for "train".

    Args:
        split: "val" keeps the held-out records; the others keep all, "train" without them if `without_val`.
        groups, where: as for `held_out`.
    """
    if split == "val" or split == "train" and without_val:
        return np.flatnonzero(held_out(groups, where) == (split == "val"))
    return np.arange(len(groups))
