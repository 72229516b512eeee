"""Depth images: PNG files with 16 bits in one channel, or with 8 bits each in the red and the green channel."""

from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.data.images.encoded import decode
from jaxhand.io import files


def read_grey(file: str | Path, width: int, height: int) -> np.ndarray:
    """Read a 16-bit grey PNG in mm.

    Args:
        file: the PNG.
        width, height: size of its colour image in px, which it must have.

    Returns:
        (H, W) float32 mm, 0 where unknown.

    Raises:
        UserError: the file is missing or not such an image.
    """
    depth = decode(files.read_bytes(Path(file)), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.dtype != np.uint16 or depth.shape != (height, width):
        raise UserError(f"depth {file} is not a 16-bit grey PNG of the image's {width}x{height} px")
    return depth.astype(np.float32)


def read_two_channels(file: Path, *, high: str, unit: float) -> np.ndarray:
    """Read a PNG whose depth is spread over the red and the green channel.

    Args:
        file: the PNG.
        high: "red" or "green", the channel of the high byte; the other one holds the low byte.
        unit: mm per step.

    Returns:
        (H, W) float32 mm, 0 where unknown.

    Raises:
        UserError: the file is missing or not such an image.
    """
    content = np.frombuffer(files.read_bytes(file), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None  # (H, W, 3) blue, green, red
    if image is None or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise UserError(f"{file}: not a complete depth image of 3 channels of 8 bits; download it again")
    high_byte, low_byte = (image[..., c].astype(np.uint16) for c in ((2, 1) if high == "red" else (1, 2)))
    return (high_byte * 256 + low_byte) * np.float32(unit)
