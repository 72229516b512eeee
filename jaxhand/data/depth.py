"""Depth images that spread the 16 bits of a pixel over the red and the green channel of a PNG."""

from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.data import index


def read_two_channels(file: Path, *, high: str, unit: float) -> np.ndarray:
    """Depth as (H, W) float32 mm, 0 where unknown.

    Args:
        file: the PNG.
        high: "red" or "green", the channel of the high byte; the other one holds the low byte.
        unit: mm of one step.

    Raises:
        UserError: the file is missing or not such an image.
    """
    content = np.frombuffer(index.content(file), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None  # (H, W, 3) blue, green, red
    if image is None or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise UserError(f"{file}: not a whole depth image of 3 channels of 8 bits; download it again")
    most, least = (image[..., c].astype(np.uint16) for c in ((2, 1) if high == "red" else (1, 2)))
    return (most * 256 + least) * np.float32(unit)
