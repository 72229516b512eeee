"""Crop rules of model families: size of the square around a box, pixel centres, and the camera of a photograph."""

import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class CropRule:
    """The rule by which crops were cut for the training of a family of models.

    Attributes:
        box_aspect: a box is first enlarged to this ratio height / width. The square has the longer side of the new box.
        pixel_center_offset: the square's centre is at pixel (size - 1) / 2 + this offset of the crop.
        antialias_blur: True: a photograph is blurred before downsampling. False: blocks of its pixels are averaged.
        focal: focal length / longer side of the image, for a photograph without a known camera.
        along_hand: the square follows the joints, where the record has them, and is rotated so that the hand points
            up (`hand.roi.of_joints`); the box is not used then, nor is `data.crop_scale`.
        mirror_left: a left hand comes out as a right one.
    """

    box_aspect: float
    pixel_center_offset: float
    antialias_blur: bool
    focal: float
    along_hand: bool = False
    mirror_left: bool = True

    def camera(self, width: int, height: int) -> np.ndarray:
        """Return K (3, 3) for a photograph of width x height px without a known camera. Its optical axis is central."""
        focal, corner = self.focal * max(width, height), 0.5 - self.pixel_center_offset
        return np.array([[focal, 0, width / 2 - corner], [0, focal, height / 2 - corner], [0, 0, 1]])

    def side(self, width: float, height: float) -> float:
        """Return the side, px, of the square for a box of width x height px, before `data.crop_scale` enlarges it."""
        return max(self.box_aspect * width, height, 1.0)


RULES = {
    "square": CropRule(box_aspect=1.0, pixel_center_offset=0.0, antialias_blur=False, focal=1.2),
    # HaMeR and WiLoR (`ViTDetDataset`): boxes of 3:4, and a focal length of 5000 px for an image of 256 px
    "hamer": CropRule(box_aspect=256 / 192, pixel_center_offset=0.5, antialias_blur=True, focal=5000 / 256),
    "mediapipe": CropRule(1.0, 0.0, antialias_blur=False, focal=1.2, along_hand=True, mirror_left=False),
}


def whole_image_box(width: int, height: int, crop_scale: float) -> np.ndarray:
    """Return the box (4,) x0, y0, x1, y1 px whose crop shows the complete image, for a hand without a box."""
    center, half = np.array([width - 1, height - 1]) / 2, np.array([width, height]) / 2 / crop_scale
    return np.concatenate([center - half, center + half])


def blur_sigma(shrink: float) -> float:
    """Standard deviation in px of HaMeR's blur before an image is downsampled by the factor `shrink`; 0: no blur."""
    return (shrink / 2 - 1) / 2 if shrink / 2 > 1.1 else 0.0


def blur_reach(sigma: float) -> int:
    """Radius in px of the blur's kernel: 4 standard deviations, as in scikit-image."""
    return int(4 * sigma + 0.5)


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Blur pixels (h, w, C) by a Gaussian of `sigma` px. Beyond the border, the border pixels are repeated."""
    width = 2 * blur_reach(sigma) + 1
    return cv2.GaussianBlur(pixels, (width, width), sigma, borderType=cv2.BORDER_REPLICATE)
