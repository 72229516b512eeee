"""HEIC, the format of photographs of Apple's phones: recognised, and read if the package pillow-heif is installed."""

import importlib

import numpy as np

from jaxhand.config import UserError

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")  # of ISO/IEC 23008-12, annex B


def is_heic(content: bytes) -> bool:
    """Whether the bytes of a file begin as those of an image in HEIC."""
    length = int.from_bytes(content[:4], "big")
    brands = content[8 : min(length, 64)]
    return content[4:8] == b"ftyp" and any(brands[at : at + 4] in _BRANDS for at in range(0, len(brands), 4))


def decode_heic(content: bytes, location: str) -> np.ndarray:
    """Decode an image in HEIC as RGB (H, W, 3) uint8, upright.

    Args:
        content: the bytes of the file.
        location: name of the image in error messages.

    Raises:
        UserError: pillow-heif is not installed, or cannot read the image.
    """
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError:
        raise UserError(
            f"{location} is in HEIC: pip install pillow-heif, or convert it to JPEG, such as by `heif-convert`"
        ) from None
    try:
        image = pillow_heif.open_heif(content, convert_hdr_to_8bit=True).to_pillow()
        return np.array(image.convert("RGB"))
    except Exception as error:  # the library's errors have no common class
        raise UserError(f"{location} is in HEIC and cannot be read ({' '.join(str(error).split())})") from None
