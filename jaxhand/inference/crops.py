"""The two places where a crop of inference differs from a crop of training (`jaxhand.data.crop`), and why."""

import dataclasses

import cv2
import numpy as np

from jaxhand.data.record import Record


def whole_image_box(width: int, height: int, crop_scale: float) -> np.ndarray:
    """The box (4,) x0, y0, x1, y1 in px whose crop is the whole image of width and height in px.

    `crop` takes the whole image only of a record that has neither a box nor a valid joint, and then ignores the box
    shape that the crop rule expects. At inference every hand has a box, which is also part of the output.
    """
    center, half = np.array([width - 1, height - 1]) / 2, np.array([width, height]) / 2
    half = half / crop_scale
    return np.concatenate([center - half, center + half])


def mirrored_to_right(record: Record) -> Record:
    """A left hand as the right hand of the mirrored image; a right hand unchanged.

    `crop` mirrors a left hand, too, but within its one warp of the image. There the pixels of a left hand are rounded
    differently from those of the mirrored right hand. Here the image is mirrored first: then a photograph and its
    mirror image have the same crop, bit for bit, and so the same prediction.
    """
    if record.hand == "right":
        return record
    width, (x0, y0, x1, y1) = record.image.shape[1], record.bbox
    return dataclasses.replace(
        record,
        image=cv2.flip(record.image, 1),
        K=np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ record.K @ np.diag([-1, 1, 1]),
        hand="right",
        depth=None if record.depth is None else cv2.flip(record.depth, 1),
        bbox=np.array([width - 1 - x1, y0, width - 1 - x0, y1]),
    )
