"""Facts about hands (bone lengths, units, limits), and checks whether labels fit real hands."""

import numpy as np

from jaxhand.hand.skeleton import JOINT_ORDERS, PARENTS

# (5, 4) mm: an adult's bones from wrist to fingertip, thumb to little; about the mean of several data sets' means
ADULT_BONES_MM = np.array(
    [[37, 39, 33, 26], [88, 41, 26, 24], [86, 44, 29, 25], [82, 39, 28, 23], [81, 32, 20, 19]], float
)
SCALE_RANGE = (0.55, 1.7)  # size relative to an adult's hand: from children to large drawn figures
RADIUS_RANGE_MM = (12, 250)  # root mean square distance of a hand's joints from their mean, with a wide margin
UNITS_MM = {
    "metres": 1000,
    "decimetres": 100,
    "centimetres": 10,
    "inches": 25.4,
    "millimetres": 1,
    "tenths of mm": 0.1,
}
MAX_BONE_DEVIATION = 0.3  # see `bone_deviation`; data sets of real hands have 0.04 to 0.16
MIN_BENDING_SHARE = 0.3  # see `bending_share`
CLEARLY_BETTER = 0.5  # if another interpretation of the data at least halves an error, it is taken as the right one


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    """Lengths of the bones that end at joints 1 to 20.

    Args:
        joints: (N, 21, 3) in our order.

    Returns:
        (N, 20), in the unit of the joints.
    """
    return np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1)


def hand_scale(joints: np.ndarray) -> float:
    """Size of hands (N, 21, 3) mm relative to an adult's: the median over hands and bones."""
    return float(np.median(bone_lengths(joints) / ADULT_BONES_MM.ravel()))


def bending_share(joints: np.ndarray) -> float:
    """Share of hands (N, 21, 3) whose fingertips and thumb are on the palm's side, if all are right hands."""
    palm = np.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])  # out of the palm of a right hand
    forward = (joints[:, [8, 12, 16, 20]] - joints[:, [5, 9, 13, 17]]).mean(1) + joints[:, 4] - joints[:, 0]
    return float(np.mean((palm * forward).sum(-1) > 0))


def bone_deviation(joints: np.ndarray) -> float:
    """How much bone proportions differ from an adult's, at any hand size.

    Args:
        joints: (N, 21, 3) in our order, any unit.

    Returns:
        Standard deviation, over the 20 bones, of the logarithm of the median length relative to an adult's.
    """
    ratio = np.log(np.maximum(np.median(bone_lengths(joints), 0), 1e-9) / ADULT_BONES_MM.ravel())
    return float(np.std(ratio))


def label_warnings(joints: np.ndarray) -> list[str]:
    """One sentence for each property of labels that real hands do not have.

    Args:
        joints: (N, 21, 3) mm: fully labelled right hands (left ones mirrored), in the OpenCV camera frame and in our
            order.
    """
    found = []
    if np.median(joints[..., 2]) <= 0:
        found.append("hands are behind the camera (z <= 0): in OpenGL's frame? y and z have to be negated then")
    orders = {f"as they stand in {name}": np.array(order) for name, order in JOINT_ORDERS.items()}
    orders |= {f"as if {name}'s order was undone by mistake": np.argsort(o) for name, o in JOINT_ORDERS.items()}
    deviation = {name: bone_deviation(joints[:, order]) for name, order in orders.items()}
    as_is, best = bone_deviation(joints), min(deviation, key=deviation.__getitem__)
    if as_is > MAX_BONE_DEVIATION and deviation[best] > CLEARLY_BETTER * as_is:
        numbers = f"off by {as_is:.2f}, real hands by up to 0.16"
        return [*found, f"bones fit no hand in any known joint order: {numbers}"]
    if as_is > MAX_BONE_DEVIATION:
        numbers = f"bones are off by {as_is:.2f}, reordered by {deviation[best]:.2f}"
        found.append(f"the joints seem to be ordered {best}: {numbers}")
        joints = joints[:, orders[best]]
    scale = hand_scale(joints)
    if not SCALE_RANGE[0] < scale < SCALE_RANGE[1]:
        others = {name: mm for name, mm in UNITS_MM.items() if mm != 1}
        unit = min(others, key=lambda name: abs(np.log(max(scale, 1e-9) * others[name])))
        found.append(f"bones are {scale:.3g} times as long as an adult's: in {unit} and not in mm?")
    share = bending_share(joints)
    if share < MIN_BENDING_SHARE:
        found.append(f"only {share:.0%} of the hands bend towards their palm: mirrored, or left and right swapped?")
    return found
