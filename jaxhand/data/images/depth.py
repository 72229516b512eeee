"""Read depth images: PNG files with one channel of 16 bits, or with 8 bits each in the red and the green channel."""

from pathlib import Path

import cv2
import numpy as np

from jaxhand.config import UserError
from jaxhand.data.images.encoded import decode
from jaxhand.io import files


def read_grey(file: str | Path, width: int, height: int) -> np.ndarray:
    """Read a depth image: a 16-bit grey PNG in mm.

    Args:
        file: the PNG file.
        width, height: size of the colour image in px. The depth image must have the same size.

    Returns:
        (H, W) float32 mm, 0 where unknown.

    Raises:
        UserError: the file is missing, is not a 16-bit grey PNG, or has another size.
    """
    depth = decode(files.read_bytes(Path(file)), cv2.IMREAD_UNCHANGED, f"depth {file}")
    if depth is None or depth.dtype != np.uint16 or depth.shape != (height, width):
        raise UserError(f"depth {file}: must be a 16-bit grey PNG of {width}x{height} px, as the colour image")
    return depth.astype(np.float32)


def read_two_channels(file: Path, *, high: str, unit: float) -> np.ndarray:
    """Read a depth image: a PNG whose red and green channels are the two bytes of the depth.

    Args:
        file: the PNG file.
        high: "red" or "green", the channel with the high byte; the other channel has the low byte.
        unit: depth of one step, mm.

    Returns:
        (H, W) float32 mm, 0 where unknown.

    Raises:
        UserError: the file is missing or is not a PNG with three channels of 8 bits.
    """
    image = decode(files.read_bytes(file), cv2.IMREAD_UNCHANGED, f"depth {file}")  # (H, W, 3) blue, green, red
    if image is None or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise UserError(f"{file}: not a complete depth image (3 channels of 8 bits); download it again")
    high_byte, low_byte = (image[..., c].astype(np.uint16) for c in ((2, 1) if high == "red" else (1, 2)))
    return (high_byte * 256 + low_byte) * np.float32(unit)
