"""The 21 joints: names, tree, colours, and their order in data sets."""

import typing

import numpy as np

if typing.TYPE_CHECKING:
    import jax

Array = typing.TypeVar("Array", np.ndarray, "jax.Array")

SIDES = ("right", "left")
FINGERS = ("thumb", "index", "middle", "ring", "little")
JOINT_NAMES = ("wrist", *(f"{finger}{level}" for finger in FINGERS for level in (1, 2, 3, 4)))  # 1: base, 4: tip
PARENTS = np.array([-1, *(0 if level == 0 else 4 * f + level for f in range(5) for level in range(4))])  # (21,)
BONES = [(int(PARENTS[child]), child) for child in range(1, 21)]  # (parent, child)
FINGER_OF_JOINT = np.array([-1, *np.repeat(np.arange(5), 4)])  # (21,); -1 for the wrist
FINGER_COLORS = ((235, 64, 52), (245, 170, 40), (70, 190, 80), (50, 140, 240), (180, 90, 230))  # RGB, thumb to little
WRIST_COLOR = (240, 240, 240)

# `joints[JOINT_ORDERS[name]]` puts the joints of data set `name` in our order. Some data sets share one order.
_OURS = tuple(range(21))
_MANO_TIPS_THUMB_FIRST = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
JOINT_ORDERS = {
    "freihand": _OURS,
    "dexycb": _OURS,
    "hint": _OURS,
    "hamer": _OURS,
    # MANO's 16 joints, then the fingertips: thumb, index, middle, ring, little
    "ho3d": _MANO_TIPS_THUMB_FIRST,
    "mano": _MANO_TIPS_THUMB_FIRST,
    # MANO's 16 joints, then the fingertips: index, middle, little, ring, thumb (MobRecon, UTNet)
    "mano_tips_thumb_last": (0, 13, 14, 15, 20, 1, 2, 3, 16, 4, 5, 6, 17, 10, 11, 12, 19, 7, 8, 9, 18),
    # for one of the two hands (42 joints): every finger from tip to base, then the wrist
    "interhand": (20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16),
    # for one of the two hands (42 joints): the wrist, then every finger from tip to base
    "rhd": (0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17),
}


def to_our_order(joints: Array, name: str) -> Array:
    """Reorder joints (..., 21, C) from the order of data set `name` to our order."""
    return joints[..., np.array(JOINT_ORDERS[name]), :]


def from_our_order(joints: Array, name: str) -> Array:
    """Reorder joints (..., 21, C) from our order to the order of data set `name`: the inverse of `to_our_order`."""
    return joints[..., np.argsort(JOINT_ORDERS[name]), :]
