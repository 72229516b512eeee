"""How models want their crops: the square around a box, its place among the pixels, and the camera of a photograph."""

import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class CropRule:
    """What a family of models was trained on.

    Args:
        tall: height over width of the shape that a box is first enlarged to; the longer side of that counts.
        middle: pixel of the crop that shows the square's centre, less (size - 1) / 2.
        blurred: a photograph is blurred before it is made smaller; else blocks of its pixels are averaged.
        focal: focal length over the image's longer side, of a camera that nobody knows.
    """

    tall: float
    middle: float
    blurred: bool
    focal: float

    def camera(self, width: int, height: int) -> np.ndarray:
        """K (3, 3) of a photograph whose camera nobody knows; its axis goes through the middle, as the rule counts."""
        focal, corner = self.focal * max(width, height), 0.5 - self.middle
        return np.array([[focal, 0, width / 2 - corner], [0, focal, height / 2 - corner], [0, 0, 1]])

    def side(self, width: float, height: float) -> float:
        """What `data.crop_scale` multiplies, of a box of width and height in px."""
        return max(self.tall * width, height, 1.0)


RULES = {
    "square": CropRule(tall=1.0, middle=0.0, blurred=False, focal=1.2),
    # HaMeR and WiLoR (`ViTDetDataset`): boxes of 3:4, and a focal length of 5000 px for an image of 256 px
    "hamer": CropRule(tall=256 / 192, middle=0.5, blurred=True, focal=5000 / 256),
}


def blur_sigma(shrink: float) -> float:
    """Deviation in px of HaMeR's blur before a photograph becomes `shrink` times smaller; 0 where it does not blur."""
    return (shrink / 2 - 1) / 2 if shrink / 2 > 1.1 else 0.0


def blur_reach(sigma: float) -> int:
    """How many pixels to either side a blurred one is made of (4 deviations, as scikit-image)."""
    return int(4 * sigma + 0.5)


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Pixels (h, w, C) blurred by a Gaussian, those at the edge repeated beyond it."""
    width = 2 * blur_reach(sigma) + 1
    return cv2.GaussianBlur(pixels, (width, width), sigma, borderType=cv2.BORDER_REPLICATE)
