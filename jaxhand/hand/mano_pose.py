"""MANO's pose as data sets write it → absolute axis-angles in the camera frame.

MANO's own numbers (mean and principal components of the poses) come with its files, under its licence: they are the
user's. Where a set needs them and they are not given, there is no pose.
"""

import cv2
import numpy as np

SIDES = ("right", "left")


def of_side(numbers, shape: tuple, hand: str) -> np.ndarray | None:
    """MANO's numbers of one hand.

    Args:
        numbers: None, an array of `shape` of the right hand alone, or (2, *shape) of right and left: MANO has a model
            for each.
        shape: (45,) for `hands_mean`, (45, 45) for `hands_components`.
        hand: "right" or "left".

    Returns:
        (*shape), or None if there are none of this hand.
    """
    if numbers is None:
        return None
    both = np.reshape(np.asarray(numbers, np.float64), (-1, *shape))  # (1 or 2, *shape)
    return both[SIDES.index(hand)] if SIDES.index(hand) < len(both) else None


def turn(axis_angle: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Axis-angle (3,) of a hand → of the same hand turned by a rotation matrix (3, 3), such as from world to camera."""
    turned = np.asarray(rotation, np.float64) @ cv2.Rodrigues(np.asarray(axis_angle, np.float64))[0]
    return cv2.Rodrigues(turned)[0][:, 0]
