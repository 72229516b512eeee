"""Read the size of an image of any format from its header, so that an image that is too large is not decoded."""

import re
import struct
from collections.abc import Iterator

from jaxhand.config import UserError, limits
from jaxhand.data.images.header import image_size, tiff_numbers

_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..[\x08\x0c](....)", re.DOTALL)
_JPEG_SCAN = b"\xff\xda"
_SPACE = rb"(?:\s|#[^\n]*\n)+"
_TEXT_HEADERS = (  # formats whose header is text: width, height
    re.compile(rb"P[1-6]" + _SPACE + rb"(?P<w>\d{1,9})" + _SPACE + rb"(?P<h>\d{1,9})"),
    re.compile(rb"P7\n(?=[^\x00]*?WIDTH (?P<w>\d{1,9}))(?=[^\x00]*?HEIGHT (?P<h>\d{1,9}))"),
    re.compile(rb"P[Ff]\s(?P<w>\d{1,9})\s(?P<h>\d{1,9})"),
    re.compile(rb"#\?R[^\x00]*?[-+]Y (?P<h>\d{1,9}) [-+]X (?P<w>\d{1,9})"),
)


def check_size(content: bytes, location: str, most_pixels: int = limits.PIXELS) -> bool:
    """Check that an image can be decoded in a reasonable time and memory.

    Args:
        content: the bytes of the image file.
        location: name of the image in error messages.
        most_pixels: largest allowed width x height.

    Returns:
        False if the bytes are not an image of a known format.

    Raises:
        UserError: the image has too many pixels, or is a JPEG with too many passes over its pixels.
    """
    sizes = list(_sizes(content))
    if not sizes:
        return False
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    if width * height > most_pixels:
        most = f"at most {most_pixels / 1e6:,.0f} million px are read"
        raise UserError(f"{location} has {width}x{height} px, but {most}; reduce the image")
    passes = content.count(_JPEG_SCAN) if content.startswith(b"\xff\xd8") else 1
    if passes * width * height > limits.DECODED_PIXELS:
        raise UserError(f"{location} is a progressive JPEG with {passes} passes, too many for {width}x{height} px")
    return True


def _sizes(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield every width and height in px that an image file states; nothing for a format that is not known."""

    def read(kind: str, at: int) -> tuple[int, int]:
        try:
            first, second = struct.unpack_from(kind, content, at)
        except struct.error:  # cut off
            return 0, 0
        return abs(first), abs(second)

    start = content[:16]
    if start.startswith(b"\xff\xd8"):
        yield from [size for size in [image_size(content)] if size]
        for frame in _JPEG_FRAME.finditer(content):
            height, width = struct.unpack(">HH", frame[1])
            yield width, height
    elif start.startswith(b"\x89PNG\r\n\x1a\n"):
        yield read(">II", 16)
    elif start.startswith(b"GIF8"):
        yield read("<HH", 6)
    elif start.startswith(b"BM"):
        yield read("<HH" if read("<HH", 14) == (12, 0) else "<ii", 18)
    elif start.startswith(b"RIFF") and start[8:15] == b"WEBPVP8":
        if content[15:16] == b"X":
            low, high = read("<II", 24)  # 24 bits each, minus 1
            yield (low & 0xFFFFFF) + 1, (low >> 24 | (high & 0xFFFF) << 8) + 1
        elif content[15:16] == b"L":
            bits, _ = read("<II", 21)
            yield (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        else:
            width, height = read("<HH", 26)
            yield width & 0x3FFF, height & 0x3FFF
    elif start[4:8] == b"ftyp":  # AVIF; its grid and its tiles have a size each
        yield from (read(">II", match.end() + 4) for match in re.finditer(rb"ispe", content))
    elif start.startswith((b"\0\0\0\x0cjP  ", b"\xffO\xffQ")):  # JPEG 2000: of the file and of its stream
        yield from (read(">II", match.end()) for match in re.finditer(rb"ihdr", content[:4096]))
        yield from (read(">II", match.end() + 4) for match in re.finditer(rb"\xffO\xffQ", content))
    elif start.startswith((b"II*\0", b"MM\0*")):
        order = "<" if start.startswith(b"II") else ">"
        found = tiff_numbers(content, order, read(order + "II", 4)[0])
        yield int(found.get(0x0100, 0)), int(found.get(0x0101, 0))
    elif start.startswith(b"\x59\xa6\x6a\x95"):  # Sun raster
        yield read(">II", 4)
    else:
        matches = (pattern.match(content[:4096]) for pattern in _TEXT_HEADERS)
        yield from ((int(match["w"]), int(match["h"])) for match in matches if match)
