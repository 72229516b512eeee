"""A short description of a data set, to notice that it is another one when a training continues.

It does not depend on where the files are. It contains the number of records, a checksum of their names, and one number
per kind of label: the labels times fixed random weights. Such numbers of two machines differ only by rounding, which a
checksum of the labels would not survive.
"""

import hashlib

import numpy as np

from jaxhand.data.mix import Mix
from jaxhand.data.record import Source, read_annotation
from jaxhand.hand.skinned import SkinnedHand

MAX_RECORDS = 10_000  # records that are read, evenly spread over the data set
_MAX_IMAGES = 50  # the same for a source that cannot read a record without its image
_LABELS = ("K", "keypoints_3d", "joint_valid", "keypoints_2d", "joint_valid_2d", "bbox", "mano_pose", "mano_shape")
_ROUNDING = 1e-5  # labels that differ by less are equal


def of_source(source: Source) -> list[dict]:
    """Describe a data set: one dict for JSON; for a `Mix`, one per set in its order.

    Args:
        source: the data set. At most `MAX_RECORDS` records of each set are read, without their images.
    """
    return [_of_set(each) for each in (source.sources if isinstance(source, Mix) else [source])]


def of_hand(hand_model: SkinnedHand | None) -> list[dict]:
    """Describe a hand model as a set of one record; an empty list for None."""
    if hand_model is None:
        return []
    arrays = {name: value for name, value in vars(hand_model).items() if isinstance(value, np.ndarray)}
    labels = {name: _weighted_sum([array]) for name, array in arrays.items()}
    return [{"records": 1, "names": f"{hand_model.name} {hand_model.side}", "labels": labels}]


def difference(before: list[dict], now: list[dict]) -> str | None:
    """Describe how a data set differs from an earlier one; None if it does not.

    Args:
        before, now: what `of_source` returned.
    """
    if len(before) != len(now):
        return f"{len(before)} sets before, {len(now)} now"
    for number, (old, new) in enumerate(zip(before, now), start=1):
        if different := _difference(old, new):
            return f"set {number} of {len(now)}: {different}" if len(now) > 1 else different
    return None


def _of_set(source: Source) -> dict:
    most = MAX_RECORDS if hasattr(source, "read_annotation") else _MAX_IMAGES
    indices = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int))
    records = [read_annotation(source, int(i)) for i in indices]
    names = hashlib.sha256("\n".join(f"{record.name} {record.hand}" for record in records).encode(errors="replace"))
    labels = {key: [value for record in records if (value := getattr(record, key)) is not None] for key in _LABELS}
    labels = {key: _weighted_sum(values) for key, values in labels.items() if values}
    return {"records": len(source), "names": names.hexdigest()[:16], "labels": labels}


def _weighted_sum(labels: list[np.ndarray]) -> float:
    """All labels of one kind times fixed random weights, in units of the labels' norm."""
    values = np.concatenate([np.ravel(label) for label in labels]).astype(np.float64)
    values = np.nan_to_num(values, posinf=0, neginf=0)
    weights = np.random.default_rng(0).standard_normal(len(values))
    return float(weights @ values / max(np.linalg.norm(values), 1e-9))


def _difference(before: dict, now: dict) -> str | None:
    if before["records"] != now["records"]:
        return f"{before['records']} records before, {now['records']} now"
    if before["names"] != now["names"]:
        return f"{now['records']} records as before, but with other names"
    old, new = before["labels"], now["labels"]
    kinds = [key for key in {**old, **new} if key not in old or key not in new or abs(old[key] - new[key]) > _ROUNDING]
    return f"other labels ({', '.join(kinds)})" if kinds else None
