"""JPEG files with EXIF data of a camera."""

import struct
from fractions import Fraction

FOCAL_35MM, FOCAL, RECORDED_WIDTH = 0xA405, 0x920A, 0xA002
PLANE_RESOLUTION, PLANE_UNIT = 0xA20E, 0xA210
_FRACTIONS = (FOCAL, PLANE_RESOLUTION)
_ORIENTATION, _PHOTOGRAPH = 0x0112, 0x8769


def with_exif(content: bytes, tags: dict[int, float], *, orientation: int = 1, order: str = "<") -> bytes:
    """The JPEG with an orientation in its first directory and these tags in the directory about the photograph."""
    second = 8 + 2 + 2 * 12 + 4
    rest = second + 2 + 12 * len(tags) + 4
    entries, fractions = b"", b""
    for tag, value in tags.items():
        if tag in _FRACTIONS:
            entries += struct.pack(order + "HHII", tag, 5, 1, rest + len(fractions))
            fractions += struct.pack(order + "II", *Fraction(value).limit_denominator(1000).as_integer_ratio())
        else:
            entries += struct.pack(order + "HHIHxx", tag, 3, 1, value)
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 2)
    tiff += struct.pack(order + "HHIHxx", _ORIENTATION, 3, 1, orientation)
    tiff += struct.pack(order + "HHII", _PHOTOGRAPH, 4, 1, second) + bytes(4)
    tiff += struct.pack(order + "H", len(tags)) + entries + bytes(4) + fractions
    body = b"Exif\0\0" + tiff
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]
