"""Convert the MANO poses of data sets to absolute axis-angles in the camera frame.

Some data sets store poses relative to MANO's mean pose or principal components. These arrays are in MANO's files, which
users download under MANO's own licence. Without MANO's files the records of these data sets have no pose.
"""

import cv2
import numpy as np

from jaxhand.hand.skeleton import SIDES


def select_side(arrays: np.ndarray | None, shape: tuple[int, ...], side: str) -> np.ndarray | None:
    """Select the array of the right or left hand: MANO has one model for each.

    Args:
        arrays: (*shape) or (1, *shape) for the right hand only; (2, *shape) for right and left; or None.
        shape: (45,) for `hands_mean`, (45, 45) for `hands_components`.
        side: "right" or "left".

    Returns:
        (*shape) float64, or None if `arrays` does not contain this hand.
    """
    if arrays is None:
        return None
    by_side = np.reshape(np.asarray(arrays, np.float64), (-1, *shape))  # (1 or 2, *shape)
    return by_side[SIDES.index(side)] if SIDES.index(side) < len(by_side) else None


def rotate_axis_angle(axis_angle: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Rotate an orientation, for example from the world's frame to the camera's.

    Args:
        axis_angle: (3,) orientation of a hand, radians.
        rotation: (3, 3) matrix, applied after the orientation.

    Returns:
        (3,) axis-angle of the rotated hand, radians.
    """
    rotated = np.asarray(rotation, np.float64) @ cv2.Rodrigues(np.asarray(axis_angle, np.float64))[0]
    return cv2.Rodrigues(rotated)[0][:, 0]
