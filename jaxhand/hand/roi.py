"""Rotated squares, which are the crops for MediaPipe's networks, and the mapping from a crop back to its image.

Pixels are (x, y); integers are pixel centres. Formulas and constants come from MediaPipe's graphs.
"""

import dataclasses

import numpy as np

# Square from a palm: its side, and the shift of its centre to the fingers, both divided by the side of the palm's box
HAND_OVER_PALM, TOWARDS_FINGERS = 2.6, 0.5
# Square from joints: its side, and the shift of its centre, both divided by the side of the box around `PALM_JOINTS`
HAND_OVER_JOINTS, TOWARDS_TIPS = 2.0, 0.1
PALM_JOINTS = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)  # wrist, thumb, and the two lowest joints of each finger
HAND_OVER_BOX = 1.5  # side of an upright square over the longer side of the box around all joints
PALM_WRIST, PALM_MIDDLE_BASE = 2, 4  # indices among the nine points that the palm detector returns


@dataclasses.dataclass(frozen=True)
class Roi:
    """A rotated square in an image."""

    center: np.ndarray  # (2,) px
    side: float  # length of each side, px
    up: np.ndarray  # (2,) unit vector in the image; the upward direction of the crop

    def matrix(self, size: int) -> np.ndarray:
        """Return A (3, 3), which maps pixels of the image to pixels of a crop of `size` x `size` px."""
        zoom = size / self.side
        (x, y) = self.up
        turn = zoom * np.array([[-y, x], [-x, -y]])  # `up` becomes (0, -1)
        move = (size - 1) / 2 - turn @ self.center
        return np.block([[turn, move[:, None]], [np.zeros((1, 2)), 1]])

    def rotation(self) -> np.ndarray:
        """Return R (3, 3), which maps directions from the image's camera frame to the crop's (OpenCV axes)."""
        (x, y) = self.up
        return np.array([[-y, x, 0], [-x, -y, 0], [0, 0, 1]])


def whole(width: int, height: int) -> Roi:
    """Return the upright square around an image of width x height px."""
    return Roi(np.array([width - 1, height - 1]) / 2, float(max(width, height)), np.array([0.0, -1.0]))


def of_box(box: np.ndarray) -> Roi:
    """The upright square around a hand whose joints lie in a box (4,) x0, y0, x1, y1 px."""
    side = max(float((box[2:] - box[:2]).max()), 1.0)
    return Roi((box[:2] + box[2:]) / 2, HAND_OVER_BOX * side, np.array([0.0, -1.0]))


def of_palm(points: np.ndarray) -> Roi:
    """Return the square around a hand, from the nine points (9, 2) px of its palm that the palm detector returns."""
    corner, opposite = points[:2]
    up = _unit(points[PALM_MIDDLE_BASE] - points[PALM_WRIST])
    side = max(float((opposite - corner).max()), 1.0)
    return Roi((corner + opposite) / 2 + TOWARDS_FINGERS * side * up, HAND_OVER_PALM * side, up)


def of_joints(joints: np.ndarray) -> Roi:
    """Return the square around a hand with joints (21, 2) px in the order of `JOINT_NAMES`; for a second pass."""
    up = _unit(joints[6] / 4 + joints[10] / 2 + joints[14] / 4 - joints[0])
    right = np.array([-up[1], up[0]])
    along = joints[list(PALM_JOINTS)] @ np.stack([right, up], 1)  # (12, 2)
    lowest, highest = along.min(0), along.max(0)
    side = max(float((highest - lowest).max()), 1.0)
    across, height = (lowest + highest) / 2
    center = across * right + (height + TOWARDS_TIPS * side) * up
    return Roi(center, HAND_OVER_JOINTS * side, up)


def to_image(pixels: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Map pixels (N, 2) of a crop to pixels (N, 2) of its image. A (3, 3) maps from the image to the crop."""
    return (pixels - A[:2, 2]) @ np.linalg.inv(A[:2, :2]).T


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-6 else np.array([0.0, -1.0])
