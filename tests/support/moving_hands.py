"""Hands that move over blank images, and a stand-in for MediaPipe's networks that returns their joints."""

import dataclasses
from collections.abc import Callable

import numpy as np

SIZE = (320, 240)  # width and height of the images, px
K = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]])


def template() -> np.ndarray:
    """A flat right hand (21, 3) mm with the fingers up and the wrist at (0, 60, 0)."""
    joints = [(0.0, 60.0, 0.0)]
    for finger in range(5):
        joints += [(20.0 * (finger - 2), 30.0 - 20.0 * level, 3.0 * level) for level in range(4)]
    return np.array(joints)


@dataclasses.dataclass
class FakePipeline:
    """What `Pipeline` offers to a tracker, for images of `image_of`.

    Args:
        hands: function: frame → (name, centre (2,) px, how likely it is a right hand) of the hands that can be seen.
        noise: standard deviation of the joints, px.
    """

    hands: Callable[[int], list[tuple[str, np.ndarray, float]]]
    noise: float = 0.0
    detections: int = 0

    def palms(self, images):
        self.detections += len(images)
        found = []
        for image in images:
            centers = [center for _, center, _ in self.hands(frame_of(image))]
            palm = np.array([[-12, -12], [12, 12], [0, 12], [0, 0], [0, -3], [0, 0], [0, 0], [0, 0], [0, 0]])
            found.append(np.array([center + palm for center in centers]).reshape(-1, 9, 2))
        return found

    def read(self, images, rois):
        readings = []
        for image, roi in zip(images, rois):
            frame = frame_of(image)
            rng = np.random.default_rng([frame, int(roi.center[0])])
            hands = sorted(self.hands(frame), key=lambda hand: np.linalg.norm(hand[1] - roi.center))
            near = bool(hands) and np.linalg.norm(hands[0][1] - roi.center) < roi.side / 2
            _, center, right = hands[0] if near else ("", roi.center, 0.5)
            joints = center + 0.6 * template()[:, :2] + self.noise * rng.normal(size=(21, 2))
            world = template() + 3 * self.noise * rng.normal(size=(21, 3))
            readings.append({"keypoints_2d": joints, "world": world, "score": 0.9 if near else 0.1, "right": right})
        return readings


def image_of(frame: int) -> np.ndarray:
    """A dark image (240, 320, 3) uint8 whose first rows show the bits of a frame's number: compression keeps them."""
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for bit in range(8):
        image[:16, 16 * bit : 16 * bit + 16] = 255 * (frame >> bit & 1)
    return image


def frame_of(image: np.ndarray) -> int:
    """The number of the frame in an image."""
    return sum(int(image[4:12, 16 * bit + 4 : 16 * bit + 12].mean() > 127) << bit for bit in range(8))


def crossing(frame: int) -> list[tuple[str, np.ndarray, float]]:
    """Two hands that cross between the frames 30 and 50: the left one is hidden there; every fifth side is wrong."""
    right, left = np.array([60 + 2.5 * frame, 120.0]), np.array([260 - 2.5 * frame, 126.0])
    flipped = frame % 5 == 0
    hands = [("right", right, 0.3 if flipped else 0.9), ("left", left, 0.7 if flipped else 0.1)]
    return hands[:1] if np.abs(right - left)[0] < 40 else hands
