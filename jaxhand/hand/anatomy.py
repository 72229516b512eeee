"""Whether labels can be those of hands: the unit, the joints' order and the side, told from bones and from bending."""

import numpy as np

from jaxhand.hand.skeleton import JOINT_ORDERS, PARENTS

# mm, an adult's, thumb to little, each from the wrist to the tip: about the mean of several sets' own means
ADULT = np.array([[37, 39, 33, 26], [88, 41, 26, 24], [86, 44, 29, 25], [82, 39, 28, 23], [81, 32, 20, 19]], float)
SIZES = (0.55, 1.7)  # of a hand over an adult's: children, and figures drawn large
UNITS_MM = {"metres": 1000, "decimetres": 100, "centimetres": 10, "inches": 25.4, "tenths of mm": 0.1}
UNLIKE = 0.3  # root mean square logarithm of bones over an adult's, size left out; sets of real hands have 0.04 to 0.16
FAR_BETTER = 0.5  # of that under another order is no chance
BENDING = 0.3  # least share of hands that bend towards their palm


def bones(joints: np.ndarray) -> np.ndarray:
    """Lengths (N, 20) of the bones that end at joints 1 to 20 of hands (N, 21, 3)."""
    return np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1)


def size(joints: np.ndarray) -> float:
    """How large hands (N, 21, 3) mm are over an adult's: the median over hands and bones."""
    return float(np.median(bones(joints) / ADULT.ravel()))


def bending(joints: np.ndarray) -> float:
    """The share of hands (N, 21, 3) whose fingertips and thumb lie on the palm's side, as those of right hands do."""
    palm = np.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])  # out of the palm of a right hand
    forward = (joints[:, [8, 12, 16, 20]] - joints[:, [5, 9, 13, 17]]).mean(1) + joints[:, 4] - joints[:, 0]
    return float(np.mean((palm * forward).sum(-1) > 0))


def unlike(joints: np.ndarray) -> float:
    """How far the median bones of hands (N, 21, 3) are from an adult's, whatever their size: as `UNLIKE`."""
    ratio = np.log(np.maximum(np.median(bones(joints), 0), 1e-9) / ADULT.ravel())
    return float(np.std(ratio))


def doubts(joints: np.ndarray) -> list[str]:
    """What is unlike hands in labels, a sentence each.

    Args:
        joints: (N, 21, 3) mm of whole right hands, left ones mirrored, in the OpenCV camera frame and in our order.
    """
    found = []
    if np.median(joints[..., 2]) <= 0:
        found.append("hands are behind the camera (z <= 0): of OpenGL's frame? y and z have to be negated then")
    orders = {f"as they stand in {name}": np.array(order) for name, order in JOINT_ORDERS.items()}
    orders |= {f"as if {name}'s order was undone by mistake": np.argsort(o) for name, o in JOINT_ORDERS.items()}
    off = {name: unlike(joints[:, order]) for name, order in orders.items()}
    as_is, best = unlike(joints), min(off, key=off.get)
    if as_is > UNLIKE and off[best] > FAR_BETTER * as_is:
        numbers = f"off by {as_is:.2f}, real hands by up to 0.16"
        return [*found, f"bones are not those of hands in any known order: {numbers}"]
    if as_is > UNLIKE:
        numbers = f"bones are off by {as_is:.2f}, reordered by {off[best]:.2f}"
        found.append(f"the joints seem to be ordered {best}: {numbers}")
        joints = joints[:, orders[best]]
    scale = size(joints)
    if not SIZES[0] < scale < SIZES[1]:
        unit = min(UNITS_MM, key=lambda name: abs(np.log(max(scale, 1e-9) * UNITS_MM[name])))
        found.append(f"bones are {scale:.3g} times as long as an adult's: in {unit} and not in mm?")
    if bending(joints) < BENDING:
        found.append(f"only {bending(joints):.0%} bend towards their palm: mirrored, or left for right?")
    return found
