"""Facts about hands (bone lengths, units, limits), and checks whether labels fit real hands."""

import numpy as np

from jaxhand.hand.skeleton import JOINT_ORDERS, PARENTS

# (5, 4) mm: bone lengths of an adult. Rows: thumb to little; columns: wrist to fingertip. They are close to the average
# of several data sets.
ADULT_BONES_MM = np.array(
    [[37, 39, 33, 26], [88, 41, 26, 24], [86, 44, 29, 25], [82, 39, 28, 23], [81, 32, 20, 19]], float
)
SCALE_RANGE = (0.55, 1.7)  # plausible size / size of an adult's hand: includes children and large drawn figures
RADIUS_RANGE_MM = (12, 250)  # plausible root mean square distance of the joints from their mean, with a wide margin
UNITS_MM = {
    "metres": 1000,
    "decimetres": 100,
    "centimetres": 10,
    "inches": 25.4,
    "millimetres": 1,
    "tenths of mm": 0.1,
}
MAX_BONE_DEVIATION = 0.3  # limit of `bone_deviation`; data sets of real hands have 0.04 to 0.16
MIN_BENDING_SHARE = 0.3  # lower limit of `bending_share`
CLEARLY_BETTER = 0.5  # another unit or joint order is assumed to be right if it at least halves an error


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    """Return the lengths of the bones that end at joints 1 to 20.

    Args:
        joints: (N, 21, 3) in our order.

    Returns:
        (N, 20), in the unit of the joints.
    """
    return np.linalg.norm(joints[:, 1:] - joints[:, PARENTS[1:]], axis=-1)


def hand_scale(joints: np.ndarray) -> float:
    """Size of hands (N, 21, 3) mm relative to an adult's: the median ratio of lengths over all hands and bones."""
    return float(np.median(bone_lengths(joints) / ADULT_BONES_MM.ravel()))


def hand_scales(joints: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Size of each hand relative to an adult's: the median ratio of lengths over its bones with two labelled ends.

    Args:
        joints: (N, 21, 3) mm.
        valid: (N, 21) bool, labelled joints.

    Returns:
        (N,), NaN for a hand without such a bone.
    """
    labelled = valid[:, 1:] & valid[:, PARENTS[1:]]  # (N, 20)
    ratio = np.sort(np.where(labelled, bone_lengths(joints) / ADULT_BONES_MM.ravel(), np.nan))  # NaN is last
    count = labelled.sum(-1, keepdims=True)
    return np.take_along_axis(ratio, np.maximum(count - 1, 0) // 2, -1)[:, 0]


def bending_share(joints: np.ndarray) -> float:
    """Fraction of hands (N, 21, 3) that bend towards their palm, computed as if all were right hands."""
    palm = np.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])  # outward if a right hand
    forward = (joints[:, [8, 12, 16, 20]] - joints[:, [5, 9, 13, 17]]).mean(1) + joints[:, 4] - joints[:, 0]
    return float(np.mean((palm * forward).sum(-1) > 0))


def bone_deviation(joints: np.ndarray) -> float:
    """Deviation of the bone proportions from an adult's, independent of the hand's size.

    Args:
        joints: (N, 21, 3) in our order, any unit.

    Returns:
        Standard deviation over the 20 bones of log(median length / adult's length).
    """
    ratio = np.log(np.maximum(np.median(bone_lengths(joints), 0), 1e-9) / ADULT_BONES_MM.ravel())
    return float(np.std(ratio))


def bone_deviations(joints: np.ndarray) -> np.ndarray:
    """Return `bone_deviation` of each hand (N, 21, 3) alone: (N,)."""
    return np.log(np.maximum(bone_lengths(joints), 1e-9) / ADULT_BONES_MM.ravel()).std(-1)


def label_warnings(joints: np.ndarray) -> list[str]:
    """Return one sentence for each property of the labels that real hands do not have.

    Args:
        joints: (N, 21, 3) mm, in the OpenCV camera frame and in our order: fully labelled right hands; left hands must
            be mirrored.
    """
    found = []
    if np.median(joints[..., 2]) <= 0:
        found.append("hands are behind the camera (z <= 0): if they are in OpenGL's frame, negate y and z")
    as_is = bone_deviation(joints)
    if as_is > MAX_BONE_DEVIATION:
        orders = {f"as in {name}": np.array(order) for name, order in JOINT_ORDERS.items()}
        orders |= {f"as if reordered from {name}'s order by mistake": np.argsort(o) for name, o in JOINT_ORDERS.items()}
        deviation = {name: bone_deviation(joints[:, order]) for name, order in orders.items()}
        best = min(deviation, key=deviation.__getitem__)
        if deviation[best] > CLEARLY_BETTER * as_is:
            numbers = f"deviation {as_is:.2f}, real hands have at most 0.16"
            return [*found, f"bone lengths fit no hand in any known joint order: {numbers}"]
        numbers = f"the deviation of bone lengths is {as_is:.2f}, after reordering {deviation[best]:.2f}"
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
